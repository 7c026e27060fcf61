"""Claims: how this node takes a slot that its disk knows nothing of (docs/decisions/0012).

It was nominated because a holder was given up, or the disk with the record is lost. Owns
the hearing of the other holders' rows, the claim once enough have been heard, and telling
it. `recovery` merges what the others hold and says when a claimed slot counts.

Forbidden here: by what right a token is raised (`dynamo_core.handover`), and pulling.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from dynamo_core import slots
from dynamo_core.handover import Custody
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.ring import Ring
from dynamo_core.slots import Row
from dynamo_core.tenures import Stage

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

ROWS_MAX: Final = 512
"""Rows of one message: some 26 KB."""


def claimed(custody: Custody) -> list[int]:
    """Slots that were claimed here and don't count yet."""
    return [s for s, held in sorted(custody.held.items()) if held.stage is Stage.CLAIMED]


class Claims:
    """One per node; `work` is called as long as there is something open."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._heard: dict[int, set[int]] = {}
        """Partition -> other holders that have told, since this start, who holds its slots."""
        self._told: dict[int, dict[int, bytes]] = {}
        """Partition -> other holder -> what names the row that it has been told."""
        self._ring: Ring | None = None
        self._others: set[int] = set()
        """Partitions to look at though they count, or though no row gives this node a slot."""
        self._left = 0
        node.custodies.on_row.append(self._row_changed)

    def _row_changed(self, partition: int, row: Row) -> None:
        if self._ring is None:
            return
        me = self._node.topology.number
        twice = sum(token.holder == me for token in row) > 1
        if twice or self._node.custodies.table.orphans(partition, me):
            self._others.add(partition)
        else:
            self._others.discard(partition)

    # What is open

    def open(self) -> list[int]:
        """Partitions of which a slot here is to be claimed, or was and doesn't count yet."""
        return [c.partition for c in self._candidates() if c.unclaimed() or claimed(c)]

    def _candidates(self) -> Iterator[Custody]:
        topology, custodies = self._node.topology, self._node.custodies
        if topology.ring is None:
            return
        if self._ring is not topology.ring:
            self._ring = topology.ring
            for partition in range(self._ring.partitions):
                self._row_changed(partition, topology.row(partition))
        # Where it counts there is nothing to claim, unless for a second slot.
        for partition in sorted((topology.owned - topology.counting) | self._others):
            yield custodies.of(partition)

    def waits_for(self, partition: int) -> str:
        """What the slots of a partition that can't be claimed yet wait for; for people."""
        left = self._needed(partition) - len(self._heard_of(partition))
        return f"{left} other owners that say who holds its slots"

    # Claiming

    async def work(self) -> None:
        """Hear whoever can be reached, claim what may be, and tell it."""
        unclaimed = [c.partition for c in self._candidates() if c.unclaimed()]
        if unclaimed:
            await self._to_others(unclaimed, lambda p, other: other not in self._heard.get(p, ()))
            done = sum(self.claim(p, self._needed(p)) for p in unclaimed)
            if done:
                log.info("slots of %d partitions are claimed", done)
            if self._left != (left := len(unclaimed) - done) and left:
                log.info("slots of %d partitions wait for owners that say who holds them", left)
            self._left = left
        fresh = [c.partition for c in self._candidates() if claimed(c)]
        digest, told = self._node.topology.digest, self._told
        await self._to_others(fresh, lambda p, other: told.get(p, {}).get(other) != digest(p))

    async def _to_others(self, partitions: list[int], wanted: Callable[[int, int], bool]) -> None:
        """Exchange these rows with each other holder that can be reached and is `wanted`."""
        links, by_peer = self._node.topology.links, dict[int, list[int]]()
        for partition in partitions:
            for other in self._node.topology.other_holders(partition):
                if other in links and links[other].up and wanted(partition, other):
                    by_peer.setdefault(other, []).append(partition)
        await asyncio.gather(*(self._exchange(o, by_peer[o]) for o in sorted(by_peer)))

    async def _exchange(self, other: int, partitions: list[int]) -> None:
        node, topology = self._node, self._node.topology
        for at in range(0, len(partitions), ROWS_MAX):
            rows = {p: topology.row(p) for p in partitions[at : at + ROWS_MAX]}
            theirs = await node.rows.tell(other, rows)
            if theirs is None:
                return
            for partition, row in theirs.items():
                self._heard.setdefault(partition, set()).add(other)
                self._told.setdefault(partition, {})[other] = slots.row_digest(row)

    def claim(self, partition: int, needed: int) -> bool:
        """Claim what the row gives to this node, if `needed` others have been heard."""
        node = self._node
        custody = node.custodies.of(partition)
        effect = custody.claim(self._heard_of(partition), needed)
        if not effect:
            return False
        node.custodies.carry_out(partition, effect)
        if node.trees.root(partition) != EMPTY_ROOT:
            node.standing.merging(partition)  # a copy of before: it isn't as new as an empty one
        self._heard.pop(partition, None)
        return True

    def _needed(self, partition: int) -> int:
        node = self._node
        row, settings = node.topology.row(partition), node.settings.now
        return slots.needed_to_claim(row, settings.r, settings.w)

    def _heard_of(self, partition: int) -> list[int]:
        others = self._node.topology.other_holders(partition)
        return [o for o in others if o in self._heard.get(partition, ())]

    def known_by(self, partition: int, other: int) -> None:
        """`other` has answered under the row that is known here: it knows it durably."""
        node = self._node
        effect = node.custodies.of(partition).known_by(
            other, node.topology.row(partition), node.settings.now.w
        )
        node.custodies.carry_out(partition, effect)

    def forget(self, partition: int) -> None:
        """The claim counts, or the copy begins again."""
        self._told.pop(partition, None)
