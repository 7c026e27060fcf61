"""The plan's table for scaling: who joins and leaves in which ring, and what is waited for."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.plan_world import (
    A,
    B,
    C,
    D,
    E,
    acts,
    cluster,
    edited,
    kinds,
    names,
    settled,
    until_leaving,
)

from dynamo_operator.observed import DiskSpace
from dynamo_operator.proof import is_settled
from dynamo_operator.steps import (
    AcceptSpec,
    AwaitDrained,
    AwaitMoves,
    AwaitStatus,
    Blocked,
    DecideRing,
    PostRing,
    RemoveNode,
    StartNode,
    told,
)

# --- up ------------------------------------------------------------------------------------


def test_scale_up_starts_processes_then_decides_one_ring_for_all() -> None:
    world = edited(settled(), {"replicas": 5})
    assert world.plan().steps == (
        AcceptSpec(),
        StartNode(D),
        StartNode(E),
        AwaitStatus((D, E)),
        DecideRing(f"the next ring: {D} joins, {E} joins", None),
        *(PostRing(name) for name in (A, B, C, D, E)),
    )
    world.settle(steps_max=3)
    made = world.plan()
    assert kinds(made) == ["DecideRing", *["PostRing"] * 5]
    world.settle()
    assert acts(world.rings[1]) == [("joined", D), ("joined", E)]
    assert len(world.rings) == 2
    assert world.plan().steps == ()


def test_one_ring_waits_for_the_last_of_the_joiners() -> None:
    world = edited(settled(), {"replicas": 5})
    world.settle(steps_max=3)
    world.change(E, status=None)
    assert kinds(world.plan())[:2] == ["AwaitStatus", "DecideRing"]
    assert world.plan().steps[0] == AwaitStatus((E,))
    world.change(E, held=True, running=False)
    assert world.plan().steps[0] == Blocked(f"{E} joins when it is started again")


def test_a_joiner_that_does_not_come_up_holds_up_neither_settings_nor_others() -> None:
    world = edited(settled(), {"replicas": 4, "durability": "buffered"})
    world.settle(steps_max=2)
    world.change(D, status=None)
    assert kinds(world.plan())[:3] == [
        "RestartNode",
        "AwaitReady",
        "RestartNode",
    ]
    world.cluster = cluster({"replicas": 3, "durability": "buffered"})
    assert RemoveNode(D, keep_data=False) in world.plan().steps
    world.settle()
    assert len(world.rings) == 1


def test_slots_that_move_are_a_plan_in_progress() -> None:
    world = edited(settled(), {"replicas": 4})
    world.speed = 1
    world.passes(4)
    made = world.plan()
    assert isinstance(made.steps[-1], AwaitMoves)
    assert made.waiting
    assert made.scaling
    assert str(made.steps[0]).startswith("wait until 19")
    world.speed = 10_000
    world.settle()
    assert world.ring is not None
    assert is_settled(world.ring, world.observed().nodes)


def test_nothing_counts_as_settled_while_one_member_cannot_be_asked() -> None:
    world = settled()
    assert world.ring is not None
    assert is_settled(world.ring, world.observed().nodes)
    world.stop(B)
    assert not is_settled(world.ring, world.observed().nodes)
    assert world.plan().steps == (), "there is nothing to do either"


# --- down ----------------------------------------------------------------------------------


def test_scale_down_takes_one_node_at_a_time_and_stops_it_on_proof() -> None:
    world = edited(settled({"replicas": 5}), {"replicas": 3})
    made = world.plan()
    assert told(made.steps) == [
        "accept the spec",
        f"decide the next ring: {E} leaves",
        f"post the ring to {A}, {B}, {C}, {D}, {E}",
        f"wait until {E} has handed over what it holds",
        f"decide the next ring: {E} has left, {D} leaves",
        f"post the ring to {A}, {B}, {C}, {D}",
        f"stop {E} and delete its data",
        f"wait until {D} has handed over what it holds",
        f"decide the next ring: {D} has left",
        f"post the ring to {A}, {B}, {C}",
        f"stop {D} and delete its data",
    ]
    world.settle()
    assert [[m.name for m in ring.leaving] for ring in world.rings] == [[], [E], [D], []]
    assert [len(ring.members) for ring in world.rings] == [5, 4, 3, 3]
    assert [step.node for step in world.removed] == [E, D]
    assert sorted(world.nodes) == [A, B, C]
    assert world.plan().steps == ()


def test_a_leaver_stays_until_everything_is_handed_over() -> None:
    world = until_leaving({"replicas": 4}, 3)
    made = world.plan()
    assert made.waiting
    wait = made.steps[0]
    assert isinstance(wait, AwaitDrained)
    assert str(wait) == f"wait until {D} has handed over 192 partition(s)"
    world.speed = 10_000
    world.hints[D] = 3
    world.move()
    assert str(world.plan().steps[0]).endswith("0 partition(s) and 3 hint(s)")
    world.hints[D] = 0
    assert kinds(world.plan())[:2] == ["DecideRing", "PostRing"]


@pytest.mark.parametrize(
    "hide",
    [
        {"status": None},
        {"status": None, "running": False, "held": True},
    ],
)
@pytest.mark.parametrize("who", [A, D])
def test_who_cannot_be_asked_is_no_proof(who: str, hide: Any) -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.speed = 10_000
    world.move()
    assert isinstance(world.plan().steps[0], DecideRing)
    world.change(who, **hide)
    wait = next(step for step in world.plan().steps if isinstance(step, AwaitDrained))
    assert who in wait.unknown
    assert f"waiting for word from {who}" in str(wait)


@pytest.mark.parametrize(
    ("who", "facts"),
    [
        (A, {"sealed_to": {4: 1}}),
        (A, {"held_by": {4: 2}}),
        (D, {"records": 1}),
        (D, {"hints": 1}),
    ],
)
def test_whatever_speaks_against_it_is_no_proof(who: str, facts: Any) -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.speed = 10_000
    world.move()
    says = world.handover

    def handover(name: str) -> Any:
        told = says(name)
        return replace(told, **facts) if told and name == who else told

    world.handover = handover  # type: ignore[method-assign]
    assert isinstance(world.plan().steps[0], AwaitDrained)
    assert world.plan().waiting


@pytest.mark.parametrize("who", [B, D])
def test_what_is_said_under_another_ring_is_no_proof(who: str) -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.speed = 10_000
    world.move()
    world.hold(who, world.rings[0])
    made = world.plan()
    assert made.steps[0] == PostRing(who)
    wait = next(step for step in made.steps if isinstance(step, AwaitDrained))
    assert wait.unknown == (who,)


def test_nothing_is_proven_by_a_node_that_does_not_tell() -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.speed = 10_000
    world.move()
    world.handover = lambda name: None  # type: ignore[method-assign, assignment]
    wait = world.plan().steps[0]
    assert isinstance(wait, AwaitDrained)
    assert wait.unknown == (A, B, C, D)


def test_a_leaver_that_died_is_started_again() -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.change(D, running=False, status=None)
    assert world.plan().steps[0] == StartNode(D)
    world.speed = 10_000
    world.settle()
    assert names(world) == [A, B, C]


def test_data_is_kept_if_the_pool_says_so_and_a_retained_disk_gets_a_new_number() -> None:
    retain = {"storage": {"whenScaled": "Retain"}}
    world = edited(settled({"replicas": 4, **retain}), {"replicas": 3, **retain})
    world.settle()
    assert world.removed == [RemoveNode(D, keep_data=True)]
    disk = world.disk(D)
    edited(world, {"replicas": 4, **retain}).settle()
    assert world.ring is not None
    back = world.ring.member_named(D)
    assert back is not None
    assert (back.number, back.disk_id) == (5, disk)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (DiskSpace(True, 0, 0), f"the disk of {A} is full"),
        (DiskSpace(False, 8 * GIB, GIB), f"{A} would need 3.3 GiB and has 1.0 GiB"),
        (DiskSpace(False, 8 * GIB, 4 * GIB), ""),
        (None, ""),
    ],
)
def test_nobody_leaves_while_those_who_stay_lack_space(disk: DiskSpace | None, reason: str) -> None:
    world = edited(settled({"replicas": 4}), {"replicas": 3})
    for name in (A, B, C, D):
        status = world.nodes[name].status
        assert status is not None
        own = disk if name == A else DiskSpace(False, 8 * GIB, 100 * GIB)
        world.change(name, status=replace(status, disk=own))
    made = world.plan()
    if reason:
        assert made.steps[:2] == (AcceptSpec(), Blocked(f"{D} can't leave: {reason}"))
    else:
        assert isinstance(made.steps[1], DecideRing)
