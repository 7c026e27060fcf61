"""Actors: births under a lease, marks, and no dot twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.actors import (
    BIRTHS_MAX,
    LeaseExhausted,
    Minter,
    actor_bytes,
    actor_incarnation,
    actor_node,
    newest_node,
)
from dynamo_core.errors import DynamoError
from dynamo_core.versions import Clock, Dot

HERE = b"incarn-1"
OTHER = b"incarn-2"


@given(st.integers(1, 0xFFFFFFFF), st.binary(min_size=8, max_size=8), st.integers(1, BIRTHS_MAX))
def test_actor_parts(number: int, incarnation: bytes, birth: int) -> None:
    actor = actor_bytes(number, incarnation, birth)
    assert len(actor) == 16
    assert actor_node(actor) == number
    assert actor_incarnation(actor) == incarnation


def test_a_marked_record_goes_on_with_its_actor() -> None:
    minter = Minter(3, HERE, lease_end=10)
    first = minter.next_dot(None)
    assert first == (actor_bytes(3, HERE, 1), 1)
    assert minter.next_dot(first) == (first[0], 2)
    assert minter.next_dot((first[0], 2)) == (first[0], 3)
    assert minter.births_left() == 8


@pytest.mark.parametrize(
    "mark",
    [None, (actor_bytes(3, OTHER, 1), 4), (actor_bytes(4, HERE, 1), 4)],
    ids=["no record or pulled", "another incarnation", "another node"],
)
def test_any_other_record_takes_a_new_birth(mark: Dot | None) -> None:
    minter = Minter(3, HERE, next_birth=5, lease_end=10)
    assert minter.next_dot(mark) == (actor_bytes(3, HERE, 5), 1)
    assert minter.next_dot(mark) == (actor_bytes(3, HERE, 6), 1)


def test_no_birth_beyond_the_durable_lease() -> None:
    minter = Minter(3, HERE)
    with pytest.raises(LeaseExhausted, match="birth 1"):
        minter.next_dot(None)
    minter.extended(2)
    kept = minter.next_dot(None)
    with pytest.raises(LeaseExhausted, match="birth 2"):
        minter.next_dot(None)
    assert minter.next_dot(kept) == (kept[0], 2)  # needs no birth
    assert minter.births_left() == 0


def test_a_lease_never_shrinks_and_never_overflows() -> None:
    minter = Minter(3, HERE, lease_end=10)
    for wrong in (9, 0, -1, BIRTHS_MAX + 1):
        with pytest.raises(DynamoError, match=r"10\.\."):
            minter.extended(wrong)
    minter.extended(10)
    minter.extended(BIRTHS_MAX)
    minter.next_birth = BIRTHS_MAX - 1
    assert actor_node(minter.next_dot(None)[0]) == 3
    with pytest.raises(LeaseExhausted):
        minter.next_dot(None)


@pytest.mark.parametrize("incarnation", [b"", b"7 bytes", b"nine byte", b"x" * 16])
def test_an_incarnation_of_another_length_is_refused(incarnation: bytes) -> None:
    """Packed into 8 bytes it would be cut or padded, and two could become one."""
    with pytest.raises(DynamoError, match="8"):
        Minter(3, incarnation)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 9)), max_size=40))
def test_no_dot_twice_over_records_leases_and_restarts(
    steps: list[tuple[int, bool, int]],
) -> None:
    """Records keep or lose their mark; a restart (roll 0) goes on at the end of the lease."""
    minter = Minter(3, HERE)
    marks: dict[int, Dot] = {}
    issued = set()
    for record, forgotten, roll in steps:
        if roll == 0:
            minter = Minter(3, HERE, minter.lease_end, minter.lease_end)
        if forgotten:
            marks.pop(record, None)
        if not minter.births_left():
            minter.extended(minter.lease_end + 3)
        dot = minter.next_dot(marks.get(record))
        assert dot not in issued
        assert (dot[1] == 1) == (record not in marks)
        issued.add(dot)
        marks[record] = dot


def test_the_newest_node_that_a_clock_knows_of() -> None:
    actors = [actor_bytes(number, HERE, 1) for number in (3, 9, 7)]
    assert newest_node(Clock({})) == 0
    assert newest_node(Clock({actors[0]: 2, actors[1]: 1}, [(actors[2], 5)])) == 9
    assert newest_node(Clock({actors[0]: 2}, [(actors[2], 5)])) == 7
