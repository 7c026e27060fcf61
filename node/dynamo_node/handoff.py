"""Handoff: delivers hints to the owners they are meant for (P§4.6).

Owns one bounded loop per target with hints: while the target is healthy, its
hints are read in batches, sent with the demand for an fsync, and removed only
after it has acknowledged, unless they changed meanwhile. It keeps to the share
of its time that the target can spare. Whatever fails is tried again for ever;
nothing but an acknowledgement removes a hint.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dynamo_core import records, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.records import DIGEST_BYTES, NOBODY
from dynamo_node.awaiting import told
from dynamo_node.links import LOST
from dynamo_node.refusals import PeerRefusal
from dynamo_node.replica import Replica
from dynamo_node.slices import Slices
from dynamo_node.storage import HINTS, Store, prefix_end
from dynamo_node.topology import Topology

log = logging.getLogger(__name__)

BATCH_HINTS: Final = 128
BATCH_BYTES: Final = 1 << 20
ACK_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5
PAUSE_MAX_S: Final = 8.0
"""Between two tries with a target that takes nothing, a full disk for instance."""
_REAPED: Final = bytes((wire.Code.REAPED,))


class Handoff:
    """One task for each target that can be reached, so that none waits for another."""

    def __init__(
        self,
        store: Store,
        replica: Replica,
        topology: Topology,
        slices: Slices,
        spared: Callable[[int], float],
    ) -> None:
        self._store = store
        self._slices = slices
        self._replica = replica
        self._topology = topology
        self._spared = spared
        """The part of its time that a target can spare for what comes from here."""
        self._wake = asyncio.Event()
        self._delivering: set[int] = set()
        self._after: dict[int, bytes] = {}
        """Where the next pass over a target's hints goes on; the first place without one."""
        self._pauses: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._damaged: set[bytes] = set()
        self.delivered = 0

    def wake(self) -> None:
        """A target may be reachable again, or another one than before."""
        self._due.clear()
        self._wake.set()

    async def run(self) -> None:
        """Deliver for ever; cancelled at shutdown, and every delivery with it."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as deliveries:
            while True:
                for target in sorted(self._replica.hints.by_target):
                    if target not in self._delivering and self._may_deliver(target):
                        if loop.time() < self._due.get(target, 0.0):
                            continue
                        self._delivering.add(target)
                        deliveries.create_task(self._deliver(target))
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._wake.wait()

    def _may_deliver(self, target: int) -> bool:
        link = self._topology.links.get(target)
        if link is None:  # it has left: the owners of now get what was kept for it
            return self._topology.ring is not None and target != self._topology.number
        return link.healthy

    async def _deliver(self, target: int) -> None:
        """One pass over the target's hints, until it takes nothing of a batch or all were sent.

        The next pass goes on behind that batch, later each time: whatever the target
        refuses is not sent to it again and again, and stops no other hint.
        """
        prefix = target.to_bytes(4, "big")
        end = prefix_end(prefix)
        taken_any = False
        try:
            while self._may_deliver(target):
                start = self._after.get(target, prefix)
                async with self._slices.slice("handoff", self._spared(target)):
                    batch = await self._store.scan_async(
                        HINTS, start, end, BATCH_HINTS, BATCH_BYTES
                    )
                    if batch:
                        sent, taken = await self._deliver_batch(target, batch)
                if not batch:
                    self._after.pop(target, None)
                    break
                self._after[target] = batch[-1][0] + b"\x00"
                taken_any = taken_any or taken > 0
                if sent and not taken:
                    break
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
            log.info("all hints for %s are delivered", self._topology.host_name(target))
            return
        held = RETRY_S / 2 if taken_any else self._pauses.get(target, RETRY_S / 2)
        self._pauses[target] = pause_s = min(PAUSE_MAX_S, 2 * held)
        self._due[target] = asyncio.get_running_loop().time() + pause_s

    async def _deliver_batch(
        self, target: int, batch: list[tuple[bytes, bytes]]
    ) -> tuple[int, int]:
        """How many hints were sent, and how many of them are done with."""
        link = self._topology.links.get(target)
        name = self._topology.host_name(target)
        sent, asks = [], []
        for place, data in batch:
            try:
                record = records.from_bytes(data)
            except Corrupt as error:  # it stays, and stops no other
                if place not in self._damaged:
                    self._damaged.add(place)
                    log.error("a hint for %s is damaged: %s", name, error)
                continue
            reap_round = record.stamp.reap_round if record.stamp else 0
            key = place[4 + DIGEST_BYTES :]
            payload = wire.pack_write(key, record.obj, NOBODY, reap_round, True)
            sent.append((place, data))
            if link is not None:
                asks.append(link.ask(wire.Type.WRITE, payload, ACK_TIMEOUT_S))
            else:
                asks.append(self._give_to_owners(key, record.obj, reap_round, payload))
        taken = 0
        answers = await asyncio.gather(*asks)
        for (place, data), (kind, payload) in zip(sent, answers, strict=True):
            if kind == wire.Type.WRITTEN:
                self._replica.hints.forget(place, data)
                self.delivered += 1
                taken += 1
            elif kind == wire.Type.ERROR and payload[:1] == _REAPED:
                self._refused_as_reaped(target, place, data, payload)
                taken += 1
        return len(sent), taken

    async def _give_to_owners(
        self, key: bytes, obj: bytes, reap_round: int, payload: bytes
    ) -> tuple[int, bytes]:
        """Write to every owner of now what was kept for a member that has left.

        The answer is WRITTEN only when all of them have it durably.
        """
        topology = self._topology
        place = topology.place(key)
        for owner in place.owners:
            if owner == topology.number:
                answer = await self._merge_here(key, place.digest, obj, reap_round)
            else:
                link = topology.links.get(owner)
                if link is None or not link.healthy:
                    return LOST, b""
                answer = await link.ask(wire.Type.WRITE, payload, ACK_TIMEOUT_S)
            if answer[0] != wire.Type.WRITTEN:
                return answer
        return wire.Type.WRITTEN, b""

    async def _merge_here(
        self, key: bytes, digest: bytes, obj: bytes, reap_round: int
    ) -> tuple[int, bytes]:
        merge = self._replica.merge
        try:
            await told(lambda done: merge(key, digest, obj, reap_round, done, sync=True))
        except DynamoError as error:
            return wire.Type.ERROR, error.reply() if isinstance(error, PeerRefusal) else b""
        return wire.Type.WRITTEN, b""

    def _refused_as_reaped(self, target: int, place: bytes, data: bytes, reply: bytes) -> None:
        """The owner has committed a round beyond this hint's.

        Every member of that time had said that it holds no hint, so this one is newer, or
        it came back with an old disk: then it goes undelivered, and what else it may have
        brought is looked for by anti-entropy.
        """
        hints = self._replica.hints
        if hints.refused_as_reaped(place, data, wire.unpack_reaped(reply)[1]):
            return
        partition = self._replica.partition_of(place[4 : 4 + DIGEST_BYTES])
        name = self._topology.host_name(target)
        log.warning("a hint for %s is older than its partition's reaping", name)
        hints.mark(target, partition)
        hints.forget(place, data)
