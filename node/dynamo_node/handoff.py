"""Handoff: delivers hints to the owners they are meant for (P§4.6).

Owns one bounded loop per target with hints: while the target is healthy, its
hints are read in batches, sent with the demand for an fsync, and removed only
after it has acknowledged, unless they changed meanwhile. Whatever fails is
tried again for ever; nothing but an acknowledgement removes a hint.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dynamo_core import records, wire
from dynamo_core.errors import DynamoError
from dynamo_core.quorum import NOBODY
from dynamo_core.records import DIGEST_BYTES
from dynamo_node.replica import Replica
from dynamo_node.storage import HINTS, Store, prefix_end
from dynamo_node.topology import Topology

log = logging.getLogger(__name__)

BATCH_HINTS: Final = 128
BATCH_BYTES: Final = 1 << 20
ACK_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5


class Handoff:
    """One task for all targets; each round takes one batch per healthy target."""

    def __init__(self, store: Store, replica: Replica, topology: Topology) -> None:
        self._store = store
        self._replica = replica
        self._topology = topology
        self._wake = asyncio.Event()
        self.delivered = 0
        self.is_busy: Callable[[], bool] = lambda: False

    def wake(self) -> None:
        """A target may be reachable again."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver for ever; cancelled at shutdown."""
        while True:
            progress = False
            for target in list(self._replica.hints):
                link = self._topology.links.get(target)
                if link is not None and link.healthy:
                    try:
                        progress |= await self._deliver_batch(target)
                    except DynamoError as error:
                        log.warning("hints for %s: %s", self._topology.host_name(target), error)
            if not progress:
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), RETRY_S)
                except TimeoutError:
                    continue

    async def _deliver_batch(self, target: int) -> bool:
        """True when at least one hint was delivered."""
        prefix = target.to_bytes(4, "big")
        batch = await self._store.scan_async(
            HINTS, prefix, prefix_end(prefix), BATCH_HINTS, BATCH_BYTES
        )
        if not batch:
            return False
        link = self._topology.links.get(target)
        if link is None:  # a ring without it came meanwhile
            return False
        name = self._topology.host_name(target)
        asks = []
        for place, data in batch:
            record = records.from_bytes(data)
            key = place[4 + DIGEST_BYTES :]
            payload = wire.pack_write(key, record.obj, NOBODY, record.reap_round or 0, True)
            asks.append(link.ask(wire.Type.WRITE, payload, ACK_TIMEOUT_S))
        answers = await asyncio.gather(*asks)
        delivered = 0
        for (place, data), (kind, _) in zip(batch, answers, strict=True):
            if kind == wire.Type.WRITTEN:
                self._replica.forget_hint(place, target, data)
                delivered += 1
        self.delivered += delivered
        if target not in self._replica.hints:
            log.info("all hints for %s are delivered", name)
        return delivered > 0


async def count_hints(store: Store) -> dict[int, int]:
    """Hints on disk by target, counted once at start."""
    counts: dict[int, int] = {}
    at = b""
    while True:
        found = await store.scan_async(HINTS, at, b"\xff" * 64, 1000)
        for place, _ in found:
            target = int.from_bytes(place[:4], "big")
            counts[target] = counts.get(target, 0) + 1
        if len(found) < 1000:
            return counts
        at = found[-1][0] + b"\x00"
