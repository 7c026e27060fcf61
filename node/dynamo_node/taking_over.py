"""Taking over: the steps of one partition from its holder to this node (design: handover).

Owns what a successor does in which order: it joins the holder's rounds, pulls page after
page, asks for the seal when little is left, walks what still differs, takes the tenure and
tells the other holders. What is said to others is fsynced before.

Forbidden here: by what right a slot is taken (`dynamo_core.handover`), and which
partition's turn it is (`pulling`).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dynamo_core import handover_messages as messages
from dynamo_core import recovery
from dynamo_core.errors import DynamoError
from dynamo_core.handover import Answer, Custody, Do, Effect, Step
from dynamo_core.handover_messages import End, Given, What
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.ring import position
from dynamo_core.rounds import State
from dynamo_core.slots import Row, Token, holders
from dynamo_core.tenures import Asked, Pulling, Stage
from dynamo_core.wire import Type
from dynamo_node import progress as so_far
from dynamo_node.background_spans import transferred
from dynamo_node.progress import Progress
from dynamo_node.walking import ENTRY_BYTES, Copy, NotGiven, RoundPassed, Walked

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

CLOSE_KEYS: Final = 64
"""Keys that may differ when the seal is asked for."""
CLOSING_WALKS: Final = 3
"""Walks before the seal; more of them would find the next writes, and never end."""
SEAL_TIMEOUT_S: Final = 2.0

Due = Callable[[Custody], Step | None]


class TakingOver:
    """One per node; `due` says what a partition's next step is now."""

    def __init__(self, node: "Node", due: Due) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._due = due
        self._free_at = 0.0
        """When what came so far has taken its time, by the ceiling."""
        self._ahead: dict[int, tuple[bytes, asyncio.Future[Given]]] = {}
        """Partition -> the page after that cursor, which is asked for already."""

    async def carry_out(self, custody: Custody, step: Step, progress: Progress) -> None:
        """One step; raises NotGiven or another DynamoError where it has to wait."""
        do, slot, source = step
        copy = self._copy(custody, slot, source)
        try:
            if do is Do.BEGIN:
                await self._begin(custody, step, copy)
            elif do is Do.PULL:
                await self._page(custody, step, copy, progress)
            elif do is Do.SEAL:
                await self._seal(custody, step, copy, progress)
            else:
                copy.paced = False
                await self._finish(custody, step, await copy.walk(), progress)
        except RoundPassed as passed:
            if not self._round_passed(custody, slot, source, passed.state):
                raise NotGiven(str(passed)) from passed
            progress.again()

    def _copy(self, custody: Custody, slot: int, source: Token) -> Copy:
        """The holder's copy; its answers are judged by `custody` as it is when they are merged."""
        rounds, custodies = self._node.replica.rounds, self._node.custodies
        partition = custody.partition

        def fits(state: State) -> bool:
            may = custody.may_merge(slot, source, state.committed)
            may = may and custodies.of(partition) is custody  # else this node has another number
            return may and state.agreed_to(rounds.committed(partition))

        return Copy(self._node, source.holder, partition, slot, source, fits)

    def _is_empty(self, partition: int) -> bool:
        return self._node.trees.root(partition) == EMPTY_ROOT

    # The steps

    async def _begin(self, custody: Custody, step: Step, copy: Copy) -> None:
        """Join the holder's rounds and begin the record, in one batch."""
        node, partition = self._node, custody.partition
        given = await copy.ask(What.BEGIN)
        if self._due(custody) != step:
            return
        if not self._drop_old(custody, given.state):
            raise NotGiven("the copy of another slot here is older than the holder's round")
        if not custody.has_copy and not self._is_empty(partition):
            log.error("partition %d: records of no tenure are here; they are deleted", partition)
            node.custodies.carry_out(partition, Effect.EMPTY)
        if not custody.begin(step.slot, step.source, given.state.committed):
            raise NotGiven("a copy here has to be covered by somebody else first")
        self._join(partition, given.state)
        log.info("partition %d is taken over from node %d", partition, step.source.holder)

    def _drop_old(self, custody: Custody, theirs: State) -> bool:
        """What is older than the holder's round is not added to: an ended tenure's copy goes.

        False while another slot is held by that copy: `copies` finds out that it is too old.
        """
        node, partition = self._node, custody.partition
        if node.replica.rounds.state(partition).agreed_to(theirs.committed):
            return True
        if custody.held:
            return False
        for slot, seal in sorted(custody.seals.items()):
            node.custodies.carry_out(partition, custody.on_too_old(slot, seal.token))
        return True

    def _join(self, partition: int, theirs: State) -> None:
        self._node.standing.merging(partition)
        self._node.replica.rounds.join(partition, theirs, first=self._is_empty(partition))

    async def _page(self, custody: Custody, step: Step, copy: Copy, progress: Progress) -> None:
        node, before = self._node, custody.pulling
        assert before is not None
        given = await self._asked(custody.partition, copy, before.cursor)
        page = recovery.unpack_page(given.body)
        size = sum(ENTRY_BYTES + len(key) + len(obj) for key, obj in page.entries)
        last = page.entries[-1][0] if page.entries else b""
        cursor = position(last) + last if last else before.cursor
        await self._pay(size)
        if not page.last:
            self._ask_ahead(custody.partition, copy, cursor)
        await copy.merge(given, list(page.entries))
        if custody.pulling is not before:
            return  # it was let go, or begun anew, or sealed meanwhile
        custody.pulled(step.slot, step.source, cursor, page.last)
        partitions = node.custodies.table.partitions
        if not progress.bytes and before.cursor:
            progress.from_share = so_far.share_of(before.cursor, partitions)
        share = 1.0 if page.last else so_far.share_of(cursor, partitions)
        progress.came(self._loop.time(), size, share)
        node.transfers.totals.bytes += size
        node.transfers.totals.keys += len(page.entries)

    # Both sides wait after each bite of their work: one does while the other works.

    def _ask_ahead(self, partition: int, copy: Copy, cursor: bytes) -> None:
        future: asyncio.Future[Given] = self._loop.create_future()
        self._ahead[partition] = cursor, future

        async def ask() -> None:
            trouble: DynamoError = NotGiven("a page wasn't asked for")
            try:
                future.set_result(await copy.ask(What.PAGE, cursor))
            except DynamoError as error:
                trouble = error
            finally:
                if not future.done():
                    future.set_exception(trouble)
                    future.exception()  # counts as retrieved: nobody may want it any more

        self._node.in_background(ask())

    def let_go(self, partition: int) -> None:
        """Nothing is pulled any more."""
        self._ahead.pop(partition, None)

    async def _asked(self, partition: int, copy: Copy, cursor: bytes) -> Given:
        """The page after `cursor`; what was asked for ahead is judged like any other answer."""
        found = self._ahead.pop(partition, None)
        if found is not None and found[0] == cursor:
            return await found[1]
        return await copy.ask(What.PAGE, cursor)

    async def _pay(self, size: int) -> None:
        """Wait until so many bytes are due, all partitions together."""
        ceiling = self._node.settings.now.limits.transfer_bytes_per_second_max
        if ceiling:
            self._free_at = max(self._free_at, self._loop.time()) + size / ceiling
            await asyncio.sleep(self._free_at - self._loop.time())

    async def _seal(self, custody: Custody, step: Step, copy: Copy, progress: Progress) -> None:
        """Ask for the seal, once little is left to be walked after it."""
        node, partition = self._node, custody.partition
        walked: Walked | None = None
        if custody.pulling is not None and custody.pulling.asked is Asked.NO:
            for _ in range(CLOSING_WALKS):
                walked = await copy.walk()
                if walked.keys <= CLOSE_KEYS:
                    break
        if self._due(custody) != step or not custody.asking(step.slot, step.source):
            return
        await node.disk.store.durable()
        progress.sealed_at = progress.sealed_at or self._loop.time()
        progress.state = so_far.SEALING
        answer, end, row = await self._ask_seal(step, copy)
        if answer is not Answer.GIVEN:
            progress.sealed_at = 0.0
        if answer is Answer.NOT_YOU:
            log.info("partition %d goes to another node by now", partition)
            node.custodies.carry_out(partition, custody.refused(step.slot, step.source))
            return
        if end is None:
            node.custodies.learn(partition, row)
            raise NotGiven(f"the holder answers: {answer.name.lower()}", answer)
        self.take_seal(partition, step.slot, step.source, end.holding.state)
        copy = self._copy(custody, step.slot, step.source)
        copy.paced = False
        if walked is None or end.root != node.trees.root(partition):
            walked = await copy.walk()
        elif not copy.may_merge(end.holding.state):
            raise RoundPassed(end.holding.state)
        else:
            walked = Walked(end.root, end.holding.state, end.kept, walked.possible_loss)
        await self._finish(custody, step, walked, progress)

    async def _ask_seal(self, step: Step, copy: Copy) -> tuple[Answer, End | None, Row]:
        node, number = self._node, step.source.holder
        link = node.topology.links.get(number)
        if link is None:
            raise NotGiven(f"{node.topology.host_name(number)} is not in the ring")
        payload = messages.pack_seal(copy.about())
        kind, reply = await link.ask(Type.SEAL, payload, SEAL_TIMEOUT_S)
        if kind != Type.SEAL_REPLY:
            node.coordinator.reply_was_no(number, kind, reply)
            raise NotGiven(f"{link.member.name} doesn't answer about the seal")
        return messages.unpack_seal_reply(reply)

    def take_seal(self, partition: int, slot: int, source: Token, theirs: State) -> bool:
        """The holder says, or offers, that its seal names this node; whether it will be taken."""
        custody = self._node.custodies.of(partition)
        before = custody.pulling
        if slot >= len(custody.row) or (before is None and custody.row[slot] != source):
            return False
        if not self._drop_old(custody, theirs):
            return False
        effect = custody.sealed(slot, source, theirs.committed)
        self._after_round(custody, before, effect, theirs)
        pulling = custody.pulling
        return pulling is not None and (pulling.slot, pulling.source) == (slot, source)

    def _round_passed(self, custody: Custody, slot: int, source: Token, theirs: State) -> bool:
        """The holder's round isn't this copy's: begin anew; False if that isn't what was wrong."""
        before = custody.pulling
        if before is None or (before.slot, before.source) != (slot, source):
            return True
        if before.reap_round != theirs.committed and not self._drop_old(custody, theirs):
            return False
        effect = custody.round_passed(slot, source, theirs.committed)
        self._after_round(custody, before, effect, theirs)
        return custody.pulling is not before

    def _after_round(
        self, custody: Custody, before: Pulling | None, effect: Effect, theirs: State
    ) -> None:
        """Carry out what a change of the record's round means; in its batch."""
        partition, pulling = custody.partition, custody.pulling
        rounds = self._node.replica.rounds
        self._node.custodies.carry_out(partition, effect)
        if Effect.EMPTY in effect and rounds.committed(partition) <= theirs.committed:
            rounds.floor(partition, theirs.committed, theirs.ring)
        if pulling is not None and (before is None or before.reap_round != pulling.reap_round):
            self._join(partition, theirs)

    async def _finish(
        self, custody: Custody, step: Step, walked: Walked, progress: Progress
    ) -> None:
        """All that the sealed copy has is here: take the tenure, and tell the others."""
        node, partition = self._node, custody.partition
        slot, source = step.slot, step.source
        token = source.handed_to(node.topology.number)
        effect = custody.walked(slot, source, walked.state.committed, node.settings.now.w)
        node.custodies.carry_out(partition, effect)
        held = custody.held.get(slot)
        if held is None or held.token != token:
            return
        if walked.kept is not None:
            # Whoever has handed its slot on carries nothing out any more: this node does.
            still = {*walked.kept.unconfirmed} - ({source.holder} - {*holders(custody.row)})
            unconfirmed = tuple(sorted(still | {node.topology.number}))
            node.replica.rounds.keep(partition, walked.kept._replace(unconfirmed=unconfirmed))
        node.standing.completed(partition, walked.possible_loss)
        node.reaper.copies.taken_over(partition)
        await node.disk.store.durable()
        if custody.counts:
            self._now_counts(partition)
        await self.tell(custody)
        await node.covering.walked(custody, slot, source, walked.root)

    def _now_counts(self, partition: int) -> None:
        totals = self._node.transfers.totals
        totals.partitions += 1
        progress = self._node.transfers.running.get(partition)
        pause_s = 0.0
        if progress is not None:
            transferred(self._node, progress)
        if progress is not None and progress.sealed_at:
            pause_s = self._loop.time() - progress.sealed_at
            progress.sealed_at = 0.0
            totals.pauses += 1
            totals.pause_s += pause_s
            totals.pause_s_max = max(totals.pause_s_max, pause_s)
        log.info("partition %d counts here, after a pause of %.3f s", partition, pause_s)

    async def tell(self, custody: Custody) -> None:
        """Let the other holders know of a tenure that was taken; raises NotGiven if too few can."""
        node, partition, w = self._node, custody.partition, self._node.settings.now.w
        if not taken(custody):
            return

        def note(act: Callable[[], Effect]) -> None:
            before = custody.counts
            node.custodies.carry_out(partition, act())
            if custody.counts and not before:
                self._now_counts(partition)

        async def tell(number: int) -> None:
            theirs = await node.rows.tell(number, {partition: custody.row})
            if theirs is not None and partition in theirs:
                # It counts with the first answer that is enough, whoever is still awaited.
                note(lambda: custody.known_by(number, theirs[partition], w))

        await asyncio.gather(*map(tell, custody.untold()))
        note(lambda: custody.enough(w))  # there may be fewer others than when it was taken
        if taken(custody):
            raise NotGiven("too few other holders can be told that the slot is taken")


def taken(custody: Custody) -> bool:
    """Whether a tenure was taken of which too few other holders know yet."""
    return any(held.stage is Stage.TAKEN for held in custody.held.values())
