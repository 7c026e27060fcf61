"""What makes a ring valid. Owns every check of a ring's contents, given its fields by type
of container; nothing of a ring is trusted before these have passed.

Each check raises CallerError naming the field, what it holds and what would be right.
Forbidden here: changing or completing what was given.
"""

import re
from typing import TYPE_CHECKING, Final

from dynamo_core.fields import U32_MAX, need_hex_128, need_int, need_match, need_word, refuse
from dynamo_core.walks import preferred_slots

if TYPE_CHECKING:
    from dynamo_core.ring import Member, Ring

PARTITIONS_MIN: Final = 16
PARTITIONS_MAX: Final = 8192
REPLICATION_MAX: Final = 16  # never more than the smallest Q
EPOCH_MAX: Final = 2**32 - 1
EVENTS: Final = ("created", "joined", "left", "replaced", "reweighed", "given-up")

_CAPACITY = re.compile(r"(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
_UTC = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,9})?(Z|\+00:00)",
    re.ASCII,
)


def check_head(ring: "Ring") -> None:
    need_hex_128("cluster_id", ring.cluster_id)
    need_word("cluster_name", ring.cluster_name)
    need_int("epoch", ring.epoch, 1, EPOCH_MAX)
    if ring.epoch > 1:
        need_hex_128("parent", ring.parent)
    elif ring.parent != "":
        raise refuse("parent", ring.parent, 'empty ("") in epoch 1')
    need_int("partitions", ring.partitions, PARTITIONS_MIN, PARTITIONS_MAX)
    if ring.partitions & (ring.partitions - 1):
        raise refuse("partitions", ring.partitions, "a power of two from 16 to 8192")
    need_int("replication", ring.replication, 1, REPLICATION_MAX)
    need_int("feature_level", ring.feature_level, 1, U32_MAX)
    need_int("next_number", ring.next_number, 2, U32_MAX)


def check_member(field: str, member: "Member") -> None:
    """CallerError unless every field of this one member has its type and range."""
    need_int(f"{field}.number", member.number, 1, U32_MAX)
    need_word(f"{field}.name", member.name)
    need_word(f"{field}.zone", member.zone, empty=True)
    right = 'a positive decimal as text, such as "1" or "2.5"'
    need_match(f"{field}.capacity", member.capacity, _CAPACITY, right)
    need_word(f"{field}.host", member.host)
    for name in ("http_port", "native_port", "admin_port"):
        need_int(f"{field}.{name}", getattr(member, name), 1, 65535)
    need_hex_128(f"{field}.disk_id", member.disk_id)


def check_members(ring: "Ring") -> None:
    """Members and leaving members: each list by number, both without a number or name twice."""
    if not ring.members:
        raise refuse("members", [], "a list of at least one member")
    names: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for of, nodes in (("members", ring.members), ("leaving", ring.leaving)):
        previous = 0
        for i, node in enumerate(nodes):
            field = f"{of}[{i}]"
            check_member(field, node)
            if node.number <= previous:
                right = f"above {previous}: sorted and unique"
                raise refuse(f"{field}.number", node.number, right)
            if node.number >= ring.next_number:
                right = f"below next_number ({ring.next_number})"
                raise refuse(f"{field}.number", node.number, right)
            if node.number in numbers:
                right = f"unlike the number of {numbers[node.number]}: a member isn't leaving"
                raise refuse(f"{field}.number", node.number, right)
            if node.name in names:
                raise refuse(f"{field}.name", node.name, f"unlike the name of {names[node.name]}")
            previous = node.number
            names[node.name] = numbers[node.number] = field


def check_tokens(ring: "Ring") -> None:
    zones = ring.zones
    for field, rows in (("owners", ring.owners), ("slots", ring.slots)):
        if len(rows) != ring.partitions:
            right = f"a list of {ring.partitions} entries, one a partition"
            raise refuse(field, f"{len(rows)} entries", right)
    for p, owner in enumerate(ring.owners):
        need_int(f"owners[{p}]", owner, 1, U32_MAX)
        if owner not in zones:
            raise refuse(f"owners[{p}]", owner, "the number of a member")
    for p, walked in enumerate(preferred_slots(ring.owners, zones, ring.replication)):
        row = ring.slots[p]
        if not all(type(number) is int for number in row) or sorted(row) != sorted(walked):
            right = f"{list(walked)} in any order, the first nodes of its preference list"
            raise refuse(f"slots[{p}]", list(row), right)


def check_history(ring: "Ring") -> None:
    previous = 1
    for i, entry in enumerate(ring.history):
        field = f"history[{i}]"
        previous = need_int(f"{field}.epoch", entry.epoch, previous, ring.epoch)
        need_match(f"{field}.at", entry.at, _UTC, "a UTC time such as 2026-01-31T12:00:00Z")
        if entry.event not in EVENTS:
            raise refuse(f"{field}.event", entry.event, f"one of {', '.join(EVENTS)}")
        need_word(f"{field}.name", entry.name)
        need_int(f"{field}.number", entry.number, 1, ring.next_number - 1)
