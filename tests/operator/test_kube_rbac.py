"""The operator's roles: every call of the door is allowed, and nothing else is."""

from typing import Any, get_args

import pytest

from dynamo_operator.kube import kinds, rbac
from dynamo_operator.kube.kinds import USES, Kind, Verb

Right = tuple[str, str, str]


def granted(rules: list[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def needed(*, cluster_wide: bool) -> set[Right]:
    return {
        right
        for kind, verbs in USES.items()
        for verb in verbs
        for right in rbac.rights(kind, verb)
        if kind.namespaced or cluster_wide
    }


@pytest.mark.parametrize("cluster_wide", [True, False])
def test_what_the_door_can_do_is_what_is_allowed(cluster_wide: bool) -> None:
    rules = rbac.cluster_rules() if cluster_wide else rbac.namespace_rules()
    assert granted(rules) | granted(rbac.lease_rules()) == needed(cluster_wide=cluster_wide)


def test_the_rights_of_each_verb() -> None:
    some = Kind("Thing", "g", "v1", "things")
    rights: dict[Verb, set[Right]] = {
        "get": {("g", "things", "get")},
        "list": {("g", "things", "list")},
        "watch": {("g", "things", "list"), ("g", "things", "watch")},
        "create": {("g", "things", "create")},
        "apply": {("g", "things", "create"), ("g", "things", "patch")},
        "patch": {("g", "things", "patch")},
        "delete": {("g", "things", "delete")},
        "evict": {("g", "things/eviction", "create")},
        "apply_status": {("g", "things/status", "patch")},
    }
    assert set(rights) == set(get_args(Verb))
    assert {verb: rbac.rights(some, verb) for verb in rights} == rights


def test_no_wildcard_and_nothing_that_would_raise_rights() -> None:
    rights = granted(rbac.cluster_rules()) | granted(rbac.lease_rules())
    for group, resource, verb in rights:
        assert "*" not in (group, resource, verb)
        assert verb in {"get", "list", "watch", "create", "patch", "delete"}
        assert group != "rbac.authorization.k8s.io"
        assert resource != "pods/exec"
    # The only right on a DynamoCluster that changes it is that on its status.
    dynamo = {(resource, verb) for group, resource, verb in rights if group == "dynamocluster.io"}
    assert {right for right in dynamo if right[1] not in ("get", "list", "watch")} == {
        ("dynamoclusters/status", "patch")
    }
    assert ("", "secrets", "delete") not in rights
    assert ("", "pods", "create") not in rights
    assert ("", "persistentvolumes", "list") not in rights
    assert {resource for _, resource, verb in rights if verb == "delete"} == {
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "servicemonitors",
        "statefulsets",
    }


def test_a_namespaced_operator_gets_nothing_of_the_whole_cluster() -> None:
    resources = {resource for _, resource, _ in granted(rbac.namespace_rules())}
    assert not resources & {"nodes", "persistentvolumes", "storageclasses"}
    assert {"nodes", "persistentvolumes", "storageclasses"} <= {
        resource for _, resource, _ in granted(rbac.cluster_rules())
    }


def test_the_lease_is_one_by_name_and_in_no_other_role() -> None:
    for rules in (rbac.cluster_rules(), rbac.namespace_rules()):
        assert all("leases" not in rule["resources"] for rule in rules)
    assert [rule.get("resourceNames") for rule in rbac.lease_rules()] == [
        None,
        ["dynamo-operator"],
    ]


def test_what_wakes_a_task_is_watched() -> None:
    assert {kind.name for kind in kinds.CHILDREN} == {
        "StatefulSet",
        "Pod",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Secret",
        "ConfigMap",
    }


def test_paths() -> None:
    assert kinds.POD.path(None) == "/api/v1/pods"
    assert kinds.POD.path("shop", "a", "eviction") == "/api/v1/namespaces/shop/pods/a/eviction"
    assert kinds.NODE.path(None, "n") == "/api/v1/nodes/n"
    assert kinds.LEASE.path("shop", "../x") == (
        "/apis/coordination.k8s.io/v1/namespaces/shop/leases/..%2Fx"
    )
