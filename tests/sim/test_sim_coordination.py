"""Coordination under faults that nobody has noticed yet, with the node's own parts."""

from dataclasses import replace

import pytest
from tests.sim.play import asked, played, reaped

from dynamo_core.outcomes import Kind
from dynamo_core.wire import Op
from dynamo_node.config import Timing
from dynamo_node.storage import HINTS

TIMEOUT_MS = 2000


@pytest.mark.parametrize("seed", range(4))
def test_a_write_where_all_owners_fall_silent_is_taken_by_stand_ins(seed: int) -> None:
    with played(seed, 6) as play:
        others = play.stand_ins
        play.cut_off(others, noticed=False)
        done = asked(play, others[0], Op.PUT)
        assert (done.kind, done.standin) == (Kind.WRITTEN, 2), done


@pytest.mark.parametrize("seed", range(4))
def test_a_write_finds_the_one_stand_in_that_is_left(seed: int) -> None:
    with played(seed, 7) as play:
        owners, others = play.owners, play.stand_ins
        play.cut_off([owners[0], others[-1]], noticed=False)
        done = asked(play, owners[0], Op.PUT)
        assert (done.kind, done.primary, done.standin) == (Kind.WRITTEN, 1, 1), done


@pytest.mark.parametrize("seed", range(3))
def test_what_a_stand_in_with_a_new_disk_acknowledged_outlives_the_rounds_it_did_not_know(
    seed: int,
) -> None:
    # Its hint carries no round: the owners have committed some with its last disk's yes.
    with played(seed, 5, w=1, timing=replace(Timing(), reap_delay_ms=200)) as play:
        reaped(play)
        owners, others = play.owners, play.stand_ins
        play.kill(*owners, others[0])
        others[0].disk.wipe()
        play.start(others[0])
        play.kill(others[1])  # which has told it the ring
        assert asked(play, others[0], Op.PUT).kind == Kind.WRITTEN
        play.start(*owners, others[1])
        play.world.run_until(play.world.all_linked, 30.0)
        play.until_handed_off()
        play.world.run_for(5.0)
        assert asked(play, owners[0], Op.GET).kind == Kind.VALUES


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_session_does_not_go_behind_what_it_wrote_at_a_stand_in_with_a_new_disk(
    seed: int, alone: bool
) -> None:
    # It knows of no round; another stand-in names one, or the context that was sent does.
    with played(seed, 5, timing=replace(Timing(), reap_delay_ms=200)) as play:
        reaped(play)
        world, owners, (new, other) = play.world, play.owners, play.stand_ins
        sent = asked(play, owners[0], Op.PUT).context if alone else ""
        world.run_for(2.0)
        play.kill(*owners, new)
        new.disk.wipe()
        play.start(new)
        world.run_until(lambda: new.node.topology.healthy(other.node.topology.number), 30.0)
        if alone:
            play.kill(other)
        more = {"context": sent, "quorum": 1 if alone else 2, "write_id": bytes(15) + b"w"}
        written = asked(play, new, Op.PUT, **more)
        assert (written.kind, written.standin) == (Kind.WRITTEN, 1 if alone else 2), written
        play.cut_off([new] if alone else [new, other])
        play.start(*owners)
        world.run_for(10.0)
        behind = asked(play, owners[0], Op.GET, context=written.context)
        assert behind.kind == Kind.NOT_YET, behind
        play.join_again([new] if alone else [new, other])
        if alone:
            play.start(other)
        world.run_until(world.all_linked, 30.0)
        play.until_handed_off()
        found = asked(play, owners[0], Op.GET, context=written.context)
        assert found.kind == Kind.VALUES, found


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_an_owner_with_a_new_disk_acknowledged_outlives_its_next_start(
    seed: int, alone: bool
) -> None:
    # Seed 7300163: it waits as a hint for the very node that keeps it, and carried no round.
    with played(seed, 3, timing=replace(Timing(), reap_delay_ms=200)) as play:
        reaped(play)
        world, (new, other, away) = play.world, play.owners
        play.kill(*play.owners)
        new.disk.wipe()
        world.start(other)
        world.start(new)
        world.run_until(lambda: all(m.node and m.node.ready for m in (new, other)), 30.0)
        if alone:  # a first write, which the other one gets by its hint
            play.cut_off([new])
            assert asked(play, new, Op.PUT, quorum=1).kind == Kind.WRITTEN
            world.run_for(3.0)
            play.join_again([new])
            world.run_until(lambda: len(new.node.replica.hints.by_target) == 2, 10.0)
            world.run_for(10.0)
        else:  # the other one is asked to coordinate, and silent until this one begins
            world.block(other.name, new.name, True)
            world.scheduler.at(world.now + 1.1, None, play.join_again, [new])
        assert asked(play, new, Op.PUT, write_id=bytes(15) + b"y").kind == Kind.WRITTEN
        world.run_for(0.1)
        play.kill(new, other)
        other.disk.wipe()
        play.start(new, away, other)
        play.until_handed_off()
        world.run_for(10.0)
        shown = asked(play, away, Op.GET).siblings
        assert bytes(15) + b"y" in [s.write_id for s in shown]


@pytest.mark.parametrize("at_stand_in", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_write_through_a_rolled_back_disk_brings_nothing_else_back(
    seed: int, at_stand_in: bool
) -> None:
    # Refused as older than the round, it must not send the reaped value along under a new one.
    with played(seed, 5, timing=replace(Timing(), reap_delay_ms=200)) as play:
        owners, others = play.owners, play.stand_ins
        back = others[0] if at_stand_in else owners[2]
        if at_stand_in:
            play.kill(owners[2])  # for whom it keeps a hint
        play.put()
        play.world.run_for(3.0)
        play.kill(back)
        snapshot = back.disk.snapshot()
        play.start(back, owners[2])
        play.until_handed_off()
        reaped(play)
        play.kill(back)
        back.disk.roll_back(snapshot)
        if at_stand_in:
            play.kill(*owners)
        play.start(back)
        asked(play, back, Op.PUT)
        play.start(*owners)
        play.world.run_for(1.0)
        for owner in owners:
            if owner is not back:
                shown = asked(play, owner, Op.GET, quorum=1).siblings
                assert [s.value for s in shown] == [b"v"]


def test_nodes_that_shut_down_are_chosen_last() -> None:
    with played(5, 6, timing=replace(Timing(), drain_ms=5000)) as play:
        owners, others = play.owners, play.stand_ins
        for machine in (owners[0], others[0]):
            play.world.stop(machine)
        play.world.run_for(0.5)
        assert owners[0].node is not None
        assert owners[0].node.state == "leaving"
        assert others[1].node is not None
        topology = others[1].node.topology
        place = topology.place(play.key)
        numbers = [m.node.topology.number for m in (*owners, *others) if m.node is not None]
        assert place.owners == tuple(numbers[:3])
        assert place.others == (numbers[4], numbers[5], numbers[3])
        assert topology.staying_first(place.owners) == (*numbers[1:3], numbers[0])
        # It still counts while it is there.
        done = asked(play, others[1], Op.PUT, quorum=3)
        assert (done.kind, done.primary) == (Kind.WRITTEN, 3)
        play.world.run_until(lambda: owners[0].node is None and others[0].node is None, 30.0)
        play.start(owners[0], others[0])
        play.world.run_until(lambda: topology.place(play.key).others == tuple(numbers[3:]), 10.0)


@pytest.mark.parametrize("full", [1, 2, 3])
def test_writes_go_on_at_and_around_owners_whose_disks_are_full(full: int) -> None:
    with played(17 + full, 6) as play:
        owners, others = play.owners, play.stand_ins
        for machine in owners[:full]:
            machine.free_bytes = 0
        play.world.run_for(2.0)
        for at in (*owners, *others):
            done = asked(play, at, Op.PUT, write_id=bytes(15) + at.name[-1:].encode())
            assert (done.kind, done.got) == (Kind.WRITTEN, 2), (at.name, done)
        for machine in owners[:full]:
            machine.free_bytes = 1 << 40
        play.world.run_for(2.0)
        play.until_handed_off()
        for owner in owners:
            assert len(asked(play, owner, Op.GET, quorum=1).siblings) == 6


@pytest.mark.parametrize("seed", range(3))
def test_an_owner_that_can_not_read_its_record_yet_leaves_the_write_to_others(seed: int) -> None:
    with played(seed, 3) as play:
        owners = play.owners
        node = owners[0].node
        assert node is not None
        mint = node.replica.mint
        node.replica.mint = lambda *args: owners[0].process.loop.call_later(60.0, mint, *args)
        done = asked(play, owners[0], Op.PUT)
        assert done.kind == Kind.WRITTEN, done


def test_a_node_that_stops_leaves_hints_for_owners_that_are_silent() -> None:
    with played(9, 3) as play:
        owners = play.owners
        play.world.stall(owners[2], 20.0)
        assert asked(play, owners[0], Op.PUT).kind == Kind.WRITTEN
        play.world.stop(owners[0])
        play.world.run_until(lambda: owners[0].process is None, 10.0)
        assert owners[0].disk.contents()[HINTS], "what the silent one lacks is known"


@pytest.mark.parametrize("seed", range(3))
def test_a_hint_of_a_rolled_back_disk_is_not_read(seed: int) -> None:
    with played(seed, 5, timing=replace(Timing(), reap_delay_ms=200)) as play:
        owners, others = play.owners, play.stand_ins
        play.kill(owners[2])  # for whom the first stand-in keeps a hint
        play.put()
        play.world.run_for(3.0)
        play.kill(others[0])
        snapshot = others[0].disk.snapshot()
        play.start(others[0], owners[2])
        play.until_handed_off()
        reaped(play)
        play.kill(others[0], owners[2])
        others[0].disk.roll_back(snapshot)
        play.start(others[0])
        play.world.run_until(
            lambda: owners[0].node.topology.healthy(others[0].node.topology.number), 10.0
        )
        play.world.run_for(2.0)
        play.world.stall(owners[1], 30.0)
        found = asked(play, owners[0], Op.GET)
        assert found.kind == Kind.UNAVAILABLE, "one owner alone can't know"
        play.world.run_for(3.0)
        assert not asked(play, owners[0], Op.GET, quorum=1).siblings
