"""Hints that their target refuses as reaped: which ones are newer than that round, and stay."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynamo_core import objects, records
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.records import SEVERAL, Record, Stamp
from dynamo_core.ring import position
from dynamo_core.rounds import Rounds
from dynamo_core.versions import EMPTY
from dynamo_node.hints import HintStore
from dynamo_node.storage import HINTS, Store
from dynamo_node.turns import Turns

FIRST, SECOND = b"start--1", b"start--2"
KEY, TARGET = b"key", 7
PLACE = records.hint_key(TARGET, position(KEY), KEY)
RING = RingName(1, bytes(16))
STAMP = Stamp(0, *RING)


def _object(actor: bytes) -> bytes:
    return objects.to_bytes(
        objects.put(ABSENT, EMPTY, Sibling((actor * 16, 1), actor * 16, 0, "", actor))
    )


@pytest.fixture
async def hints(tmp_path: Path) -> AsyncIterator[HintStore]:
    store = Store(tmp_path / "db", sync=True, memory_bytes=16 << 20)
    hints = HintStore(store, Turns(store), Rounds(), 1 << 20)
    hints.start = FIRST
    yield hints
    await store.close()


async def _kept(hints: HintStore, actor: bytes = b"a", stamp: Stamp = STAMP) -> bytes:
    hints.keep(KEY, position(KEY), TARGET, _object(actor), stamp, lambda error: None)
    await hints._store.durable()
    return _held(hints)


def _held(hints: HintStore) -> bytes:
    data = hints._store.peek(HINTS, PLACE)
    assert isinstance(data, bytes)
    return data


def _record(hints: HintStore) -> Record:
    return records.from_bytes(_held(hints))


async def test_one_of_the_present_start_is_stamped_with_the_round(hints: HintStore) -> None:
    sent = await _kept(hints)
    assert hints.refused_as_reaped(PLACE, sent, RING, 5)
    assert _record(hints).stamp == Stamp(5, 1, bytes(16), FIRST)
    assert hints.by_target == {TARGET: 1}
    assert not hints.refused_as_reaped(PLACE, _held(hints), RING, 5), "it was of that round already"


async def test_one_of_an_earlier_start_goes(hints: HintStore) -> None:
    sent = await _kept(hints)
    hints.start = SECOND
    assert not hints.refused_as_reaped(PLACE, sent, RING, 5)
    # What is merged into it is lost with it, as on a disk that is lost.
    assert not hints.refused_as_reaped(PLACE, await _kept(hints, b"b"), RING, 5)
    assert _record(hints).stamp == Stamp(0, 1, bytes(16), SEVERAL)


async def test_one_that_has_changed_since_it_was_sent_is_not_touched(hints: HintStore) -> None:
    sent = await _kept(hints)
    changed = await _kept(hints, b"b")
    assert hints.refused_as_reaped(PLACE, sent, RING, 5)
    assert _held(hints) == changed


@pytest.mark.parametrize("restarted", [False, True])
async def test_one_that_was_taken_under_a_later_ring_than_the_rounds_is_newer_in_any_start(
    hints: HintStore, restarted: bool
) -> None:
    sent = await _kept(hints, stamp=STAMP._replace(epoch=2))
    hints.start = SECOND
    if restarted:
        sent = await _kept(hints, b"b", STAMP._replace(epoch=3))
    assert not hints.refused_as_reaped(PLACE, sent, NO_RING, 5), "nobody knows under which ring"
    assert not hints.refused_as_reaped(PLACE, sent, RING._replace(epoch=2), 5)
    assert hints.refused_as_reaped(PLACE, sent, RING, 5)
    assert _record(hints).stamp == Stamp(5, 2, bytes(16), SEVERAL)


@pytest.mark.parametrize("older_first", [False, True])
async def test_one_is_of_the_lowest_round_and_of_the_lowest_ring_that_are_in_it(
    hints: HintStore, older_first: bool
) -> None:
    stamps = [Stamp(0, 3, bytes(16)), Stamp(4, 1, bytes(16))]
    for actor, stamp in zip((b"a", b"b"), stamps[:: -1 if older_first else 1], strict=True):
        sent = await _kept(hints, actor, stamp)
    assert _record(hints).stamp == Stamp(0, 1, bytes(16), FIRST)
    hints.start = SECOND
    assert not hints.refused_as_reaped(PLACE, sent, RingName(2, bytes(16)), 5)


async def test_one_that_waits_is_stamped_as_soon_as_an_owner_names_the_round(
    hints: HintStore,
) -> None:
    await _kept(hints)
    hints.committed_elsewhere(KEY, position(KEY), (3, TARGET), RING, 5)
    assert _record(hints).stamp == Stamp(5, 1, bytes(16), FIRST)
    hints.committed_elsewhere(KEY, position(KEY), (3, TARGET), RING, 4)
    assert _record(hints).stamp == Stamp(5, 1, bytes(16), FIRST), "it is newer than that"
    assert hints.by_target == {TARGET: 1}


@pytest.mark.parametrize("why", ["an earlier start", "not asked", "only promised"])
async def test_a_round_that_another_node_names_is_not_taken_for_every_hint(
    hints: HintStore, why: str
) -> None:
    await _kept(hints)
    if why == "an earlier start":
        hints.start = SECOND
    hints.was_asked = lambda ring: why != "not asked"
    ring = NO_RING if why == "only promised" else RING
    hints.committed_elsewhere(KEY, position(KEY), (TARGET,), ring, 5)
    assert _record(hints).stamp == Stamp(0, 1, bytes(16), FIRST)
