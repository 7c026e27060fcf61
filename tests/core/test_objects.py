"""Objects: put, merge and bytes, over real histories and over hostile input."""

from functools import cache
from itertools import permutations
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.core.one_key import World
from tests.core.one_key_histories import random_history

from dynamo_core import objects
from dynamo_core.errors import Corrupt
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock, dot_to_bytes

A, B, C = (bytes([i]) * 16 for i in (1, 2, 3))
W1, W2 = b"1" * 16, b"2" * 16


def wrote(
    actor: bytes, n: int, value: bytes | None = b"v", *, write_id: bytes = b"", at: int = 0
) -> Sibling:
    own = write_id or actor[:8] + n.to_bytes(8, "big")
    return Sibling((actor, n), own, at, "text/plain", value)


@cache
def produced(seed: int) -> tuple[bytes, ...]:
    """Every object that any replica held in one random history of one key."""
    world = World(Random(seed), 4)
    random_history(world, 40)
    return tuple(dict.fromkeys(world.produced)) or (objects.to_bytes(ABSENT),)


@st.composite
def histories(draw: st.DrawFn, count: int) -> list[bytes]:
    """`count` encoded objects of the same real history."""
    pool = produced(draw(st.integers(0, 400)))
    return [pool[draw(st.integers(0, len(pool) - 1))] for _ in range(count)]


siblings = st.builds(
    Sibling,
    st.tuples(st.sampled_from([A, B]), st.integers(1, 3)),
    st.sampled_from([W1, W2]),
    st.integers(0, 1),
    st.sampled_from(["", "text/ü"]),
    st.sampled_from([None, b"", b"x"]),
)


@st.composite
def invented(draw: st.DrawFn) -> Object:
    """Well-formed, but of no real history: reused dots, clocks that claim too much."""
    some = draw(st.frozensets(siblings, max_size=4))
    vector = draw(st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 3), max_size=3))
    clock = Clock(vector, [s.dot for s in some])
    return objects.merge(Object(clock, tuple(some)), ABSENT)


def merged(*parts: bytes) -> bytes:
    whole = ABSENT
    for part in parts:
        whole = objects.merge(whole, objects.from_bytes(part))
    return objects.to_bytes(whole)


@given(histories(3))
def test_merge_laws_in_real_histories(parts: list[bytes]) -> None:
    expected = merged(*parts)
    for order in permutations(parts):
        assert merged(*order) == expected
    assert merged(expected, *parts) == expected
    a, b, c = map(objects.from_bytes, parts)
    assert objects.merge(a, objects.merge(b, c)) == objects.merge(objects.merge(a, b), c)
    assert objects.merge(a, a) == a == objects.merge(a, ABSENT) == objects.merge(ABSENT, a)


@given(invented(), invented(), invented())
def test_merge_laws_of_any_well_formed_objects(a: Object, b: Object, c: Object) -> None:
    assert objects.merge(a, b) == objects.merge(b, a)
    assert objects.merge(a, objects.merge(b, c)) == objects.merge(objects.merge(a, b), c)
    assert objects.merge(a, a) == a == objects.merge(a, ABSENT)


def check_merge_bytes(held: bytes, incoming: bytes) -> None:
    result = objects.merge_bytes(held, incoming)
    assert result == merged(held, incoming)
    # `is` tells the caller what happened: nothing is written and nothing repaired.
    assert (result is held) == (result == held)
    if result is not held:
        assert (result is incoming) == (result == incoming)
    assert objects.merge_bytes(None, incoming) is incoming
    a, b = objects.head_of(held), objects.head_of(incoming)
    if objects.replaces(a, objects.clock_of(a), b, objects.clock_of(b)):
        assert result is held


@given(histories(2))
def test_merge_bytes_agrees_with_merge(parts: list[bytes]) -> None:
    check_merge_bytes(*parts)
    check_merge_bytes(parts[0], objects.merge_bytes(*parts))
    check_merge_bytes(objects.merge_bytes(*parts), parts[0])


@given(invented(), invented())
def test_merge_bytes_agrees_with_merge_of_anything(a: Object, b: Object) -> None:
    check_merge_bytes(objects.to_bytes(a), objects.to_bytes(b))
    check_merge_bytes(objects.to_bytes(a), bytes(bytearray(objects.to_bytes(a))))


@given(st.one_of(invented(), histories(1).map(lambda parts: objects.from_bytes(parts[0]))))
def test_byte_form_round_trip(held: Object) -> None:
    data = objects.to_bytes(held)
    assert objects.from_bytes(data) == held
    assert objects.to_bytes(objects.from_bytes(data)) == data
    head = objects.head_of(data)
    assert data.startswith(head)
    assert objects.head_length(b"xx" + data, 2) == len(head)
    for part in (head, data):
        assert objects.clock_of(part) == held.clock
        assert objects.clock_bytes_of(part) == held.clock.to_bytes()
        assert objects.has_value(part) == any(s.value is not None for s in held.siblings)
        assert objects.head_of(part) == head


@given(histories(2), st.binary(max_size=20))
def test_heads_leaves_and_objects_are_equal_together(parts: list[bytes], key: bytes) -> None:
    a, b = parts
    heads = objects.head_of(a), objects.head_of(b)
    assert (heads[0] == heads[1]) == (a == b)
    leaves = [objects.leaf(key, head) for head in heads]
    assert (leaves[0] == leaves[1]) == (a == b)
    assert len(leaves[0]) == objects.LEAF_BYTES
    assert objects.leaf(key + b"\0", heads[0]) != leaves[0]


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"\1\0\1" + b)))
@example(b"\1\0\0\0\0\0\0")
def test_random_bytes_are_an_object_or_corrupt(data: bytes) -> None:
    readers = [objects.head_length, objects.head_of, objects.clock_of, objects.clock_bytes_of]
    for reader in [*readers, objects.has_value, lambda d: objects.merge_bytes(None, d)]:
        try:
            reader(data)
        except Corrupt:
            continue
    try:
        held = objects.from_bytes(data)
    except Corrupt:
        return
    assert objects.to_bytes(held) == data


@given(invented(), st.data())
def test_damaged_bytes_are_an_object_or_corrupt(held: Object, data: st.DataObject) -> None:
    whole = bytearray(objects.to_bytes(held))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    test_random_bytes_are_an_object_or_corrupt.hypothesis.inner_test(bytes(whole))
    for other in (objects.to_bytes(held), objects.to_bytes(ABSENT)):
        for pair in ((other, bytes(whole)), (bytes(whole), other)):
            try:
                objects.merge_bytes(*pair)
            except Corrupt:
                continue


@given(invented(), st.data())
def test_cut_or_extended_bytes_are_corrupt(held: Object, data: st.DataObject) -> None:
    whole = objects.to_bytes(held)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for wrong in (cut, whole + b"\0"):
        with pytest.raises(Corrupt):
            objects.from_bytes(wrong)
        with pytest.raises(Corrupt):
            objects.merge_bytes(None, wrong)


def encoded(clock: Clock, *rows: tuple[Sibling, int]) -> bytes:
    """The byte form with no check at all; each sibling with its tombstone byte."""
    parts = [b"\1", len(rows).to_bytes(2, "big"), clock.to_bytes()]
    parts += [dot_to_bytes(s.dot) + bytes([flag]) for s, flag in rows]
    for s, _ in rows:
        value = s.value or b""
        parts += [s.write_id, s.written_ms.to_bytes(8, "big")]
        parts += [len(s.content_type).to_bytes(2, "big"), len(value).to_bytes(4, "big")]
        parts += [s.content_type.encode(), value]
    return b"".join(parts)


ONE, TWO = wrote(A, 1), wrote(A, 2)
BOTH = Clock({A: 2})


@pytest.mark.parametrize(
    "data",
    [
        encoded(BOTH, (TWO, 0), (ONE, 0)),
        encoded(BOTH, (ONE, 0), (ONE, 0)),
        encoded(Clock({A: 1}), (ONE, 0), (TWO, 0)),
        encoded(BOTH, (ONE, 2)),
        encoded(BOTH, (ONE, 1)),
        b"\2" + encoded(BOTH, (ONE, 0))[1:],
        b"\0" + encoded(BOTH, (ONE, 0))[1:],
    ],
    ids=["unsorted", "repeated", "unclaimed", "flag 2", "full tombstone", "level 2", "level 0"],
)
def test_hostile_objects_are_corrupt(data: bytes) -> None:
    assert objects.from_bytes(encoded(BOTH, (ONE, 0), (TWO, 0)))
    with pytest.raises(Corrupt):
        objects.from_bytes(data)


@pytest.mark.parametrize(
    "sibling",
    [
        ONE._replace(content_type="x" * 0x10000),
        ONE._replace(content_type="text/\udcff"),
        ONE._replace(written_ms=-1),
        ONE._replace(written_ms=1 << 64),
    ],
    ids=["long type", "lone surrogate", "before the epoch", "far future"],
)
def test_what_does_not_fit_is_corrupt(sibling: Sibling) -> None:
    with pytest.raises(Corrupt):
        objects.to_bytes(Object(BOTH, (sibling,)))


def test_too_many_siblings_do_not_fit() -> None:
    many = tuple(wrote(A, i) for i in range(1, objects.SIBLINGS_MAX + 2))
    with pytest.raises(Corrupt, match="65536 siblings"):
        objects.to_bytes(Object(Clock({A: len(many)}), many))


def test_same_dot_with_different_contents_keeps_both() -> None:
    """A reused dot must never happen; if it does a duplicate shows, a loss doesn't."""
    x, y = wrote(A, 1, b"x", write_id=W1), wrote(A, 1, b"y", write_id=W2)
    first, second = (objects.put(ABSENT, EMPTY, s) for s in (x, y))
    both = objects.merge(first, second)
    assert both == objects.merge(second, first) == Object(Clock({A: 1}), (x, y))
    assert objects.merge(both, first) == both
    one, two = objects.to_bytes(first), objects.to_bytes(second)
    assert objects.head_of(one) == objects.head_of(two)
    assert objects.merge_bytes(one, two) == objects.to_bytes(both)
    later = objects.put(first, first.clock, wrote(A, 2))
    assert objects.merge(both, later) == later


def test_a_tombstone_and_an_empty_value_under_one_dot_sort_one_way() -> None:
    gone, empty = wrote(A, 1, None), wrote(A, 1, b"")
    a, b = Object(Clock({A: 1}), (gone,)), Object(Clock({A: 1}), (empty,))
    ways = [objects.merge(a, b), objects.merge(b, a), objects.merge(objects.merge(b, a), a)]
    assert len(set(ways)) == 1
    for first, second in permutations((gone, empty)):
        assert objects._sorted([first, second]) == objects._sorted([second, first])


def test_merging_a_part_of_what_is_held_is_told_as_no_change() -> None:
    """Else each late message rewrites the record and repair never goes quiet."""
    x = objects.put(ABSENT, EMPTY, wrote(A, 1))
    part, whole = objects.to_bytes(x), objects.to_bytes(objects.put(x, EMPTY, wrote(B, 1)))
    assert objects.merge_bytes(whole, part) is whole
    assert objects.merge_bytes(part, whole) is whole


def test_put_drops_exactly_what_the_context_covers() -> None:
    x, y, z = wrote(A, 1), wrote(B, 1), wrote(C, 1)
    held = objects.put(objects.put(ABSENT, EMPTY, x), EMPTY, y)
    assert held.siblings == (x, y)
    assert objects.put(held, Clock({A: 1}), z) == Object(Clock({A: 1, B: 1, C: 1}), (y, z))
    assert objects.put(held, held.clock, z).siblings == (z,)
    assert objects.put(held, EMPTY, z).siblings == (x, y, z)
    unseen_here = Clock({}, [(B, 7)])
    assert objects.put(ABSENT, unseen_here, z).clock == Clock({C: 1}, [(B, 7)])


def test_a_tombstone_is_a_write_like_any_other() -> None:
    x, gone, y = wrote(A, 1), wrote(A, 2, None), wrote(B, 1)
    deleted = objects.put(objects.put(ABSENT, EMPTY, x), Clock({A: 1}), gone)
    assert deleted == Object(Clock({A: 2}), (gone,))
    assert gone.is_tombstone
    assert not y.is_tombstone
    assert objects.shown(deleted) == objects.last_written(deleted) == ()
    assert not objects.has_value(objects.to_bytes(deleted))
    late = objects.put(ABSENT, EMPTY, x)
    assert objects.merge(deleted, late) == deleted
    beside = objects.merge(deleted, objects.put(ABSENT, EMPTY, y))
    assert beside.siblings == (gone, y)
    assert objects.shown(beside) == (y,)
    assert objects.shown(ABSENT) == objects.last_written(ABSENT) == ()


def test_a_write_tried_twice_shows_once_and_goes_at_once() -> None:
    a1, b1, c1 = wrote(A, 1, write_id=W1, at=5), wrote(B, 1, write_id=W1, at=6), wrote(C, 1, b"w")
    held = objects.put(objects.put(ABSENT, EMPTY, a1), EMPTY, b1)
    assert held.siblings == (a1, b1)
    assert objects.shown(held) == (b1,)
    assert objects.put(held, Clock({A: 1}), c1) == Object(Clock({A: 1, B: 1, C: 1}), (c1,))
    assert objects.put(held, EMPTY, c1).siblings == (a1, b1, c1)


@pytest.mark.parametrize(
    "other",
    [
        wrote(B, 1, b"other", write_id=W1),
        wrote(B, 1, None, write_id=W1),
        wrote(B, 1, b"", write_id=W1),
        wrote(B, 1, write_id=W1)._replace(content_type="text/html"),
    ],
    ids=["value", "tombstone", "empty", "type"],
)
def test_one_write_id_for_different_contents_is_two_writes(other: Sibling) -> None:
    a1, c1 = wrote(A, 1, write_id=W1), wrote(C, 1)
    held = objects.put(objects.put(ABSENT, EMPTY, a1), EMPTY, other)
    assert set(objects.shown(held)) == {s for s in (a1, other) if s.value is not None}
    assert objects.put(held, Clock({A: 1}), c1).siblings == (other, c1)
    assert objects.put(held, Clock({B: 1}), c1).siblings == (a1, c1)


@given(st.lists(siblings, max_size=6))
def test_last_written_is_the_latest_by_time_then_dot(some: list[Sibling]) -> None:
    latest = max(some, key=lambda s: (s.written_ms, s.dot), default=None)
    shown = objects.last_written(Object(EMPTY, tuple(some)))
    assert shown == (() if latest is None or latest.value is None else (latest,))


def test_deletes_with_an_old_context_do_not_pile_up() -> None:
    actor = b"a" * 16
    beside = Sibling((b"b" * 16, 1), b"b" * 16, 0, "", b"value")
    held = objects.put(ABSENT, EMPTY, beside)
    before = held
    for n in range(1, 1000):
        gone = Sibling((actor, n), n.to_bytes(16, "big"), 0, "", None)
        held = objects.put(held, EMPTY, gone)
        assert len(held.siblings) <= 1 + objects.TOMBSTONES_MAX
        if n == objects.TOMBSTONES_MAX:
            before = held  # what a replica holds that was away since
    assert beside in held.siblings
    assert all(held.clock.covers((actor, n)) for n in range(1, 1000))
    assert objects.merge(before, held) == held, "what went doesn't come back"
