"""Objects as the API server gives them, read into what a plan may look at.

Owns what of an object matters, and what its absence means. Pure. Forbidden: asking for
anything, and judging what is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dynamo_operator.kube import names
from dynamo_operator.kube.belonging import references
from dynamo_operator.kube.facts import Transfer
from dynamo_operator.kube.templates import config_of
from dynamo_operator.kube.world import ClaimSeen, HostSeen, Object, PodSeen, SetSeen, revision

_BAD: Final = (
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
_OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"


def set_seen(found: Object) -> SetSeen:
    """A StatefulSet."""
    at, spec = found["metadata"], found["spec"]
    labels = at.get("labels") or {}
    return SetSeen(
        name=at["name"],
        pool=labels.get(names.POOL_LABEL, ""),
        zone=labels.get(names.ZONE_LABEL, ""),
        uid=at["uid"],
        version=at["resourceVersion"],
        replicas=int(spec.get("replicas", 1)),
        template=spec.get("template") or {},
        annotations=at.get("annotations") or {},
    )


def pod_seen(found: Object, hosts: Mapping[str, HostSeen] | None) -> PodSeen:
    """A pod. hosts: the Nodes, by which it is judged whether its kubelet is heard of."""
    at, spec, state = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    conditions = {one["type"]: one for one in state.get("conditions") or []}
    containers = state.get("containerStatuses") or []
    waiting = [c["state"]["waiting"] for c in containers if (c.get("state") or {}).get("waiting")]
    reasons = [str(one.get("reason", "")) for one in waiting]
    host = str(spec.get("nodeName") or "")
    heard = hosts is None or not host or (host in hosts and hosts[host].ready)
    trouble = _trouble(conditions, waiting, host, heard)
    return PodSeen(
        name=at["name"],
        uid=at["uid"],
        version=at["resourceVersion"],
        host=host,
        created_at=at.get("creationTimestamp", ""),
        running=heard,
        ready=heard and (conditions.get("Ready") or {}).get("status") == "True",
        deleting=bool(at.get("deletionTimestamp")),
        revision=revision(at.get("annotations") or {}),
        failing=any(reason in _BAD for reason in reasons)
        or state.get("phase") == "Failed"
        or (conditions.get("PodScheduled") or {}).get("status") == "False",
        unready=heard and (conditions.get("ContainersReady") or {}).get("status") == "False",
        trouble=trouble,
        config=config_of(found),
        pinned_image=str((at.get("annotations") or {}).get(names.PINNED_IMAGE, "")),
    )


def _trouble(
    conditions: Mapping[str, Mapping[str, Any]],
    waiting: Iterable[Mapping[str, Any]],
    host: str,
    heard: bool,
) -> str:
    """Why a pod doesn't serve, as Kubernetes says it; "" if it says nothing."""
    if not heard:
        return f"Node {host} is gone or not ready"
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"[:300]
    for one in waiting:
        if one.get("reason") in _BAD:
            return f"{one['reason']}: {one.get('message', '')}"[:300]
    return ""


def claim_seen(found: Object) -> ClaimSeen:
    """A PersistentVolumeClaim."""
    at, spec, state = found["metadata"], found.get("spec") or {}, found.get("status") or {}
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage", "")
    return ClaimSeen(
        name=at["name"],
        pod=names.pod_of_claim(at["name"]),
        uid=at["uid"],
        version=at["resourceVersion"],
        phase=str(state.get("phase", "")),
        volume=str(spec.get("volumeName") or ""),
        wanted=str(asked),
        size=str((state.get("capacity") or {}).get("storage", "")),
        storage_class=str(spec.get("storageClassName") or ""),
        annotations=at.get("annotations") or {},
        references=references(found),
        deleting=bool(at.get("deletionTimestamp")),
    )


def host_seen(found: Object) -> HostSeen:
    """A Kubernetes Node."""
    conditions = (found.get("status") or {}).get("conditions") or []
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    taints = (found.get("spec") or {}).get("taints") or []
    return HostSeen(ready, any(one.get("key") == _OUT_OF_SERVICE for one in taints))


def reach(volume: Object) -> tuple[str, ...] | None:
    """The Nodes that a volume is bound to by name; None if it isn't bound so."""
    required = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    found: list[str] = []
    for term in required.get("nodeSelectorTerms") or []:
        for one in (*(term.get("matchExpressions") or []), *(term.get("matchFields") or [])):
            by_name = one.get("key") in ("kubernetes.io/hostname", "metadata.name")
            if by_name and one.get("operator") == "In":
                found += one.get("values") or []
            elif not by_name:
                return None  # a zone, say: other Nodes may come to be in it
    return tuple(found) or None


def transfer(one: Mapping[str, Any]) -> Transfer:
    """One partition on its way, as `/admin/transfers` of its receiver has it."""
    eta = one.get("eta_seconds")
    return Transfer(
        source=str(one["from"]),
        to=str(one["to"]),
        bytes_done=int(one["bytes_done"]),
        bytes_total=int(one["bytes_total"]),
        bytes_per_second=float(one.get("bytes_per_second") or 0.0),
        eta_s=None if eta is None else float(eta),
        stalled=str(one.get("stalled") or ""),
    )
