"""Anti-entropy's answers: what this node says to a peer that compares with it (P§4.7).

Owns the handlers of TREE, SEGMENTS and FETCH. They answer about a partition only
under the tokens that the asker named, whatever ring either side holds, and only
what is fsynced: a mark is cleared on the word of any of them (design: invariant 8). How
many of them work at once is bounded, who comes too often is told to come again,
and all together keep to the share of background work: an answer waits its time.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from dynamo_core import antientropy, exchange, wire
from dynamo_core.antientropy import What
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.exchange import Fetched, Got
from dynamo_core.frames import Frame, RingName
from dynamo_core.ring import position
from dynamo_core.rounds import Rounds
from dynamo_core.wire import ROW_BYTES, Code, Type
from dynamo_node.digests import leaf_of, leaves, partition_range
from dynamo_node.inbound import Inbound
from dynamo_node.refusals import UNSETTLED, MovedError, PeerRefusal

if TYPE_CHECKING:
    from dynamo_node.antientropy import AntiEntropy
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

AT_ONCE_MAX: Final = 16
PAGE_KEYS: Final = 512
"""Keys in one list; their leaves take the loop about a millisecond and a half."""
FETCH_KEYS: Final = 128
FETCH_BYTES: Final = 1 << 20
HASH_BITE: Final = 64
"""Roots hashed before others get the loop; about a millisecond."""

Answer = Callable[[int, bytes], Awaitable[tuple[Type, bytes]]]


class Refused(DynamoError):
    """The request can't be answered now; `code` says why."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Answers:
    """The answering side; one per node."""

    def __init__(self, node: "Node", asking: "AntiEntropy") -> None:
        self._node = node
        self._asking = asking
        self._working = 0
        self._agreeing = False
        for kind, answer in (
            (Type.TREE, self._tree),
            (Type.SEGMENTS, self._segments),
            (Type.FETCH, self._fetch),
        ):
            node.handlers[kind] = self._handler(answer)

    def _handler(self, answer: Answer) -> Callable[[Inbound, Frame], None]:
        def handle(caller: Inbound, frame: Frame) -> None:
            self._node.in_background(self._work(answer, caller, frame))

        return handle

    async def _work(self, answer: Answer, caller: Inbound, frame: Frame) -> None:
        self._working += 1
        try:
            kind, payload = await self._answered(answer, caller, frame)
        except Refused as error:
            kind, payload = Type.ERROR, wire.pack_error(error.code, str(error))
        except PeerRefusal as error:
            kind, payload = Type.ERROR, error.reply()
        except Corrupt as error:
            log.warning("a request of type %d is malformed: %s", frame.type, error)
            kind, payload = Type.ERROR, wire.pack_error(Code.BAD_REQUEST, str(error)[:512])
        except DynamoError as error:
            kind, payload = Type.ERROR, wire.pack_error(Code.STORAGE, str(error)[:512])
        finally:
            self._working -= 1
        caller.reply(frame.request_id, kind, payload)

    async def _answered(self, answer: Answer, caller: Inbound, frame: Frame) -> tuple[Type, bytes]:
        assert caller.hello is not None
        number = caller.hello.number
        if self._node.topology.ring is None:
            raise Refused(Code.NOT_READY, "this node has no ring yet")
        if (frame.epoch, frame.ring_id) != self._node.topology.name:  # no reason to refuse
            self._node.rings.noticed(number, RingName(frame.epoch, frame.ring_id))
        if self._working > AT_ONCE_MAX:
            raise Refused(Code.OVERLOADED, f"{AT_ONCE_MAX} comparisons are being answered here")
        return await answer(number, frame.payload)

    def _check(self, partition: int, row: bytes) -> None:
        """Raise what this node refuses a question about the partition under `row` with."""
        node = self._node
        table = node.topology.table
        assert table is not None
        if partition >= table.partitions:
            raise Corrupt(f"a question about partition {partition}, of {table.partitions}")
        if (no := node.custodies.other_row(partition, row)) is not None:
            raise no
        if partition in node.topology.unsettled:
            raise Refused(Code.NOT_YET, UNSETTLED)
        if partition not in node.topology.owned or not node.custodies.takes(partition):
            raise MovedError

    async def _tree(self, number: int, payload: bytes) -> tuple[Type, bytes]:
        if antientropy.what_is_asked(payload) == What.AGREED:
            return Type.TREE_REPLY, await self._agreed(*antientropy.unpack_agreed(payload))
        shared = self._asking.shared(number)
        if antientropy.what_is_asked(payload) == What.RANGES:
            await self._asking.hash_roots(shared)
            for partition, theirs in antientropy.asked_rounds(payload):
                self._asking.compare_rounds(number, partition, theirs)
        async with self._slice():
            reply = antientropy.answer(self._asking.view, shared, payload)
        await self._node.disk.store.durable()
        return Type.TREE_REPLY, reply

    async def _agreed(self, partition: int, row: bytes) -> bytes:
        """Compare with all other holders, for one whose mark says that this node lacks some."""
        self._check(partition, row)
        if self._agreeing:
            raise Refused(Code.OVERLOADED, "another agreement is being looked for")
        self._agreeing = True
        try:
            return b"\x01" if await self._asking.marks.agrees_with_all(partition) else b"\x00"
        finally:
            self._agreeing = False

    async def _segments(self, number: int, payload: bytes) -> tuple[Type, bytes]:
        row, payload = payload[:ROW_BYTES], payload[ROW_BYTES:]
        partition, start, end = exchange.unpack_list(payload)
        self._check(partition, row)
        ring = self._node.topology.ring
        assert ring is not None
        low, high = partition_range(ring, partition)
        if not low <= start <= end <= high:
            raise Corrupt(f"a question for keys outside of partition {partition}")
        if self._asking.exchanging_with == number and self._node.topology.number < number:
            # Both compare with each other: one exchange is enough, the lower one's.
            raise Refused(Code.OVERLOADED, "this node is exchanging keys with the asker already")
        async with self._slice():
            page = await leaves(self._node.disk.store, start, end, PAGE_KEYS)
        more = page.end < end and bool(page.leaves)
        await self._node.disk.store.durable()
        self._check(partition, row)
        return Type.SEGMENTS_REPLY, exchange.pack_leaves(page.leaves, more)

    async def _fetch(self, number: int, payload: bytes) -> tuple[Type, bytes]:
        row, payload = payload[:ROW_BYTES], payload[ROW_BYTES:]
        partition, keys = exchange.unpack_fetch(payload)
        self._check(partition, row)
        if len(keys) > FETCH_KEYS:
            raise Corrupt(f"a fetch of {len(keys)} keys; up to {FETCH_KEYS} are given at once")
        if not all(self._node.replica.partition_of(position(k)) == partition for k in keys):
            raise Corrupt(f"a fetch of a key that is not in partition {partition}")
        rounds = self._node.replica.rounds
        stamp = rounds.stamp(partition)
        async with self._slice():
            items = await self._own(keys, stamp, reaped_leaves(rounds, partition))
        await self._node.disk.store.durable()
        if rounds.stamp(partition) != stamp:  # nothing from before a promise is sent after it
            raise Refused(Code.OVERLOADED, "a reap round was promised meanwhile")
        self._check(partition, row)
        return Type.FETCH_REPLY, exchange.pack_fetched(items)

    async def _own(
        self, keys: list[bytes], stamp: int, reaped: dict[bytes, bytes]
    ) -> list[Fetched]:
        """This node's own records of the first of `keys`, as many as fit."""
        items: list[Fetched] = []
        size = 0
        for key in keys:
            place = position(key) + key
            try:
                obj = await self._node.replica.read_own_async(place)
                leaf = leaf_of(place, obj)
            except Corrupt as error:
                log.error("the record of key %r is damaged: %s", key, error)
                items.append(Fetched(Got.DAMAGED, stamp, b""))
                continue
            if place in reaped and leaf in (None, reaped[place]):
                items.append(Fetched(Got.REAPED, stamp, b""))
                continue
            size += len(obj or b"")
            if items and size > FETCH_BYTES:
                break
            items.append(Fetched(Got.NOTHING if obj is None else Got.OBJECT, stamp, obj or b""))
        return items

    def _slice(self) -> AbstractAsyncContextManager[object]:
        return self._node.slices.slice("repair")


def reaped_leaves(rounds: Rounds, partition: int) -> dict[bytes, bytes]:
    """Place to leaf of each key whose reaping some owner hasn't confirmed yet.

    A key with another leaf lives again: it is copied as any other.
    """
    kept = rounds.kept(partition)
    return {} if kept is None else dict(kept.entries)
