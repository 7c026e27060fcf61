"""Clocks against a dumb model: the set of all dots that a clock claims."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.errors import Corrupt
from dynamo_core.versions import (
    COUNTS_BYTES,
    DOT_BYTES,
    EMPTY,
    ENTRIES_MAX,
    Clock,
    Dot,
    clock_from_bytes,
    clock_length,
    dot_from_bytes,
    dot_text,
    dot_to_bytes,
)

ACTORS = [bytes([i]) * 16 for i in (1, 2, 3)]
A, B, C = ACTORS

dots = st.tuples(st.sampled_from(ACTORS), st.integers(1, 6))
dot_sets = st.frozensets(dots, max_size=12)
clocks = st.builds(
    Clock, st.dictionaries(st.sampled_from(ACTORS), st.integers(1, 5), max_size=3), dot_sets
)


def claimed(clock: Clock) -> frozenset[Dot]:
    """The dumb model of a clock."""
    below = {(actor, i) for actor, n in clock.vector.items() for i in range(1, n + 1)}
    return frozenset(below) | clock.dots


@given(dot_sets)
def test_a_clock_claims_exactly_its_dots(some: frozenset[Dot]) -> None:
    clock = Clock({}, some)
    assert claimed(clock) == some
    for actor in ACTORS:
        for n in range(1, 8):
            assert clock.covers((actor, n)) == ((actor, n) in some)
    assert bool(clock) == bool(some)


@given(clocks)
def test_canonical_form(clock: Clock) -> None:
    for actor, n in clock.dots:
        assert n > clock.vector.get(actor, 0) + 1
    assert Clock({}, claimed(clock)) == clock
    assert hash(Clock({}, claimed(clock))) == hash(clock)
    assert Clock(dict(clock.vector), clock.dots) == clock


@given(clocks, st.permutations(sorted({(a, n) for a in ACTORS for n in range(1, 4)})))
def test_with_dot_in_any_order(clock: Clock, some: list[Dot]) -> None:
    grown = clock
    for dot in some:
        before = claimed(grown)
        grown = grown.with_dot(dot)
        assert claimed(grown) == before | {dot}
    assert grown == clock.join(Clock(dict.fromkeys(ACTORS, 3)))


@given(clocks, clocks, clocks)
def test_join_is_the_least_upper_bound(a: Clock, b: Clock, c: Clock) -> None:
    assert claimed(a.join(b)) == claimed(a) | claimed(b)
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(a) == a == a.join(EMPTY) == EMPTY.join(a)
    assert a.join(b).to_bytes() == b.join(a).to_bytes()


@given(clocks, clocks, clocks)
def test_descends_is_the_partial_order_of_claimed_sets(a: Clock, b: Clock, c: Clock) -> None:
    for x in (a, b, c):
        for y in (a, b, c):
            assert x.descends(y) == (claimed(x) >= claimed(y))
    assert a.join(b).descends(a)
    assert (a == b) == (a.descends(b) and b.descends(a))


@given(clocks, clocks)
def test_joining_changes_neither_side(a: Clock, b: Clock) -> None:
    before = a.to_bytes(), b.to_bytes()
    a.join(b)
    a.with_dot((C, 9))
    assert (a.to_bytes(), b.to_bytes()) == before


@given(clocks, clocks, st.binary(max_size=5), st.binary(max_size=5))
def test_byte_form_round_trip(a: Clock, b: Clock, before: bytes, after: bytes) -> None:
    encoded = a.to_bytes()
    assert clock_from_bytes(encoded) == a
    assert clock_from_bytes(before + encoded + after, len(before)) == a
    assert clock_length(before + encoded, len(before)) == len(encoded)
    assert (a == b) == (encoded == b.to_bytes())


@given(st.binary(max_size=120))
def test_random_bytes_are_canonical_or_corrupt(data: bytes) -> None:
    try:
        clock = clock_from_bytes(data)
    except Corrupt:
        return
    assert data.startswith(clock.to_bytes())


counted = st.tuples(
    st.lists(st.tuples(st.sampled_from(ACTORS), st.integers(0, 5)), max_size=4),
    st.lists(st.tuples(st.sampled_from(ACTORS), st.integers(0, 7)), max_size=4),
)


@given(counted)
def test_well_counted_bytes_are_canonical_or_corrupt(parts: tuple[list[Dot], list[Dot]]) -> None:
    """Entries in any order, repeated, covered, adjacent or zero: one clock has one form."""
    vector, singles = parts
    counts = len(vector).to_bytes(2, "big") + len(singles).to_bytes(2, "big")
    data = counts + b"".join(dot_to_bytes(d) for d in vector + singles)
    try:
        clock = clock_from_bytes(data)
    except Corrupt:
        return
    assert clock.to_bytes() == data


@given(clocks, st.data())
def test_cut_bytes_are_corrupt(clock: Clock, data: st.DataObject) -> None:
    encoded = clock.to_bytes()
    with pytest.raises(Corrupt):
        clock_from_bytes(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize(
    "entries",
    [
        [(B, 1), (A, 1)],
        [(A, 1), (A, 1)],
        [(A, 1), (A, 2)],
        [(A, 0)],
        [(A, 1), (B, 0)],
    ],
    ids=["unsorted", "repeated", "twice", "zero alone", "zero beside"],
)
def test_hostile_vectors_are_corrupt(entries: list[Dot]) -> None:
    data = len(entries).to_bytes(2, "big") + bytes(2) + b"".join(map(dot_to_bytes, entries))
    with pytest.raises(Corrupt):
        clock_from_bytes(data)


def test_a_clock_too_large_for_its_byte_form_says_so() -> None:
    entries = {i.to_bytes(16, "big"): 1 for i in range(ENTRIES_MAX)}
    full = Clock(entries)
    assert clock_from_bytes(full.to_bytes()) == full
    with pytest.raises(Corrupt, match="65536 entries"):
        Clock({**entries, A: 1}).to_bytes()


@pytest.mark.parametrize("n", [-1, 1 << 64])
def test_a_counter_that_does_not_fit_is_corrupt(n: int) -> None:
    with pytest.raises(Corrupt):
        Clock({A: n}).to_bytes()
    with pytest.raises(Corrupt):
        dot_to_bytes((A, n))


@given(st.binary(max_size=40))
def test_dot_bytes(data: bytes) -> None:
    try:
        dot = dot_from_bytes(data)
    except Corrupt:
        assert len(data) < DOT_BYTES or not any(data[16:DOT_BYTES])
        return
    assert dot_to_bytes(dot) == data[:DOT_BYTES]
    assert dot_from_bytes(b"xx" + data, 2) == dot


def test_texts_for_people() -> None:
    dot = (bytes.fromhex("00000007" + "0123456789abcdef" + "00000002"), 5)
    assert dot_text(dot) == "7.0123456789abcdef.2:5"
    far = Clock({dot[0]: 1}, [dot])
    assert repr(far) == "Clock[7.0123456789abcdef.2:1 (7.0123456789abcdef.2:5)]"
    assert len(EMPTY.to_bytes()) == COUNTS_BYTES
    assert EMPTY != "Clock[]"
