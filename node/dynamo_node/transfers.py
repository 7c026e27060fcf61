"""Transfers: what moves to this node and how far it is, and the proof that all has moved.

Owns the figures of each partition that is being taken over, this node's totals, what
all nodes tell each other of that (TRANSFERS), and the facts by which a publisher knows
that a ring is settled or that a leaving node is drained (docs/decisions/0012).

Forbidden here: moving data (`taking_over`, `handing_over`).
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import slots
from dynamo_core.ring import Ring
from dynamo_core.slots import Move, Row
from dynamo_core.wire import Type
from dynamo_node.progress import CLAIMING, WAITING, Progress, Totals
from dynamo_node.telling import Telling

if TYPE_CHECKING:
    from dynamo_node.node import Node

RUNNING: Final = "running"
STALLED: Final = "stalled"
LISTED_MAX: Final = 500
"""Transfers that one node tells of; those that run come first."""


class Transfers:
    """One per node; whoever moves data writes into `running` and `totals`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self.running: dict[int, Progress] = {}
        self.totals = Totals()
        self._ring: Ring | None = None
        self._ring_since = 0.0
        self._moves: dict[int, tuple[Move, ...]] = {}
        self._stale: set[int] = set()
        self._others = Telling(node, Type.TRANSFERS, Type.TRANSFERS_REPLY, self._own)
        node.custodies.on_row.append(self._row_changed)

    # What has to move

    def _row_changed(self, partition: int, row: Row) -> None:
        self._stale.add(partition)

    def moves(self) -> dict[int, tuple[Move, ...]]:
        """Slots that are held by another node than the ring in force wants, by partition."""
        node = self._node
        ring, table = node.topology.ring, node.topology.table
        if ring is None or table is None:
            return {}
        if ring is not self._ring:
            self._ring, self._ring_since = ring, self._loop.time()
            self._moves.clear()
            self._stale.update(range(ring.partitions))
        if self._stale:
            for partition in sorted(self._stale):
                if found := slots.moves(table.row(partition), ring.slots[partition]):
                    self._moves[partition] = found
                else:
                    self._moves.pop(partition, None)
            self._stale.clear()
        return self._moves

    # Proof

    def handover(self) -> dict[str, Any]:
        """What a publisher has to know of this node; true of the disk once that is fsynced."""
        node = self._node
        topology = node.topology
        hints = sum(node.replica.hints.pending().values())
        if topology.ring is None or topology.table is None:
            return {"open_slots": 0, "held_by": {}, "records": 0, "pulling": 0, "hints": hints,
                    "sealed_to": {}, "drained": hints == 0}  # fmt: skip
        moves, custodies = self.moves(), node.custodies.held()
        members = {m.number for m in topology.ring.members}
        held_by: dict[int, int] = {}
        for partition in moves:
            for token in topology.row(partition):
                if token.holder not in members:
                    held_by[token.holder] = held_by.get(token.holder, 0) + 1
        sealed_to: dict[int, int] = {}
        for custody in custodies:
            for seal in custody.seals.values():
                if seal.successor:
                    sealed_to[seal.successor] = sealed_to.get(seal.successor, 0) + 1
        return {
            "open_slots": sum(map(len, moves.values())) + self._unheard(),
            "held_by": {str(n): count for n, count in sorted(held_by.items())},
            "records": len(custodies),
            "pulling": sum(c.pulling is not None for c in custodies),
            "hints": hints,
            "sealed_to": {str(n): count for n, count in sorted(sealed_to.items())},
            "drained": not custodies and hints == 0 and not node.custodies.blank,
        }

    def _unheard(self) -> int:
        """Slots of which nobody has told this node yet who holds them: they may move."""
        custodies = self._node.custodies
        if not custodies.blank:
            return 0
        rows = map(custodies.table.row, range(custodies.table.partitions))
        return sum(token.epoch == 0 for row in rows for token in row)

    # Progress

    def facts(self) -> list[dict[str, Any]]:
        """What is on its way to this node; those that run first."""
        node, now = self._node, self._loop.time()
        if node.topology.ring is None or node.custodies.blank:
            return []
        me, name = node.topology.number, node.topology.host_name
        found, typical = [], self._typical()
        orphans = node.custodies.table.orphans
        for partition, progress in sorted(self.running.items()):
            if orphans(partition, me):
                continue  # it is claimed, see below
            rate = progress.rate(now)
            total = progress.bytes_total
            left = max(0, total - progress.bytes_done)
            found.append(
                {
                    "partition": partition,
                    "from": name(progress.source),
                    "to": name(me),
                    "bytes_done": progress.bytes_done,
                    "bytes_total": total or typical,
                    "bytes_per_second": round(rate),
                    "eta_seconds": round(left / rate, 1) if rate > 0 else None,
                    "state": progress.state,
                    "stalled": progress.stalled,
                }
            )
        found += (self._waiting(p, move, typical) for p, move in self._still_to_come())
        why = node.recovery.waits_for
        found += (self._still(p, "", CLAIMING, why(p), 0) for p in node.recovery.claims.open())
        return found[:LISTED_MAX]

    def ages_s(self) -> dict[str, list[float]]:
        """How long each transfer to this node runs, stands still, or waits for its turn.

        One that hasn't begun waits since the ring that wants it came, and stands still while
        its holder is down.
        """
        found: dict[str, list[float]] = {RUNNING: [], STALLED: [], WAITING: []}
        if self._node.topology.ring is None or self._node.custodies.blank:
            return found
        now, links = self._loop.time(), self._node.topology.links
        for progress in self.running.values():
            if progress.stalled:
                found[STALLED].append(now - progress.stalled_at)
            else:
                found[RUNNING].append(now - progress.began)
        for _, move in self._still_to_come():
            link = links.get(move.source.holder)
            state = STALLED if link is None or not link.up else WAITING
            found[state].append(now - self._ring_since)
        return found

    def _typical(self) -> int:
        """Bytes that a partition may have of which nothing has come yet; 0 if none came at all."""
        sizes = [p.bytes_total for p in self.running.values() if p.bytes_total]
        if sizes:
            return sum(sizes) // len(sizes)
        return self.totals.bytes // self.totals.partitions if self.totals.partitions else 0

    def _still_to_come(self) -> list[tuple[int, Move]]:
        """Moves to this node that haven't begun, but for slots that it is to claim."""
        me, orphans = self._node.topology.number, self._node.custodies.table.orphans
        return [
            (partition, move)
            for partition, moves in sorted(self.moves().items())
            if partition not in self.running and (move := _mine(moves, me)) is not None
            if move.slot not in orphans(partition, me)
        ]

    def _waiting(self, partition: int, move: Move, size: int) -> dict[str, Any]:
        source = self._node.topology.host_name(move.source.holder)
        link = self._node.topology.links.get(move.source.holder)
        why = ""
        if link is None or not link.up:
            why = f"{source} is down"
        elif self.moves()[partition][0] is not move:
            why = "another slot of the partition moves first"
        return self._still(partition, source, WAITING, why, size)

    def _still(
        self, partition: int, source: str, state: str, why: str, size: int
    ) -> dict[str, Any]:
        return {
            "partition": partition,
            "from": source,
            "to": self._node.config.name,
            "bytes_done": 0,
            "bytes_total": size,
            "bytes_per_second": 0,
            "eta_seconds": None,
            "state": state,
            "stalled": why,
        }

    def report(self) -> dict[str, Any]:
        """`GET /admin/transfers`."""
        totals, waiting = self.totals, self._still_to_come()
        left = [max(0, p.bytes_total - p.bytes_done) for p in self.running.values()]
        return {
            "transfers": self.facts(),
            "left": {
                "partitions": len(left) + len(waiting),
                "bytes": sum(left) + len(waiting) * self._typical(),
            },
            "since_start": {
                "bytes": totals.bytes,
                "keys": totals.keys,
                "partitions_taken_over": totals.partitions,
                "partitions_handed_over": totals.handed_over,
                "pauses": totals.pauses,
                "pause_seconds": round(totals.pause_s, 4),
                "pause_seconds_max": round(totals.pause_s_max, 4),
            },
        }

    # Of all nodes

    def _own(self) -> dict[str, Any]:
        return {"ring": self._node.topology.name.id.hex(), "transfers": self.facts(),
                "handover": self.handover()}  # fmt: skip

    async def refresh(self) -> None:
        """Hear the others, unless that was done a moment ago."""
        await self._others.refresh()

    def everywhere(self) -> list[dict[str, Any]]:
        """The transfers to all nodes, as they were told last."""
        found = self.facts()
        for _, told in sorted(self._others.told.items()):
            listed = told.get("transfers")
            found += listed if isinstance(listed, list) else []
        return found

    def settled(self) -> bool:
        """Whether all members hold this ring, and nothing has to move any more, as told last."""
        ring = self._node.topology.ring
        if ring is None:
            return False
        me, leaving = self._node.topology.number, {m.number for m in ring.leaving}
        if not _at_rest(self.handover(), me in leaving):
            return False
        for member in ring.everybody:
            if member.number == me:
                continue
            told = self._others.told.get(member.number)
            if told is None or told.get("ring") != ring.id:
                return False
            facts = told.get("handover")
            if not isinstance(facts, dict) or not _at_rest(facts, member.number in leaving):
                return False
        return True


def _at_rest(facts: dict[str, Any], leaving: bool) -> bool:
    """Whether nothing moves at a node that says so; one that leaves holds nothing either."""
    moves = facts.get("open_slots") or facts.get("pulling") or facts.get("sealed_to")
    return not moves and not (leaving and facts.get("records"))


def _mine(moves: tuple[Move, ...], number: int) -> Move | None:
    return next((move for move in moves if move.target == number), None)
