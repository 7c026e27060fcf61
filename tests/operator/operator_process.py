"""The operator's own process for pods on 127.0.0.1: `python -m tests.operator.operator_process`.

All of it is the product's, the whole of `main` but the options; only where nodes are reached is
another way. KUBECONFIG says how it comes to its API server.
"""

import asyncio
import json
import os
import sys
from typing import Any

from dynamo_operator.kube import main
from dynamo_operator.kube.logs import set_up
from dynamo_operator.kube.names import Release
from dynamo_operator.kube.observing import Network
from dynamo_operator.kube.reconcile import builder
from dynamo_operator.kube.serving import Options
from dynamo_operator.observed import Address
from dynamo_operator.spec import DynamoCluster

RELEASE = Release("1.0.0", "dynamo-node:1.0.0")
RESYNC_S = 15.0


class Loopback(Network):
    """Each pod has ports of its own instead of an address of its own."""

    def __init__(self, nodes: dict[str, Address]) -> None:
        self._nodes = nodes

    def member(self, cluster: DynamoCluster, pod: str) -> Address:
        return self._nodes[pod]

    def probe(self, pod: Any) -> Address | None:
        return self._nodes[pod["metadata"]["name"]] if super().probe(pod) else None


def run(namespace: str, port: int, nodes: dict[str, Address]) -> int:
    set_up("text")
    options = Options(
        namespaces=(namespace,),
        lease_namespace=namespace,
        identity=f"operator-{os.getpid()}",
        release=RELEASE,
        liveness_port=port,
        resync_s=RESYNC_S,
        liveness_host="127.0.0.1",
    )
    labels = {"app.kubernetes.io/name": "dynamo-operator"}
    build = builder(namespace=namespace, labels=labels, network=Loopback(nodes))
    return asyncio.run(main._run(options, build))


if __name__ == "__main__":
    _, own, health, told = sys.argv
    sys.exit(run(own, int(health), {n: Address(*at) for n, at in json.loads(told).items()}))
