"""Seals, tenures and covers, step by step: who counts, who may delete, and who goes on."""

from itertools import combinations

import pytest
from tests.core.handover_network import Violation
from tests.core.handover_play import KEY, QUORUM_1_3, QUORUM_2_2, Play, seen
from tests.core.handover_world import ABSENT, KEYS

from dynamo_core.handover import Answer, Custody, Effect
from dynamo_core.slot_table import SlotTable
from dynamo_core.slots import Token, holders
from dynamo_core.tenures import Custodies, Held, Seal, Stage


def test_schedule_21_a_seal_that_a_newer_plan_supersedes_is_completed_and_then_moves_on() -> None:
    w = Play()
    bit = w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.turn(4)
    assert w.nodes[1].custody.seals
    w.ring((5, 2, 3))
    w.crash(w.nodes[1])
    w.crash(w.nodes[4])
    assert w.nodes[1].custody.seals == {0: Seal(Token(1, 0, 1), 4)}, "it outlives a crash"
    # Nobody else gets a seal of that tenure.
    assert w.nodes[1].custody.on_seal(0, Token(1, 0, 1), 5, True, (5, 2, 3)) is Answer.ROW
    w.turn(4, times=3)
    assert w.row(4)[0] == Token(1, 1, 4)
    w.end()
    assert w.row(1)[0] == Token(1, 2, 5)
    assert seen(w.nodes[5]) & bit


def test_schedule_21_a_successor_that_served_unseen_is_overridden() -> None:
    w = Play()
    w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.cut = {3}
    w.turn(1, 4, times=5)
    assert w.nodes[4].counts
    assert holders(w.row(2)) == (4, 2, 3)
    w.cut = {3, 1}
    served = w.put(4)
    assert w.acknowledged_bits() & served
    # Who only knows the first row gives node 1 up and wants node 5 in its place.
    w.cut = {4, 1, 2}
    w.ring((5, 2, 3), give_up=1, to=(3, 5, 6))
    assert w.row(5)[0] == Token(3, 0, 5)
    w.turn(5, 3, times=3)
    assert not w.nodes[5].counts, "one holder is not enough"
    w.cut = {4, 1}
    w.tell(w.nodes[5], 2)
    w.turn(2, 3, 5, times=4)
    assert w.nodes[5].counts
    assert seen(w.nodes[5]) & served
    # The overridden one is fenced off, and gives what it has before it deletes.
    w.cut = {1}
    w.tell(w.nodes[5], 4)
    w.flow()
    assert w.nodes[4].custody.seals == {0: Seal(Token(1, 1, 4), 0)}
    for a, b in combinations((5, 2, 3), 2):
        assert (seen(w.nodes[a]) | seen(w.nodes[b])) & served
    w.end()
    assert not w.nodes[4].custody.has_copy


def test_a_holder_that_lost_its_disk_takes_a_tenure_above_its_seals() -> None:
    w = Play()
    w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"sealed"}
    w.turn(4)
    lost = w.nodes[1]
    lost.disk = {"ring": lost.ring}
    lost.start()
    lost.adopt(lost.ring, w.row(2))
    assert lost.custody.held == {}
    assert lost.custody.unclaimed() == [0]
    w.turn(1, times=2)
    assert lost.custody.held[0].token == Token(1, 2, 1)
    assert Token(1, 0, 1).handed_to(4) < Token(1, 2, 1)
    w.lost = set()
    w.end()
    assert holders(w.row(2)) == (4, 2, 3)


def test_a_cover_of_another_tenure_or_another_copy_lets_nobody_delete() -> None:
    w = Play()
    w.put(1)
    custody = w.nodes[1].custody
    first, second = Token(1, 0, 1), Token(1, 2, 1)
    w.ring((4, 2, 3))
    w.turn(times=12)
    w.ring((1, 2, 3))
    w.turn(times=12)
    assert custody.held[0].token == second
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.turn(4)
    root = w.nodes[1].root
    assert custody.seals == {0: Seal(second, 4)}
    # What covered the first tenure's copy comes late; then one by nobody who holds it.
    assert custody.on_covered(0, first, root, root) is Effect.NONE
    assert custody.on_covered(0, second, root, root) is Effect.NONE
    assert custody.on_too_old(0, second) is Effect.NONE
    assert w.nodes[1].copy != (ABSENT,) * len(KEYS)
    w.end()


@pytest.mark.parametrize("quorum", [QUORUM_2_2, QUORUM_1_3])
def test_a_node_that_holds_two_slots_counts_once(quorum: int) -> None:
    """A seal that names a node, and a ring that nominates it for another slot.

    With W = 3 there are not W-1 other holders then that could know of its tenure.
    """
    w = Play(seed=quorum)
    w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"sealed", "offer"}
    w.turn(4)
    w.ring((1, 4, 3), give_up=2)
    w.lost = set()
    w.turn(1, 3, 4, times=6)
    assert [token.holder for token in w.row(4)].count(4) <= 2
    assert len({*holders(w.row(4))}) == len(holders(w.row(4)))
    w.end()
    assert {*holders(w.row(4))} == {1, 4, 3}


def test_a_holder_that_is_down_holds_up_no_other_slot() -> None:
    w = Play()
    w.ring((4, 5, 3))
    w.nodes[1].down, w.cut = True, {1}
    w.turn(2, 3, 4, 5, times=8)
    assert holders(w.row(3)) == (1, 5, 3)
    assert w.nodes[5].counts
    w.nodes[1].down = False
    w.end()
    assert holders(w.row(3)) == (4, 5, 3)


def test_who_is_named_by_a_seal_and_was_given_up_is_taken_for_one_that_had_it() -> None:
    w = Play()
    bit = w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"sealed"}
    w.turn(4)
    w.cut = {4}
    w.lost = set()
    w.ring((5, 2, 3), give_up=4, to=(1, 2, 3, 5, 6))
    assert w.row(1)[0] == Token(3, 0, 5)
    w.turn(times=8)
    assert holders(w.row(2)) == (5, 2, 3)
    assert seen(w.nodes[5]) & bit
    w.end()


def test_a_claim_waits_for_the_rows_of_others_and_stands_above_all_of_them() -> None:
    """Whoever tells an empty disk its row may not know the last tenure that the disk had."""
    w = Play()
    w.ring((4, 2, 3))
    w.turn(times=12)
    w.cut = {6}
    w.ring((1, 2, 3), to=(1, 2, 3, 4, 5))
    w.turn(times=12)
    w.ring((5, 2, 3), to=(1, 2, 3, 4, 5))
    w.until_asked(5)
    w.lost = {"sealed"}
    w.turn(5)
    lost = w.nodes[1]
    assert lost.custody.seals == {0: Seal(Token(1, 2, 1), 5)}
    # Its next disk is told by node 6, which knows of the first tenure alone.
    w.cut = {2, 3, 4, 5}
    lost.disk = {"ring": lost.ring}
    lost.start()
    lost.adopt(lost.ring, (Token(1, 0, 1), Token(1, 0, 2), Token(1, 0, 3)))
    w.turn(1, times=3)
    assert lost.custody.held == {}
    w.cut, w.lost = set(), {"offer", "sealed"}
    w.turn(1, times=2)
    assert lost.custody.held[0].token == Token(1, 4, 1) > Token(1, 2, 1).handed_to(5)
    w.end()


def test_the_old_side_keeps_its_copy_while_its_successor_holds_two_slots() -> None:
    """Two copies that acknowledged a write would become one, on one disk."""
    w = Play()
    bit = w.put(1)
    w.ring((2, 4, 3))  # node 1 goes, node 4 comes
    w.until_asked(4)
    w.lost = {"sealed"}
    w.turn(4)
    old = w.nodes[1]
    row = (Token(1, 1, 2), Token(1, 0, 2), Token(1, 0, 3))
    old.learn(row)
    assert old.custody.on_covered(0, Token(1, 0, 1), old.root, old.root) is Effect.NONE
    old.learn((Token(1, 2, 4), *row[1:]))
    assert old.custody.on_covered(0, Token(1, 0, 1), old.root, old.root) is Effect.EMPTY
    assert seen(old) & bit


def test_who_is_wanted_again_before_its_old_copy_is_covered_goes_on_with_it() -> None:
    w = Play()
    bit = w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"covered"}
    w.turn(times=5)
    assert w.nodes[4].counts
    assert w.nodes[1].custody.seals
    w.ring((1, 2, 3))
    w.turn(1, times=3)
    assert w.nodes[1].custody.pulling
    assert seen(w.nodes[1]) & bit
    w.turn(times=8)
    assert holders(w.row(2)) == (1, 2, 3)
    w.end()


def test_schedule_21_who_served_unseen_and_is_nominated_for_the_very_slot_keeps_its_copy() -> None:
    w = Play()
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.cut = {3}
    w.turn(1, 4, times=5)
    assert w.nodes[4].counts
    w.cut = {1, 3}
    served = w.put(4)
    assert w.acknowledged_bits() & served
    # Node 3 has heard of nothing: by its row node 1 held the slot when it was given up.
    w.cut = {2, 4}
    w.ring((4, 2, 3), give_up=1, to=(3, 6))
    assert w.row(3)[0] == Token(3, 0, 4)
    w.cut = {1}
    w.tell(w.nodes[3], 4)
    w.flow()
    new = w.nodes[4]
    assert new.custody.seals == {0: Seal(Token(1, 1, 4), 0)}
    assert new.custody.offers() == []
    assert new.custody.blocks_reaping(new.wanted)
    assert seen(new) & served
    w.turn(2, 3, 4, times=5)
    assert new.custody.held == {0: Held(Token(3, 2, 4), Stage.COUNTS)}
    assert new.custody.seals == {}
    assert seen(new) & served
    w.end()


def _late_walk(w: Play) -> None:
    """A reply to a walk comes after the copy was covered by another walk, deleted and reaped."""
    bit = w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"offer"}
    w.turn(4, times=4)
    w.lost = set()
    w.turn(1)
    w.late = {"fetched"}
    w.turn(1)
    fetched, w.held_back = w.held_back, []
    assert fetched
    w.late = {"covered"}
    w.turn(1)
    w.lost = {"fetched"}
    w.turn(1)
    w.lost = set()
    w.arrive()
    assert not w.nodes[1].custody.has_copy
    tomb = w.put(2, context=bit, tomb=True)
    w.round(2)
    assert w.reaped == {tomb: KEY}
    w.held_back = fetched
    w.arrive()
    assert w.nodes[4].rec(KEY) == ABSENT
    w.end()


def test_a_late_reply_to_a_walk_is_judged_by_the_round_that_is_committed_now() -> None:
    _late_walk(Play())
    with pytest.raises(Violation, match="is back"):
        _late_walk(Play(frozenset({"late walk"})))


def test_what_a_disk_held_under_another_number_does_not_count() -> None:
    """Two rings of one epoch may give a newcomer two numbers; the higher ring's is the one."""
    table = SlotTable(1)
    mine = Token(1, 3, 6)
    table.learn(0, (Token(1, 0, 1), Token(1, 0, 2), mine))
    custody = Custody(table, 0, 7)
    custody.load(Custodies({2: Held(mine, Stage.COUNTS)}, {}, None))
    assert not custody.counts
    assert custody.seals == {2: Seal(mine, 0)}, "it is handed over once the row shows to whom"
    custody.learn((Token(1, 0, 1), Token(1, 0, 2), Token(5, 2, 4)))
    assert custody.offers() == [(4, 2, Seal(mine, 0))]
