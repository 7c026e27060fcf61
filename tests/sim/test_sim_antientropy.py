"""Anti-entropy on virtual time: what it says, to whom it turns, and when it is quiet."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.sim import run as whole_run
from tests.sim.replicas import OFTEN, blind, replicas
from tests.sim.world import World

from dynamo_core import antientropy, exchange, merkle, records, recovery
from dynamo_core.admission import Admission
from dynamo_core.ring import Ring, position
from dynamo_core.rounds import Kept, Listed
from dynamo_core.slots import Row
from dynamo_core.wire import Code, Type
from dynamo_node import comparison, repairs, trees
from dynamo_node.antientropy import AntiEntropy
from dynamo_node.digests import leaf_of, partition_range
from dynamo_node.opening import StorageError
from dynamo_node.storage import OBJECTS, TREES

# What is said only about fsynced state


@pytest.mark.parametrize("kind", [Type.SEGMENTS, Type.FETCH, Type.TREE])
def test_what_an_answer_tells_is_fsynced(kind: Type) -> None:
    """A mark is cleared, and a hint's copy with it, on the word of any of them."""
    with replicas() as play:
        a, b = play.owners[:2]
        assert b.node is not None
        ring = b.node.topology.ring
        assert ring is not None
        partition = ring.partition_of(position(play.key))
        shared = b.node.antientropy.shared(a.node.topology.number)  # type: ignore[union-attr]
        b.disk.temper.slowness = 500.0
        play.merge(b, play.key, blind(1), wait=False)
        payload = {
            Type.SEGMENTS: exchange.pack_list(partition, *partition_range(ring, partition)),
            Type.FETCH: exchange.pack_fetch(partition, [play.key]),
            Type.TREE: next(antientropy.find(b.node.antientropy.view, shared)) or b"",
        }[kind]

        def unsynced() -> bool:
            # Gossip goes on meanwhile and may wait for an fsync of its own.
            return any("objects" in batch for batch in b.disk.unsynced)

        assert unsynced()
        got, reply = play.ask(a, b, kind, payload)
        assert got == kind + 1
        assert not unsynced(), "it was said before it was fsynced"
        if kind == Type.SEGMENTS:
            assert len(exchange.unpack_leaves(reply)[0]) == 1
        elif kind == Type.FETCH:
            assert exchange.unpack_fetched(reply)[0].obj == blind(1)


# Rounds


def test_nothing_read_before_a_promise_is_sent_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        assert a.node is not None
        partition = a.node.replica.partition_of(position(play.key))
        play.merge(a, play.key, blind(1))
        pack, promised = repairs.wire.pack_write, []

        def packed(*args: Any) -> bytes:
            if not promised:  # it has been read; then this node says yes to a round
                promised.append(a.node.replica.rounds.promise(partition, 1))  # type: ignore[union-attr]
            return pack(*args)

        monkeypatch.setattr(repairs.wire, "pack_write", packed)
        play.compare(a, b)
        assert promised == [True]
        assert play.held(b, play.key) is None, "bytes of before the promise went out after it"
        play.compare(a, b)
        assert play.held(b, play.key) == blind(1)


def test_nothing_is_given_that_was_read_before_a_promise() -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        assert b.node is not None
        partition = b.node.replica.partition_of(position(play.key))
        play.merge(b, play.key, blind(1))
        b.disk.temper.slowness = 500.0
        play.merge(b, b"other", blind(1), wait=False)  # keeps the answer waiting for the disk
        world = play.world
        world.scheduler.at(
            world.now + 0.1, b.process.loop,  # type: ignore[union-attr]
            b.node.replica.rounds.promise, partition, 1,
        )  # fmt: skip
        got, reply = play.ask(a, b, Type.FETCH, exchange.pack_fetch(partition, [play.key]))
        assert got == Type.ERROR
        assert reply[0] == Code.OVERLOADED


def test_a_key_that_lives_again_is_repaired_while_its_reaped_list_is_kept() -> None:
    """An owner that died before its COMMIT may be away for days; the others go on."""
    with replicas() as play:
        a, b, c = play.owners
        assert a.node is not None
        play.kill(c)
        partition = a.node.replica.partition_of(position(play.key))
        place = position(play.key) + play.key
        tombstone = blind(1, None)
        kept = Kept(
            1,
            a.node.topology.name,
            (99,),
            (Listed(place, leaf_of(place, tombstone) or b""),),
        )
        for machine in (a, b):
            assert machine.node is not None
            machine.node.replica.rounds.promise(partition, 1)
            machine.node.replica.rounds.commit(partition, kept)
        assert a.process is not None
        play.world.scheduler.soon(
            a.process.loop, a.node.replica.merge,
            (play.key, position(play.key), blind(2), 1, lambda error: None),
        )  # fmt: skip
        play.world.run_for(1.0)
        number = b.node.topology.number  # type: ignore[union-attr]
        a.node.replica.hints.mark(number, partition)
        tally = play.compare(a, b)
        assert play.held(b, play.key) == blind(2), "the mark says that b lacks it"
        assert tally.sent == 1
        assert not a.node.replica.hints.marks()


def test_what_was_reaped_is_not_copied_back_and_clears_no_mark_by_mistake() -> None:
    with replicas() as play:
        a, b, c = play.owners
        assert a.node is not None
        assert b.node is not None
        play.kill(c)
        partition = a.node.replica.partition_of(position(play.key))
        place = position(play.key) + play.key
        tombstone = blind(1, None)
        play.merge(b, play.key, tombstone)  # b has still to carry it out
        kept = Kept(
            1, a.node.topology.name, (99,), (Listed(place, leaf_of(place, tombstone) or b""),)
        )
        for machine in (a, b):
            assert machine.node is not None
            machine.node.replica.rounds.promise(partition, 1)
            machine.node.replica.rounds.commit(partition, kept)
        play.compare(a, b)
        play.compare(b, a)
        assert play.held(a, play.key) is None
        assert play.held(b, play.key) == tombstone


# Faults in the middle


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
    return tuple(token.claimed() if token.holder == holder else token for token in row)


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


# Whose turn it is


def test_a_mark_that_stays_starves_no_other_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicas(5) as play:
        me = play.world.machines[0].node
        assert me is not None
        peers = sorted(n for n in me.topology.links if me.antientropy.shared(n))
        assert len(peers) == 4
        me.replica.hints.mark(peers[-1], me.antientropy.shared(peers[-1])[0])
        turns: list[int] = []

        async def compare(self: AntiEntropy, number: int, *args: Any) -> Any:
            turns.append(number)
            self.rounds_total += 1
            raise repairs.Ended("not today")

        monkeypatch.setattr(AntiEntropy, "_compare", compare)
        for _ in range(12):
            play.do(play.world.machines[0], me.antientropy._turn())
        assert set(turns) == {*peers}
        assert turns.count(peers[-1]) >= 6


def test_partitions_that_never_settle_starve_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        node = a.node
        assert node is not None
        keys = [b"k%d" % n for n in range(200)]
        for key in keys:
            play.merge(b, key, blind(1))
        shared = node.antientropy.shared(b.node.topology.number)  # type: ignore[union-attr]
        first = [k for k in keys if node.replica.partition_of(position(k)) == shared[0]]
        assert 0 < len(first) < len(keys)
        verdict = exchange.verdict

        def moving(listed: Any, *args: Any) -> Any:
            if node.replica.partition_of(listed.place) == shared[0]:
                return exchange.Verdict.MOVING
            return verdict(listed, *args)

        monkeypatch.setattr(repairs.exchange, "verdict", moving)
        monkeypatch.setattr(comparison, "CHUNK", 1)

        async def a_little() -> None:
            # A budget that the first partition alone uses up.
            await node.antientropy._compare(b.node.topology.number, shared, 300)  # type: ignore[union-attr]

        for _ in range(2 * len(shared)):
            play.do(a, a_little())
        missing = [k for k in keys if play.held(a, k) is None]
        assert missing == first


# Disks that take nothing


@pytest.mark.parametrize("full", [0, 1])
def test_a_full_disk_makes_anti_entropy_quiet_and_space_makes_it_go_on(full: int) -> None:
    with replicas(timing=OFTEN) as play:
        a, b = play.owners[:2]
        play.kill(play.owners[2])
        keys = [b"k%d" % n for n in range(100)]
        (a, b)[full].free_bytes = 1 << 10
        play.world.run_for(3.0)
        for key in keys:
            play.merge((b, a)[full], key, blind(1, b"x" * 5000))
        play.world.run_for(5.0)
        sent = play.world.net.sent[Type.FETCH] + play.world.net.sent[Type.WRITE]
        play.world.run_for(60.0)
        more = play.world.net.sent[Type.FETCH] + play.world.net.sent[Type.WRITE] - sent
        assert more <= 40, "it goes on in vain"
        told = {
            one.node.antientropy.last[other.node.topology.number]["outcome"]  # type: ignore[union-attr]
            for one, other in ((a, b), (b, a))
        }
        assert told == {"this node's disk is full", "its disk is full"}
        (a, b)[full].free_bytes = 1 << 40
        play.world.run_for(90.0)
        assert all(play.held(a, key) == play.held(b, key) for key in keys)


# The share of background work


def test_a_storm_of_questions_keeps_to_the_share_of_who_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with replicas(5) as play:
        b = play.owners[0]
        node = b.node
        assert node is not None
        ring = node.topology.ring
        assert ring is not None
        play.merge(b, play.key, blind(1))
        monkeypatch.setattr(Admission, "decide", lambda self, now, used_s: self.share)
        node.slices.admission.share = 0.05
        partition = node.replica.partition_of(position(play.key))
        row = node.topology.digest(partition)
        payload = row + exchange.pack_list(partition, *partition_range(ring, partition))
        answered: list[int] = []

        async def asks(asker: Any, number: int) -> None:
            while True:
                kind, _ = await asker.topology.links[number].ask(Type.SEGMENTS, payload, 10.0)
                answered.append(kind)
                await asyncio.sleep(0.01)

        for asker in play.owners[1:]:
            for _ in range(12):
                loop = asker.process.loop  # type: ignore[union-attr]
                work = asks(asker.node, node.topology.number)
                play.world.scheduler.soon(loop, loop.create_task, (work,))
        began, used_s = play.world.now, node.slices.facts()["used_seconds"].get("repair", 0.0)
        play.world.run_for(6.0)
        used_s = node.slices.facts()["used_seconds"]["repair"] - used_s
        assert 0 < used_s / (play.world.now - began) <= 0.06
        assert answered.count(Type.SEGMENTS_REPLY) > 10
        assert Type.ERROR in answered, "more than so many at once are told to come again"


def test_pages_for_recovering_owners_keep_to_the_share_and_shrink_when_many_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with replicas() as play:
        b = play.owners[0]
        node = b.node
        assert node is not None
        partition = node.replica.partition_of(position(play.key))
        keys = [k for k in (b"k%d" % n for n in range(2000))
                if node.replica.partition_of(position(k)) == partition]  # fmt: skip
        for key in keys:
            play.merge(b, key, blind(1, bytes(30_000)))
        monkeypatch.setattr(Admission, "decide", lambda self, now, used_s: self.share)
        node.slices.admission.share = 0.05
        row = node.topology.digest(partition)
        payload = row + recovery.pack_ask(recovery.Ask(partition, b"", probe=False))
        pages: list[int] = []

        async def asks(asker: Any) -> None:
            while True:
                link = asker.topology.links[node.topology.number]
                kind, reply = await link.ask(Type.PAGE, payload, 10.0)
                assert kind == Type.PAGE_REPLY
                pages.append(len(reply))

        for asker in play.owners[1:]:
            for _ in range(8):
                loop = asker.process.loop  # type: ignore[union-attr]
                play.world.scheduler.soon(loop, loop.create_task, (asks(asker.node),))
        began = play.world.now
        play.world.run_for(20.0)
        used_s = node.slices.facts()["used_seconds"]["recovery"]
        assert 0 < used_s / (play.world.now - began) <= 0.06
        assert max(pages) > 1 << 20, "the first to ask is alone, if not the first to be answered"
        assert sorted(pages)[len(pages) // 2] < 1 << 18


def test_a_copy_that_is_deleted_while_it_is_read_is_not_told_as_a_whole_one() -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        node = b.node
        assert node is not None
        ring = node.topology.ring
        assert ring is not None
        partition = node.replica.partition_of(position(play.key))
        play.merge(b, play.key, blind(1))
        b.disk.temper.read_s = 0.5

        def delete() -> None:
            node.standing.emptied(partition)
            node.replica.empty(partition, *partition_range(ring, partition))

        play.world.scheduler.at(play.world.now + 0.01, b.process.loop, delete)  # type: ignore[union-attr]
        row = node.topology.digest(partition)
        payload = row + recovery.pack_ask(recovery.Ask(partition, b"", probe=False))
        kind, reply = play.ask(a, b, Type.PAGE, payload)
        assert kind == Type.ERROR, recovery.unpack_page(reply)


# Trees that are wrong


def test_a_segment_that_is_wrong_is_noticed_and_mended() -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        for machine in (a, b):
            for n in range(50):
                play.merge(machine, b"k%d" % n, blind(1))
        assert not play.compare(a, b).differing
        for machine in (a, b):
            assert machine.node is not None
            tree = machine.node.trees._of(3)  # another one wrote this, or a bit fell over
            tree.change(7, 12345 if machine is a else 777)
        tally = play.compare(a, b)
        assert tally.differing == 1
        assert (tally.sent, tally.received) == (0, 0)
        play.compare(b, a)  # each mends its own
        assert not play.compare(a, b).differing, "it differs for ever although no key does"


def test_a_key_that_a_wrong_tree_hides_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roots are equal, and the objects are not."""
    monkeypatch.setattr(trees, "SCRUB_SEGMENTS", 64)
    with replicas(timing=OFTEN) as play:
        a, b, c = play.owners
        keys = [b"k%d" % n for n in range(30)]
        for machine in (a, b, c):
            for key in keys:
                play.merge(machine, key, blind(1), wait=False)
        play.world.run_for(2.0)
        node = a.node
        assert node is not None
        lost = position(keys[7]) + keys[7]
        play.world.scheduler.soon(
            a.process.loop,
            node.disk.store.delete,
            (OBJECTS, lost),  # type: ignore[union-attr]
        )
        play.world.run_for(1.0)
        assert play.held(a, keys[7]) is None
        assert (
            len(
                {m.node.trees.root(p) for m in (a, b, c) for p in [node.replica.partition_of(lost)]}
            )
            == 1
        )  # type: ignore[union-attr]
        play.world.run_for(30.0)
        assert play.held(a, keys[7]) == blind(1)
        assert node.antientropy.mended_total == 1
        assert all(m.node.antientropy.mended_total == 0 for m in (b, c))  # type: ignore[union-attr]
        play.world.run_for(30.0)
        assert node.antientropy.mended_total == 1


@pytest.mark.parametrize("seed", range(900, 906))
def test_trees_are_their_objects_after_every_kind_of_fault(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power cuts at any moment, torn logs, failing disks: each batch is kept whole or not."""
    checked: list[str] = []

    def check(world: World, clients: Any) -> None:
        for machine in world.machines:
            node = machine.node
            assert node is not None
            ring = node.topology.ring
            assert ring is not None
            made = [merkle.Tree() for _ in range(ring.partitions)]
            for place, data in node.disk.store.scan(OBJECTS, b"", b"\xff" * 64, 10_000):
                at = merkle.index_of(place[:16], ring.partitions)
                leaf = leaf_of(place, records.object_of(data)) or b""
                made[at // merkle.SEGMENTS].add(at % merkle.SEGMENTS, leaf)
            for partition, tree in enumerate(made):
                assert node.trees.root(partition) == tree.root(), (machine.name, partition)
            checked.append(machine.name)

    monkeypatch.setattr(whole_run, "_record_copies", check)
    whole_run.run(seed)
    assert checked


def test_trees_that_were_lost_are_made_again() -> None:
    with replicas() as play:
        a, b = play.owners[:2]
        for machine in (a, b):
            for n in range(50):
                play.merge(machine, b"k%d" % n, blind(1))
        play.world.crash(a, power=False)
        a.disk.sync(len(a.disk.unsynced))
        a.disk.synced[TREES].clear()
        play.start(a)
        play.world.run_until(play.world.all_linked, 30.0)
        assert not play.compare(a, b).differing
