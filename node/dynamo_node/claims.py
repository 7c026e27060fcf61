"""Claims: how this node takes a slot that its disk knows nothing of (docs/decisions/0012).

It was nominated because a holder was given up, or the disk with the record is lost, or it
is to get the slot from a node that was drained and is in no ring any more (0014, 5). Owns
the hearing of the others' rows, the claim once enough have been heard, and telling it.
`recovery` merges what the others hold and says when a claimed slot counts.

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
        """Partition -> others that have told, under this ring, who holds its slots; only where
        there is one to claim."""
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
            self._heard.clear()  # who was asked before that knew nothing of who has left by it
            self._others.clear()
            for partition in topology.owned.union(self._node.transfers.moves()):
                self._row_changed(partition, topology.row(partition))
        # Where it counts there is nothing to claim, unless for a second slot.
        for partition in sorted((topology.owned - topology.counting) | self._others):
            yield custodies.of(partition)

    def _unclaimed(self) -> list[int]:
        """Partitions with a slot to claim; what was heard of others is forgotten."""
        unclaimed = [c.partition for c in self._candidates() if c.unclaimed()]
        for partition in self._heard.keys() - set(unclaimed):
            del self._heard[partition]
        return unclaimed

    def waits_for(self, partition: int) -> str:
        """What the slots of a partition that can't be claimed yet wait for; for people."""
        left = self._needed(partition) - len(self._heard_of(partition))
        instead = ""
        if self._is_orphan(partition):
            silent = set(self._asked(partition)).difference(self._heard.get(partition, ()))
            instead = f", or all of {len(silent)} nodes that haven't yet"
        return f"{left} other owners that say who holds its slots{instead}"

    # Claiming

    async def work(self) -> None:
        """Hear whoever can be reached, claim what may be, and tell it."""
        if unheard := self._unclaimed():
            await self._to_others(unheard, lambda p, other: other not in self._heard.get(p, ()))
            unclaimed = self._unclaimed()  # another ring may be in force by now
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
        """Exchange these rows with whoever is asked, can be reached and is `wanted`."""
        links, by_peer = self._node.topology.links, dict[int, list[int]]()
        for partition in partitions:
            for other in self._asked(partition):
                if other in links and links[other].up and wanted(partition, other):
                    by_peer.setdefault(other, []).append(partition)
        await asyncio.gather(*(self._exchange(o, by_peer[o]) for o in sorted(by_peer)))

    async def _exchange(self, other: int, partitions: list[int]) -> None:
        node, topology = self._node, self._node.topology
        ring = topology.ring
        for at in range(0, len(partitions), ROWS_MAX):
            rows = {p: topology.row(p) for p in partitions[at : at + ROWS_MAX]}
            theirs = await node.rows.tell(other, rows)
            if theirs is None or topology.ring is not ring:
                return
            for partition, row in theirs.items():
                if node.custodies.of(partition).unclaimed():
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

    def _is_orphan(self, partition: int) -> bool:
        topology = self._node.topology
        return bool(self._node.custodies.table.orphans(partition, topology.number))

    def _asked(self, partition: int) -> list[int]:
        """Who is asked who holds its slots: the other holders; all that the ring names where
        one of them isn't among those."""
        topology = self._node.topology
        if topology.ring is None or not self._is_orphan(partition):
            return topology.other_holders(partition)
        return [m.number for m in topology.ring.everybody if m.number != topology.number]

    def _needed(self, partition: int) -> int:
        """How many other holders must have told before a claim.

        A row may be stale that gives a slot to a drained node: that node had handed it on
        before it left. Its successor, or who comes after that, is in the ring: nobody's word
        is needed once all have told, and until then a holder's, be there none.
        """
        node = self._node
        row, settings = node.topology.row(partition), node.settings.now
        needed = slots.needed_to_claim(row, settings.r, settings.w)
        if not self._is_orphan(partition):
            return needed
        if self._heard.get(partition, set()).issuperset(self._asked(partition)):
            return 0
        return max(1, needed)

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
