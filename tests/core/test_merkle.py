"""Merkle: equal contents have equal roots, whatever the order and the detours."""

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.merkle import (
    EMPTY_ROOT,
    FANOUT,
    HASH_BYTES,
    INNER_NODES,
    NODE_BYTES,
    PLACES_END,
    SEGMENT_BITS,
    SEGMENTS,
    Tree,
    first_place,
    index_of,
    segment_of,
)
from dynamo_core.ring import partition_of

LEAVES = st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
ENTRIES = st.lists(st.tuples(st.integers(0, SEGMENTS - 1), LEAVES), max_size=20)
DIGESTS = st.binary(min_size=16, max_size=16)
PARTITIONS = st.sampled_from([2**b for b in range(4, 14)])


def _tree(entries: list[tuple[int, bytes]]) -> Tree:
    tree = Tree()
    for segment, leaf in entries:
        tree.add(segment, leaf)
    return tree


def _dumb_root(tree: Tree) -> bytes:
    """The root, hashed anew from nothing but the segments."""
    segments = [tree.segment(s) for s in range(SEGMENTS)]
    inner = [
        blake2b(b"".join(segments[at : at + FANOUT]), digest_size=HASH_BYTES).digest()
        for at in range(0, SEGMENTS, FANOUT)
    ]
    return blake2b(b"".join(inner), digest_size=HASH_BYTES).digest()


@given(ENTRIES, st.randoms(use_true_random=False))
def test_order_does_not_matter(entries: list[tuple[int, bytes]], random: object) -> None:
    mixed = list(entries)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert _tree(entries).root() == _tree(mixed).root()


@given(ENTRIES, ENTRIES)
def test_remove_undoes_add_in_any_order(
    kept: list[tuple[int, bytes]], passing: list[tuple[int, bytes]]
) -> None:
    tree = _tree(passing + kept)
    for segment, leaf in passing:
        tree.remove(segment, leaf)
    assert tree.root() == _tree(kept).root()


@given(ENTRIES, st.integers(0, SEGMENTS - 1), LEAVES.filter(any))
def test_one_leaf_more_shows_in_its_segment_its_node_and_the_root(
    entries: list[tuple[int, bytes]], segment: int, leaf: bytes
) -> None:
    less, more = _tree(entries), _tree([*entries, (segment, leaf)])
    assert less.root() != more.root()
    differing = [s for s in range(SEGMENTS) if less.segment(s) != more.segment(s)]
    assert differing == [segment]
    nodes = [n for n in range(INNER_NODES) if less.segments(n) != more.segments(n)]
    assert nodes == [segment // FANOUT]
    assert less.inner() != more.inner()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, SEGMENTS - 1), LEAVES), max_size=20))
def test_hashes_that_are_kept_are_those_of_the_segments(
    steps: list[tuple[bool, int, bytes]],
) -> None:
    tree = Tree()
    for look, segment, leaf in steps:
        tree.add(segment, leaf)
        if look:
            assert tree.root() == _dumb_root(tree)
            assert tree.hashed
    assert tree.root() == _dumb_root(tree)


def test_the_children_of_every_node_take_as_much_room() -> None:
    tree = _tree([(5, b"\x01" * HASH_BYTES)])
    assert len(tree.inner()) == len(tree.segments(0)) == NODE_BYTES
    assert [s for s in range(SEGMENTS) if any(tree.segment(s))] == [5]
    assert Tree().root() == EMPTY_ROOT != tree.root()


@given(DIGESTS, PARTITIONS)
def test_the_segment_is_the_bits_behind_the_partition(digest: bytes, partitions: int) -> None:
    bits = "".join(f"{byte:08b}" for byte in digest)
    skip = partitions.bit_length() - 1
    assert segment_of(digest, partitions) == int(bits[skip : skip + SEGMENT_BITS], 2)
    assert index_of(digest, partitions) == int(bits[: skip + SEGMENT_BITS], 2)


@given(st.lists(DIGESTS, max_size=30))
def test_segments_are_contiguous_in_stored_order(digests: list[bytes]) -> None:
    """Keys sort by digest, so one segment of one partition is one scan."""
    places = [(d[0] >> 4, segment_of(d, 16)) for d in sorted(digests)]
    assert places == sorted(places)


@given(DIGESTS, st.binary(min_size=1, max_size=8), PARTITIONS)
def test_a_place_lies_between_its_segments_bounds(
    digest: bytes, key: bytes, partitions: int
) -> None:
    partition, segment = partition_of(digest, partitions), segment_of(digest, partitions)
    start = first_place(partition, segment, partitions)
    assert start <= digest + key < first_place(partition, segment + 1, partitions)


def test_the_last_place_of_all_is_within_the_last_segment() -> None:
    for partitions in (16, 8192):
        end = first_place(partitions - 1, SEGMENTS, partitions)
        assert b"\xff" * 16 + b"\xff" * 1024 < end == PLACES_END
