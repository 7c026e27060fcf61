"""When a node may be restarted: the rule as a table, and rolls from end to end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.operator.plan_world import A, B, C, D, World, cluster, edited, settled, until_leaving

from dynamo_operator.observed import NodeStatus, Observed
from dynamo_operator.rolling import (
    in_the_way,
    is_old,
    live_json,
    live_settings,
    settings,
    settings_hash,
)
from dynamo_operator.steps import (
    AcceptSpec,
    AwaitReady,
    AwaitWhole,
    Blocked,
    PutSettings,
    RestartNode,
    StartNode,
    Step,
)

ROLLING = {"durability": "buffered"}


def said(world: World, name: str, **fields: Any) -> None:
    """That node's status says this, until it is told something else."""
    status = world.nodes[name].status
    assert status is not None
    world.change(name, status=replace(status, **fields))


def waits(world: World, candidate: str) -> tuple[str, ...]:
    observed = world.observed()
    assert observed.ring is not None
    return in_the_way(observed.ring, observed.nodes, candidate)


def rolled(world: World) -> list[Step]:
    kinds = (AwaitWhole, RestartNode, AwaitReady, Blocked, StartNode)
    return [step for step in world.plan().steps if isinstance(step, kinds)]


# The rule


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"running": False, "status": None}, f"{B} is down"),
        ({"status": None}, f"{B} doesn't answer"),
        ({"failing": True}, f"{B} doesn't answer"),
    ],
)
def test_another_member_that_is_not_there_is_in_the_way(what: Mapping[str, Any], why: str) -> None:
    world = settled()
    world.change(B, **what)
    assert waits(world, A) == (why,)
    assert waits(world, B) == (), "and can itself be restarted"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"ready": False}, f"{B} is not ready"),
        ({"state": "recovering"}, f"{B} is recovering"),
        ({"ring_epoch": 7}, f"{B} has yet to take the ring of epoch 1"),
        ({"ring_id": "f" * 32}, f"{B} has yet to take the ring of epoch 1"),
        ({"hints_for": {C: 2}}, f"{B} keeps 2 hint(s) that others lack"),
    ],
)
def test_another_member_that_is_not_whole_is_in_the_way(what: Mapping[str, Any], why: str) -> None:
    world = settled()
    said(world, B, **what)
    assert waits(world, A) == (why,)


def test_a_seal_on_its_way_is_in_the_way_and_slots_that_wait_are_not() -> None:
    observed = settled().observed()
    assert observed.ring is not None
    status = observed.nodes[B].status
    assert status is not None
    assert status.handover is not None
    for handover, why in (
        (replace(status.handover, sealed_to={3: 2}), (f"{B} hands over 2 slot(s)",)),
        (replace(status.handover, open_slots=9, pulling=3), ()),
        (None, ()),  # a node that doesn't tell
    ):
        nodes = dict(observed.nodes)
        nodes[B] = replace(nodes[B], status=replace(status, handover=handover))
        assert in_the_way(observed.ring, nodes, A) == why


def test_what_is_kept_for_the_candidate_speaks_for_nobody_and_what_it_keeps_does() -> None:
    world = settled()
    said(world, B, hints_for={A: 5})
    assert waits(world, A) == (), "they have it, and A lacks it either way"
    assert waits(world, C) == (f"{B} keeps 5 hint(s) that others lack",)
    assert waits(world, B) == (f"{B} keeps 5 hint(s) that others lack",), "its own too"


def test_a_leaving_member_holds_data_as_well() -> None:
    world = until_leaving({"replicas": 4}, 3)
    assert waits(world, A) == ()
    world.change(D, status=None)
    assert waits(world, A) == (f"{D} doesn't answer",)


def test_all_who_are_in_the_way_are_named() -> None:
    world = settled({"replicas": 4})
    said(world, B, state="recovering")
    world.change(C, status=None)
    assert waits(world, A) == (f"{B} is recovering", f"{C} doesn't answer")


def test_a_node_is_old_only_by_a_revision_that_is_known() -> None:
    world = settled()
    node = world.nodes[A]
    observed = world.observed()
    assert not is_old(node, observed)
    assert is_old(node, replace(observed, revisions={A: "2"}))
    assert not is_old(node, replace(observed, revisions={}))
    assert not is_old(replace(node, running=False), replace(observed, revisions={A: "2"}))


# Rolls


def test_each_restart_waits_until_the_last_one_is_whole_again() -> None:
    world = edited(settled(), ROLLING)
    world.passes(1)
    assert world.restarts == [A]
    said(world, A, ready=False)
    assert rolled(world)[0] == AwaitReady((A,)), "and nobody else is touched"
    said(world, A, ready=True, state="recovering")
    assert rolled(world)[0] == AwaitWhole(B, (f"{A} is recovering",))
    said(world, A, state="up")
    said(world, C, hints_for={A: 3})
    assert rolled(world)[0] == AwaitWhole(B, (f"{C} keeps 3 hint(s) that others lack",))
    world.passes(2)
    assert world.restarts == [A]
    said(world, C, hints_for={})
    world.settle()
    assert world.restarts == [A, B, C]


def test_who_may_go_goes_first() -> None:
    world = edited(settled(), ROLLING)
    said(world, C, hints_for={B: 1})
    assert rolled(world)[0] == RestartNode(B), "its own hints wait at another node"
    world.passes(1)
    assert world.restarts == [B]


def test_a_roll_that_waits_says_what_it_waits_for() -> None:
    world = edited(settled(), ROLLING)
    said(world, C, hints_for={"gone": 1})
    first = rolled(world)[0]
    why = f"{C} keeps 1 hint(s) that others lack"
    assert str(first) == f"wait with the restart of {A}: {why}"
    assert rolled(world)[1:3] == [RestartNode(A), AwaitReady((A,))], "and what comes then"


@pytest.mark.parametrize(
    "what",
    [
        {"failing": True},
        {"failing": True, "status": None},
        {"failing": True, "status": None, "running": False},
    ],
)
def test_who_is_known_to_serve_nobody_is_restarted_at_once(what: Mapping[str, Any]) -> None:
    """A bad revision: the good one must get through, whatever else is down."""
    world = edited(settled(), ROLLING)
    world.change(A, **what)
    world.change(B, **what)
    made = world.plan()
    steps = [step for step in made.steps if not isinstance(step, AcceptSpec | StartNode)]
    assert steps[:2] == [RestartNode(A, serving=False), RestartNode(B, serving=False)]
    assert steps[2] == AwaitReady((A, B))
    assert RestartNode(C) in steps[3:]


def test_a_node_that_says_it_is_not_ready_is_restarted_at_once() -> None:
    world = edited(settled(), ROLLING)
    said(world, B, ready=False)
    assert rolled(world)[0] == RestartNode(B, serving=False)


def test_a_node_that_is_merely_silent_waits_for_its_turn() -> None:
    """Others may reach it. With a bad revision it would stay silent for ever: it isn't awaited."""
    world = edited(settled(), ROLLING)
    world.change(A, status=None)
    assert rolled(world)[0] == RestartNode(A)
    assert not [s for s in world.plan().steps if isinstance(s, RestartNode) and not s.serving]
    world.change(B, status=None)
    assert isinstance(rolled(world)[0], AwaitWhole)


def test_a_broken_node_of_the_present_revision_is_left_alone() -> None:
    world = settled()
    world.change(A, failing=True)
    assert rolled(world) == [AwaitReady((A,))]


def test_before_the_first_ring_a_bad_revision_is_replaced_at_once() -> None:
    world = World(cluster())
    world.passes(1)  # the identity
    for name in (A, B, C):
        world.change(name, running=True, failing=True, settings_hash="bad", status=None)
    assert [s for s in world.plan().steps if isinstance(s, RestartNode)] == [
        RestartNode(name, serving=False) for name in (A, B, C)
    ]
    world.settle()
    assert world.ring is not None


def test_a_joiner_of_an_older_revision_holds_nothing_and_is_restarted_at_once() -> None:
    world = edited(settled(), {"replicas": 4})
    world.observed()
    world.change(D, running=True, failing=True, settings_hash="bad", status=None)
    assert rolled(world)[0] == RestartNode(D, serving=False)
    status = NodeStatus(None, "1" * 16, "0" * 32, 0, "", "waiting", False)
    world.change(D, failing=False, status=status)
    assert rolled(world)[0] == RestartNode(D, serving=False)


def test_a_leaver_is_not_restarted_while_it_serves() -> None:
    world = until_leaving({"replicas": 4}, 3)
    world.cluster = cluster({"replicas": 3, **ROLLING})
    assert {s.node for s in world.plan().steps if isinstance(s, RestartNode)} == {A, B, C}


def test_never_are_two_members_away_at_a_time() -> None:
    """Every restart takes some looks until the node is ready, whole and has its hints."""
    world = edited(settled({"replicas": 5}), {"replicas": 5, **ROLLING})
    away: dict[str, int] = {}
    for _ in range(60):
        made = world.plan()
        if made.settled:
            break
        count = len(world.restarts)
        for step in made.steps:
            if not world.do(step, made):
                break
        if len(world.restarts) > count:
            assert not away, f"{world.restarts[-1]} while {away}"
            away[world.restarts[-1]] = 4
        for name in list(away):
            away[name] -= 1
            stage = {3: {"ready": False}, 2: {"ready": True, "state": "recovering"}}
            said(world, name, **stage.get(away[name], {"ready": True, "state": "up"}))
            said(world, A if name != A else B, hints_for={name: 1} if away[name] else {})
            if not away[name]:
                del away[name]
    assert len(world.restarts) == 5


# What restarts, and what doesn't


def test_the_hash_covers_what_takes_a_restart_and_nothing_else() -> None:
    one = cluster()
    for live in ({"quorum": {"r": 1}}, {"quorum": {"w": 1}}, {"limits": {"siblingsMax": 9}}):
        other = cluster(live)
        assert settings_hash(other) == settings_hash(one)
        assert settings(other) != settings(one), "the file says the newest"
    assert settings_hash(cluster(ROLLING)) != settings_hash(one)


def test_what_is_put_is_the_live_part_of_the_file() -> None:
    tracing = {"endpoint": "http://jaeger:4317", "sampleRatio": "0.5"}
    world = settled({"quorum": {"w": 3}, "tracing": tracing})
    status = world.nodes[A].status
    assert status is not None
    assert status.settings is not None
    file, live = settings(world.cluster), ("quorum", "limits", "tracing")
    assert live_json(status.settings) == {name: file[name] for name in live}
    assert set(file) == {*live, "durability", "reconciliation"}
    assert file["tracing"] == {"endpoint": "http://jaeger:4317", "sampleRatio": 0.5}


def test_an_older_node_is_told_nothing_of_tracing_nor_finds_it_in_its_file_unasked() -> None:
    """It refuses what it doesn't know, and the rest with it."""
    world = settled()
    status = world.nodes[A].status
    assert status is not None
    assert status.settings is not None
    old = replace(status.settings, tracing=None)
    assert "tracing" not in settings(world.cluster)
    assert "tracing" not in live_json(live_settings(cluster({"quorum": {"w": 3}}), old))
    assert "tracing" in live_json(live_settings(world.cluster, status.settings))
    assert "tracing" in live_json(live_settings(world.cluster)), "who may have others in force"
    said(world, A, settings=old)
    world.cluster = cluster({"tracing": {"endpoint": "http://jaeger:4317"}})
    put = [step for step in world.plan().steps if isinstance(step, PutSettings)]
    assert put == [PutSettings(B), PutSettings(C)], "what it can't take isn't put for ever"


def test_an_observation_without_revisions_restarts_nobody() -> None:
    world = settled()
    observed: Observed = world.observed()
    assert all(not is_old(n, replace(observed, revisions={})) for n in observed.nodes.values())
