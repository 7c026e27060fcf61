"""Comparison: one peer, some partitions that both hold, from one hash to equal keys (P§4.7).

Owns the shell around core's `antientropy` walk: sends the questions, waits, and
hands the segments that differ to `repairs`, some partitions at a time. A partition
of which another node holds a slot by now, as either side knows, is left out alone;
whatever else goes wrong ends the comparison with Ended. The next one finds what is
left.
"""

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, TypeVar

from dynamo_core import antientropy
from dynamo_core.antientropy import Found
from dynamo_core.errors import DynamoError
from dynamo_core.wire import Type
from dynamo_node.links import Link
from dynamo_node.repairs import Ended, Moved, Repairs

if TYPE_CHECKING:
    from dynamo_node.node import Node

CHUNK: Final = 64
"""Partitions narrowed and exchanged together."""

_T = TypeVar("_T")


class Comparison:
    """With the peer behind `link`; `insist` names partitions whose moving keys are repaired."""

    def __init__(
        self,
        node: "Node",
        link: Link,
        keys: int,
        insist: frozenset[int] = frozenset(),
        trace: bytes = b"",
    ) -> None:
        self._node = node
        self._asking = node.antientropy
        self._number = link.member.number
        self._pause_s = node.config.timing.recheck_ms / 1000
        self._repairs = Repairs(node, link, keys, insist, trace)
        self.tally = self._repairs.tally

    async def run(self, partitions: list[int], begin: int = 0) -> None:
        """Compare and exchange; raises Ended. `tally` counts, whatever the end.

        Of those that differ, the ones from `begin` on are exchanged first.
        """
        try:
            await self._run(partitions, begin)
        except Ended:
            raise
        except DynamoError as error:  # an answer that can't be read, or a disk that can't
            raise Ended(f"it can't be compared: {error}") from error
        finally:
            # What was said under other tokens, at whatever moment, vouches for nothing.
            tally = self.tally
            tally.moved.update(filter(self._repairs.has_moved, partitions))
            tally.agreed -= tally.moved
            tally.compared -= tally.moved

    async def _run(self, partitions: list[int], begin: int) -> None:
        tally = self.tally
        await self._node.custodies.durable()
        self._repairs.under_rows_of(partitions)
        await self._asking.hash_roots(partitions)
        found = await self._walk(antientropy.find(self._asking.view, partitions))
        if found.moved:
            found = await self._again(found)
        tally.compared.update(partitions)
        tally.moved.update(found.moved)
        tally.differing += len(found.differing)
        tally.agreed.update(found.equal)
        for partition, theirs in found.rounds:
            self._asking.compare_rounds(self._number, partition, theirs)
        if found.differing and self._node.replica.read_only():
            tally.full = True
            raise Ended("this node's disk is full")
        takes = [p for p in found.differing if self._asking.view.takes(p)]
        differing = [p for p in takes if p >= begin]
        differing += [p for p in takes if p < begin]
        for at in range(0, len(differing), CHUNK):
            if self._repairs.keys <= 0:
                tally.left += differing[at:]
                return
            await self._chunk(differing[at : at + CHUNK], found)

    async def _again(self, found: Found) -> Found:
        """Learn from each other who holds what, and compare what was left out for that."""
        if not await self._node.rows.sync(self._number):
            return found
        here = {*self._asking.shared(self._number)}
        again = [p for p in found.moved if p in here]
        self._repairs.under_rows_of(again)
        more = await self._walk(antientropy.find(self._asking.view, again))
        moved = [p for p in found.moved if p not in here]
        return Found(
            sorted(found.equal + more.equal),
            sorted(found.differing + more.differing),
            sorted(found.recovering + more.recovering),
            found.rounds + more.rounds,
            sorted(moved + more.moved),
        )

    async def _chunk(self, partitions: list[int], found: Found) -> None:
        narrowed = await self._walk(antientropy.narrow(self._asking.view, partitions))
        repairs, left, moved = self._repairs, self.tally.left, self.tally.moved
        moved.update(narrowed.moved)
        self._asking.exchanging_with = self._number
        try:
            for partition, segments in sorted(narrowed.segments.items()):
                try:
                    for first, last in antientropy.runs(segments):
                        if not await repairs.run(partition, first, last):
                            left.append(partition)
                            break
                except Moved:
                    moved.add(partition)
            await repairs.finish()
        finally:
            self._asking.exchanging_with = 0
        not_agreed = repairs.unsettled.union(found.recovering, left, moved)
        self.tally.agreed.update(p for p in partitions if p not in not_agreed)

    async def _walk(self, steps: Generator[bytes | None, bytes, _T]) -> _T:
        try:
            payload = next(steps)
            while True:
                if payload is antientropy.PAUSE:
                    await asyncio.sleep(self._pause_s)
                    payload = next(steps)
                else:
                    if self._node.topology.unsettled:  # the rows it names are to be fsynced
                        await self._node.custodies.durable()
                    payload = steps.send(await self._repairs.ask(Type.TREE, payload))
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()
