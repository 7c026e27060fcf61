"""Service: what other nodes and native clients may ask of this node.

Owns the handling of every request frame after the handshake: replica reads and
writes, forwarded and clients' operations, pings, rings and leases. Expired
requests are dropped before they are decoded; a peer whose ring differs is
taught or learns before it is answered.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import objects, wire
from dynamo_core.errors import CallerError, Corrupt, DynamoError
from dynamo_core.frames import Frame, RingName
from dynamo_core.handshake import Hello, Identity
from dynamo_core.records import Stamp
from dynamo_core.ring import Ring
from dynamo_core.tenures import Stage
from dynamo_core.wire import ROW_BYTES, UNCOUNTED, Code, Found, Type
from dynamo_node.inbound import Inbound
from dynamo_node.logs import on_behalf_of
from dynamo_node.refusals import PeerRefusal
from dynamo_node.served import served
from dynamo_node.topology import Place
from dynamo_telemetry.contexts import from_outside

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

CLIENT_FRAME_ROOM: Final = 1 << 20
REMAINING_MS_MAX: Final = 60_000
"""The longest that a request is worked on, whatever its caller says."""


class Service:
    """Dispatches inbound frames; one per node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[int, Callable[[Inbound, Frame], None]] = {
            Type.READ: self._read,
            Type.WRITE: self._write,
            Type.FORWARD: self._operate,
            Type.OPERATION: self._operate,
            Type.PING: self._ping,
            Type.RING: self._ring,
            Type.LEASE: self._lease,
            Type.CLUSTER: self._cluster,
            **node.handlers,
        }

    # What `Inbound` asks

    def identity(self) -> Identity:
        return self._node.identity()

    def nonce(self) -> bytes:
        return self._node.outside.random_bytes(16)

    def ring_name(self) -> RingName:
        return self._node.topology.name

    def is_replaced(self, number: int, name: str, incarnation: bytes) -> bool:
        return self._node.incarnations.is_replaced(number, name, incarnation)

    def peer_called(self, hello: Hello) -> None:
        """A peer has proven who it is."""
        link = self._node.topology.links.get(hello.number)
        if link is not None:
            link.dial_now()

    def peer_spoke(self, hello: Hello) -> None:
        """It goes on after its welcome: its incarnation replaces the one known before.

        A proof alone may be late, from one that ended before it was welcomed.
        """
        if hello.number:
            self._node.incarnations.called(hello.number, hello.name, hello.incarnation)

    def client_frame_bytes_max(self) -> int:
        """Room for the largest value that is taken, its key and a long context."""
        return self._node.settings.now.limits.value_bytes_max + CLIENT_FRAME_ROOM

    def handle(self, caller: Inbound, frame: Frame) -> None:
        if frame.remaining_ms == 0:
            caller.reply(frame.request_id, Type.ERROR, wire.pack_error(Code.EXPIRED))
            return
        handler = self._handlers.get(frame.type)
        if handler is None:
            raise Corrupt(f"a frame of type {frame.type}, which is not a request")
        try:
            if frame.trace and self._node.tracing.on:
                caller = served(self._node, caller, frame)
            handler(caller, frame)
        except Corrupt as error:
            extra = on_behalf_of(frame.trace)
            log.warning("a request of type %d is malformed: %s", frame.type, error, extra=extra)
            self._error(caller, frame, Code.BAD_REQUEST, str(error))
        except DynamoError as error:
            self._error(caller, frame, Code.STORAGE, str(error))

    # Replica

    def _level(self, caller: Inbound, frame: Frame, place: Place, row: bytes) -> bool:
        """Whether sender and receiver know the same of who holds a slot of `place`.

        Else the sender is told, and asks again. A ring that differs is mended beside it: who
        holds what, and whether that counts, doesn't follow from rings.
        """
        node = self._node
        if (frame.epoch, frame.ring_id) != node.topology.name and caller.hello is not None:
            node.rings.noticed(caller.hello.number, RingName(frame.epoch, frame.ring_id))
        return not node.rows.differ(caller, frame, place.partition, row)

    def _read(self, caller: Inbound, frame: Frame) -> None:
        row, payload = frame.payload[:ROW_BYTES], frame.payload[ROW_BYTES:]
        key, whole = wire.unpack_read(payload)
        node = self._node
        if node.topology.ring is None:
            self._error(caller, frame, Code.NOT_READY, "this node has no ring yet")
            return
        place = node.topology.place(key)
        request_id = frame.request_id
        if not self._level(caller, frame, place, row):
            return
        if not place.counts and (code := self._unable(place)) is not None:
            self._error(caller, frame, code, "")
            return
        loop, latencies = self._loop, node.slices.admission.local
        began = loop.time()

        def read(obj: bytes | None) -> None:
            latencies.add(loop.time() - began)
            if (no := node.custodies.other_row(place.partition, row)) is not None:
                # It changed while it was read.
                caller.reply(request_id, Type.ERROR, no.reply())
                return
            rounds = node.replica.rounds
            reap_round, committed = (
                rounds.stamp(place.partition),
                rounds.committed(place.partition),
            )
            owner = node.topology.number in place.owners
            if owner and not node.reaper.copies.answers(place.partition):
                reply = wire.pack_read_reply(Found.ABSTAINS, reap_round)
            elif obj is None:
                reply = wire.pack_read_reply(Found.NOTHING, reap_round, b"", committed)
            elif whole:
                reply = wire.pack_read_reply(Found.WHOLE, reap_round, obj, committed)
            else:
                try:
                    reply = wire.pack_read_reply(
                        Found.HEAD, reap_round, objects.head_of(obj), committed
                    )
                except Corrupt as error:
                    damaged(error)
                    return
            caller.reply(request_id, Type.READ_REPLY, reply)

        def damaged(error: DynamoError) -> None:
            self._error(caller, frame, Code.STORAGE, f"the record here can't be read: {error}")

        node.replica.read(key, place.digest, place.owners, read, damaged)

    def _unable(self, place: Place) -> Code | None:
        """What a read is answered with by a node that doesn't count, if not as a stand-in."""
        node = self._node
        custody = node.custodies.of(place.partition)
        if node.topology.number not in place.owners:
            return Code.MOVED if custody.has_copy else None  # it may keep hints
        if custody.seals:
            return Code.MOVED
        taken = any(held.stage == Stage.TAKEN for held in custody.held.values())
        return Code.NOT_YET if taken else None  # who is recovering abstains

    def _write(self, caller: Inbound, frame: Frame) -> None:
        row, payload = frame.payload[:ROW_BYTES], frame.payload[ROW_BYTES:]
        write = wire.unpack_write(payload)
        node = self._node
        if node.topology.ring is None:
            self._error(caller, frame, Code.NOT_READY, "this node has no ring yet")
            return
        place = node.topology.place(write.key)
        request_id = frame.request_id
        if not self._level(caller, frame, place, row):
            return
        loop, admission = self._loop, self._node.slices.admission
        began = loop.time()
        if write.sync:  # only background work asks for it
            admission.received.began(began)

        def written(error: BaseException | None) -> None:
            now = loop.time()
            if write.sync:
                admission.received.ended(now)
            else:
                admission.local.add(now - began)
            if error is None:
                counts = write.hint_for or place.counts
                caller.reply(request_id, Type.WRITTEN, b"" if counts else UNCOUNTED)
            elif isinstance(error, PeerRefusal):
                caller.reply(request_id, Type.ERROR, error.reply())
            else:
                self._error(caller, frame, Code.STORAGE, str(error))

        replica, me = node.replica, node.topology.number
        target = write.hint_for if write.hint_for != me else 0
        if not target and not place.counts and self._stands_in_for_itself(place):
            if write.sync:  # in the background: that is tried again
                self._error(caller, frame, Code.NOT_YET, "this node doesn't count yet")
                return
            target = me
        if target and target != me and node.leaving:
            # Whoever asks has an older ring. A leaver may have been found drained already.
            self._error(caller, frame, Code.STALE_RING, "this node is leaving: it keeps no hints")
            return
        if target:
            replica.hints.keep(
                write.key,
                place.digest,
                target,
                write.obj,
                Stamp(write.reap_round, *node.topology.name),
                written,
                sync=write.sync,
                over=write.over or target == me,
                row=row,
            )
        else:
            replica.merge(
                write.key, place.digest, write.obj, write.reap_round, written, write.sync, row
            )

    def _stands_in_for_itself(self, place: Place) -> bool:
        """Whether this owner may yet empty the copy that it has, or has none.

        It lost its disk, or was given the slot of a dead node. What W counts has to stay, so
        it is kept as a hint for this very node until the copy counts.
        """
        node = self._node
        keeps = node.custodies.of(place.partition).keeps
        return node.topology.number in place.owners and not keeps

    # Operations

    def _operate(self, caller: Inbound, frame: Frame) -> None:
        operation = wire.unpack_operation(frame.payload)
        request_id = frame.request_id
        remaining_ms = min(frame.remaining_ms, REMAINING_MS_MAX)
        if operation.write_id == bytes(16):
            operation = operation._replace(write_id=self._node.write_id())
        self._node.coordinator.operate(
            operation,
            remaining_ms,
            lambda outcome: caller.reply(
                request_id, Type.OPERATION_REPLY, wire.pack_outcome(outcome)
            ),
            from_outside(frame.trace),
            forwarded=frame.type == Type.FORWARD,
            gone=lambda: caller.gone,
            native=True,
        )

    # Membership

    def _ping(self, caller: Inbound, frame: Frame) -> None:
        caller.reply(frame.request_id, Type.PONG, b"")

    def _ring(self, caller: Inbound, frame: Frame) -> None:
        """An empty payload asks for the ring held here; another one is a ring to learn."""
        if not frame.payload:
            ring = self._node.topology.ring
            caller.reply(
                frame.request_id, Type.RING_REPLY, ring.to_bytes() if ring is not None else b""
            )
            return
        self._in_background(self._learn(caller, frame))

    async def _learn(self, caller: Inbound, frame: Frame) -> None:
        try:
            await self._node.rings.learn(Ring.from_bytes(frame.payload))
        except (CallerError, DynamoError) as error:
            self._error(caller, frame, Code.BAD_REQUEST, str(error))
            return
        caller.reply(frame.request_id, Type.RING_REPLY, b"")

    def _lease(self, caller: Inbound, frame: Frame) -> None:
        lease = wire.unpack_lease(frame.payload)
        if caller.hello is None or caller.hello.number != lease.number:
            raise Corrupt("a lease is asked for by another node than its own")
        self._in_background(self._grant(caller, caller.hello, frame, lease))

    async def _grant(self, caller: Inbound, hello: Hello, frame: Frame, lease: wire.Lease) -> None:
        disk = self._node.disk
        try:
            stale = (
                await disk.granted(lease.number, lease.incarnation) > lease.held_until
                or self.is_replaced(lease.number, hello.name, lease.incarnation)
                # What this node granted before may have gone with the disk it had then.
                or self._node.recovering
            )
            if not stale:
                await disk.grant(lease.number, lease.incarnation, lease.wanted_until)
        except DynamoError as error:
            self._error(caller, frame, Code.STORAGE, str(error))
            return
        caller.reply(frame.request_id, Type.LEASE_REPLY, b"\x00" if stale else b"\x01")

    def _cluster(self, caller: Inbound, frame: Frame) -> None:
        """The ring, for clients that go straight to the replicas (P§6.4)."""
        ring = self._node.topology.ring
        caller.reply(
            frame.request_id, Type.CLUSTER_REPLY, ring.to_bytes() if ring is not None else b""
        )

    def _error(self, caller: Inbound, frame: Frame, code: Code, text: str) -> None:
        caller.reply(frame.request_id, Type.ERROR, wire.pack_error(code, text[:512]))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
