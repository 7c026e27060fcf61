"""Handover while machines fail, stop, fill up or talk nonsense."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
from tests.sim import handover_plays
from tests.sim.handover_plays import (
    Busy,
    busy,
    records_of,
    until_frame,
)
from tests.sim.play import PATIENCE_S, asked, played
from tests.sim.shape import Shape
from tests.sim.world import Machine

from dynamo_core import tenures
from dynamo_core.copies import COMPLETE
from dynamo_core.frames import Frame
from dynamo_core.handover_messages import (
    About,
    Covered,
    End,
    Offer,
    Pull,
    What,
    pack_covered,
    pack_offer,
    pack_pull,
    pack_seal,
)
from dynamo_core.slots import Row, Token
from dynamo_core.wire import Op, Type
from dynamo_node.config import Timing
from dynamo_node.service import Service
from dynamo_node.storage import META

watched = handover_plays.watched

SEEDS = range(3)

MOMENTS = (
    Type.PULL,
    Type.PULL_REPLY,
    Type.SEAL,
    Type.SEAL_REPLY,
    Type.ROWS,
    Type.ROWS_REPLY,
    Type.OFFER,
    Type.COVERED,
    Type.COVERED_REPLY,
)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("who", ["successor", "holder"])
def test_either_side_loses_power_at_any_moment(moment: Type, who: str) -> None:
    with busy(int(moment), over_s=4.0) as play:
        play.clients.run()
        play.world.run_for(0.5)
        (new,) = play.join()
        ring = play.ring_of(list(play.world.machines))
        play.post(ring, *play.world.machines)
        if not until_frame(play, moment):
            assert moment == Type.OFFER, "copies are mostly covered before they are offered"
        victim = new if who == "successor" else play.world.machines[0]
        play.kill(victim, power=True)
        play.start(victim)
        play.ends()


def test_a_holder_that_is_down_holds_up_nobody_else() -> None:
    with busy(4) as play:
        (new,) = play.join()
        down = play.world.machines[0]
        number = down.node.topology.number
        ring = play.ring_of(list(play.world.machines))
        play.kill(down)
        play.post(ring, *(m for m in play.world.machines if m is not down))
        node = new.node
        play.world.run_until(
            lambda: all(
                number in {m.source.holder for m in moves}
                for moves in node.transfers.moves().values()
            ),
            PATIENCE_S,
            lambda: str(node.transfers.moves()),
        )
        left = node.transfers.facts()
        assert left
        assert {t["from"] for t in left} == {down.name}
        assert {t["state"] for t in left} == {"waiting"}
        assert {t["stalled"] for t in left} == {f"{down.name} is down"}
        assert node.transfers.report()["left"]["partitions"] == len(left)
        play.start(down)
        play.ends()


def test_a_full_disk_stalls_and_says_so() -> None:
    with busy(5, over_s=1.0) as play:
        play.clients.run()
        play.world.run_for(1.5)
        (new,) = play.join()
        new.free_bytes = 0
        play.world.run_for(3.0)
        ring = play.ring_of(list(play.world.machines))
        play.post(ring, *play.world.machines)
        play.world.run_for(5.0)
        stalled = {t["stalled"] for t in new.node.transfers.facts()}
        assert "this node's disk is full; it takes no writes" in stalled, stalled
        new.free_bytes = 1 << 40
        play.ends()


@pytest.mark.parametrize("who", ["successor", "holder"])
def test_nodes_that_are_stopped_leave_no_slot_between_them(who: str) -> None:
    # A successor has the time of its drain; a holder that shuts down gives no seal any more.
    shape = Shape(keys=60, clients=6, operations=120, over_s=2.0)
    drain_ms = 200 if who == "successor" else 10
    play = Busy(7, 3, shape, timing=replace(Timing(), timeout_ms=2000, drain_ms=drain_ms))
    with closing(play.world):
        play.clients.run()
        play.world.run_for(1.0)
        (new,) = play.join()
        play.post(play.ring_of(list(play.world.machines)), *play.world.machines)
        stopped = new if who == "successor" else play.world.machines[0]
        assert until_frame(play, Type.SEAL, stopped if who == "holder" else None)
        play.world.stop(stopped)
        play.world.run_until(lambda: stopped.process is None, PATIENCE_S)
        for machine in play.world.machines if who == "successor" else [stopped]:
            on_disk = machine.disk.contents()[META]
            stored = [v for k, v in on_disk.items() if k.startswith(tenures.PREFIX)]
            assert not any(tenures.record_from_bytes(data).seals for data in stored)
        play.start(stopped)
        play.ends()


class _Caller:
    """Another node's connection, as the handlers see it."""

    def __init__(self, number: int) -> None:
        self.hello = SimpleNamespace(number=number)
        self.replies: list[int] = []

    def reply(self, request_id: int, kind: int, payload: bytes) -> None:
        self.replies.append(kind)


def test_nonsense_is_answered_and_changes_nothing() -> None:
    with played(3, 4) as play:
        machine, partition = play.owners[0], play.place.partition
        node, rng, caller = machine.node, Random(3), _Caller(play.owners[1].node.topology.number)
        play.put()
        row, digest = node.topology.row(partition), node.topology.digest(partition)
        before = records_of(play, machine)
        end = End(bytes(16), COMPLETE, None)

        def payloads() -> Iterator[tuple[Type, bytes]]:
            for slot in (0, 2, 3, 15):
                for token in (row[0], row[0].handed_to(9), Token(0, 0, 0)):
                    about = About(partition, slot, token, digest)
                    for what in What:
                        rest = rng.randbytes(rng.randrange(40))
                        yield Type.PULL, pack_pull(Pull(about, what, rest))
                    yield Type.SEAL, pack_seal(about)
                    for names in (True, False):
                        yield Type.OFFER, pack_offer(Offer(about, names, end))
                    for too_old in (True, False):
                        yield Type.COVERED, pack_covered(Covered(about, too_old, bytes(16), row))

        sent = 0

        def send() -> None:
            nonlocal sent
            service = Service(node)
            for kind, payload in payloads():
                cut = payload[: rng.randrange(len(payload))]
                for data in (payload, cut, payload + b"\x00"):
                    frame = Frame(kind, 0, 1, 1000, *node.topology.name, b"", data)
                    service.handle(caller, frame)
                    sent += 1

        machine.process.loop.call_soon(send)
        play.world.run_for(15.0)
        assert sent > 300
        assert len(caller.replies) == sent, "each is answered once"
        assert records_of(play, machine) == before
        assert node.topology.row(partition) == row
        assert not node.custodies.sealed()
        assert node.custodies.of(partition).pulling is None
        play.put(context=True)


def test_an_offer_is_taken_where_the_answer_about_the_seal_is_lost() -> None:
    with played(0, 4) as play:
        world, old, new = play.world, play.owners[0], play.others[0]
        partition = play.place.partition
        play.put()
        world.net.lost = frozenset({Type.SEAL_REPLY})
        play.post(play.ring_of([m for m in world.machines if m is not old]), *world.machines)
        world.run_until(lambda: bool(old.node.custodies.of(partition).seals), PATIENCE_S)
        sealed_at = world.now
        world.run_until(lambda: partition in new.node.topology.counting, PATIENCE_S)
        assert world.now - sealed_at < 2.5, "no longer than the question is waited for"
        world.net.lost = frozenset()
        play.until_settled()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slot_whose_holder_is_down_holds_up_no_other_of_its_partition(seed: int) -> None:
    with played(seed, 5) as play:
        world, partition = play.world, play.place.partition
        play.put()
        down, other = play.owners[:2]
        stay = [m for m in world.machines if m not in (down, other)]
        ring = play.ring_of(stay)
        play.kill(down)
        play.post(ring, *(m for m in world.machines if m is not down))
        number = {m.name: m.number for m in ring.leaving}
        at = stay[0].node.topology
        world.run_until(lambda: number[other.name] not in at.holders(partition), PATIENCE_S)
        assert number[down.name] in at.holders(partition)
        assert asked(play, stay[0], Op.GET).siblings
        play.start(down)
        play.until_settled()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tenure_that_is_not_fsynced_is_told_to_nobody(seed: int) -> None:
    # Seed 120000528: whoever asked under the row before was told the new one at once. The node
    # lost power before it had fsynced what it had taken; it then took its disk for a lost one,
    # emptied its copy, and claimed the slot from those who had nothing.
    with played(seed, 3, n=2, r=1, w=1) as play:
        world, partition = play.world, play.place.partition
        (old, other), (new,) = play.owners, play.others
        play.put()
        world.run_for(2.0)
        token = next(t for t in old.node.topology.row(partition) if t.holder == _number(old))
        play.kill(other)
        away = play.ring_of([m for m in world.machines if m is not old])
        topology = new.node.topology
        taken = token.handed_to(topology.number)

        def stand_still(changed: int, row: Row) -> None:
            if changed == partition and taken in row:
                new.disk.temper.slowness = 1e6

        new.node.custodies.on_row.append(stand_still)
        assert play.post(away, old, new) == [None] * 2
        world.run_until(lambda: taken in topology.row(partition), PATIENCE_S)
        asked(play, old, Op.GET)
        assert partition in topology.unsettled, "too late to see anything"
        assert taken not in old.node.topology.row(partition), "it may be forgotten yet"
        play.kill(new, power=True)
        new.disk.temper.slowness = 1.0
        play.start(new, other)
        counts = new.node.custodies.counts
        world.run_until(lambda: counts(partition), PATIENCE_S)
        assert taken in new.node.topology.row(partition)
        assert asked(play, new, Op.GET).siblings


def _number(machine: Machine) -> int:
    return machine.node.topology.number
