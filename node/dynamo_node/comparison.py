"""Comparison: one peer, some partitions that both own, from one hash to equal keys (P§4.7).

Owns the shell around core's `antientropy` walk: sends the questions, waits, and
hands the segments that differ to `repairs`, some partitions at a time. Whatever
goes wrong ends the comparison with Ended; the next one finds what is left.
"""

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, TypeVar

from dynamo_core import antientropy
from dynamo_core.antientropy import Found
from dynamo_core.errors import DynamoError
from dynamo_core.wire import Type
from dynamo_node.links import Link
from dynamo_node.repairs import Ended, Repairs

if TYPE_CHECKING:
    from dynamo_node.node import Node

CHUNK: Final = 64
"""Partitions narrowed and exchanged together."""

_T = TypeVar("_T")


class Comparison:
    """With the peer behind `link`; `insist` names partitions whose moving keys are repaired."""

    def __init__(
        self, node: "Node", link: Link, keys: int, insist: frozenset[int] = frozenset()
    ) -> None:
        self._node = node
        self._asking = node.antientropy
        self._number = link.member.number
        self._pause_s = node.config.timing.recheck_ms / 1000
        self._repairs = Repairs(node, link, keys, insist)
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

    async def _run(self, partitions: list[int], begin: int) -> None:
        tally = self.tally
        await self._asking.hash_roots(partitions)
        found = await self._walk(antientropy.find(self._asking.view, partitions))
        tally.compared += len(partitions)
        tally.differing += len(found.differing)
        tally.agreed.update(found.equal)
        for partition, theirs in found.rounds:
            self._asking.compare_rounds(self._number, partition, theirs)
        if found.differing and self._node.replica.read_only():
            tally.full = True
            raise Ended("this node's disk is full")
        differing = [p for p in found.differing if p >= begin]
        differing += [p for p in found.differing if p < begin]
        for at in range(0, len(differing), CHUNK):
            if self._repairs.keys <= 0:
                tally.left += differing[at:]
                return
            await self._chunk(differing[at : at + CHUNK], found)

    async def _chunk(self, partitions: list[int], found: Found) -> None:
        narrowed = await self._walk(antientropy.narrow(self._asking.view, partitions))
        repairs, left = self._repairs, self.tally.left
        self._asking.exchanging_with = self._number
        try:
            for partition in partitions:
                for first, last in antientropy.runs(narrowed.get(partition, [])):
                    if not await repairs.run(partition, first, last):
                        left.append(partition)
                        break
            await repairs.finish()
        finally:
            self._asking.exchanging_with = 0
        not_agreed = repairs.unsettled.union(found.recovering, left)
        self.tally.agreed.update(p for p in partitions if p not in not_agreed)

    async def _walk(self, steps: Generator[bytes | None, bytes, _T]) -> _T:
        try:
            payload = next(steps)
            while True:
                if payload is antientropy.PAUSE:
                    await asyncio.sleep(self._pause_s)
                    payload = next(steps)
                else:
                    payload = steps.send(await self._repairs.ask(Type.TREE, payload))
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            steps.close()
