"""Pages: what this node gives others of its copies while they rebuild theirs (PAGE).

Owns the serving of pages: of a slot that counts or was claimed, read after the yes to
every round that the copy has agreed to, and none of a copy that was deleted meanwhile.

Forbidden here: who asks for which page, and what is merged (`recovery`).
"""

import logging
from typing import TYPE_CHECKING, Final

from dynamo_core import records, recovery, wire
from dynamo_core.errors import DynamoError
from dynamo_core.frames import Frame
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.recovery import Ask, Lack, Page
from dynamo_core.wire import ROW_BYTES, Code, Type
from dynamo_node.claims import claimed
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


class Pages:
    """One per node; `serve` for the others."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._serving = 0
        self._emptied: dict[int, int] = {}
        """Partition -> how often its copy here was deleted as too old."""
        node.replica.on_emptied.append(self._was_emptied)
        node.handlers[Type.PAGE] = self.serve

    def serve(self, caller: Inbound, frame: Frame) -> None:
        """Answer a PAGE."""
        ask = recovery.unpack_ask(frame.payload[ROW_BYTES:])
        node = self._node
        if node.rows.differ(caller, frame, ask.partition, frame.payload[:ROW_BYTES]):
            return
        custody = node.custodies.of(ask.partition)
        if not custody.counts and not claimed(custody):
            no = wire.pack_error(Code.NOT_YET, "its slot here is not claimed, or doesn't count yet")
            caller.reply(frame.request_id, Type.ERROR, no)
            return
        node.in_background(self._serve(caller, frame.request_id, ask))

    async def _serve(self, caller: Inbound, request_id: int, ask: Ask) -> None:
        node = self._node
        ring = node.topology.ring
        assert ring is not None
        lack = node.reaper.copies.holding(ask.partition).lack
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
