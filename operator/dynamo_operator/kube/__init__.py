"""A DynamoCluster carried out with Kubernetes objects.

Owns everything that knows Kubernetes: the builders of objects, what is seen of
them, the steps that change them, and the door to the API server. What shall
happen to the ring and to nodes is the plan's, one floor below, which `local`
carries out with processes.
"""
