"""`dynamo local`: the operator's plan carried out with processes on 127.0.0.1.

`start` gets everything ready or says why not, `supervisor` runs and watches,
`folder` keeps what must outlive it, `processes` and `nodes` are the doors to
the system's processes and to the nodes' admin HTTP, `screen` speaks to people,
`cli` is the command line. Decisions belong to `dynamo_operator.plan`.
"""
