"""The kinds of objects that the operator touches, and all that it does with each.

Owns the table USES. The door (`api`) refuses a call that isn't in it, `handlers`
watches what it says, and `rbac` makes the operator's roles of it: so the roles
can't lack what the code does, nor allow more. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from dynamo_operator.kube.names import GROUP, PLURAL, VERSION

Verb = Literal[
    "get", "list", "watch", "create", "apply", "patch", "delete", "evict", "apply_status"
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object as its URL names it; group is "" for the core group."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, sub: str = "") -> str:
        """The URL's path. Without a namespace: a cluster-wide list, or no namespaced kind."""
        parts = ["apis" if self.group else "api", self.group, self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [self.plural, name or "", sub]
        return "".join(f"/{quote(part, safe='')}" for part in parts if part)


DYNAMO_CLUSTER: Final = Kind("DynamoCluster", GROUP, VERSION, PLURAL)
STATEFUL_SET: Final = Kind("StatefulSet", "apps", "v1", "statefulsets")
POD: Final = Kind("Pod", "", "v1", "pods")
CLAIM: Final = Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")
VOLUME: Final = Kind("PersistentVolume", "", "v1", "persistentvolumes", namespaced=False)
NODE: Final = Kind("Node", "", "v1", "nodes", namespaced=False)
STORAGE_CLASS: Final = Kind(
    "StorageClass", "storage.k8s.io", "v1", "storageclasses", namespaced=False
)
SERVICE: Final = Kind("Service", "", "v1", "services")
CONFIG_MAP: Final = Kind("ConfigMap", "", "v1", "configmaps")
SECRET: Final = Kind("Secret", "", "v1", "secrets")
SERVICE_ACCOUNT: Final = Kind("ServiceAccount", "", "v1", "serviceaccounts")
BUDGET: Final = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
SERVICE_MONITOR: Final = Kind("ServiceMonitor", "monitoring.coreos.com", "v1", "servicemonitors")
EVENT: Final = Kind("Event", "events.k8s.io", "v1", "events")
LEASE: Final = Kind("Lease", "coordination.k8s.io", "v1", "leases")

_MADE: Final[tuple[Verb, ...]] = ("get", "list", "create", "apply")

USES: Final[Mapping[Kind, tuple[Verb, ...]]] = {
    DYNAMO_CLUSTER: ("get", "list", "watch", "apply_status"),
    STATEFUL_SET: (*_MADE, "watch", "patch", "delete"),
    POD: ("get", "list", "watch", "delete", "evict"),
    # Claims are made by the StatefulSet's own controller.
    CLAIM: ("get", "list", "watch", "patch", "delete"),
    VOLUME: ("get",),
    NODE: ("list",),
    STORAGE_CLASS: ("list",),
    # The garbage collector deletes what was made around the nodes.
    SERVICE: _MADE,
    CONFIG_MAP: (*_MADE, "watch", "patch", "delete"),
    # A cluster's identity is made once and kept: it is neither applied nor deleted, and
    # patched only in its owner references.
    SECRET: ("get", "list", "watch", "create", "patch"),
    SERVICE_ACCOUNT: _MADE,
    BUDGET: (*_MADE, "watch"),
    NETWORK_POLICY: _MADE,
    SERVICE_MONITOR: (*_MADE, "delete"),
    EVENT: ("create",),
    LEASE: ("get", "create", "patch"),
}

# What a change of wakes the task of its cluster, besides the DynamoCluster itself.
CHILDREN: Final = tuple(
    kind for kind, verbs in USES.items() if "watch" in verbs and kind != DYNAMO_CLUSTER
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the API server is asked for; in words by str()."""

    verb: Verb
    kind: Kind
    namespace: str | None
    name: str | None

    def __str__(self) -> str:
        what = self.verb.replace("_", " the ").replace("apply the status", "apply the status of")
        if self.name is None:
            where = f" in namespace {self.namespace}" if self.namespace else ""
            return f"{what} {self.kind.name}s{where}"
        at = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{what} {self.kind.name} {at}"

    @property
    def changes(self) -> bool:
        """Whether it is about what there is; what is told to people is about the operator."""
        return self.verb != "apply_status" and self.kind != EVENT

    @property
    def attributes(self) -> dict[str, str]:
        return {
            "dynamo.api.verb": self.verb,
            "dynamo.api.kind": self.kind.name,
            "dynamo.api.name": self.name or "",
        }


def asked_for(verb: Verb, kind: Kind, namespace: str | None, name: str | None = None) -> Asked:
    """The one place where USES is enforced: raises ValueError for what isn't in it."""
    if verb not in USES.get(kind, ()):
        raise ValueError(f"{verb} of {kind.name} is not in kinds.USES, nor in the operator's role")
    if kind.namespaced and namespace is None and verb != "list":
        raise ValueError(f"{verb} of {kind.name} needs a namespace")
    return Asked(verb, kind, namespace, name)
