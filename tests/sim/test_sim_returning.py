"""Schedule 10: volumes that return from before a committed round, with the node's own parts."""

from dataclasses import replace
from typing import Any

import pytest
from tests.sim.play import Play, asked, played, reaped
from tests.sim.world import Machine

from dynamo_core.outcomes import Kind
from dynamo_core.wire import Op
from dynamo_node.config import BUFFERED, Timing

FAST = replace(Timing(), reap_delay_ms=200)


def _snapshot_then_reap(play: Play, back: list[Machine]) -> list[Any]:
    """The key's value is on `back`'s disks, snapshots are made, then it is deleted and reaped."""
    play.put()
    play.world.run_for(2.0)
    play.kill(*back)
    for machine in back:
        machine.disk.sync(len(machine.disk.unsynced))
    snapshots = [machine.disk.snapshot() for machine in back]
    play.start(*back)
    play.world.run_until(play.world.all_linked, 30.0)
    reaped(play)
    return snapshots


def _returns(play: Play, back: list[Machine], snapshots: list[Any]) -> None:
    play.kill(*back)
    for machine, snapshot in zip(back, snapshots, strict=True):
        machine.disk.roll_back(snapshot)


def _settled(play: Play, machines: list[Machine]) -> bool:
    partition = play.place.partition
    nodes = [m.node for m in machines if m.node is not None]
    return len(nodes) == len(machines) and all(
        n.reaper.copies.sure(partition) and n.standing.counts(partition) for n in nodes
    )


def _round(play: Play, machine: Machine) -> int:
    assert machine.node is not None
    partition = play.place.partition
    return machine.node.replica.rounds.committed(partition)


def _has_record(play: Play, machine: Machine) -> bool:
    node = machine.node
    assert node is not None
    digest = play.place.digest
    found: list[bytes | None] = []
    node.replica.read_own(digest + play.key, found.append, lambda error: found.append(None))
    play.world.run_until(lambda: bool(found), 5.0)
    return found[0] is not None


@pytest.mark.parametrize("seed", range(4))
def test_schedule_10_a_rolled_back_volume_is_deleted_unread_and_recovered(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        owners = play.owners
        back = [owners[seed % 3]]
        snapshots = _snapshot_then_reap(play, back)
        _returns(play, back, snapshots)
        play.start(*back)
        for _ in range(20):
            shown = asked(play, back[0], Op.GET)
            assert shown.kind != Kind.VALUES, "the deleted value is back"
            play.world.run_for(0.05)
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        assert not any(_has_record(play, owner) for owner in owners)
        assert asked(play, back[0], Op.GET).kind == Kind.ABSENT
        # It says yes again: rounds go on.
        reaped(play)
        play.world.run_until(lambda: not any(_has_record(play, o) for o in owners), 60.0)
        assert _round(play, back[0]) > 1


@pytest.mark.parametrize("seed", range(4))
def test_schedule_10_an_old_copy_that_can_ask_nobody_says_nothing(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        owners, others = play.owners, play.stand_ins
        back = [owners[seed % 3]]
        snapshots = _snapshot_then_reap(play, back)
        _returns(play, back, snapshots)
        play.cut_off([*back, *others], noticed=False)
        play.start(*back)
        play.world.run_for(3.0)
        # With empty stand-ins it would be an answer that carries a value.
        assert asked(play, others[0], Op.GET).kind == Kind.UNAVAILABLE
        assert asked(play, back[0], Op.PUT).kind == Kind.WRITTEN, "writes go on all the same"
        play.join_again([*back, *others])
        play.until_handed_off()
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        shown = asked(play, owners[0], Op.GET)
        assert [s.value for s in shown.siblings] == [b"v"], "what was written since, and no more"


@pytest.mark.parametrize("seed", range(4))
def test_two_old_copies_are_both_recovered_from_the_third(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        owners = play.owners
        back = [owners[seed % 3], owners[(seed + 1) % 3]]
        snapshots = _snapshot_then_reap(play, back)
        _returns(play, back, snapshots)
        play.start(*back)
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        assert not any(_has_record(play, owner) for owner in owners)
        partition = play.place.partition
        for machine in back:
            node = machine.node
            assert node is not None
            assert partition in node.standing.possible_losses


@pytest.mark.parametrize("seed", range(4))
def test_where_the_newest_disk_is_lost_too_the_best_that_is_left_stays(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        owners = play.owners
        newest, back = owners[seed % 3], [o for o in owners if o is not owners[seed % 3]]
        snapshots = _snapshot_then_reap(play, back)
        _returns(play, back, snapshots)
        play.start(*back)
        play.world.run_for(0.02)  # they may have heard of the round, and kept their copies
        play.kill(newest)
        newest.disk.wipe()
        play.start(newest)
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        kind = asked(play, owners[0], Op.GET).kind
        assert kind in (Kind.VALUES, Kind.ABSENT), kind


@pytest.mark.parametrize("seed", range(3))
def test_with_r_1_a_copy_that_is_known_to_be_old_says_nothing(seed: int) -> None:
    with played(seed, 5, timing=FAST, r=1, w=3) as play:
        owners = play.owners
        back, newest, third = owners[seed], owners[(seed + 1) % 3], owners[(seed + 2) % 3]
        snapshots = _snapshot_then_reap(play, [back])
        _returns(play, [back], snapshots)
        play.kill(third, newest)
        play.start(back)
        play.world.run_for(3.0)
        # It is all that is left: what it answers is as old as its disk.
        assert asked(play, back, Op.GET).kind == Kind.VALUES
        # Another one knows of the round, but with W = 3 isn't sure of itself yet either.
        play.start(newest)
        play.world.run_for(3.0)
        node = back.node
        assert node is not None
        partition = play.place.partition
        assert partition in node.reaper.copies.waits_for
        assert asked(play, back, Op.GET).kind == Kind.ABSENT
        play.start(third)
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        assert partition not in node.reaper.copies.waits_for
        assert asked(play, back, Op.GET).kind == Kind.ABSENT


@pytest.mark.parametrize("seed", range(3))
def test_a_volume_that_returns_from_when_it_was_new_brings_nothing_back(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        owners = play.owners
        back = owners[seed]
        play.kill(back)
        back.disk.wipe()
        play.start(back)
        play.cut_off([o for o in owners if o is not back], noticed=False)
        play.world.run_for(1.0)
        # Empty, it takes a write that the other owners get later, and has merged nothing yet.
        assert asked(play, back, Op.PUT).kind == Kind.WRITTEN
        play.world.run_for(1.0)
        play.kill(back)
        snapshot = back.disk.snapshot()
        play.start(back)
        play.join_again([o for o in owners if o is not back])
        play.until_handed_off()
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        reaped(play)
        play.world.run_until(lambda: not any(_has_record(play, o) for o in owners), 60.0)
        _returns(play, [back], [snapshot])
        play.start(back)
        for _ in range(20):
            assert asked(play, back, Op.GET).kind != Kind.VALUES, "the deleted value is back"
            play.world.run_for(0.1)
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        assert not any(_has_record(play, owner) for owner in owners)


@pytest.mark.parametrize("seed", range(4))
def test_an_old_copy_merges_nothing_while_it_waits_for_one_that_counts(seed: int) -> None:
    # Seed 1000678: after a power cut everywhere nobody counts yet, and one disk is old.
    with played(seed, 5, timing=FAST, durability=BUFFERED) as play:
        owners = play.owners
        back = owners[seed % 3]
        snapshots = _snapshot_then_reap(play, [back])
        machines = play.world.machines
        for machine in machines:
            play.world.crash(machine, power=True)
        back.disk.roll_back(snapshots[0])
        first, third = owners[(seed + 1) % 3], owners[(seed + 2) % 3]
        play.start(*(machine for machine in machines if machine not in (back, third)))
        assert asked(play, first, Op.PUT).kind == Kind.WRITTEN
        play.start(back)
        play.world.run_for(5.0)
        play.start(third)
        play.until_handed_off()
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        shown = asked(play, back, Op.GET)
        assert [s.value for s in shown.siblings] == [b"v"], "what was written since, and no more"


@pytest.mark.parametrize("seed", range(4))
def test_hints_that_an_old_copy_keeps_at_home_bring_nothing_back(seed: int) -> None:
    # Seed 5000404: they outlived the copy, and were delivered under a newer round.
    with played(seed, 3, timing=FAST) as play:
        owners = play.owners
        back = owners[seed % 3]
        snapshots = _snapshot_then_reap(play, [back])
        _returns(play, [back], snapshots)
        play.cut_off([back], noticed=False)
        play.start(back)
        play.world.run_for(1.0)
        assert asked(play, back, Op.PUT, quorum=1).kind == Kind.WRITTEN
        play.world.run_until(lambda: bool(back.node and back.node.replica.hints.by_target), 10.0)
        play.join_again([back])
        play.until_handed_off()
        play.world.run_until(lambda: _settled(play, owners), 60.0)
        play.world.run_for(3.0)
        shown = asked(play, owners[0], Op.GET)
        assert [s.value for s in shown.siblings] == [b"v"], "what was written since, and no more"


@pytest.mark.parametrize("seed", range(4))
def test_a_hint_of_a_disk_that_was_rolled_back_to_a_clean_end_is_not_taken_for_a_new_one(
    seed: int,
) -> None:
    # Its incarnation goes on: most peers have met only the one that came in between.
    with played(seed, 5, timing=FAST) as play:
        world, owners, back = play.world, play.owners, play.stand_ins[0]
        away = [owners[1], owners[2], play.stand_ins[1]]
        play.kill(back, *away)
        play.start(back)
        world.run_until(lambda: back.node.topology.links[play.place.owners[0]].healthy, 10.0)
        world.run_until(lambda: owners[0].node.topology.healthy(back.node.topology.number), 10.0)
        assert asked(play, owners[0], Op.PUT).standin == 1
        world.run_for(3.0)
        back_node = back.node
        world.stop(back)
        world.run_until(lambda: back.process is None, 10.0)
        snapshot, before = back.disk.snapshot(), back_node.incarnation
        play.start(back)  # nobody but one is there to confirm: under a new incarnation
        play.start(*away)
        play.until_handed_off()
        reaped(play)
        play.kill(back, owners[0])  # who knows better
        back.disk.roll_back(snapshot)
        play.start(back)
        assert back.node.incarnation == before
        for _ in range(100):
            assert not asked(play, owners[1], Op.GET).siblings, "the deleted value is back"
            world.run_for(0.05)
