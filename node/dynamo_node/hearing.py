"""Hearing: what the holders of a partition tell each other of their copies (KEPT).

Owns the question, of one partition or of many, the answer, and what was heard since this
start of those that still hold a slot. Each partition is asked about under its row: whoever
knows another one tells that instead, and nothing of its copy. Said is what is fsynced,
because the asker may delete by it.

Forbidden here: what follows for the copy here (`copies`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final

from dynamo_core import copies, wire
from dynamo_core.copies import COMPLETE, MANY_MAX, Holding
from dynamo_core.errors import Corrupt
from dynamo_core.frames import Frame
from dynamo_core.rounds import Kept
from dynamo_core.slots import Row, holders
from dynamo_core.wire import Code, Type
from dynamo_node.inbound import Inbound

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
BITE_PARTITIONS: Final = 256
LEVEL_MAX: Final = 3
"""How often a peer that knows other rows is asked again in one go."""


class Hearing:
    """One per node. `holding` says how the copy here stands."""

    def __init__(self, node: "Node", holding: Callable[[int], Holding]) -> None:
        self._node = node
        self._topology = node.topology
        self._holding = holding
        self._heard: dict[int, dict[int, Holding]] = {}
        node.custodies.on_row.append(self._row_changed)
        node.handlers[Type.KEPT] = self._tell

    def of(self, partition: int) -> Mapping[int, Holding]:
        """How the copy of each other holder stands, as heard last."""
        return self._heard.get(partition, {})

    def _row_changed(self, partition: int, row: Row) -> None:
        """Who holds it no more isn't heard of any more: its copy is nobody's measure."""
        heard, now = self._heard.get(partition, {}), holders(row)
        for gone in [o for o in heard if o not in now]:
            del heard[gone]

    # Asking

    async def ask_many(
        self, number: int, partitions: list[int], then: Callable[[int], Awaitable[None]]
    ) -> bool:
        """Hear how a peer's copies of these stand, then do `then` for each that is held here too.

        Of those that aren't, its round is taken. Whether all were heard of.
        """
        whole = True
        for at in range(0, len(partitions), MANY_MAX):
            left = partitions[at : at + MANY_MAX]
            for _ in range(LEVEL_MAX):
                left = await self._ask_some(number, left, then)
                if not left:
                    break
            whole = whole and not left
        return whole

    async def _ask_some(
        self, number: int, partitions: list[int], then: Callable[[int], Awaitable[None]]
    ) -> list[int]:
        """Those that weren't heard of, because other rows of them are known there."""
        node, topology = self._node, self._topology
        await node.custodies.durable()
        link = topology.links.get(number)
        rows = {p: topology.digest(p) for p in partitions if number in topology.holders(p)}
        if link is None or not rows:
            return []
        kind, payload = await link.ask(Type.KEPT, copies.pack_many(rows), TIMEOUT_S)
        if kind != Type.KEPT_REPLY:
            node.coordinator.reply_was_no(number, kind, payload)
            return partitions
        told, others = copies.unpack_holdings(payload)
        for at, partition in enumerate(sorted(rows.keys() - others.keys()), 1):
            if topology.digest(partition) != rows[partition]:
                continue  # the row has changed meanwhile: what is needed is asked for anew
            holding = told.get(partition, COMPLETE)
            if partition in topology.owned:
                self._heard.setdefault(partition, {})[number] = holding
                await then(partition)
            else:
                node.replica.rounds.take(partition, holding.state.committed)
            if at % BITE_PARTITIONS == 0:
                await asyncio.sleep(0)
        if others:
            node.custodies.learn_all(others)
            await node.rows.tell(number, {p: topology.row(p) for p in others})
        return sorted(others)

    async def ask(self, partition: int, holder: int) -> tuple[Holding, Kept | None] | None:
        """How a holder's copy stands, and the list it keeps; None when it didn't say.

        Whoever says it knows the row that is known here, durably.
        """
        node = self._node
        link = self._topology.links.get(holder)
        if link is None:
            return None
        await node.custodies.durable()
        row = self._topology.digest(partition)
        kind, payload = await link.ask(Type.KEPT, copies.pack_one(partition, row), TIMEOUT_S)
        if kind != Type.KEPT_REPLY:
            node.coordinator.reply_was_no(holder, kind, payload)
            return None
        try:
            told = copies.unpack_kept_reply(payload)
        except Corrupt as error:
            log.warning("how node %d's copy of partition %d stands: %s", holder, partition, error)
            return None
        if self._topology.digest(partition) != row:
            return None
        self._heard.setdefault(partition, {})[holder] = told[0]
        return told

    # Answering

    def _tell(self, caller: Inbound, frame: Frame) -> None:
        """KEPT: of one partition its rounds and list; of many how their copies here stand."""
        node, table = self._node, self._topology.table
        one, rows = copies.unpack_asked(frame.payload)
        if one:
            ((partition, row),) = rows.items()
            if node.rows.differ(caller, frame, partition, row):
                return
        elif table is None:
            text = wire.pack_error(Code.NOT_READY, "this node has no ring yet")
            caller.reply(frame.request_id, Type.ERROR, text)
            return
        elif beyond := [p for p in rows if p >= table.partitions]:
            raise Corrupt(f"partition {beyond[0]} is not one of this ring")

        async def answer() -> bytes:
            await node.custodies.settled(rows)
            if one:
                kept = node.replica.rounds.kept(partition)
                return copies.pack_kept_reply(self._holding(partition), kept)
            return self._told_of(rows)

        node.answer_later(caller, frame, Type.KEPT_REPLY, answer)

    def _told_of(self, rows: Mapping[int, bytes]) -> bytes:
        topology = self._topology
        other = {p: topology.row(p) for p, row in rows.items() if topology.digest(p) != row}
        mine = {p: self._holding(p) for p in rows if p not in other}
        return copies.pack_holdings({p: h for p, h in mine.items() if h != COMPLETE}, other)
