"""Copies: whether this node's copies are as new as their partitions' rounds (design: disks).

Owns what was heard of the other owners' copies since this start, and what
follows by `dynamo_core.returning`: a copy is unsure until enough were heard,
catches up with a round that it agreed to, and is emptied, unread, when its disk
is an old one. Owns KEPT, both sides, and what is asked before a recovering copy
takes in another one. Whatever lets another node delete is said after an fsync.

Forbidden here: agreeing on rounds (`reaper`) and pulling (`recovery`).
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from dynamo_core import copies, reaping, returning
from dynamo_core.copies import COMPLETE, Holding
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame, RingName
from dynamo_core.returning import Step
from dynamo_core.rounds import Kept
from dynamo_core.wire import Type
from dynamo_node.digests import partition_range
from dynamo_node.inbound import Inbound
from dynamo_node.kept_lists import KeptLists
from dynamo_node.links import Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

KEPT_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 1.0
BITE_PARTITIONS: Final = 256


class Sources(NamedTuple):
    """Owners whose copies may be merged now, and those whose are too old for it."""

    wanted: list[int]
    too_old: list[int]


class Copies:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node", lists: KeptLists) -> None:
        self._node = node
        self._rounds = node.replica.rounds
        self._lists = lists
        self._sure: set[int] = set()
        self._heard: dict[int, dict[int, Holding]] = {}
        """Partition -> other owner -> how its copy stands, as heard last."""
        self._lists_heard: dict[int, dict[int, Kept | None]] = {}
        self._asked: dict[int, bytes] = {}  # peer -> incarnation that was heard of all
        self._told_by: dict[tuple[int, int], bytes] = {}  # partition, owner -> its incarnation
        self._again: set[int] = set()
        self._wake = asyncio.Event()
        self.waits_for: dict[int, int] = {}
        """Partition -> the round that its copy is too old for, and nobody complete was found."""
        node.handlers[Type.KEPT] = self._tell

    # What others need to know

    def sure(self, partition: int) -> bool:
        """Whether this node's copy is known to be as new as its rounds, or isn't an owner's."""
        return partition in self._sure or partition not in self._node.topology.owned

    def answers(self, partition: int) -> bool:
        """Whether a read may be answered from here: the copy counts, and isn't an old one.

        One reply that is an answer by itself (R = 1) is never newer than its replica, so
        that a node which is all that is left needn't have heard the others. Once it has, an
        old copy says nothing.
        """
        if not self._node.standing.counts(partition):
            return False
        alone = self._node.config.r == 1 and partition not in self.waits_for
        return alone or self.sure(partition)

    def holding(self, partition: int) -> Holding:
        """How this node's own copy stands."""
        standing = self._node.standing
        return Holding(
            standing.lack(partition),
            standing.merged(partition),
            partition in self._sure,
            self._rounds.state(partition),
        )

    # Hearing

    def wake(self) -> None:
        """A peer can be reached (again)."""
        self._wake.set()

    def heard_committed(self, peer: int, partition: int, committed: int) -> None:
        """Somebody mentioned which round `peer` has committed."""
        ring = self._node.topology.ring
        if ring is None or committed <= self._rounds.committed(partition):
            return
        if partition < ring.partitions and peer in ring.slots[partition]:
            self._again.add(peer)
            self._wake.set()

    async def run(self) -> None:
        """Hear how the others stand, after each start of either side and as long as need be."""
        while True:
            self._wake.clear()
            try:
                await self._hear()
            except DynamoError as error:
                log.warning("the other copies' rounds: %s", error)
            if self._wake.is_set():
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    async def _hear(self) -> None:
        node = self._node
        ring = node.topology.ring
        if ring is None:
            return
        unsure = {p for p in node.topology.owned if p not in self._sure}
        of_unsure = {o for p in unsure for o in ring.slots[p]}
        alone = [p for p in sorted(unsure) if len(ring.slots[p]) == 1]
        for partition in alone:
            await self._settle(partition)
        for number, link in sorted(node.topology.links.items()):
            again = number in self._again or number in of_unsure
            if link.up and (again or self._asked.get(number) != link.incarnation):
                self._again.discard(number)
                await self._ask_all(number)

    async def _ask_all(self, number: int) -> None:
        node = self._node
        link, ring = node.topology.links[number], node.topology.ring
        assert ring is not None
        incarnation = link.incarnation
        kind, payload = await link.ask(Type.KEPT, b"", KEPT_TIMEOUT_S)
        if kind != Type.KEPT_REPLY:
            node.coordinator.reply_was_no(number, kind, payload)
            return
        told = copies.unpack_holdings(payload)
        bite = 0
        for partition in range(ring.partitions):
            if ring is not node.topology.ring:
                return
            if number not in ring.slots[partition]:
                continue
            holding = told.get(partition, COMPLETE)
            if partition in node.topology.owned:
                self._heard.setdefault(partition, {})[number] = holding
                await self._settle(partition)
            else:
                self._rounds.take(partition, holding.state.committed)
            bite += 1
            if bite % BITE_PARTITIONS == 0:
                await asyncio.sleep(0)
        self._asked[number] = incarnation

    # Judging

    async def _settle(self, partition: int) -> None:
        """Do what follows from what was heard; the copy is sure afterwards, or waits."""
        node, rounds = self._node, self._rounds
        mine, heard = self.holding(partition), self._heard.get(partition, {})
        newest = max((h.state.committed for h in heard.values()), default=0)
        if partition in self._sure and newest <= mine.state.committed:
            return
        links = node.topology.links
        reachable = [o for o in sorted(heard) if o in links and links[o].up]
        others = self._others(partition)
        step, reap_round, ring = returning.judge(mine, others, heard, reachable, node.config.w)
        if step is Step.SURE:
            rounds.take(partition, reap_round)
            self._now_sure(partition)
        elif step is Step.CATCH_UP:
            await self._catch_up(partition, reap_round)
        elif step is Step.TAKE_FLOOR:
            rounds.floor(partition, reap_round, ring)
            self._now_sure(partition)
            await node.disk.store.durable()
        elif step is Step.EMPTY:
            await self._empty(partition, reap_round, ring)
        elif step is Step.TAKE_OVER:
            log.warning(
                "partition %d: whoever carried out round %d has lost its disk; this copy, of "
                "round %d, is the best that is left, and deleted values may be back in it",
                partition,
                reap_round,
                mine.state.committed,
            )
            rounds.floor(partition, reap_round, ring)
            node.standing.completed(partition, possible_loss=True)
            self._now_sure(partition)
            await node.disk.store.durable()
        else:
            self._sure.discard(partition)
            if step is Step.WAIT and self.waits_for.get(partition) != reap_round:
                log.warning(
                    "partition %d: the copy here is older than round %d, which was committed; it "
                    "waits for a complete one before it is deleted",
                    partition,
                    reap_round,
                )
                self.waits_for[partition] = reap_round

    def _now_sure(self, partition: int) -> None:
        self._sure.add(partition)
        self.waits_for.pop(partition, None)

    async def _catch_up(self, partition: int, reap_round: int) -> None:
        """The disk agreed to that round: carry out the list, if anybody still keeps it.

        If nobody does, its tombstones stay here for a later round; every value that they
        supersede is gone elsewhere, because all owners had agreed.
        """
        for owner, holding in sorted(self._heard.get(partition, {}).items()):
            if holding.state.committed != reap_round:
                continue
            told = await self._ask_one(partition, owner)
            if told is None or told[0].state.committed != reap_round:
                return  # asked again, or heard otherwise
            kept = told[1] or Kept(reap_round, holding.state.ring, (), ())
            await self._lists.obey(partition, kept)
            await self._settle(partition)
            return

    async def _empty(self, partition: int, reap_round: int, ring: RingName) -> None:
        """The copy is too old: it is deleted unread, in one batch, and counts as a lost disk's."""
        node = self._node
        held = node.topology.ring
        assert held is not None
        log.warning(
            "partition %d: the copy here is of round %d and its disk never agreed to round %d, "
            "which was committed: it is deleted unread, and recovered from the other owners",
            partition,
            self._rounds.committed(partition),
            reap_round,
        )
        node.standing.emptied(partition)
        self._rounds.floor(partition, reap_round, ring)
        node.replica.empty(partition, *partition_range(held, partition))
        node.recovery.forget(partition)
        self._now_sure(partition)
        await node.disk.store.durable()
        node.recovery.wake()

    def _others(self, partition: int) -> list[int]:
        ring, me = self._node.topology.ring, self._node.topology.number
        assert ring is not None
        return [o for o in ring.slots[partition] if o != me]

    # For recovery

    async def before_pull(self, partition: int) -> Sources | None:
        """Hear the other owners before a recovering copy takes theirs in.

        None while the copy here is itself too old and can't be emptied yet.
        """
        links = self._node.topology.links
        fresh: dict[int, Holding] = {}
        lists: dict[int, Kept | None] = {}

        async def ask(owner: int, link: Link) -> None:
            incarnation = link.incarnation
            told = await self._ask_one(partition, owner)
            if told is not None and link.incarnation == incarnation:
                fresh[owner], lists[owner] = told
                self._told_by[partition, owner] = incarnation

        others = [(o, link) for o in self._others(partition) if (link := links.get(o)) is not None]
        await asyncio.gather(*(ask(o, link) for o, link in others if link.up))
        self._lists_heard[partition] = lists
        await self._settle(partition)
        me = self._node.topology.number
        old = copies.too_old({**self._heard.get(partition, {}), me: self.holding(partition)})
        if me in old:
            return None
        return Sources([o for o in sorted(fresh) if o not in old], [o for o in old if o in fresh])

    def join(self, partition: int, owner: int) -> bool:
        """The first page of `owner`'s copy is about to be merged; False if it must not be.

        What this puts is in the same batch, or an earlier one.
        """
        node = self._node
        link = node.topology.links.get(owner)
        if link is None or link.incarnation != self._told_by.get((partition, owner)):
            return False
        holding = self._heard[partition][owner]
        if not holding.fresh:
            self._rounds.join(partition, holding.state, first=self.holding(partition).fresh)
            node.standing.merging(partition)
        return True

    def pulled(self, partition: int) -> None:
        """The copy is complete: it may have taken in what a list names that others still keep."""
        me = self._node.topology.number
        for kept in self._lists_heard.pop(partition, {}).values():
            if kept is not None:
                unconfirmed = tuple(sorted({*kept.unconfirmed, me}))
                self._rounds.keep(partition, kept._replace(unconfirmed=unconfirmed))
        for owner in self._others(partition):
            self._told_by.pop((partition, owner), None)

    # KEPT

    async def _ask_one(self, partition: int, owner: int) -> tuple[Holding, Kept | None] | None:
        link = self._node.topology.links.get(owner)
        if link is None:
            return None
        ask = partition.to_bytes(2, "big")
        kind, payload = await link.ask(Type.KEPT, ask, KEPT_TIMEOUT_S)
        if kind != Type.KEPT_REPLY:
            self._node.coordinator.reply_was_no(owner, kind, payload)
            return None
        try:
            told = copies.unpack_kept_reply(payload)
        except Corrupt as error:
            log.warning("how node %d's copy of partition %d stands: %s", owner, partition, error)
            return None
        self._heard.setdefault(partition, {})[owner] = told[0]
        return told

    def _tell(self, caller: Inbound, frame: Frame) -> None:
        """KEPT: of one partition its rounds and list; without one how all copies here stand."""
        payload = frame.payload
        if self._node.rings.differ(caller, frame):
            return
        wanted = reaping.unpack_partition(payload) if payload else None

        async def answer() -> bytes:
            # Not before it is fsynced: the caller may delete by it.
            await self._node.disk.store.durable()
            if wanted is not None:
                return copies.pack_kept_reply(self.holding(wanted), self._rounds.kept(wanted))
            own = ((p, self.holding(p)) for p in sorted(self._node.topology.owned))
            return copies.pack_holdings((p, h) for p, h in own if h != COMPLETE)

        self._node.answer_later(caller, frame, Type.KEPT_REPLY, answer)
