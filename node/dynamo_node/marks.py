"""Marks: what clears a mark "this target needs anti-entropy for this partition".

A holder of the partition clears it by a comparison with the target that began
after the mark was made and ended with the target holding, fsynced, all that is
here. A stand-in holds nothing of its own but hints: once none of the partition
are left here, all that it had is with holders, so it asks the target to compare
with all other holders and clears the mark when the target says that it agrees
with each. If the target holds no slot of the partition any more, all present holders
have to agree (docs/decisions/0005), under one row: whoever has taken over a slot
meanwhile was not asked. Who doesn't count, recovers, or may have an old disk, can
vouch for nothing, and clears none.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from dynamo_core import antientropy
from dynamo_core.wire import Type
from dynamo_node.repairs import Ended, Tally

if TYPE_CHECKING:
    from dynamo_node.node import Node

AGREE_TIMEOUT_S: Final = 30.0

Compare = Callable[[int, list[int]], Awaitable[Tally]]
Made = list[tuple[int, int]]
"""(partition, which making) of marks for one target, in order."""


class Marks:
    """One node's marks; `compare(number, partitions)` raises Ended."""

    def __init__(self, node: "Node", compare: Compare) -> None:
        self._node = node
        self._compare = compare
        self._last = (-1, -1)

    def targets(self) -> set[int]:
        """For whom a comparison may clear one."""
        owned = self._node.topology.owned
        return {target for p, target, _ in self._node.replica.hints.marks() if p in owned}

    def of(self, target: int) -> Made:
        """Those that a comparison with `target` that begins now may clear."""
        marks = self._node.replica.hints.marks()
        return [(p, made) for p, marked, made in marks if marked == target]

    def compared(self, target: int, marks: Made, agreed: set[int]) -> None:
        """A comparison ended with the target holding all that is here of `agreed`."""
        for partition, made in marks:
            if partition in agreed and self._node.antientropy.view.counts(partition):
                self._node.replica.hints.clear_mark(target, partition, made)

    async def agrees_with_all(self, partition: int) -> bool:
        """Whether every other holder, and this one, can vouch that all this one lacked is here."""
        node = self._node
        row = node.topology.digest(partition)
        if not node.antientropy.view.counts(partition):
            return False
        for number in node.topology.other_holders(partition):
            try:
                tally = await self._compare(number, [partition])
            except Ended:
                return False
            if partition not in tally.agreed:
                return False
        await node.disk.store.durable()
        return row == node.topology.digest(partition) and node.antientropy.view.counts(partition)

    async def settle_one(self) -> None:
        """Try one mark, in turn, that no comparison of this node with its target can clear."""
        node = self._node
        hints, me = node.replica.hints, node.topology.number
        marks = hints.marks()
        turn = [m for m in marks if m[:2] > self._last] + [m for m in marks if m[:2] <= self._last]
        for partition, target, made in turn:
            holders = node.topology.holders(partition)
            others = node.topology.other_holders(partition)
            if target in others:
                others = [target]
            if me in holders and others == [target]:
                continue  # a comparison with the target will do
            if me not in holders and hints.in_partition(partition):
                continue
            if not all(map(node.topology.healthy, others)):
                continue
            self._last = partition, target
            if me in holders:
                agreed = await self.agrees_with_all(partition)
            else:
                agreed = await self._all_agree(partition, others)
            if agreed:
                hints.clear_mark(target, partition, made)
            return

    async def _all_agree(self, partition: int, holders: list[int]) -> bool:
        await self._node.custodies.durable()
        row = self._node.topology.digest(partition)
        ask = antientropy.pack_agreed(partition, row)
        for number in holders:
            link = self._node.topology.links.get(number)
            if link is None:
                return False
            kind, reply = await link.ask(Type.TREE, ask, AGREE_TIMEOUT_S)
            if kind != Type.TREE_REPLY or reply != b"\x01":
                self._node.coordinator.reply_was_no(number, kind, reply)
                return False
        return row == self._node.topology.digest(partition)
