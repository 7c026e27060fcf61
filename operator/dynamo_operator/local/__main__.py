"""`python -m dynamo_operator.local`: the same commands as `dynamo local`."""

from dynamo_operator.local.cli import local

if __name__ == "__main__":
    local(prog_name="dynamo local")
