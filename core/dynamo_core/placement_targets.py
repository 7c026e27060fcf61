"""How many tokens each node should own: shares by capacity, bounded, rounded (P§4.2, §6.2).

Owns the arithmetic of shares, in whole numbers and fractions throughout so that every
machine rounds alike. Forbidden here: where on the ring a token lies.

Why shares are bounded: a partition's N replicas lie on N nodes and, where there are so many,
in N zones. Whoever owned more than one token in N would own two among some N neighbours, the
walk would pass over one of them, and strangers would store what the token was meant to bring.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, lcm
from typing import TypeVar

_Key = TypeVar("_Key", int, tuple[str, int])
Zone = tuple[str, int]  # (name, 0), or ("", number): a node without a zone is one of its own


def whole_weights(capacities: Sequence[str]) -> list[int]:
    """Decimal capacities as whole numbers in the same ratio."""
    fractions = [Fraction(capacity) for capacity in capacities]
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]


def zone_keys(zones: Mapping[int, str]) -> dict[int, Zone]:
    """The zone of each node number, as something that nodes without one don't share."""
    return {number: (zone, 0) if zone else ("", number) for number, zone in zones.items()}


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many of Q tokens a node, and the nodes of a zone together, may or must own."""

    node_max: Fraction
    zone_max: Fraction
    zone_min: Fraction  # of a zone with enough nodes; see `least`

    def least(self, nodes: int) -> Fraction:
        """What a zone of so many nodes must own."""
        return min(self.zone_min, nodes * self.node_max)


def bounds(partitions: int, replication: int, nodes: int, zones: int) -> Bounds:
    """Bounds under which N neighbours can be distinct all round the ring.

    With N zones or more none has more than floor(Q / N) tokens; with fewer, each has at
    least ceil(Q / N), so that none is missing among N neighbours. Exactly N zones, or nodes,
    have Q / N each: where that isn't whole, a few walks have to pass over a neighbour
    somewhere on the ring. The same goes for a Q that is too small for more of them.
    """

    def most(things: int) -> Fraction:
        if things == replication:
            return Fraction(partitions, replication)
        lower = partitions // replication
        return Fraction(lower if things * lower >= partitions else lower + 1)

    if zones >= replication:
        return Bounds(most(nodes), most(zones), Fraction(0))
    upper = -(-partitions // replication)
    least = upper if zones * upper <= partitions else partitions // replication
    return Bounds(most(nodes), Fraction(partitions), Fraction(least))


def token_shares(
    weights: Mapping[int, int], zones: Mapping[int, str], partitions: int, replication: int
) -> dict[int, Fraction]:
    """The exact share of `partitions` tokens for each node number: by weight, within bounds.

    What a bound keeps from one is shared out by weight among those that may have more. Nodes
    of one zone share what the zone has by their weight. Needs at least N nodes.
    """
    key_of = zone_keys(zones)
    members: dict[Zone, dict[int, int]] = {}
    for number in sorted(weights):
        members.setdefault(key_of[number], {})[number] = weights[number]
    bound = bounds(partitions, replication, len(weights), len(members))
    shares: dict[int, Fraction] = {}
    if len(members) >= replication:
        total = {zone: sum(nodes.values()) for zone, nodes in members.items()}
        for zone, share in _filled(total, Fraction(partitions), bound.zone_max).items():
            shares |= _filled(members[zone], share, bound.zone_max)
        return shares
    # The zones that would have too little get their least, the others share the rest, until
    # none has too little. What is left to the others only shrinks: no zone is lifted wrongly.
    rest, left = dict(members), Fraction(partitions)
    while True:
        flat = {number: weight for nodes in rest.values() for number, weight in nodes.items()}
        filled = _filled(flat, left, bound.node_max)
        short = [
            zone
            for zone, nodes in rest.items()
            if sum(filled[number] for number in nodes) < bound.least(len(nodes))
        ]
        if not short:
            return shares | filled
        for zone in short:
            nodes = rest.pop(zone)
            least = bound.least(len(nodes))
            shares |= _filled(nodes, least, bound.node_max)
            left -= least


def _filled(weights: Mapping[_Key, int], amount: Fraction, most: Fraction) -> dict[_Key, Fraction]:
    """`amount` shared out by weight, none above `most`: water into vessels of that height."""
    rest, shares = dict(weights), {}
    while rest:
        total = sum(rest.values())
        full = [key for key, weight in rest.items() if amount * weight > most * total]
        if not full:
            break
        for key in full:
            shares[key] = most
            amount -= most
            del rest[key]
    total = sum(rest.values())
    return shares | {key: amount * weight / total for key, weight in rest.items()}


def token_targets(
    weights: Mapping[int, int],
    zones: Mapping[int, str],
    partitions: int,
    replication: int,
    owned: Mapping[int, int],
) -> dict[int, int]:
    """Tokens per node number: the shares of `token_shares`, by largest remainder.

    Zones are rounded first, then the nodes of each: both are less than one token off their
    share, except where nodes that would get none are given one (as long as there are as many
    tokens as nodes). Of equal remainders those win that already own the token in question:
    rounding moves nothing.
    """
    shares = token_shares(weights, zones, partitions, replication)
    key_of = zone_keys(zones)
    nodes_of: dict[Zone, list[int]] = {}
    for number in shares:
        nodes_of.setdefault(key_of[number], []).append(number)
    exact = {zone: sum((shares[n] for n in nodes), Fraction(0)) for zone, nodes in nodes_of.items()}
    held = {zone: sum(owned.get(n, 0) for n in nodes) for zone, nodes in nodes_of.items()}
    tokens = _rounded(exact, partitions, held)
    targets: dict[int, int] = {}
    for zone, nodes in nodes_of.items():
        targets |= _rounded({n: shares[n] for n in nodes}, tokens[zone], owned)
    if partitions >= len(shares):
        limits = bounds(partitions, replication, len(shares), len(exact))
        for number in sorted(n for n, count in targets.items() if not count):
            zone = key_of[number]

            def rank(giver: int, zone: Zone = zone) -> tuple[bool, Fraction, int, int]:
                theirs = key_of[giver]
                breaks = theirs != zone and (
                    tokens[zone] >= limits.zone_max
                    or tokens[theirs] <= limits.least(len(nodes_of[theirs]))
                )
                return breaks, shares[giver] - targets[giver], -targets[giver], giver

            giver = min((n for n, count in targets.items() if count > 1), key=rank)
            targets[giver] -= 1
            targets[number] = 1
            tokens[key_of[giver]] -= 1
            tokens[zone] += 1
    return targets


def _rounded(
    shares: Mapping[_Key, Fraction], total: int, held: Mapping[_Key, int]
) -> dict[_Key, int]:
    """Whole numbers of that total, each less than one off its share, by largest remainder."""
    whole = {key: floor(share) for key, share in shares.items()}
    order = sorted(shares, key=lambda k: (whole[k] - shares[k], whole[k] - held.get(k, 0), k))
    for key in order[: total - sum(whole.values())]:
        whole[key] += 1
    return whole
