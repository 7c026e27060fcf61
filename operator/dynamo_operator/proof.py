"""What is proven of slots under way, from what nodes say of themselves.

Owns the two questions behind every later step: is a leaving node drained, and
has everything moved. A node that can't be asked, or that speaks under another
ring, is unknown, and unknown is never proof. Forbidden: deciding what follows.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_core.ring import Member, Ring
from dynamo_operator.observed import Handover, ObservedNode
from dynamo_operator.steps import AwaitDrained, AwaitMoves

Nodes = Mapping[str, ObservedNode]


def not_drained(ring: Ring, leaver: Member, nodes: Nodes) -> AwaitDrained | None:
    """What a leaving member still has to do; None is the proof that it is drained.

    That takes the word of all others too: a leaver doesn't know of a seal that was given
    to it, and whoever takes it for a holder still waits for it.
    """
    others: list[str] = []
    unknown: list[str] = []
    slots = 0
    for member in (*ring.members, *ring.leaving):
        facts = said_under(ring, member, nodes)
        if facts is None:
            unknown.append(member.name)
        elif facts.sealed_to.get(leaver.number) or (
            member.number != leaver.number and facts.held_by.get(leaver.number)
        ):
            others.append(member.name)
            slots = max(slots, facts.held_by.get(leaver.number, 0))
    own = said_under(ring, leaver, nodes)
    if own is not None and not (own.records or own.hints or others or unknown):
        return None
    return AwaitDrained(
        leaver.name,
        own.records if own else None,
        own.hints if own else None,
        tuple(others),
        slots,
        tuple(unknown),
    )


def moving(ring: Ring, nodes: Nodes) -> AwaitMoves | None:
    """What is seen to be under way between members; None if nobody says that anything is."""
    said = _said(ring, nodes)
    slots = max((facts.open_slots for facts in said.values()), default=0)
    sealed = sum(sum(facts.sealed_to.values()) for facts in said.values())
    receivers = tuple(name for name, facts in said.items() if facts.pulling)
    return AwaitMoves(slots, sealed, receivers) if slots or sealed or receivers else None


def is_settled(ring: Ring, nodes: Nodes) -> bool:
    """Whether it is proven that nothing is under way: every member has said so."""
    everybody = all(said_under(ring, member, nodes) for member in ring.members)
    return everybody and not ring.leaving and moving(ring, nodes) is None


def said_under(ring: Ring, member: Member, nodes: Nodes) -> Handover | None:
    """What this member says under exactly this ring; None is unknown."""
    node = nodes.get(member.name)
    status = node.status if node else None
    if status is None or (status.ring_epoch, status.ring_id) != (ring.epoch, ring.id):
        return None
    if status.number not in (None, member.number):
        return None
    return status.handover


def _said(ring: Ring, nodes: Nodes) -> dict[str, Handover]:
    everybody = (*ring.members, *ring.leaving)
    said = ((member.name, said_under(ring, member, nodes)) for member in everybody)
    return {name: facts for name, facts in said if facts is not None}
