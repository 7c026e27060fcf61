"""What an emulated API server refuses, and what it adds by itself.

Those rules of the real one that an operator can stumble over: fields that can't be changed,
what a claim may grow to, defaults that are written into what is given.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tests.operator.kube_patches import Object

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.quantities import quantity

SET_FIELDS = (  # of a StatefulSet's spec, those that may change
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
DATA = ("data", "binaryData", "stringData", "immutable")


class Failure(Exception):
    """A request that isn't granted: what becomes of it is a Status."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
            "details": details,
        }


def check_precondition(kind: Kind, old: Object, wanted: Mapping[str, Any]) -> None:
    for key in ("uid", "resourceVersion"):
        if wanted.get(key) and wanted[key] != old["metadata"][key]:
            raise Failure(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {kind.plural} "{old["metadata"]["name"]}":'
                f" {key} {wanted[key]} is wanted, it is {old['metadata'][key]}",
                name=old["metadata"]["name"],
            )


def validate(
    kind: Kind, old: Object, new: Object, storage_class: Callable[[str], Object | None]
) -> None:
    """Raises Failure if this object can't become that one."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    if old.get("immutable") and any(old.get(key) != new.get(key) for key in DATA):
        _wrong(new, "data", "field is immutable when `immutable` is set")
    if kind == kinds.STATEFUL_SET and changed - set(SET_FIELDS):
        _wrong(new, "spec", f"updates to statefulset spec for fields other than {SET_FIELDS}")
    if kind == kinds.POD and changed - {"nodeName", "containers", "tolerations"}:
        _wrong(new, "spec", "pod updates may not change fields")
    if kind == kinds.CLAIM and changed:
        if ("volumeName" in changed and "volumeName" in before) or changed - {
            "volumeName",
            "resources",
        }:
            _wrong(new, "spec", "spec is immutable after creation except resources.requests")
        if "resources" in changed:
            if (old.get("status") or {}).get("phase") != "Bound":
                _wrong(new, "spec", "resources.requests may change of bound claims only")
            _validate_growth(new, before, after, storage_class)


def _validate_growth(
    new: Object, before: Object, after: Object, storage_class: Callable[[str], Object | None]
) -> None:
    was, now = (quantity(each["resources"]["requests"]["storage"]) for each in (before, after))
    if now < was:
        field = "spec.resources.requests.storage"
        _wrong(new, field, "field can not be less than status.capacity")
    if not (storage_class(before.get("storageClassName") or "") or {}).get("allowVolumeExpansion"):
        raise Failure(
            403,
            "Forbidden",
            "only dynamically provisioned pvc can be resized and the storageclass that"
            " provisions the pvc must support resize",
        )


def _wrong(new: Object, field: str, message: str) -> NoReturn:
    causes = [{"reason": "FieldValueForbidden", "field": field, "message": message}]
    name, kind = new["metadata"]["name"], new["kind"]
    told = f'{kind} "{name}" is invalid: {field}: {message}'
    raise Failure(422, "Invalid", told, name=name, kind=kind, causes=causes)


def fill(kind: Kind, body: Object) -> None:
    """Some of the defaults that the real server writes into what it is given."""
    spec = body.get("spec")
    if not isinstance(spec, dict):
        return
    if kind == kinds.STATEFUL_SET:
        spec.setdefault("replicas", 1)
        spec.setdefault("podManagementPolicy", "OrderedReady")
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("updateStrategy", {"type": "RollingUpdate"})
        _fill_pod(spec.get("template", {}).get("spec") or {})
    elif kind == kinds.POD:
        _fill_pod(spec)
    elif kind == kinds.SERVICE:
        spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        spec.setdefault("clusterIP", "10.96.0.10")
        for port in spec.get("ports", []):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])


def _fill_pod(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    for container in spec.get("containers", []):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})
        for port in container.get("ports", []):
            port.setdefault("protocol", "TCP")
