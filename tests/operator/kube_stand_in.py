"""What acts by itself in a Kubernetes cluster, for an API server that has nobody else.

Owns, in one namespace and in a thread of its own: StatefulSet controller, disruption controller
and garbage collector; the one machine is `stand_in_machine`. Forbidden: doing anything to the
operator's objects that these controllers wouldn't, and processes (`pod_processes`).
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.operator.api_server import ApiServer
from tests.operator.kube_controllers import REVISION, claims_of, pod_of, revision
from tests.operator.kube_evictions import is_ready, owner_uid
from tests.operator.stand_in_machine import MACHINE, Object, StandInMachine, going

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.observed import Address

STEP_S = 0.2
CLOSE_S = 60.0
OWNED = (
    kinds.SERVICE,
    kinds.SERVICE_ACCOUNT,
    kinds.CONFIG_MAP,
    kinds.SECRET,
    kinds.BUDGET,
    kinds.NETWORK_POLICY,
)


class StandIn(StandInMachine):
    """At work while it is a context. failure: what it stumbled over, if it did."""

    def __init__(
        self, server: ApiServer, namespace: str, folder: Path, nodes: Mapping[str, Address]
    ) -> None:
        super().__init__(server, namespace, folder, nodes)
        self.failure: Exception | None = None
        self._owners: set[str] = set()
        self._orphans = False
        self._step = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in")

    def __enter__(self) -> Self:
        self._boot()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)
        self._shut_down()

    def lose(self, pod: str) -> None:
        """A disk goes up in smoke: the process is killed, its data and its volume are gone."""
        with self._step:
            process = next(one for one in self.processes.values() if one.name == pod)
            process.kill()
            found = self._find(kinds.CLAIM, f"data-{pod}")
            self._drop_volume(found["spec"]["volumeName"])

    def _run(self) -> None:
        try:
            while not self._closing.wait(STEP_S):
                with self._step:
                    self.step()
        except Exception as error:  # told to whoever waits in the test
            self.failure = error

    def step(self) -> None:
        """Every controller once."""
        sets, pods, claims = map(self._list, (kinds.STATEFUL_SET, kinds.POD, kinds.CLAIM))
        self._collect([(kinds.STATEFUL_SET, sets), (kinds.POD, pods), (kinds.CLAIM, claims)])
        volumes = {one["metadata"]["name"]: one for one in self._list(kinds.VOLUME)}
        self._kubelet(pods, {one["metadata"]["name"]: one for one in claims}, volumes)
        self._bind(claims, pods, volumes)
        for body in sets:
            if "deletionTimestamp" not in body["metadata"]:
                self._set(body, pods, claims)
        for budget in self._list(kinds.BUDGET):
            self._budget(budget, sets, pods)

    # Garbage collector

    def _collect(self, listed: list[tuple[Kind, list[Object]]]) -> None:
        """Deletes what has lost its owner. Owners are listed after all that they may own, so
        that one that is missing was there once."""
        rest = [(kind, self._list(kind)) for kind in OWNED] if self._orphans else []
        clusters, sets = self._list(kinds.DYNAMO_CLUSTER), self._list(kinds.STATEFUL_SET)
        owners = {one["metadata"]["uid"] for one in (*clusters, *sets)}
        self._orphans |= bool(self._owners - owners)  # most tests delete no owner
        self._owners = owners
        for kind, bodies in (*listed, *rest):
            for body in bodies:
                named = body["metadata"].get("ownerReferences", [])
                if named and not any(one["uid"] in owners for one in named):
                    self._delete(kind, body)

    # StatefulSet controller

    def _set(self, body: Object, pods: list[Object], claims: list[Object]) -> None:
        name, count = body["metadata"]["name"], body["spec"]["replicas"]
        mine = {one["metadata"]["name"]: one for one in pods if _owned_by(one, body)}
        held = {one["metadata"]["name"]: one for one in claims}
        for ordinal in range(count):
            pod = f"{name}-{ordinal}"
            wanted = claims_of(body, pod)
            for claim in wanted:
                if claim["metadata"]["name"] not in held:
                    self._write("POST", kinds.CLAIM.path(self._namespace), claim)
            there = [held.get(claim["metadata"]["name"]) for claim in wanted]
            if pod not in mine and not any(one is not None and going(one) for one in there):
                made = pod_of(body, pod)
                made["spec"]["nodeName"] = MACHINE
                self._write("POST", kinds.POD.path(self._namespace), made)
        for pod, found in sorted(mine.items(), reverse=True):
            if int(pod.rpartition("-")[2]) >= count and not going(found):
                self._delete(kinds.POD, found)
        latest, ready = revision(body), sum(is_ready(one) for one in mine.values())
        status = {
            "observedGeneration": body["metadata"]["generation"],
            "replicas": len(mine),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "updatedReplicas": sum(
                one["metadata"]["labels"].get(REVISION) == latest for one in mine.values()
            ),
            "currentRevision": body.get("status", {}).get("currentRevision") or latest,
            "updateRevision": latest,
        }
        self._tell(kinds.STATEFUL_SET, body, status)

    # Disruption controller

    def _budget(self, budget: Object, sets: list[Object], pods: list[Object]) -> None:
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        mine = [pod for pod in pods if wanted <= pod["metadata"].get("labels", {}).items()]
        granted = budget.get("status", {}).get("disruptedPods", {})
        under_way = {p["metadata"]["name"] for p in mine if not going(p)} & granted.keys()
        healthy = sum(
            is_ready(pod) and not going(pod) and pod["metadata"]["name"] not in under_way
            for pod in mine
        )
        scales = {owner_uid(pod) for pod in mine}
        expected = sum(one["spec"]["replicas"] for one in sets if one["metadata"]["uid"] in scales)
        desired = max(0, expected - budget["spec"]["maxUnavailable"])
        status = {
            "observedGeneration": budget["metadata"]["generation"],
            "expectedPods": expected,
            "desiredHealthy": desired,
            "currentHealthy": healthy,
            "disruptionsAllowed": max(0, healthy - desired) if expected else 0,
            "disruptedPods": {name: granted[name] for name in sorted(under_way)},
        }
        if status != {"disruptedPods": {}, **budget.get("status", {})}:
            # The whole object with its version: an eviction may have been granted meanwhile.
            path = kinds.BUDGET.path(self._namespace, budget["metadata"]["name"], "status")
            self._write("PUT", path, {**budget, "status": status})


def _owned_by(pod: Object, body: Object) -> bool:
    return owner_uid(pod) == body["metadata"]["uid"]
