"""`python -m dynamo_node --config FILE`."""

from dynamo_node.main import main

main()
