"""Puts step by step: who is sent what, who stands in for whom, and when W is reached."""

from tests.core.quorum_nodes import OTHERS, OWNERS, well

from dynamo_core.put_quorum import PutQuorum, Send
from dynamo_core.records import NOBODY


def test_w_is_reached_by_the_second_of_two() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1)
    assert put.acked(3)
    assert not put.acked(2)
    assert (put.primary, put.standin, put.settled) == (3, 0, True)


def test_an_owner_that_does_not_count_yet_stands_in_for_itself() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well)
    put.start()
    assert not put.acked(2, counts=False)
    assert (put.primary, put.standin) == (0, 1)
    assert put.acked(1)
    assert (put.primary, put.standin) == (1, 1)
    assert not put.acked(2), "what it said once was no holder's word"
    assert (put.primary, put.standin) == (1, 1)
    assert not put.acked(3)
    assert (put.primary, put.standin, put.settled) == (2, 1, True)


def test_a_coordinator_that_does_not_count_keeps_the_write_as_a_hint_for_itself() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well, counts=False)
    assert put.start() == [Send(1, 1), Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1, 1)
    assert put.acked(2)
    assert (put.primary, put.standin) == (1, 1)
    # Where its own hint can't be kept, somebody stands in for it like for any other owner.
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well, counts=False)
    put.start()
    assert put.failed(1, 1) == [Send(4, 1)]
    assert not put.acked(2, counts=False)
    assert put.acked(4, 1)
    assert (put.primary, put.standin) == (0, 2)


def test_an_owner_that_does_not_count_and_its_stand_in_are_one_copy() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well)
    put.start()
    assert put.hedge() == [Send(4, 2), Send(5, 3)]
    assert not put.acked(2, counts=False)
    assert not put.acked(4, 2), "delivered, both are on one disk"
    assert (put.primary, put.standin) == (0, 1)
    assert put.acked(5, 3)
    assert (put.primary, put.standin) == (0, 2)


def test_the_hint_of_a_stand_in_counts_for_its_owner_alone_whatever_it_holds_itself() -> None:
    put = PutQuorum((1, 2), (3,), 1, 2, well)
    put.start()
    put.hedge()
    assert not put.acked(3, 2, counts=False)
    assert not put.acked(2), "the stand-in's hint is for this very owner"
    assert put.got == 1
    assert put.acked(1)


def test_a_dead_owner_is_stood_in_for_and_that_counts_towards_w() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 3, lambda node: node not in (3, 4))
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(5, 3)]
    assert not put.acked(1)
    assert not put.acked(2)
    assert put.acked(5, 3)
    assert (put.primary, put.standin) == (2, 1)


def test_a_stand_in_that_fails_hands_on_to_the_next_and_at_last_to_the_coordinator() -> None:
    put = PutQuorum(OWNERS, (4, 5), 1, 2, well)
    put.start()
    assert put.failed(3) == [Send(4, 3)]
    assert put.failed(4, 3) == [Send(5, 3)]
    assert put.failed(5, 3) == [Send(1, 3)]
    assert put.failed(5, 3) == [], "a failure that comes twice changes nothing"
    assert not put.acked(1)
    assert put.got == 1, "a hint beside the coordinator's own copy is no second node"
    assert put.acked(2)


def test_a_slow_owner_is_hedged_once_and_counts_once_with_its_stand_in() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 3, well)
    put.start()
    put.acked(1)
    put.acked(2)
    assert put.hedge() == [Send(4, 3)]
    assert put.failed(3) == [], "its hint is on its way already"
    assert put.acked(4, 3)
    assert not put.acked(3), "late, but welcome"
    assert (put.primary, put.standin) == (3, 0)
    assert put.hedge() == [], "W is reached: nothing to hedge"


def test_nodes_that_only_seem_dead_are_tried_where_w_needs_them() -> None:
    put = PutQuorum(OWNERS, (4,), 1, 3, lambda node: False)
    hints = [Send(1, 2), Send(1, 3)]
    assert put.start() == [Send(1, NOBODY), *hints, Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1)
    assert put.failed(2) == [Send(4, 2)], "the next one; its owner's hint is kept already"
    assert not put.acked(3)
    assert put.acked(4, 2)
    assert (put.primary, put.standin, put.settled) == (2, 1, True)


def test_a_silent_node_is_no_reason_to_spare_one_that_only_seems_dead() -> None:
    put = PutQuorum(OWNERS, (), 1, 2, lambda node: node == 2)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(1, 3)]
    assert not put.acked(1)
    assert put.hedge() == [Send(3, NOBODY)]
    assert put.give_up_waiting() == [Send(1, 2)], "and at the end nobody new is tried"


def test_a_coordinator_that_is_no_owner_keeps_its_copy_as_a_hint() -> None:
    put = PutQuorum(OWNERS, OTHERS, 5, 2, lambda node: node != 2)
    assert put.start() == [Send(5, 2), Send(1, NOBODY), Send(3, NOBODY)]
    assert not put.acked(5, 2)
    assert put.acked(1)
    assert (put.primary, put.standin) == (1, 1)


def test_schedule_17_full_hint_stores_refuse_no_write_that_needs_them() -> None:
    # Owners 2 and 3 are down; stand-ins 4 and 5 have no room for their hints.
    put = PutQuorum((1, 2, 3), (4, 5), 1, 2, lambda node: node not in (2, 3))
    assert put.start() == [Send(1, NOBODY), Send(4, 2), Send(5, 3)]
    assert not put.acked(1)
    # Nobody is left who could: the hint stays at home, and the other one may still be taken.
    assert put.no_room(4, 2) == [Send(1, 2)]
    over = put.no_room(5, 3)
    assert over == [Send(1, 3), Send(2, NOBODY)], "a node that only seems dead is tried first"
    assert put.failed(2) == [Send(3, NOBODY)]
    assert put.failed(3) == [Send(4, 2, over=True)]
    assert put.acked(4, 2)
    assert (put.primary, put.standin) == (1, 1)


def test_room_is_not_forced_where_w_is_reached_without_it() -> None:
    put = PutQuorum((1, 2, 3), (4,), 1, 2, lambda node: node != 3)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(4, 3)]
    assert not put.acked(1)
    assert put.acked(2)
    assert put.no_room(4, 3) == [Send(1, 3)]
    assert put.settled


def test_an_owner_and_its_stand_in_are_one_copy() -> None:
    # Seed 2007949: the hint went to an owner that had the write already, and its disk was lost.
    put = PutQuorum((1, 2), (3,), 1, 2, well)
    put.start()
    assert put.hedge() == [Send(3, 2)]
    assert put.failed(1) == [], "nobody is left to stand for it"
    assert not put.acked(2)
    assert not put.acked(3, 2), "delivered, both are one"
    assert (put.primary, put.standin, put.reached) == (1, 0, False)
    # A stand-in whose owner has answered stands for another one too.
    put = PutQuorum((1, 2), (3,), 1, 2, well)
    put.start()
    put.hedge()
    put.acked(2)
    put.acked(3, 2)
    assert put.failed(1) == [Send(3, 1)]
    assert put.acked(3, 1)


def _with_a_spare_stand_in() -> PutQuorum:
    """4 has the write for 2, which has it itself by now; 3 is silent, and W is 3."""
    put = PutQuorum((1, 2, 3), (4,), 1, 3, well)
    put.start()
    put.acked(1)
    assert put.hedge() == [Send(4, 2)]
    put.acked(4, 2)
    put.acked(2)
    return put


def test_a_stand_in_that_can_not_be_reached_again_is_not_asked_for_ever() -> None:
    # Seed 10002306: its link had gone, so each try failed at once and led to the next.
    put = _with_a_spare_stand_in()
    assert put.failed(3) == [Send(1, 3), Send(4, 3)], "kept at home, and by whom W needs"
    assert put.failed(4, 3) == []
    assert put.settled


def test_a_stand_in_without_room_for_a_second_hint_is_asked_to_keep_it_all_the_same() -> None:
    put = _with_a_spare_stand_in()
    assert put.failed(3) == [Send(1, 3), Send(4, 3)]
    assert put.no_room(4, 3) == [Send(4, 3, over=True)]
    assert put.no_room(4, 3) == [], "nobody answers so, and it would go on for ever"
    assert put.settled


def test_a_silent_stand_in_is_not_asked_again_at_each_hedge() -> None:
    put = _with_a_spare_stand_in()
    assert put.hedge() == [Send(4, 3)]
    assert put.hedge() == []
    assert put.acked(4, 3)


def test_a_stand_in_takes_the_part_of_the_coordinator_whose_disk_fails() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, well)
    put.start()
    assert put.failed(1) == [Send(4, 1)]
    assert not put.acked(4, 1)
    assert put.acked(3)
