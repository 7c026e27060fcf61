"""`python -m dynamo_operator.kube`: the command `dynamo-operator`."""

from dynamo_operator.kube.main import main

if __name__ == "__main__":
    main()
