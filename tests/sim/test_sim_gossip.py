"""Membership and failure detection on virtual time: partitions, lag, restarts in every order."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from random import Random
from typing import Any

import pytest
from tests.sim.shape import Shape
from tests.sim.world import CLUSTER_ID, Machine, World

from dynamo_core.admission import SHARE_FIRST
from dynamo_core.placement import Candidate, next_ring
from dynamo_core.ring import Ring
from dynamo_node.cluster_view import cluster_view
from dynamo_node.node import Node


@contextmanager
def _world(seed: int, nodes: int) -> Iterator[World]:
    world = World(seed, Shape(nodes=nodes))
    try:
        world.form()
        world.run_for(3.0)
        yield world
    finally:
        world.close()


def _node(world: World, at: int) -> Node:
    node = world.machines[at].node
    assert node is not None
    return node


def _row(world: World, at: int, of: int) -> dict[str, Any]:
    """What node `at` shows of node `of` in its `/cluster`."""
    name = world.machines[of].name
    [row] = [n for n in cluster_view(_node(world, at))["nodes"] if n["name"] == name]
    return row


def _states(world: World, at: int) -> list[str]:
    return [_row(world, at, of)["state"] for of in range(len(world.machines))]


def _block(world: World, source: int, target: int, blocked: bool = True) -> None:
    world.block(world.machines[source].name, world.machines[target].name, blocked)


def _all_see(world: World, states: list[str]) -> bool:
    return all(_states(world, at) == states for at in range(len(world.machines)))


# Partitions


@pytest.mark.parametrize("both_ways", [True, False])
def test_who_is_reached_by_others_is_suspect_and_not_down(both_ways: bool) -> None:
    # A reaches B and not C; B reaches everybody. One way is enough: no answer comes either.
    with _world(1, 3) as world:
        _block(world, 0, 2)
        if both_ways:
            _block(world, 2, 0)
        world.run_until(lambda: not _node(world, 0).topology.links[3].healthy, 3.0)
        world.run_for(20.0)
        assert _states(world, 0) == ["up", "up", "suspect"]
        assert _states(world, 2) == ["suspect", "up", "up"]
        assert _states(world, 1) == ["up", "up", "up"], "its own links are what B believes"
        # What each says still reaches the other, through B.
        world.machines[2].free_bytes = 0
        world.run_until(lambda: _row(world, 0, 2)["read_only"], 15.0)
        _block(world, 0, 2, False)
        _block(world, 2, 0, False)
        world.run_until(lambda: _all_see(world, ["up"] * 3), 10.0)


def test_who_is_cut_off_from_all_is_down_for_them_and_they_for_it() -> None:
    with _world(2, 5) as world:
        for other in range(4):
            # Alive and suspected by everybody: what it says arrives, and no answer gets back.
            _block(world, other, 4)
        world.run_for(25.0)
        for at in range(4):
            assert _states(world, at) == ["up"] * 4 + ["down"]
        assert _states(world, 4) == ["down"] * 4 + ["up"]
        assert _node(world, 4).ready, "readiness never depends on peers"
        for other in range(4):
            _block(world, other, 4, False)
        world.run_until(lambda: _all_see(world, ["up"] * 5), 10.0)


def test_two_halves_find_together_again() -> None:
    with _world(3, 5) as world:
        for one in (0, 1):
            for other in (2, 3, 4):
                _block(world, one, other)
                _block(world, other, one)
        world.run_for(25.0)
        assert _states(world, 0) == ["up", "up", "down", "down", "down"]
        assert _states(world, 4) == ["down", "down", "up", "up", "up"]
        for one in (0, 1):
            for other in (2, 3, 4):
                _block(world, one, other, False)
                _block(world, other, one, False)
        world.run_until(lambda: _all_see(world, ["up"] * 5), 10.0)


def test_a_disk_that_is_recovering_is_shown_as_such_by_others() -> None:
    with _world(10, 3) as world:
        victim = world.machines[2]
        world.crash(victim, power=True)
        victim.disk.wipe()
        _block(world, 1, 2)  # one of the copies that it needs can't be had
        world.start(victim)
        world.run_until(lambda: _states(world, 0) == ["up", "up", "recovering"], 15.0)
        assert _row(world, 0, 2)["partitions_recovering"] == 16
        world.run_until(lambda: _states(world, 1)[2] == "suspect", 15.0)
        _block(world, 1, 2, False)
        world.run_until(lambda: _all_see(world, ["up"] * 3), 20.0)
        world.run_until(lambda: not _row(world, 0, 2)["partitions_recovering"], 20.0)


# Lag


@pytest.mark.parametrize("seed", range(6))  # the backlog is run in both orders
def test_a_loop_that_lagged_doubts_itself_and_accuses_nobody(seed: int) -> None:
    with _world(seed, 5) as world:
        stalled = _node(world, 0)
        accused: set[int] = set()
        for number, link in stalled.topology.links.items():
            link._suspected = lambda now, number=number: accused.add(number)  # type: ignore[method-assign, misc]
        for seconds in (0.9, 3.0, 7.0):
            world.stall(world.machines[0], seconds)
            world.run_for(seconds - 0.1)
            # The others are right to suspect it meanwhile: idle ones are pinged each second.
            assert seconds < 2.0 or not _node(world, 1).topology.links[1].healthy
            world.run_for(10.0)
            assert not accused
            assert _all_see(world, ["up"] * 5)


def test_a_loop_that_is_always_a_little_late_accuses_nobody() -> None:
    with _world(7, 3) as world:
        stalled = _node(world, 0)
        accused: set[int] = set()
        for number, link in stalled.topology.links.items():
            link._suspected = lambda now, number=number: accused.add(number)  # type: ignore[method-assign, misc]
        for _ in range(40):
            world.stall(world.machines[0], 0.7)
            world.run_for(0.71)
        assert not accused


# Flapping, power cuts


def test_a_link_that_flaps_settles() -> None:
    with _world(4, 3) as world:
        rng = Random(4)
        for _ in range(60):
            _block(world, 0, 2, rng.random() < 0.6)
            world.run_for(rng.uniform(0.2, 3.0))
        _block(world, 0, 2, False)
        world.run_until(lambda: _all_see(world, ["up"] * 3), 12.0)
        figures = [len(_node(world, at).gossip.membership.events()) for at in range(3)]
        assert figures == [6, 6, 6], "a flapping link enters nothing into the history"


def test_a_peer_that_comes_back_again_and_again_holds_one_connection_here() -> None:
    with _world(5, 3) as world:
        victim = world.machines[2]
        for _ in range(5):
            # Dark: the others are never told that its connections are no more.
            world.crash(victim, power=True)
            world.run_for(1.0)
            world.start(victim)
            world.run_until(world.all_ready, 20.0)
            world.run_until(world.all_linked, 20.0)
        for at in (0, 1):
            process = world.machines[at].process
            assert process is not None
            assert len(process.connections) == 2, "one of each peer"


# Incarnations


def _restarted(world: World, machine: Machine) -> Node:
    world.stop(machine)
    world.run_until(lambda: machine.process is None, 10.0)
    world.start(machine)
    world.run_until(lambda: machine.node is not None and machine.node.ready, 10.0)
    assert machine.node is not None
    return machine.node


def test_peers_whose_disks_are_slow_confirm_an_incarnation_all_the_same() -> None:
    with _world(6, 3) as world:
        first = _node(world, 0).incarnation
        for machine in world.machines[1:]:
            machine.disk.temper.slowness = 700.0  # 1.05 s for a sync, and one may be going on
        assert _restarted(world, world.machines[0]).incarnation == first


def test_a_peer_that_is_not_there_costs_a_new_incarnation_and_a_short_wait() -> None:
    with _world(6, 3) as world:
        first = _node(world, 0).incarnation
        world.crash(world.machines[1], power=True)
        began = world.now
        assert _restarted(world, world.machines[0]).incarnation != first
        assert world.now - began < 3.0


# Handoff's pace


def test_who_is_just_back_is_spared_until_it_has_told_what_it_can_take() -> None:
    with _world(9, 5) as world:
        back = world.machines[4]
        for machine in world.machines[:4]:
            node = machine.node
            assert node is not None
            node.slices.admission.share = 0.9
        assert back.node is not None
        back.node.slices.admission.share = 0.9
        world.run_until(lambda: _node(world, 0).gossip.spared(5) > 0.8, 15.0)
        world.crash(back, power=False)
        assert world.ring is not None
        owned = next(p for p, owners in enumerate(world.ring.slots) if 5 in owners)
        for machine in world.machines[1:4]:
            node, process = machine.node, machine.process
            assert node is not None
            assert process is not None
            mark = node.replica.hints.mark
            world.scheduler.soon(process.loop, lambda mark=mark: mark(5, owned), ())
        world.run_for(15.0)  # all know who keeps something
        world.start(back)
        link = _node(world, 0).topology.links[5]
        world.run_until(lambda: link.up, 5.0)
        # 0.9 is what it told before it fell; now four of them would come at once.
        assert _node(world, 0).gossip.spared(5) == pytest.approx(SHARE_FIRST / 4)


# Rings


def _candidates(world: World) -> list[Candidate]:
    assert world.ring is not None
    return [
        Candidate(m.name, m.zone, m.capacity, m.host, m.http_port, m.native_port, m.admin_port,
                  m.disk_id)
        for m in world.ring.members
    ]  # fmt: skip


def _next(world: World, at: str) -> Ring:
    assert world.ring is not None
    ring = next_ring(world.ring, _candidates(world), at)
    assert ring.cluster_id == CLUSTER_ID.hex()
    return ring


def _post(world: World, at: int, ring: Ring) -> None:
    machine = world.machines[at]
    node, process = machine.node, machine.process
    assert node is not None
    assert process is not None
    world.scheduler.soon(process.loop, lambda: process.loop.create_task(node.rings.post(ring)), ())
    world.run_until(lambda: node.topology.ring is not None and node.topology.ring.id == ring.id, 5)


def _one_ring(world: World, ring: Ring) -> bool:
    held = [None if m.node is None else m.node.topology.ring for m in world.machines]
    return all(found is not None and found.id == ring.id for found in held)


@pytest.mark.parametrize("nodes", [3, 4])
def test_no_split_ring_whatever_the_order_of_restarts(nodes: int) -> None:
    """A new ring has reached one node; one disk was lost, another is from before the new ring.

    Then all are restarted, in every order, those behind first or last.
    """
    for order in permutations(range(nodes)):
        with _world(sum(n * 7**i for i, n in enumerate(order)), nodes) as world:
            stale = {m.name: m.disk.snapshot() for m in world.machines}
            ring = _next(world, "2026-01-02T00:00:00Z")
            for other in range(nodes):
                if other != order[1]:
                    _block(world, order[1], other)
                    _block(world, other, order[1])
            _post(world, order[1], ring)
            for machine in world.machines:
                world.crash(machine, power=True)
            world.machines[order[0]].disk.wipe()
            last = world.machines[order[-1]]
            last.disk.roll_back(stale[last.name])
            for link in world.net.links():
                link.blocked = False
            for at in order:
                world.start(world.machines[at])
                world.run_for(0.7)
            world.run_until(lambda ring=ring: _one_ring(world, ring), 15.0)
            # And all know the same history, above whatever a lost disk has forgotten.
            world.run_until(lambda: len({_node(world, n).gossip.membership.digest
                                         for n in range(nodes)}) == 1, 20.0)  # fmt: skip
            told = {
                tuple(
                    None if (f := _node(world, n).gossip.facts(m + 1)) is None else f.incarnation
                    for m in range(nodes)
                )
                for n in range(nodes)
            }
            assert told == {tuple(_node(world, n).incarnation for n in range(nodes))}


def test_of_two_rings_with_one_epoch_everybody_takes_the_same() -> None:
    for order in permutations(range(3)):
        with _world(8, 3) as world:
            rings = [_next(world, f"2026-01-0{day}T00:00:00Z") for day in (2, 3)]
            for at in (0, 1):
                for other in range(3):
                    if other != at:
                        _block(world, at, other)
                        _block(world, other, at)
            _post(world, 0, rings[0])
            _post(world, 1, rings[1])
            for machine in world.machines:
                world.crash(machine, power=False)
            for link in world.net.links():
                link.blocked = False
            for at in order:
                world.start(world.machines[at])
                world.run_for(1.0)
            higher = max(rings, key=lambda ring: ring.id)
            world.run_until(lambda higher=higher: _one_ring(world, higher), 15.0)
