"""`python -m dynamo_client.cli` is the same as `dynamo`. Nothing else belongs here."""

from dynamo_client.cli import main

if __name__ == "__main__":
    main()
