"""Incarnations: which one of each peer is the living one, and whether ours may go on.

Owns, on disk, which incarnations of a node are known to have been replaced:
a zombie, such as a process of a volume that was rolled back, stays refused
after this node's own restart. And the question put to the peers after a clean
shutdown. A start goes on only
if the clean marker was there (it is removed durably first) and more than half
of the other members record and confirm that they have granted this
incarnation nothing beyond the lease on this disk. A disk rolled back to an
older snapshot fails that: any two majorities share a member, so one of those
asked has granted more. Whoever can't ask a majority in time takes a new
incarnation, which is always safe and costs a clock entry.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from dynamo_core import wire
from dynamo_core.actors import INCARNATION_BYTES
from dynamo_core.wire import Lease, Type
from dynamo_node import meta
from dynamo_node.links import Link
from dynamo_node.storage import META, Store

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 1.5
"""How long a peer that isn't connected is waited for: it may be down."""
ANSWER_TIMEOUT_S: Final = 4.0
"""How long one is that is: it is there, and its disk or its processor may be slow."""
POLL_S: Final = 0.02
KNOWN_MAX: Final = 64
"""Incarnations remembered of each node, the living one included; the oldest go first."""
_PREFIX: Final = b"newest/"
_NAME_AT: Final = len(_PREFIX) + 4


class Known:
    """What this disk knows of every node's incarnations; one per node.

    Of number and name: rings that were decided apart may give one number to two nodes, of
    which neither replaces the other.

    A note reaches the disk with the tick's batch and nobody waits for it: a
    power cut may take the last one, but whoever called then has lost its
    connection too, and calls again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[tuple[int, str], tuple[bytes, ...]] = {}  # the newest first

    async def load(self) -> None:
        """Take up what earlier runs have noted; before anybody can call."""
        async for key, value in meta.pairs(self._store, _PREFIX):
            number, name = key[len(_PREFIX) : _NAME_AT], key[_NAME_AT:]
            if len(number) != 4 or not name or not value or len(value) % INCARNATION_BYTES:
                log.error("a note of incarnations is damaged and left out: %s", key.hex())
                continue
            self._seen[int.from_bytes(number, "big"), name.decode(errors="replace")] = tuple(
                value[at : at + INCARNATION_BYTES] for at in range(0, len(value), INCARNATION_BYTES)
            )

    def called(self, number: int, name: str, incarnation: bytes) -> bool:
        """That incarnation has proven itself: it is the newest. True if it replaces another."""
        seen = self._seen.get((number, name), ())
        if seen[:1] == (incarnation,):
            return False
        seen = (incarnation, *(old for old in seen if old != incarnation))[:KNOWN_MAX]
        self._seen[number, name] = seen
        key = _PREFIX + number.to_bytes(4, "big") + name.encode()
        self._store.put(META, key, b"".join(seen))
        return len(seen) > 1

    def is_replaced(self, number: int, name: str, incarnation: bytes) -> bool:
        """Whether another incarnation of that node is known to have followed this one."""
        return incarnation in self._seen.get((number, name), ())[1:]


async def confirmed(links: Iterable[Link], lease: Lease) -> bool:
    """Ask every peer that connects in time; True when a majority of all confirms."""
    everybody = list(links)
    needed = len(everybody) // 2 + 1
    if not everybody:
        return False
    payload = wire.pack_lease(lease)
    asks = [asyncio.ensure_future(_ask(link, payload)) for link in everybody]
    granted = refused = 0
    try:
        for answer in asyncio.as_completed(asks):
            if await answer:
                granted += 1
            else:
                refused += 1
            if granted >= needed:
                return True
            if refused > len(everybody) - needed:
                return False
    finally:
        for ask in asks:
            ask.cancel()
    return False


async def _ask(link: Link, payload: bytes) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while not link.up:  # noqa: ASYNC110 - being dialled
                await asyncio.sleep(POLL_S)
    if not link.up:
        return False
    kind, reply = await link.ask(Type.LEASE, payload, ANSWER_TIMEOUT_S)
    return kind == Type.LEASE_REPLY and reply == b"\x01"
