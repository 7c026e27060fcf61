"""The plan's table: from what is seen to ordered steps, and what is refused with which words."""

from dataclasses import replace
from typing import Any

import pytest
from tests.operator.plan_world import ID, NOW, A, B, C, World, cluster, kinds, settled

from dynamo_operator.layout import places
from dynamo_operator.observed import NodeStatus
from dynamo_operator.refusals import refused
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitReady,
    AwaitStatus,
    Blocked,
    CreateIdentity,
    DecideRing,
    PostRing,
    PutSettings,
    RestartNode,
    StartNode,
    told,
)


def test_an_empty_world_gets_identity_nodes_and_one_ring_in_that_order() -> None:
    made = World(cluster()).plan()
    assert made.steps == (
        CreateIdentity(),
        StartNode(A),
        StartNode(B),
        StartNode(C),
        AwaitStatus((A, B, C)),
        DecideRing(f"the first ring with {A}, {B}, {C}", None),
        AcceptSpec(),
        PostRing(A),
        PostRing(B),
        PostRing(C),
        AwaitReady((A, B, C)),
    )


def test_the_first_ring_names_every_disk_and_its_place() -> None:
    world = settled(
        {"zones": ["a", "b", "c"], "pools": [{"name": "big", "replicas": 1, "capacity": "2"}]}
    )
    assert world.ring is not None
    assert [m.name for m in world.ring.members] == [p.name for p in places(world.cluster)]
    assert [m.zone for m in world.ring.members] == ["a", "b", "c", places(world.cluster)[3].zone]
    assert [m.capacity for m in world.ring.members] == ["1", "1", "1", "2"]
    assert len({m.disk_id for m in world.ring.members}) == 4
    assert world.ring.history[0].at == NOW
    assert world.accepted == world.cluster
    assert world.plan().steps == ()


def test_it_waits_for_every_disk_and_never_for_readiness() -> None:
    world = World(cluster())
    world.settle(steps_max=4)
    world.change(B, status=None)
    assert kinds(world.plan())[:2] == ["AwaitStatus", "DecideRing"]
    assert world.plan().steps[0] == AwaitStatus((B,))


def test_a_crash_after_any_step_changes_nothing_of_the_outcome() -> None:
    whole = World(cluster())
    total = whole.settle()
    assert whole.ring is not None
    for steps in range(total):
        world = World(cluster())
        world.settle(steps_max=steps)
        world.settle()  # as a new planner would: there is no other memory
        assert world.ring is not None
        assert (world.ring.id, world.accepted) == (whole.ring.id, whole.cluster), steps


def test_a_node_that_ended_is_started_and_one_that_is_held_is_not() -> None:
    world = settled()
    world.change(B, running=False, status=None)
    assert world.plan().steps == (StartNode(B), AwaitReady((B,)))
    world.change(B, held=True)
    assert world.plan().steps == ()


def test_a_node_without_the_ring_is_given_it() -> None:
    world = settled()
    world.change(C, status=NodeStatus(None, "1" * 16, "0" * 32, 0, "", "waiting", False))
    assert world.plan().steps == (PostRing(C), AwaitReady((C,)))


def test_a_node_that_does_not_answer_is_waited_for_and_nothing_is_made_up() -> None:
    world = settled()
    world.change(C, status=None)
    assert world.plan().steps == (AwaitReady((C,)),)


def test_a_lost_ring_is_taken_back_from_the_nodes_once_all_have_answered() -> None:
    world = settled()
    ring, world.ring = world.ring, None
    assert ring is not None
    assert world.plan().steps == (AdoptRing(A, 1, ring.id),)
    world.change(A, status=None)
    assert world.plan().steps[:2] == (AwaitStatus((A,)), AdoptRing(B, 1, ring.id))
    world.change(A, held=True, running=False)
    assert kinds(world.plan()) == ["Blocked"]


def test_a_ring_above_the_decided_one_blocks() -> None:
    world = settled()
    status = world.nodes[B].status
    assert status is not None
    world.change(B, status=replace(status, ring_epoch=2, ring_id="f" * 32))
    assert "above the decided one of epoch 1" in str(world.plan().steps[0])


@pytest.mark.parametrize(
    "edit",
    [
        {"quorum": {"r": 1}},
        {"quorum": {"w": 3}},
        {"limits": {"siblingsMax": 5}},
        {"tracing": {"endpoint": "http://jaeger:4317"}},
        {"tracing": {"sampleRatio": "1"}},
    ],
)
def test_live_settings_are_put_to_all_at_once_and_restart_nobody(edit: Any) -> None:
    world = settled()
    world.cluster = cluster(edit)
    assert world.plan().steps == (AcceptSpec(), PutSettings(A), PutSettings(B), PutSettings(C))
    assert told(world.plan().steps)[1] == f"put the settings to {A}, {B}, {C}"
    world.settle()
    assert world.restarts == []
    assert world.plan().steps == ()


def test_a_node_that_does_not_answer_or_tell_is_put_nothing() -> None:
    world = settled()
    world.cluster = cluster({"quorum": {"w": 1}})
    old = world.nodes[B].status
    assert old is not None
    world.change(A, status=None)
    world.change(B, status=replace(old, settings=None))
    assert [s for s in world.plan().steps if isinstance(s, PutSettings)] == [PutSettings(C)]


def test_settings_that_take_a_restart_go_round_one_node_after_another() -> None:
    world = settled()
    world.cluster = cluster({"durability": "buffered"})
    assert world.plan().steps == (
        AcceptSpec(),
        RestartNode(A),
        AwaitReady((A,)),
        RestartNode(B),
        AwaitReady((B,)),
        RestartNode(C),
        AwaitReady((C,)),
    )
    world.settle()
    assert world.restarts == [A, B, C]
    assert world.plan().steps == ()


def test_a_roll_stops_at_the_first_node_that_does_not_come_back() -> None:
    world = settled()
    world.cluster = cluster({"durability": "buffered"})
    world.settle(steps_max=2)
    assert world.restarts == [A]
    world.change(A, status=None)
    assert world.plan().steps[0] == AwaitReady((A,))


def test_a_roll_waits_for_a_node_that_is_held_down() -> None:
    world = settled()
    world.change(B, running=False, held=True, status=None)
    world.cluster = cluster({"durability": "buffered"})
    assert world.plan().steps[1] == Blocked(f"new settings wait until {B} is started again")


@pytest.mark.parametrize(
    "edit",
    [
        {"image": "x:2"},
        {"storage": {"size": "20Gi"}},
        {"updateStrategy": {"onOperatorUpgrade": "Automatic"}},
    ],
)
def test_what_no_process_sees_is_accepted_and_restarts_nothing(edit: Any) -> None:
    world = settled()
    world.cluster = cluster(edit)
    assert world.plan().steps == (AcceptSpec(),)


@pytest.mark.parametrize(
    ("edit", "field", "reason"),
    [
        ({"replicas": 4, "quorum": {"replication": 4}}, "spec.quorum.replication", "from 3 to 4"),
        ({"ring": {"partitions": 512}}, "spec.ring.partitions", "from 256 to 512"),
        ({"reconciliation": "lastWriteWins"}, "spec.reconciliation", "fixed for the life"),
        ({"zones": ["a"]}, "spec.zones", "fixed for the life"),
        ({"storage": {"size": "1Gi"}}, "spec.storage.size", "storage may only grow"),
        ({"security": {"tls": {"mode": "Operator"}}}, "spec.security.tls.mode", "can't be changed"),
        ({"security": {"clientAuth": {"mode": "Token"}}}, "spec.security.clientAuth.mode", "yet"),
        ({"tracing": {"endpoint": "http://j:1"}}, "spec.tracing.endpoint", "which protocol"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_whole(edit: Any, field: str, reason: str) -> None:
    world = settled()
    old = world.cluster
    world.cluster = cluster({"durability": "buffered", **edit})
    made = world.plan()
    assert field in [refusal.field for refusal in made.refusals]
    assert any(reason in refusal.reason for refusal in made.refusals)
    assert made.settled, "the rest of a refused edit must not be carried out"
    assert made.cluster == old
    world.change(B, running=False, status=None)
    assert world.plan().steps[-2:] == (StartNode(B), AwaitReady((B,))), "the cluster lives on"


def test_a_first_manifest_that_cannot_be_carried_out_starts_nothing() -> None:
    made = World(cluster({"security": {"tls": {"mode": "Operator"}}})).plan()
    assert kinds(made) == ["Refused"]
    assert not made.act


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"replicas": 2, "quorum": {"replication": 2}}, "spec.quorum.replication"),
        ({"ring": {"partitions": 16}}, "spec.ring.partitions"),
        ({"replicas": 3, "zones": ["a", "b", "c"]}, "spec.zones"),
    ],
)
def test_the_ring_alone_is_enough_to_refuse(edit: Any, field: str) -> None:
    observed = replace(settled().observed(), accepted=None)
    assert field in [refusal.field for refusal in refused(cluster(edit), observed)]


def test_until_a_ring_is_decided_every_field_may_change() -> None:
    world = World(cluster())
    world.settle(steps_max=4)
    world.cluster = cluster({"replicas": 4, "ring": {"partitions": 16}})
    world.settle()
    assert world.ring is not None
    assert (len(world.ring.members), world.ring.partitions) == (4, 16)


@pytest.mark.parametrize(
    ("edit", "tells"), [({"paused": True}, False), ({"dryRun": True, "quorum": {"r": 1}}, True)]
)
def test_paused_and_dry_run_act_on_nothing(edit: Any, tells: bool) -> None:
    world = settled()
    world.cluster = cluster(edit)
    world.change(B, running=False, status=None)
    made = world.plan()
    assert not made.act
    assert bool(made.steps) is tells


def test_every_step_can_be_told_to_people() -> None:
    for step in [
        *World(cluster()).plan().steps,
        RestartNode(A),
        Blocked("why"),
        AdoptRing(A, 1, ID),
    ]:
        assert str(step)
        assert "(" not in str(step).replace("(s)", "")
