"""Anti-entropy and everybody else: whose turn it is, full disks, and the share it keeps to."""

import asyncio
from typing import Any

import pytest
from tests.sim.replicas import OFTEN, blind, replicas

from dynamo_core import exchange, recovery
from dynamo_core.admission import Admission
from dynamo_core.ring import position
from dynamo_core.wire import Type
from dynamo_node import comparison, repairs
from dynamo_node.antientropy import AntiEntropy
from dynamo_node.digests import partition_range

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
