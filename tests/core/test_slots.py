"""Rows of tokens: they join like sets, and plans move what they must."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import slots
from dynamo_core.errors import Corrupt
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.slot_table import BLOCK_PARTITIONS, SlotTable, given_up
from dynamo_core.slots import Move, Row, Token, holders, join, moves, override

tokens = st.builds(Token, st.integers(0, 3), st.integers(0, 3), st.integers(1, 5))
rows = st.lists(tokens, max_size=4).map(tuple)
nodes = st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(tuple)


@given(rows, rows, rows)
def test_rows_join_like_sets(a: Row, b: Row, c: Row) -> None:
    assert join(a, b) == join(b, a)
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, a) == a == join(a, ())
    assert join(join(a, b), b) == join(a, b)


@given(nodes, st.data())
def test_moves_end_with_exactly_the_nodes_wanted_in_whatever_order(
    before: tuple[int, ...], data: st.DataObject
) -> None:
    row: Row = tuple(Token(1, 0, n) for n in before)
    size = len(before)
    wanted = tuple(data.draw(st.permutations(range(1, 10)))[:size])
    pairs = {(m.slot, m.target) for m in moves(row, wanted)}
    assert len(pairs) == len({*wanted} - {*before})
    while todo := moves(row, wanted):
        move = data.draw(st.sampled_from(todo))
        assert (move.slot, move.target) in pairs, "a pair that is carried out changes no other"
        token = move.source.handed_to(move.target)
        row = (*row[: move.slot], token, *row[move.slot + 1 :])
    assert {*holders(row)} == {*wanted}


def test_whoever_is_wanted_keeps_its_slot_and_a_second_slot_is_handed_over() -> None:
    row = (Token(1, 0, 1), Token(1, 0, 2), Token(1, 0, 3))
    assert moves(row, (3, 1, 2)) == ()
    assert moves(row, (2, 4, 1)) == (Move(2, row[2], 4),)
    twice = (Token(1, 0, 1), Token(1, 1, 1), Token(1, 0, 3))
    assert holders(twice) == (1, 3)
    assert moves(twice, (1, 2, 3)) == (Move(1, twice[1], 2),)
    assert slots.incoming(twice, (1, 2, 3)) == (2,)


def test_a_holder_that_cannot_hand_over_holds_up_nobody_else() -> None:
    row = (Token(1, 0, 1), Token(1, 0, 2), Token(1, 0, 3))
    assert slots.next_move(row, (4, 5, 3), ()) == Move(0, row[0], 4)
    assert slots.next_move(row, (4, 5, 3), (1,)) == Move(1, row[1], 5)
    assert slots.next_move(row, (4, 5, 3), (1, 2)) is None
    assert slots.next_move(row, (1, 2, 3), ()) is None


def test_an_override_nominates_who_is_wanted_wherever_the_given_up_node_holds_a_slot() -> None:
    row = (Token(1, 0, 1), Token(1, 4, 2), Token(1, 0, 3))
    over = override(row, {2: 7}, (1, 5, 3))
    assert over == (row[0], Token(7, 0, 5), row[2])
    assert over[1].claimed(5) == Token(7, 2, 5)
    assert override(over, {2: 7}, (1, 6, 3)) == over, "said once more, it changes nothing"
    # The old side of a move that a publisher took for finished is given up all the same.
    assert override(row, {2: 7}, (1, 2, 3)) == row, "nobody comes: it stays until somebody does"


def test_an_override_of_what_was_never_heard_of_stays_below_every_token() -> None:
    # An empty disk knows a later ring's row and no token; node 1 holds a slot all the while.
    guessed = (Token(0, 0, 1), Token(0, 0, 2))
    over = override(guessed, {2: 5}, (1, 3))
    assert over == (Token(0, 0, 1), Token(0, 1, 3))
    real = (Token(1, 0, 3), Token(1, 0, 1))
    assert join(over, real) == real


def test_a_successors_token_stands_below_the_claim_of_a_holder_that_lost_its_disk() -> None:
    token = Token(3, 5, 9)
    assert token < token.handed_to(10) < token.claimed(9)
    assert token.claimed(9) < Token(4, 0, 1)


def test_the_rule_for_claims_shuts_out_whoever_held_the_slot_before() -> None:
    row = (Token(1, 0, 1), Token(1, 0, 2), Token(1, 0, 3))
    assert slots.needed_to_claim(row, r=2, w=2) == 2
    assert slots.needed_to_claim(row, r=3, w=3) == 1
    assert slots.needed_to_claim(row, r=1, w=3) == 2
    assert slots.needed_to_claim(row[:1], r=1, w=1) == 0


@given(rows)
def test_a_row_has_one_form_in_bytes(row: Row) -> None:
    data = slots.row_to_bytes(row)
    assert slots.row_from_bytes(data) == row
    for wrong in (data[:-1], data + b"\x00"):
        with pytest.raises(Corrupt):
            slots.row_from_bytes(wrong)


@given(st.dictionaries(st.integers(0, 8191), rows, max_size=4))
def test_rows_of_many_partitions(told: dict[int, Row]) -> None:
    data = slots.pack_rows(told)
    assert slots.unpack_rows(data) == told
    if told:
        with pytest.raises(Corrupt):
            slots.unpack_rows(data + data)
        with pytest.raises(Corrupt):
            slots.unpack_rows(data[:-1])


@given(st.binary(max_size=80))
def test_whatever_comes_is_rows_or_corrupt(data: bytes) -> None:
    for decode in (slots.row_from_bytes, slots.unpack_rows):
        with contextlib.suppress(Corrupt):
            decode(data)


# The table


def _candidate(name: str, disk: str = "") -> Candidate:
    return Candidate(name, "", "1", name, 1, 2, 3, (disk or name).encode().hex().ljust(32, "0"))


AT = "2026-01-31T12:00:00Z"
FIRST = first_ring("ab" * 16, "cart", [_candidate(n) for n in "abcd"], 3, 256, AT)


def _stored(table: SlotTable) -> dict[bytes, bytes]:
    disk: dict[bytes, bytes] = {}
    table.persist = lambda key, value: (
        disk.pop(key, None) if value is None else disk.__setitem__(key, value)
    )
    return disk


def test_the_first_ring_says_who_holds_each_slot_and_a_later_one_only_who_shall() -> None:
    table = SlotTable(256)
    disk = _stored(table)
    assert table.adopt(FIRST) == list(range(256))
    assert table.row(7) == tuple(Token(1, 0, n) for n in FIRST.slots[7])
    later = next_ring(FIRST, [_candidate(n) for n in "abcde"], AT)
    assert table.adopt(later) == []
    again = SlotTable(256)
    again.load(disk.items())
    assert again.root() == table.root()
    # Who joins late and was told nothing knows nothing that could stand against a token.
    late = SlotTable(256)
    late.adopt(later)
    for p in range(256):
        assert join(late.row(p), table.row(p)) == table.row(p)
        assert all(t.claimed(t.holder) < Token(1, 0, 0) for t in late.row(p))


def test_a_replaced_node_is_given_up_in_every_later_ring_too() -> None:
    second = next_ring(FIRST, [_candidate("a", "new"), *map(_candidate, "bcd")], AT)
    third = next_ring(second, [_candidate("a", "new"), *map(_candidate, "bcde")], AT)
    assert given_up(FIRST) == {}
    assert given_up(second) == given_up(third) == {1: 2}
    table, skipped = SlotTable(256), SlotTable(256)
    for each in (table, skipped):
        each.adopt(FIRST)
    changed = table.adopt(second)
    assert changed == [p for p in range(256) if 1 in FIRST.slots[p]]
    assert all(Token(2, 0, 5) in table.row(p) for p in changed)
    skipped.adopt(third)
    assert not any(t.holder == 1 for p in range(256) for t in skipped.row(p))
    table.adopt(third)
    assert not any(t.holder == 1 for p in range(256) for t in table.row(p))


def test_who_only_leaves_keeps_its_tokens_and_who_is_given_up_loses_them() -> None:
    leaving = next_ring(FIRST, [_candidate(n) for n in "abc"], AT)
    dropped = next_ring(leaving, [_candidate(n) for n in "abc"], AT, give_up=[4])
    late = next_ring(dropped, [_candidate(n) for n in "abce"], AT)
    assert given_up(leaving) == {}
    assert given_up(dropped) == given_up(late) == {4: 3}
    mine = [p for p in range(256) if 4 in FIRST.slots[p]]
    table, skipped = SlotTable(256), SlotTable(256)
    for each in (table, skipped):
        each.adopt(FIRST)
    assert table.adopt(leaving) == []
    assert [p for p in range(256) if 4 in holders(table.row(p))] == mine
    assert table.adopt(dropped) == mine
    assert all({t.epoch for t in table.row(p)} == {1, 3} for p in mine)
    # Whoever passes both rings over reads it in the history of the next.
    assert set(mine) <= set(skipped.adopt(late))
    assert not any(4 in holders(skipped.row(p)) for p in range(256))


def test_a_leaving_node_that_is_replaced_is_given_up() -> None:
    leaving = next_ring(FIRST, [_candidate(n) for n in "abc"], AT)
    back = next_ring(leaving, [_candidate(n) for n in "abcd"], AT)
    assert given_up(back) == {}, "the same disk goes on with what it holds"
    assert back.members == FIRST.members
    replaced = next_ring(leaving, [*map(_candidate, "abc"), _candidate("d", "new")], AT)
    assert given_up(replaced) == {4: 3}
    table = SlotTable(256)
    for ring in (FIRST, leaving, replaced):
        table.adopt(ring)
    assert not any(4 in holders(table.row(p)) for p in range(256))


def test_two_nodes_find_the_rows_that_they_know_differently() -> None:
    one, other = SlotTable(256), SlotTable(256)
    for table in (one, other):
        table.adopt(FIRST)
    assert one.root() == other.root()
    assert one.learn(200, (Token(1, 1, 4),))
    assert not one.learn(200, (Token(1, 0, 9),))
    assert one.digest(200) != other.digest(200)
    assert one.differing(other.blocks()) == [200 // BLOCK_PARTITIONS]
    told = slots.unpack_rows(slots.pack_rows(one.rows_of(200 // BLOCK_PARTITIONS)))
    assert other.learn_all(told) == [200]
    assert one.root() == other.root()
    assert one.differing(other.blocks()) == []
    with pytest.raises(Corrupt):
        one.differing(other.blocks()[:-1])
    with pytest.raises(Corrupt):
        one.learn_all({256: (Token(1, 0, 1),)})
    assert one.root() == other.root()


@pytest.mark.parametrize("key", [b"row/", b"row/\x01", b"row/\x01\x00"])
def test_a_damaged_or_foreign_row_on_disk_is_found_out(key: bytes) -> None:
    with pytest.raises(Corrupt):
        SlotTable(256).load([(key, slots.row_to_bytes(()))])
    with pytest.raises(Corrupt):
        SlotTable(256).load([(b"row/\x00\x01", b"")])
