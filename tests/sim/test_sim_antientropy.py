"""Anti-entropy on virtual time: what it says, under which round, and from which trees."""

from typing import Any

import pytest
from tests.sim import run as whole_run
from tests.sim.replicas import OFTEN, blind, replicas
from tests.sim.world import World

from dynamo_core import antientropy, exchange, merkle, records
from dynamo_core.ring import position
from dynamo_core.rounds import Kept, Listed
from dynamo_core.wire import Code, Type
from dynamo_node import repairs, trees
from dynamo_node.digests import leaf_of, partition_range
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
