"""Anti-entropy's core against a dumb model: two replicas of random objects become equal."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core import antientropy, exchange, merkle, objects
from dynamo_core.antientropy import Found, find, narrow, runs
from dynamo_core.errors import Corrupt
from dynamo_core.exchange import Difference, Fetched, Got, Verdict, verdict
from dynamo_core.merkle import SEGMENTS, Tree, first_place
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.ring import partition_of, position
from dynamo_core.versions import EMPTY

Q = 16
SHARED = list(range(Q))


def _blind(actor: int, dead: bool = False) -> bytes:
    sibling = Sibling(
        (bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", None if dead else b"v%d" % actor
    )
    return objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))


class Side:
    """One replica: a dictionary; its trees are computed from it whenever they are asked for."""

    def __init__(self, held: dict[bytes, bytes]) -> None:
        self.held = held
        self.rounds: dict[int, int] = {}
        self.recovering: set[int] = set()
        self.other_rows: dict[int, bytes] = {}
        self.sealed: set[int] = set()

    def row(self, partition: int) -> bytes:
        return self.other_rows.get(partition, b"%08d" % partition)

    def rows(self, partitions: Sequence[int]) -> bytes:
        return b"".join(map(self.row, partitions))

    def takes(self, partition: int) -> bool:
        return partition not in self.sealed

    def leaves(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        places = sorted(position(key) + key for key in self.held)
        return [(p, self.leaf(p[16:]) or b"") for p in places if start <= p < end]

    def leaf(self, key: bytes) -> bytes | None:
        obj = self.held.get(key)
        return None if obj is None else objects.leaf(key, objects.head_of(obj))

    def merge(self, key: bytes, obj: bytes) -> None:
        self.held[key] = objects.merge_bytes(self.held.get(key), obj)

    def _tree(self, partition: int) -> Tree:
        tree = Tree()
        for key in self.held:
            if partition_of(position(key), Q) == partition:
                tree.add(merkle.segment_of(position(key), Q), self.leaf(key) or b"")
        return tree

    def root(self, partition: int) -> bytes:
        return self._tree(partition).root()

    def inner(self, partition: int) -> bytes:
        return self._tree(partition).inner()

    def segments(self, partition: int, node: int) -> bytes:
        return self._tree(partition).segments(node)

    def committed(self, partition: int) -> int:
        return self.rounds.get(partition, 0)

    def counts(self, partition: int) -> bool:
        return partition not in self.recovering | self.sealed


def _run(
    steps: Generator[bytes | None, bytes, Any],
    peer: Side,
    pause: Any = None,
    shared: Sequence[int] = SHARED,
) -> Any:
    """Drive the asking side against `peer`; `pause()` happens in each pause."""
    try:
        payload = next(steps)
        while True:
            if payload is None:
                if pause is not None:
                    pause()
                payload = next(steps)
            else:
                payload = steps.send(antientropy.answer(peer, shared, payload))
    except StopIteration as end:
        return end.value


def _exchange(here: Side, there: Side, partition: int, segments: list[int]) -> tuple[int, int]:
    """(sent, received), through the messages' bytes."""
    sent = received = 0
    for first, last in runs(segments):
        asked = exchange.pack_list(
            partition, first_place(partition, first, Q), first_place(partition, last, Q)
        )
        _, start, end = exchange.unpack_list(asked)
        theirs, more = exchange.unpack_leaves(exchange.pack_leaves(there.leaves(start, end), False))
        assert not more
        listed = exchange.differing(here.leaves(start, end), theirs)
        keys = [d.place[16:] for d in listed]
        assert exchange.unpack_fetch(exchange.pack_fetch(partition, keys)) == (partition, keys)
        items = [
            Fetched(Got.OBJECT, 7, there.held[k])
            if k in there.held
            else Fetched(Got.NOTHING, 7, b"")
            for k in keys
        ]
        assert exchange.unpack_fetched(exchange.pack_fetched(items)) == items
        for difference, item in zip(listed, items, strict=True):
            key = difference.place[16:]
            assert verdict(difference, here.leaf(key), there.leaf(key)) == Verdict.REPAIR
            if item.obj:
                before = here.leaf(key)
                here.merge(key, item.obj)
                received += here.leaf(key) != before
            if here.leaf(key) != there.leaf(key):
                there.merge(key, here.held[key])
                sent += 1
    return sent, received


KEYS = st.binary(min_size=1, max_size=3)
OBJECTS = st.builds(_blind, st.integers(1, 3), st.booleans())
CONTENTS = st.dictionaries(KEYS, OBJECTS, max_size=12)


@settings(deadline=None, max_examples=60)
@given(CONTENTS, CONTENTS, CONTENTS)
def test_two_replicas_become_equal_and_then_nothing_moves(
    common: dict[bytes, bytes], mine: dict[bytes, bytes], theirs: dict[bytes, bytes]
) -> None:
    here, there = Side(common | mine), Side(common | theirs)
    union = dict(here.held)
    for key, obj in there.held.items():
        union[key] = objects.merge_bytes(union.get(key), obj)
    changed = [k for k in union if here.held.get(k) != there.held.get(k)]
    found = _run(find(here, SHARED), there)
    assert sorted(found.equal + found.differing) == SHARED
    assert set(found.differing) == {partition_of(position(k), Q) for k in changed}
    narrowed = _run(narrow(here, found.differing), there)
    assert not narrowed.moved
    moved = 0
    for partition, segments in narrowed.segments.items():
        sent, received = _exchange(here, there, partition, segments)
        moved += sent + received
    assert (moved > 0) == bool(changed)
    assert here.held.keys() == there.held.keys() == union.keys()
    assert all(here.leaf(k) == there.leaf(k) == Side(union).leaf(k) for k in union)
    assert _run(find(here, SHARED), there) == Found(SHARED, [], [], [], [])


def test_equal_replicas_cost_one_question() -> None:
    here = Side({b"k%d" % n: _blind(1) for n in range(40)})
    steps = find(here, SHARED)
    asked = next(steps)
    assert asked is not None
    assert len(asked) == 37
    with pytest.raises(StopIteration) as end:
        steps.send(antientropy.answer(Side(dict(here.held)), SHARED, asked))
    assert end.value.value.equal == SHARED


def test_what_arrives_during_the_pause_is_not_repaired() -> None:
    here, there = Side({b"a": _blind(1), b"b": _blind(1)}), Side({})
    found = _run(find(here, SHARED), there)
    narrowed = _run(
        narrow(here, found.differing), there, pause=lambda: there.merge(b"a", _blind(1))
    )
    assert {partition_of(position(b"b"), Q)} == set(narrowed.segments)


def test_a_key_that_has_moved_since_it_was_listed_is_left_alone() -> None:
    place = position(b"k") + b"k"
    listed = Difference(place, b"old", None)
    assert verdict(listed, b"new", b"new") == Verdict.SAME
    assert verdict(listed, b"new", None) == Verdict.MOVING
    assert verdict(listed, b"old", b"new") == Verdict.MOVING
    assert verdict(listed, b"new", None, insist=True) == Verdict.REPAIR
    assert verdict(listed, b"old", None) == Verdict.REPAIR


def test_partitions_of_different_rounds_are_not_compared_further() -> None:
    here, there = Side({b"a": _blind(1)}), Side({})
    partition = partition_of(position(b"a"), Q)
    there.rounds[partition] = there.rounds[(partition + 1) % Q] = 3
    found = _run(find(here, SHARED), there)
    assert found.rounds == sorted([(partition, 3), ((partition + 1) % Q, 3)])
    assert found.differing == []
    assert len(found.equal) == Q - 2


def test_who_recovers_claims_nothing_but_is_compared() -> None:
    here, there = Side({b"a": _blind(1)}), Side({b"a": _blind(1)})
    partition = partition_of(position(b"a"), Q)
    there.recovering.add(partition)
    found = _run(find(here, SHARED), there)
    assert found.recovering == [partition]
    assert found.differing == []
    assert partition not in found.equal
    there.held.clear()
    found = _run(find(here, SHARED), there)
    assert found.recovering == found.differing == [partition]


def test_where_nobody_counts_one_question_is_enough() -> None:
    """A node that waits for a lost owner for days is asked every second."""
    here = Side({b"k%d" % n: _blind(1) for n in range(40)})
    there = Side(dict(here.held))
    there.recovering.update(SHARED)
    steps = find(here, SHARED)
    asked = next(steps)
    assert asked is not None
    with pytest.raises(StopIteration) as end:
        steps.send(antientropy.answer(there, SHARED, asked))
    assert end.value.value == Found([], [], SHARED, [], [])
    there.recovering.discard(3)
    rest = [p for p in SHARED if p != 3]
    assert _run(find(here, SHARED), there) == Found([3], [], rest, [], [])
    there.merge(b"more", _blind(2))
    differing = partition_of(position(b"more"), Q)
    found = _run(find(here, SHARED), there)
    assert found.differing == [differing]
    assert {*found.equal, *found.recovering, *found.differing} == {*SHARED}


# Tokens that one side knows and the other doesn't yet


@settings(deadline=None, max_examples=60)
@given(CONTENTS, CONTENTS, st.sets(st.sampled_from(SHARED)), st.sets(st.sampled_from(SHARED)))
def test_what_moves_keeps_nothing_else_from_being_compared(
    mine: dict[bytes, bytes], theirs: dict[bytes, bytes], moved: set[int], gone: set[int]
) -> None:
    """In a long transfer a row changes every second: the others are compared all the same."""
    here, there = Side(mine), Side(theirs)
    there.other_rows = dict.fromkeys(moved, b"newer...")
    shared = [p for p in SHARED if p not in gone]  # of which the peer knows that it has no slot
    found = _run(find(here, SHARED), there, shared=shared)
    assert found.moved == sorted(moved | gone)
    changed = {k for k in mine.keys() | theirs.keys() if here.leaf(k) != there.leaf(k)}
    differing = {partition_of(position(k), Q) for k in changed} - moved - gone
    assert found.differing == sorted(differing)
    assert found.equal == [p for p in SHARED if p not in differing | moved | gone]


def test_equal_rows_of_other_partitions_are_not_taken_for_agreement() -> None:
    """Empty partitions are alike, and so may their rows be: their numbers are compared too."""
    here, there = Side({}), Side({})
    here.other_rows = there.other_rows = dict.fromkeys(SHARED, b"the same")
    found = _run(find(here, [1, 3, 5]), there, shared=[1, 2, 5])
    assert (found.equal, found.moved) == ([1, 5], [3])


def test_a_row_that_changes_in_mid_walk_ends_that_partition_alone() -> None:
    keys = [b"k%d" % n for n in range(40)]
    here, there = Side(dict.fromkeys(keys, _blind(1))), Side({})
    found = _run(find(here, SHARED), there)
    first, second = found.differing[:2]
    there.other_rows[first] = b"newer..."

    def changes() -> None:
        here.other_rows[second] = b"newer..."

    narrowed = _run(narrow(here, found.differing), there, pause=changes)
    assert narrowed.moved == {first, second}
    assert sorted(narrowed.segments) == [p for p in found.differing if p not in (first, second)]


def test_a_sealed_copy_is_neither_compared_nor_filled() -> None:
    """Its successor walks it as it is; nothing is put into it, whatever it lacks."""
    here, there = Side({b"a": _blind(1)}), Side({})
    partition = partition_of(position(b"a"), Q)
    there.sealed.add(partition)
    found = _run(find(here, SHARED), there)
    assert found.recovering == [partition]
    assert partition not in found.equal + found.differing


def test_runs_join_neighbours() -> None:
    assert runs([]) == []
    assert runs([0, 1, 2, 5, 7, 8]) == [(0, 3), (5, 6), (7, 9)]
    assert runs(list(range(SEGMENTS))) == [(0, SEGMENTS)]


@given(st.binary(max_size=600))
def test_malformed_messages_are_refused_and_nothing_else(payload: bytes) -> None:
    side = Side({})
    for decode in (
        lambda: antientropy.answer(side, SHARED, payload),
        lambda: antientropy.answer(side, SHARED, b"\x00" + payload),
        lambda: antientropy.answer(side, SHARED, b"\x01" + payload),
        lambda: antientropy.answer(side, SHARED, b"\x02" + payload),
        lambda: antientropy.unpack_agreed(payload),
        lambda: exchange.unpack_list(payload),
        lambda: exchange.unpack_leaves(payload),
        lambda: exchange.unpack_fetch(payload),
        lambda: exchange.unpack_fetched(payload),
        lambda: _fed(find(side, SHARED), payload),
        lambda: _fed(narrow(side, SHARED), payload),
    ):
        with suppress(Corrupt):
            decode()


def _fed(steps: Generator[bytes | None, bytes, Any], reply: bytes) -> None:
    next(steps)
    with suppress(StopIteration):  # it may be an answer by chance
        steps.send(reply)


def test_a_question_about_a_node_that_no_tree_has_is_refused() -> None:
    side = Side({})
    asked = antientropy._SEGMENTS.pack(5, side.row(5), 16, bytes(256))
    with pytest.raises(Corrupt, match="node 16 of a hash tree"):
        antientropy.answer(side, [5], b"\x02" + asked)


class Unwalked(list[int]):
    """A list that says when somebody goes through all of it."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("all partitions are gone through for one range")


def test_many_ranges_of_many_partitions_are_found_without_going_through_all() -> None:
    """256 ranges of 8192 partitions would hold up the loop for a tenth of a second."""
    side = Side({b"a": _blind(1)})
    asked = [
        antientropy._RANGE.pack(p, p, side.row(p), 0, antientropy._hash(side, [p])) for p in SHARED
    ]
    reply = antientropy.answer(side, Unwalked(SHARED), b"\x00" + b"".join(asked))
    assert reply == bytes(Q)
