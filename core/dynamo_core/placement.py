"""The next ring from (ring, members): who shall own which token and hold which slot.

Owns `plan`, which decides, and the builders `first_ring` and `next_ring`, which make a Ring
of a plan: numbers, epoch, parent, history. All of it is deterministic and pure: any two
planners decide alike. Forbidden here: whether or when a ring is published, and who holds a
slot at this moment (the nodes know that).

The rules (P§4.2, §4.3, §6.2): tokens follow capacity; N consecutive tokens lie on distinct
nodes and zones wherever that is possible, all round the ring; as little moves as can be. A
partition's slots are distinct in any case, because walks pass over what is taken.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dynamo_core.errors import CallerError
from dynamo_core.fields import need_int, refuse
from dynamo_core.placement_layout import OPEN
from dynamo_core.placement_moves import lay_out, rearrange
from dynamo_core.placement_report import (
    OFF_THE_MEAN,
    NodeShare,
    Report,
    crowded,
    imbalances,
    node_shares,
    problems,
    zones_distinct,
)
from dynamo_core.placement_targets import token_targets, whole_weights
from dynamo_core.ring import HistoryEntry, Member, Ring
from dynamo_core.ring_checks import (
    PARTITIONS_MAX,
    PARTITIONS_MIN,
    REPLICATION_MAX,
    check_member,
)
from dynamo_core.walks import preferred_slots

__all__ = ["Candidate", "NodeShare", "Plan", "Report", "first_ring", "next_ring", "plan"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that shall be a member of the next ring: a Member without a number."""

    name: str
    zone: str
    capacity: str
    host: str
    http_port: int
    native_port: int
    admin_port: int
    disk_id: str

    def numbered(self, number: int) -> Member:
        """This node as the member of that number."""
        return Member(
            number=number,
            name=self.name,
            zone=self.zone,
            capacity=self.capacity,
            host=self.host,
            http_port=self.http_port,
            native_port=self.native_port,
            admin_port=self.admin_port,
            disk_id=self.disk_id,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Owners and slots as in a Ring, with the report on them."""

    owners: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]
    report: Report


def plan(ring: Ring | None, members: Iterable[Member], replication: int, partitions: int) -> Plan:
    """Owners and slots for these members, following `ring` (None: from nothing).

    A member whose name the ring gives to another number replaces that node: it inherits its
    tokens and slots. If every member owns what it should already, nothing moves.

    Tokens beyond the minimum move only to keep neighbours distinct, where the targets allow
    that at all: moves <= 2 * moves_minimum. CallerError for members that no ring may have.
    """
    members = sorted(members, key=lambda member: member.number)
    _check(ring, members, replication, partitions)
    numbers = [member.number for member in members]
    zones = {member.number: member.zone for member in members}
    before = _inherited(ring, members) if ring else None
    weights = dict(zip(numbers, whole_weights([m.capacity for m in members]), strict=True))
    targets = token_targets(weights, partitions, Counter(before or ()))

    # The searches know nodes as 0, 1, ...; one without a zone is a zone of its own.
    index = {number: i for i, number in enumerate(numbers)}
    keys = [(zones[n], 0) if zones[n] else ("", n) for n in numbers]
    zone_index = {key: i for i, key in enumerate(sorted(set(keys)))}
    zone_of = [zone_index[key] for key in keys]
    gap = min(replication, len(members))
    zone_gap = min(gap, len(zone_index))
    counts = [targets[number] for number in numbers]
    if before is None:
        arranged = lay_out(counts, zone_of, gap, zone_gap)
    else:
        was = [index.get(number, OPEN) for number in before]
        arranged = rearrange(was, counts, zone_of, gap, zone_gap)
    owners = tuple(numbers[i] for i in arranged)
    slots = tuple(preferred_slots(owners, zones, replication))
    if ring:
        slots = _kept(ring, members, slots)

    shares = node_shares(members, owners, slots, targets)
    off = imbalances(shares)
    owned = Counter(ring.owners if ring else ())
    report = Report(
        moves=sum(a != b for a, b in zip(ring.owners, owners, strict=True)) if ring else 0,
        moves_minimum=sum(max(0, targets[n] - owned[n]) for n in numbers) if ring else 0,
        slots_moved=_slots_moved(ring, slots) if ring else 0,
        nodes=shares,
        imbalance=max(off),
        over_15_percent=sum(each > OFF_THE_MEAN for each in off) / len(off),
        zones_distinct=zones_distinct(slots, zones),
        crowded=crowded(owners, zones, gap),
        problems=problems(members, replication, partitions, slots),
    )
    return Plan(owners, slots, report)


def _check(ring: Ring | None, members: Sequence[Member], replication: int, partitions: int) -> None:
    need_int("replication", replication, 1, REPLICATION_MAX)
    need_int("partitions", partitions, PARTITIONS_MIN, PARTITIONS_MAX)
    if partitions & (partitions - 1):
        raise refuse("partitions", partitions, "a power of two from 16 to 8192")
    if ring and ring.partitions != partitions:
        right = f"{ring.partitions}, as in the ring: it is fixed for life"
        raise refuse("partitions", partitions, right)
    if not members:
        raise refuse("members", [], "a list of at least one member")
    for member in members:
        check_member(f"member {member.name!r}", member)
    for what, values in (
        ("number", [member.number for member in members]),
        ("name", [member.name for member in members]),
    ):
        value, times = Counter[object](values).most_common(1)[0]
        if times > 1:
            raise CallerError(f"{times} members have the {what} {value!r}; each must have its own")


def _heirs(ring: Ring, members: Iterable[Member]) -> dict[int, int]:
    """For each number of the ring that a member replaces by name: the new number."""
    heirs = {}
    for member in members:
        old = ring.member_named(member.name)
        if old and old.number != member.number:
            heirs[old.number] = member.number
    return heirs


def _inherited(ring: Ring, members: Iterable[Member]) -> list[int]:
    heirs = _heirs(ring, members)
    return [heirs.get(number, number) for number in ring.owners]


def _kept(
    ring: Ring, members: Iterable[Member], slots: Iterable[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """Rows in which whoever stays keeps its slot.

    Who leaves is paired with who comes, in the order of slots and of the walk; heirs come
    into the very slot of those they replace.
    """
    heirs = _heirs(ring, members)
    rows = []
    for old, walked in zip(ring.slots, slots, strict=True):
        inherited = [heirs.get(number, number) for number in old]
        comers = iter([number for number in walked if number not in inherited])
        row = [n if n in walked else next(comers, None) for n in inherited]
        rows.append(tuple(n for n in (*row, *comers) if n is not None))
    return tuple(rows)


def _slots_moved(ring: Ring, slots: Iterable[tuple[int, ...]]) -> int:
    return sum(len(set(new) - set(old)) for old, new in zip(ring.slots, slots, strict=True))


def first_ring(
    cluster_id: str,
    cluster_name: str,
    members: Iterable[Candidate],
    replication: int,
    partitions: int,
    at: str,
) -> Ring:
    """The ring of epoch 1. Numbers are given from 1 in the order of `members`.

    `at` is the time for the history, ISO 8601 in UTC.
    """
    numbered = tuple(one.numbered(number) for number, one in enumerate(members, start=1))
    made = plan(None, numbered, replication, partitions)
    return Ring(
        cluster_id=cluster_id,
        cluster_name=cluster_name,
        epoch=1,
        parent="",
        partitions=partitions,
        replication=replication,
        feature_level=1,
        next_number=len(numbered) + 1,
        members=numbered,
        owners=made.owners,
        slots=made.slots,
        overrides=(),
        history=tuple(HistoryEntry(1, at, "created", m.name, m.number) for m in numbered),
    )


def next_ring(ring: Ring, members: Iterable[Candidate], at: str) -> Ring:
    """The ring that follows `ring` with exactly these members.

    A known name with the known disk keeps its number; with another disk it is a replacement
    and gets a new one, as do new names. Numbers are never reused. The history tells who
    left, was replaced, joined or was reweighed, at the time `at`.
    """
    number = ring.next_number
    numbered: list[Member] = []
    events: list[tuple[str, Member]] = []
    for one in members:
        known = ring.member_named(one.name)
        if known and known.disk_id == one.disk_id:
            numbered.append(one.numbered(known.number))
            if known.capacity != one.capacity:
                events.append(("reweighed", numbered[-1]))
            continue
        numbered.append(one.numbered(number))
        events.append(("replaced" if known else "joined", numbered[-1]))
        number += 1
    names = {member.name for member in numbered}
    left = [("left", member) for member in ring.members if member.name not in names]
    made = plan(ring, numbered, ring.replication, ring.partitions)
    epoch = ring.epoch + 1
    return replace(
        ring,
        epoch=epoch,
        parent=ring.id,
        next_number=number,
        members=tuple(sorted(numbered, key=lambda member: member.number)),
        owners=made.owners,
        slots=made.slots,
        overrides=(),
        history=ring.history
        + tuple(HistoryEntry(epoch, at, event, m.name, m.number) for event, m in left + events),
    )
