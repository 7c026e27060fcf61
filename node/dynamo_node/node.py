"""Node: one storage node, put together.

Owns the life of the parts: disk, incarnation, ring, links, replica,
coordinator, handoff and pings; and the facts that others see of them. What
goes over which port belongs to `service`, `http` and `admin`.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from dynamo_core import wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.handshake import Identity
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.objects import FEATURE_LEVEL
from dynamo_core.wire import Code, Type
from dynamo_node import __version__
from dynamo_node.antientropy import AntiEntropy
from dynamo_node.births import Births
from dynamo_node.config import BUFFERED, Config
from dynamo_node.coordinator import Coordinator
from dynamo_node.counters import Counters
from dynamo_node.covering import Covering
from dynamo_node.custodies import Custodies
from dynamo_node.disk import Clean, Disk, open_disk
from dynamo_node.disk_health import RESERVE_BYTES, DiskHealth, headroom_bytes
from dynamo_node.figures import Figures
from dynamo_node.gossip import Gossip
from dynamo_node.handing_over import HandingOver
from dynamo_node.handoff import Handoff
from dynamo_node.inbound import Inbound
from dynamo_node.incarnations import Known
from dynamo_node.inspector import Inspector
from dynamo_node.names import Names
from dynamo_node.opening import DamagedError, damaged
from dynamo_node.outside import REAL, Outside
from dynamo_node.pages import Pages
from dynamo_node.pings import Pings
from dynamo_node.pulling import Puller
from dynamo_node.reaper import Reaper
from dynamo_node.recovery import Recovery
from dynamo_node.replica import Replica
from dynamo_node.rings import Rings
from dynamo_node.rows import Rows
from dynamo_node.seeds import Seeds
from dynamo_node.settings import LiveSettings
from dynamo_node.slices import Slices
from dynamo_node.standing import Standing
from dynamo_node.storage import OBJECTS, StorageError
from dynamo_node.topology import Topology
from dynamo_node.tracing import Tracing
from dynamo_node.transfers import Transfers
from dynamo_node.trees import Trees

log = logging.getLogger(__name__)


class Node:
    """Everything but the doors; made by `start_node`."""

    def __init__(
        self, config: Config, disk: Disk, clean: Clean | None, outside: Outside = REAL
    ) -> None:
        self.config = config
        self.outside = outside
        self.names = Names(outside.look_up)
        self.disk = disk
        self.counters = Counters(outside.stopwatch, outside.wall_ms)
        disk.store.on_commit = self.counters.commits.observe
        self.settings = LiveSettings(disk.store, config.settings)
        self.topology = Topology()
        self.handlers: dict[int, Callable[[Inbound, Frame], None]] = {}
        """What the parts below answer to other nodes, by frame type."""
        self.standing = Standing(disk.store)
        self.incarnations = Known(disk.store)
        self.replica = Replica(disk, outside, config.hints_bytes_max)
        self.trees = Trees(disk.store)
        self.replica.on_put = self.counters.written.observe
        self.replica.on_change.append(self.trees.changed)
        self.replica.on_emptied.append(self._emptied)
        self.custodies = Custodies(self)
        self.replica.refusal = self.custodies.refusal
        self.replica.hints.other_row = self.custodies.other_row
        self.replica.hints.was_asked = lambda ring: (
            not self.rings.left and ring <= self.topology.name
        )
        self.rows = Rows(self)
        self.births = Births(self, clean)
        self.rings = Rings(self)
        self.replica.ring_name = lambda: self.topology.name
        self.coordinator = Coordinator(config, self.topology, self.replica, outside.wall_ms)
        self.coordinator.counters = self.counters
        self.coordinator.settings = lambda: self.settings.now
        self.tracing = self.coordinator.tracing = Tracing(config, self.topology, outside)
        self.coordinator.on_stale_ring = lambda number, code: self.rings.exchange(
            number, teach=code == Code.NOT_READY
        )
        self.coordinator.on_other_row = self.rows.heard
        self.disk_health = DiskHealth(lambda: outside.free_bytes(config), _reserve(config, outside))
        self.replica.read_only = self.replica.hints.read_only = lambda: self.disk_health.read_only
        self.slices = Slices()
        self.coordinator.admission = self.slices.admission
        self.recovery = Recovery(self)
        self.pages = Pages(self)
        self.gossip = Gossip(self)
        self.handoff = Handoff(self)
        self.reaper = Reaper(self)
        self.coordinator.shows = self.reaper.copies.shows
        self.coordinator.sure = self.reaper.copies.sure
        self.transfers = Transfers(self)
        self.pulling = Puller(self)
        self.handing_over = HandingOver(self)
        self.covering = Covering(self)
        self.pings = Pings(self)
        self.antientropy = AntiEntropy(self)
        self.antientropy.compare_rounds = self.reaper.copies.heard_committed
        self.figures = Figures(self)
        self.inspector = Inspector(self)
        self.stopping = False
        self.ended = False
        """Whether links and loops are ended, or about to be: none begins any more."""
        self.stopped = asyncio.Event()
        self.failure: StorageError | None = None
        self._clean = clean
        self._boot = outside.boot_id()
        self._started = asyncio.get_running_loop().time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counting = 0
        self._write_ids = (outside.random_bytes(8), 0)
        self.replica.hints.start = self._write_ids[0]
        disk.store.on_broken = self._store_broke

    # Identity

    @property
    def incarnation(self) -> bytes:
        return self.births.incarnation

    def identity(self) -> Identity:
        return Identity(
            self.config.cluster_id,
            self.config.name,
            self.topology.number,
            self.incarnation,
            self.config.keyring,
        )

    def write_id(self) -> bytes:
        """16 bytes that no other write has: random per start, then counted."""
        start, count = self._write_ids
        self._write_ids = (start, count + 1)
        return start + count.to_bytes(8, "big")

    @property
    def recovering(self) -> bool:
        """Whether there are partitions of this node for which it abstains from reads."""
        return bool(self.recovery.lacking())

    @property
    def leaving(self) -> bool:
        """Whether the ring in force names this node only until it has handed over what it has."""
        return self.topology.leaver

    @property
    def ready(self) -> bool:
        """Whether this node may serve: it holds a ring, has been told who holds what, can mint
        and isn't stopping."""
        return (
            self.topology.ring is not None
            and self.replica.minter is not None
            and not self.custodies.blank
            and not self.rings.left
            and not self.stopping
            and self.failure is None
        )

    @property
    def state(self) -> str:
        if self.rings.left:
            return "left"
        if self.stopping or self.leaving:
            return "leaving"
        if self.topology.ring is None:
            return "waiting"
        return "recovering" if self.recovering else "up"

    # Life

    async def start(self, reopened: bool = False) -> None:
        """Count what is here, take up the ring on disk, begin the loops.

        `reopened`: this process had the disk open when it failed.
        """
        ring = self.disk.ring()
        await self.settings.load()
        await self._trace()
        self.settings.on_change.append(lambda: self.in_background(self._trace()))
        self.standing.load(self.disk.standing())
        lost = self.disk.lost_writes(self._clean is not None, self._boot)
        # What a failed sync was about may be gone from the page cache too.
        lost = lost or (reopened and self.config.durability == BUFFERED)
        if ring is not None and (lost or self.disk.store.fell_behind):
            if self.disk.store.fell_behind:
                log.error("this disk's log lacks writes that were synced: recovering")
            else:
                what = "disk failed" if reopened else "machine went down"
                log.warning("the %s with writes that were only buffered: recovering", what)
            self.standing.unclean(range(ring.partitions))
        await self.disk.keep_boot(self._boot, self.config.durability)
        await self.incarnations.load()
        await self.gossip.load()
        await self.reaper.load()
        await self.replica.hints.load(1 if ring is None else ring.partitions)
        await self.custodies.load(ring)
        if ring is not None:
            await self.trees.load(ring.partitions)
            self.standing.returned(lambda p: self.trees.root(p) != EMPTY_ROOT)
        if self._clean is not None:
            self.replica.keys = self._clean.keys
        else:
            self.in_background(self._count_keys())
        if ring is not None:
            await self.rings.adopt(ring, persist=False)
        self.in_background(self.disk_health.run())
        self.in_background(self.slices.run())
        self.in_background(self.handoff.run())
        self.in_background(self.recovery.run())
        self.in_background(self.pulling.run())
        self.in_background(self.covering.run())
        self.in_background(self.gossip.run())
        self.in_background(self.reaper.copies.run())
        self.in_background(self.reaper.run())
        self.in_background(self.pings.run())
        self.in_background(Seeds(self).run())
        self.in_background(self.antientropy.run())

    async def _trace(self) -> None:
        await self.tracing.apply(self.settings.now.tracing, __version__)

    async def stop(self) -> None:
        """End all loops and links and close the disk with the clean marker."""
        self.stopping = self.ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(link.stop() for link in self.topology.links.values()))
        await self.tracing.close()
        minter, keys = self.replica.minter, self.replica.key_count
        self.replica.minter = None  # no dot is issued after the marker's figures are taken
        if self.failure is not None or minter is None or keys is None:
            await self.disk.store.close()
            return
        await self.disk.close_cleanly(
            Clean(minter.incarnation, minter.next_birth, minter.lease_end, keys)
        )

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the node stops; not at all once that has ended."""
        if self.ended:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def answer_later(
        self,
        caller: Inbound,
        frame: Frame,
        kind: Type,
        answer: Callable[[], Coroutine[Any, Any, bytes]],
    ) -> None:
        """Reply to another node's request with what `answer()` gives, or with its error."""

        async def work() -> None:
            try:
                caller.reply(frame.request_id, kind, await answer())
            except DynamoError as error:
                text = wire.pack_error(Code.STORAGE, str(error)[:512])
                caller.reply(frame.request_id, Type.ERROR, text)

        self.in_background(work())

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed: %r", error, exc_info=error)

    def _emptied(self, partition: int, start: bytes, end: bytes) -> None:
        self.trees.emptied(partition)
        self.in_background(self._count_keys())

    async def _count_keys(self) -> None:
        self._counting += 1
        count_number = self._counting
        while self.disk.store.dirty:  # a snapshot now would lack what is counted already
            await self.disk.store.durable()
        counted_from = self.replica.keys_since_count
        try:
            count = await self.disk.store.count(OBJECTS)
        except StorageError as error:
            log.error("the keys can't be counted: %s", error)
            return
        if count_number == self._counting:  # else another one began later, and knows more
            self.replica.keys = count - counted_from

    def _store_broke(self, error: StorageError) -> None:
        # Nothing in memory is trusted any more: this incarnation ends without the
        # clean marker, and `supervisor` opens the disk again under a new one.
        log.critical("%s; incarnation %s ends", error, self.incarnation.hex())
        self.disk_health.failed(str(error))
        self.failure = error
        self.stopped.set()

    # Facts

    def facts(self) -> dict[str, Any]:
        """What this node says of itself to its peers: for display, never as proof."""
        names = self.topology.host_name
        return {
            "state": self.state,
            "incarnation": self.incarnation.hex(),
            "keys": self.replica.key_count,
            "hints_pending": {
                names(n): count for n, count in sorted(self.replica.hints.pending().items())
            },
            "epoch": self.topology.name.epoch,
            "ring_id": self.topology.name.id.hex(),
            "background_share": round(self.slices.share, 3),
            "read_only": self.disk_health.read_only,
            "recovery": self.recovery.facts(),
        }

    def status(self) -> dict[str, Any]:
        """`GET /admin/status`."""
        config, ring, settings = self.config, self.topology.ring, self.settings.now
        facts = self.facts()
        return {
            "cluster_id": config.cluster_id.hex(),
            "cluster_name": config.cluster_name,
            "name": config.name,
            "number": self.topology.number or None,
            "incarnation": self.incarnation.hex(),
            "disk_id": self.disk.disk_id,
            "ring": None if ring is None else {"epoch": ring.epoch, "id": ring.id},
            "state": facts["state"],
            "ready": self.ready,
            "version": __version__,
            "feature_levels": [FEATURE_LEVEL, FEATURE_LEVEL],
            "keys": facts["keys"],
            "hints_pending": facts["hints_pending"],
            "background_share": self.slices.facts(),
            "disk": {**self.disk_health.facts(), "stored_bytes": self.disk.store.stored_bytes()},
            "recovery": facts["recovery"],
            "handover": self.transfers.handover(),
            "possible_losses": sorted(self.standing.possible_losses),
            "antientropy": self.antientropy.facts(),
            "tracing": self.tracing.facts(),
            "durability": config.durability,
            "quorum": {
                "n": None if ring is None else ring.replication,
                "r": settings.r,
                "w": settings.w,
            },
            "settings": settings.to_json(),
            "uptime_seconds": round(asyncio.get_running_loop().time() - self._started, 3),
            "pid": os.getpid(),
        }


def _reserve(config: Config, outside: Outside) -> int:
    if config.reserve_bytes is not None:
        return config.reserve_bytes
    try:
        return headroom_bytes(outside.size_bytes(config))
    except OSError as error:
        log.warning("the size of the disk isn't known: %s", error)
        return RESERVE_BYTES


async def start_node(config: Config, outside: Outside = REAL, reopened: bool = False) -> Node:
    """Open the disk and make the node; raises CallerError or StorageError.

    `reopened`: the disk failed in this process, so nothing that is empty takes its place.
    """
    disk = await open_disk(config, outside, create=not reopened)
    node = None
    try:
        node = Node(config, disk, await disk.take_clean_marker(), outside)
        await node.start(reopened)
    except BaseException as error:
        with suppress(StorageError):  # what failed first is told
            if node is None:
                await disk.store.close()
            else:
                node.failure = node.failure or StorageError(str(error))  # no marker of a clean end
                await node.stop()
        if isinstance(error, Corrupt):
            what = f"the store at {config.data_dir} can't be used"
            raise DamagedError(damaged(what, str(error), config.data_dir / "db")) from error
        raise
    return node
