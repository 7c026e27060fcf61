"""Pulling: this node takes over the slots that the ring in force gives it (design: handover).

Owns the loop of the successor: in which partitions something is due, how many are worked
on at a time, who is asked again when, and why something waits. None waits because another
one's holder is down.

Forbidden here: the steps (`taking_over`), the holder's side (`handing_over`), and claims.
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dynamo_core.errors import DynamoError
from dynamo_core.handover import Custody, Do, Step
from dynamo_core.ring import Ring
from dynamo_core.rounds import State
from dynamo_core.slots import Row, Token
from dynamo_core.tenures import Asked
from dynamo_node import progress as so_far
from dynamo_node.progress import Progress
from dynamo_node.refusals import ReadOnlyError
from dynamo_node.taking_over import TakingOver, taken
from dynamo_node.walking import NotGiven

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0
PARTITIONS_AT_ONCE: Final = 4
URGENT_AT_ONCE: Final = 16
"""Partitions whose seal is asked for or given are worked on beside the others: clients wait."""


class Puller:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._ring: Ring | None = None
        self._open: set[int] = set()
        """Partitions in which something may be due here."""
        self._working: dict[int, Custody] = {}
        self._not_before: dict[int, float] = {}
        self._unable: dict[tuple[int, int], float] = {}
        """(partition, holder) that said no -> until when it isn't asked."""
        self._taking = TakingOver(node, self._step)
        node.custodies.on_row.append(self._row_changed)

    def wake(self) -> None:
        """A peer may be reachable again, or a ring came."""
        self._wake.set()

    def _row_changed(self, partition: int, row: Row) -> None:
        self._open.add(partition)
        self._wake.set()

    async def run(self) -> None:
        """Take over whatever this node is to hold, for ever."""
        while True:
            self._wake.clear()
            self._begin_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    # What is due

    def _begin_due(self) -> None:
        node, now = self._node, self._loop.time()
        ring = node.topology.ring
        if ring is None or node.stopping:
            return
        if ring is not self._ring:
            self._ring = ring
            self._open |= node.transfers.moves().keys()
            self._open.update(c.partition for c in node.custodies.held() if _unfinished(c))
        self._unable = {at: until for at, until in self._unable.items() if until > now}
        for partition in sorted(self._open):
            if partition in self._working or self._not_before.get(partition, 0.0) > now:
                continue
            custody = node.custodies.of(partition)
            urgent = _urgent(custody)
            at_once = URGENT_AT_ONCE if urgent else PARTITIONS_AT_ONCE
            if sum(_urgent(c) is urgent for c in self._working.values()) >= at_once:
                continue
            if urgent or self._step(custody) is not None:
                self._not_before.pop(partition, None)
                self._working[partition] = custody
                node.in_background(self._work(custody))
            elif not self._may_come(partition):
                self._open.discard(partition)
                node.transfers.running.pop(partition, None)

    def _step(self, custody: Custody) -> Step | None:
        """What is due; nothing more for who still works under a number that this node had."""
        partition = custody.partition
        if not self._current(custody):
            return None
        links = self._node.topology.links
        unable = {
            n
            for n in self._node.topology.other_holders(partition)
            if (partition, n) in self._unable or n not in links or not links[n].up
        }
        return custody.next_step(self._node.custodies.wanted(partition), unable)

    def _current(self, custody: Custody) -> bool:
        return self._node.custodies.of(custody.partition) is custody

    def _may_come(self, partition: int) -> bool:
        """Whether something will be due here, once another slot has moved or a holder is back."""
        me = self._node.topology.number
        return any(m.target == me for m in self._node.transfers.moves().get(partition, ()))

    # Working

    async def _work(self, custody: Custody) -> None:
        partition = custody.partition
        try:
            await self._taking.tell(custody)
            while (step := self._step(custody)) is not None:
                if not await self._try(custody, step):
                    break
        except NotGiven as error:
            self._wait(partition, str(error))
        except DynamoError as error:
            self._wait(partition, str(error))
            log.warning("partition %d can't be taken over now: %s", partition, error)
        except Exception as error:  # nobody foresaw it; the log gets it, and it isn't hurried
            self._wait(partition, repr(error))
            raise
        finally:
            del self._working[partition]
            if custody.pulling is None or not self._current(custody):
                self._taking.let_go(partition)
            if not (_unfinished(custody) or self._may_come(partition)):
                self._node.transfers.running.pop(partition, None)
            self._wake.set()

    async def _try(self, custody: Custody, step: Step) -> bool:
        """One step; False when this partition has to wait a moment."""
        progress = self._progress(custody, step)
        try:
            await self._carry_out(custody, step, progress)
        except NotGiven as error:
            if step.do is not Do.BEGIN:
                if self._step(custody) != step:
                    return True  # an offer has come meanwhile
                self._wait(custody.partition, str(error))
                return False
            progress.stands_still(self._loop.time(), str(error))
            # Another slot of the partition, whose holder is able, needn't wait for it.
            self._unable[custody.partition, step.source.holder] = self._loop.time() + RETRY_S
            if self._step(custody) == step:  # nobody is asked twice without a pause
                self._wait(custody.partition, str(error))
                return False
        else:
            progress.stalled = ""
        return True

    def _progress(self, custody: Custody, step: Step) -> Progress:
        running, partition = self._node.transfers.running, custody.partition
        progress = running.get(partition)
        if progress is None or progress.source != step.source.holder:
            progress = Progress(partition, step.source.holder, self._loop.time())
            running[partition] = progress
        pulling = custody.pulling
        progress.state = (
            so_far.WAITING if pulling is None else so_far.state_of(pulling.asked, pulling.whole)
        )
        return progress

    def _wait(self, partition: int, why: str) -> None:
        self._not_before[partition] = self._loop.time() + RETRY_S
        progress = self._node.transfers.running.get(partition)
        if progress is not None:
            progress.stands_still(self._loop.time(), why)

    async def _carry_out(self, custody: Custody, step: Step, progress: Progress) -> None:
        """One step; raises NotGiven or another DynamoError where it has to wait."""
        node, holder = self._node, step.source.holder
        link = node.topology.links.get(holder)
        if link is None or not link.up:
            raise NotGiven(f"{node.topology.host_name(holder)} is down")
        if not _urgent(custody):
            # Here a slot would take no writes, or wait for the next start in mid-seal.
            if node.replica.read_only():
                raise NotGiven(str(ReadOnlyError()))
            if node.stopping:
                raise NotGiven("this node is shutting down")
        await self._taking.carry_out(custody, step, progress)

    def take_seal(self, partition: int, slot: int, source: Token, theirs: State) -> bool:
        """A holder offers a copy whose seal names this node; whether it will be taken."""
        if not self._taking.take_seal(partition, slot, source, theirs):
            return False
        self._open.add(partition)
        self._not_before.pop(partition, None)
        self._wake.set()
        return True


def _urgent(custody: Custody) -> bool:
    """Whether clients may be waiting: the seal is asked for, or others have to be told."""
    pulling = custody.pulling
    asked = pulling is not None and pulling.asked is not Asked.NO
    return asked or taken(custody)


def _unfinished(custody: Custody) -> bool:
    return custody.pulling is not None or _urgent(custody)
