"""Slots taken without a seal: lost disks, nominated successors, and what an override makes
of who has served unseen (docs/decisions/0012), with the node's own parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.play import Play, asked, played, reaped
from tests.sim.world import Machine

from dynamo_core.history import ACKNOWLEDGED
from dynamo_core.outcomes import Kind
from dynamo_core.ring import Ring
from dynamo_core.slots import Token
from dynamo_core.wire import Op
from dynamo_node.config import Timing

FAST = replace(Timing(), reap_delay_ms=200)


def _token(play: Play, of: Machine, at: Machine | None = None) -> Token | None:
    """The token of `of`, as `at` knows it; None if by that row it holds no slot."""
    node, number = (at or of).node, _number(of)
    assert node is not None
    row = node.topology.row(play.place.partition)
    return next((token for token in row if token.holder == number), None)


def _number(machine: Machine) -> int:
    assert machine.node is not None
    return machine.node.topology.number


def _counts(play: Play, *machines: Machine) -> bool:
    partition = play.place.partition
    return all(
        m.node is not None
        and m.node.topology.ring is not None
        and m.node.reaper.copies.answers(partition)
        for m in machines
    )


def _until(play: Play, condition: Callable[[], bool], why: str, most_s: float = 60.0) -> None:
    play.world.run_until(condition, most_s, lambda: f"for {why}")


def _load(play: Play, seconds: float) -> None:
    """Puts and gets by three clients, all the time; nobody waits for one to end."""
    world = play.world
    for at in range(int(seconds / 0.1)):
        op = Op.GET if at % 3 == 0 else Op.PUT
        world.scheduler.at(
            world.now + 0.1 * at,
            None,
            lambda op=op, client=at % 3: play.clients.call(
                op, play.key, client, play.clients._contexts.get((client, play.key))
            ),
        )


def _judged(play: Play) -> None:
    report = play.judged()
    assert not report.violations, "\n".join(map(str, report.violations))


def _beside(play: Play) -> bytes:
    """A key of the same partition that was never written."""
    place: Any = play.machine(0).topology.place
    keys = (b"beside-%d" % at for at in range(10_000))
    return next(key for key in keys if place(key).partition == play.place.partition)


def _given_up(play: Play, gone: Machine, number: int, told: list[Machine]) -> Ring:
    """A ring in which a person has given `gone` up; posted to `told`."""
    wanted = {member.name for member in play.ring().members} - {gone.name}
    members = [m for m in play.world.machines if m.name in wanted]
    ring = play.ring_of(members, give_up=(number,))
    assert play.post(ring, *told) == [None] * len(told)
    return ring


@pytest.mark.parametrize("seed", range(3))
def test_a_wiped_disk_claims_its_slots_and_counts_again_under_load(seed: int) -> None:
    with played(seed, 5) as play:
        back = play.owners[seed % 3]
        others = [m for m in play.owners if m is not back]
        play.put()
        before = _token(play, back)
        assert before is not None
        play.kill(back)
        back.disk.wipe()
        _load(play, 8.0)
        play.world.run_for(1.0)
        play.start(back)
        play.world.run_for(8.0)
        play.world.run_until(lambda: not play.clients.unfinished, 60.0)
        _until(play, lambda: _counts(play, *play.owners), "all to count")
        node: Any = back.node
        assert not node.recovery.claims._heard, "for another claim they are asked again"
        # Two steps up: above any seal that the lost disk may have given.
        assert _token(play, back) == before.claimed(before.holder)
        for other in others:
            assert _token(play, back, at=other) == before.claimed(before.holder)
        done = play.clients.history.operations
        assert sum(o.outcome == ACKNOWLEDGED for o in done) > 40
        play.until_handed_off()
        _judged(play)


@pytest.mark.parametrize("seed", range(3))
def test_a_wiped_disk_that_hears_too_few_takes_writes_and_says_nothing(seed: int) -> None:
    with played(seed, 5) as play:
        back, near, far = (play.owners[(seed + i) % 3] for i in range(3))
        play.put()
        play.world.run_for(2.0)
        play.kill(back)
        back.disk.wipe()
        play.cut_off([far], noticed=False)
        play.start(back)
        play.world.run_for(10.0)
        node: Any = back.node
        partition = play.place.partition
        assert node.custodies.of(partition).unclaimed(), "one other holder is too few"
        assert node.recovering
        waits_for = "1 other owners that say who holds its slots"
        assert node.recovery.facts()["waits_for"] == [waits_for]
        told = {t["partition"]: t for t in node.transfers.facts()}[partition]
        assert (told["state"], told["stalled"]) == ("claiming", waits_for)
        # It takes writes, and what it says of itself is nothing: never "absent".
        assert asked(play, back, Op.PUT).kind == Kind.WRITTEN
        nothing = _beside(play)
        assert asked(play, back, Op.GET, key=nothing).kind == Kind.UNAVAILABLE
        play.cut_off([near])
        assert asked(play, back, Op.GET, key=nothing).kind == Kind.UNAVAILABLE
        play.join_again([near])
        play.join_again([far])
        _until(play, lambda: _counts(play, *play.owners), "all to count")
        play.until_handed_off()
        assert not node.recovering
        assert len(asked(play, back, Op.GET).siblings) == 2
        assert asked(play, back, Op.GET, key=nothing).kind == Kind.ABSENT


@pytest.mark.parametrize("seed", range(2))
def test_a_wiped_disk_takes_the_round_that_stand_ins_promised(seed: int) -> None:
    """It holds nothing that could pass for newer by that; else nobody would take its writes."""
    with played(seed, 5, timing=FAST) as play:
        back = play.owners[seed]
        reaped(play)
        play.kill(back)
        back.disk.wipe()
        play.cut_off([o for o in play.owners if o is not back], noticed=False)
        play.start(back)
        play.world.run_for(3.0)
        node: Any = back.node
        assert node.custodies.of(play.place.partition).unclaimed()
        assert asked(play, back, Op.PUT).kind == Kind.WRITTEN


@pytest.mark.parametrize("seed", range(3))
def test_schedule_11_a_nominated_successor_counts_only_after_the_rule(seed: int) -> None:
    """It can hear nobody but the replica that missed the write: then it holds nothing yet."""
    with played(seed, 4) as play:
        dead, missed, knows = (play.owners[(seed + i) % 3] for i in range(3))
        successor = play.others[0]
        number = _number(dead)
        play.put(1)
        play.world.run_for(2.0)
        play.cut_off([missed, successor])
        written = asked(play, knows, Op.PUT)
        assert written.kind == Kind.WRITTEN
        play.kill(dead)
        _given_up(play, dead, number, [missed, successor])
        node: Any = successor.node
        custody = node.custodies.of(play.place.partition)
        play.world.run_for(10.0)
        assert _token(play, successor) == Token(2, 0, _number(successor)), "only nominated"
        assert custody.unclaimed()
        assert not custody.held
        for at in (missed, successor):
            assert asked(play, at, Op.GET).kind == Kind.UNAVAILABLE
        assert asked(play, successor, Op.PUT, write_id=b"y" * 16, value=b"w").kind == Kind.WRITTEN
        play.join_again([missed, successor])
        _until(play, lambda: _counts(play, missed, knows, successor), "the successor to count")
        assert _token(play, successor) == Token(2, 2, _number(successor))
        play.until_handed_off()
        # Whoever is asked together with it, the write is seen.
        play.kill(knows)
        values = {s.value for s in asked(play, successor, Op.GET).siblings}
        assert {b"v", b"w"} <= values
        assert node.standing.possible_losses.isdisjoint({play.place.partition})


@pytest.mark.parametrize("seed", range(3))
def test_schedule_21_an_override_while_a_cut_off_successor_serves_unseen(seed: int) -> None:
    """It has counted, and goes on with one replica; the other side nominates somebody else."""
    with played(seed, 5) as play:
        dead, near, far = (play.owners[(seed + i) % 3] for i in range(3))
        number = _number(dead)
        play.put()
        play.kill(dead)
        machines = [m for m in play.world.machines if m is not dead]
        ring = _given_up(play, dead, number, machines)
        slots = ring.slots[play.place.partition]
        first = next(m for m in play.others if _number(m) in slots)
        _until(play, lambda: _counts(play, first, near, far), "the first successor to count")
        second = next(m for m in play.others if m is not first)
        # The rest gives the first successor up; it and one replica hear nothing of that.
        play.cut_off([first, near])
        ring = _given_up(play, first, _number(first), [second, far])
        assert _number(second) in ring.slots[play.place.partition]
        assert asked(play, first, Op.PUT).kind == Kind.WRITTEN, "both hold it, by what they know"
        play.world.run_for(10.0)
        unclaimed: Any = second.node
        assert unclaimed.custodies.of(play.place.partition).unclaimed(), "one holder is too few"
        assert asked(play, second, Op.GET).kind == Kind.UNAVAILABLE
        # Now that replica is on the other side: what the first successor holds alone counts
        # for nothing any more, and what was acknowledged by both is merged.
        play.join_again([first, near])
        play.cut_off([first])
        _until(play, lambda: _counts(play, second, near, far), "the second successor to count")
        assert asked(play, first, Op.PUT, write_id=b"y" * 16).kind == Kind.UNAVAILABLE
        assert asked(play, first, Op.GET).kind == Kind.UNAVAILABLE
        play.kill(near)
        values = {s.value for s in asked(play, second, Op.GET).siblings}
        assert b"v" in values
        play.start(near)
        play.join_again([first])
        left: Any = first.node
        _until(play, lambda: not _counts(play, first), "the first successor to hear of it")
        assert play.place.partition not in left.topology.owned


@pytest.mark.parametrize("seed", range(3))
def test_a_successor_by_a_lost_disks_seal_that_nobody_heard_of_gives_way(seed: int) -> None:
    """The disk that has sealed is lost before its successor could tell anybody: its new one
    claims, above that seal; who was named by it finds out, and what it has is merged."""
    with played(seed, 5) as play:
        partition = play.place.partition
        lost, near, far = (play.owners[(seed + i) % 3] for i in range(3))
        play.put()
        play.world.run_for(2.0)
        ring = play.ring_of([m for m in play.world.machines if m is not lost])
        named = next(m for m in play.others if _number(m) in ring.slots[partition])
        other = next(m for m in play.others if m is not named)
        play.cut_off([lost, named], noticed=False)
        assert play.post(ring, lost, named) == [None, None]
        custody: Any = named.node
        custody = custody.custodies.of(partition)
        _until(play, lambda: bool(custody.held), "the successor to take the slot")
        play.world.run_for(2.0)
        assert not custody.counts, "too few know"
        play.put(context=True)  # on the side of the other two
        play.kill(lost)
        lost.disk.wipe()
        play.join_again([lost, named])
        play.cut_off([named], noticed=False)
        play.post(ring, near, far, other)
        play.start(lost)
        _until(play, lambda: _counts(play, lost, near, far), "the new disk to count")
        token = _token(play, lost, at=near)
        assert token is not None
        assert token.number == 2
        play.put(context=True)
        assert not custody.counts
        play.join_again([named])
        # Now it gets the slot again, from the one that holds it.
        _until(play, lambda: _counts(play, named, near, far), "the slot to move after all")
        _until(play, lambda: _token(play, named, at=near) is not None, "all holders to hear of it")
        token = _token(play, named, at=near)
        assert token is not None
        assert token.number == 3
        play.put(context=True)
        play.until_settled()
        _judged(play)


@pytest.mark.parametrize("seed", range(2))
def test_two_wiped_disks_claim_beside_each_other(seed: int) -> None:
    with played(seed, 3) as play:
        whole, *back = (play.owners[(seed + i) % 3] for i in range(3))
        play.put()
        play.world.run_for(2.0)
        play.kill(*back)
        for machine in back:
            machine.disk.wipe()
        play.start(*back)
        _until(play, lambda: _counts(play, *play.owners), "all to count")
        for machine in back:
            node: Any = machine.node
            assert play.place.partition in node.standing.possible_losses
            token = _token(play, machine, at=whole)
            assert token is not None
            assert token.number == 2
        play.kill(whole)
        assert len(asked(play, back[0], Op.GET).siblings) == 1


def test_accept_loss_claims_where_nobody_can_be_heard() -> None:
    with played(0, 3) as play:
        back = play.owners[0]
        play.put()
        play.kill(*play.owners)
        back.disk.wipe()
        play.world.start(back)
        play.world.run_until(lambda: back.node is not None, 10.0)
        node: Any = back.node
        assert play.world.ring is not None
        assert play.post(play.world.ring, back) == [None], "nobody else could tell it"
        play.world.run_for(3.0)
        partition = play.place.partition
        assert node.custodies.of(partition).unclaimed()
        loop: Any = back.process
        done: list[bool] = []
        loop.loop.call_soon(lambda: done.append(node.recovery.accept_loss(partition)))
        play.world.run_until(lambda: bool(done), 5.0)
        assert done == [True]
        assert node.custodies.counts(partition)
        assert node.standing.counts(partition)
        play.world.run_for(1.0)
        assert not node.recovery.accept_loss(partition), "there is nothing left to accept"
        # The others come back: its claim stands above what its lost disk held.
        play.start(*play.owners[1:])
        _until(play, lambda: _counts(play, *play.owners), "all to count")
        for owner in play.owners:
            token = _token(play, back, at=owner)
            assert token is not None
            assert token.number == 2
        play.world.run_for(20.0)
        assert asked(play, back, Op.GET).kind == Kind.VALUES


@pytest.mark.parametrize("others_up", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_who_was_given_up_and_has_not_heard_of_it_is_not_asked_for_more(
    seed: int, others_up: bool
) -> None:
    # Seed 110000264, where a change of mind had brought it back: with R = 1 it answers alone.
    # Those who hold the ring that gave it up may all be down just then.
    with played(seed, 4, n=2, r=1, w=2) as play:
        away = play.owners[seed]
        play.put()
        play.world.run_for(1.0)
        play.cut_off([away])
        rest = [m for m in play.world.machines if m is not away]
        _given_up(play, away, _number(away), rest)
        play.until_settled()
        play.clients.at = rest[0]
        play.ask(Op.GET)
        done = play.put(context=True)
        assert done.owners == 2
        if not others_up:
            play.kill(*rest)
        play.clients.at = away
        assert {s.id for s in play.ask(Op.GET, 7).shown} != {done.id}, "what it has is older"
        play.clients.at = None
        play.start(*rest)
        play.join_again([away])
        play.post(play.ring_of(list(play.world.machines)), *rest)
        play.until_settled()
        _judged(play)


@pytest.mark.parametrize("seed", range(2))
def test_who_came_back_and_has_heard_of_it_is_asked_like_anybody_else(seed: int) -> None:
    with played(seed, 4, n=2, r=1, w=2) as play:
        world, away = play.world, play.owners[seed]
        play.put()
        world.run_for(1.0)
        rest = [m for m in world.machines if m is not away]
        number = _number(away)
        world.remove(away)
        _given_up(play, away, number, rest)
        back = world.add(away.name, world.shelf.pop(away.name))
        world.unaware.add(back)  # as whoever brings an old volume back says
        world.start(back)
        _until(play, lambda: back.node is not None, "it to start")
        assert world.knows_no_better(back)
        assert play.post(play.ring_of(list(world.machines)), *rest) == [None] * 3
        play.until_settled()
        assert not world.knows_no_better(back)
