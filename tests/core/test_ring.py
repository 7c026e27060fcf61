"""The ring against a dumb model of walks, and against hostile input."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core.errors import CallerError
from dynamo_core.ring import HistoryEntry, Member, Ring, position
from dynamo_core.walks import preferred_slots

AT = "2026-01-31T12:00:00Z"


def member(number: int, zone: str = "", capacity: str = "1") -> Member:
    return Member(
        number=number,
        name=f"cart-{number}",
        zone=zone,
        capacity=capacity,
        host=f"cart-{number}.cart-nodes",
        http_port=8080,
        native_port=7070,
        admin_port=8081,
        disk_id=f"{number:032x}",
    )


def ring_of(owners: list[int], zones: dict[int, str], replication: int = 3) -> Ring:
    return Ring(
        cluster_id="c0" * 16,
        cluster_name="cart",
        epoch=1,
        parent="",
        partitions=len(owners),
        replication=replication,
        feature_level=1,
        next_number=max(zones) + 1,
        members=tuple(member(number, zones[number]) for number in sorted(zones)),
        owners=tuple(owners),
        slots=tuple(preferred_slots(owners, zones, replication)),
        leaving=(),
        history=(HistoryEntry(1, AT, "created", "cart-1", 1),),
    )


PLAIN = ring_of([1, 2, 3, 4] * 4, {1: "", 2: "", 3: "", 4: ""})


def model_list(owners: list[int], zones: dict[int, str], replication: int, p: int) -> list[int]:
    """The preference list by the words of the rule, one pass after the other."""
    walk: list[int] = []
    for number in owners[p:] + owners[:p] + sorted(zones):
        if number not in walk:
            walk.append(number)
    first: list[int] = []
    for number in walk:
        if len(first) < replication and (
            not zones[number] or zones[number] not in [zones[taken] for taken in first]
        ):
            first.append(number)
    for number in walk:
        if len(first) < replication and number not in first:
            first.append(number)
    return first + [number for number in walk if number not in first]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], dict[int, str], int]:
    numbers = draw(st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True))
    zones = {number: draw(st.sampled_from(["", "a", "b", "c"])) for number in numbers}
    partitions = draw(st.sampled_from([16, 32, 64]))
    owners = draw(
        st.lists(st.sampled_from(numbers), min_size=partitions, max_size=partitions)
        | st.sampled_from(numbers).map(lambda number: [number] * partitions)
    )
    return owners, zones, draw(st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(layouts())
def test_preference_lists_are_those_of_the_model(
    layout: tuple[list[int], dict[int, str], int],
) -> None:
    owners, zones, replication = layout
    ring = ring_of(owners, zones, replication)
    for p in range(ring.partitions):
        assert list(ring.preference_list(p)) == model_list(owners, zones, replication, p)
        assert ring.preference_list(p)[: len(ring.slots[p])] == ring.slots[p]
    assert sum(ring.tokens(number) for number in zones) == ring.partitions
    assert sum(ring.ownership(number) for number in zones) == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_bytes_are_canonical_and_come_back(
    layout: tuple[list[int], dict[int, str], int],
) -> None:
    ring = ring_of(*layout)
    raw = ring.to_bytes()
    again = Ring.from_bytes(raw)
    assert again == ring
    assert again.to_bytes() == raw
    assert again.name == ring.name == (1, bytes.fromhex(ring.id))
    shuffled = dict(reversed(ring.to_json().items()))
    assert Ring.from_bytes(json.dumps(shuffled, indent=3).encode()).to_bytes() == raw


def test_the_id_is_that_of_the_contents() -> None:
    contents = PLAIN.to_json()
    stated = contents.pop("id")
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    assert stated == PLAIN.id == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert Ring.from_json(contents) == PLAIN
    assert replace(PLAIN, cluster_name="tart").id != PLAIN.id


def test_the_preference_list_is_made_once_per_partition() -> None:
    assert PLAIN.preference_list(5) is PLAIN.preference_list(5)
    assert PLAIN.preference_list(5) == (2, 3, 4, 1)


def test_a_zone_that_is_taken_is_passed_over_until_zones_run_out() -> None:
    ring = ring_of([1, 2, 3, 4] * 4, {1: "a", 2: "a", 3: "b", 4: "b"})
    assert ring.preference_list(0) == (1, 3, 2, 4)


def test_slots_keep_their_order_and_lead_the_preference_list() -> None:
    slots = ((3, 1, 2), *PLAIN.slots[1:])
    assert replace(PLAIN, slots=slots).preference_list(0) == (3, 1, 2, 4)


def test_fewer_members_than_replicas_make_shorter_rows() -> None:
    assert ring_of([1, 2] * 8, {1: "", 2: ""}).slots[1] == (2, 1)


@given(st.binary(max_size=40), st.sampled_from([16, 64, 256, 8192]))
def test_a_partition_is_the_top_bits_of_the_position(key: bytes, partitions: int) -> None:
    ring = ring_of([1] * partitions, {1: ""}) if partitions < 8192 else BIG
    digest = position(key)
    assert digest == hashlib.md5(key).digest()
    assert ring.partition_of(digest) == int.from_bytes(digest, "big") * partitions >> 128


BIG = ring_of([1] * 8192, {1: ""})


def test_members_are_found_by_number_and_name() -> None:
    assert PLAIN.member(2).name == "cart-2"
    assert PLAIN.member_named("cart-2") == PLAIN.member(2)
    assert PLAIN.member_named("tart") is None
    with pytest.raises(CallerError, match="node number is 9; it must be"):
        PLAIN.member(9)


LEAVING = replace(PLAIN, next_number=10, leaving=(member(5), member(7)))


def test_leaving_members_are_named_apart_and_get_nothing() -> None:
    assert LEAVING.id != PLAIN.id
    assert Ring.from_bytes(LEAVING.to_bytes()) == LEAVING
    assert LEAVING.node(7) == LEAVING.node_named("cart-7") == member(7)
    assert LEAVING.node(2) == LEAVING.node_named("cart-2") == LEAVING.member(2)
    assert LEAVING.node_named("tart") is None
    assert [node.number for node in LEAVING.everybody] == [1, 2, 3, 4, 5, 7]
    between = replace(LEAVING, members=(*map(member, (1, 2, 3, 4, 6)),))
    assert [node.number for node in between.everybody] == [1, 2, 3, 4, 5, 6, 7]
    assert LEAVING.member_named("cart-7") is None
    with pytest.raises(CallerError, match=r"node number is 7; .* a member of the ring"):
        LEAVING.member(7)
    with pytest.raises(CallerError, match=r"node number is 6; .* member or leaving member"):
        LEAVING.node(6)
    assert LEAVING.zones == PLAIN.zones
    assert all(LEAVING.preference_list(p) == PLAIN.preference_list(p) for p in range(16))
    assert (LEAVING.tokens(7), LEAVING.ownership(7)) == (0, 0)


def leave(ring: dict[str, Any], number: int, name: int, **fields: object) -> None:
    """One more leaving member, in the ring as JSON."""
    ring["next_number"] = 10
    ring["leaving"].append({**asdict(member(number)), "name": f"cart-{name}", **fields})


Broken = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda r: r.update(cluster_id="C0" * 16), "cluster_id is 'C0C0"),
        (lambda r: r.update(cluster_name=""), "cluster_name is ''"),
        (lambda r: r.update(cluster_name="\ud800"), "cluster_name is"),
        (lambda r: r.update(epoch=0), "epoch is 0; it must be an integer from 1"),
        (lambda r: r.update(epoch=True), "epoch is True"),
        (lambda r: r.update(epoch=1.0), "epoch is 1.0"),
        (lambda r: r.update(epoch=2), "parent is ''; it must be 32 lower-case"),
        (lambda r: r.update(parent="0" * 32), "parent is '0000.* it must be empty"),
        (lambda r: r.update(partitions=48), "partitions is 48; it must be a power of two"),
        (lambda r: r.update(partitions=8), "partitions is 8; it must be an integer from 16"),
        (lambda r: r.update(partitions=32), "owners is '16 entries'; it must be a list of 32"),
        (lambda r: r.update(replication=0), "replication is 0"),
        (lambda r: r.update(feature_level="1"), "feature_level is '1'"),
        (lambda r: r.update(next_number=4), r"members\[3\].number is 4; it must be below"),
        (lambda r: r.update(members=[]), "members is \\[\\]"),
        (lambda r: r.update(members={}), "members is {}; it must be a list"),
        (lambda r: r["members"].reverse(), r"members\[1\].number is 3; .* sorted and unique"),
        (
            lambda r: r["members"][1].update(name="cart-1"),
            r"members\[1\].name is 'cart-1'; .*s\[0\]",
        ),
        (lambda r: r["members"][1].update(capacity="0.0"), r"members\[1\].capacity is '0.0'"),
        (lambda r: r["members"][1].update(capacity="-1"), r"members\[1\].capacity is '-1'"),
        (lambda r: r["members"][1].update(capacity="1e3"), r"members\[1\].capacity is '1e3'"),
        (lambda r: r["members"][1].update(capacity="٣"), r"members\[1\].capacity is"),
        (lambda r: r["members"][1].update(capacity=2), r"members\[1\].capacity is 2"),
        (lambda r: r["members"][1].update(zone=None), r"members\[1\].zone is None"),
        (lambda r: r["members"][1].update(http_port=0), r"members\[1\].http_port is 0"),
        (lambda r: r["members"][1].update(disk_id=""), r"members\[1\].disk_id is ''"),
        (lambda r: r["members"][1].update(rack="x"), r"members\[1\] has the unknown field 'rack'"),
        (lambda r: r["members"][1].pop("host"), r"members\[1\] lacks host"),
        (lambda r: r["members"].append(3), r"members\[4\] is 3; it must be a JSON object"),
        (lambda r: r["owners"].__setitem__(7, 9), r"owners\[7\] is 9; .* number of a member"),
        (lambda r: r["owners"].__setitem__(7, []), r"owners\[7\] is \[\]"),
        (lambda r: r["owners"].__setitem__(0, 2), r"slots\[0\] is \[1, 2, 3\]; it must be"),
        (lambda r: r["slots"].__setitem__(3, [1, 2, 2]), r"slots\[3\] is \[1, 2, 2\]"),
        (lambda r: r["slots"].__setitem__(3, [1, 2]), r"slots\[3\] is \[1, 2\]"),
        (lambda r: r["slots"].__setitem__(3, [{}, 1, 2]), r"slots\[3\] is \[{}, 1, 2\]"),
        (lambda r: r["slots"].__setitem__(3, "abc"), r"slots\[3\] is 'abc'; it must be a list"),
        (lambda r: r.update(leaving={}), "leaving is {}; it must be a list"),
        (lambda r: r["leaving"].append(3), r"leaving\[0\] is 3; it must be a JSON object"),
        (lambda r: r["leaving"].append({}), r"leaving\[0\] lacks admin_port, capacity"),
        (lambda r: leave(r, 2, 9), r"leaving\[0\].number is 2; .* number of members\[1\]: a mem"),
        (lambda r: leave(r, 9, 2), r"leaving\[0\].name is 'cart-2'; .* the name of members\[1\]"),
        (lambda r: leave(r, 6, 6) or leave(r, 5, 5), r"leaving\[1\].number is 5; .* above 6"),
        (lambda r: leave(r, 5, 5) or leave(r, 5, 6), r"leaving\[1\].number is 5; .* above 5"),
        (lambda r: leave(r, 5, 6) or leave(r, 6, 6), r"leaving\[1\].name is 'cart-6'; .*g\[0\]"),
        (lambda r: leave(r, 10, 5), r"leaving\[0\].number is 10; .* below next_number \(10\)"),
        (lambda r: leave(r, 5, 5, host=""), r"leaving\[0\].host is ''"),
        (lambda r: leave(r, 5, 5, disk_id="x"), r"leaving\[0\].disk_id is 'x'"),
        (lambda r: r.update(leaving=r["members"], members=[]), "members is \\[\\]"),
        (lambda r: leave(r, 5, 5) or r["owners"].__setitem__(7, 5), r"owners\[7\] is 5; .* mem"),
        (lambda r: r["history"][0].update(epoch=2), r"history\[0\].epoch is 2"),
        (lambda r: r["history"][0].update(at="today"), r"history\[0\].at is 'today'"),
        (lambda r: r["history"][0].update(event="died"), r"history\[0\].event is 'died'"),
        (lambda r: r["history"][0].update(number=5), r"history\[0\].number is 5"),
        (lambda r: r.pop("slots"), "ring lacks slots"),
        (lambda r: r.update({"x" * 999: 1}), "ring has the unknown field 'xxx"),
        (lambda r: r.update(cluster_name="tart"), "id is .* the id of this ring's contents"),
        (lambda r: r.update(id=7), "id is 7"),
    ],
)
def test_a_broken_ring_is_refused_by_name_of_the_field(breaks: Broken, said: str) -> None:
    value = PLAIN.to_json()
    breaks(value)
    with pytest.raises(CallerError, match=said) as refusal:
        Ring.from_json(value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b"[" * 100_000, b'{"epoch":' + b"9" * 5000])
def test_bytes_that_are_no_json_are_refused(raw: bytes) -> None:
    with pytest.raises(CallerError, match="the ring is not JSON"):
        Ring.from_bytes(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data(), JSON)
def test_whatever_stands_in_a_field_is_taken_or_refused(data: st.DataObject, junk: object) -> None:
    value: Any = LEAVING.to_json()
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = junk
    value.pop("id", None)
    try:
        ring = Ring.from_json(value)
    except CallerError:
        return
    assert Ring.from_bytes(ring.to_bytes()) == ring
