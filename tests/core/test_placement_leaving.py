"""Who leaves stays in the ring until it is drained, given up, replaced or wanted again."""

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.placement_nodes import AT, first, node, nodes, replanned

from dynamo_core.errors import CallerError
from dynamo_core.handover import Custody, Effect
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.ring import Ring
from dynamo_core.slot_table import SlotTable, drained, given_up
from dynamo_core.slots import Token
from dynamo_core.tenures import Seal

FIVE = first(nodes(5))


def numbers(of: Sequence[object]) -> list[int]:
    return [each.number for each in of]  # type: ignore[attr-defined]


def news(ring: Ring) -> list[tuple[str, str, int]]:
    """What the last ring's history adds."""
    return [(e.event, e.name, e.number) for e in ring.history if e.epoch == ring.epoch]


def test_who_leaves_is_named_apart_as_it_was_and_stays_there() -> None:
    after = next_ring(FIVE, nodes(3), AT)
    assert (numbers(after.members), after.leaving) == ([1, 2, 3], FIVE.members[3:])
    assert news(after) == [("left", "n3", 4), ("left", "n4", 5)]
    assert not {4, 5} & {*after.owners, *(n for row in after.slots for n in row)}
    later = next_ring(after, [*nodes(3), node("n5")], AT)
    assert (numbers(later.members), later.leaving) == ([1, 2, 3, 6], after.leaving)
    assert news(later) == [("joined", "n5", 6)]
    assert given_up(later) == {}
    assert Ring.from_bytes(later.to_bytes()) == later


def test_a_ring_that_only_drops_who_is_drained_moves_nothing() -> None:
    leaving = next_ring(FIVE, nodes(3), AT)
    after = next_ring(leaving, nodes(3), AT, drained=(5,))
    assert (after.members, numbers(after.leaving)) == (leaving.members, [4])
    assert (after.owners, after.slots) == (leaving.owners, leaving.slots)
    assert replanned(after, leaving).report.changes == ()
    assert (after.epoch, after.parent, news(after)) == (3, leaving.id, [])
    assert given_up(after) == {}
    assert next_ring(after, nodes(3), AT, drained=[4]).leaving == ()


def test_who_is_wanted_again_with_its_disk_keeps_its_number() -> None:
    leaving = next_ring(FIVE, nodes(3), AT)
    back = Candidate("n4", "", "2", "elsewhere", 1, 2, 3, FIVE.member(5).disk_id)
    after = next_ring(leaving, [*nodes(3), back], AT)
    assert after.member(5) == back.numbered(5)
    assert (numbers(after.members), numbers(after.leaving)) == ([1, 2, 3, 5], [4])
    assert news(after) == [("joined", "n4", 5)]
    assert after.next_number == leaving.next_number
    assert given_up(after) == {}
    # It leaves once more, and is told of once more.
    assert news(next_ring(after, nodes(3), AT)) == [("left", "n4", 5)]


def test_who_is_wanted_again_after_it_was_dropped_is_somebody_new() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(next_ring(leaving, nodes(4), AT, drained=[5]), nodes(5), AT)
    assert (numbers(after.members), after.leaving) == ([1, 2, 3, 4, 6], ())
    assert news(after) == [("joined", "n4", 6)]
    assert given_up(after) == {}, "it was drained: there is nothing to declare void"


def test_a_leaving_member_wanted_with_another_disk_is_replaced() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, [*nodes(4), node("n4", disk=2)], AT)
    assert (numbers(after.members), after.leaving) == ([1, 2, 3, 4, 6], ())
    assert news(after) == [("replaced", "n4", 6)]
    assert given_up(after) == {5: 3}
    again = next_ring(after, nodes(5), AT)
    assert news(again) == [("replaced", "n4", 7)], "the first disk comes back, under a new number"
    assert given_up(again) == {5: 3, 6: 4}


def test_the_last_bearer_is_the_one_that_is_replaced() -> None:
    """It left, came back and left again, or bore the name after one that was drained."""
    ring = next_ring(next_ring(next_ring(FIVE, nodes(4), AT), nodes(5), AT), nodes(4), AT)
    after = next_ring(ring, [*nodes(4), node("n4", disk=2)], AT)
    assert given_up(after) == {5: 5}
    ring = next_ring(next_ring(FIVE, nodes(4), AT), nodes(4), AT, drained=[5])
    ring = next_ring(next_ring(ring, nodes(5), AT), nodes(4), AT)
    assert numbers(ring.leaving) == [6]
    after = next_ring(ring, [*nodes(4), node("n4", disk=2)], AT)
    assert given_up(after) == {6: 6}


def test_a_drained_member_may_be_followed_by_another_disk_in_the_same_ring() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, [*nodes(4), node("n4", disk=2)], AT, drained=[5])
    assert news(after) == [("joined", "n4", 6)]
    assert given_up(after) == {}


def test_who_is_given_up_is_named_nowhere_and_its_tokens_are_void() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, nodes(3), AT, give_up=(4, 5))
    assert (numbers(after.members), after.leaving) == ([1, 2, 3], ())
    assert news(after) == [("given-up", "n3", 4), ("given-up", "n4", 5)]
    assert given_up(after) == {4: 3, 5: 3}
    # A later disk of that name is somebody new, whatever else has happened meanwhile.
    later = next_ring(next_ring(after, nodes(4), AT), nodes(5), AT)
    assert news(later) == [("joined", "n4", 7)]
    assert given_up(later) == {4: 3, 5: 3}
    table = SlotTable(256)
    for ring in (FIVE, leaving, after, later):
        table.adopt(ring)
    assert not {4, 5} & {t.holder for p in range(256) for t in table.row(p)}


def test_slots_of_who_was_drained_are_for_their_targets_to_claim() -> None:
    """A stale disk may hand such a node a slot; its number is in no ring, so nobody is asked."""
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, nodes(4), AT, drained=[5])
    assert (drained(FIVE), drained(leaving), drained(after)) == (set(), set(), {5})
    assert drained(next_ring(leaving, nodes(4), AT, give_up=[5])) == set(), "those tokens are void"
    partition = next(p for p, row in enumerate(FIVE.slots) if 5 in row)
    slot = FIVE.slots[partition].index(5)
    table = SlotTable(256)
    table.adopt(FIVE)
    table.adopt(leaving)
    (target,) = set(after.slots[partition]).difference(FIVE.slots[partition])
    assert table.orphans(partition, target) == [], "it is there to hand over"
    table.adopt(after)
    assert table.orphans(partition, target) == [slot]
    assert not any(table.orphans(partition, n) for n in range(1, 6) if n != target)
    others = [n for n in FIVE.slots[partition] if n != 5]
    custody = Custody(table, partition, target)
    assert custody.unclaimed() == [slot]
    assert custody.claim(others[:1], needed=2) == Effect.NONE
    assert custody.claim(others, needed=2)
    assert table.row(partition)[slot] == Token(1, 2, target)
    assert custody.unclaimed() == table.orphans(partition, target) == []


def test_a_seal_that_names_who_was_drained_leaves_the_slot_to_its_target() -> None:
    """Only a disk that was rolled back has one: nobody is drained while somebody has sealed to
    it. Its copy serves no more, and the successor never comes for it."""
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, nodes(4), AT, drained=[5])
    partition = next(p for p, row in enumerate(FIVE.slots) if 5 not in row)
    holder = FIVE.slots[partition][0]
    for ring, raised in ((leaving, False), (after, True)):
        table = SlotTable(256)
        table.adopt(FIVE)
        custody = Custody(table, partition, holder)
        custody.seals[0] = Seal(Token(1, 0, holder), 5)
        table.adopt(ring)
        custody.adopted(given_up(ring), ring.slots[partition])
        mine = Token(1, 0, holder)
        assert table.row(partition)[0] == (mine.handed_to(5) if raised else mine)
        assert custody.unclaimed() == ([0] if raised else [])


@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_pulled_from_who_was_drained_is_let_go_before_the_claim(sealed: bool) -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, nodes(4), AT, drained=[5])
    partition = next(p for p, row in enumerate(FIVE.slots) if 5 in row)
    slot, source = FIVE.slots[partition].index(5), Token(1, 0, 5)
    (target,) = set(after.slots[partition]).difference(FIVE.slots[partition])
    table = SlotTable(256)
    table.adopt(FIVE)
    table.adopt(leaving)
    custody = Custody(table, partition, target)
    if sealed:  # what it had before, and handed over: that isn't emptied
        custody.seals[slot] = Seal(Token(0, 7, target), 5)
    assert custody.begin(slot, source, 0)
    table.adopt(after)
    assert custody.adopted(given_up(after), after.slots[partition]) == Effect.NONE
    assert custody.pulling, "a claim comes in its place, and not before enough are heard"
    others = [n for n in FIVE.slots[partition] if n != 5]
    assert custody.claim(others[:1], needed=2) == Effect.NONE
    assert custody.pulling
    empty = Effect.NONE if sealed else Effect.EMPTY
    assert custody.claim(others, needed=2) == empty | Effect.CLAIM
    assert custody.pulling is None


def test_who_is_asked_to_accept_a_loss_instead_of_who_was_drained() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    after = next_ring(leaving, nodes(4), AT, drained=[5])
    table = SlotTable(256)
    for ring in (FIVE, leaving):
        table.adopt(ring)
        assert [table.answerable(p) for p in range(256)] == [*FIVE.slots]
    table.adopt(after)
    assert [{*table.answerable(p)} for p in range(256)] == [{*row} for row in after.slots]


def test_who_is_given_up_and_has_a_new_disk_hands_down_its_place() -> None:
    after = next_ring(FIVE, [*nodes(4), node("n4", disk=2)], AT, give_up=[5])
    assert news(after) == [("given-up", "n4", 5), ("replaced", "n4", 6)]
    assert after.owners == tuple(6 if n == 5 else n for n in FIVE.owners)
    assert (after.leaving, given_up(after)) == ((), {5: 2})


def test_who_is_drained_and_given_up_is_given_up() -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    for members in (nodes(4), [*nodes(4), node("n4", disk=2)]):
        after = next_ring(leaving, members, AT, drained=[5], give_up=[5])
        assert news(after)[0] == ("given-up", "n4", 5)
        assert (after.leaving, given_up(after)) == ((), {5: 3})


def test_everything_at_once_is_told_in_one_order() -> None:
    """Who goes for good, who leaves, then who comes or changes, as they were wanted."""
    ring = next_ring(first(nodes(9)), nodes(7), AT)
    members = [node("n9"), node("n0", disk=2), *nodes(4)[1:], node("n4", capacity="2"), node("n7")]
    after = next_ring(ring, members, AT, drained=[9], give_up=[6])
    assert news(after) == [
        ("given-up", "n5", 6),
        ("left", "n6", 7),
        ("joined", "n9", 10),
        ("replaced", "n0", 11),
        ("reweighed", "n4", 5),
        ("joined", "n7", 8),
    ]
    assert numbers(after.members) == [2, 3, 4, 5, 8, 10, 11]
    assert numbers(after.leaving) == [7]
    assert given_up(after) == {1: 3, 6: 3}


@pytest.mark.parametrize(
    ("wanted", "drained", "give_up", "said"),
    [
        (4, [4], [], r"drained is 4; it must be the number of a leaving member \(5\)"),
        (4, [9], [], r"drained is 9; it must be the number of a leaving member \(5\)"),
        (5, [5], [], "drained names 5, which is n4, and n4 is wanted with the disk that it has"),
        (4, [], [6], r"give_up is 6; .* a node that the ring names \(1, 2, 3, 4, 5\)"),
        (4, [], [3], "give_up names 3, which is n2, and n2 is wanted with the disk that it has"),
        (5, [], [5], "give_up names 5, which is n4, and n4 is wanted with the disk that it has"),
    ],
)
def test_what_a_ring_cannot_do_is_refused(
    wanted: int, drained: Collection[int], give_up: Collection[int], said: str
) -> None:
    leaving = next_ring(FIVE, nodes(4), AT)
    with pytest.raises(CallerError, match=said):
        next_ring(leaving, nodes(wanted), AT, drained, give_up)


def test_a_first_ring_has_nobody_leaving() -> None:
    assert FIVE.leaving == ()
    with pytest.raises(CallerError, match=r"drained is 5; .* leaving member \(there is none\)"):
        next_ring(FIVE, nodes(5), AT, drained=[5])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_wanted_nobody_is_forgotten(data: st.DataObject) -> None:
    """Each node of a ring is in the next one, or was drained, given up or replaced."""
    ring = first_ring("c0" * 16, "cart", nodes(4), 2, 16, AT)
    bearers = {n.number: (n.name, n.disk_id) for n in ring.members}
    void: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        names = data.draw(st.lists(st.integers(0, 6), min_size=2, max_size=6, unique=True))
        wanted = [node(f"n{i}", disk=data.draw(st.integers(1, 2))) for i in names]
        same = {(one.name, one.disk_id) for one in wanted}
        unwanted = [n.number for n in ring.everybody if (n.name, n.disk_id) not in same]
        drained = [n for n in unwanted if n in numbers(ring.leaving) and data.draw(st.booleans())]
        give_up = [n for n in unwanted if data.draw(st.sampled_from([False, False, True]))]
        old, ring = ring, next_ring(ring, wanted, AT, drained, give_up)

        assert {(m.name, m.disk_id) for m in ring.members} == same
        for each in ring.everybody:
            assert bearers.setdefault(each.number, (each.name, each.disk_id)) == (
                each.name,
                each.disk_id,
            ), "a number is one disk's under one name, for ever"
        heirs = {one.name for one in wanted}
        for gone in {*numbers(old.everybody)} - {*numbers(ring.everybody)}:
            was = old.node(gone)
            assert gone in drained or gone in give_up or was.name in heirs
            if gone in give_up or gone not in drained:
                void[gone] = ring.epoch
        assert given_up(ring) == void
        assert not void.keys() & {*numbers(ring.everybody)}
        assert {*numbers(ring.leaving)} <= {*numbers(old.everybody)}
        assert Ring.from_bytes(ring.to_bytes()) == ring


@pytest.mark.parametrize(("before", "meanwhile"), [(5, 4), (4, 5), (9, 6), (3, 6)])
def test_who_changes_his_mind_moves_nothing_that_has_not_moved(before: int, meanwhile: int) -> None:
    settled = first(nodes(before))
    changed = next_ring(settled, nodes(meanwhile), AT)
    assert changed.slots != settled.slots
    back = next_ring(changed, nodes(before), AT, settled=settled)
    assert (back.owners, back.slots, back.members) == (
        settled.owners,
        settled.slots,
        settled.members,
    )
    assert (back.epoch, back.parent) == (3, changed.id)
    other = next_ring(changed, nodes(before + 1), AT, settled=settled)
    assert other.slots == next_ring(changed, nodes(before + 1), AT).slots, "it is no way back"
