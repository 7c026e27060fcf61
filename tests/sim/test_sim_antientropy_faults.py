"""Anti-entropy when rings, rows, disks and peers change in the middle of a round."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.replicas import blind, replicas

from dynamo_core import exchange
from dynamo_core.ring import Ring, position
from dynamo_core.slots import Row
from dynamo_node import repairs
from dynamo_node.opening import StorageError


def _next_ring(ring: Ring, **changed: Any) -> Ring:
    return replace(ring, epoch=ring.epoch + 1, parent=ring.id, **changed)


def test_a_ring_that_comes_in_mid_round_doesnt_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring says who shall hold what: what two nodes hold, they can compare."""
    with replicas() as play:
        a, b = play.owners[:2]
        keys = [b"k%d" % n for n in range(60)]
        for key in keys:
            play.merge(b, key, blind(1))
        ring = a.node.topology.ring  # type: ignore[union-attr]
        assert ring is not None
        newer = _next_ring(ring)
        repair = repairs.Repairs._repair
        posted: list[Any] = []

        async def then_a_ring(self: Any, *args: Any) -> Any:
            if not posted:
                posted.append(await a.node.rings.post(newer))  # type: ignore[union-attr]
            return await repair(self, *args)

        monkeypatch.setattr(repairs.Repairs, "_repair", then_a_ring)
        tally = play.compare(a, b)
        assert posted
        assert tally.received == len(keys)
        assert not tally.moved
        assert all(play.held(a, key) == blind(1) for key in keys)
        assert not play.compare(a, b).differing


def _later(row: Row, holder: int) -> Row:
    """The same holders; this one has claimed its slot anew."""
    return tuple(token.claimed(holder) if token.holder == holder else token for token in row)


@pytest.mark.parametrize("who", ["the asker", "the peer", "both"])
def test_a_slot_that_moves_in_mid_round_ends_its_partition_alone(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a long transfer that happens every second: the other partitions go on."""
    with replicas() as play:
        a, b, c = play.owners
        assert a.node is not None
        equal, candidates = 15, [b"k%d" % n for n in range(200)]
        of = {key: a.node.replica.partition_of(position(key)) for key in candidates}
        keys = [key for key in candidates if of[key] != equal]
        for key in keys:
            play.merge(b, key, blind(1))
        moving = min(of.values())
        third = c.node.topology.number  # type: ignore[union-attr]
        row = _later(a.node.topology.row(moving), third)
        play.kill(c)  # else it would claim what it is said to hold
        repair = repairs.Repairs._repair
        moved: list[None] = []

        async def then_it_moves(self: Any, partition: int, listed: Any) -> Any:
            if partition == moving and not moved:
                moved.append(None)
                for machine in {"the asker": (a,), "the peer": (b,), "both": (a, b)}[who]:
                    assert machine.process is not None
                    custodies = machine.node.custodies  # type: ignore[union-attr]
                    for p in (moving, equal):
                        later = row if p == moving else _later(custodies.table.row(p), third)
                        machine.process.loop.call_soon(custodies.learn, p, later)
                await asyncio.sleep(0.05)
            return await repair(self, partition, listed)

        monkeypatch.setattr(repairs.Repairs, "_repair", then_it_moves)
        tally = play.compare(a, b)
        assert moved
        # What was equal before the peer heard of that was equal.
        assert tally.moved == ({moving} if who == "the peer" else {moving, equal})
        assert not tally.agreed & tally.moved
        for key in keys:
            assert (play.held(a, key) is None) == (of[key] == moving)
        tally = play.compare(a, b)  # both know it by now, or tell each other first
        assert not tally.moved
        assert all(play.held(a, key) == blind(1) for key in keys)


def test_a_disk_that_fails_before_a_round_has_begun_only_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        assert a.node is not None

        async def fails() -> None:
            raise StorageError("while fdatasync")

        monkeypatch.setattr(a.node.custodies, "durable", fails)
        assert isinstance(play.compare(a, b), repairs.Ended)


def test_who_knows_less_learns_it_and_is_compared_with() -> None:
    with replicas() as play:
        a, b, c = play.owners
        assert a.node is not None
        assert b.node is not None
        keys = [b"k%d" % n for n in range(60)]
        for key in keys:
            play.merge(b, key, blind(1))
        number = c.node.topology.number  # type: ignore[union-attr]
        play.kill(c)  # else it would claim what it is said to hold
        for machine, partitions in ((a, range(4)), (b, range(4, 9))):
            for p in partitions:
                play.learn(machine, p, _later(a.node.topology.row(p), number))
        assert a.node.topology.table.root() != b.node.topology.table.root()  # type: ignore[union-attr]
        tally = play.compare(a, b)
        assert not tally.moved
        assert a.node.topology.table.root() == b.node.topology.table.root()  # type: ignore[union-attr]
        assert all(play.held(a, key) == blind(1) for key in keys)


def test_what_two_nodes_share_follows_who_holds_what() -> None:
    """Not the ring, and whatever changes; both sides reckon the same."""
    with replicas(4) as play:
        a, b = play.owners[:2]
        new = play.others[0]
        nodes: list[Any] = [m.node for m in (a, b, new)]
        p = play.partition
        first, second, third = (n.topology.number for n in nodes)

        def shared(at: int, number: int) -> bool:
            found = nodes[at].antientropy.shared(number)
            assert found == sorted(set(found))
            return p in found

        assert shared(0, second)
        assert not shared(0, third)
        row = play.takes_over(new, a, p)
        for machine in (a, b):
            play.learn(machine, p, row)
        assert not shared(0, second)
        assert not shared(1, first)
        assert shared(1, third)
        assert shared(2, second)


def test_who_has_a_slot_by_the_row_alone_vouches_for_nothing_and_gets_nothing() -> None:
    """It was nominated, or its disk is lost: it has to claim its slot first."""
    with replicas() as play:
        a, b = play.owners[:2]
        assert a.node is not None
        assert b.node is not None
        play.merge(a, play.key, blind(1))
        b.node.recovery.claims._needed = lambda partition: 99  # type: ignore[method-assign]
        custody = b.node.custodies.of(play.partition)
        custody.held.clear()
        custody._put()
        assert play.partition in b.node.topology.owned
        assert not b.node.antientropy.view.counts(play.partition)
        a.node.replica.hints.mark(b.node.topology.number, play.partition)
        for one, other in ((a, b), (b, a)):
            tally = play.compare(one, other)
            assert play.partition not in tally.agreed
        assert a.node.replica.hints.marks()
        assert play.held(b, play.key) is None
        assert not b.node.replica.hints.by_target, "nor is anything kept as a hint for itself"


@pytest.mark.parametrize("whose", [0, 2])
def test_what_was_fetched_under_another_row_is_not_merged(
    whose: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot may have gone elsewhere, so that a copy here would be nobody's."""
    with replicas(4) as play:
        a, b = play.owners[:2]
        assert a.node is not None
        play.merge(b, play.key, blind(1))
        former, new = (
            m.node.topology.number  # type: ignore[union-attr]
            for m in (play.owners[whose], play.others[0])
        )
        row = tuple(
            token.handed_to(new) if token.holder == former else token
            for token in a.node.topology.row(play.partition)
        )
        unpack = exchange.unpack_fetched

        def then_it_moves(payload: bytes) -> Any:
            a.node.custodies.learn(play.partition, row)  # type: ignore[union-attr]
            return unpack(payload)

        monkeypatch.setattr(repairs.exchange, "unpack_fetched", then_it_moves)
        tally = play.compare(a, b)
        assert tally.moved == {play.partition}
        assert play.held(a, play.key) is None


@pytest.mark.parametrize("step", ["_page", "_repair", "_send_back", "_write"])
def test_a_peer_that_dies_in_mid_round_costs_nothing_but_the_round(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        keys = [b"k%d" % n for n in range(40)]
        for at, key in enumerate(keys):
            play.merge((a, b)[at % 2], key, blind(1))
        real = getattr(repairs.Repairs, step)
        died: list[None] = []

        async def dies(self: Any, *args: Any) -> Any:
            if not died:
                died.append(None)
                play.world.crash(b, power=True)
            return await real(self, *args)

        monkeypatch.setattr(repairs.Repairs, step, dies)
        ended = play.compare(a, b)
        assert died
        assert isinstance(ended, repairs.Ended)
        play.start(b)
        play.world.run_until(play.world.all_linked, 30.0)
        for _ in range(3):
            play.compare(a, b)
        for key in keys:
            assert play.held(a, key) == play.held(b, key) == blind(1)
        assert not play.compare(b, a).differing


def test_a_peer_that_answers_nonsense_is_said_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        play.merge(b, play.key, blind(1))
        monkeypatch.setattr(exchange, "pack_leaves", lambda leaves, more: b"\x01")
        assert isinstance(play.compare(a, b), repairs.Ended)
        last = a.node.antientropy.last[b.node.topology.number]  # type: ignore[union-attr]
        assert "list of keys" in last["outcome"]
        report = play.do(a, a.node.antientropy.repair())  # type: ignore[union-attr]
        assert b.name in report["failed"]
