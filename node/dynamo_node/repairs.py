"""Repairs: keys of segments that differ, from two lists to equal copies (P§4.7).

Owns the talk with one peer, each partition under the tokens that it had when the
comparison began, and what happens between two lists of keys and equal copies: it
lists page by page, fetches whole objects that differ, judges them by core's
`exchange`, merges them here and writes them to the peer. Bounded: keys listed, keys
fetched at once, bytes in flight; every bite of work goes through `slices` and keeps
to what the peer can spare.

An object goes out as WRITE to be fsynced, stamped with the reap round of the
moment when it was read, and not at all once this node has promised a higher
one (docs/decisions/0006); a peer that has reaped since refuses it.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import exchange, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.exchange import Difference, Fetched, Got, Verdict
from dynamo_core.frames import HEADER
from dynamo_core.merkle import first_place
from dynamo_core.records import DIGEST_BYTES, NOBODY
from dynamo_core.wire import Code, Type
from dynamo_node.antientropy_answers import FETCH_KEYS, PAGE_KEYS, reaped_leaves
from dynamo_node.awaiting import told
from dynamo_node.digests import leaf_of, leaves
from dynamo_node.links import LOST, Link
from dynamo_telemetry.contexts import SpanContext

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 10.0
WRITES_BYTES: Final = 1 << 20
"""Objects on their way to the peer at once; a larger one goes alone."""
KEYS_PER_PAGE_MIN: Final = 16
"""What a page counts at least, of the keys that a comparison may list."""
SETTLE: Final = 4
"""Keys that differ are looked at again after a pause of this part of the recheck's."""
_READ_ONLY: Final = bytes((Code.READ_ONLY,))
_OF_ROWS: Final = tuple(bytes((code,)) for code in (Code.OTHER_ROW, Code.MOVED, Code.NOT_YET))


class Ended(DynamoError):
    """The comparison can't go on; `busy` if it may be tried again in a moment."""

    def __init__(self, text: str, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


class Moved(DynamoError):
    """This partition can't be compared to the end: its tokens are others by now."""


@dataclass(slots=True)
class Tally:
    """What a comparison came to."""

    compared: set[int] = field(default_factory=set)
    differing: int = 0
    sent: int = 0
    received: int = 0
    bytes: int = 0
    agreed: set[int] = field(default_factory=set)
    """Partitions in which the peer now holds, fsynced, all that this node held at the start."""
    left: list[int] = field(default_factory=list)
    """Partitions that differ and for which there was no room in this comparison."""
    moved: set[int] = field(default_factory=set)
    """Partitions left out, or not compared to the end, because tokens of them changed."""
    full: bool = False
    """One of the two disks takes nothing more."""
    writers: list[SpanContext] = field(default_factory=list)
    """What wrote the versions that were repaired, as far as it was traced."""

    def add(self, other: "Tally") -> None:
        """Count what a further comparison came to."""
        self.compared |= other.compared
        self.differing += other.differing
        self.sent += other.sent
        self.received += other.received
        self.bytes += other.bytes
        self.agreed |= other.agreed
        self.full = self.full or other.full


class Repairs:
    """With the peer behind `link`; at most about `keys` keys are listed.

    `insist` names partitions in which a key is repaired although it is being written. All
    methods raise Ended, and Moved where they say so.
    """

    def __init__(
        self,
        node: "Node",
        link: Link,
        keys: int,
        insist: frozenset[int],
        trace: bytes = b"",
    ) -> None:
        """`trace` is the context of the round, for what is asked."""
        self._trace = trace
        self._node = node
        self._link = link
        self._number = link.member.number
        self._rows: dict[int, bytes] = {}
        self._insist = insist
        self._pause_s = node.config.timing.recheck_ms / 1000
        self._listed: dict[int, list[Difference]] = {}
        self._peer_full = False
        self.keys = keys
        """How many may still be listed."""
        self.unsettled: set[int] = set()
        """Partitions in which the peer may lack something that is here."""
        self.tally = Tally()

    # Rows

    def under_rows_of(self, partitions: Iterable[int]) -> None:
        """From now on these are compared, under the tokens that are known now, durably."""
        self._rows.update((p, self._node.topology.digest(p)) for p in partitions)

    def has_moved(self, partition: int) -> bool:
        """Whether other tokens are known by now than those it is compared under, if it is yet.

        What was asked or answered before may be about a node that holds no slot any more.
        """
        return self._node.topology.digest(partition) != self._rows.get(partition)

    def _row(self, partition: int) -> bytes:
        """What each question about the partition begins with; raises Moved."""
        if self.has_moved(partition):
            raise Moved(f"somebody else holds a slot of partition {partition} by now")
        return self._rows[partition]

    # Asking

    async def ask(self, kind: Type, payload: bytes) -> bytes:
        """The payload of the reply to one question."""
        self.tally.bytes += 2 * HEADER.size + len(payload)
        got, reply = await self._link.ask(kind, payload, ASK_TIMEOUT_S, self._trace)
        self.tally.bytes += len(reply)
        if got == kind + 1:  # each request's reply is the type after it
            return reply
        if got == LOST:
            raise Ended("it doesn't answer")
        self._node.coordinator.reply_was_no(self._number, got, reply)
        if got == Type.ERROR and reply[:1] in _OF_ROWS:
            raise Moved(f"it answers with code {reply[0]}")
        code, text = wire.unpack_error(reply) if got == Type.ERROR else (0, f"type {got}")
        busy = code in (Code.OVERLOADED, Code.NOT_READY, Code.STALE_RING)
        raise Ended(f"it answers: {text or Code(code).name}", busy)

    def slice(self) -> AbstractAsyncContextManager[object]:
        """For one bite of work, of which the peer has its part."""
        return self._node.slices.slice("repair", self._node.gossip.spared(self._number))

    # Keys

    async def run(self, partition: int, first: int, last: int) -> bool:
        """List segments first..last-1 and repair what differs, now or in `finish`.

        False when no more may be listed; raises Moved. Of what would be too much to remember, the
        first pages are repaired on the way.
        """
        ring, differ = self._node.topology.ring, False
        assert ring is not None
        start = first_place(partition, first, ring.partitions)
        end = first_place(partition, last, ring.partitions)
        while start < end:
            if self.keys <= 0:
                return False
            start, found = await self._page(partition, start, end)
            differ = differ or bool(found)
            self._listed.setdefault(partition, []).extend(found)
            if sum(map(len, self._listed.values())) >= PAGE_KEYS:
                await self.finish()
        if not differ:
            # Mostly a write has arrived meanwhile. If not, one of the trees isn't its objects'.
            mended = await self._node.trees.mend(partition, first, last, self.slice)
            self._node.antientropy.mended_total += mended
        return True

    async def _page(
        self, partition: int, start: bytes, end: bytes
    ) -> tuple[bytes, list[Difference]]:
        """Where the next page starts, and what differs in this one."""
        async with self.slice():
            page = await leaves(self._node.disk.store, start, end, PAGE_KEYS)
        ask = self._row(partition) + exchange.pack_list(partition, start, page.end)
        reply = await self.ask(Type.SEGMENTS, ask)
        theirs, more = exchange.unpack_leaves(reply)
        bound = theirs[-1][0] + b"\x00" if more else page.end
        if not start < bound <= page.end or (theirs and not start <= theirs[0][0] < bound):
            raise Ended("it answers with keys that were not asked for")
        mine = [item for item in page.leaves if item[0] < bound]
        self.keys -= max(KEYS_PER_PAGE_MIN, len(mine), len(theirs))
        return bound, exchange.differing(mine, theirs)

    async def finish(self) -> None:
        """Repair what was listed and is still so; `unsettled` learns where something is left."""
        if any(self._listed.values()):
            await asyncio.sleep(self._pause_s / SETTLE)
        for partition, differences in self._listed.items():
            try:
                while differences:
                    given, settled = await self._repair(partition, differences[:FETCH_KEYS])
                    if settled < given:
                        self.unsettled.add(partition)
                    differences = differences[given:]
            except Moved:
                self.tally.moved.add(partition)
        self._listed.clear()

    async def _repair(self, partition: int, listed: list[Difference]) -> tuple[int, int]:
        """Fetch, judge, merge, send: how many were given, and how many of them are settled.

        Settled: the peer has made durable all that is here of the key.
        """
        given, settled = len(listed), 0
        if self._peer_full:  # it takes nothing, but what it has may be wanted here
            listed = [difference for difference in listed if difference.theirs is not None]
            if not listed:
                return given, 0
        keys = [difference.place[DIGEST_BYTES:] for difference in listed]
        ask = self._row(partition) + exchange.pack_fetch(partition, keys)
        reply = await self.ask(Type.FETCH, ask)
        fetched = exchange.unpack_fetched(reply)
        if not 0 < len(fetched) <= len(listed):
            raise Ended(f"it answers {len(fetched)} of {len(listed)} keys that were fetched")
        if len(fetched) < len(listed):
            given = min(given, len(fetched))
            listed = listed[: len(fetched)]
        self._row(partition)
        insist = partition in self._insist
        reaped = reaped_leaves(self._node.replica.rounds, partition)
        merged: list[tuple[Difference, Fetched, asyncio.Future[None]]] = []
        async with self.slice():
            for difference, theirs in zip(listed, fetched, strict=True):
                place = difference.place
                if theirs.got == Got.DAMAGED:
                    continue
                try:
                    mine = await self._node.replica.read_own_async(place)
                    here, there = leaf_of(place, mine), leaf_of(place, theirs.obj or None)
                except Corrupt as error:
                    log.error("key %r can't be repaired: %s", place[DIGEST_BYTES:], error)
                    continue
                gone = reaped.get(place)
                if here in (None, gone) and (
                    theirs.got == Got.REAPED or (gone is not None and there in (None, gone))
                ):
                    settled += 1  # what a reaped list names goes by itself, and isn't copied back
                    continue
                found = exchange.verdict(difference, here, there, insist)
                if found == Verdict.REPAIR:
                    merged.append((difference, theirs, self._merge(place, theirs)))
                settled += found == Verdict.SAME
        return given, settled + await self._send_back(partition, merged)

    def _merge(self, place: bytes, theirs: Fetched) -> "asyncio.Future[None]":
        """Merge the peer's object, if it has one, durably."""
        merge = partial(
            self._node.replica.merge, place[DIGEST_BYTES:], place[:DIGEST_BYTES], theirs.obj
        )
        return told(lambda done: merge(theirs.reap_round, done, True) if theirs.obj else done(None))

    async def _send_back(
        self, partition: int, merged: "list[tuple[Difference, Fetched, asyncio.Future[None]]]"
    ) -> int:
        """Write to the peer what it doesn't have yet; how many keys are settled with it."""
        settled = at = 0
        rounds, own = self._node.replica.rounds, self._node.replica.read_own_async
        while at < len(merged):
            payloads = []
            size, stamp = 0, rounds.stamp(partition)
            async with self.slice():
                while at < len(merged) and size < WRITES_BYTES:
                    difference, theirs, taken = merged[at]
                    at += 1
                    place = difference.place
                    try:
                        await taken
                        now = await own(place)
                        leaf = leaf_of(place, now)
                    except DynamoError as error:
                        log.debug("key %r isn't repaired: %s", place[DIGEST_BYTES:], error)
                        continue
                    self.tally.received += leaf != difference.mine
                    if now is not None:
                        writers = self._node.tracing.writers_of(place[:DIGEST_BYTES], now)
                        self.tally.writers += writers
                    if now is None or leaf == leaf_of(place, theirs.obj or None):
                        settled += 1
                        continue
                    if self._peer_full:
                        continue
                    key = place[DIGEST_BYTES:]
                    payloads.append(wire.pack_write(key, now, NOBODY, stamp, True))
                    size += len(payloads[-1])
            if rounds.stamp(partition) != stamp:
                continue  # nothing from before a promise is sent after it
            row = self._row(partition)
            written = sum(await asyncio.gather(*(self._write(row + p) for p in payloads)))
            self.tally.sent += written
            settled += written
        return settled

    async def _write(self, payload: bytes) -> bool:
        self.tally.bytes += 2 * HEADER.size + len(payload)
        kind, reply = await self._link.ask(Type.WRITE, payload, ASK_TIMEOUT_S, self._trace)
        if kind == LOST:
            raise Ended("it doesn't answer")
        if kind == Type.ERROR and reply[:1] == _READ_ONLY:
            self._peer_full = self.tally.full = True
        elif kind == Type.ERROR and reply[:1] in _OF_ROWS:
            self._node.coordinator.reply_was_no(self._number, kind, reply)
        return kind == Type.WRITTEN
