"""Cluster view: `GET /cluster`, one JSON picture for people and tools.

Owns how ring, links and gossip become that picture. It is this node's view: a
member that it can't reach is `suspect` while another one that it reaches does,
and `down` when nobody does. Members that leave are listed as long as the ring names
them. What follows from the ring alone is reckoned once.
"""

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from dynamo_core.membership import shown_state, unseen
from dynamo_core.placement_report import imbalances, node_shares, zones_distinct
from dynamo_core.ring import Member, Ring

if TYPE_CHECKING:
    from dynamo_node.node import Node

_AT_WORK: Final = ("up", "recovering")


def cluster_view(node: "Node") -> dict[str, Any]:
    """The contract's `/cluster`; without a ring it lists nobody."""
    ring = node.topology.ring
    if ring is None:
        return {**_named(node), "ring": None, "nodes": [], "transfers": []}
    whole, fixed = _from_ring(ring)
    nobody, moves = _unseen(node), _Moves(node, ring)
    return {
        **_named(node),
        "ring": {
            **whole,
            "settled": node.transfers.settled(),
        },
        "nodes": [
            {
                "name": member.name,
                "zone": member.zone,
                **_condition(node, member, nobody, moves),
                **rest,
            }
            for member, rest in zip(ring.everybody, fixed, strict=True)
        ],
        "transfers": node.transfers.everywhere(),
    }


def ring_imbalance(ring: Ring) -> float:
    """`imbalance`, reckoned once for each ring."""
    found: float = _from_ring(ring)[0]["imbalance"]
    return found


def member_states(node: "Node") -> Counter[str]:
    """How many members are in each state, as `cluster_view` shows them."""
    ring = node.topology.ring
    if ring is None:
        return Counter()
    nobody, moves = _unseen(node), _Moves(node, ring)
    return Counter(_condition(node, m, nobody, moves)["state"] for m in ring.everybody)


def _named(node: "Node") -> dict[str, Any]:
    return {"name": node.config.cluster_name, "reconciliation": node.config.reconciliation}


@lru_cache(maxsize=2)
def _from_ring(ring: Ring) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the ring says of itself, and of each of its members, those too that leave."""
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
        for member in ring.everybody
    ]
    return whole, members


class _Moves:
    """Who comes and who goes, by the ring in force and the tokens known here."""

    def __init__(self, node: "Node", ring: Ring) -> None:
        self._ring = ring
        self._leaving = {member.number for member in ring.leaving}
        self._coming = Counter(
            move.target for moves in node.transfers.moves().values() for move in moves
        )

    def state(self, number: int, state: str) -> str:
        """The state that is shown of a node which otherwise would be in `state`."""
        if state not in _AT_WORK:
            return state
        if number in self._leaving:
            return "leaving"
        # Of each slot that it shall hold it either is the holder, or the one it moves to.
        coming = self._coming[number]
        return "joining" if coming and coming == self._ring.slots_of(number) else state


def _unseen(node: "Node") -> set[int]:
    """The members that neither this node nor any that it reaches has a connection to."""
    links = node.topology.links
    down = [n for n, link in links.items() if not link.up]
    witnesses = (node.gossip.facts(n) for n, link in links.items() if link.healthy)
    return unseen(down, [facts for facts in witnesses if facts is not None])


def imbalance(ring: Ring) -> float:
    """The largest deviation of a member's storage from its capacity, relative to that."""
    return max(imbalances(node_shares(ring.members, ring.owners, ring.slots, Counter(ring.owners))))


def _condition(node: "Node", member: Member, nobody: set[int], moves: _Moves) -> dict[str, Any]:
    """State and the figures that the member itself told last."""
    number = member.number
    told = node.gossip.facts(number)
    if number == node.topology.number:
        facts = node.facts()
        return {
            "state": moves.state(number, node.state),
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
        "state": moves.state(number, shown_state(link.state, said, number not in nobody)),
        "keys": None if told is None else told.keys,
        "hints_pending": 0 if told is None else told.hints_pending,
        "incarnation": incarnation.hex(),
        "read_only": told is not None and told.read_only,
        "partitions_recovering": 0 if told is None else told.recovering,
    }


def _url(member: Member, port: int) -> str:
    host = f"[{member.host}]" if ":" in member.host else member.host
    return f"http://{host}:{port}"
