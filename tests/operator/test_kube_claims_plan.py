"""Tables of what is done to claims, and of what proves that a volume is lost."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.kube_values import claim, node, pod, ring_of, world

from dynamo_operator.kube import claims_plan, losses, names
from dynamo_operator.kube.kube_steps import (
    Annotate,
    AwaitGone,
    Delete,
    DeletePod,
    GrowClaim,
    Halt,
    Own,
    Warn,
)
from dynamo_operator.kube.world import HostSeen

THREE = [f"cart-default-{i}" for i in range(3)]
LAST = "cart-default-3"
MARK = {names.DRAINED_EPOCH: "4"}
OURS = {**names.owner_reference(names.Owner("cart", "shop", "6f1c-uid")), "controller": False}


# When a claim goes


@pytest.mark.parametrize(
    ("goes", "changes"),
    [
        (True, {}),
        (False, {"claim": {"annotations": {}}}),
        (False, {"claim": {"deleting": True}}),
        (False, {"ring": [*THREE, LAST]}),
        (False, {"ring": []}),
        (False, {"spec": {"replicas": 4}}),
        (False, {"pods": True}),
        (False, {"replicas": 4}),  # its set would make the pod again
        (False, {"spec": {"storage": {"size": "10Gi", "whenScaled": "Retain"}}}),
    ],
)
def test_a_claim_goes_only_when_all_is_so(goes: bool, changes: dict[str, Any]) -> None:
    ring = changes.pop("ring", THREE)
    pods = (pod(LAST),) if changes.pop("pods", False) else ()
    one = claim(LAST, **{"annotations": MARK, **changes.pop("claim", {})})
    seen = world(ring=ring_of(*ring) if ring else None, claims=(one,), pods=pods, **changes)
    why = "its data is on other nodes"
    wanted = [Delete("PersistentVolumeClaim", one.name, one.uid, one.version, why)]
    assert claims_plan.leftovers(seen, seen.cluster) == (wanted if goes else [])


@pytest.mark.parametrize(("said", "goes"), [("Delete", True), ("Retain", False), (None, False)])
def test_a_pool_that_is_gone_counts_by_what_it_said_last(said: str | None, goes: bool) -> None:
    seen = world(ring=ring_of(*THREE), claims=(claim("cart-large-0", annotations=MARK),))
    if said is not None:
        old = replace(seen.sets["cart-default"], name="cart-large", replicas=0)
        old = replace(old, annotations={names.WHEN_SCALED: said})
        seen = replace(seen, sets={**seen.sets, "cart-large": old})
    assert bool(claims_plan.leftovers(seen, seen.cluster)) is goes


@pytest.mark.parametrize(
    ("waits", "changes"),
    [
        (True, {}),
        (True, {"pod": {"deleting": True}}),
        (False, {"ring": [*THREE, LAST]}),
        (False, {"ring": []}),
        (False, {"spec": {"replicas": 4}}),
        (False, {"replicas": 4}),  # its set keeps it: somebody has yet to lower that
    ],
)
def test_a_scale_down_is_over_when_the_last_pod_has_ended(
    waits: bool, changes: dict[str, Any]
) -> None:
    ring = changes.pop("ring", THREE)
    pods = (pod(LAST, **changes.pop("pod", {})),)
    seen = world(ring=ring_of(*ring) if ring else None, pods=pods, **changes)
    assert claims_plan.leaving(seen, seen.cluster) == ([AwaitGone(LAST)] if waits else [])


# Marks, owners, sizes


@pytest.mark.parametrize("where", ["spec", "ring"])
def test_a_mark_goes_first_of_all(where: str) -> None:
    ring = ring_of(*THREE, *([LAST] if where == "ring" else []))
    one = claim(LAST, annotations=MARK, wanted="1Gi", references=(OURS,))
    spec = {"replicas": 4} if where == "spec" else {}
    seen = world(ring=ring, claims=(one,), spec=spec)
    kinds = [type(step) for step in claims_plan.upkeep(seen, seen.cluster)]
    assert kinds == [Annotate, Own, GrowClaim]


def test_the_mark_is_written_once() -> None:
    seen = world(ring=ring_of(*THREE), claims=(claim(LAST),))
    (step,) = claims_plan.drained(seen, LAST, 4)
    assert isinstance(step, Annotate)
    assert step.annotations == ((names.DRAINED_EPOCH, "4"),)
    assert (step.uid, step.version) == (f"uid-{LAST}", "7")
    for one in (claim(LAST, annotations=MARK), claim(LAST, deleting=True)):
        assert claims_plan.drained(world(claims=(one,)), LAST, 5) == []
    assert claims_plan.drained(world(), LAST, 5) == []


OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "plan", "uid": "u1"}


@pytest.mark.parametrize(
    ("wish", "has", "shall"),
    [
        ("Delete", (), (OURS,)),
        ("Delete", (OTHER,), (OTHER, OURS)),
        ("Delete", (OURS,), None),
        ("Retain", (OURS,), ()),
        ("Retain", (OURS, OTHER), (OTHER,)),
        ("Retain", (OTHER,), None),
    ],
)
def test_owners(wish: str, has: tuple[Any, ...], shall: tuple[Any, ...] | None) -> None:
    spec = {"storage": {"size": "10Gi", "whenDeleted": wish}}
    seen = world(spec=spec, claims=(claim(THREE[0], references=has),))
    steps = claims_plan.upkeep(seen, seen.cluster)
    found = [step.references for step in steps if isinstance(step, Own)]
    assert found == ([] if shall is None else [shall])
    gone = world(spec=spec, claims=(claim("cart-large-0", references=has),))
    assert claims_plan.upkeep(gone, gone.cluster) == [], "its pool gave it the owners it has"


@pytest.mark.parametrize(
    ("growing", "fields", "kind"),
    [
        ({"standard": True}, {}, GrowClaim),
        (None, {}, GrowClaim),
        ({"standard": False}, {}, Warn),
        ({}, {}, Warn),  # a class that is gone
        ({"standard": True}, {"storage_class": ""}, Warn),
        ({"standard": True}, {"phase": "Pending", "volume": ""}, None),
        ({"standard": True}, {"wanted": "20480Mi"}, None),
        ({"standard": True}, {"wanted": "30Gi"}, None),
        ({"standard": True}, {"deleting": True}, None),
    ],
)
def test_growth(growing: dict[str, bool] | None, fields: dict[str, Any], kind: type | None) -> None:
    spec = {"storage": {"size": "20Gi"}}
    seen = world(spec=spec, claims=(claim(THREE[0], **fields),), growing=growing)
    assert [type(step) for step in claims_plan.upkeep(seen, seen.cluster)] == (
        [kind] if kind else []
    )


def test_what_nobody_uses_does_not_grow() -> None:
    seen = world(spec={"storage": {"size": "20Gi"}}, claims=(claim("cart-default-9"),))
    assert claims_plan.upkeep(seen, seen.cluster) == []


# Lost volumes


READY = {"n1": HostSeen(True, False)}


@pytest.mark.parametrize(
    ("proof", "claim_fields", "fields"),
    [
        ("", {}, {}),
        ("is Lost", {"phase": "Lost"}, {}),
        ("is gone", {}, {"volumes": {}}),
        ("", {}, {"volumes": None}),
        ("", {"volume": ""}, {"volumes": {}}),
        ("", {"phase": "Pending"}, {"volumes": {}}),  # somebody means it to have one
        ("which is gone", {}, {"volumes": {f"pv-{LAST}": ("n9",)}}),
        ("which is gone", {}, {"volumes": {f"pv-{LAST}": ("n8", "n9")}}),
        ("", {}, {"volumes": {f"pv-{LAST}": ("n1", "n9")}}),
        ("", {}, {"volumes": {f"pv-{LAST}": None}}),
        ("", {}, {"volumes": {f"pv-{LAST}": ("n9",)}, "hosts": None}),
        ("", {"phase": "Lost"}, {"pods": (pod(LAST),)}),  # ready
        ("", {"phase": "Lost"}, {"nodes": {LAST: node(LAST, None)}}),  # it answers
        ("is Lost", {"phase": "Lost"}, {"pods": (pod(LAST, ready=False),)}),
        ("", {}, {"pods": (pod(LAST, ready=False, running=False, deleting=True),)}),
    ],
)
def test_what_proves_a_loss(
    proof: str, claim_fields: dict[str, Any], fields: dict[str, Any]
) -> None:
    around = {"volumes": {f"pv-{LAST}": None}, "hosts": READY, **fields}
    seen = world(claims=(claim(LAST, **claim_fields),), **around)
    found = losses.lost(seen, LAST)
    assert bool(found) is bool(proof)
    assert proof in found
    assert losses.lost(world(**around), LAST) == "", "a claim that is gone is made by its set"


@pytest.mark.parametrize(
    ("told", "claim_fields", "fields"),
    [
        ("", {}, {}),
        ("was deleted by somebody", {"deleting": True}, {}),
        ("is Lost", {"phase": "Lost"}, {}),
        ("is gone", {}, {"volumes": {}}),
        ("", {"phase": "Lost"}, {"pods": ()}),
    ],
)
def test_what_went_from_under_a_pod_that_runs_is_told(
    told: str, claim_fields: dict[str, Any], fields: dict[str, Any]
) -> None:
    """On kind all was said to be well, while nobody but the pod had a way to the data."""
    around = {"volumes": {f"pv-{LAST}": None}, "hosts": READY, "pods": (pod(LAST),), **fields}
    seen = world(claims=(claim(LAST, **claim_fields),), **around)
    assert losses.losses(seen, seen.cluster) == [], "its node answers: it has its data"
    texts = [str(step) for step in losses.doomed(seen)]
    assert bool(texts) is bool(told)
    assert all(told in text and "keeps its data until its pod ends" in text for text in texts)


@pytest.mark.parametrize("whole", [True, False])
def test_who_has_the_last_way_to_its_data_is_not_restarted_beside_others(whole: bool) -> None:
    ring = ring_of(*THREE, LAST)
    nodes = {name: node(name, ring) for name in (*THREE, LAST)}
    nodes[THREE[1]] = node(THREE[1], ring, state="up" if whole else "recovering")
    one = claim(LAST, phase="Lost")
    seen = world(ring=ring, nodes=nodes, claims=(one,), pods=(pod(LAST),), hosts=READY)
    doomed = losses.is_doomed(seen, LAST)
    assert (doomed.code if doomed else "") == ("" if whole else "VolumeLost")


def _lost(pods: Any = (), *, hosts: Any = READY, others: Any = None, **fields: Any) -> list[Any]:
    ring = ring_of(*THREE, LAST)
    nodes = {name: node(name, ring) for name in THREE} | (others or {})
    nodes[LAST] = node(LAST, ring, silent=True)
    claims = (claim(LAST, **{"phase": "Lost", **fields}),)
    spec = {"replicas": 4}
    seen = world(ring=ring, nodes=nodes, claims=claims, pods=pods, hosts=hosts, spec=spec)
    return losses.losses(seen, seen.cluster)


CLAIM_GOES = Delete(
    "PersistentVolumeClaim", f"data-{LAST}", f"uid-{LAST}", "7", f"claim data-{LAST} is Lost"
)
ENDS = DeletePod(LAST, f"uid-{LAST}", "it begins with a new volume")
FORCED = DeletePod(LAST, f"uid-{LAST}", "it begins with a new volume", force=True)
DOWN = pod(LAST, ready=False)


@pytest.mark.parametrize(
    ("acts", "pods", "hosts"),
    [
        ([CLAIM_GOES], (), READY),
        ([CLAIM_GOES, ENDS], (DOWN,), READY),
        ([CLAIM_GOES, ENDS], (DOWN,), {"n1": HostSeen(False, False)}),
        ([CLAIM_GOES, ENDS], (DOWN,), None),
        ([CLAIM_GOES, FORCED], (DOWN,), {}),
        ([CLAIM_GOES, FORCED], (DOWN,), {"n1": HostSeen(False, True)}),
        ([CLAIM_GOES], (pod(LAST, ready=False, deleting=True),), READY),
        ([CLAIM_GOES, FORCED], (pod(LAST, ready=False, deleting=True),), {}),
    ],
)
def test_what_follows_from_a_loss(acts: list[Any], pods: Any, hosts: Any) -> None:
    first, *rest = _lost(pods, hosts=hosts)
    assert isinstance(first, Warn)
    assert rest == acts


def test_a_claim_that_goes_already_is_not_deleted_again() -> None:
    assert _lost((DOWN,), deleting=True)[1:] == [ENDS]


@pytest.mark.parametrize("status", [{"silent": True}, {"ready": False}, {"state": "recovering"}])
def test_others_must_be_whole(status: dict[str, Any]) -> None:
    ring = ring_of(*THREE, LAST)
    others = {THREE[1]: node(THREE[1], ring, **status)}
    (step,) = _lost((DOWN,), others=others)
    assert isinstance(step, Warn)
    assert "cart-default-1 is whole again" in step.reason


def test_two_losses_wait_for_a_person() -> None:
    ring = ring_of(*THREE, LAST)
    nodes = {name: node(name, ring) for name in THREE[:2]}
    nodes |= {name: node(name, ring, silent=True) for name in (THREE[2], LAST)}
    claims = tuple(claim(name, phase="Lost") for name in (THREE[2], LAST))
    seen = world(ring=ring, nodes=nodes, claims=claims, spec={"replicas": 4})
    steps = losses.losses(seen, seen.cluster)
    assert [type(step) for step in steps] == [Halt, Halt]


def test_without_a_ring_whoever_is_lost_is_made_anew_once_all_others_answer() -> None:
    nodes = {name: node(name, None) for name in THREE[:2]}
    nodes[THREE[2]] = node(THREE[2], None, silent=True)
    claims = (claim(THREE[2], phase="Lost"),)
    seen = world(nodes=nodes, claims=claims)
    assert [type(step) for step in losses.losses(seen, seen.cluster)] == [Warn, Delete]
    seen = world(nodes={**nodes, THREE[0]: node(THREE[0], None, silent=True)}, claims=claims)
    assert [type(step) for step in losses.losses(seen, seen.cluster)] == [Warn]


@pytest.mark.parametrize(
    ("hosts", "forced"),
    [
        (READY, False),
        ({"n1": HostSeen(False, False)}, False),
        (None, False),
        ({}, True),
        ({"n1": HostSeen(False, True)}, True),
    ],
)
def test_force_is_for_pods_whom_nobody_can_end(hosts: Any, forced: bool) -> None:
    seen = world(pods=(pod(LAST, deleting=True), pod(THREE[0], host="")), hosts=hosts)
    found = losses.stranded(seen)
    assert [(step.name, step.force) for step in found if isinstance(step, DeletePod)] == (
        [(LAST, True)] if forced else []
    )
