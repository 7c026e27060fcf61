"""A DynamoCluster in a namespace of its own, and the load that works on it from a pod.

Owns its manifest, its status as kubectl shows it, and `dynamo verify` as a pod, by which a
scenario says that no request failed and no acknowledged write was lost. Forbidden here:
importing the product.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.kube import IMAGES, Kubectl, until

NAME = "cart"
LOAD_MAX_S = 900
SMALL = {
    "replicas": 3,
    "ring": {"partitions": 64},
    "storage": {"size": "1Gi"},
    "resources": {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
}
"""Three small nodes; each in a zone of its own, where there are three."""


class Dynamo:
    """One DynamoCluster called `cart`."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl
        self._zones = kubectl.zones()

    def apply(self, **changes: Any) -> None:
        """The whole manifest, as a person would apply it."""
        self.kubectl.apply(
            {
                "apiVersion": "dynamocluster.io/v1alpha1",
                "kind": "DynamoCluster",
                "metadata": {"name": NAME, "namespace": self.kubectl.namespace},
                "spec": {**SMALL, "zones": self._zones, **changes},
            }
        )

    def seen(self) -> Any:
        return self.kubectl.json("get", "dyn", NAME)

    @property
    def status(self) -> Any:
        return self.seen().get("status", {})

    def condition(self, kind: str) -> tuple[str, str, str]:
        """(status, reason, message), empty while it isn't there."""
        for one in self.status.get("conditions", ()):
            if one["type"] == kind:
                return one["status"], one["reason"], one["message"]
        return "", "", ""

    def settled(self, nodes: int) -> str:
        """A text if all is as the spec says, with so many nodes; nothing else is going on."""
        seen = self.seen()
        status = seen.get("status", {})
        now = {one["type"]: one["status"] for one in status.get("conditions", ())}
        quiet = {"Available": "True", "Progressing": "False", "Degraded": "False"}
        told = status.get("observedGeneration") == seen["metadata"]["generation"]
        whole = status.get("nodesTotal") == status.get("nodesReady") == nodes
        good = told and whole and quiet.items() <= now.items() and status["ring"]["settled"]
        return "settled" if good else ""

    def until_settled(self, nodes: int, deadline_s: float = 240.0) -> float:
        try:
            return until(lambda: self.settled(nodes), f"{nodes} nodes are settled", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status, indent=1)}") from None

    def pods(self) -> dict[str, Any]:
        return self.kubectl.items("pods", f"dynamocluster.io/cluster={NAME}")

    def claims(self) -> dict[str, Any]:
        return self.kubectl.items("pvc", f"dynamocluster.io/cluster={NAME}")

    def cli(self, *words: str) -> str:
        """The command line, in a pod of its own."""
        pod = f"cli-{abs(hash(words)) % 10**8}"
        run = ("run", pod, f"--image={IMAGES['operator']}", "--restart=Never", "--rm", "-i", "-q")
        url = f"--env=DYNAMO_URL=http://{NAME}:8080"
        return self.kubectl.run(*run, url, "--command", "--", "dynamo", *words)


class Load:
    """`dynamo verify` at work in a pod, until it is told to stop."""

    def __init__(self, dynamo: Dynamo, rate: int) -> None:
        self.kubectl = dynamo.kubectl
        token = self.kubectl.secret(f"{NAME}-admin", "token")
        flags = ("--duration", str(LOAD_MAX_S), "--rate", str(rate), "--settle", "120", "--json")
        self.kubectl.run(
            *("run", "load", f"--image={IMAGES['operator']}", "--restart=Never"),
            *(f"--env=DYNAMO_URL=http://{NAME}:8080", f"--env=DYNAMO_ADMIN_TOKEN={token}"),
            *("--command", "--", "dynamo", "verify", *flags),
        )
        until(self.works, "the load works")

    def works(self) -> bool:
        return "operations" in self.kubectl.run("logs", "load")

    def ended(self) -> dict[str, Any]:
        """Stops it, waits until all is read back and judged, and gives the report."""
        pod = self.kubectl.json("get", "pod", "load")
        assert pod["status"]["phase"] == "Running", self.kubectl.run("logs", "load")
        self.kubectl.run("exec", "load", "--", "sh", "-c", "kill -TERM 1")

        def over() -> bool:
            pod = self.kubectl.json("get", "pod", "load")
            return pod["status"]["phase"] in ("Succeeded", "Failed")

        until(over, "the load is judged", 240.0)
        said = self.kubectl.run("logs", "load")
        self.kubectl.run("delete", "pod", "load", "--wait=true")
        last = said.strip().splitlines()[-1]
        assert last.startswith("{"), said
        report: dict[str, Any] = json.loads(last)
        return report


@contextmanager
def loaded(dynamo: Dynamo, rate: int = 150, failed_max: int = 0) -> Iterator[dict[str, Any]]:
    """The load beside what is done inside; its report fills the dict in the end.

    failed_max: the error budget, requests that failed after all retries of the client.
    """
    load = Load(dynamo, rate)
    report: dict[str, Any] = {}
    yield report
    report |= load.ended()
    story = json.dumps(report["violations"], indent=1)
    assert report["ok"], story
    assert report["lacking"] == []
    assert report["failed_requests"] <= failed_max, report
    assert report["counts"]["acknowledged"] > 0


@contextmanager
def dynamo_cluster(kubectl: Kubectl, name: str, **spec: Any) -> Iterator[Dynamo]:
    """Applied and settled in a namespace of its own, which goes in the end."""
    namespace = f"e2e-{name}-{os.urandom(3).hex()}"
    kubectl.run("create", "namespace", namespace)
    try:
        dynamo = Dynamo(kubectl.at(namespace))
        dynamo.apply(**spec)
        nodes = spec.get("replicas", 3) + sum(p["replicas"] for p in spec.get("pools", ()))
        dynamo.until_settled(nodes)
        yield dynamo
    finally:
        kubectl.run("delete", "namespace", namespace, "--wait=false", check=False)
