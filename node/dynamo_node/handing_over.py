"""Handing over: what a holder gives to whoever takes its slot over (design: handover).

Owns the answers to PULL, be it about a copy that still changes or one whose tenure has
ended, and to SEAL. Whatever is answered was fsynced before (invariant 8).

Forbidden here: what a seal means (`dynamo_core.handover`), the successor's side
(`taking_over`), and when a copy is deleted (`covering`).
"""

import logging
from typing import TYPE_CHECKING, Final

from dynamo_core import exchange, records, recovery, wire
from dynamo_core import handover_messages as messages
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.exchange import Fetched, Got
from dynamo_core.frames import Frame
from dynamo_core.handover import Answer
from dynamo_core.handover_messages import End, Given, Pull, What
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.recovery import Lack, Page
from dynamo_core.ring import position
from dynamo_core.wire import Code, Type
from dynamo_node.antientropy_answers import FETCH_BYTES, FETCH_KEYS, PAGE_KEYS
from dynamo_node.digests import leaves, partition_range
from dynamo_node.inbound import Inbound
from dynamo_node.storage import OBJECTS

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

PULL_KEYS: Final = 256
PULL_BYTES: Final = 1 << 20
PULL_BYTES_MIN: Final = 1 << 16
"""A page's objects when many are given at once, which together make about PULL_BYTES."""
SERVED_MAX: Final = 64
"""PULLs answered at once; successors keep to a few partitions each."""


class _Refused(DynamoError):
    """It can't be answered now; `code` says why."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class HandingOver:
    """One per node: it answers PULL and SEAL."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._serving = 0
        node.handlers[Type.PULL] = self._pull
        node.handlers[Type.SEAL] = self._seal

    # PULL

    def _pull(self, caller: Inbound, frame: Frame) -> None:
        pull = messages.unpack_pull(frame.payload)
        about = pull.about
        # Under one ring: what this node has promised is in the rounds that are joined then,
        # and it promises nothing more while the ring has the slot move.
        if pull.what is What.BEGIN and self._node.rings.differ(caller, frame):
            return
        if self._node.rows.differ(caller, frame, about.partition, about.digest):
            return
        self._node.in_background(self._answer(caller, frame.request_id, pull))

    async def _answer(self, caller: Inbound, request_id: int, pull: Pull) -> None:
        self._serving += 1
        try:
            ended = pull.about.slot in self._node.custodies.of(pull.about.partition).seals
            if self._serving > SERVED_MAX and not ended:
                raise _Refused(Code.OVERLOADED, f"{SERVED_MAX} successors are being answered here")
            kind, payload = Type.PULL_REPLY, await self._given(pull)
        except _Refused as error:
            kind, payload = Type.ERROR, wire.pack_error(error.code, str(error))
        except Corrupt as error:
            log.warning("a PULL is malformed: %s", error)
            kind, payload = Type.ERROR, wire.pack_error(Code.BAD_REQUEST, str(error)[:512])
        except DynamoError as error:
            kind, payload = Type.ERROR, wire.pack_error(Code.STORAGE, str(error)[:512])
        finally:
            self._serving -= 1
        caller.reply(request_id, kind, payload)

    async def _given(self, pull: Pull) -> bytes:
        node, (partition, slot, source, _) = self._node, pull.about
        custody = node.custodies.of(partition)
        answer = custody.on_pull(slot, source, able(node, partition))
        if answer is not Answer.GIVEN:
            await node.custodies.settled((partition,))
            return messages.pack_denied(answer, custody.row)
        emptied = node.replica.emptied[partition]
        # Before anything is read: what is read is as new as this, or newer.
        state = node.replica.rounds.state(partition)
        loss = partition in node.standing.possible_losses
        # Clients wait for what is walked after a seal; all else keeps to its share.
        body = await self._body(partition, pull, paced=slot not in custody.seals)
        await node.disk.store.durable()
        answer = custody.on_pull(slot, source, able(node, partition))
        if answer is not Answer.GIVEN:
            await node.custodies.settled((partition,))
            return messages.pack_denied(answer, custody.row)
        if node.replica.emptied[partition] != emptied:
            raise _Refused(Code.OVERLOADED, "this copy was deleted while it was read")
        return messages.pack_given(Given(state, loss, body))

    async def _body(self, partition: int, pull: Pull, paced: bool) -> bytes:
        what, rest = pull.what, pull.rest
        if what is What.PAGE:
            return await self._page(partition, rest)
        if what is What.TREE:
            kept = self._node.replica.rounds.kept(partition)
            return messages.pack_tree(self._node.trees.all(partition), kept)
        if what is What.LEAVES or what is What.FETCH:
            read = self._leaves if what is What.LEAVES else self._fetch
            if not paced:
                return await read(partition, rest)
            async with self._node.slices.slice("transfer"):
                return await read(partition, rest)
        return b""

    async def _page(self, partition: int, after: bytes) -> bytes:
        node, ring = self._node, self._node.topology.ring
        assert ring is not None
        start, end = partition_range(ring, partition)
        if after:
            start = max(start, after + b"\x00")
        store, size = node.disk.store, max(PULL_BYTES_MIN, PULL_BYTES // self._serving)
        if store.dirty:
            await store.durable()  # what this tick wrote isn't seen by the scan
        async with node.slices.slice("transfer"):
            pairs = await store.scan_async(OBJECTS, start, end, PULL_KEYS, size)
            entries = [(place[DIGEST_BYTES:], _object_of(place, data)) for place, data in pairs]
        last = len(pairs) < PULL_KEYS and sum(len(data) for _, data in pairs) < size
        return recovery.pack_page(Page(Lack.NOTHING, last, 0, entries))

    async def _leaves(self, partition: int, rest: bytes) -> bytes:
        asked, start, end = exchange.unpack_list(rest)
        ring, store = self._node.topology.ring, self._node.disk.store
        assert ring is not None
        low, high = partition_range(ring, partition)
        if asked != partition or not low <= start <= end <= high:
            raise Corrupt(f"a question for keys outside of partition {partition}")
        if store.dirty:
            await store.durable()
        page = await leaves(store, start, end, PAGE_KEYS)
        if page.damaged:
            # Whoever took the slot over without them would say that they never were.
            text = f"{page.damaged} records of partition {partition} here are damaged"
            raise _Refused(Code.STORAGE, text)
        return exchange.pack_leaves(page.leaves, page.end < end and bool(page.leaves))

    async def _fetch(self, partition: int, rest: bytes) -> bytes:
        asked, keys = exchange.unpack_fetch(rest)
        replica = self._node.replica
        if asked != partition or len(keys) > FETCH_KEYS:
            raise Corrupt(f"a fetch of {len(keys)} keys of partition {asked}")
        items: list[Fetched] = []
        size = 0
        for key in keys:
            digest = position(key)
            if replica.partition_of(digest) != partition:
                raise Corrupt(f"a fetch of a key that is not in partition {partition}")
            try:
                obj = await replica.read_own_async(digest + key)
            except Corrupt as error:
                text = f"the record of key {key!r} here is damaged: {error}"
                raise _Refused(Code.STORAGE, text) from error
            size += len(obj or b"")
            if items and size > FETCH_BYTES:
                break
            items.append(Fetched(Got.NOTHING if obj is None else Got.OBJECT, 0, obj or b""))
        return exchange.pack_fetched(items)

    # SEAL

    def _seal(self, caller: Inbound, frame: Frame) -> None:
        """The end of a tenure. Nothing of it follows this in the log: it is put in one step,
        and each merge and mint looks at the record in its own."""
        node, about = self._node, messages.unpack_seal(frame.payload)
        partition, slot, source, digest = about
        # Under one ring: a NOT_YOU has to be by one that isn't older than the asker's.
        if node.rings.differ(caller, frame):
            return
        if node.rows.differ(caller, frame, partition, digest):
            return
        assert caller.hello is not None
        custody, number = node.custodies.of(partition), caller.hello.number
        wanted = node.custodies.wanted(partition)
        # Who shuts down seals nothing any more: its successor would wait for its next start.
        may = able(node, partition) and not node.stopping
        # What a ring overrode that isn't known here yet is handed on to nobody under the one
        # before: that one may want a node that was given up since.
        may = may and source.epoch <= node.topology.name.epoch
        answer = custody.on_seal(slot, source, number, may, wanted)

        async def reply() -> bytes:
            await node.custodies.settled((partition,))
            if answer is not Answer.GIVEN:
                return messages.pack_denied(answer, custody.row)
            return messages.pack_sealed(end_of(node, partition))

        node.answer_later(caller, frame, Type.SEAL_REPLY, reply)


def able(node: "Node", partition: int) -> bool:
    """Whether the copy here is complete, and known to be as new as its rounds."""
    return node.standing.counts(partition) and node.reaper.copies.sure(partition)


def end_of(node: "Node", partition: int) -> End:
    """What is said of a copy here whose tenure has ended."""
    kept = node.replica.rounds.kept(partition)
    return End(node.trees.root(partition), node.reaper.copies.holding(partition), kept)


def _object_of(place: bytes, data: bytes) -> bytes:
    """The object in a record; without it nobody may take over what is here."""
    try:
        return records.object_of(data)
    except Corrupt as error:
        text = f"the record of key {place[DIGEST_BYTES:]!r} here is damaged: {error}"
        raise _Refused(Code.STORAGE, text) from error
