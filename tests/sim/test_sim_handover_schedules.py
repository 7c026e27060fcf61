"""Schedules of handover that must not lose, by name; 7, 8 and 21 are in test_sim_membership."""

from typing import Any

import pytest
from tests.sim import handover_plays
from tests.sim.handover_plays import FAST, hold_pages, records_of
from tests.sim.play import PATIENCE_S, Play, asked, played, reaped
from tests.sim.world import Machine

from dynamo_core import records
from dynamo_core.handover_messages import (
    Given,
)
from dynamo_core.history import ACKNOWLEDGED
from dynamo_core.outcomes import Kind
from dynamo_core.ring import position
from dynamo_core.rounds import Kept, State
from dynamo_core.wire import Op, Type
from dynamo_node.storage import OBJECTS
from dynamo_node.walking import Copy, RoundPassed

watched = handover_plays.watched

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_5_two_coordinators_disagree_about_who_holds_a_slot(seed: int) -> None:
    with played(seed, 5) as play:
        first = play.owners[seed % 3]
        behind = play.others[0]
        play.put()
        play.cut_off([behind], noticed=False)
        rest = [m for m in play.world.machines if m is not behind]
        after = play.ring_of([m for m in rest if m is not first] + [behind])
        play.post(after, *rest)
        ahead = next(m for m in rest if m not in play.owners)
        play.world.run_for(5.0)
        play.join_again([behind])
        assert behind.node.topology.ring.epoch == 1, "it knows the old holders"
        assert first.node.topology.ring.epoch == 2
        wrote = asked(play, behind, Op.PUT, value=b"from behind")
        assert wrote.kind == Kind.WRITTEN, wrote
        for machine in (ahead, behind, first):
            shown = asked(play, machine, Op.GET)
            assert b"from behind" in {s.value for s in shown.siblings}, shown
        wrote = asked(play, ahead, Op.PUT, value=b"from ahead", write_id=bytes(15) + b"y")
        assert wrote.kind == Kind.WRITTEN, wrote
        shown = asked(play, behind, Op.GET)
        assert {s.value for s in shown.siblings} >= {b"from behind", b"from ahead"}
        play.until_settled()


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_6_a_late_write_at_the_old_side_is_in_no_copy_that_is_deleted(seed: int) -> None:
    # The frame with a write is on its way to the old side while that is compared, sealed,
    # covered and deleted. It comes then: nothing is merged, and nothing acknowledged.
    with played(seed, 4) as play:
        old = play.owners[seed % 3]
        coordinator = next(m for m in play.owners if m is not old)
        play.put()
        world, partition = play.world, play.place.partition
        after = play.ring_of([m for m in world.machines if m is not old])
        held: list[float] = []

        def sent(source: str, target: str, frame: bytes) -> None:
            wanted = frame[4] == Type.WRITE and not held
            if wanted and (source, target) == (coordinator.name, old.name):
                held.append(world.now)
                world.block(source, target, True)

        world.net.on_frame = sent
        wrote = asked(play, coordinator, Op.PUT, value=b"late")
        assert wrote.kind == Kind.WRITTEN
        assert held
        play.post(after, *(m for m in world.machines if m is not old))
        play.post(after, old)
        world.run_until(lambda: not old.node.custodies.of(partition).has_copy, PATIENCE_S)
        world.block(coordinator.name, old.name, False)
        world.run_for(1.0)
        assert not old.node.disk.store.scan(OBJECTS, b"", b"\xff" * 64, 1), "it took it in"
        for machine in world.machines:
            if machine is not old:
                shown = asked(play, machine, Op.GET)
                assert b"late" in {s.value for s in shown.siblings}
        play.until_settled()


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_10_a_pull_is_abandoned_the_key_reaped_and_the_pull_resumed(seed: int) -> None:
    with played(seed, 4, timing=FAST) as play:
        world, old, new = play.world, play.owners[seed % 3], play.others[0]
        partition = play.place.partition
        play.put()
        held = hold_pages(play, old, new)
        away = play.ring_of([m for m in world.machines if m is not old])
        play.post(away, *world.machines)
        world.run_until(lambda: bool(held), PATIENCE_S)
        assert new.node.custodies.of(partition).pulling is not None
        # Its writes come to the copy that is half there.
        play.put(context=True)
        world.run_until(lambda: bool(records_of(play, new)), 5.0)
        back = play.ring_of([m for m in world.machines if m is not new])
        assert new.node.topology.number not in back.slots[partition]
        play.post(back, *world.machines)
        world.run_until(lambda: not new.node.custodies.of(partition).has_copy, 5.0)
        assert not records_of(play, new)
        world.block(old.name, new.name, False)  # the page comes now
        world.run_until(lambda: not play.unsettled(), PATIENCE_S)
        assert not records_of(play, new)
        number = reaped(play)
        again = play.ring_of([m for m in world.machines if m is not old])
        assert new.node.topology.number in again.slots[partition]
        play.post(again, *world.machines)
        play.until_settled()
        assert not records_of(play, new)
        assert asked(play, new, Op.GET).kind == Kind.ABSENT
        assert new.node.replica.rounds.committed(partition) == number, "it came with the copy"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_round_that_passes_in_mid_pull_begins_the_copy_anew(seed: int) -> None:
    # A holder may have been left behind by a round; it catches up while it is pulled from.
    with played(seed, 4) as play:
        world, old, new = play.world, play.owners[seed % 3], play.others[0]
        partition = play.place.partition
        play.put()
        held = hold_pages(play, old, new)
        away = play.ring_of([m for m in world.machines if m is not old])
        play.post(away, *world.machines)
        world.run_until(lambda: bool(held), PATIENCE_S)
        play.put(context=True)
        world.run_until(lambda: bool(records_of(play, new)), 5.0)
        for machine in play.owners:
            rounds = machine.node.replica.rounds
            rounds.promise(partition, 1)
            rounds.commit(partition, Kept(1, machine.node.topology.name, (), ()))
        emptied = new.node.replica.emptied[partition]
        world.block(old.name, new.name, False)
        play.until_settled()
        assert new.node.replica.emptied[partition] == emptied + 1
        assert new.node.replica.rounds.committed(partition) == 1
        shown = asked(play, new, Op.GET)
        assert len(shown.siblings) == 1


def test_what_is_late_is_judged_by_the_rounds_that_it_was_built_under() -> None:
    with played(0, 4) as play:
        owner, partition = play.owners[0], play.place.partition
        play.put()
        play.world.run_for(1.0)
        ((_, data),) = records_of(play, owner)
        item = play.key, records.object_of(data)
        taker = play.owners[1]
        node, rounds = taker.node, taker.node.replica.rounds
        for number in (1, 2):
            rounds.promise(partition, number)
        rounds.commit(partition, Kept(2, node.topology.name, (), ()))

        def agreed(state: State) -> bool:
            return state.agreed_to(rounds.committed(partition))

        token = node.topology.row(partition)[0]
        copy = Copy(node, owner.node.topology.number, partition, 0, token, agreed)
        outcomes: list[Any] = []

        async def merge(state: State) -> None:
            try:
                await copy.merge(Given(state, False, b""), [item])
                outcomes.append("merged")
            except RoundPassed as passed:
                outcomes.append(passed.state.committed)

        loop = taker.process.loop
        for state in (State(1, 1), State(2, 1, said=(2,)), State(2, 2)):
            loop.call_soon(lambda state=state: loop.create_task(merge(state)))
        play.world.run_until(lambda: len(outcomes) == 3, 5.0)
        assert outcomes == [1, "merged", "merged"]
        node.replica.emptied[partition] += 1
        loop.call_soon(lambda: loop.create_task(merge(State(2, 2))))
        play.world.run_until(lambda: len(outcomes) == 4, 5.0)
        assert outcomes[3] == 2, "into a copy that was emptied since"


def test_a_damaged_record_is_not_handed_over_as_if_there_were_none() -> None:
    with played(0, 4) as play:
        world, old, new = play.world, play.owners[0], play.others[0]
        play.put()
        world.run_for(3.0)
        ((place, data),) = records_of(play, old)
        held = old.node.disk.store._held[OBJECTS]
        held[place] = data[:-1]
        away = play.ring_of([m for m in world.machines if m is not old])
        play.post(away, *world.machines)
        world.run_for(5.0)
        told = [t for t in new.node.transfers.facts() if t["partition"] == play.place.partition]
        assert len(told) == 1
        assert "is damaged" in told[0]["stalled"], told
        assert old.node.topology.number in new.node.topology.holders(play.place.partition)
        held[place] = data
        play.until_settled()
        assert records_of(play, new)


def test_nothing_is_pulled_from_a_holder_that_recovers() -> None:
    with played(1, 4) as play:
        world, old, new = play.world, play.owners[0], play.others[0]
        partition = play.place.partition
        play.put()
        others = [m for m in play.owners if m is not old]
        play.kill(old, *others)
        old.disk.wipe()
        play.start(old)
        away = play.ring_of([m for m in world.machines if m is not old])
        play.post(away, new)
        world.run_for(3.0)
        assert new.node.custodies.of(partition).pulling is None
        play.start(*others)
        play.until_settled()
        assert records_of(play, new)


def test_the_doubt_about_a_copy_goes_with_it() -> None:
    with played(2, 4) as play:
        old, new = play.owners[0], play.others[0]
        partition = play.place.partition
        play.put()
        standing = old.node.standing
        standing._losses = frozenset({partition})
        play.post(
            play.ring_of([m for m in play.world.machines if m is not old]), *play.world.machines
        )
        play.until_settled()
        assert new.node.standing.possible_losses == {partition}
        assert old.node.standing.possible_losses == frozenset()


@pytest.mark.parametrize("seed", SEEDS)
def test_two_slots_of_a_partition_move_one_after_the_other(seed: int) -> None:
    with played(seed, 5) as play:
        world, partition = play.world, play.place.partition
        play.put()
        stay = [m for m in world.machines if m not in play.owners[:2]]
        seen: list[int] = []
        for machine in world.machines:
            machine.node.custodies.on_row.append(
                lambda p, row: seen.append(sum(t.number for t in row)) if p == partition else None
            )
        play.post(play.ring_of(stay), *world.machines)
        play.until_settled()
        assert {1, 2} <= {*seen}, "each takes its own time"
        assert sorted(stay[0].node.topology.holders(partition)) == sorted(
            m.node.topology.number for m in stay
        )
        shown = asked(play, stay[0], Op.GET)
        assert len(shown.siblings) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_who_was_given_up_and_returns_hands_over_what_only_it_has(seed: int) -> None:
    with played(seed, 5) as play:
        world, away, partition = play.world, play.owners[seed % 3], play.place.partition
        play.put()
        world.run_for(1.0)
        play.cut_off([away])
        assert asked(play, away, Op.PUT, value=b"alone").kind == Kind.UNAVAILABLE
        rest = [m for m in world.machines if m is not away]
        number = away.node.topology.number
        play.post(play.ring_of(rest, give_up=(number,)), *rest)
        play.until_settled()
        play.join_again([away])
        play.post(play.ring_of(list(world.machines)), *rest)
        play.until_settled()
        world.run_until(lambda: not away.node.custodies.sealed(), PATIENCE_S)
        holders = away.node.topology.holders(partition)
        there = [m for m in world.machines if m.node.topology.number in holders]
        assert any(
            b"alone" in data for m in there if m is not away for _, data in records_of(play, m)
        )
        assert b"alone" in {s.value for s in asked(play, rest[0], Op.GET).siblings}


def _reaped_without(play: Play, away: Machine) -> None:
    """Give `away` up, which is cut off; delete the key and reap it; `away` can be reached again."""
    world, partition = play.world, play.place.partition
    rest = [m for m in world.machines if m is not away]
    number = away.node.topology.number
    play.post(play.ring_of(rest, give_up=(number,)), *rest)
    play.until_settled()
    play.clients.at = rest[0]
    play.ask(Op.GET)
    assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED
    holders = rest[0].node.topology.holders(partition)
    there = [m for m in rest if m.node.topology.number in holders]
    world.run_until(lambda: all(m.node.replica.rounds.committed(partition) for m in there), 120.0)
    assert records_of(play, away), "it has the value"
    play.join_again([away])


def _comes_back_after_the_key_was_reaped(play: Play, away: Machine) -> None:
    """Give `away` up, which is cut off; delete the key and reap it; let `away` return."""
    _reaped_without(play, away)
    _returns_without_the_key(play, away)


def _returns_without_the_key(play: Play, away: Machine) -> None:
    world = play.world
    rest = [m for m in world.machines if m is not away]
    play.post(play.ring_of(list(world.machines)), *rest)
    play.until_settled()
    world.run_until(lambda: not away.node.custodies.sealed(), PATIENCE_S)
    assert not any(map(play.copy, world.machines))
    assert asked(play, away, Op.GET).kind == Kind.ABSENT


def _shows_nothing_and_mends_nothing(play: Play, away: Machine) -> None:
    """`away` has the value in a copy of no slot; a holder is missing, so it could stand in."""
    world, partition = play.world, play.place.partition
    rest = [m for m in world.machines if m is not away]
    committed = rest[0].node.replica.rounds.committed(partition)
    rounds = away.node.replica.rounds
    world.run_until(lambda: rounds.stamp(partition) >= committed, PATIENCE_S)
    assert away.node.topology.number not in away.node.topology.holders(partition)
    assert play.copy(away), "it has the value still"
    shown = asked(play, away, Op.GET)
    assert shown.kind == Kind.UNAVAILABLE, shown
    assert play.copy(away), "it had the value still"
    world.run_for(3.0)
    assert not any(map(play.copy, rest)), "what was reaped is back"


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_10_a_yes_that_nobody_else_heard_of_is_no_yes_to_the_next_round(
    seed: int,
) -> None:
    # Seed 110000262: a coordinator that was cut off had said yes to round 1, and was given up.
    # Without it the others agreed on another round 1, and its copy passed for one of that.
    with played(seed, 5, timing=FAST) as play:
        world, away, partition = play.world, play.owners[0], play.place.partition
        play.put()
        world.run_for(1.0)
        key, rounds = play.key, away.node.replica.rounds
        of = away.node.topology.ring.partition_of
        beside = (b"beside-%d" % i for i in range(1000))
        play.key = next(k for k in beside if of(position(k)) == partition)
        context = asked(play, away, Op.PUT).context
        play.cut_off([away], noticed=False)
        delete = {"context": context, "write_id": bytes(15) + b"d", "value": b""}
        assert asked(play, away, Op.DELETE, **delete).kind == Kind.UNAVAILABLE
        world.run_until(lambda: bool(rounds.state(partition).said), PATIENCE_S)
        play.key = key
        _comes_back_after_the_key_was_reaped(play, away)


@pytest.mark.parametrize("seed", SEEDS)
def test_schedule_10_who_was_given_up_returns_after_the_key_was_reaped(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        away = play.owners[seed % 3]
        play.put()
        play.world.run_for(1.0)
        play.cut_off([away])
        _comes_back_after_the_key_was_reaped(play, away)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_copy_whose_tenure_has_ended_is_shown_to_nobody(seed: int) -> None:
    # Seed 140003813: who had been given up came back with its old volume. It knew the row of
    # now and took the round that the holders told, so that what it read at home, as a stand-in
    # for a holder that it couldn't reach, passed for something of that round.
    with played(seed, 3, r=3, w=3, timing=FAST) as play:
        away = play.owners[seed % 3]
        play.join()  # who is to follow `away`, which has no address for it
        play.put()
        play.world.run_for(1.0)
        play.cut_off([away])
        play.kill(away)
        play.start(away)
        _reaped_without(play, away)
        _shows_nothing_and_mends_nothing(play, away)
        _returns_without_the_key(play, away)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_half_pulled_copy_is_shown_to_nobody(seed: int) -> None:
    # The same with a copy that was being pulled as its node was given up.
    with played(seed, 4, r=3, w=3, timing=FAST) as play:
        world, old, new = play.world, play.owners[seed % 3], play.others[0]
        held = hold_pages(play, old, new)
        play.post(play.ring_of([m for m in world.machines if m is not old]), *world.machines)
        world.run_until(lambda: bool(held), PATIENCE_S)
        play.clients.at = next(m for m in play.owners if m is not old)
        play.put()
        world.run_until(lambda: bool(records_of(play, new)), 5.0)
        play.cut_off([new])
        play.kill(new)
        world.start(new)
        world.run_until(lambda: new.node is not None, PATIENCE_S)
        _reaped_without(play, new)
        world.block(old.name, new.name, True)
        world.block(new.name, old.name, True)
        assert new.node.custodies.of(play.place.partition).pulling is not None
        _shows_nothing_and_mends_nothing(play, new)
        play.join_again([new])
        _returns_without_the_key(play, new)
