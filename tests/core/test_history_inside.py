"""The history checker with what only a recorder inside of the store knows: mints and losses."""

from dynamo_core.history import (
    ACKNOWLEDGED,
    DELETE,
    GET,
    PUT,
    History,
    Mint,
    Operation,
    ReplicaCopy,
    Shown,
    from_lines,
)
from dynamo_core.history_check import check
from dynamo_core.versions import EMPTY, Clock, Dot

A, B = b"\0\0\0\1" + b"a" * 12, b"\0\0\0\2" + b"b" * 12
X, Y, Z = (A, 1), (B, 1), (A, 2)


def _operation(at: int, id_: str, op: str, **more: object) -> Operation:
    named = {
        "client": "c",
        "key": "k",
        "outcome": ACKNOWLEDGED,
        "invoked": at,
        "returned": at + 0.5,
    }
    return Operation(id=id_, op=op, **(named | more))  # type: ignore[arg-type]


def _history(
    *operations: Operation, mints: tuple[Mint, ...] = (), excused: tuple[str, ...] = (),
    last_write_wins: bool = False, n: int = 0,
) -> History:  # fmt: skip
    history = History(operations=[*operations], mints=[*mints], excused={*excused}, n=n)
    history.healed_at, history.last_write_wins = 100.0, last_write_wins
    return history


def _accused(history: History) -> set[tuple[str, str]]:
    again = from_lines(history.lines())
    assert again == history
    return {(v.promise, v.write) for v in check(again).violations}


def _clock(*dots: Dot) -> Clock:
    return Clock({}, dots)


PUTS = _operation(1, "x", PUT), _operation(2, "y", PUT)
MINTS = Mint("x", X, EMPTY), Mint("y", Y, EMPTY)
BOTH = _operation(101, "g", GET, shown=(Shown("x", X), Shown("y", Y)))
ONE = _operation(101, "g", GET, shown=(Shown("x", X),))
NONE = _operation(101, "g", GET)


def test_a_write_whose_disks_are_all_lost_is_excused_and_no_other() -> None:
    assert _accused(_history(*PUTS, ONE)) == {("a", "y")}
    assert not _accused(_history(*PUTS, ONE, excused=("y",)))
    assert _accused(_history(*PUTS, NONE, excused=("y",))) == {("a", "x")}


def test_a_lost_write_excuses_nothing_that_it_had_replaced() -> None:
    put = _operation(3, "z", PUT, context=("x",))
    assert not _accused(_history(*PUTS, put, BOTH, excused=("z",)))
    only_y = _operation(101, "g", GET, shown=(Shown("y", Y),))
    assert _accused(_history(*PUTS, put, only_y, excused=("z",))) == {("a", "x")}


def test_what_a_lost_delete_had_replaced_may_be_back() -> None:
    delete = _operation(3, "d", DELETE, context=("x",))
    assert _accused(_history(*PUTS, delete, BOTH)) == {("e", "x")}
    assert not _accused(_history(*PUTS, delete, BOTH, excused=("d",)))


def test_a_delete_that_the_store_read_for_covers_what_it_was_minted_over() -> None:
    delete = _operation(3, "d", DELETE, by_store=True)
    over_x = *MINTS, Mint("d", Z, _clock(X))
    shows_y = _operation(101, "g", GET, shown=(Shown("y", Y),))
    assert not _accused(_history(*PUTS, delete, shows_y, mints=over_x))
    assert _accused(_history(*PUTS, delete, NONE, mints=over_x)) == {("a", "y")}
    assert _accused(_history(*PUTS, delete, BOTH, mints=over_x)) == {("e", "x")}


def test_of_several_mints_all_must_have_replaced_what_is_shown() -> None:
    delete = _operation(3, "d", DELETE, by_store=True)
    mints = *MINTS, Mint("d", Z, _clock(X)), Mint("d", (A, 3), _clock(Y))
    assert not _accused(_history(*PUTS, delete, BOTH, mints=mints))
    assert not _accused(_history(*PUTS, delete, NONE, mints=mints))


def test_a_dot_is_minted_once() -> None:
    twice = Mint("x", X, EMPTY), Mint("y", X, EMPTY)
    assert ("f", "y") in _accused(_history(*PUTS, BOTH, mints=twice))


def test_where_time_decides_answers_agree_and_copies_hold_everything() -> None:
    again = _operation(102, "h", GET, shown=(Shown("y", Y),))
    assert not _accused(_history(*PUTS, ONE, mints=MINTS, last_write_wins=True))
    assert _accused(_history(*PUTS, ONE, again, mints=MINTS, last_write_wins=True)) == {("d", "")}
    history = _history(*PUTS, ONE, mints=MINTS, last_write_wins=True)
    history.replicas.append(ReplicaCopy(node="n", key="k", siblings=(Shown("x", X),)))
    assert _accused(history) == {("a", "y")}


def test_where_time_decides_a_context_covers_what_was_not_shown() -> None:
    seen = _operation(3, "s", GET, shown=(Shown("x", X),), clock=_clock(X, Y))
    put = _operation(4, "z", PUT, context="s")
    mints = *MINTS, Mint("z", Z, _clock(X, Y))
    history = _history(*PUTS, seen, put, mints=mints, last_write_wins=True)
    history.replicas.append(ReplicaCopy(node="n", key="k", siblings=(Shown("z", Z),)))
    assert not _accused(history)
    history.last_write_wins = False
    assert _accused(history) == {("a", "y")}
