"""What follows for a copy that lay on a disk at a start (schedule 10), and KEPT's bytes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import copies
from dynamo_core.copies import Holding
from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.recovery import Lack
from dynamo_core.returning import Judged, Step, judge
from dynamo_core.rounds import Kept, Listed, State
from dynamo_core.slots import Row, Token

RING = RingName(3, b"r" * 16)


def _at(committed: int, *said: int, taken: int = 0, **more: Any) -> Holding:
    taken = max(taken, committed, *said, 0)
    return Holding(**{"sure": True, **more}, state=State(taken, committed, RING, said))


OLD = _at(4, sure=False)
EMPTY = _at(0, lack=Lack.EMPTY)


@pytest.mark.parametrize(
    ("mine", "heard", "step", "about"),
    [
        # The first that answers is enough: one of two has a disk that isn't old.
        (OLD, {}, Step.UNSURE, 0),
        (OLD, {2: _at(4)}, Step.SURE, 0),
        (OLD, {2: _at(3)}, Step.SURE, 0),
        # The round was agreed with this disk's yes.
        (_at(4, 5), {2: _at(5)}, Step.CATCH_UP, 5),
        # It was committed without: schedule 10.
        (OLD, {2: _at(5)}, Step.EMPTY, 5),
        (_at(4, 5), {2: _at(6)}, Step.EMPTY, 6),
        (_at(0, lack=Lack.UNCLEAN), {2: _at(1)}, Step.EMPTY, 1),
        (_at(1, lack=Lack.EMPTY, merged=True), {2: _at(2)}, Step.EMPTY, 2),
        # Nothing is deleted before another copy with the data counts.
        (OLD, {2: _at(5, sure=False)}, Step.WAIT, 5),
        (OLD, {2: _at(5, lack=Lack.UNCLEAN)}, Step.WAIT, 5),
        (OLD, {2: _at(5, lack=Lack.EMPTY)}, Step.WAIT, 5),
        (OLD, {2: _at(5, lack=Lack.EMPTY), 3: _at(4, 5)}, Step.WAIT, 5),
        # What is committed was kept by disks that are lost: the best of what is left stays.
        (OLD, {2: _at(5, lack=Lack.EMPTY), 3: _at(3)}, Step.TAKE_OVER, 5),
        (OLD, {2: _at(5, lack=Lack.EMPTY), 3: _at(4)}, Step.TAKE_OVER, 5),
        (_at(3), {2: _at(5, lack=Lack.EMPTY), 3: _at(4)}, Step.WAIT, 5),
        # A round that this disk doesn't know, and whose end nobody knows who was heard.
        (OLD, {2: _at(4, 5)}, Step.UNSURE, 0),
        (OLD, {2: _at(4, 5), 3: _at(4)}, Step.SURE, 5),
        (_at(4, taken=5), {2: _at(4, 5)}, Step.SURE, 0),
        # An empty copy only has to refuse what is older.
        (EMPTY, {2: _at(5)}, Step.TAKE_FLOOR, 5),
        (EMPTY, {}, Step.SURE, 0),
    ],
)
def test_schedule_10_a_copy_after_a_start(
    mine: Holding, heard: dict[int, Holding], step: Step, about: int
) -> None:
    judged = judge(mine, (2, 3), heard, heard, 2)
    assert judged[:2] == Judged(step, about)[:2]
    assert judged.ring == (RING if step not in (Step.SURE, Step.UNSURE) else judged.ring)


def test_a_complete_copy_that_cannot_be_reached_now_is_waited_for() -> None:
    assert judge(OLD, (2, 3), {2: _at(5)}, (), 2).step is Step.WAIT


def test_with_a_higher_w_more_owners_have_to_be_heard() -> None:
    assert judge(OLD, (2, 3), {2: _at(4)}, (2,), 3).step is Step.UNSURE
    assert judge(OLD, (2, 3), {2: _at(4), 3: _at(4)}, (2,), 3).step is Step.SURE
    assert judge(OLD, (), {}, (), 1).step is Step.SURE


def test_copies_too_old_to_be_merged() -> None:
    heard = {2: _at(5), 3: _at(4), 4: _at(4, 5), 5: EMPTY, 6: _at(0, lack=Lack.EMPTY, merged=True)}
    assert copies.too_old(heard) == [3, 6]
    assert copies.too_old({**heard, 1: _at(6)}) == [2, 3, 4, 6]
    assert copies.too_old({3: _at(0)}) == []


U64 = st.integers(0, 2**64 - 1)
BYTES_16 = st.binary(min_size=16, max_size=16)
RINGS = st.builds(RingName, U64, BYTES_16)
STATES = st.builds(State, U64, U64, RINGS, st.lists(U64, max_size=4).map(tuple))
HOLDINGS = st.builds(Holding, st.sampled_from(Lack), st.booleans(), st.booleans(), STATES)
ENTRIES = st.lists(st.builds(Listed, st.binary(min_size=17, max_size=60), BYTES_16), max_size=3)
NODES = st.lists(st.integers(1, 2**32 - 1), max_size=3).map(tuple)
KEPT = st.builds(Kept, U64, RINGS, NODES, ENTRIES.map(tuple))


@given(HOLDINGS, st.none() | KEPT)
def test_kept_of_one_partition(holding: Holding, kept: Kept | None) -> None:
    packed = copies.pack_kept_reply(holding, kept)
    assert copies.unpack_kept_reply(packed) == (holding, kept)


PARTITIONS = st.integers(0, 0xFFFF)
TOKENS = st.builds(Token, U64, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
ROWS = st.lists(TOKENS, max_size=4).map(tuple)


@given(
    st.dictionaries(PARTITIONS, HOLDINGS, max_size=5), st.dictionaries(PARTITIONS, ROWS, max_size=5)
)
def test_kept_of_many_partitions(holdings: dict[int, Holding], rows: dict[int, Row]) -> None:
    assert copies.unpack_holdings(copies.pack_holdings(holdings, rows)) == (holdings, rows)


@given(st.dictionaries(PARTITIONS, st.binary(min_size=8, max_size=8), max_size=5))
def test_what_kept_asks_for(rows: dict[int, bytes]) -> None:
    assert copies.unpack_asked(copies.pack_many(rows)) == (False, rows)
    for partition, row in rows.items():
        assert copies.unpack_asked(copies.pack_one(partition, row)) == (True, {partition: row})


def test_more_partitions_than_one_kept_may_ask_for_are_refused() -> None:
    packed = copies.pack_many(dict.fromkeys(range(copies.MANY_MAX + 1), bytes(8)))
    with pytest.raises(Corrupt):
        copies.unpack_asked(packed)


@given(st.binary(max_size=80))
def test_anything_else_is_corrupt(data: bytes) -> None:
    for unpack in (copies.unpack_kept_reply, copies.unpack_holdings, copies.unpack_asked):
        try:
            unpack(data)  # type: ignore[operator]
        except Corrupt:
            continue
