"""What acts by itself in a Kubernetes cluster, for an API server that has nobody else.

Owns, in one namespace and in a thread of its own: StatefulSet controller, volume binder,
disruption controller and garbage collector. Each step does what is due by what it lists, and
what another has changed meanwhile is left to the next one. All pods run on one Node. Forbidden:
the operator's objects other than by what these controllers do, and processes (`pod_processes`).
"""

import threading
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.operator.api_server import ApiServer, Door
from tests.operator.kube_controllers import REVISION, claims_of, pod_of, revision
from tests.operator.kube_evictions import is_ready, owner_uid
from tests.operator.pod_processes import CREATING, PodProcess, status_of, wiped

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.observed import Address

Object = dict[str, Any]

MACHINE = "machine"
STEP_S = 0.15
CLOSE_S = 60.0
MERGE = "application/merge-patch+json"
OWNED = (
    kinds.SERVICE,
    kinds.SERVICE_ACCOUNT,
    kinds.CONFIG_MAP,
    kinds.SECRET,
    kinds.BUDGET,
    kinds.NETWORK_POLICY,
)


class StandIn:
    """At work while it is a context; `story` is what befell pods, in order: (what, pod, image)."""

    def __init__(
        self, server: ApiServer, namespace: str, folder: Path, nodes: Mapping[str, Address]
    ) -> None:
        self.story: list[tuple[str, str, str]] = []
        self.processes: dict[str, PodProcess] = {}  # by the pod's uid
        self.failure: Exception | None = None
        self._server = server
        self._door = Door(server)
        self._namespace = namespace
        self._folder = folder
        self._nodes = nodes
        self._told: dict[str, Object] = {}  # by uid: the status that was written last
        self._owners: set[str] = set()
        self._orphans = False
        self._step = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in")

    def __enter__(self) -> Self:
        machine = {"metadata": {"name": MACHINE}}
        self._write("POST", kinds.NODE.path(None), machine)  # another test may have made it
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        self._write("PATCH", kinds.NODE.path(None, MACHINE, "status"), ready)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)
        for process in self.processes.values():
            process.kill()
        self._door.close()

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
            if pod not in mine and not any(one is not None and _going(one) for one in there):
                made = pod_of(body, pod)
                made["spec"]["nodeName"] = MACHINE
                self._write("POST", kinds.POD.path(self._namespace), made)
        for pod, found in sorted(mine.items(), reverse=True):
            if int(pod.rpartition("-")[2]) >= count and not _going(found):
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

    # Volumes

    def _bind(self, claims: list[Object], pods: list[Object], volumes: dict[str, Object]) -> None:
        """A volume for each claim that has none; its end when it is deleted and unused."""
        used = {name for pod in pods for name in _claim_names(pod)}
        for claim in claims:
            name, uid = claim["metadata"]["name"], claim["metadata"]["uid"]
            if _going(claim):
                if name not in used:
                    self._patch(kinds.CLAIM, name, {"metadata": {"finalizers": None}})
                continue
            volume = claim["spec"].get("volumeName")
            if not volume:
                self._provision(claim, f"pvc-{uid}")
                continue
            size = claim["spec"]["resources"]["requests"]
            bound = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": size}
            self._tell(kinds.CLAIM, claim, bound if volume in volumes else {"phase": "Lost"})
        names = {claim["metadata"]["uid"] for claim in claims}
        for volume, body in volumes.items():
            reference = body["spec"]["claimRef"]
            if reference["namespace"] == self._namespace and reference["uid"] not in names:
                self._drop_volume(volume)

    def _provision(self, claim: Object, volume: str) -> None:
        metadata = claim["metadata"]
        disk = self._disk(volume)
        disk.mkdir(parents=True)
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "capacity": claim["spec"]["resources"]["requests"],
            "claimRef": {key: metadata[key] for key in ("namespace", "name", "uid")},
            "hostPath": {"path": str(disk)},
            "persistentVolumeReclaimPolicy": "Delete",
        }
        body = {"metadata": {"name": volume}, "spec": spec}
        self._write("POST", kinds.VOLUME.path(None), body)
        self._patch(kinds.CLAIM, metadata["name"], {"spec": {"volumeName": volume}})

    def _drop_volume(self, volume: str) -> None:
        wiped(self._disk(volume))
        path = kinds.VOLUME.path(None, volume)
        self._write("DELETE", path)
        self._write("PATCH", path, {"metadata": {"finalizers": None}})

    def _disk(self, volume: str) -> Path:
        return self._folder / "volumes" / volume

    # Kubelet

    def _kubelet(
        self, pods: list[Object], claims: dict[str, Object], volumes: dict[str, Object]
    ) -> None:
        there = {pod["metadata"]["uid"] for pod in pods}
        for uid in self.processes.keys() - there:
            self.processes.pop(uid).kill()  # deleted by force
        for pod in pods:
            metadata = pod["metadata"]
            process = self.processes.get(metadata["uid"])
            if _going(pod):
                self._note("ends", pod)
                if process is None or process.end():
                    self._delete(kinds.POD, pod, gracePeriodSeconds=0)
                continue
            if process is None:
                process = self._mounted(pod, claims, volumes)
            if process is None:
                container = pod["spec"]["containers"][0]
                self._tell(kinds.POD, pod, status_of(container, CREATING, ready=False, restarts=0))
                continue
            process.keep_running()
            if process.probe():
                self._note("ready" if process.ready else "unready", pod)
            self._tell(kinds.POD, pod, process.status())

    def _mounted(
        self, pod: Object, claims: dict[str, Object], volumes: dict[str, Object]
    ) -> PodProcess | None:
        """None while something that it mounts isn't there."""
        contents: dict[str, dict[str, str]] = {}
        disk: Path | None = None
        for volume in pod["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = claims.get(volume["persistentVolumeClaim"]["claimName"])
                name = claim["spec"].get("volumeName", "") if claim else ""
                disk = self._disk(name) if name in volumes else None
            elif "configMap" in volume:
                found = self._find(kinds.CONFIG_MAP, volume["configMap"]["name"])
                contents[volume["name"]] = found.get("data", {})
            else:
                found = self._find(kinds.SECRET, volume["secret"]["secretName"])
                data = found.get("data", {})
                contents[volume["name"]] = {k: b64decode(v).decode() for k, v in data.items()}
        if disk is None or not all(contents.values()):
            return None
        uid = pod["metadata"]["uid"]
        made = PodProcess(pod, self._folder / "pods" / uid, contents, disk, self._nodes)
        self.processes[uid] = made
        self._note("starts", pod)
        return made

    def _note(self, what: str, pod: Object) -> None:
        told = what, pod["metadata"]["name"], pod["spec"]["containers"][0]["image"]
        if told not in self.story[-1:]:
            self.story.append(told)

    # Disruption controller

    def _budget(self, budget: Object, sets: list[Object], pods: list[Object]) -> None:
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        mine = [pod for pod in pods if wanted <= pod["metadata"].get("labels", {}).items()]
        granted = budget.get("status", {}).get("disruptedPods", {})
        under_way = {p["metadata"]["name"] for p in mine if not _going(p)} & granted.keys()
        healthy = sum(
            is_ready(pod) and not _going(pod) and pod["metadata"]["name"] not in under_way
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

    # The API server

    def _list(self, kind: Kind) -> list[Object]:
        path = kind.path(self._namespace if kind.namespaced else None)
        status, told = self._door.ask("GET", path)
        assert status == 200, (kind, told)
        items: list[Object] = told["items"]
        return items

    def _find(self, kind: Kind, name: str) -> Object:
        """{} if there is none."""
        status, told = self._door.ask("GET", kind.path(self._namespace, name))
        return told if status == 200 else {}

    def _tell(self, kind: Kind, body: Object, status: Object) -> None:
        """Writes a status unless it was the last one written."""
        metadata = body["metadata"]
        if self._told.get(metadata["uid"]) != status:
            self._told[metadata["uid"]] = status
            path = kind.path(self._namespace, metadata["name"], "status")
            self._write("PATCH", path, {"metadata": {"uid": metadata["uid"]}, "status": status})

    def _patch(self, kind: Kind, name: str, changes: Object) -> None:
        self._write("PATCH", kind.path(self._namespace, name), changes)

    def _delete(self, kind: Kind, body: Object, **options: Any) -> None:
        metadata = body["metadata"]
        if _going(body) and not options:
            return
        options["preconditions"] = {"uid": metadata["uid"]}
        self._write("DELETE", kind.path(self._namespace, metadata["name"]), options)

    def _write(self, method: str, path: str, body: Object | None = None) -> None:
        """What is gone, there already or changed meanwhile is seen at the next step."""
        kind = MERGE if method == "PATCH" else "application/json"
        status, told = self._door.ask(method, path, body, kind)
        assert status in (200, 201, 202, 404, 409), (method, path, told)


def _going(body: Object) -> bool:
    return "deletionTimestamp" in body["metadata"]


def _owned_by(pod: Object, body: Object) -> bool:
    return owner_uid(pod) == body["metadata"]["uid"]


def _claim_names(pod: Object) -> list[str]:
    return [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
