"""Merkle: equal contents have equal roots, whatever the order and the detours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.errors import Corrupt
from dynamo_core.merkle import DEPTH, FANOUT, HASH_BYTES, SEGMENT_BITS, SEGMENTS, Tree, segment_of

LEAVES = st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
ENTRIES = st.lists(st.tuples(st.integers(0, SEGMENTS - 1), LEAVES), max_size=20)


def _tree(entries: list[tuple[int, bytes]]) -> Tree:
    tree = Tree()
    for segment, leaf in entries:
        tree.add(segment, leaf)
    return tree


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
    assert tree.differing(_tree(kept)) == []


@given(ENTRIES, st.integers(0, SEGMENTS - 1), LEAVES.filter(any))
def test_one_leaf_more_shows_in_its_segment_and_in_the_root(
    entries: list[tuple[int, bytes]], segment: int, leaf: bytes
) -> None:
    less, more = _tree(entries), _tree([*entries, (segment, leaf)])
    assert less.root() != more.root()
    assert less.differing(more) == more.differing(less) == [segment]


def test_levels_narrow_by_the_fanout_down_to_the_segments() -> None:
    tree = _tree([(5, b"\x01" * HASH_BYTES)])
    assert [len(tree.level(d)) for d in range(DEPTH + 1)] == [1, FANOUT, SEGMENTS]
    assert tree.level(0) == [tree.root()]
    assert [i for i, h in enumerate(tree.level(DEPTH)) if any(h)] == [5]


@given(st.binary(min_size=16, max_size=16), st.sampled_from([2**b for b in range(4, 14)]))
def test_the_segment_is_the_bits_behind_the_partition(digest: bytes, partitions: int) -> None:
    bits = "".join(f"{byte:08b}" for byte in digest)
    skip = partitions.bit_length() - 1
    assert segment_of(digest, partitions) == int(bits[skip : skip + SEGMENT_BITS], 2)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=30))
def test_segments_are_contiguous_in_stored_order(digests: list[bytes]) -> None:
    """Keys sort by digest, so one segment of one partition is one scan."""
    places = [(d[0] >> 4, segment_of(d, 16)) for d in sorted(digests)]
    assert places == sorted(places)


def test_a_tree_of_another_shape_is_refused() -> None:
    with pytest.raises(Corrupt, match="255 segments, not 256"):
        Tree([0] * 255)
