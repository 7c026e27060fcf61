"""Copies: whether this node's copies are as new as their partitions' rounds (design: disks).

Owns what follows, by `dynamo_core.returning`, from what was heard of the other
holders' copies since this start: a copy is unsure until enough were heard, catches up
with a round that it agreed to, and is emptied, unread, when its disk is an old one.
Owns what is asked before a recovering copy takes in another one.

Only the copy of a slot that is held is judged so: one whose tenure has ended stays as
it is for whoever covers it, and a half-pulled one goes by its own record.

Forbidden here: how others are heard (`hearing`), agreeing on rounds (`reaper`), and
pulling (`recovery`).
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from dynamo_core import copies, returning
from dynamo_core.copies import Holding
from dynamo_core.errors import DynamoError
from dynamo_core.frames import RingName
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.recovery import Lack
from dynamo_core.returning import Step
from dynamo_core.rounds import Kept
from dynamo_core.slots import Row, holders
from dynamo_node.digests import partition_range
from dynamo_node.hearing import Hearing
from dynamo_node.kept_lists import KeptLists
from dynamo_node.links import Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

RETRY_S: Final = 1.0


class Sources(NamedTuple):
    """Holders whose copies may be merged now, and those whose are too old for it.

    All of them know, durably, the row that is known here.
    """

    wanted: list[int]
    too_old: list[int]


class Copies:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node", lists: KeptLists) -> None:
        self._node = node
        self._rounds = node.replica.rounds
        self._lists = lists
        self._sure: set[int] = set()
        self.hearing = Hearing(node, self.holding)
        self._lists_heard: dict[int, dict[int, Kept | None]] = {}
        self._asked: dict[int, bytes] = {}  # peer -> incarnation that was heard of all
        self._told_by: dict[tuple[int, int], bytes] = {}  # partition, owner -> its incarnation
        self._again: dict[int, set[int]] = {}
        """Peer -> partitions of which it has committed more than was heard."""
        self._wake = asyncio.Event()
        self.waits_for: dict[int, int] = {}
        """Partition -> the round that its copy is too old for, and nobody complete was found."""
        node.custodies.on_row.append(self._row_changed)
        node.custodies.on_counts.append(self._counts_changed)

    # Slots

    def _row_changed(self, partition: int, row: Row) -> None:
        """What was sure is about the copy of a slot, and of the holders then."""
        if self._node.topology.number not in holders(row):
            self._sure.discard(partition)
            self.waits_for.pop(partition, None)
        self._wake.set()

    def _counts_changed(self, partition: int) -> None:
        if not self._node.custodies.counts(partition):
            self._sure.discard(partition)
        self._wake.set()

    def taken_over(self, partition: int) -> None:
        """A slot of it counts here by a seal: its copy joined the rounds of one that was sure."""
        self._now_sure(partition)

    # What others need to know

    def sure(self, partition: int) -> bool:
        """Whether this node's copy is known to be as new as its rounds, or isn't a holder's.

        Where nothing was claimed yet there is no copy that could be an old one.
        """
        if partition in self._sure or partition not in self._node.topology.owned:
            return True
        return not self._node.custodies.of(partition).has_copy

    def answers(self, partition: int) -> bool:
        """Whether a read may be answered from here: the slot and its copy count, and isn't old.

        One reply that is an answer by itself (R = 1) is never newer than its replica, so
        that a node which is all that is left needn't have heard the others. Once it has, an
        old copy says nothing.
        """
        if not self._node.custodies.counts(partition):
            return False
        if not self._node.standing.counts(partition):
            return False
        alone = self._node.settings.now.r == 1 and partition not in self.waits_for
        return alone or self.sure(partition)

    def shows(self, partition: int) -> bool:
        """Whether a read that this node coordinates may take in what is stored here.

        As a stand-in it has hints. A copy whose tenure has ended, or that is half pulled, is not
        judged here: it may be older than a round that this node has been told of since, and
        would bring back what was reaped. Peers that ask are told MOVED.
        """
        if partition in self._node.topology.owned:
            return self.answers(partition)
        return not self._node.custodies.of(partition).has_copy

    def holding(self, partition: int) -> Holding:
        """How this node's own copy stands."""
        node = self._node
        lack, merged = node.standing.lack(partition), node.standing.merged(partition)
        custody = node.custodies.of(partition)
        if not custody.counts:
            if custody.held:
                lack = max(lack, Lack.UNCLEAN)
            elif not custody.seals:  # an ended copy stands as it did
                lack = Lack.EMPTY
            merged = merged or (not custody.held and node.trees.root(partition) != EMPTY_ROOT)
        return Holding(lack, merged, partition in self._sure, self._rounds.state(partition))

    # Hearing

    def wake(self) -> None:
        """A peer can be reached (again)."""
        self._wake.set()

    def heard_committed(self, peer: int, partition: int, committed: int) -> None:
        """Somebody mentioned which round `peer` has committed."""
        topology = self._node.topology
        if topology.table is None or committed <= self._rounds.committed(partition):
            return
        if partition < topology.table.partitions and peer in topology.holders(partition):
            self._again.setdefault(peer, set()).add(partition)
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
        topology = node.topology
        if topology.ring is None or topology.table is None:
            return
        unsure = [p for p in sorted(topology.owned - self._sure) if node.custodies.of(p).held]
        for partition in unsure:
            if not topology.other_holders(partition):
                await self._settle(partition)
        for number, link in sorted(topology.links.items()):
            if not link.up:
                continue
            again = self._again.pop(number, set())
            if self._asked.get(number) != link.incarnation:
                again.update(range(topology.table.partitions))
            again.update(unsure)
            wanted = [p for p in sorted(again) if number in topology.holders(p)]
            incarnation = link.incarnation
            if await self.hearing.ask_many(number, wanted, self._settle):
                self._asked[number] = incarnation

    # Judging

    async def _settle(self, partition: int) -> None:
        """Do what follows from what was heard; the copy is sure afterwards, or waits."""
        node, rounds = self._node, self._rounds
        custody = node.custodies.of(partition)
        if not custody.held:
            return
        mine, heard = self.holding(partition), self.hearing.of(partition)
        newest = max((h.state.committed for h in heard.values()), default=0)
        if partition in self._sure and newest <= mine.state.committed:
            return
        links = node.topology.links
        reachable = [o for o in sorted(heard) if o in links and links[o].up]
        others = self._others(partition)
        w = node.settings.now.w
        step, reap_round, ring = returning.judge(mine, others, heard, reachable, w)
        if step is Step.EMPTY and custody.seals:
            step = Step.WAIT  # a successor still needs what was sealed
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
        for owner, holding in sorted(self.hearing.of(partition).items()):
            if holding.state.committed != reap_round:
                continue
            told = await self.hearing.ask(partition, owner)
            if told is None or told[0].state.committed != reap_round:
                return  # asked again, or heard otherwise
            kept = told[1] or Kept(reap_round, holding.state.ring, (), ())
            await self._lists.obey(partition, kept)
            if self._rounds.committed(partition) >= reap_round:
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
        return self._node.topology.other_holders(partition)

    # For recovery

    async def before_pull(self, partition: int) -> Sources | None:
        """Hear the other holders before a recovering copy takes theirs in.

        None while the copy here is itself too old and can't be emptied yet, or when its row
        has changed meanwhile.
        """
        topology = self._node.topology
        links, row = topology.links, topology.digest(partition)
        fresh: dict[int, Holding] = {}
        lists: dict[int, Kept | None] = {}

        async def ask(owner: int, link: Link) -> None:
            incarnation = link.incarnation
            told = await self.hearing.ask(partition, owner)
            if told is not None and link.incarnation == incarnation:
                fresh[owner], lists[owner] = told
                self._told_by[partition, owner] = incarnation

        others = [(o, link) for o in self._others(partition) if (link := links.get(o)) is not None]
        await asyncio.gather(*(ask(o, link) for o, link in others if link.up))
        self._lists_heard[partition] = lists
        await self._settle(partition)
        me = topology.number
        if topology.digest(partition) != row or not self._node.custodies.of(partition).held:
            return None
        old = copies.too_old({**self.hearing.of(partition), me: self.holding(partition)})
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
        holding = self.hearing.of(partition).get(owner)
        if holding is None or not node.custodies.of(partition).held:
            return False
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
