"""Walks round the ring: the first nodes that a walk over token owners meets (P§4.3, §4.6).

Owns the one rule for who holds a partition, shared by the ring (which checks it) and by
placement (which plans with it). Forbidden here: state, and any other rule about tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain


def preferred(
    walk: Iterable[int], zones: Mapping[int, str], count: int, zones_left: int
) -> list[int]:
    """The first `count` distinct nodes of `walk`, in distinct zones as far as zones go.

    A node whose zone is taken is passed over; those passed over fill up, in walking order,
    when no further zone is left. A node without a zone ("") shares its zone with nobody.
    There are `zones_left` zones in the whole walk, so that it can stop early.
    """
    seen: set[int] = set()
    taken: set[str] = set()
    picked: list[int] = []
    passed_over: list[int] = []
    for number in walk:
        if number in seen:
            continue
        seen.add(number)
        zone = zones[number]
        if zone and zone in taken:
            passed_over.append(number)
        else:
            picked.append(number)
            taken.add(zone)
            zones_left -= 1
        if len(picked) == count:
            return picked
        if not zones_left and len(picked) + len(passed_over) >= count:
            break
    return (picked + passed_over)[:count]


def preferred_slots(
    owners: Sequence[int], zones: Mapping[int, str], replication: int
) -> list[tuple[int, ...]]:
    """For each partition the first min(N, nodes) nodes of its walk (see `preferred`).

    `zones` names every member. One without a token comes last in every walk, by number.
    """
    count = min(replication, len(zones))
    # From the last partition to the first, the walk changes only in that the partition's
    # owner moves to its front: no walk has to skip over the same node twice.
    zones_all = len(set(zones.values()) - {""}) + sum(not zone for zone in zones.values())
    walk = list(dict.fromkeys(chain(owners, sorted(zones))))
    slots: list[tuple[int, ...]] = []
    for owner in reversed(owners):
        if walk[0] != owner:
            walk.remove(owner)
            walk.insert(0, owner)
        slots.append(tuple(preferred(walk, zones, count, zones_all)))
    slots.reverse()
    return slots
