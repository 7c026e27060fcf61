"""Placement's promises over random memberships, zones, capacities and chains of changes."""

from collections import Counter
from math import ceil, floor

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.placement_nodes import (
    AT,
    exact_shares,
    first,
    node,
    nodes,
    replanned,
    room,
    windows_distinct,
    zone_tokens,
)

from dynamo_core.placement import Candidate, next_ring
from dynamo_core.placement_report import Report
from dynamo_core.ring import Ring

Case = tuple[list[list[Candidate]], int, int]


@st.composite
def chains(draw: st.DrawFn, changes: int) -> Case:
    """(memberships, N, Q): one after the other, from joins, leaves, weights and new disks."""
    partitions = draw(st.sampled_from([16, 32, 64]))
    replication = draw(st.integers(1, 5))
    zones = draw(st.sampled_from(["", "", "a", "ab", "abc", "abc", "abcd", "abcdef"]))
    capacities = draw(st.sampled_from([["1"], ["1"], ["1", "2"], ["0.5", "1", "7.25"]]))
    bare = draw(st.booleans()) and draw(st.booleans())
    made = 0

    def joiner() -> Candidate:
        nonlocal made
        made += 1
        zone = draw(st.sampled_from(zones)) if zones else ""
        if bare and draw(st.booleans()):
            zone = ""
        return node(f"n{made}", zone, draw(st.sampled_from(capacities)))

    members = [joiner() for _ in range(replication + draw(st.integers(0, 8)))]
    found = [members]
    for _ in range(changes):
        members = list(members)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(members) - 1))
            one = members[at]
            act = draw(st.sampled_from(["join", "join", "leave", "reweigh", "replace"]))
            if act == "join":
                members.append(joiner())
            elif act == "leave" and len(members) > replication:
                members.pop(at)
            elif act == "reweigh":
                capacity = draw(st.sampled_from(["0.5", "1", "2", "3"]))
                members[at] = node(one.name, one.zone, capacity, int(one.disk_id, 16))
            elif act == "replace":
                members[at] = node(one.name, one.zone, one.capacity, int(one.disk_id, 16) + 1)
        found.append(members)
    return found, replication, partitions


def check_tokens(ring: Ring) -> None:
    """Nodes and zones own less than a token more or less than their share; all own one."""
    exact = exact_shares(ring)
    assert sum(exact.values()) == ring.partitions
    tiny = sum(share < 1 for share in exact.values())
    for number, share in exact.items():
        assert ring.tokens(number) >= min(1, ring.partitions // len(exact))
        if tiny:
            assert abs(ring.tokens(number) - share) < 1 + tiny
        else:
            assert floor(share) <= ring.tokens(number) <= ceil(share)
    if not tiny:  # none, and no zone of many, has more than one token in N
        upper = ceil(ring.partitions / ring.replication)
        tokens = zone_tokens(ring)
        heavy = (
            tokens.values() if len(tokens) >= ring.replication else Counter(ring.owners).values()
        )
        assert max(heavy) <= upper


def check_slots(ring: Ring, report: Report) -> None:
    """Slots are on distinct nodes, and on as many zones as there are for N replicas."""
    assert all(len(row) == len(set(row)) == ring.replication for row in ring.slots)
    zones = [{ring.member(number).zone or number for number in row} for row in ring.slots]
    most = min(ring.replication, len(zone_tokens(ring)))
    owning = sum(tokens > 0 for tokens in zone_tokens(ring).values())
    assert report.zones_short == sum(len(found) < most for found in zones)
    if owning >= most:
        assert report.zones_short == 0
    assert bool(report.crowded) == bool(report.crowded_why)
    if not report.crowded:  # rows are the owners of N neighbours, and bring what they say
        held = Counter(number for row in ring.slots for number in row)
        assert all(held[n] == ring.replication * ring.tokens(n) for n in ring.zones)


@settings(max_examples=80, deadline=None)
@given(chains(0))
def test_a_first_ring_keeps_its_promises(case: Case) -> None:
    [members], replication, partitions = case
    ring = first(members, replication, partitions)
    report = replanned(ring, None).report
    check_tokens(ring)
    check_slots(ring, report)
    assert (report.moves, report.moves_minimum, report.changes) == (0, 0, ())
    if room(ring) and len(zone_tokens(ring)) >= replication:
        assert report.crowded == 0
        keys = [ring.member(n).zone or n for n in ring.owners]
        assert windows_distinct(keys, replication)


@settings(max_examples=50, deadline=None)
@given(chains(2))
def test_changes_keep_their_promises(case: Case) -> None:
    memberships, replication, partitions = case
    ring = first(memberships[0], replication, partitions)
    for members in memberships[1:]:
        old, ring = ring, next_ring(ring, members, AT)
        check_change(old, ring)
    # The same members again change nothing at all.
    again = next_ring(ring, memberships[-1], AT)
    assert (again.owners, again.slots) == (ring.owners, ring.slots)
    assert replanned(again, ring).report.changes == ()


def check_change(old: Ring, new: Ring) -> None:
    report = replanned(new, old).report
    check_tokens(new)
    check_slots(new, report)
    assert (new.epoch, new.parent) == (old.epoch + 1, old.id)
    # The bound that is promised: what must move, and as much again to keep neighbours apart.
    moved = sum(a != b for a, b in zip(old.owners, new.owners, strict=True))
    growth = {n: new.tokens(n) - old.tokens(n) for n in {*old.owners, *new.owners}}
    assert report.moves == moved
    assert report.moves_minimum == sum(tokens for tokens in growth.values() if tokens > 0)
    assert report.moves_minimum <= moved <= 2 * report.moves_minimum
    # No slot changes hands beyond what each row needs, and who stays keeps its slot.
    for p, (was, now) in enumerate(zip(old.slots, new.slots, strict=True)):
        changed = [c for c in report.changes if c.partition == p]
        assert len(changed) == len(set(now) - set(was))
        assert [(was[c.slot], now[c.slot]) for c in changed] == [
            (c.giver, c.taker) for c in changed
        ]
        kept = set(range(len(now))) - {c.slot for c in changed}
        assert all(was[slot] == now[slot] for slot in kept)
    assert report.slots_minimum <= report.slots_moved == len(report.changes)
    # Whoever comes under an old name with a new disk stands where that stood.
    heirs = {
        gone.number: came.number
        for gone in old.members
        if (came := new.member_named(gone.name)) and came.number != gone.number
    }
    same = {(m.name, m.zone, m.capacity) for m in old.members}
    if same == {(m.name, m.zone, m.capacity) for m in new.members} and not moved_by_rounding(
        old, new, heirs
    ):
        assert new.owners == tuple(heirs.get(n, n) for n in old.owners)
        assert new.slots == tuple(tuple(heirs.get(n, n) for n in row) for row in old.slots)


def moved_by_rounding(old: Ring, new: Ring, heirs: dict[int, int]) -> bool:
    """Whether two of the same share stand in another order of numbers than before."""
    return any(new.tokens(heirs.get(n, n)) != old.tokens(n) for n in old.zones)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 30), st.sampled_from([64, 256]), st.sampled_from(["", "abcde"]))
def test_joining_and_leaving_again_moves_little_more_than_one_share_each(
    count: int, partitions: int, zones: str
) -> None:
    count = max(count, 2 * len(zones))
    before = first(nodes(count, zones), 3, partitions)
    joined = next_ring(before, nodes(count + 1, zones), AT)
    left = next_ring(joined, nodes(count, zones), AT)
    share = ceil(partitions / (count + 1))
    for old, new in ((before, joined), (joined, left)):
        report = replanned(new, old).report
        assert report.moves_minimum <= share + 1
        assert report.moves <= 1.25 * report.moves_minimum + 2
        if not zones and not report.crowded and report.moves == report.moves_minimum:
            assert report.slots_moved <= 3 * report.moves
    if not zones:
        # A joiner's tokens lie apart: no partition gets more than one new holder.
        for was, now in zip(before.slots, joined.slots, strict=True):
            assert len(set(now) - set(was)) <= 1 or count == 3


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([3, 4, 5]), st.sampled_from([64, 256]), st.integers(1, 7))
def test_one_node_at_a_time_over_as_many_zones_as_replicas_never_crowds(
    n: int, partitions: int, more: int
) -> None:
    zones = "abcde"[:n]
    ring = first(nodes(n, zones), n, partitions)
    # Where Q isn't divisible by N, the walks over one seam pass over a neighbour; no others.
    seam = 0 if partitions % n == 0 else n - 1
    for count in range(n + 1, n + more + 1):
        old, ring = ring, next_ring(ring, nodes(count, zones), AT)
        report = replanned(ring, old).report
        assert report.crowded == seam
        assert report.moves == report.moves_minimum
        assert report.slots_moved <= n * report.moves + 2 * seam
        assert report.zones_distinct == n
