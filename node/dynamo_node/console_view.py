"""Console view: what the console's page is told, as JSON.

Owns three pictures: the state of all nodes as this one sees them (asked every second or
so by each open page), the ring (which changes with its epoch alone), and one partition.
Each is bounded, whatever the ring.
"""

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from dynamo_core.placement_report import node_shares
from dynamo_core.ring import Ring
from dynamo_node.cluster_view import cluster_view
from dynamo_node.progress import WAITING

if TYPE_CHECKING:
    from dynamo_node.node import Node

MOVES_MAX: Final = 2000
"""Slots on their way that are listed; the rest is counted."""
TRANSFERS_MAX: Final = 100
PREFERENCE_MAX: Final = 24


def state(node: "Node") -> dict[str, Any]:
    """`/cluster` with what else is known here of each node, and what moves, counted."""
    view = cluster_view(node)
    settings, ring, topology = node.settings.now, node.topology.ring, node.topology
    transfers = [t for t in view["transfers"] if isinstance(t, dict)]
    moves = [
        [partition, move.source.holder, move.target]
        for partition, listed in sorted(node.transfers.moves().items())
        for move in listed
    ]
    transfers.sort(key=lambda t: t.get("state") == WAITING)
    members = () if ring is None else ring.everybody
    shares = {} if ring is None else _shares(ring)
    return {
        "node": node.config.name,
        "number": topology.number,
        "name": view["name"],
        "reconciliation": view["reconciliation"],
        "quorum": {"r": settings.r, "w": settings.w},
        "ready": node.ready,
        "ring": view["ring"],
        "nodes": [
            {"number": member.number, **shown, **_more(node, member.number, shares)}
            for member, shown in zip(members, view["nodes"], strict=True)
        ],
        "moves": moves[:MOVES_MAX],
        "moves_total": len(moves),
        "transfers": transfers[:TRANSFERS_MAX],
        "transfers_total": len(transfers),
    }


def _more(node: "Node", number: int, known: dict[int, tuple[float, float]]) -> dict[str, Any]:
    """What a node told of itself last, how old that is, and how far its storage is off."""
    stored, target = known.get(number, (0.0, 0.0))
    shares = {"stored_percent": stored, "target_percent": target}
    if number == node.topology.number:
        return {**shares, "figures": node.figures.own(), "figures_age_seconds": 0.0,
                "answer_milliseconds": None}  # fmt: skip
    told = node.figures.of(number)
    if told is None:
        return {**shares, "figures": None, "figures_age_seconds": None,
                "answer_milliseconds": None}  # fmt: skip
    return {
        **shares,
        "figures": told.facts,
        "figures_age_seconds": round(node.figures.age_s(told), 1),
        "answer_milliseconds": round(1000 * told.took_s, 2),
    }


@lru_cache(maxsize=2)
def _shares(ring: Ring) -> dict[int, tuple[float, float]]:
    """Percent of all replicas that a member stores, and percent of all capacity that it has."""
    shares = node_shares(ring.members, ring.owners, ring.slots, Counter(ring.owners))
    return {
        s.number: (round(100 * s.storage_share, 2), round(100 * s.capacity_share, 2))
        for s in shares
    }


def ring_view(ring: Ring) -> dict[str, Any]:
    """Who owns which token and shall hold which slot."""
    leaving = {member.number for member in ring.leaving}
    return {
        "epoch": ring.epoch,
        "id": ring.id,
        "partitions": ring.partitions,
        "n": ring.replication,
        "members": [
            {"number": m.number, "name": m.name, "zone": m.zone, "leaving": m.number in leaving}
            for m in ring.everybody
        ],
        "owners": ring.owners,
        "slots": ring.slots,
    }


def partition_view(node: "Node", ring: Ring, partition: int) -> dict[str, Any]:
    """The preference list of one partition, who holds its slots now, and who is to."""
    topology = node.topology
    name = topology.host_name
    listed = ring.preference_list(partition)
    width = (1 << 128) // ring.partitions
    return {
        "partition": partition,
        "first": f"{partition * width:032x}",
        "last": f"{(partition + 1) * width - 1:032x}",
        "owner": name(ring.owners[partition]),
        "wanted": [name(n) for n in ring.slots[partition]],
        "holders": [name(n) for n in topology.holders(partition)],
        "preference": [name(n) for n in listed[:PREFERENCE_MAX]],
        "preference_left_off": max(0, len(listed) - PREFERENCE_MAX),
    }
