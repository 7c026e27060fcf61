"""Which nodes a spec means: their names, pools, zones and capacities.

Owns the distribution of a pool's replicas over zones and the naming of nodes,
which are the pod names of the StatefulSets. Forbidden: ring numbers, addresses
and anything observed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from dynamo_operator.spec import DEFAULT_POOL, DynamoCluster, Pool


@dataclass(frozen=True, slots=True)
class Place:
    """One wanted node. zone is "" in a cluster without zones; capacity a decimal string."""

    name: str
    pool: str
    zone: str
    ordinal: int
    capacity: str


def places(cluster: DynamoCluster) -> tuple[Place, ...]:
    """All wanted nodes: pools in the spec's order, then by ordinal, then by zone.

    The first ones are thus spread over zones too, which keeps numbers readable.
    """
    found = []
    for pool in cluster.spec.pools:
        zones = cluster.spec.zones or ("",)
        counts = replicas_by_zone(pool, zones)
        for ordinal in range(max(counts)):
            for zone, count in zip(zones, counts, strict=True):
                if ordinal < count:
                    stem = "-".join(part for part in (cluster.name, pool.name, zone) if part)
                    found.append(
                        Place(f"{stem}-{ordinal}", pool.name, zone, ordinal, pool.capacity)
                    )
    return tuple(found)


def replicas_by_zone(pool: Pool, zones: tuple[str, ...]) -> tuple[int, ...]:
    """How many of a pool's replicas each zone gets: floor or ceil, remainder from a start.

    The remainder starts at the first zone for the default pool, and for others
    at one that their name picks, so that small pools don't all fill one zone.
    """
    base, more = divmod(pool.replicas, len(zones))
    start = 0 if pool.name == DEFAULT_POOL else zlib.crc32(pool.name.encode()) % len(zones)
    lucky = {(start + i) % len(zones) for i in range(more)}
    return tuple(base + (index in lucky) for index in range(len(zones)))
