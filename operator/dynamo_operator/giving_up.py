"""When a person's word is enough to let a node go with all that it holds.

Owns the conditions under which a node may be given up, which are the same when
the person asks and when the ring is decided. Forbidden: asking for it; time
alone never gives a node up.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_core.ring import Member, Ring
from dynamo_operator.observed import ObservedNode


def refusal(ring: Ring, member: Member, nodes: Mapping[str, ObservedNode]) -> str:
    """Why this member, or leaving member, can't be given up now; "" if it can.

    All others must be whole, since any of them may be the only other one that has a
    partition of it complete.
    """
    name = member.name
    node = nodes.get(name)
    if node is not None and (node.status is not None or (node.running and not node.failing)):
        return f"{name} runs: only a node that is down can be given up"
    if ring.replication == 1:
        return f"{name} can't be given up: with one replica nobody else holds what it holds"
    left = sum(other.number != member.number for other in ring.members)
    if left < ring.replication:
        return (
            f"{name} can't be given up: {ring.replication} replicas need {ring.replication} nodes, "
            f"and {left} would be left; scale up first"
        )
    others = [m for m in (*ring.members, *ring.leaving) if m.number != member.number]
    lacking = [other.name for other in others if not _whole(nodes.get(other.name))]
    if lacking:
        return (
            f"{name} can't be given up while {', '.join(lacking)} is down or recovering: "
            f"it may hold what nobody else has"
        )
    return ""


def _whole(node: ObservedNode | None) -> bool:
    return node is not None and node.whole


def was_given_up(ring: Ring, name: str) -> bool:
    """Whether that is the last that the ring's history says of this name."""
    last = next((entry.event for entry in reversed(ring.history) if entry.name == name), "")
    return last == "given-up"
