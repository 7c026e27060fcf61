"""Rows: how nodes tell each other who holds which slot (design: gossip; handover).

Owns ROWS and BLOCKS, both sides, and what follows when a request was made under
other tokens than its receiver knows: both learn, and it is made again. What is
learned is fsynced before it is answered by, and nobody learns without a ring.

Forbidden here: what a token means for the copies here (`custodies`).
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from dynamo_core import slots, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.slots import Row
from dynamo_core.wire import Code, Type
from dynamo_node.inbound import Inbound
from dynamo_node.refusals import UNSETTLED

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0


class Rows:
    """One per node; the rows themselves are in `custodies`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._teaching: dict[tuple[int, int], list[Callable[[], None]]] = {}
        node.handlers[Type.ROWS] = self._rows
        node.handlers[Type.BLOCKS] = self._blocks

    # Answering

    def differ(self, caller: Inbound, frame: Frame, partition: int, row: bytes) -> bool:
        """Whether `row`, which a question names, isn't what is known here; the asker is told."""
        node = self._node
        table = node.topology.table
        if table is None or partition >= table.partitions:
            if table is not None:
                raise Corrupt(f"partition {partition} is not one of this ring")
            text = wire.pack_error(Code.NOT_READY, "this node has no ring yet")
        elif (no := node.custodies.other_row(partition, row)) is not None:
            text = no.reply()
        elif partition in node.topology.unsettled:
            text = wire.pack_error(Code.NOT_YET, UNSETTLED)
        else:
            return False
        caller.reply(frame.request_id, Type.ERROR, text)
        return True

    def _rows(self, caller: Inbound, frame: Frame) -> None:
        """Rows that the caller knows: they are joined, and what is known here then is told."""
        rows = slots.unpack_rows(frame.payload)

        async def answer() -> bytes:
            node = self._node
            if node.topology.table is None:
                return b""
            node.custodies.learn_all(rows)
            await node.custodies.settled(rows)
            return slots.pack_rows({p: node.topology.row(p) for p in rows})

        self._node.answer_later(caller, frame, Type.ROWS_REPLY, answer)

    def _blocks(self, caller: Inbound, frame: Frame) -> None:
        """The digests of all blocks of rows here; nothing if the caller's root is the same."""
        table = self._node.topology.table
        told = b"" if table is None or frame.payload == table.root() else table.blocks()
        caller.reply(frame.request_id, Type.BLOCKS_REPLY, told)

    # Asking

    async def tell(self, number: int, rows: Mapping[int, Row]) -> dict[int, Row] | None:
        """Let a peer join these rows; what it then knows, durably, of each, or None.

        What it knows more is learned here, and fsynced before this returns.
        """
        node = self._node
        link = node.topology.links.get(number)
        if link is None:
            return None
        await node.custodies.durable()
        kind, reply = await link.ask(Type.ROWS, slots.pack_rows(rows), TIMEOUT_S)
        if kind != Type.ROWS_REPLY:
            return None
        try:
            theirs = slots.unpack_rows(reply)
            node.custodies.learn_all(theirs)
        except Corrupt as error:
            log.warning("rows of %s can't be used: %s", link.member.name, error)
            return None
        await node.custodies.durable()
        return theirs

    async def sync(self, number: int) -> bool:
        """Join all that a peer and this node know of who holds what; whether it is the same now."""
        node = self._node
        link, table = node.topology.links.get(number), node.topology.table
        if link is None or table is None:
            return False
        kind, theirs = await link.ask(Type.BLOCKS, table.root(), TIMEOUT_S)
        if kind != Type.BLOCKS_REPLY:
            return False
        try:
            differing = table.differing(theirs) if theirs else []
        except Corrupt as error:
            log.warning("digests of rows of %s: %s", link.member.name, error)
            return False
        for block in differing:
            if await self.tell(number, table.rows_of(block)) is None:
                return False
        node.custodies.told_all()
        return True

    def heard(self, number: int, payload: bytes, then: Callable[[], None] | None = None) -> None:
        """A request was refused under OTHER_ROW: join, teach if need be, then call `then`.

        `then` is called once both know the same durably, or the peer doesn't answer.
        """
        try:
            partition, theirs = wire.unpack_other_row(payload)
            self._node.custodies.learn_all({partition: theirs})
        except Corrupt as error:
            log.warning("node %d refuses with a row that can't be used: %s", number, error)
            return
        waiting = self._teaching.get((number, partition))
        if waiting is None:
            waiting = self._teaching[number, partition] = []
            self._node.in_background(self._level(number, partition, theirs))
        if then is not None:
            waiting.append(then)

    async def _level(self, number: int, partition: int, theirs: Row) -> None:
        node = self._node
        try:
            await node.custodies.durable()
            if (mine := node.topology.row(partition)) != theirs:
                await self.tell(number, {partition: mine})
        except DynamoError as error:
            log.warning("the row of partition %d: %s", partition, error)
        finally:
            for then in self._teaching.pop((number, partition), []):
                then()
