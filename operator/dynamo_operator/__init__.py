"""The DynamoCluster custom resource and how it is carried out.

`manifest` reads YAML, `spec` gives it types and checks, `layout` says which
nodes it means, `changes` classifies edits, `plan` decides the next steps. All
of these are pure. `local` carries a plan out with processes on 127.0.0.1.
"""
