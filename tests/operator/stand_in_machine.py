"""One machine behind an API server that has nobody else: its volumes, and what runs on it.

Owns binder, provisioner and kubelet of one namespace, the door to the API server, and what is
noted of pods. Each step does what is due by what was listed; what another has changed meanwhile
is left to the next one. Forbidden: which pods there are to be (`kube_stand_in`).
"""

from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.operator.api_server import ApiServer, Door
from tests.operator.pod_processes import CREATING, PodProcess, status_of, wiped

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.observed import Address

Object = dict[str, Any]

MACHINE = "machine"
MERGE = "application/merge-patch+json"


class StandInMachine:
    """`story` is what befell pods, in order: (what, pod, image)."""

    def __init__(
        self, server: ApiServer, namespace: str, folder: Path, nodes: Mapping[str, Address]
    ) -> None:
        self.story: list[tuple[str, str, str]] = []
        self.processes: dict[str, PodProcess] = {}  # by the pod's uid
        self._door = Door(server)
        self._namespace = namespace
        self._folder = folder
        self._nodes = nodes
        self._told: dict[str, Object] = {}  # by uid: the status that was written last

    def _boot(self) -> None:
        machine = {"metadata": {"name": MACHINE}}
        self._write("POST", kinds.NODE.path(None), machine)  # another test may have made it
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        self._write("PATCH", kinds.NODE.path(None, MACHINE, "status"), ready)

    def _shut_down(self) -> None:
        for process in self.processes.values():
            process.kill()
        self._door.close()

    # Volumes

    def _bind(self, claims: list[Object], pods: list[Object], volumes: dict[str, Object]) -> None:
        """A volume for each claim that has none; its end when it is deleted and unused."""
        used = {name for pod in pods for name in _claim_names(pod)}
        for claim in claims:
            name, uid = claim["metadata"]["name"], claim["metadata"]["uid"]
            if going(claim):
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
            if going(pod):
                if process is not None and not process.ending:
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
        image = pod["spec"]["containers"][0]["image"]
        self.story.append((what, pod["metadata"]["name"], image))

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
        if going(body) and not options:
            return
        options["preconditions"] = {"uid": metadata["uid"]}
        self._write("DELETE", kind.path(self._namespace, metadata["name"]), options)

    def _write(self, method: str, path: str, body: Object | None = None) -> None:
        """What is gone, there already or changed meanwhile is seen at the next step."""
        kind = MERGE if method == "PATCH" else "application/json"
        status, told = self._door.ask(method, path, body, kind)
        assert status in (200, 201, 202, 404, 409), (method, path, told)


def going(body: Object) -> bool:
    """Whether its deletion has been asked for."""
    return "deletionTimestamp" in body["metadata"]


def _claim_names(pod: Object) -> list[str]:
    return [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
