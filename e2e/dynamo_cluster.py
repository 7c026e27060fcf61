"""A DynamoCluster in a namespace of its own, as a person works on it.

Owns its manifest, its status as kubectl shows it, its pods, and whether its copies are equal.
Forbidden here: importing the product.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2e.evidence import keep
from e2e.kube import IMAGES, Kubectl, until
from e2e.report import Scenario

NAME = "cart"
SMALL = {
    "replicas": 3,
    "ring": {"partitions": 64},
    "storage": {"size": "1Gi"},
    "resources": {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}},
}
"""Three small nodes; each in a zone of its own, where there are three."""


# Asks this node's admin port, in its pod: nobody else may reach that.
_DIGEST = """
import json, pathlib, urllib.request
token = pathlib.Path("/etc/dynamo/admin/token").read_text().strip()
url = "http://127.0.0.1:8081/admin/digest?verify=1"
asked = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
print(urllib.request.urlopen(asked, timeout=30).read().decode())
"""


class Dynamo:
    """One DynamoCluster called `cart`."""

    name = NAME

    def __init__(self, kubectl: Kubectl, scenario: Scenario) -> None:
        self.kubectl = kubectl
        self.scenario = scenario
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

    def scale(self, replicas: int) -> None:
        """kubectl scale, of the default pool."""
        self.scenario.mark(f"scaled to {replicas}")
        self.kubectl.run("scale", "dyn", NAME, f"--replicas={replicas}")

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
            took = until(lambda: self.settled(nodes), f"{nodes} nodes are settled", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status, indent=1)}") from None
        last = max((e.ended or e.began for e in self.scenario.events), default=None)
        if last is not None:
            self.scenario.recovery_s = max(self.scenario.recovery_s or 0.0, time.time() - last)
        return took

    def until_equal(self) -> None:
        """All copies of each partition are equal, by trees made anew from what is stored."""

        def differing() -> list[str]:
            roots: dict[str, dict[str, str]] = {}
            for pod in self.pods():
                said = json.loads(self.kubectl.run("exec", pod, "--", "python", "-c", _DIGEST))
                for partition, root in said.items():
                    roots.setdefault(partition, {})[pod] = root
            return [
                f"partition {p}: {found}"
                for p, found in sorted(roots.items())
                if len(set(found.values())) > 1
            ]

        until(lambda: not differing(), "all copies are equal", 120.0, pause_s=1.0)

    def pods(self) -> dict[str, Any]:
        return self.kubectl.items("pods", f"dynamocluster.io/cluster={NAME}")

    def uids(self) -> dict[str, str]:
        """Of its pods, by name: another uid is another pod."""
        return {name: pod["metadata"]["uid"] for name, pod in self.pods().items()}

    def images(self) -> set[str]:
        """Of its pods' containers."""
        return {c["image"] for pod in self.pods().values() for c in pod["spec"]["containers"]}

    def ready(self) -> int:
        """How many of its pods are."""
        containers = [
            pod["status"].get("containerStatuses", [{"ready": False}])
            for pod in self.pods().values()
        ]
        return sum(all(status["ready"] for status in found) for found in containers)

    def kill_pods(self, *pods: str) -> None:
        """Deleted without any grace, all at once."""
        self.scenario.mark(f"{', '.join(pods)} deleted without grace")
        self.kubectl.run("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")

    def until_made_anew(self, pod: str, before: dict[str, str]) -> None:
        """There is another pod of that name than when `uids` told `before`."""
        until(lambda: self.uids().get(pod, before[pod]) != before[pod], f"{pod} is made anew")

    def claims(self) -> dict[str, Any]:
        return self.kubectl.items("pvc", f"dynamocluster.io/cluster={NAME}")

    def cli(self, *words: str) -> str:
        """The command line, in a pod of its own."""
        pod = f"cli-{abs(hash(words)) % 10**8}"
        run = ("run", pod, f"--image={IMAGES['operator']}", "--restart=Never", "--rm", "-i", "-q")
        url = f"--env=DYNAMO_URL=http://{NAME}:8080"
        return self.kubectl.run(*run, url, "--command", "--", "dynamo", *words)


@contextmanager
def dynamo_cluster(
    kubectl: Kubectl, scenario: Scenario, name: str, **spec: Any
) -> Iterator[Dynamo]:
    """Applied and settled in a namespace of its own, which goes in the end; of a failure all
    that may explain it is kept first."""
    namespace = f"e2e-{name}-{os.urandom(3).hex()}"
    kubectl.run("create", "namespace", namespace)
    try:
        dynamo = Dynamo(kubectl.at(namespace), scenario)
        dynamo.apply(**spec)
        nodes = spec.get("replicas", 3) + sum(p["replicas"] for p in spec.get("pools", ()))
        dynamo.until_settled(nodes)
        yield dynamo
    except BaseException:
        keep(kubectl.at(namespace), scenario.name)
        raise
    finally:
        kubectl.run("delete", "namespace", namespace, "--wait=false", check=False)
