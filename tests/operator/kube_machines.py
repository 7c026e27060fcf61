"""The machines of an emulated cluster, driven by `kube_controllers`: where pods run, on what."""

from collections.abc import Callable
from typing import Any

from tests.operator.kube_patches import Object
from tests.operator.kube_rules import Failure
from tests.operator.kube_store import Store

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.kube.names import TOPOLOGY_ZONE

HOSTNAME = "kubernetes.io/hostname"
PROTECTION = "kubernetes.io/pvc-protection"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


class Machines:
    """Nodes, and what runs on them. Hooks tell a test of pods that start and stop."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.down: set[str] = set()  # names of nodes whose kubelet doesn't answer
        self.ready: Callable[[Object], bool] = lambda pod: True
        self.on_start: Callable[[Object], None] = lambda pod: None
        self.on_stop: Callable[[Object], None] = lambda pod: None
        self.local_volumes = False  # volumes that only their node can use

    def add_node(self, name: str, zone: str = "") -> Object:
        labels = {HOSTNAME: name} | ({TOPOLOGY_ZONE: zone} if zone else {})
        body = {"metadata": {"name": name, "labels": labels}, "spec": {}}
        made = self.store.create(kinds.NODE, body, "cluster")
        conditions = [{"type": "Ready", "status": "True"}]
        return self.store.set_status(kinds.NODE, made, {"conditions": conditions})

    def add_storage_class(self, name: str = "standard", *, expands: bool = True) -> Object:
        body = {
            "metadata": {
                "name": name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "example.org/disk",
            "reclaimPolicy": "Delete",
            "allowVolumeExpansion": expands,
        }
        return self.store.create(kinds.STORAGE_CLASS, body, "cluster")

    def _schedule(self) -> None:
        """Each pod to the node that its volumes allow, else to the one with the fewest pods."""
        for pod in self.store.all(kinds.POD):
            if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                continue
            claims = self._claims_of(pod)
            if any(claim is None or "deletionTimestamp" in claim["metadata"] for claim in claims):
                continue
            fitting = [name for name in self._fitting(pod) if self._reaches(name, claims)]
            if not fitting:
                continue
            everywhere = [each["spec"].get("nodeName") for each in self.store.all(kinds.POD)]
            node = min(fitting, key=lambda name: (everywhere.count(name), name))
            for claim in claims:
                self._bind(claim, node)
            self._patch(kinds.POD, pod, {"spec": {"nodeName": node}})

    def _fitting(self, pod: Object) -> list[str]:
        required = (
            pod["spec"]
            .get("affinity", {})
            .get("nodeAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", {})
            .get("nodeSelectorTerms", [{}])
        )
        selector = pod["spec"].get("nodeSelector", {})
        return [
            node["metadata"]["name"]
            for node in self.store.all(kinds.NODE)
            if node["metadata"]["name"] not in self.down
            and selector.items() <= node["metadata"]["labels"].items()
            and any(_matches(term, node["metadata"]["labels"]) for term in required)
        ]

    def _reaches(self, node: str, claims: list[Object]) -> bool:
        labels = (self.store.find(kinds.NODE, None, node) or {})["metadata"]["labels"]
        for claim in claims:
            name = claim["spec"].get("volumeName")
            volume = self.store.find(kinds.VOLUME, None, name) if name else None
            if name and volume is None:
                return False
            required = ((volume or {}).get("spec", {}).get("nodeAffinity") or {}).get("required")
            terms = (required or {}).get("nodeSelectorTerms", [{}])
            if not any(_matches(term, labels) for term in terms):
                return False
        return True

    def _bind(self, claim: Object, node: str) -> None:
        if claim["spec"].get("volumeName"):
            return
        metadata = claim["metadata"]
        spec: dict[str, Any] = {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "claimRef": {key: metadata[key] for key in ("namespace", "name", "uid")},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim["spec"].get("storageClassName", ""),
        }
        if self.local_volumes:
            expression = {"key": HOSTNAME, "operator": "In", "values": [node]}
            spec["nodeAffinity"] = {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            }
        name = f"pvc-{metadata['uid']}"
        body = {"metadata": {"name": name}, "spec": spec}
        volume = self.store.create(kinds.VOLUME, body, "cluster")
        self.store.set_status(kinds.VOLUME, volume, {"phase": "Bound"})
        self._patch(kinds.CLAIM, claim, {"spec": {"volumeName": name}})

    def _claims(self) -> None:
        """Phases, growth, protection while a pod uses them, volumes of claims that are gone."""
        used = {
            (pod["metadata"]["namespace"], name)
            for pod in self.store.all(kinds.POD)
            if pod["spec"].get("nodeName")
            for name in _claim_names(pod)
        }
        for claim in self.store.all(kinds.CLAIM):
            metadata, name = claim["metadata"], claim["spec"].get("volumeName")
            if "deletionTimestamp" in metadata:
                if (metadata["namespace"], metadata["name"]) not in used:
                    left = [each for each in metadata.get("finalizers", []) if each != PROTECTION]
                    self._patch(kinds.CLAIM, claim, {"metadata": {"finalizers": left}})
                continue
            if name:
                there = self.store.find(kinds.VOLUME, None, name) is not None
                requests = claim["spec"]["resources"]["requests"]
                status = (
                    {"phase": "Bound", "capacity": dict(requests)} if there else {"phase": "Lost"}
                )
                self.store.set_status(kinds.CLAIM, claim, status)
        claims = {claim["metadata"]["uid"] for claim in self.store.all(kinds.CLAIM)}
        for volume in self.store.all(kinds.VOLUME):
            reference = volume["spec"].get("claimRef", {})
            policy = volume["spec"].get("persistentVolumeReclaimPolicy")
            if reference and reference["uid"] not in claims and policy == "Delete":
                self._delete(kinds.VOLUME, volume)

    def _kubelets(self) -> None:
        """Starts and stops pods on nodes that are up."""
        nodes = {node["metadata"]["name"]: node for node in self.store.all(kinds.NODE)}
        for pod in self.store.all(kinds.POD):
            node = pod["spec"].get("nodeName")
            if not node:
                continue
            going = "deletionTimestamp" in pod["metadata"]
            taints = nodes.get(node, {}).get("spec", {}).get("taints", [])
            if node not in nodes or any(each["key"] == OUT_OF_SERVICE for each in taints):
                if going or node not in nodes:  # the pod garbage collector's
                    self._delete(kinds.POD, pod, {"gracePeriodSeconds": 0})
                continue
            if node in self.down:  # the node controller says so, and nothing of containers
                conditions = pod.get("status", {}).get("conditions", [])
                told = [
                    each | ({"status": "False"} if each["type"] == "Ready" else {})
                    for each in conditions
                ]
                self.store.set_status(kinds.POD, pod, {"conditions": told})
            elif going:
                self.on_stop(pod)
                self._delete(kinds.POD, pod, {"gracePeriodSeconds": 0})
            else:
                if pod.get("status", {}).get("phase") != "Running":
                    self.on_start(pod)
                self._tell(pod, ready=self.ready(pod))

    def _tell(self, pod: Object, *, ready: bool) -> None:
        said = "True" if ready else "False"
        kinds_of = ("Ready", "ContainersReady")
        status = {
            "phase": "Running",
            "conditions": [{"type": each, "status": said} for each in kinds_of],
        }
        self.store.set_status(kinds.POD, pod, status)

    def _claims_of(self, pod: Object) -> list[Any]:
        namespace = pod["metadata"]["namespace"]
        return [self.store.find(kinds.CLAIM, namespace, name) for name in _claim_names(pod)]

    def _patch(self, kind: Kind, body: Object, changes: Object) -> None:
        metadata = body["metadata"]
        self.store.patch(
            kind, metadata.get("namespace"), metadata["name"], changes, manager="cluster"
        )

    def _delete(self, kind: Kind, body: Object, options: Object | None = None) -> None:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata and options is None:
            return
        try:
            self.store.delete(kind, metadata.get("namespace"), metadata["name"], options)
        except Failure as failure:
            if failure.code != 404:
                raise


def _claim_names(pod: Object) -> list[str]:
    return [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]


def _matches(term: Object, labels: dict[str, str]) -> bool:
    return all(
        labels.get(each["key"]) in each["values"]
        for each in term.get("matchExpressions", [])
        if each["operator"] == "In"
    )
