"""Recovery: brings back what a lost, foreign or unclean disk lacks (design: recovering).

Owns the loop that pulls each recovering partition from its other owners, page
by page, and the serving of such pages. A partition counts again once the rule
of `dynamo_core.recovery` says so and everything merged is fsynced. Whoever
can't be reached is asked again for ever; nothing here ever gives up a copy.
"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dynamo_core import records, recovery, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.recovery import Ask, Lack, Page
from dynamo_core.ring import position
from dynamo_core.wire import Code, Type
from dynamo_node.awaiting import told
from dynamo_node.digests import partition_range
from dynamo_node.inbound import Inbound
from dynamo_node.storage import OBJECTS

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

PAGE_KEYS: Final = 256
PAGE_BYTES: Final = 1 << 20
PAGE_BYTES_MIN: Final = 1 << 16
"""A page's objects when many are given at once, which together make about PAGE_BYTES."""
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
    """One per node; `run` until cancelled, `serve` for the others."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._wake = asyncio.Event()
        self._merged: dict[int, dict[int, bytes]] = {}
        """Partition -> owners merged since this start, and under which incarnation."""
        self._reached: dict[tuple[int, int], Reached] = {}
        self._waits_for: dict[int, str] = {}
        self._doubtful: dict[int, set[int]] = {}
        """Partition -> owners that count, but with a possible loss."""
        self._keys = 0
        self._bytes = 0
        self._serving = 0
        self._emptied: dict[int, int] = {}
        """Partition -> how often its copy here was deleted as too old."""
        node.replica.on_emptied.append(self._was_emptied)
        node.handlers[Type.PAGE] = self.serve

    def wake(self) -> None:
        """A peer may be reachable again, or a ring came."""
        self._wake.set()

    async def run(self) -> None:
        """Recover whatever doesn't count, for ever."""
        while True:
            self._wake.clear()
            await self._pass()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()

    async def _pass(self) -> None:
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

    def _todo(self) -> list[int]:
        node = self._node
        return sorted(p for p in node.topology.owned if not node.standing.counts(p))

    async def _recover(self, partition: int) -> None:
        node = self._node
        ring = node.topology.ring
        if ring is None:
            return
        copies = node.reaper.copies
        stands: dict[int, Lack | None] = dict.fromkeys(ring.slots[partition])
        del stands[node.topology.number]
        try:
            sources = await copies.before_pull(partition)
            if sources is None:
                return
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
        merged = {*merging, *sources.too_old}
        lack = node.standing.lack(partition)
        doubtful = self._doubtful.get(partition, set())
        verdict = recovery.judge(lack, stands, merged, node.config.w, doubtful)
        if not verdict.counts:
            if self._waits_for.get(partition) != verdict.waits_for:
                log.info("partition %d waits for %s", partition, verdict.waits_for)
            self._waits_for[partition] = verdict.waits_for
            return
        copies.pulled(partition)
        node.standing.completed(partition, verdict.possible_loss)
        await node.disk.store.durable()
        self.forget(partition)

    def forget(self, partition: int) -> None:
        """What was merged into the copy here so far counts for nothing any more."""
        self._merged.pop(partition, None)
        for at in [at for at in self._reached if at[0] == partition]:
            del self._reached[at]
        self._waits_for.pop(partition, None)
        self._doubtful.pop(partition, None)

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
        kind, payload = await link.ask(Type.PAGE, recovery.pack_ask(ask), PAGE_TIMEOUT_S)
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

    # The other side

    def serve(self, caller: Inbound, frame: Frame) -> None:
        """Answer a PAGE."""
        ask = recovery.unpack_ask(frame.payload)
        node = self._node
        ring = node.topology.ring
        if ring is not None and ask.partition >= ring.partitions:
            raise Corrupt(f"partition {ask.partition} is not one of this ring")
        if node.rings.differ(caller, frame):
            return
        node.in_background(self._serve(caller, frame.request_id, ask))

    async def _serve(self, caller: Inbound, request_id: int, ask: Ask) -> None:
        node = self._node
        ring = node.topology.ring
        assert ring is not None
        lack = node.standing.lack(ask.partition)
        if not node.reaper.copies.answers(ask.partition):
            lack = max(lack, Lack.UNCLEAN)  # it may lack what its disk was too old to have
        emptied = self._emptied.get(ask.partition, 0)
        # It was read after the yes to every round that this copy has agreed to.
        reap_round = node.replica.rounds.agreed(ask.partition)
        entries: list[tuple[bytes, bytes]] = []
        last = True
        if not ask.probe:
            start, end = partition_range(ring, ask.partition)
            if ask.after:
                start = max(start, ask.after + b"\x00")
            # What this tick wrote isn't seen by the scan: it was acknowledged, or will
            # be, by others as well, and goes to the recovering owner on its own.
            self._serving += 1
            size = max(PAGE_BYTES_MIN, PAGE_BYTES // self._serving)
            try:
                await node.disk.store.durable()
                async with node.slices.slice("recovery"):
                    pairs = await node.disk.store.scan_async(OBJECTS, start, end, PAGE_KEYS, size)
                entries = [(place[DIGEST_BYTES:], records.object_of(data)) for place, data in pairs]
            except DynamoError as error:
                log.error("a page of partition %d can't be read: %s", ask.partition, error)
                caller.reply(
                    request_id, Type.ERROR, wire.pack_error(Code.STORAGE, str(error)[:512])
                )
                return
            finally:
                self._serving -= 1
            last = not entries
            if self._emptied.get(ask.partition, 0) != emptied:
                no = wire.pack_error(Code.OVERLOADED, "this copy was deleted while it was read")
                caller.reply(request_id, Type.ERROR, no)
                return
        doubt = ask.partition in node.standing.possible_losses
        page = Page(lack, last, reap_round, entries, doubt)
        caller.reply(request_id, Type.PAGE_REPLY, recovery.pack_page(page))

    def _was_emptied(self, partition: int, start: bytes, end: bytes) -> None:
        self._emptied[partition] = self._emptied.get(partition, 0) + 1

    # For people

    def accept_loss(self, partition: int) -> bool:
        """A person accepts what `partition` may have lost; False if there is nothing to accept."""
        if not self._node.standing.accepted(partition):
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
                "partitions": len(self._node.topology.owned),
                "keys": self._keys,
                "bytes": self._bytes,
            }
            reasons = sorted({self._waits_for[p] for p in todo if p in self._waits_for})
            if reasons:
                facts["waits_for"] = reasons
        return facts
