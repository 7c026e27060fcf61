"""Recovery: brings back what a lost, foreign or unclean disk lacks (design: recovering).

Owns the loop that pulls each recovering partition from its other holders, page
by page (`pages` serves them). A partition counts again once the rule
of `dynamo_core.recovery` says so and everything merged is fsynced; where the slot
itself was lost with the disk, `claims` has claimed it before, and a holder is
merged only after it knows of that. Whoever can't be reached is asked again for
ever; nothing here ever gives up a copy.
"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dynamo_core import recovery, slots
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.recovery import Ask, Lack, Page
from dynamo_core.ring import position
from dynamo_core.wire import Type
from dynamo_node.awaiting import told
from dynamo_node.claims import Claims, claimed

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

PAGE_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 1.0
PARTITIONS_AT_ONCE: Final = 2


class Reached(NamedTuple):
    """How far the copy of an owner was merged; good for that process of it and that copy here."""

    merged: dict[int, bytes]
    incarnation: bytes
    after: bytes
    worst: Lack


class Recovery:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.claims = Claims(node)
        self._wake = asyncio.Event()
        self._merged: dict[int, dict[int, bytes]] = {}
        """Partition -> owners merged since this start, and under which incarnation."""
        self._reached: dict[tuple[int, int], Reached] = {}
        self._waits_for: dict[int, str] = {}
        self._doubtful: dict[int, set[int]] = {}
        """Partition -> owners that count, but with a possible loss."""
        self._keys = 0
        self._bytes = 0
        self.since: float | None = None
        """When, on the loop's time, this node began to lack what it lacks now."""
        node.custodies.on_row.append(lambda partition, row: self._slots_changed(partition))
        node.custodies.on_counts.append(self._slots_changed)

    def wake(self) -> None:
        """A peer may be reachable again."""
        self._wake.set()

    def _slots_changed(self, partition: int) -> None:
        topology = self._node.topology
        if partition in topology.owned and partition not in topology.counting:
            self._wake.set()

    async def run(self) -> None:
        """Recover whatever doesn't count, for ever."""
        while True:
            self._wake.clear()
            self._note_since()
            await self._pass()
            self._note_since()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    def _note_since(self) -> None:
        if not self.lacking():
            self.since = None
        elif self.since is None:
            self.since = asyncio.get_running_loop().time()

    async def _pass(self) -> None:
        try:
            await self.claims.work()
        except DynamoError as error:
            log.warning("slots can't be claimed now: %s", error)
            return
        todo = self._todo()
        if not todo:
            return

        async def worker() -> None:
            while todo:
                await self._recover(todo.pop(0))

        doubtful = self._node.standing.possible_losses
        await asyncio.gather(*(worker() for _ in range(PARTITIONS_AT_ONCE)))
        if new := sorted(self._node.standing.possible_losses - doubtful):
            log.warning(
                "partitions %s count again although too few complete copies were left: "
                "writes acknowledged before may be lost",
                ", ".join(map(str, new)),
            )
        if not self._todo():
            log.info(
                "recovered: every partition counts again; %d keys, %d bytes merged",
                self._keys,
                self._bytes,
            )

    def lacking(self) -> list[int]:
        """Partitions that this node holds by their rows, and whose copies it doesn't believe."""
        lacking = self._node.standing.recovering.keys() & self._node.topology.owned
        return sorted(lacking.union(self.claims.open()))

    def _todo(self) -> list[int]:
        """Those of them that are to be merged from others, or claimed before."""
        # One that was taken over counts as soon as enough others know that.
        lacking = self._node.standing.recovering.keys() & self._node.topology.counting
        return sorted(lacking.union(self.claims.open()))

    async def _recover(self, partition: int) -> None:
        node, topology = self._node, self._node.topology
        if topology.ring is None:
            return
        custody = node.custodies.of(partition)
        if custody.unclaimed():
            self._waits_for[partition] = self.claims.waits_for(partition)
            return
        if partition not in topology.owned:
            return
        copies, row = node.reaper.copies, topology.row(partition)
        stands: dict[int, Lack | None] = dict.fromkeys(topology.other_holders(partition))
        try:
            sources = await copies.before_pull(partition)
            if sources is None:
                return
            for owner in (*sources.wanted, *sources.too_old):
                self.claims.known_by(partition, owner)
            merging = self._merged.setdefault(partition, {})
            lacks = await self._merge_all(partition, sources.wanted)
            # A copy that is too old to be merged is as good as an empty one.
            stands.update(dict.fromkeys(sources.too_old, Lack.EMPTY))
            stands.update(zip(sources.wanted, lacks, strict=True))
            await node.disk.store.durable()
        except DynamoError as error:
            log.warning("partition %d can't be recovered now: %s", partition, error)
            return
        if self._merged.get(partition) is not merging:
            return  # it was emptied meanwhile, and begins again
        if topology.row(partition) != row:
            return  # others hold it now, who are asked first
        merged = {*merging, *sources.too_old}
        lack = node.standing.lack(partition)
        doubtful = self._doubtful.get(partition, set())
        settings = node.settings.now
        verdict = recovery.judge(lack, stands, merged, settings.w, doubtful)
        if not verdict.counts:
            self._wait(partition, verdict.waits_for)
            return
        needed = slots.needed_to_claim(row, settings.r, settings.w)
        for slot in claimed(custody):
            if not custody.recovered(slot, row[slot], merged, needed):
                self._wait(partition, "owners that can't be reached")
                return
        copies.pulled(partition)
        # Who counted all the while has what the others may have lost.
        node.standing.completed(partition, verdict.possible_loss and lack != Lack.NOTHING)
        await node.disk.store.durable()
        self.forget(partition)

    def waits_for(self, partition: int) -> str:
        """What a partition waits for before it counts; "" if it doesn't, as far as was tried."""
        return self._waits_for.get(partition, "")

    def _wait(self, partition: int, what: str) -> None:
        if self._waits_for.get(partition) != what:
            log.info("partition %d waits for %s", partition, what)
        self._waits_for[partition] = what

    def forget(self, partition: int) -> None:
        """What was merged into the copy here so far counts for nothing any more."""
        self._merged.pop(partition, None)
        for at in [at for at in self._reached if at[0] == partition]:
            del self._reached[at]
        self._waits_for.pop(partition, None)
        self._doubtful.pop(partition, None)
        self.claims.forget(partition)

    async def _merge_all(self, partition: int, owners: list[int]) -> list[Lack | None]:
        """`_merge_from` for each; waits for all of them before it raises what one met."""
        pulls = (self._merge_from(partition, owner) for owner in owners)
        lacks: list[Lack | None] = []
        for lack in await asyncio.gather(*pulls, return_exceptions=True):
            if isinstance(lack, BaseException):
                raise lack
            lacks.append(lack)
        return lacks

    async def _merge_from(self, partition: int, owner: int) -> Lack | None:
        """Merge all that `owner` holds; what it lacks itself, None if it can't be had now."""
        link = self._node.topology.links.get(owner)
        if link is None or not link.up:
            return None
        merged = self._merged.setdefault(partition, {})
        if merged.get(owner) == link.incarnation:
            page = await self._page(owner, Ask(partition, b"", probe=True))
            return None if page is None else page.lack
        at = self._reached.get((partition, owner))
        if at is None or at.merged is not merged or at.incarnation != link.incarnation:
            at = Reached(merged, link.incarnation, b"", Lack.NOTHING)
        copies = self._node.reaper.copies
        while True:
            page = await self._page(owner, Ask(partition, at.after, probe=False))
            if page is None:
                return None
            at = at._replace(worst=max(at.worst, page.lack))
            if page.entries:
                async with self._node.slices.slice("recovery") as bite:
                    # The copy here may have been emptied meanwhile, or the other one been
                    # started again, with another disk for all that is known.
                    emptied = self._merged.get(partition) is not merged
                    if emptied or not copies.join(partition, owner):
                        return None
                    at = at._replace(after=await bite.aside(self._merge(page)))
                self._reached[partition, owner] = at
            if page.last:
                merged[owner] = link.incarnation
                self._reached.pop((partition, owner), None)
                return at.worst

    def _merge(self, page: Page) -> Awaitable[bytes]:
        """Begin to merge a page's objects; once all are durable, the last one's place.

        Raises whatever refused one of them, a full disk for instance: a copy that was
        merged but for one object doesn't count.
        """
        merge = self._node.replica.merge

        def merged(key: bytes, obj: bytes) -> "asyncio.Future[None]":
            digest = position(key)
            return told(lambda done: merge(key, digest, obj, page.reap_round, done, sync=True))

        begun = [merged(key, obj) for key, obj in page.entries]
        last = page.entries[-1][0]

        async def ended() -> bytes:
            await asyncio.gather(*begun)
            self._keys += len(page.entries)
            self._bytes += sum(len(key) + len(obj) for key, obj in page.entries)
            return position(last) + last

        return ended()

    async def _page(self, owner: int, ask: Ask) -> Page | None:
        link = self._node.topology.links.get(owner)
        if link is None:
            return None
        row = self._node.topology.digest(ask.partition)
        kind, payload = await link.ask(Type.PAGE, row + recovery.pack_ask(ask), PAGE_TIMEOUT_S)
        if kind != Type.PAGE_REPLY:
            self._node.coordinator.reply_was_no(owner, kind, payload)
            return None
        try:
            page = recovery.unpack_page(payload)
        except Corrupt as error:
            log.warning("a page of partition %d: %s", ask.partition, error)
            return None
        doubtful = self._doubtful.setdefault(ask.partition, set())
        (doubtful.add if page.possible_loss else doubtful.discard)(owner)
        return page

    # For people

    def answers_for(self, partition: int) -> bool:
        """Whether this node holds a slot of it, or is to claim one."""
        node = self._node
        return partition in node.topology.owned or bool(node.custodies.of(partition).unclaimed())

    def accept_loss(self, partition: int) -> bool:
        """A person accepts what `partition` may have lost; False if there is nothing to accept.

        That is all that other disks held which are not merged here: what was acknowledged by
        them alone is gone. Where this node's slot itself is to be claimed, it is claimed and
        counts without anybody having been heard. So a person accepts, too, that somebody else
        may hold it meanwhile, by a seal that the lost disk gave, or the drained node: until both
        have heard of each other, what one of them acknowledges may not be seen at the other, and
        then the higher token stands and the other copy is merged. All of it belongs to disks
        believed lost.
        """
        node = self._node
        if not self.answers_for(partition):
            return False
        custody = node.custodies.of(partition)
        if custody.unclaimed():
            self.claims.claim(partition, needed=0)
        counts = [custody.recovered(slot, custody.row[slot], (), 0) for slot in claimed(custody)]
        if not node.standing.accepted(partition) and not counts:
            return False
        log.warning("partition %d: its loss is accepted by an admin", partition)
        self.forget(partition)
        return True

    def facts(self) -> dict[str, Any]:
        """Progress, for /cluster and /admin/status; empty when there is nothing to recover."""
        todo = self._todo()
        facts: dict[str, Any] = {}
        if todo:
            facts = {
                "partitions_left": len(todo),
                "partitions": len(self._node.topology.owned.union(todo)),
                "keys": self._keys,
                "bytes": self._bytes,
            }
            reasons = sorted({self._waits_for[p] for p in todo if p in self._waits_for})
            if reasons:
                facts["waits_for"] = reasons
        return facts
