"""Comparison: one peer, some partitions that both own, from one hash to equal keys (P§4.7).

Owns the shell around core's `antientropy` walk and `exchange`: sends the
questions, waits, lists keys page by page, fetches whole objects that differ
and merges them here, and writes whole objects to the peer. All of it is
bounded: keys listed in a comparison and in a page, bytes in flight; and bites of
work go through `slices`. Whatever goes wrong ends the comparison with Ended;
the next one finds what is left.

An object goes out as WRITE to be fsynced, stamped with the reap round of the
moment when it was read; a peer that has reaped since refuses it.
"""

import asyncio
import logging
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from dynamo_core import antientropy, exchange, wire
from dynamo_core.antientropy import Found
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.exchange import Difference, Fetched, Got, Verdict
from dynamo_core.frames import HEADER
from dynamo_core.merkle import first_place
from dynamo_core.records import DIGEST_BYTES, NOBODY
from dynamo_core.wire import Code, Type
from dynamo_node.antientropy_answers import FETCH_KEYS, PAGE_KEYS, leaf_of, own_object
from dynamo_node.digests import leaves
from dynamo_node.links import LOST, Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 10.0
WRITES_BYTES: Final = 1 << 20
"""Objects on their way to the peer at once; a larger one goes alone."""
CHUNK: Final = 64
"""Partitions narrowed and exchanged together."""
KEYS_PER_PAGE_MIN: Final = 16
"""What a page counts at least, of the keys that a comparison may list."""
SETTLE: Final = 4
"""Keys that differ are looked at again after a pause of this part of the recheck's."""

_T = TypeVar("_T")


class Ended(DynamoError):
    """The comparison can't go on; `busy` if it may be tried again in a moment."""

    def __init__(self, text: str, busy: bool = False) -> None:
        super().__init__(text)
        self.busy = busy


@dataclass(slots=True)
class Tally:
    """What a comparison came to."""

    compared: int = 0
    differing: int = 0
    sent: int = 0
    received: int = 0
    bytes: int = 0
    agreed: set[int] = field(default_factory=set)
    """Partitions in which the peer now holds, fsynced, all that this node held at the start."""
    left: list[int] = field(default_factory=list)
    """Partitions that differ and for which there was no room in this comparison."""


class Comparison:
    """With the peer behind `link`; `insist` names partitions whose moving keys are repaired."""

    def __init__(
        self, node: "Node", link: Link, keys: int, insist: frozenset[int] = frozenset()
    ) -> None:
        self._node = node
        self._asking = node.antientropy
        self._link = link
        self._number = link.member.number
        self._ring = node.topology.name
        self._keys = keys
        self._insist = insist
        self._unsettled: set[int] = set()
        self._pause_s = node.config.timing.recheck_ms / 1000
        self.tally = Tally()

    async def run(self, partitions: list[int]) -> None:
        """Compare and exchange; raises Ended. `tally` counts, whatever the end."""
        tally = self.tally
        await self._asking.hash_roots(partitions)
        found = await self._walk(antientropy.find(self._asking.view, partitions))
        tally.compared += len(partitions)
        tally.differing += len(found.differing)
        tally.agreed.update(found.equal)
        for partition, theirs in found.rounds:
            self._asking.compare_rounds(self._number, partition, theirs)
        for at in range(0, len(found.differing), CHUNK):
            if self._keys <= 0:
                tally.left += found.differing[at:]
                return
            await self._chunk(found.differing[at : at + CHUNK], found)

    async def _chunk(self, partitions: list[int], found: Found) -> None:
        narrowed = await self._walk(antientropy.narrow(self._asking.view, partitions))
        listed: dict[int, list[Difference]] = {}
        self._asking.exchanging_with = self._number
        try:
            for partition in partitions:
                for first, last in antientropy.runs(narrowed.get(partition, [])):
                    if not await self._list(partition, first, last, listed):
                        self.tally.left.append(partition)
                        break
                    if sum(map(len, listed.values())) >= PAGE_KEYS:
                        await self._repair_all(listed)
            await self._repair_all(listed)
        finally:
            self._asking.exchanging_with = 0
        not_agreed = self._unsettled.union(found.recovering, self.tally.left)
        self.tally.agreed.update(p for p in partitions if p not in not_agreed)

    # Asking

    async def _walk(self, steps: Generator[bytes | None, bytes, _T]) -> _T:
        try:
            payload = next(steps)
            while True:
                if payload is antientropy.PAUSE:
                    await asyncio.sleep(self._pause_s)
                    payload = next(steps)
                else:
                    payload = steps.send(await self._ask(Type.TREE, payload))
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()

    async def _ask(self, kind: Type, payload: bytes) -> bytes:
        if self._node.topology.name != self._ring:
            raise Ended("the ring changed meanwhile", busy=True)
        self.tally.bytes += 2 * HEADER.size + len(payload)
        got, reply = await self._link.ask(kind, payload, ASK_TIMEOUT_S)
        self.tally.bytes += len(reply)
        if got == kind + 1:  # each request's reply is the type after it
            return reply
        if got == LOST:
            raise Ended("it doesn't answer")
        code, text = wire.unpack_error(reply) if got == Type.ERROR else (0, f"type {got}")
        if code in (Code.NOT_READY, Code.STALE_RING):
            self._node.coordinator.on_stale_ring(self._number, code)
        busy = code in (Code.OVERLOADED, Code.NOT_READY, Code.STALE_RING)
        raise Ended(f"it answers: {text or Code(code).name}", busy)

    # Keys

    async def _list(
        self, partition: int, first: int, last: int, listed: dict[int, list[Difference]]
    ) -> bool:
        """Add what differs in neighbouring segments to `listed`; False when pages ran out.

        Of what would be too much at once, the first pages are repaired on the way.
        """
        ring, store = self._node.topology.ring, self._node.disk.store
        assert ring is not None
        start = first_place(partition, first, ring.partitions)
        end = first_place(partition, last, ring.partitions)
        while start < end:
            if self._keys <= 0:
                return False
            async with self._slice():
                page = await leaves(store, start, end, PAGE_KEYS)
            reply = await self._ask(Type.SEGMENTS, exchange.pack_list(partition, start, page.end))
            theirs, more = exchange.unpack_leaves(reply)
            bound = theirs[-1][0] + b"\x00" if more else page.end
            if not start < bound <= page.end or (theirs and not start <= theirs[0][0] < bound):
                raise Ended("it answers with keys that were not asked for")
            mine = [item for item in page.leaves if item[0] < bound]
            self._keys -= max(KEYS_PER_PAGE_MIN, len(mine), len(theirs))
            listed.setdefault(partition, []).extend(exchange.differing(mine, theirs))
            start = bound
            if start < end and sum(map(len, listed.values())) >= PAGE_KEYS:
                await self._repair_all(listed)
        return True

    async def _repair_all(self, listed: dict[int, list[Difference]]) -> None:
        """Repair what was listed and is still so; `_unsettled` learns where something is left."""
        if any(listed.values()):
            await asyncio.sleep(self._pause_s / SETTLE)
        for partition, differences in listed.items():
            while differences:
                given, settled = await self._repair(partition, differences[:FETCH_KEYS])
                if settled < given:
                    self._unsettled.add(partition)
                differences = differences[given:]
        listed.clear()

    async def _repair(self, partition: int, listed: list[Difference]) -> tuple[int, int]:
        """Fetch, judge, merge, send: how many were given, and how many of them are settled.

        Settled: the peer has made durable all that is here of the key.
        """
        keys = [difference.place[DIGEST_BYTES:] for difference in listed]
        reply = await self._ask(Type.FETCH, exchange.pack_fetch(partition, keys))
        fetched = exchange.unpack_fetched(reply)
        if not 0 < len(fetched) <= len(listed):
            raise Ended(f"it answers {len(fetched)} of {len(listed)} keys that were fetched")
        listed = listed[: len(fetched)]
        insist = partition in self._insist
        merged: list[tuple[Difference, Fetched, asyncio.Future[bool]]] = []
        settled = 0
        async with self._slice():
            for difference, theirs in zip(listed, fetched, strict=True):
                place = difference.place
                if theirs.got == Got.DAMAGED:
                    continue
                if theirs.got == Got.REAPED or self._asking.reaped(partition, place):
                    settled += 1
                    continue
                try:
                    mine = await own_object(self._node, place)
                    there = leaf_of(place, theirs.obj or None)
                except Corrupt as error:
                    log.error("key %r can't be repaired: %s", place[DIGEST_BYTES:], error)
                    continue
                found = exchange.verdict(difference, leaf_of(place, mine), there, insist)
                if found == Verdict.REPAIR:
                    merged.append((difference, theirs, self._merge(place, theirs)))
                settled += found == Verdict.SAME
        return len(fetched), settled + await self._send_back(partition, merged)

    def _merge(self, place: bytes, theirs: Fetched) -> "asyncio.Future[bool]":
        """Merge the peer's object, if it has one; whether it could be taken."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if theirs.got == Got.NOTHING:
            future.set_result(True)
            return future

        def done(error: BaseException | None) -> None:
            if not future.done():
                future.set_result(error is None)

        self._node.replica.merge(
            place[DIGEST_BYTES:], place[:DIGEST_BYTES], theirs.obj, theirs.reap_round, done, True
        )
        return future

    async def _send_back(
        self, partition: int, merged: "list[tuple[Difference, Fetched, asyncio.Future[bool]]]"
    ) -> int:
        """Write to the peer what it doesn't have yet; how many keys are settled with it."""
        settled = at = 0
        while at < len(merged):
            asks = []
            size = 0
            async with self._slice():
                while at < len(merged) and size < WRITES_BYTES:
                    difference, theirs, taken = merged[at]
                    at += 1
                    if not await taken:
                        continue
                    place = difference.place
                    stamp = self._node.replica.rounds.stamp(partition)
                    now = await own_object(self._node, place)
                    leaf = leaf_of(place, now)
                    self.tally.received += leaf != difference.mine
                    if now is None or leaf == leaf_of(place, theirs.obj or None):
                        settled += 1
                        continue
                    key = place[DIGEST_BYTES:]
                    payload = wire.pack_write(key, now, NOBODY, stamp, True)
                    size += len(payload)
                    asks.append(self._write(payload))
            written = sum(await asyncio.gather(*asks))
            self.tally.sent += written
            settled += written
        return settled

    async def _write(self, payload: bytes) -> bool:
        if self._node.topology.name != self._ring:
            raise Ended("the ring changed meanwhile", busy=True)
        self.tally.bytes += 2 * HEADER.size + len(payload)
        kind, _ = await self._link.ask(Type.WRITE, payload, ASK_TIMEOUT_S)
        if kind == LOST:
            raise Ended("it doesn't answer")
        return kind == Type.WRITTEN

    def _slice(self) -> AbstractAsyncContextManager[None]:
        return self._node.slices.slice("repair")
