"""The rest of an emulated cluster, driven by hand: each `step` does what would be done next.

Garbage collector and StatefulSet controller stand here, machines in `kube_machines`. A step
lets every controller act once on what it then sees, so that what a real cluster does in
sequence takes several steps, and a test can look in between.
"""

import hashlib
import json

from tests.operator.kube_evictions import is_ready, owner_uid
from tests.operator.kube_machines import PROTECTION, Machines
from tests.operator.kube_patches import Object, copied

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind

REVISION = "controller-revision-hash"
STEPS_MAX = 50


class Cluster(Machines):
    """Everything that acts by itself in a cluster, but the operator."""

    def step(self) -> bool:
        """Whether anything has changed."""
        before = self.store.version
        self._kubelets()
        self._claims()
        self._schedule()
        self._collect()
        self._sets()
        self._set_statuses()
        return self.store.version != before

    def settle(self) -> None:
        """Steps until nothing changes any more."""
        for _ in range(STEPS_MAX):
            if not self.step():
                return
        raise AssertionError("the cluster doesn't come to rest")

    def _collect(self) -> None:
        """Deletes what no owner is left of, and finishes foreground and orphan deletions."""
        everything = self.store.everything()
        uids = {body["metadata"]["uid"] for _, body in everything}
        for kind, body in everything:
            metadata = body["metadata"]
            references = metadata.get("ownerReferences", [])
            if references and not any(each["uid"] in uids for each in references):
                self._delete(kind, body)
            for marker in ("orphan", "foregroundDeletion"):
                if marker in metadata.get("finalizers", []):
                    self._finish(kind, body, marker, everything)

    def _finish(
        self, kind: Kind, body: Object, marker: str, everything: list[tuple[Kind, Object]]
    ) -> None:
        uid = body["metadata"]["uid"]
        blocking = False
        for child_kind, child in everything:
            references = child["metadata"].get("ownerReferences", [])
            mine = [each for each in references if each["uid"] == uid]
            if not mine or self._find(child_kind, child) is None:
                continue
            if marker == "orphan":
                left = [each for each in references if each["uid"] != uid]
                self._patch(child_kind, child, {"metadata": {"ownerReferences": left or None}})
            else:
                self._delete(child_kind, child)
                blocking |= bool(mine[0].get("blockOwnerDeletion")) and (
                    self._find(child_kind, child) is not None
                )
        if not blocking:
            left = [each for each in body["metadata"]["finalizers"] if each != marker]
            self._patch(kind, body, {"metadata": {"finalizers": left}})

    def _sets(self) -> None:
        for body in self.store.all(kinds.STATEFUL_SET):
            if "deletionTimestamp" in body["metadata"]:
                continue
            namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
            self._adopt(body)
            mine = {
                pod["metadata"]["name"]: pod
                for pod in self.store.all(kinds.POD, namespace)
                if owner_uid(pod) == body["metadata"]["uid"]
            }
            wanted = [f"{name}-{ordinal}" for ordinal in range(body["spec"]["replicas"])]
            for each in wanted:
                self._make_claims(body, each)
                if each not in mine and self.store.find(kinds.POD, namespace, each) is None:
                    self.store.create(kinds.POD, pod_of(body, each), "statefulset-controller")
            for each, pod in mine.items():
                if each not in wanted:
                    self._delete(kinds.POD, pod)

    def _adopt(self, body: Object) -> None:
        """Takes pods of its labels and names that no controller has, as the real one does."""
        labels = body["spec"]["selector"]["matchLabels"]
        for pod in self.store.all(kinds.POD, body["metadata"]["namespace"], labels):
            stem = pod["metadata"]["name"].rpartition("-")[0]
            going = "deletionTimestamp" in pod["metadata"]
            if stem == body["metadata"]["name"] and not owner_uid(pod) and not going:
                self._patch(kinds.POD, pod, {"metadata": {"ownerReferences": [_owner(body)]}})

    def _make_claims(self, body: Object, pod: str) -> None:
        namespace = body["metadata"]["namespace"]
        for claim in claims_of(body, pod):
            if self.store.find(kinds.CLAIM, namespace, claim["metadata"]["name"]) is not None:
                continue
            claim["metadata"]["finalizers"] = [PROTECTION]
            claim["spec"] = {"storageClassName": self._default_class(), **claim["spec"]}
            made = self.store.create(kinds.CLAIM, claim, "statefulset-controller")
            self.store.set_status(kinds.CLAIM, made, {"phase": "Pending"})

    def _default_class(self) -> str:
        classes = self.store.all(kinds.STORAGE_CLASS)
        return str(classes[0]["metadata"]["name"]) if classes else ""

    def _set_statuses(self) -> None:
        for body in self.store.all(kinds.STATEFUL_SET):
            pods = [
                pod
                for pod in self.store.all(kinds.POD, body["metadata"]["namespace"])
                if owner_uid(pod) == body["metadata"]["uid"]
            ]
            latest = revision(body)
            status = {
                "observedGeneration": body["metadata"]["generation"],
                "replicas": len(pods),
                "readyReplicas": sum(is_ready(pod) for pod in pods),
                "updatedReplicas": sum(
                    pod["metadata"]["labels"].get(REVISION) == latest for pod in pods
                ),
                "updateRevision": latest,
            }
            self.store.set_status(kinds.STATEFUL_SET, body, status)

    def _find(self, kind: Kind, body: Object) -> Object | None:
        metadata = body["metadata"]
        return self.store.find(kind, metadata.get("namespace"), metadata["name"])


def revision(body: Object) -> str:
    """The hash of a StatefulSet's template, as its pods carry it."""
    text = json.dumps(body["spec"]["template"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{body['metadata']['name']}-{digest}"


def _owner(body: Object) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def claims_of(body: Object, pod: str) -> list[Object]:
    """The claims of a pod as its StatefulSet makes them."""
    found = []
    for template in body["spec"].get("volumeClaimTemplates", []):
        metadata = copied(template["metadata"])
        metadata["name"] = f"{template['metadata']['name']}-{pod}"
        metadata["namespace"] = body["metadata"]["namespace"]
        metadata["labels"] = {
            **metadata.get("labels", {}),
            **body["spec"]["selector"]["matchLabels"],
        }
        found.append({"metadata": metadata, "spec": copied(template["spec"])})
    return found


def pod_of(body: Object, name: str) -> Object:
    """A pod as its StatefulSet makes it now: of the newest template (OnDelete)."""
    template = copied(body["spec"]["template"])
    metadata = template.get("metadata", {})
    labels = {
        **metadata.get("labels", {}),
        REVISION: revision(body),
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": name.rsplit("-", 1)[1],
    }
    spec = template["spec"]
    claims = [each["metadata"]["name"] for each in body["spec"].get("volumeClaimTemplates", [])]
    own = [each for each in spec.get("volumes", []) if each["name"] not in claims]
    own += [
        {"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}"}}
        for claim in claims
    ]
    spec |= {"volumes": own, "hostname": name, "subdomain": body["spec"].get("serviceName", "")}
    return {
        "metadata": {
            **metadata,
            "name": name,
            "namespace": body["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [_owner(body)],
        },
        "spec": spec,
    }
