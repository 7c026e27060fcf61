"""The ServiceAccount that nodes run as. They ask the API server nothing, so it may do nothing."""

from __future__ import annotations

from typing import Any

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.spec import DynamoCluster


def service_account(cluster: DynamoCluster, owner: names.Owner) -> dict[str, Any]:
    """An account without a token and without any role.

    It is there because the namespace's `default` account may have been given roles.
    """
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(cluster, owner, names.service_account(cluster.name), "node"),
        "automountServiceAccountToken": False,
    }
