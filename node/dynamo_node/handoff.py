"""Handoff: delivers hints to the owners they are meant for (P§4.6).

Owns one bounded loop per target with hints: while the target is healthy, its
hints are read in batches, sent with the demand for an fsync, and removed only
after it has acknowledged, unless they changed meanwhile. Whatever fails is
tried again for ever; nothing but an acknowledgement removes a hint.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from dynamo_core import records, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.records import DIGEST_BYTES, NOBODY
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
READ_ONLY_RETRY_S: Final = 2.0
_REAPED: Final = bytes((wire.Code.REAPED,))
_READ_ONLY: Final = bytes((wire.Code.READ_ONLY,))


class Handoff:
    """One task for each target that can be reached, so that none waits for another."""

    def __init__(
        self,
        store: Store,
        replica: Replica,
        topology: Topology,
        slices: Slices,
    ) -> None:
        self._store = store
        self._slices = slices
        self._replica = replica
        self._topology = topology
        self._wake = asyncio.Event()
        self._delivering: set[int] = set()
        self._damaged: set[bytes] = set()
        self.delivered = 0

    def wake(self) -> None:
        """A target may be reachable again."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver for ever; cancelled at shutdown, and every delivery with it."""
        async with asyncio.TaskGroup() as deliveries:
            while True:
                for target in sorted(self._replica.hints.by_target):
                    if target not in self._delivering and self._may_deliver(target):
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
        """One pass over the target's hints; what fails waits for the next pass."""
        prefix = target.to_bytes(4, "big")
        start, end = prefix, prefix_end(prefix)
        name = self._topology.host_name(target)
        try:
            while self._may_deliver(target):
                async with self._slices.slice("handoff"):
                    batch = await self._store.scan_async(
                        HINTS, start, end, BATCH_HINTS, BATCH_BYTES
                    )
                    if batch:
                        start = batch[-1][0] + b"\x00"
                        refused = await self._deliver_batch(target, batch)
                if not batch:
                    break
                if refused:  # its disk is full: look again now and then
                    await asyncio.sleep(READ_ONLY_RETRY_S)
                    return
            if target not in self._replica.hints.by_target:
                log.info("all hints for %s are delivered", name)
        except DynamoError as error:
            log.warning("hints for %s: %s", name, error)
        finally:
            self._delivering.discard(target)

    async def _deliver_batch(self, target: int, batch: list[tuple[bytes, bytes]]) -> bool:
        """Whether the target's disk takes nothing more: the rest waits for a later pass."""
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
        answers = await asyncio.gather(*asks)
        for (place, data), (kind, payload) in zip(sent, answers, strict=True):
            if kind == wire.Type.WRITTEN:
                self._replica.hints.forget(place, data)
                self.delivered += 1
            elif kind == wire.Type.ERROR and payload[:1] == _REAPED:
                self._refused_as_reaped(target, place, data)
        return any(kind == wire.Type.ERROR and data[:1] == _READ_ONLY for kind, data in answers)

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
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def merged(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(error)

        self._replica.merge(key, digest, obj, reap_round, merged, sync=True)
        error = await done
        if error is None:
            return wire.Type.WRITTEN, b""
        return wire.Type.ERROR, error.reply() if isinstance(error, PeerRefusal) else b""

    def _refused_as_reaped(self, target: int, place: bytes, data: bytes) -> None:
        """The owner has committed a round beyond this hint's.

        Every member of that time had said that it holds no hint, so this one came back
        with an old disk: it goes undelivered, and what else it may have brought is
        looked for by anti-entropy.
        """
        hints = self._replica.hints
        partition = self._replica.partition_of(place[4 : 4 + DIGEST_BYTES])
        name = self._topology.host_name(target)
        log.warning("a hint for %s is older than its partition's reaping", name)
        hints.mark(target, partition)
        hints.forget(place, data)
