"""Schedules in which members change, and more than one ring is about (docs/decisions/0012)."""

from random import Random
from typing import Any

import pytest
from tests.sim import publisher as publishing
from tests.sim.changes import Changes
from tests.sim.play import PATIENCE_S, Play, played
from tests.sim.publisher import Publisher, Wishes
from tests.sim.world import Machine

from dynamo_core.ring import Ring
from dynamo_core.slots import Token
from dynamo_core.tenures import Asked, Stage
from dynamo_core.wire import Op, Type
from dynamo_node.rings import RingConflictError
from dynamo_node.rows import Rows

SEEDS = range(3)


def _without(play: Play, *gone: Machine, after: Ring | None = None) -> Ring:
    return play.ring_of([m for m in play.world.machines if m not in gone], after)


def _holders(play: Play, at: Machine) -> tuple[int, ...]:
    assert at.node is not None
    return at.node.topology.holders(play.place.partition)


def _judged(play: Play) -> None:
    report = play.judged()
    assert not report.violations, "\n".join(map(str, report.violations))
    assert not report.unchecked


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_7_two_rings_of_one_epoch_posted_to_different_nodes(seed: int) -> None:
    with played(seed, 5) as play:
        first, second = play.owners[:2]
        play.put()
        one, other = _without(play, first), _without(play, second)
        assert one.epoch == other.epoch
        low, high = sorted((one, other), key=lambda ring: ring.name)
        parts = play.world.machines[:3], play.world.machines[3:]
        assert play.post(low, *parts[seed % 2]) == [None] * len(parts[seed % 2])
        for answer in play.post(high, *parts[1 - seed % 2]):
            assert answer is None or isinstance(answer, RingConflictError), answer
        for _ in range(4):
            play.put(context=True)
        if play.ring() is low:
            # Nobody has taken the higher one: gossip was faster than its publisher.
            assert all(isinstance(a, RingConflictError) for a in play.post(high, first))
        play.until_settled()
        assert play.ring().epoch == one.epoch
        # Its publisher is answered with what is held, and goes on from there.
        back = play.ring_of(list(play.world.machines))
        play.post(back, *play.world.machines)
        play.put(context=True)
        play.until_settled()
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_8_a_plan_from_an_ownership_that_has_changed_meanwhile(seed: int) -> None:
    # The first successor is cut off, so that some slots never moved when the next plan
    # takes it for their holder.
    with played(seed, 5) as play:
        first = play.owners[seed % 3]
        play.put()
        ring = _without(play, first)
        slots = ring.slots[play.place.partition]
        successor = next(m for m in play.others if m.node and m.node.topology.number in slots)
        play.cut_off([successor], noticed=False)
        play.post(ring, *(m for m in play.world.machines if m is not successor))
        for _ in range(3):
            play.put(context=True)
        believed = _without(play, first, successor, after=ring)
        moved = believed.slots[play.place.partition]
        assert not {*moved} & {first.node.topology.number, successor.node.topology.number}
        play.post(believed, *(m for m in play.world.machines if m is not successor))
        play.put(context=True)
        play.join_again([successor])
        play.until_settled()
        assert sorted(_holders(play, first)) == sorted(moved)
        _judged(play)


def _seal_and_cut(play: Play, successor: Machine) -> list[Any]:
    """Cut `successor` off when the seal of the key's partition is on its way to it."""
    world, seen = play.world, []

    def sent(source: str, target: str, frame: bytes) -> None:
        if frame[4] == Type.SEAL_REPLY and target == successor.name and not seen:
            holder = world.named(source)
            assert holder is not None
            assert holder.node is not None
            seals = holder.node.custodies.of(play.place.partition).seals
            if seals:
                seen.append(holder)
                for other in world.machines:
                    if other is not successor:
                        world.block(other.name, successor.name, True)
                        world.block(successor.name, other.name, True)

    world.net.on_frame = sent
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_21_a_seal_that_a_newer_plan_supersedes_is_carried_out(seed: int) -> None:
    with played(seed, 4) as play:
        leaver, successor = play.owners[seed % 3], play.others[0]
        play.put()
        sealed = _seal_and_cut(play, successor)
        play.post(_without(play, leaver), *play.world.machines)
        play.world.run_until(lambda: bool(sealed), PATIENCE_S)
        assert sealed == [leaver]
        # What is wanted now is what was before; the seal is given all the same.
        back = _without(play, successor)
        play.post(back, *(m for m in play.world.machines if m is not successor))
        play.put(context=True)
        play.world.run_for(5.0)
        custody = successor.node.custodies.of(play.place.partition)
        assert custody.pulling is None or custody.pulling.asked is not Asked.NO
        assert play.place.partition not in leaver.node.topology.counting, "sealed for good"
        play.join_again([successor])
        play.until_settled()
        row = leaver.node.topology.row(play.place.partition)
        assert max(token.number for token in row) == 2, f"there and back: {row}"
        assert leaver.node.topology.number in _holders(play, successor)
        assert play.ask(Op.GET).shown
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_given_up_node_gets_no_slot_back_under_the_ring_before(seed: int) -> None:
    # Seed 30220: the heir had heard of its nomination, by rows, before it got the ring.
    with played(seed, 4) as play:
        world, place = play.world, play.place.partition
        gone, heir = play.owners[seed % 3], play.others[0]
        play.put()
        world.run_for(1.0)
        number, node = gone.node.topology.number, heir.node
        ring = play.ring_of([m for m in world.machines if m is not gone], give_up=(number,))
        row = tuple(
            Token(ring.epoch, 0, node.topology.number) if token.holder == number else token
            for token in node.topology.row(place)
        )
        heir.process.loop.call_soon(node.custodies.learn, place, row)
        world.run_until(lambda: place in node.topology.counting, PATIENCE_S)
        world.run_for(5.0)
        assert node.topology.number in _holders(play, heir), "the ring before is no reason"
        world.remove(gone)
        play.post(ring, *world.machines)
        play.until_settled()
        _judged(play)


def _publisher(play: Play, seed: int) -> Publisher:
    play.world.ring = play.ring()
    return publishing.first(play.world, Random(f"{seed}/publisher"))


def _finished(play: Play, one: Publisher) -> None:
    play.world.run_until(lambda: not one.unfinished(), 60.0, one.unfinished)
    play.until_settled()


def test_a_ring_comes_after_the_rows_of_whoever_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who held what before would be taken for who is to be followed by that ring."""
    with played(0, 4) as play:
        behind, *others = play.world.machines
        assert behind.node is not None
        number, sync, answered = behind.node.topology.number, Rows.sync, [False]

        async def synced(self: Rows, other: int) -> bool:
            """As long as nothing comes back of what `behind` asks, or is asked, about rows."""
            if number in (self._node.topology.number, other) and not answered[0]:
                return False
            return await sync(self, other)

        monkeypatch.setattr(Rows, "sync", synced)
        assert play.post(_without(play, behind), *others) == [None] * 3
        play.world.run_for(20.0)
        assert behind.node.topology.name.epoch == 1
        answered[0] = True
        play.until_settled()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_publishers_that_overlap_and_want_different_things(seed: int) -> None:
    with played(seed, 5) as play:
        world, names = play.world, [m.name for m in play.world.machines]
        one = _publisher(play, seed)
        other = publishing.second(one, Random(f"{seed}/other"))
        one.reaches = other.reaches = 0.6  # so that each finds nodes that the other one missed
        for each, gone in ((one, play.owners[0]), (other, play.owners[1])):
            each.wishes = Wishes({name: "1" for name in names if name != gone.name})
            each.begin()
        for _ in range(8):
            play.put(context=True)
            world.run_for(0.5)
        assert world.faults["of them while slots moved"], "their plans met"
        other.dismiss()
        one.reaches = 1.0
        _finished(play, one)
        assert play.owners[0] not in world.machines, "it is drained, and has ended"
        assert play.owners[1] in world.machines
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_25_a_publisher_dies_after_deciding_and_after_posting_to_some(seed: int) -> None:
    with played(seed, 4) as play:
        world, leaver = play.world, play.owners[seed % 3]
        play.put()
        one = _publisher(play, seed)
        one.wishes = Wishes({m.name: "1" for m in world.machines if m is not leaver})
        one.posting = False
        one.begin()
        world.run_until(lambda: one.decided.epoch == 2, PATIENCE_S)
        decided = one.decided
        one.crash()
        world.run_for(0.2)
        assert play.ring().epoch == 1, "nobody has been told"
        one.posting, one.reaches = True, 0.5
        world.run_until(lambda: play.ring() == decided, PATIENCE_S)
        one.crash()
        one.reaches = 1.0
        play.put(context=True)
        _finished(play, one)
        assert play.ring().epoch == 3, "the one that was decided, and one to drop who is drained"
        assert play.ring().parent == decided.id
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_person_wants_nobody_back_who_will_be_turned_off(seed: int) -> None:
    # Seed 180001185: no ring named it any more, so it was wanted again while it still ran, and
    # of what was wanted too few were left for a ring without the next one that was given up.
    with played(seed, 5) as play:
        world, gone = play.world, play.owners[seed % 3]
        one = _publisher(play, seed)
        changes = Changes(world, Random(f"{seed}/changes"), one)
        wanted = dict(one.wishes.wanted)
        number = gone.node.topology.number
        changes._cut(gone)
        left = {name: capacity for name, capacity in wanted.items() if name != gone.name}
        changes._wish(left, number)
        one.begin()
        world.run_until(lambda: one.decided.node_named(gone.name) is None, PATIENCE_S)
        assert changes._change_of_mind(), "the rest of what was wanted before is to be had"
        assert gone in world.machines, "it runs on, for those that are cut off with it"
        assert one.wishes.wanted == left
        changes.heal()
        _finished(play, one)
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copy_that_counts_goes_on_while_its_node_claims_a_second_slot(seed: int) -> None:
    # Nobody else was left to merge: it waited for a person, with all data at hand.
    with played(seed, 4, n=2, r=1, w=1) as play:
        world, place = play.world, play.place.partition
        gone, other = play.owners[seed % 2], play.owners[(seed + 1) % 2]
        play.put()
        world.run_for(5.0)  # until both have it: W is 1
        number, node = gone.node.topology.number, other.node
        ring = play.ring_of([m for m in world.machines if m is not gone], give_up=(number,))
        row = tuple(
            Token(ring.epoch, 0, node.topology.number) if token.holder == number else token
            for token in node.topology.row(place)
        )
        world.remove(gone)
        custody, counted = node.custodies.of(place), []
        other.process.loop.call_soon(node.custodies.learn, place, row)

        def both_count() -> bool:
            counted.append(node.standing.counts(place))
            return [held.stage for held in custody.held.values()] == [Stage.COUNTS] * 2

        world.run_until(both_count, PATIENCE_S)
        assert all(counted), "it has been complete all the while"
        assert place not in node.standing.possible_losses
        play.post(ring, *world.machines)
        play.until_settled()
        _judged(play)
