"""Availability: for how many partitions too few nodes can be had, as seen from here.

Owns what "too few" means: a read needs R owners that can know what isn't there, a write
W nodes that take it, whether they are owners or stand in for one. It is this node's view:
of itself it knows each partition, of a peer that recovers only how many, so that such a
peer counts for none of its reads.

Forbidden here: asking anybody, and holding up the loop: partitions are gone through in bites.
"""

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dynamo_node.node import Node

BITE: Final = 256
"""Partitions looked at in one turn of the loop: some hundred microseconds."""


class Availability(NamedTuple):
    """Numbers of partitions."""

    below_get: int = 0
    """Reads with the cluster's R answer 503."""
    below_put: int = 0
    """Writes with the cluster's W answer 503."""
    degraded: int = 0
    """Fewer than N owners can be had for reads."""


async def availability(node: "Node") -> Availability:
    """Of the ring that is held now; none is missing without a ring."""
    topology, ring = node.topology, node.topology.ring
    if ring is None:
        return Availability()
    me, settings = topology.number, node.settings.now
    knows, takes = _peers(node)
    if not node.disk_health.read_only:
        takes.add(me)
    below_get = below_put = degraded = 0
    for partition in range(ring.partitions):
        if partition % BITE == BITE - 1:
            await asyncio.sleep(0)
            if topology.ring is not ring:
                return await availability(node)
        owners, others = topology.nodes_of(partition)
        able = sum(map(knows.__contains__, owners))
        if me in owners and node.reaper.copies.answers(partition):
            able += 1
        below_get += able < settings.r
        degraded += able < ring.replication
        taking = sum(map(takes.__contains__, owners)) + sum(map(takes.__contains__, others))
        below_put += taking < settings.w
    return Availability(below_get, below_put, degraded)


def _peers(node: "Node") -> tuple[set[int], set[int]]:
    """Those that know all that they should hold, and those that take writes."""
    knows, takes = set(), set()
    for number, link in node.topology.links.items():
        if not link.healthy:
            continue
        told = node.gossip.facts(number)
        if told is None or not told.recovering:
            knows.add(number)
        if told is None or not told.read_only:
            takes.add(number)
    return knows, takes
