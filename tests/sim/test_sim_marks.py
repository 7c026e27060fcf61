"""Marks "needs anti-entropy" on virtual time: what clears them, and what doesn't."""

from typing import Any

import pytest
from tests.sim.replicas import OFTEN, Replicas, blind, replicas
from tests.sim.world import Machine

from dynamo_core.ring import position
from dynamo_core.tenures import Stage
from dynamo_node.marks import Marks

# Whose word it takes


async def nothing(*args: Any) -> None:
    pass


def test_a_mark_isnt_cleared_by_who_can_vouch_for_nothing() -> None:
    """What the mark is about may be what this disk has lost."""
    with replicas(timing=OFTEN) as play:
        a, b = play.owners[:2]
        assert a.node is not None
        assert b.node is not None
        partition = a.node.replica.partition_of(position(play.key))
        a.node.recovery._todo = list  # type: ignore[method-assign]  # it stays so
        a.node.standing.unclean([partition])
        a.node.replica.hints.mark(b.node.topology.number, partition)
        play.world.run_for(10.0)
        assert a.node.replica.hints.marks()
        a.node.standing.completed(partition, False)
        play.world.run_for(10.0)
        assert not a.node.replica.hints.marks()
        a.node.reaper.copies._sure.discard(partition)  # nor by a copy that may be an old one
        a.node.reaper.copies._settle = nothing  # type: ignore[method-assign]
        a.node.replica.hints.mark(b.node.topology.number, partition)
        play.world.run_for(10.0)
        assert a.node.replica.hints.marks()


def test_a_foreign_mark_that_stays_starves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicas(4) as play:
        machine = play.world.machines[0]
        me = machine.node
        assert me is not None
        ring = me.topology.ring
        assert ring is not None
        foreign = [p for p in range(ring.partitions) if p not in me.topology.owned][:3]
        for partition in foreign:
            me.replica.hints.mark(ring.slots[partition][0], partition)
        asked: list[int] = []

        async def all_agree(self: Any, partition: int, owners: list[int]) -> bool:
            asked.append(partition)
            return partition != foreign[0]

        monkeypatch.setattr(Marks, "_all_agree", all_agree)
        for _ in range(6):
            play.do(machine, me.antientropy._turn())
        assert [p for p, _, _ in me.replica.hints.marks()] == foreign[:1]
        assert {*asked} == {*foreign}


# Targets whose slot has gone elsewhere


def marks(machine: Machine) -> list[tuple[int, int]]:
    """(partition, target) of all that a machine keeps."""
    assert machine.node is not None
    return [(p, target) for p, target, _ in machine.node.replica.hints.marks()]


def settle(play: Replicas, machine: Machine) -> None:
    """Let a machine try one of its marks."""
    assert machine.node is not None
    play.do(machine, machine.node.antientropy.marks.settle_one())


def moved(play: Replicas, new: Machine, old: Machine, told: list[Machine]) -> int:
    """`new` has taken over the slot of `old`, which is gone: the number of that one.

    Its copy is empty; `told` are the machines that know it besides.
    """
    assert old.node is not None
    number = old.node.topology.number
    row = play.takes_over(new, old, play.partition)
    play.kill(old)
    for machine in told:
        play.learn(machine, play.partition, row)
    play.world.run_for(0.1)
    return number


@pytest.mark.parametrize("keeper", ["a holder", "a stand-in"])
def test_a_mark_for_who_holds_no_slot_any_more_is_cleared_by_all_present_holders(
    keeper: str,
) -> None:
    """Any of them may be the one that took the target's place without the value."""
    with replicas(5) as play:
        a, b, c = play.owners
        new, other = play.others
        for machine in (b, c):
            play.merge(machine, play.key, blind(1))
        target = moved(play, new, a, [b, c, other])
        keeps = b if keeper == "a holder" else other
        assert keeps.node is not None
        keeps.node.replica.hints.mark(target, play.partition)
        play.kill(c)
        settle(play, keeps)
        assert marks(keeps) == [(play.partition, target)], "one of the holders isn't heard"
        play.start(c)
        play.world.run_for(5.0)
        settle(play, keeps)
        assert marks(keeps) == []
        assert play.held(new, play.key) == blind(1)


def test_a_holder_that_doesnt_count_yet_clears_no_mark() -> None:
    """What it is said to lack it may be about to get; it can't say so."""
    with replicas(5) as play:
        a, b, c = play.owners
        new, other = play.others
        for machine in (b, c):
            play.merge(machine, play.key, blind(1))
        target = moved(play, new, a, [b, c, other])
        assert new.node is not None
        custody = new.node.custodies.of(play.partition)
        before = dict(custody.held)
        custody.held = {s: held._replace(stage=Stage.TAKEN) for s, held in before.items()}
        custody._put()
        for keeper in (b, other):
            assert keeper.node is not None
            keeper.node.replica.hints.mark(target, play.partition)
            settle(play, keeper)
            assert marks(keeper) == [(play.partition, target)]
        assert play.held(new, play.key) == blind(1), "it gets what it lacks all the same"
        custody.held = before
        custody._put()
        for keeper in (b, other):
            settle(play, keeper)
            assert marks(keeper) == []


def test_an_agreement_of_before_a_slot_moved_clears_no_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has taken it over meanwhile was not asked."""
    with replicas(5) as play:
        a, b, c = play.owners
        for machine in (b, c):
            play.merge(machine, play.key, blind(1))
        assert a.node is not None
        assert b.node is not None
        b.node.replica.hints.mark(a.node.topology.number + 100, play.partition)  # nobody's
        number, new = c.node.topology.number, play.others[0].node.topology.number  # type: ignore[union-attr]
        row = b.node.topology.row(play.partition)
        row = tuple(t.handed_to(new) if t.holder == number else t for t in row)
        compare, compared = b.node.antientropy.marks._compare, []

        async def then_it_moves(number: int, partitions: list[int]) -> Any:
            tally = await compare(number, partitions)
            compared.append(number)
            if len(compared) == 2:
                b.node.custodies.learn(play.partition, row)  # type: ignore[union-attr]
            return tally

        monkeypatch.setattr(b.node.antientropy.marks, "_compare", then_it_moves)
        settle(play, b)
        assert len(compared) == 2
        assert marks(b)
