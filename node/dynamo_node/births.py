"""Births: how this node comes by the right to mint (design: actor).

Owns the incarnation: a new one at every start, except after a clean end whose
lease the peers confirm, and where some peers take it for replaced while most do
not; and the first births leased under it.

Forbidden here: issuing dots (`actors`) and what peers remember (`incarnations`).
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from dynamo_core.actors import BIRTHS_MAX, Minter
from dynamo_core.wire import Lease
from dynamo_node.disk import Clean, new_incarnation
from dynamo_node.incarnations import confirmed
from dynamo_node.replica import LEASE_BIRTHS

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)


class Births:
    """One per node; `clean` is what the last end has left, if it was a clean one."""

    def __init__(self, node: "Node", clean: Clean | None) -> None:
        self._node = node
        self._clean = clean
        self._lock = asyncio.Lock()
        self.incarnation = clean.incarnation if clean else new_incarnation(node.outside)
        node.replica.on_new_incarnation = self._new_incarnation

    async def take_up(self) -> None:
        """Get the right to mint under the number that the ring in force gives.

        One at a time: a ring may come while the peers are still asked about the last
        incarnation, and births that it has used must not be counted from 1 again.
        """
        async with self._lock:
            number, held = self._node.topology.number, self._node.replica.minter
            if held is not None and held.number == number:
                return
            clean, self._clean = self._clean, None
            if clean is not None and await self._goes_on(number, clean):
                return
            taken = held if clean is None else clean
            if taken is not None and taken.incarnation == self.incarnation:
                if clean is not None:
                    log.info("the last incarnation was not confirmed by the peers")
                self._new_incarnation(new_incarnation(self._node.outside))
            number = self._node.topology.number  # a ring may have come meanwhile
            await self._mint_with(Minter(number, self.incarnation), 1 + LEASE_BIRTHS)

    def renumbered(self) -> None:
        """This node goes on under another number: in the very step in which it gets that.

        Peers take the incarnation that they met last under a number for its newest. Two under
        one number, a moment apart, they may meet in either order.
        """
        self._new_incarnation(new_incarnation(self._node.outside))

    async def _goes_on(self, number: int, clean: Clean) -> bool:
        """Go on with the incarnation that was shut down cleanly, if the peers confirm."""
        until = min(clean.lease_end + LEASE_BIRTHS, BIRTHS_MAX)
        lease = Lease(number, clean.incarnation, clean.lease_end, until)
        if until == clean.lease_end or not await confirmed(
            self._node.topology.links.values(), lease
        ):
            return False
        minter = Minter(number, clean.incarnation, clean.next_birth, clean.lease_end)
        await self._mint_with(minter, until)
        return True

    async def _mint_with(self, minter: Minter, lease_end: int) -> None:
        leased = asyncio.Event()  # never set when the store breaks: the node ends then
        self._node.replica.lease(minter, lease_end, leased.set)
        await leased.wait()
        self._node.replica.minter = minter
        log.info("ready as %s, incarnation %s", self._node.config.name, minter.incarnation.hex())

    def taken_for_replaced(self, incarnation: bytes) -> None:
        """A peer refuses that one of ours; where half of all accept it we go on under a new one.

        A disk that was rolled back may have gone on with the yes of peers that never met
        the incarnation in between; those who did would refuse it for ever. A process that
        has really been replaced is refused by more than half, and stays so.
        """
        links = self._node.topology.links.values()
        accepted = sum(link.up for link in links)
        if incarnation == self.incarnation and 2 * accepted >= len(links) > 1:
            self._node.in_background(self._renew(incarnation))

    async def _renew(self, replaced: bytes) -> None:
        async with self._lock:
            minter = self._node.replica.minter
            if minter is not None and minter.incarnation == replaced == self.incarnation:
                self._new_incarnation(new_incarnation(self._node.outside))
                await self._mint_with(Minter(minter.number, self.incarnation), 1 + LEASE_BIRTHS)

    def _new_incarnation(self, incarnation: bytes) -> None:
        log.info("going on as incarnation %s", incarnation.hex())
        self.incarnation = incarnation
        for link in self._node.topology.links.values():
            link.reconnect()
