"""Handoff: delivers hints to those for whom they are meant, or who came in their place (P§4.6).

Owns one bounded loop per target with hints: they are read in batches, sent with the
demand for an fsync, and removed only after they were acknowledged, unless they changed
meanwhile. A hint goes to its target while that one holds a slot of the hint's partition,
by the tokens known here. Else it goes to all present holders, and is removed when each
of them has it durably (docs/decisions/0012, decision 10): which of them came in the
target's place isn't known for sure. Such a hint waits for no target that is down, nor
does one whose target is this node itself, whose disk knew nothing of its slot.

It keeps to the share of its time that the target can spare. Whatever fails is tried
again for ever; nothing but an acknowledgement removes a hint. One of a holder that
doesn't count yet is as good as any: whoever may yet empty its copy says no instead.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import merkle, records, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.records import DIGEST_BYTES, NOBODY
from dynamo_core.slots import Row
from dynamo_core.wire import Code, Type
from dynamo_node.awaiting import told
from dynamo_node.background_spans import DeliverySpans
from dynamo_node.links import LOST
from dynamo_node.refusals import PeerRefusal
from dynamo_node.storage import HINTS, prefix_end

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

BATCH_HINTS: Final = 128
BATCH_BYTES: Final = 1 << 20
ACK_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5
PAUSE_MAX_S: Final = 8.0
"""Between two tries with a target that takes nothing, a full disk for instance."""
_REAPED: Final = bytes((Code.REAPED,))
_OTHER_ROW: Final = bytes((Code.OTHER_ROW,))


class Handoff:
    """One task for each target, so that none waits for another."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._store = node.disk.store
        self._slices = node.slices
        self._replica = node.replica
        self._topology = node.topology
        self._wake = asyncio.Event()
        self._delivering: set[int] = set()
        self._after: dict[int, bytes] = {}
        """Where the next pass over a target's hints goes on; the first place without one."""
        self._pauses: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._again: set[int] = set()
        """Targets whose next pass is due at once: something has changed since the last began."""
        self._damaged: set[bytes] = set()
        self.delivered = 0
        node.custodies.on_row.append(self._row_changed)
        node.custodies.on_counts.append(self._moved)

    def wake(self) -> None:
        """A target may be reachable again, or another one than before."""
        self._due.clear()
        self._wake.set()

    def _row_changed(self, partition: int, row: Row) -> None:
        self._moved(partition)

    def _moved(self, partition: int) -> None:
        """Hints of this partition may go somewhere else now, or may be taken at last."""
        for target in self._replica.hints.targets_in(partition):
            self._due.pop(target, None)
            self._again.add(target)
            self._wake.set()

    async def run(self) -> None:
        """Deliver for ever; cancelled at shutdown, and every delivery with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as deliveries:
            while True:
                for target in sorted(self._replica.hints.by_target):
                    if target in self._delivering or loop.time() < self._due.get(target, 0.0):
                        continue
                    self._again.discard(target)
                    if ranges := self._ranges(target):
                        self._delivering.add(target)
                        deliveries.create_task(self._deliver(target, ranges))
                    else:
                        self._due[target] = loop.time() + PAUSE_MAX_S
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._wake.wait()

    def _ranges(self, target: int) -> list[tuple[bytes, bytes]]:
        """Where those hints for `target` lie that may be delivered now, in order.

        All of them, unless it can't be reached: then those of which it holds no slot any more.
        """
        ring, holders = self._topology.ring, self._topology.holders
        if ring is None:
            return []
        prefix = target.to_bytes(4, "big")
        if self._reachable(target):
            return [(prefix, prefix_end(prefix))]
        return [
            (
                prefix + merkle.first_place(partition, 0, ring.partitions),
                prefix + merkle.first_place(partition, merkle.SEGMENTS, ring.partitions),
            )
            for partition in self._replica.hints.partitions_for(target)
            if target not in holders(partition)
        ]

    def _reachable(self, target: int) -> bool:
        """Whether nothing for it has to wait: it is healthy, this node, or there no more."""
        link = self._topology.links.get(target)
        return link is None or link.healthy

    async def _deliver(self, target: int, ranges: Sequence[tuple[bytes, bytes]]) -> None:
        """One pass over the target's hints, until nothing of a batch is taken or all were sent.

        The next pass goes on behind that batch, later each time: whatever is refused
        is not sent again and again, and stops no other hint.
        """
        taken_any, resumed = False, target in self._after
        reachable = self._reachable(target)
        try:
            for start, end in ranges:
                at = max(start, self._after.get(target, start))
                while at < end and reachable == self._reachable(target):
                    async with self._slices.slice("handoff", self._node.gossip.spared(target)):
                        batch = await self._store.scan_async(
                            HINTS, at, end, BATCH_HINTS, BATCH_BYTES
                        )
                        sent, taken = await self._deliver_batch(target, batch)
                    if not batch:
                        break
                    at = self._after[target] = batch[-1][0] + b"\x00"
                    taken_any = taken_any or taken > 0
                    if sent and not taken:
                        return
            if self._after.pop(target, None) is not None and resumed:
                self._again.add(target)  # those before the place where it began
        except DynamoError as error:
            log.warning("hints for %s: %s", self._topology.host_name(target), error)
        finally:
            self._delivering.discard(target)
            self._passed(target, taken_any)

    def _passed(self, target: int, taken_any: bool) -> None:
        """A pass has ended: when the next one is due."""
        if target not in self._replica.hints.by_target:
            for state in (self._after, self._pauses, self._due):
                state.pop(target, None)
            self._again.discard(target)
            log.info("all hints for %s are delivered", self._topology.host_name(target))
            return
        if target in self._again:
            self._wake.set()
            return
        held = RETRY_S / 2 if taken_any else self._pauses.get(target, RETRY_S / 2)
        self._pauses[target] = pause_s = min(PAUSE_MAX_S, 2 * held)
        self._due[target] = asyncio.get_running_loop().time() + pause_s

    async def _deliver_batch(
        self, target: int, batch: list[tuple[bytes, bytes]]
    ) -> tuple[int, int]:
        """How many hints were sent, and how many of them are done with."""
        if self._topology.unsettled:  # the rows that it goes by are to be fsynced
            await self._node.custodies.durable()
        sent, asks = [], []
        for place, data in batch:
            try:
                record = records.from_bytes(data)
            except Corrupt as error:  # it stays, and stops no other
                if place not in self._damaged:
                    self._damaged.add(place)
                    name = self._topology.host_name(target)
                    log.error("a hint for %s is damaged: %s", name, error)
                continue
            to = self._receivers(target, self._partition_of(place))
            if to and all(map(self._topology.healthy, to)):
                sent.append((place, data))
                reap_round = record.stamp.reap_round if record.stamp else 0
                asks.append(self._give(to, place, record.obj, reap_round))
        taken = 0
        answers = await asyncio.gather(*asks)
        for (place, data), (kind, payload) in zip(sent, answers, strict=True):
            if kind == Type.WRITTEN:
                self._replica.hints.forget(place, data)
                self.delivered += 1
                taken += 1
            elif kind == Type.ERROR and payload[:1] == _REAPED:
                taken += self._refused_as_reaped(target, place, data, payload)
        return len(sent), taken

    def _receivers(self, target: int, partition: int) -> tuple[int, ...]:
        """Who has to have a hint before it may go; nobody while they would be too few disks."""
        holders = self._topology.holders(partition)
        if target in holders:
            return (target,)
        # While a node holds two slots, all holders are less than the copies that W counted.
        return holders if len(holders) == len(self._topology.row(partition)) else ()

    async def spread(self, partition: int, copies: int) -> bool:
        """Give each hint of the partition to so many present holders besides this node.

        Whether all are durable there. What a node keeps for somebody else lies on the same
        disk as what it holds itself: before the copy that it has taken over is deleted
        elsewhere, each hint that was counted beside that copy needs another disk.
        """
        ring, topology = self._topology.ring, self._topology
        hints = self._replica.hints
        assert ring is not None
        for target in hints.targets_in(partition):
            prefix = target.to_bytes(4, "big")
            at = prefix + merkle.first_place(partition, 0, ring.partitions)
            end = prefix + merkle.first_place(partition, merkle.SEGMENTS, ring.partitions)
            while batch := await self._store.scan_async(HINTS, at, end, BATCH_HINTS, BATCH_BYTES):
                await self._node.custodies.durable()
                others = list(filter(topology.healthy, topology.other_holders(partition)))
                for place, data in batch:
                    record = records.from_bytes(data)
                    reap_round = record.stamp.reap_round if record.stamp else 0
                    asks = [self._give((n,), place, record.obj, reap_round) for n in others]
                    answers = await asyncio.gather(*asks)
                    if sum(kind == Type.WRITTEN for kind, _ in answers) < copies:
                        return False
                at = batch[-1][0] + b"\x00"
        return True

    def _partition_of(self, place: bytes) -> int:
        return self._replica.partition_of(place[4 : 4 + DIGEST_BYTES])

    async def _give(
        self, to: Sequence[int], place: bytes, obj: bytes, reap_round: int
    ) -> tuple[int, bytes]:
        """Write a hint to all of these; the answer is WRITTEN only when each has it durably."""
        key = place[4 + DIGEST_BYTES :]
        row = self._topology.digest(self._partition_of(place))
        payload = row + wire.pack_write(key, obj, NOBODY, reap_round, True)
        tracing = self._node.tracing
        spans = DeliverySpans(tracing, place, obj) if tracing.on else None

        async def give(number: int) -> tuple[int, bytes]:
            if number == self._topology.number:
                return await self._merge_here(place, obj, reap_round, row)
            link = self._topology.links.get(number)
            if link is None:
                return LOST, b""
            if spans is None:
                kind, reply = await link.ask(Type.WRITE, payload, ACK_TIMEOUT_S)
            else:
                ask = partial(link.ask, Type.WRITE, payload, ACK_TIMEOUT_S)
                kind, reply = await spans.given(number, ask)
            if kind == Type.ERROR and reply[:1] == _OTHER_ROW:  # both learn, for the next pass
                self._node.coordinator.reply_was_no(number, kind, reply)
            return kind, reply

        answers = [await give(to[0])] if len(to) == 1 else await asyncio.gather(*map(give, to))
        answer = next((a for a in answers if a[0] != Type.WRITTEN), answers[0])
        if spans is not None:
            spans.end(*answer)
        return answer

    async def _merge_here(
        self, place: bytes, obj: bytes, reap_round: int, row: bytes
    ) -> tuple[int, bytes]:
        digest, key = place[4 : 4 + DIGEST_BYTES], place[4 + DIGEST_BYTES :]
        merge = self._replica.merge
        if not self._node.custodies.of(self._partition_of(place)).keeps:
            return Type.ERROR, wire.pack_error(Code.NOT_YET)  # it may yet be emptied
        try:
            await told(lambda done: merge(key, digest, obj, reap_round, done, True, row))
        except DynamoError as error:
            return Type.ERROR, error.reply() if isinstance(error, PeerRefusal) else b""
        return Type.WRITTEN, b""

    def _refused_as_reaped(self, target: int, place: bytes, data: bytes, reply: bytes) -> bool:
        """A holder has committed a round beyond this hint's; whether that is the end of it.

        Every member of that time had said that it holds no hint, so this one is newer, or
        it came back with an old disk: then it goes undelivered, and what else it may have
        brought is looked for by anti-entropy. Who had been given up by then wasn't asked,
        nor was who wasn't a member yet.
        """
        hints, topology = self._replica.hints, self._topology
        named, reap_round = wire.unpack_reaped(reply)
        given_up = self._node.rings.left
        if topology.name < named and not given_up:
            return False  # whether this node was asked is known with that ring
        if not given_up and hints.refused_as_reaped(place, data, named, reap_round):
            digest, key = place[4 : 4 + DIGEST_BYTES], place[4 + DIGEST_BYTES :]
            holders = topology.holders(self._partition_of(place))
            hints.committed_elsewhere(key, digest, holders, named, reap_round)
            return True
        log.warning(
            "a hint for %s is older than its partition's reaping", topology.host_name(target)
        )
        hints.mark(target, self._partition_of(place))
        hints.forget(place, data)
        return True
