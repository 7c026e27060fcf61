"""Tables of whose an object is, and of what is made, kept and deleted around the nodes."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.kube_objects import CLUSTER_ID, IDENTITY, OWNER, TOKEN, cluster, objects
from tests.operator.kube_patches import Object
from tests.operator.kube_values import claim, node, pod, ring_of, world

from dynamo_operator.kube import belonging, kube_plan, names, objects_plan
from dynamo_operator.kube.credentials import admin_secret, identity_secret
from dynamo_operator.kube.kube_steps import Delete, Ensure, Halt, MakeToken, Own
from dynamo_operator.kube.world import World

OURS = names.owner_reference(OWNER)
EARLIER = {**OURS, "uid": "another"}
HELM = {"apiVersion": "v1", "kind": "ConfigMap", "name": "helm", "uid": "u1", "controller": True}


def found(name: str, *owners: Any, **labels: str) -> Object:
    told = {f"{names.GROUP}/{key}": value for key, value in labels.items()}
    metadata = {"name": name, "uid": "u", "resourceVersion": "7", "labels": told}
    return {"metadata": {**metadata, "ownerReferences": list(owners)}}


POOL = {"cluster": "cart", "pool": "default"}


@pytest.mark.parametrize(
    ("name", "labels", "ours"),
    [
        ("data-cart-default-0", POOL, True),
        ("data-cart-default-11", POOL, True),
        ("data-cart-default-a-0", {**POOL, "zone": "a"}, True),
        ("data-cart-default-0", {"cluster": "cart"}, True),  # restored without our other labels
        ("data-cart-default-0", {"cluster": "other", "pool": "default"}, False),
        ("data-cart-default-0", {}, False),
        ("data-cart-default-0", {**POOL, "pool": "large"}, False),
        ("data-cart-default-0", {**POOL, "zone": "a"}, False),
        ("data-cart-default", POOL, False),
        ("data-cart-default-0-copy", POOL, False),
        ("cart-default-0", POOL, False),
        ("data-", POOL, False),
        ("data-shop-default-0", {"cluster": "cart"}, False),
    ],
)
def test_whose_a_claim_is(name: str, labels: dict[str, str], ours: bool) -> None:
    assert belonging.claim_of(found(name, **labels), "cart") is ours


@pytest.mark.parametrize(
    ("owners", "ours"),
    [
        ((), True),
        (({**HELM, "uid": "set"},), True),
        (({**HELM, "uid": "old-set"},), False),
        (({**HELM, "controller": False},), True),
    ],
)
def test_whose_a_pod_is(owners: tuple[Any, ...], ours: bool) -> None:
    assert belonging.pod_of(found("cart-default-0", *owners, **POOL), "cart", ["set"]) is ours
    assert not belonging.pod_of(found("debug", *owners, **POOL), "cart", ["set"])


@pytest.mark.parametrize(
    ("held", "told"),
    [
        (found("cart", OURS), ""),
        (found("cart"), "exists and is nobody's"),
        (found("cart", cluster="cart"), "exists and is nobody's"),
        (found("cart", HELM, cluster="cart"), "belongs to ConfigMap helm"),
        (found("cart", EARLIER), "an earlier DynamoCluster cart is still being deleted"),
    ],
)
def test_a_name_that_is_taken(held: Object, told: str) -> None:
    seen = world(objects={("Service", "cart"): held})
    text = "; ".join(str(step) for step in objects_plan.taken(seen, seen.cluster))
    assert told in text
    assert bool(text) is bool(told)


@pytest.mark.parametrize(
    ("kind", "name"), [("Secret", "cart-identity"), ("ConfigMap", "cart-ring")]
)
def test_what_outlives_a_cluster_is_adopted_by_its_label(kind: str, name: str) -> None:
    for held, free in (
        (found(name, cluster="cart"), True),
        (found(name, {**HELM, "controller": False}, cluster="cart"), True),
        (found(name), False),
        (found(name, EARLIER, cluster="cart"), False),
        (found(name, {**EARLIER, "controller": False}, cluster="cart"), False),
    ):
        seen = world(objects={(kind, name): held})
        assert (objects_plan.taken(seen, seen.cluster) == []) is free


def test_claims_of_an_earlier_cluster_are_waited_for() -> None:
    seen = world(claims=(claim("cart-default-0", references=(EARLIER,)),))
    (step,) = objects_plan.taken(seen, seen.cluster)
    assert isinstance(step, Halt)
    assert "claim data-cart-default-0" in step.reason


def _complete(**spec: Any) -> World:
    """Everything is there as it was made."""
    made = cluster({"replicas": 3, **spec})
    held = {}
    for number, body in enumerate(objects(made)):
        metadata = {**body["metadata"], "uid": f"u{number}", "resourceVersion": "7"}
        held.setdefault((body["kind"], body["metadata"]["name"]), {**body, "metadata": metadata})
    del held["ServiceMonitor", "cart-nodes"]
    return world(spec=spec, ring=ring_of(*(f"cart-default-{i}" for i in range(3))), objects=held)


def test_a_lost_token_is_made_and_nothing_else() -> None:
    seen = _complete()
    whole = [step for step in objects_plan.upkeep(seen, seen.cluster) if not _budget(step)]
    objects_left = {k: v for k, v in seen.objects.items() if k != ("Secret", "cart-admin")}
    lost = world(ring=seen.observed.ring, objects=objects_left)
    steps = [step for step in objects_plan.upkeep(lost, lost.cluster) if not _budget(step)]
    assert [step for step in steps if step not in whole] == [MakeToken()]


def _budget(step: Any) -> bool:
    """And the NetworkPolicy, whose extra peers the tables of builders have."""
    return isinstance(step, Ensure) and step.kind in ("PodDisruptionBudget", "NetworkPolicy")


@pytest.mark.parametrize(
    ("default", "large", "goes"),
    [
        ("Delete", "Delete", True),
        ("Delete", "Retain", False),
        ("Retain", "Delete", False),
        ("Retain", "Retain", False),
    ],
)
def test_identity_and_ring_go_with_the_last_volume(default: str, large: str, goes: bool) -> None:
    storage = {"size": "1Gi", "whenDeleted": large}
    pools = [{"name": "large", "replicas": 1, "capacity": "1", "storage": storage}]
    made = cluster({"storage": {"size": "1Gi", "whenDeleted": default}, "pools": pools})
    assert objects_plan.goes_along(made) is goes
    for owners in ((), (OURS,)):
        secret = found("cart-identity", *owners, cluster="cart")
        seen = world(objects={("Secret", "cart-identity"): secret})
        steps = [step for step in objects_plan.upkeep(seen, made) if isinstance(step, Own)]
        assert [step.owned for step in steps] == ([goes] if goes is not bool(owners) else [])


@pytest.mark.parametrize(
    ("kind", "name", "owner", "goes"),
    [
        ("ConfigMap", "cart-config-old", OURS, True),
        ("ConfigMap", "cart-config-old", HELM, False),
        ("ConfigMap", "other", OURS, False),
        ("ServiceMonitor", "cart-nodes", OURS, True),
        ("ServiceMonitor", "mine", OURS, False),
        ("ServiceMonitor", "cart-nodes", HELM, False),
    ],
)
def test_only_what_is_ours_and_unused_is_deleted(
    kind: str, name: str, owner: Any, goes: bool
) -> None:
    seen = world(objects={(kind, name): found(name, owner, cluster="cart")})
    steps = objects_plan.leftovers(seen, seen.cluster, ())
    assert [type(step) for step in steps] == ([Delete] if goes else [])
    used = world(
        objects=seen.objects, pods=(pod("cart-default-0", config=name),), spec={"replicas": 3}
    )
    if kind == "ConfigMap":
        assert objects_plan.leftovers(used, used.cluster, ()) == []


def test_the_configuration_of_a_set_that_is_yet_to_be_made_stays() -> None:
    made = cluster({"replicas": 3})
    configs = [name for kind, name in objects_plan.needed(made, monitored=False)
               if kind == "ConfigMap" and "-config-" in name]  # fmt: skip
    seen = world(objects={("ConfigMap", name): found(name, OURS) for name in configs})
    assert objects_plan.leftovers(seen, made, ()) == []


@pytest.mark.parametrize(
    ("held", "wanted", "same"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"l": [1, 2]}, {"l": [1]}, False),
        ({"l": []}, {"l": []}, True),
        ({"l": [{"port": 1}, {"port": 2}]}, {"l": [{"port": 1}]}, False),  # replaced as a whole
        ({"l": [{"name": "b"}, {"name": "a", "x": 1}]}, {"l": [{"name": "a"}]}, True),
        ({"l": [{"name": "a", "x": 1}]}, {"l": [{"name": "a", "x": 2}]}, False),
        ({"l": [{"uid": "1"}]}, {"l": [{"uid": "2"}]}, False),
        ({"l": None}, {"l": [{"uid": "2"}]}, False),
        ({"l": "x"}, {"l": {"a": 1}}, False),
    ],
)
def test_what_counts_as_there(held: Any, wanted: Any, same: bool) -> None:
    assert objects_plan.contains(held, wanted) is same


# Whose data it is


@pytest.mark.parametrize(
    ("cluster_id", "ring", "annotated", "told"),
    [
        (CLUSTER_ID, True, CLUSTER_ID, ""),
        (CLUSTER_ID, True, None, ""),  # claims that somebody restored without it
        (CLUSTER_ID, False, "00" * 16, "claim data-cart-default-0"),
        ("00" * 16, True, None, "ConfigMap cart-ring"),
        ("", True, None, "ConfigMap cart-ring"),
        ("", False, None, "claim data-cart-default-0"),
        ("", False, "", ""),
    ],
)
def test_an_identity_that_does_not_fit(
    cluster_id: str, ring: bool, annotated: str | None, told: str
) -> None:
    marks = {names.CLUSTER_ID: annotated} if annotated else {}
    claims = () if annotated == "" else (claim("cart-default-0", annotations=marks),)
    pods = [f"cart-default-{i}" for i in range(3)]
    secrets = {
        ("Secret", body["metadata"]["name"]): {
            **body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "7"}
        }
        for body in (
            identity_secret(cluster(), None, IDENTITY), admin_secret(cluster(), OWNER, TOKEN)
        )
    }  # fmt: skip
    seen = world(ring=ring_of(*pods) if ring else None, claims=claims, objects=secrets)
    if not ring:
        silent = {name: node(name, None, silent=True) for name in pods}
        seen = replace(seen, observed=replace(seen.observed, nodes=silent))
    seen = replace(seen, observed=replace(seen.observed, cluster_id=cluster_id))
    halts = kube_plan.plan(seen.cluster, seen).halts
    assert [halt.code for halt in halts] == (["IdentityLost"] if told else [])
    assert not told or told in halts[0].reason
