"""Cluster view: `GET /cluster`, one JSON picture for people and tools.

Owns how ring, links and gossip become that picture. It is this node's view: a
member that it can't reach is `suspect` while another one that it reaches does,
and `down` when nobody does. What follows from the ring alone is reckoned once.
"""

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dynamo_core.membership import shown_state, unseen
from dynamo_core.placement_report import imbalances, node_shares, zones_distinct
from dynamo_core.ring import Member, Ring

if TYPE_CHECKING:
    from dynamo_node.node import Node


def cluster_view(node: "Node") -> dict[str, Any]:
    """The contract's `/cluster`; without a ring it lists nobody."""
    ring = node.topology.ring
    if ring is None:
        return {**_named(node), "ring": None, "nodes": [], "transfers": []}
    whole, fixed = _from_ring(ring)
    nobody = _unseen(node)
    told = [node.gossip.facts(member.number) for member in ring.members]
    return {
        **_named(node),
        "ring": {
            **whole,
            "settled": all(t is None or t.ring == node.topology.name for t in told),
        },
        "nodes": [
            {"name": member.name, "zone": member.zone, **_condition(node, member, nobody), **rest}
            for member, rest in zip(ring.members, fixed, strict=True)
        ],
        "transfers": [],
    }


def _named(node: "Node") -> dict[str, Any]:
    return {"name": node.config.cluster_name, "reconciliation": node.config.reconciliation}


@lru_cache(maxsize=2)
def _from_ring(ring: Ring) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the ring says of itself, and of each of its members."""
    whole = {
        "epoch": ring.epoch,
        "id": ring.id,
        "partitions": ring.partitions,
        "n": ring.replication,
        "imbalance": round(imbalance(ring), 4),
        "zones_distinct": zones_distinct(ring.slots, ring.zones),
    }
    members = [
        {
            "capacity": member.capacity,
            "tokens": ring.tokens(member.number),
            "ownership_percent": round(100 * ring.ownership(member.number), 2),
            "http": _url(member, member.http_port),
            "admin": _url(member, member.admin_port),
            "native": f"{member.host}:{member.native_port}",
        }
        for member in ring.members
    ]
    return whole, members


def _unseen(node: "Node") -> set[int]:
    """The members that neither this node nor any that it reaches has a connection to."""
    links = node.topology.links
    down = [n for n, link in links.items() if not link.up]
    witnesses = (node.gossip.facts(n) for n, link in links.items() if link.healthy)
    return unseen(down, [facts for facts in witnesses if facts is not None])


def imbalance(ring: Ring) -> float:
    """The largest deviation of a member's storage from its capacity, relative to that."""
    return max(imbalances(node_shares(ring.members, ring.owners, ring.slots, Counter(ring.owners))))


def _condition(node: "Node", member: Member, nobody: set[int]) -> dict[str, Any]:
    """State and the figures that the member itself told last."""
    number = member.number
    told = node.gossip.facts(number)
    if number == node.topology.number:
        facts = node.facts()
        return {
            "state": node.state,
            "keys": facts["keys"],
            "hints_pending": sum(facts["hints_pending"].values()),
            "incarnation": node.incarnation.hex(),
            "read_only": node.disk_health.read_only,
            "partitions_recovering": 0 if told is None else told.recovering,
        }
    link = node.topology.links[number]
    said = None if told is None else told.state
    incarnation = link.incarnation or (b"" if told is None else told.incarnation)
    return {
        "state": shown_state(link.state, said, number not in nobody),
        "keys": None if told is None else told.keys,
        "hints_pending": 0 if told is None else told.hints_pending,
        "incarnation": incarnation.hex(),
        "read_only": told is not None and told.read_only,
        "partitions_recovering": 0 if told is None else told.recovering,
    }


def _url(member: Member, port: int) -> str:
    host = f"[{member.host}]" if ":" in member.host else member.host
    return f"http://{host}:{port}"
