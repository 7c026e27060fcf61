"""The roles the operator needs: what `kinds.USES` says it does, and nothing else.

Owns the translation of the door's verbs into RBAC rules, for an operator of the
whole cluster and for one of single namespaces, which gets no right outside them:
it can't see Nodes, volumes and storage classes. What kopf reads besides (which
kinds the server has) every authenticated account may read. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from dynamo_operator.kube.kinds import LEASE, USES, Kind, Verb
from dynamo_operator.kube.names import OPERATOR

Rule = dict[str, Any]

# Each verb of the door: sub-resource, and the verbs of RBAC that it takes.
_RIGHTS: Final[Mapping[Verb, tuple[str, tuple[str, ...]]]] = {
    "get": ("", ("get",)),
    "list": ("", ("list",)),
    "watch": ("", ("list", "watch")),
    "create": ("", ("create",)),
    "apply": ("", ("create", "patch")),
    "patch": ("", ("patch",)),
    "delete": ("", ("delete",)),
    "evict": ("eviction", ("create",)),
    "apply_status": ("status", ("patch",)),
}
_ORDER: Final = ("get", "list", "watch", "create", "patch", "delete")


def cluster_rules() -> list[Rule]:
    """Of a ClusterRole, bound by a ClusterRoleBinding: the operator of all namespaces."""
    return _rules([kind for kind in USES if kind != LEASE])


def namespace_rules() -> list[Rule]:
    """Of a Role in each namespace that the operator looks after."""
    return _rules([kind for kind in USES if kind.namespaced and kind != LEASE])


def lease_rules() -> list[Rule]:
    """Of a Role in the namespace of the lease, in either mode."""
    named = {"apiGroups": [LEASE.group], "resources": [LEASE.plural]}
    return [  # a creation has no name yet when it is authorized
        {**named, "verbs": ["create"]},
        {**named, "resourceNames": [OPERATOR], "verbs": ["get", "patch"]},
    ]


def rights(kind: Kind, verb: Verb) -> set[tuple[str, str, str]]:
    """What one call takes: (API group, resource or resource/sub-resource, RBAC verb) each."""
    sub, verbs = _RIGHTS[verb]
    resource = f"{kind.plural}/{sub}" if sub else kind.plural
    return {(kind.group, resource, each) for each in verbs}


def _rules(kinds: list[Kind]) -> list[Rule]:
    """One rule for all resources of a group that take the same verbs."""
    verbs: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for kind in kinds:
        for use in USES[kind]:
            for group, resource, verb in rights(kind, use):
                verbs[group, resource].add(verb)
    alike: defaultdict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, resource), needed in verbs.items():
        alike[group, tuple(verb for verb in _ORDER if verb in needed)].append(resource)
    return [
        {"apiGroups": [group], "resources": sorted(resources), "verbs": list(needed)}
        for (group, needed), resources in sorted(alike.items())
    ]
