"""Figures: how a node fares, told to whoever shows it to people (the console).

Owns what is told (FIGURES): load, answer times, space, hints by target, background work.
All of it is at hand; nothing is counted for the sake of a question.

Forbidden here: any use of it as proof.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from dynamo_core.wire import Type
from dynamo_node import __version__
from dynamo_node.telling import Telling, Told

if TYPE_CHECKING:
    from dynamo_node.node import Node

TARGETS_MAX: Final = 64
"""Nodes that hints are counted for by name, those with the most."""
STORED_FRESH_S: Final = 5.0


class Figures:
    """One per node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._stored: tuple[float, int] | None = None
        self._others = Telling(node, Type.FIGURES, Type.FIGURES_REPLY, self.own)
        self.refresh = self._others.refresh

    def of(self, number: int) -> Told | None:
        """What that peer said last."""
        return self._others.last.get(number)

    def age_s(self, told: Told) -> float:
        """How long ago it said that."""
        return self._loop.time() - told.at

    def own(self) -> dict[str, Any]:
        """This node's figures: seconds, bytes, and counts."""
        node = self._node
        admission = node.slices.admission
        hints = sorted(node.replica.hints.pending().items(), key=lambda item: -item[1])
        name = node.topology.host_name
        antientropy, reaper = node.antientropy, node.reaper
        return {
            "version": __version__,
            "uptime_seconds": round(self._loop.time() - self._began, 1),
            "keys": node.replica.key_count,
            "operations_per_second": admission.coordinated.last_second,
            "p99_seconds": round(admission.coordinated.p99_s(), 6),
            "in_flight": node.coordinator.in_flight,
            "background_share": round(node.slices.share, 3),
            "hints": {name(n): count for n, count in hints[:TARGETS_MAX]},
            "hint_bytes": node.replica.hints.bytes,
            "stored_bytes": self._stored_bytes(),
            "disk": node.disk_health.facts(),
            "recovery": node.recovery.facts(),
            "taken_over": {
                "bytes": node.transfers.totals.bytes,
                "partitions": node.transfers.totals.partitions,
            },
            "antientropy": {
                "rounds": antientropy.rounds_total,
                "repaired_keys": antientropy.repaired_keys_total,
                "exchanging_with": name(antientropy.exchanging_with)
                if antientropy.exchanging_with
                else "",
            },
            "reaping": {
                "waiting": reaper.tombstones.total,
                "reaped": reaper.lists.reaped,
                "blocked_partitions": len(reaper.blockers),
            },
        }

    def _stored_bytes(self) -> int:
        """The store is asked now and then: it adds up the sizes of its files."""
        now = self._loop.time()
        if self._stored is None or now - self._stored[0] > STORED_FRESH_S:
            self._stored = now, self._node.disk.store.stored_bytes()
        return self._stored[1]
