"""Whether those who stay have room for what a leaver hands over.

Owns the estimate, from what nodes say of their disks. It is for refusing what
can't end well, not a reservation: writes go on meanwhile, and a disk may be
shared. Forbidden: deciding who leaves.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamo_core.ring import Ring
from dynamo_operator.observed import ObservedNode

MARGIN = 1.25  # what was deleted stays on a disk until it is compacted


def lacking(ring: Ring, after: Ring, nodes: Mapping[str, ObservedNode]) -> str:
    """Who couldn't store what it would get in the ring `after`, as a clause; "" if all can.

    A member is due the bytes of a slot, by the mean of those who tell, for each slot more. A
    disk that nobody knows of is taken to have room.
    """
    disks = {
        name: node.status.disk for name, node in nodes.items() if node.status and node.status.disk
    }
    members = [member.name for member in ring.members if member.name in disks]
    slots = sum(_slots(ring, name) for name in members)
    stored = sum(disks[name].stored_bytes for name in members)
    slot_bytes = stored / slots if slots else 0.0
    found = []
    for member in after.members:
        disk = disks.get(member.name)
        more = _slots(after, member.name) - _slots(ring, member.name)
        if disk is None or more <= 0:
            continue
        needed = int(more * slot_bytes * MARGIN)
        if disk.full:
            found.append(f"the disk of {member.name} is full")
        elif needed > disk.room_bytes:
            found.append(
                f"{member.name} would need {_size(needed)} and has {_size(disk.room_bytes)}"
            )
    return ", ".join(found)


def _slots(ring: Ring, name: str) -> int:
    member = ring.member_named(name)
    return sum(member.number in row for row in ring.slots) if member else 0


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
