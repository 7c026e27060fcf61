"""Rings: which ring this node holds, and how it comes to a higher one (design: order).

Owns the checks of a posted or told ring, its taking up, and the exchange with a
peer that holds another. A node never invents membership, and takes a lower ring
from nobody.

Forbidden here: what a new ring means for data.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from dynamo_core import wire
from dynamo_core.errors import CallerError, DynamoError
from dynamo_core.frames import NO_RING, Frame, RingName
from dynamo_core.ring import Ring
from dynamo_core.wire import Code, Type
from dynamo_node.inbound import Inbound
from dynamo_node.links import Link
from dynamo_node.opening import StorageError

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

RING_TIMEOUT_S: Final = 2.0


class RingConflictError(DynamoError):
    """A ring was posted whose parent is not the ring held; that one is told."""


class Rings:
    """One per node; the ring itself is in `topology`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._topology = node.topology
        self._lock = asyncio.Lock()
        self._exchanging: set[int] = set()
        self.left = False
        """Whether a higher ring than the one held names this node no more, not even as leaving."""

    async def post(self, ring: Ring) -> None:
        """A publisher's next ring: its parent must be the ring held here.

        Raises RingConflictError when it isn't, CallerError when the ring can't be this
        node's. The ring that is held already is accepted again.
        """
        self._check_cluster(ring)
        # Two publishers may post at once: the parent is compared with what is held
        # when this ring's turn comes, not when it arrived.
        async with self._lock:
            held = self._topology.ring
            if held is not None and ring.id == held.id:
                return
            if held is not None and ring.parent != held.id:
                raise RingConflictError(
                    f"the ring names parent {ring.parent or 'none'}, but the ring held here is "
                    f"{held.id} of epoch {held.epoch}"
                )
            if held is not None and ring.epoch <= held.epoch:
                # It would be ignored, and its publisher told that it is in force.
                raise CallerError(
                    f"epoch is {ring.epoch}; it must be above {held.epoch}, that of the parent"
                )
            await self.adopt(ring, persist=True)

    async def learn(self, ring: Ring) -> None:
        """Take up a ring if it is higher than the one held (design: order)."""
        self._check_cluster(ring)
        async with self._lock:
            if RingName(ring.epoch, bytes.fromhex(ring.id)) > self._topology.name:
                await self.adopt(ring, persist=True)

    def _check_cluster(self, ring: Ring) -> None:
        if ring.cluster_id != self._node.config.cluster_id.hex():
            raise CallerError(
                f"the ring is of cluster {ring.cluster_id}, this node of "
                f"{self._node.config.cluster_id.hex()}"
            )

    def _check_fixed(self, ring: Ring) -> None:
        """Raise CallerError for a ring that changes what is fixed, or can't serve r and w."""
        held, settings = self._topology.ring, self._node.settings.now
        if held is not None and held.partitions != ring.partitions:
            raise CallerError(
                f"partitions is {ring.partitions}; it is fixed for life at {held.partitions}"
            )
        if held is not None and held.replication != ring.replication:
            raise CallerError(
                f"replication is {ring.replication}; it is fixed for life at {held.replication}"
            )
        for name, value in (("r", settings.r), ("w", settings.w)):
            if value > ring.replication:
                raise CallerError(
                    f"the ring's replication is {ring.replication}, but this node's quorum.{name} "
                    f"is {value}; it must be within 1..{ring.replication}"
                )

    async def adopt(self, ring: Ring, persist: bool) -> None:
        """Take up a ring; `persist` unless it came from this disk.

        Raises CallerError, or StorageError once this incarnation has ended: whoever brings
        a ring may have been on the way meanwhile, and nobody would end the links to its members.
        """
        node = self._node
        if node.ended or node.failure is not None:
            raise StorageError(f"incarnation {node.incarnation.hex()} of this node has ended")
        me = ring.node_named(node.config.name)
        self.left = me is None and self._topology.ring is not None
        if me is None:
            names = ", ".join(m.name for m in ring.members[:10])
            raise CallerError(
                f"the ring of epoch {ring.epoch} has no member {node.config.name!r} ({names})"
            )
        self._check_fixed(ring)
        node.replica.ring_has(ring.partitions)
        node.trees.ring_has(ring.partitions)
        former = self._topology.number
        renumbered = former != me.number
        founder = False
        if not node.standing.known:
            # In one batch with the ring: whether this disk is believed follows from
            # the first one it sees.
            whole = not node.disk.store.fell_behind
            founder = node.standing.begin(ring, me.number, node.disk.disk_id if whole else "")
        # In one step: whoever goes on meanwhile finds number, ring and rows that belong together.
        # What he says durably comes after the ring in the log, and a ring that a power cut takes
        # back is learnt again.
        node.custodies.adopt(ring, me.number, founder)
        for link in self._topology.adopt(ring, me.number, lambda n: self._link(ring, n)):
            link.close()  # in the same step: once there is a disk that fails, nobody knows of it
        if renumbered and former:
            node.births.renumbered()
        for link in self._topology.links.values():
            if not link.started:
                link.start()
        if persist:
            await node.disk.keep_ring(ring)
        log.info(
            "ring of epoch %d, id %s: %d members, this is number %d%s",
            ring.epoch,
            ring.id,
            len(ring.members),
            me.number,
            "; recovering" if node.recovering else "",
        )
        node.pulling.wake()
        if node.replica.minter is None or renumbered:
            node.in_background(node.births.take_up())

    def _link(self, ring: Ring, number: int) -> Link:
        link = Link(
            ring.node(number),
            self._node.identity,
            lambda: self._topology.name,
            self._node.config.timing.suspect_ms / 1000,
            lambda: self._node.outside.random_bytes(16),
            self._node.names.addresses,
        )

        def up(link: Link) -> None:
            if self._node.custodies.blank:
                self._node.in_background(self._told_all(link.member.number))
            self._node.handoff.wake()
            self._node.recovery.wake()
            self._node.pulling.wake()
            self._node.reaper.copies.wake()

        link.on_up = up
        link.on_replaced = self._node.births.taken_for_replaced
        return link

    async def _told_all(self, number: int) -> None:
        await self._node.rows.sync(number)

    def exchange(self, number: int, teach: bool) -> None:
        """A peer's ring differs: teach it, or learn from it.

        Every request finds that out again, and a ring is long: one exchange at a time.
        """
        if number not in self._exchanging:
            self._exchanging.add(number)
            self._node.in_background(self._exchange(number, teach))

    async def _exchange(self, number: int, teach: bool) -> None:
        try:
            link, ring = self._topology.links.get(number), self._topology.ring
            if link is None or ring is None:
                return
            # Rows first: a ring that was passed over may have given somebody up. Where they can't
            # be had now, whoever notices next that the rings differ tries again.
            if not await self._node.rows.sync(number):
                return
            if teach:
                await link.ask(Type.RING, ring.to_bytes(), RING_TIMEOUT_S)
                return
            kind, payload = await link.ask(Type.RING, b"", RING_TIMEOUT_S)
            if kind == Type.RING_REPLY and payload:
                try:
                    await self.learn(Ring.from_bytes(payload))
                except CallerError as error:
                    log.warning("the ring of %s is refused: %s", link.member.name, error)
        finally:
            self._exchanging.discard(number)

    def noticed(self, number: int, theirs: RingName) -> None:
        """A peer's frame names another ring than the one held here: whoever is behind learns."""
        if number in self._topology.links:
            self.exchange(number, teach=theirs < self._topology.name)

    def differ(self, caller: Inbound, frame: Frame) -> bool:
        """Whether sender and receiver hold different rings; the sender is told, and mends that."""
        mine = self._topology.name
        if (frame.epoch, frame.ring_id) == mine and mine != NO_RING:
            return False
        code = Code.NOT_READY if mine < (frame.epoch, frame.ring_id) else Code.STALE_RING
        text = wire.pack_error(code, f"this node's ring is of epoch {mine.epoch}")
        caller.reply(frame.request_id, Type.ERROR, text)
        return True
