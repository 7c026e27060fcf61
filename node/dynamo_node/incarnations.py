"""Incarnations: whether a start may go on with the last one or takes a new one.

Owns the question put to the peers after a clean shutdown. A start goes on only
if the clean marker was there (it is removed durably first) and more than half
of the other members record and confirm that they have granted this
incarnation nothing beyond the lease on this disk. A disk rolled back to an
older snapshot fails that: any two majorities share a member, so one of those
asked has granted more. Whoever can't ask a majority in time takes a new
incarnation, which is always safe and costs a clock entry.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from dynamo_core import wire
from dynamo_core.wire import Lease, Type
from dynamo_node.links import Link

CONFIRM_TIMEOUT_S: Final = 1.0
POLL_S: Final = 0.02


async def confirmed(links: Iterable[Link], lease: Lease) -> bool:
    """Ask every peer within CONFIRM_TIMEOUT_S; True when a majority of them confirms."""
    everybody = list(links)
    needed = len(everybody) // 2 + 1
    if not everybody:
        return False
    payload = wire.pack_lease(lease)
    try:
        async with asyncio.timeout(CONFIRM_TIMEOUT_S):
            asks = [asyncio.ensure_future(_ask(link, payload)) for link in everybody]
            try:
                granted = refused = 0
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
    except TimeoutError:
        pass
    return False


async def _ask(link: Link, payload: bytes) -> bool:
    while not link.up:  # noqa: ASYNC110 - being dialled; the caller bounds this wait
        await asyncio.sleep(POLL_S)
    kind, reply = await link.ask(Type.LEASE, payload, CONFIRM_TIMEOUT_S)
    return kind == Type.LEASE_REPLY and reply == b"\x01"
