"""The plan's table for changes of mind in the middle of scaling, for giving up, and at random."""

import random
from dataclasses import replace
from typing import Any

import pytest
from tests.operator.plan_world import (
    A,
    B,
    C,
    D,
    E,
    F,
    World,
    acts,
    cluster,
    edited,
    leaving,
    names,
    settled,
    until_leaving,
)

from dynamo_operator.layout import leaving_order, places
from dynamo_operator.rolling import settings_hash
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitRing,
    AwaitStatus,
    Blocked,
    DecideRing,
    PostRing,
    RemoveNode,
    StartNode,
)

# --- changes of mind -----------------------------------------------------------------------


def test_a_leaver_that_is_wanted_again_stays_under_its_number() -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.speed = 5
    world.move()
    edited(world, {"replicas": 4})
    assert str(world.plan().steps[1]) == f"decide the next ring: {D} stays after all"
    world.change(D, status=None, running=False)
    assert DecideRing in [type(step) for step in world.plan().steps], "it needs no word for that"
    world.speed = 10_000
    world.settle()
    assert world.ring is not None
    assert [member.number for member in world.ring.members] == [1, 2, 3, 4]
    assert world.removed == []


@pytest.mark.parametrize(("before", "meanwhile"), [(4, 3), (3, 4)])
def test_who_changes_his_mind_before_anything_has_moved_moves_nothing(
    before: int, meanwhile: int
) -> None:
    world = settled({"replicas": before})
    world.plan()
    assert world.at_rest is not None
    at_rest, world.speed = world.at_rest, 0
    edited(world, {"replicas": meanwhile})
    while world.ring == at_rest:
        made = world.plan()
        for step in made.steps:
            if not world.do(step, made):
                break
    edited(world, {"replicas": before})
    found = [step.ring for step in world.plan().steps if isinstance(step, DecideRing)]
    assert found[0] is not None
    assert (found[0].slots, found[0].owners) == (at_rest.slots, at_rest.owners)


def test_scaling_on_while_a_node_leaves_takes_it_back_and_adds_the_rest() -> None:
    world = until_leaving({"replicas": 4}, 3)
    edited(world, {"replicas": 6})
    world.speed = 10_000
    world.settle()
    assert names(world) == [A, B, C, D, E, F]
    assert world.removed == []


def test_scaling_down_while_joiners_are_filled_is_simply_the_next_ring() -> None:
    world = edited(settled(), {"replicas": 5})
    world.speed = 3
    world.passes(4)
    assert world.ring is not None
    assert len(world.ring.members) == 5
    edited(world, {"replicas": 3})
    assert str(world.plan().steps[1]) == f"decide the next ring: {E} leaves"
    world.speed = 10_000
    world.settle()
    assert names(world) == [A, B, C]


def test_a_ring_is_posted_to_all_before_the_next_is_decided() -> None:
    world = edited(settled(), {"replicas": 5})
    world.passes(2)  # decided, and nobody knows yet
    assert len(world.rings) == 2
    edited(world, {"replicas": 6})
    world.plan()
    world.start(F, settings_hash(world.cluster))
    posts = [PostRing(name) for name in (A, B, C, D, E)]
    made = world.plan()
    assert [*made.steps[:7]] == [AcceptSpec(), *posts, AwaitRing((A, B, C, D, E), 2)]
    assert str(made.steps[7]) == f"decide the next ring: {F} joins"
    world.passes(1)
    assert len(world.rings) == 2
    # Who is away learns it from the others, and holds nobody up.
    world.hold(C, world.rings[0])
    world.change(C, status=None)
    assert isinstance(world.plan().steps[0], DecideRing)


def test_a_mixed_edit_adds_before_it_takes_away() -> None:
    big = {"pools": [{"name": "big", "replicas": 2, "capacity": "2"}]}
    world = edited(settled({"replicas": 4}), {"replicas": 3, **big})
    world.settle(steps_max=1)
    assert not any(isinstance(s, DecideRing) and s.ring for s in world.plan().steps)
    world.settle()
    assert acts(world.rings[1]) == [
        ("left", D),
        ("joined", "cart-big-0"),
        ("joined", "cart-big-1"),
    ]
    assert len(world.rings) == 3


def test_a_changed_capacity_is_one_ring() -> None:
    pool = {"name": "big", "replicas": 2, "capacity": "2"}
    world = edited(settled({"pools": [pool]}), {"pools": [{**pool, "capacity": "1"}]})
    world.settle()
    assert acts(world.rings[1]) == [("reweighed", "cart-big-0"), ("reweighed", "cart-big-1")]
    assert len(world.rings) == 2


def test_a_removed_pool_is_drained_and_its_wish_about_data_is_remembered() -> None:
    storage = {"size": "10Gi", "whenScaled": "Retain"}
    pool = {"name": "big", "replicas": 2, "storage": storage}
    world = edited(settled({"pools": [pool]}), {})
    for name in ("cart-big-0", "cart-big-1"):
        world.change(name, when_scaled="Retain")
    world.settle()
    assert world.removed == [
        RemoveNode("cart-big-1", keep_data=True),
        RemoveNode("cart-big-0", keep_data=True),
    ]
    assert names(world) == [A, B, C]


def test_a_ring_lost_in_the_middle_is_taken_back_from_all_even_from_leavers() -> None:
    world = until_leaving({"replicas": 4}, 3)
    ring, world.ring = world.ring, None
    assert ring is not None
    assert world.plan().steps == (AdoptRing(A, ring.epoch, ring.id),)
    world.change(D, status=None, running=False)
    assert world.plan().steps[:2] == (StartNode(D), AwaitStatus((D,)))


def test_the_accepted_spec_may_be_lost_in_the_middle() -> None:
    world = until_leaving({"replicas": 5}, 3)
    world.accepted = None
    world.speed = 10_000
    world.settle()
    assert names(world) == [A, B, C]


def test_zones_lose_the_node_that_they_got_last() -> None:
    for replicas in range(3, 11):
        for pools in ([], [{"name": "big", "replicas": replicas}]):
            spec = {"zones": ["a", "b", "c"], "pools": pools}
            more = cluster({**spec, "replicas": replicas + 1})
            less = cluster({**spec, "replicas": replicas})
            gone = {p.name for p in places(more)} - {p.name for p in places(less)}
            default = [p.name for p in places(more) if p.pool == "default"]
            assert leaving_order(less, default)[0] in gone
    spec = {"zones": ["a", "b", "c"], "pools": [{"name": "big", "replicas": 5}]}
    order = leaving_order(cluster(spec), [p.name for p in places(cluster(spec))])
    for count in range(5):
        fewer = cluster({**spec, "pools": [{"name": "big", "replicas": 5 - count}]})
        assert {p.name for p in places(cluster(spec))} - set(order[:count]) == {
            p.name for p in places(fewer)
        }


# --- planners that stop --------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(3, 5), (5, 3)])
def test_a_crash_after_any_step_changes_nothing_of_the_outcome(before: int, after: int) -> None:
    few = {"ring": {"partitions": 16}}

    def scaled(steps_max: int) -> tuple[World, int]:
        world = edited(settled({**few, "replicas": before}), {**few, "replicas": after})
        world.speed = 7
        return world, world.settle(steps_max=steps_max)

    whole, total = scaled(10_000)
    for steps in range(total):
        world, _ = scaled(steps)
        world.settle()  # as a new planner would: there is no other memory
        assert names(world) == names(whole), steps
        assert [step.node for step in world.removed] == [step.node for step in whole.removed]
        assert world.rows == whole.rows


# --- giving up -----------------------------------------------------------------------------


def test_a_dead_leaver_waits_until_a_person_gives_it_up() -> None:
    world = until_leaving({"replicas": 5}, 4)
    world.stop(E)
    world.speed = 10_000
    world.move()
    assert world.plan().waiting
    wait = f"wait until {E} has handed over 153 slot(s); waiting for word from {E}"
    assert str(world.plan().steps[0]) == wait
    world.give_up = (5,)
    assert str(world.plan().steps[0]) == f"decide the next ring: {E} is given up"
    world.settle()
    assert acts(world.rings[-1]) == [("given-up", E)]
    assert world.removed == [RemoveNode(E, keep_data=True)], "a person may still want it"


def test_a_member_that_was_given_up_joins_anew_when_it_is_started() -> None:
    world = settled({"replicas": 4})
    world.stop(B)
    world.give_up = (2,)
    assert str(world.plan().steps[0]) == f"decide the next ring: {B} is given up"
    world.passes(5)
    assert names(world) == [A, C, D]
    assert world.plan().steps[0] == Blocked(f"{B} joins when it is started again")
    world.held_rings.pop(B)
    world.change(B, held=False)
    world.settle()
    assert world.ring is not None
    assert [(m.name, m.number) for m in world.ring.members][-1] == (B, 5)


@pytest.mark.parametrize(
    ("replicas", "hurt", "reason"),
    [
        (4, {}, f"{B} runs: only a node that is down can be given up"),
        (4, {B: {}, C: {}}, f"{B} can't be given up while {C} is down or recovering"),
        (4, {B: {}, A: {"state": "recovering"}}, f"while {A} is down or recovering"),
        (3, {B: {}}, "3 replicas need 3 nodes, and 2 would be left; scale up first"),
    ],
)
def test_who_may_be_the_last_to_hold_something_is_not_given_up(
    replicas: int, hurt: dict[str, Any], reason: str
) -> None:
    world = settled({"replicas": replicas})
    for name, facts in hurt.items():
        status = world.nodes[name].status
        assert status is not None
        if facts:
            world.change(name, status=replace(status, **facts))
        else:
            world.stop(name)
    world.give_up = (2,)
    assert any(reason in str(step) for step in world.plan().steps if isinstance(step, Blocked))
    assert not any(isinstance(step, DecideRing) for step in world.plan().steps)


# --- all of it at random -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_any_edits_at_any_moment_end_as_the_last_one_says(seed: int) -> None:
    """Edits, deaths and planners that stop anywhere; the model refuses an unsafe removal."""
    chance = random.Random(seed)
    base = {"ring": {"partitions": 16}, "zones": chance.choice([[], ["a", "b", "c"]])}
    world = settled({**base, "replicas": 4})
    for _ in range(30):
        world.speed = chance.choice([0, 0, 1, 3, 8])
        act = chance.choice(["edit", "step", "step", "step", "kill", "start"])
        if act == "edit":
            pool = {
                "name": "big",
                "replicas": chance.randint(1, 2),
                "capacity": chance.choice("12"),
            }
            pools = chance.choice([[], [pool]])
            world.cluster = cluster({**base, "replicas": chance.randint(3, 6), "pools": pools})
        elif act == "kill":
            world.stop(chance.choice(sorted(world.nodes)))
        elif act == "start":
            for name in world.nodes:
                world.change(name, held=False)
        made = world.plan()
        for step in made.steps[: chance.randint(0, 12)]:
            if not world.do(step, made):
                break
        world.move()
        assert world.ring is not None
        assert len(world.ring.leaving) <= 1 + len(world.ring.members)
    world.speed = 50
    for name in world.nodes:
        world.change(name, held=False)
    world.settle(passes_max=200)
    assert sorted(names(world)) == sorted(place.name for place in places(world.cluster))
    assert sorted(world.nodes) == sorted(names(world))
    assert leaving(world) == []
    assert world.ring is not None
    assert [set(row) for row in world.ring.slots] == world.rows
