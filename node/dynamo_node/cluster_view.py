"""Cluster view: `GET /cluster`, one JSON picture for people and tools.

Owns how ring, links and what peers say of themselves become that picture. It
is this node's view: two nodes that can't reach each other differ, and should.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from dynamo_core.placement_report import imbalances, node_shares, zones_distinct
from dynamo_core.ring import Member, Ring

if TYPE_CHECKING:
    from dynamo_node.node import Node


def cluster_view(node: "Node") -> dict[str, Any]:
    """The contract's `/cluster`; without a ring it lists nobody."""
    ring = node.topology.ring
    if ring is None:
        return {"name": node.config.cluster_name, "ring": None, "nodes": [], "transfers": []}
    return {
        "name": node.config.cluster_name,
        "ring": {
            "epoch": ring.epoch,
            "id": ring.id,
            "settled": True,
            "partitions": ring.partitions,
            "n": ring.replication,
            "imbalance": round(imbalance(ring), 4),
            "zones_distinct": zones_distinct(ring.slots, ring.zones),
        },
        "nodes": [
            {
                "name": member.name,
                "zone": member.zone,
                **_condition(node, member),
                "capacity": member.capacity,
                "tokens": ring.tokens(member.number),
                "ownership_percent": round(100 * ring.ownership(member.number), 2),
                "http": _url(member, member.http_port),
                "admin": _url(member, member.admin_port),
                "native": f"{member.host}:{member.native_port}",
            }
            for member in ring.members
        ],
        "transfers": [],
    }


def imbalance(ring: Ring) -> float:
    """The largest deviation of a member's storage from its capacity, relative to that."""
    return max(imbalances(node_shares(ring.members, ring.owners, ring.slots, Counter(ring.owners))))


def _condition(node: "Node", member: Member) -> dict[str, Any]:
    """State and the figures that the member itself told last."""
    if member.number == node.topology.number:
        facts, state = node.facts(), node.state
        incarnation = node.incarnation.hex()
    else:
        facts = node.peers.get(member.number, {})
        link = node.topology.links[member.number]
        state = link.state
        incarnation = link.incarnation.hex() or facts.get("incarnation", "")
        if state == "up" and facts.get("state") in ("joining", "recovering", "leaving", "left"):
            state = facts["state"]
    pending = facts.get("hints_pending")
    return {
        "state": state,
        "keys": facts.get("keys"),
        "hints_pending": sum(pending.values()) if isinstance(pending, dict) else 0,
        "incarnation": incarnation,
    }


def _url(member: Member, port: int) -> str:
    host = f"[{member.host}]" if ":" in member.host else member.host
    return f"http://{host}:{port}"
