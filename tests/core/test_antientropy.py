"""Anti-entropy's core against a dumb model: two replicas of random objects become equal."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core import antientropy, exchange, merkle, objects
from dynamo_core.antientropy import Found, find, narrow, runs
from dynamo_core.errors import Corrupt
from dynamo_core.exchange import Difference, Fetched, Got, Verdict, verdict
from dynamo_core.merkle import EMPTY_ROOT, SEGMENTS, Tree, first_place
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
        return partition not in self.recovering


def _run(steps: Generator[bytes | None, bytes, Any], peer: Side, pause: Any = None) -> Any:
    """Drive the asking side against `peer`; `pause()` happens in each pause."""
    try:
        payload = next(steps)
        while True:
            if payload is None:
                if pause is not None:
                    pause()
                payload = next(steps)
            else:
                payload = steps.send(antientropy.answer(peer, SHARED, payload))
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
    moved = 0
    for partition, segments in narrowed.items():
        sent, received = _exchange(here, there, partition, segments)
        moved += sent + received
    assert (moved > 0) == bool(changed)
    assert here.held.keys() == there.held.keys() == union.keys()
    assert all(here.leaf(k) == there.leaf(k) == Side(union).leaf(k) for k in union)
    assert _run(find(here, SHARED), there) == Found(SHARED, [], [], [])


def test_equal_replicas_cost_one_question() -> None:
    here = Side({b"k%d" % n: _blind(1) for n in range(40)})
    steps = find(here, SHARED)
    asked = next(steps)
    assert asked is not None
    assert len(asked) == 29
    with pytest.raises(StopIteration) as end:
        steps.send(antientropy.answer(Side(dict(here.held)), SHARED, asked))
    assert end.value.value.equal == SHARED


def test_what_arrives_during_the_pause_is_not_repaired() -> None:
    here, there = Side({b"a": _blind(1), b"b": _blind(1)}), Side({})
    found = _run(find(here, SHARED), there)
    narrowed = _run(
        narrow(here, found.differing), there, pause=lambda: there.merge(b"a", _blind(1))
    )
    assert {partition_of(position(b"b"), Q)} == set(narrowed)


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
    assert end.value.value == Found([], [], SHARED, [])
    there.recovering.discard(3)
    assert _run(find(here, SHARED), there) == Found([3], [], [p for p in SHARED if p != 3], [])
    there.merge(b"more", _blind(2))
    differing = partition_of(position(b"more"), Q)
    found = _run(find(here, SHARED), there)
    assert found.differing == [differing]
    assert {*found.equal, *found.recovering, *found.differing} == {*SHARED}


def test_a_peer_that_shares_other_partitions_by_now_ends_the_walk() -> None:
    """Its ring has changed in mid-walk: it refuses, and nothing is taken for equal."""
    here, there = Side({b"k%d" % n: _blind(1) for n in range(40)}), Side({})
    steps = find(here, SHARED)
    asked = next(steps)
    assert asked is not None
    for _ in range(2):
        asked = steps.send(antientropy.answer(there, SHARED, asked))
        assert asked is not None
        with pytest.raises(Corrupt, match="none of them shared"):
            antientropy.answer(there, [Q + 1], asked)
        if asked[0] == antientropy.What.RANGES and len(asked) > 200:
            break
    narrowing = narrow(here, SHARED)
    inner = next(narrowing)
    assert inner is not None
    with pytest.raises(Corrupt, match="isn't shared"):
        antientropy.answer(there, SHARED[1:], inner)


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


def test_a_question_about_what_is_not_shared_is_refused() -> None:
    side = Side({})
    asked = antientropy._INNER.pack(5, bytes(256))
    with pytest.raises(Corrupt, match="partition 5, which isn't shared"):
        antientropy.answer(side, [1, 2], b"\x01" + asked)
    ranges = antientropy._RANGE.pack(4, 9, 0, EMPTY_ROOT)
    with pytest.raises(Corrupt, match=r"partitions 4\.\.9, none of them shared"):
        antientropy.answer(side, [1, 2], b"\x00" + ranges)


class Unwalked(list[int]):
    """A list that says when somebody goes through all of it."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("all partitions are gone through for one range")


def test_many_ranges_of_many_partitions_are_found_without_going_through_all() -> None:
    """256 ranges of 8192 partitions would hold up the loop for a tenth of a second."""
    side = Side({b"a": _blind(1)})
    asked = [antientropy._RANGE.pack(p, p, 0, antientropy._hash(side, [p])) for p in SHARED]
    reply = antientropy.answer(side, Unwalked(SHARED), b"\x00" + b"".join(asked))
    assert reply == bytes(Q)
