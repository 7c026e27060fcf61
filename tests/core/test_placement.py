"""Placement: its promises over random memberships, and what people should read in it."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynamo_core.errors import CallerError
from dynamo_core.placement import Candidate, Plan, first_ring, next_ring, plan
from dynamo_core.placement_moves import fits, lay_out
from dynamo_core.placement_targets import token_targets
from dynamo_core.ring import Member, Ring

AT = "2026-01-31T12:00:00Z"
CLUSTER = "c0" * 16


def node(name: str, zone: str = "", capacity: str = "1", disk: int = 1) -> Candidate:
    return Candidate(name, zone, capacity, name, 8080, 7070, 8081, f"{disk:032x}")


def nodes(count: int, zones: str = "", capacities: Sequence[str] = ("1",)) -> list[Candidate]:
    return [
        node(f"n{i}", zones[i % len(zones)] if zones else "", capacities[i % len(capacities)])
        for i in range(count)
    ]


def first(members: Sequence[Candidate], replication: int = 3, partitions: int = 256) -> Ring:
    return first_ring(CLUSTER, "cart", members, replication, partitions, AT)


def replanned(ring: Ring, parent: Ring | None) -> Plan:
    """The plan that `ring` was made of."""
    made = plan(parent, ring.members, ring.replication, ring.partitions)
    assert (made.owners, made.slots) == (ring.owners, ring.slots), "not deterministic"
    return made


def windows_distinct(owners: Sequence[object], gap: int) -> bool:
    """The dumb check: every `gap` consecutive owners differ, round the tail too."""
    return all(
        len({owners[(p + k) % len(owners)] for k in range(gap)}) == gap for p in range(len(owners))
    )


@st.composite
def memberships(draw: st.DrawFn) -> tuple[list[Candidate], list[Candidate], int, int]:
    """(before, after, N, Q): two memberships of nodes that keep zone and capacity."""
    partitions = draw(st.sampled_from([16, 32, 64, 128]))
    replication = draw(st.integers(1, 5))
    zones = draw(st.sampled_from(["", "ab", "abc", "abcd", "abcdef"]))
    capacities = draw(st.sampled_from([["1"], ["1"], ["1", "2"], ["0.5", "1", "7.25"]]))
    count = draw(st.integers(1, 14))
    pool = nodes(count, zones, capacities)
    chosen = st.lists(st.sampled_from(pool), min_size=1, unique=True)
    before, after = (
        sorted(draw(chosen | st.just(pool)), key=lambda n: int(n.name[1:])) for _ in range(2)
    )
    return before, after, replication, partitions


def check_tokens(ring: Ring) -> None:
    """Each node owns less than a token more or less than its exact share, but at least one."""
    total = sum(Fraction(m.capacity) for m in ring.members)
    exact = {m.number: ring.partitions * Fraction(m.capacity) / total for m in ring.members}
    tiny = sum(share < 1 for share in exact.values())
    for number, share in exact.items():
        assert ring.tokens(number) >= min(1, ring.partitions // len(exact))
        assert abs(ring.tokens(number) - share) < 1 + tiny


def check_slots(ring: Ring) -> None:
    """Slots are on distinct nodes, and on as many zones as there are for N replicas."""
    zones = {m.zone for m in ring.members if m.zone}
    for row in ring.slots:
        assert len(row) == len(set(row)) == min(ring.replication, len(ring.members))
        taken = {ring.member(number).zone for number in row}
        assert not zones or len(taken) == min(ring.replication, len(zones))


@settings(max_examples=250, deadline=None)
@given(memberships())
def test_a_first_ring_keeps_its_promises(
    given_: tuple[list[Candidate], list[Candidate], int, int],
) -> None:
    members, _, replication, partitions = given_
    ring = first(members, replication, partitions)
    report = replanned(ring, None).report
    check_tokens(ring)
    check_slots(ring)
    assert (report.moves, report.moves_minimum) == (0, 0)
    gap = min(replication, len(members))
    by_node = Counter(ring.owners)
    zones = {number: -ord(zone) if zone else number for number, zone in ring.zones.items()}
    by_zone = Counter(zones[number] for number in ring.owners)
    if fits(by_node, partitions, gap):
        assert windows_distinct(ring.owners, gap)
    else:
        assert not windows_distinct(ring.owners, gap)
    if fits(by_zone, partitions, gap):
        assert windows_distinct([zones[n] for n in ring.owners], gap)
        assert report.crowded == 0


@settings(max_examples=300, deadline=None)
@given(memberships())
def test_a_change_keeps_its_promises(
    given_: tuple[list[Candidate], list[Candidate], int, int],
) -> None:
    before, after, replication, partitions = given_
    old = first(before, replication, partitions)
    new = next_ring(old, after, AT)
    report = replanned(new, old).report
    check_tokens(new)
    check_slots(new)
    assert (new.epoch, new.parent) == (2, old.id)
    # The bound that is promised: what must move, and as much again to keep neighbours apart.
    moved = sum(a != b for a, b in zip(old.owners, new.owners, strict=True))
    tokens = {n: new.tokens(n) - old.tokens(n) for n in {*old.owners, *new.owners}}
    assert report.moves == moved
    assert report.moves_minimum == sum(change for change in tokens.values() if change > 0)
    assert report.moves_minimum <= moved <= 2 * report.moves_minimum
    # Who stays among a partition's nodes keeps its slot.
    for was, now in zip(old.slots, new.slots, strict=True):
        if len(was) == len(now):
            for slot, number in enumerate(was):
                assert number not in now or now[slot] == number
    # And the same members again change nothing at all.
    again = next_ring(new, after, AT)
    assert (again.owners, again.slots, again.epoch) == (new.owners, new.slots, 3)
    assert replanned(again, new).report.slots_moved == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 40), st.sampled_from([64, 256]), st.sampled_from(["", "abcde"]))
def test_one_node_that_joins_moves_little_more_than_its_share(
    count: int, partitions: int, zones: str
) -> None:
    assume(not zones or count >= 10)
    ring = first(nodes(count, zones), 3, partitions)
    report = replanned(next_ring(ring, nodes(count + 1, zones), AT), ring).report
    assert report.moves <= 1.25 * report.moves_minimum + 2
    assert report.slots_moved <= 3 * report.moves + 2 * partitions // count


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(1, 99), st.integers(1, 50), min_size=1, max_size=20),
    st.sampled_from([16, 64, 256]),
    st.dictionaries(st.integers(1, 99), st.integers(0, 16)),
)
def test_targets_are_largest_remainders(
    weights: dict[int, int], partitions: int, owned: dict[int, int]
) -> None:
    targets = token_targets(weights, partitions, owned)
    assert sum(targets.values()) == partitions
    shares = {n: Fraction(partitions * w, sum(weights.values())) for n, w in weights.items()}
    if all(share >= 1 for share in shares.values()):
        for n, share in shares.items():
            assert targets[n] in (share // 1, share // 1 + 1)
            for m, other in shares.items():
                if share % 1 > other % 1:
                    assert targets[n] - share // 1 >= targets[m] - other // 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 5))
def test_a_layout_of_any_length_is_distinct_exactly_when_it_fits(
    counts: list[int], gap: int
) -> None:
    # The searches want a power of two: the last node takes what is missing.
    counts.append(64 - sum(counts))
    assume(counts[-1] >= 0 and sum(map(bool, counts)) >= gap)
    owners = lay_out(counts, range(len(counts)), gap, gap)
    assert [owners.count(i) for i in range(len(counts))] == counts
    assert windows_distinct(owners, gap) == fits(dict(enumerate(counts)), 64, gap)


def test_of_equal_remainders_the_token_stays_where_it_is() -> None:
    # Exact shares: 6.5 and 25.5 tokens, twice each.
    weights = {1: 13, 2: 13, 3: 51, 4: 51}
    assert token_targets(weights, 64, {}) == {1: 7, 2: 7, 3: 25, 4: 25}
    for owned in ({1: 6, 2: 7, 3: 25, 4: 26}, {1: 6, 2: 6, 3: 26, 4: 26}):
        assert token_targets(weights, 64, owned) == owned


def test_four_equal_nodes_own_a_quarter_each_and_store_as_much() -> None:
    ring = first(nodes(4))
    report = replanned(ring, None).report
    assert [share.tokens for share in report.nodes] == [64] * 4
    assert report.imbalance == report.over_15_percent == 0
    assert report.zones_distinct == 0
    assert report.problems == ()


def test_a_node_of_twice_the_capacity_owns_twice_the_tokens() -> None:
    ring = first([*nodes(6), node("large", capacity="2.0")])
    assert [ring.tokens(m.number) for m in ring.members] == [32] * 6 + [64]


def test_six_nodes_in_three_zones_put_replicas_on_all_three() -> None:
    report = replanned(first(nodes(6, "abc")), None).report
    assert report.zones_distinct == 3
    assert report.imbalance < 0.1
    assert report.problems == ()


def test_a_fourth_node_takes_a_quarter_and_nothing_else_moves() -> None:
    ring = first(nodes(3))
    report = replanned(next_ring(ring, nodes(4), AT), ring).report
    assert (report.moves, report.moves_minimum, report.slots_moved) == (64, 64, 192)


def test_numbers_are_never_reused_and_the_history_tells_all() -> None:
    ring = first(nodes(4))
    ring = next_ring(ring, nodes(3), AT)
    ring = next_ring(ring, [*nodes(3), node("n3"), node("n4")], AT)
    ring = next_ring(ring, [*nodes(4), node("n4", capacity="2")], AT)
    assert [m.number for m in ring.members] == [1, 2, 3, 5, 6]
    assert ring.next_number == 7
    assert [(e.epoch, e.event, e.name, e.number) for e in ring.history] == [
        (1, "created", "n0", 1),
        (1, "created", "n1", 2),
        (1, "created", "n2", 3),
        (1, "created", "n3", 4),
        (2, "left", "n3", 4),
        (3, "joined", "n3", 5),
        (3, "joined", "n4", 6),
        (4, "reweighed", "n4", 6),
    ]
    assert Ring.from_bytes(ring.to_bytes()) == ring


def test_a_new_disk_under_an_old_name_inherits_tokens_and_slots() -> None:
    ring = first(nodes(5))
    after = next_ring(ring, [*nodes(4), node("n4", disk=2)], AT)
    assert ring.member(5).name == after.member(6).name == "n4"
    assert after.owners == tuple(6 if n == 5 else n for n in ring.owners)
    assert after.slots == tuple(tuple(6 if n == 5 else n for n in row) for row in ring.slots)
    assert after.history[-1].event == "replaced"


def test_one_node_out_and_one_in_swap_places() -> None:
    ring = first(nodes(6, "abc"))
    members = [*nodes(5, "abc"), node("n6", "c")]
    report = replanned(next_ring(ring, members, AT), ring).report
    assert report.moves == report.moves_minimum == 43 - (ring.tokens(6) == 42)
    assert report.slots_moved == sum(6 in row for row in ring.slots)


@pytest.mark.parametrize(
    ("members", "partitions", "said"),
    [
        (nodes(2), 64, "3 replicas need 3 nodes and there are 2"),
        (nodes(20), 16, "20 nodes share 16 partitions: 4 of them own no token"),
        ([*nodes(3), node("big", capacity="3")], 64, "Node big has 50% of the capacity"),
        (nodes(4, "ab"), 64, r"3 replicas lie in 2 zones \(a, b\)"),
        (nodes(4, "a"), 64, r"3 replicas lie in 1 zone \(a\)"),
        (nodes(4, "abc"), 64, "Zone a has 50% of the capacity but holds at most one"),
        (nodes(4, "abc"), 64, "Zone b has 25% of the capacity but has to hold one"),
        ([*nodes(3, "abc"), node("bare")], 64, "Node bare names no zone while others do"),
    ],
)
def test_what_is_impossible_is_said_in_a_sentence(
    members: list[Candidate], partitions: int, said: str
) -> None:
    report = replanned(first(members, 3, partitions), None).report
    assert any(re.search(said, problem) for problem in report.problems)
    assert all(problem.endswith(".") for problem in report.problems)


def test_members_that_no_ring_may_have_are_refused() -> None:
    one = node("n0").numbered(1)
    bad: list[tuple[list[Member], str]] = [
        ([], "members is .* at least one"),
        ([one, node("n1").numbered(1)], "2 members have the number 1"),
        ([one, node("n0").numbered(2)], "2 members have the name 'n0'"),
        ([node("n0", capacity="-1").numbered(1)], "member 'n0'.capacity is '-1'"),
    ]
    for members, said in bad:
        with pytest.raises(CallerError, match=said):
            plan(None, members, 3, 64)
    with pytest.raises(CallerError, match="partitions is 48"):
        plan(None, [one], 3, 48)
    with pytest.raises(CallerError, match="fixed for life"):
        plan(first(nodes(3)), [one], 3, 64)
    with pytest.raises(CallerError, match="replication is 0"):
        plan(None, [one], 0, 64)


@pytest.mark.parametrize("zones", ["", "abcd"])
def test_five_hundred_nodes_are_planned_in_seconds(zones: str) -> None:
    ring = first(nodes(500, zones), 3, 8192)
    made = plan(ring, first(nodes(501, zones), 3, 8192).members, 3, 8192)
    assert made.report.moves <= made.report.moves_minimum + 2 == 18
    assert made.report.imbalance < 0.15
