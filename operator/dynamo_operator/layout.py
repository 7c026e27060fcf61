"""Which nodes a spec means: their names, pools, zones and capacities.

Owns the distribution of a pool's replicas over zones and the naming of nodes,
which are the pod names of the StatefulSets. Forbidden: ring numbers, addresses
and anything observed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
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
                    name = f"{_stem(cluster, pool, zone)}-{ordinal}"
                    found.append(Place(name, pool.name, zone, ordinal, pool.capacity))
    return tuple(found)


def replicas_by_zone(pool: Pool, zones: tuple[str, ...]) -> tuple[int, ...]:
    """How many of a pool's replicas each zone gets: floor or ceil, remainder from a start.

    The remainder starts at the first zone for the default pool, and for others
    at one that their name picks, so that small pools don't all fill one zone.
    """
    base, more = divmod(pool.replicas, len(zones))
    start = _first_zone(pool, zones)
    lucky = {(start + i) % len(zones) for i in range(more)}
    return tuple(base + (index in lucky) for index in range(len(zones)))


def pool_named(cluster: DynamoCluster, node: str) -> Pool | None:
    """The pool that a node belongs to by its name; None if that pool is gone from the spec."""
    for pool, zone in _sets(cluster):
        if _is_of(cluster, pool, zone, node):
            return pool
    return None


def leaving_order(cluster: DynamoCluster, nodes: Iterable[str]) -> list[str]:
    """Nodes in the order in which they leave, so that fewer replicas always mean `places`.

    Pools that are gone come first, then the highest ordinal, and among equal ordinals the
    zone that got its node last.
    """
    return sorted(nodes, key=lambda node: _seniority(cluster, node), reverse=True)


def _seniority(cluster: DynamoCluster, node: str) -> tuple[int, int, int, str]:
    ordinal = int(node.rsplit("-", 1)[1])
    zones = cluster.spec.zones or ("",)
    for pool, zone in _sets(cluster):
        if _is_of(cluster, pool, zone, node):
            turn = (zones.index(zone) - _first_zone(pool, zones)) % len(zones)
            return cluster.spec.pools.index(pool), ordinal, turn, ""
    return len(cluster.spec.pools), ordinal, 0, node


def _sets(cluster: DynamoCluster) -> list[tuple[Pool, str]]:
    """Pools and zones: each pair is a set of nodes numbered from 0."""
    zones = cluster.spec.zones or ("",)
    return [(pool, zone) for pool in cluster.spec.pools for zone in zones]


def _is_of(cluster: DynamoCluster, pool: Pool, zone: str, node: str) -> bool:
    stem, _, ordinal = node.rpartition("-")
    return stem == _stem(cluster, pool, zone) and ordinal.isdigit()


def _stem(cluster: DynamoCluster, pool: Pool, zone: str) -> str:
    return "-".join(part for part in (cluster.name, pool.name, zone) if part)


def _first_zone(pool: Pool, zones: tuple[str, ...]) -> int:
    return 0 if pool.name == DEFAULT_POOL else zlib.crc32(pool.name.encode()) % len(zones)
