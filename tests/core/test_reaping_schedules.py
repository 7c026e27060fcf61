"""The schedules of reaping that must not lose, step by step, and the messages' bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import get_quorum, reaping
from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.reaping import Answer, Attempt, Circumstances, Prepare, refusal
from dynamo_core.rounds import Kept, Listed, Rounds, State, last_before, next_round
from dynamo_core.versions import Clock

RING = RingName(3, b"r" * 16)
ROW = b"eight by"
ENTRY = Listed(b"d" * 16 + b"key", b"leaf" * 4)
FREE = Circumstances(RING, 0, (), True)


@given(st.integers(1, 2**32 - 2), st.binary(min_size=16, max_size=16), st.integers(1, 2**64 - 1))
def test_rounds_of_a_later_ring_are_above_all_that_were_promised_before(
    epoch: int, id_: bytes, later: int
) -> None:
    ring, after = RingName(epoch, id_), RingName(epoch + 1, later.to_bytes(16, "big"))
    first = next_round(0, ring)
    assert first >> 32 == epoch
    assert next_round(first, ring) == first + 1 == last_before(ring) + 2
    assert next_round(first + 1, after) > last_before(after) > first + 1
    assert not next_round(next_round(first, after), ring), "that ring has to be learned first"
    assert next_round((epoch + 1 << 32) - 2, ring) == (epoch + 1 << 32) - 1
    assert not next_round((epoch + 1 << 32) - 1, ring)


def test_rounds_of_two_rings_of_one_epoch_lie_apart() -> None:
    one, other = (next_round(0, RingName(7, id_ * 16)) for id_ in (b"1", b"2"))
    assert other - one >= 1 << 16


def test_a_round_of_a_later_ring_does_not_end_those_of_this_one() -> None:
    # That ring may be lost with the only member that holds it.
    asked = _prepare(next_round(0, RING))
    attempt = Attempt(asked, (1, 2), (1,))
    later = next_round(0, RingName(RING.epoch + 1, bytes(16)))
    attempt.answered(1, Answer(False, later, reason="holds the ring of epoch 4"))
    assert attempt.highest == asked.reap_round
    attempt.answered(2, Answer(False, asked.reap_round + 7, reason="has taken it"))
    assert next_round(attempt.highest, RING) == asked.reap_round + 8


def _prepare(number: int = 1) -> Prepare:
    return Prepare(5, number, RING, ROW, (ENTRY,))


def _stored() -> tuple[Rounds, dict[bytes, bytes]]:
    """Rounds and the disk that they persist to."""
    disk: dict[bytes, bytes] = {}
    rounds = Rounds()
    rounds.persist = lambda key, value: (
        disk.pop(key, None) if value is None else disk.__setitem__(key, value)
    )
    return rounds, disk


def test_schedule_9_after_a_yes_an_older_hint_is_refused_and_its_sender_says_no() -> None:
    stand_in, sender = Rounds(), Rounds()
    assert refusal(stand_in, _prepare(), FREE) == ""
    stand_in.promise(5, 1)
    assert stand_in.refuses_hint(5, sender.stamp(5))
    # The sender takes the round that it was told, and so can't say yes to it any more.
    sender.take(5, stand_in.stamp(5))
    assert not stand_in.refuses_hint(5, sender.stamp(5))
    assert "taken round 1" in refusal(sender, _prepare(), FREE)
    # A round that not everybody has said yes to leaves older stamps valid at owners.
    assert not stand_in.refuses_write(5, 0)


def test_schedule_9_a_paused_holder_blocks_and_then_its_hint_does() -> None:
    attempt = Attempt(_prepare(), (1, 2, 3, 4), (1, 2, 3))
    for owner in (1, 2, 3):
        attempt.answered(owner, Answer(True, 1, (0,)))
    attempt.answered(4, None)
    assert not attempt.agreed
    assert attempt.blockers == {4: "did not answer"}
    assert "2 hints" in refusal(Rounds(), _prepare(), FREE._replace(hints=2))


def test_who_holds_or_moves_a_slot_without_counting_says_no() -> None:
    assert "half-pulled" in refusal(Rounds(), _prepare(), FREE._replace(slots="a half-pulled copy"))


def test_only_what_all_owners_hold_unchanged_is_listed() -> None:
    other = Listed(b"d" * 16 + b"other", b"l" * 16)
    attempt = Attempt(_prepare()._replace(candidates=(ENTRY, other)), (1, 2, 3, 4), (1, 2, 3))
    for member, holds in ((1, (0, 1)), (2, (0,)), (3, (1, 0)), (4, ())):
        attempt.answered(member, Answer(True, 1, holds))
    assert attempt.decision().entries == (ENTRY,)


def test_schedule_15_a_promise_and_a_list_outlive_a_restart() -> None:
    rounds, disk = _stored()
    rounds.promise(5, 4)
    rounds.promise(5, 7)
    rounds.commit(5, Kept(4, RING, (1, 2), (ENTRY,)))
    again = Rounds()
    again.load(sorted(disk.items()))
    assert again.state(5) == State(7, 4, RING, (7,))
    assert again.kept(5) == Kept(4, RING, (1, 2), (ENTRY,))
    assert again.refuses_write(5, 3)
    assert not again.refuses_write(5, 4)
    assert again.refuses_hint(5, 6)


def test_schedule_20_a_commit_is_obeyed_though_a_later_round_was_promised() -> None:
    """The coordinator's disk died with COMMIT 1 on its way; its new disk asked for 2."""
    got, missed = Rounds(), Rounds()
    for owner in (got, missed):
        owner.promise(5, 1)
    got.commit(5, Kept(1, RING, (1, 3), (ENTRY,)))
    assert "keeps the list of round 1" in refusal(got, _prepare(2), FREE)
    missed.promise(5, 2)
    assert missed.agreed_to(5, 1), "else the list of round 1 is kept for ever"
    missed.commit(5, Kept(1, RING, (3,), (ENTRY,)))
    assert missed.stamp(5) == 2


def test_schedule_20_the_new_disk_takes_over_what_its_holders_promised() -> None:
    """Round 6 was said yes to by both holders, and one of them has committed it."""
    new = Rounds()
    new.join(5, State(6, 6, RING, ()), first=True)
    new.join(5, State(6, 5, RING, (6,)), first=False)
    assert new.committed(5) == 6
    new = Rounds()
    new.join(5, State(6, 5, RING, (6,)), first=True)
    new.join(5, State(7, 5, RING, (6, 7)), first=False)
    assert new.agreed_to(5, 6)
    assert not new.agreed_to(5, 7)
    assert new.agreed(5) == 6


def test_schedule_10_an_old_disk_never_said_yes() -> None:
    returned = Rounds()
    returned.promise(5, 1)
    assert returned.agreed_to(5, 1)
    assert not returned.agreed_to(5, 2)
    assert refusal(returned, _prepare(2), FREE._replace(counts=False)) == (
        "is recovering this partition"
    )


def test_a_round_that_another_coordinators_has_overtaken_changes_nothing() -> None:
    """Two coordinators: both rounds were agreed, and the first decides after it obeyed the second.

    Going back it would say that it is behind, and empty its own copy as too old.
    """
    first = Rounds()
    first.promise(5, 3)
    first.promise(5, 4)
    later = Kept(4, RING, (2,), (ENTRY,))
    first.commit(5, later)
    first.commit(5, Kept(3, RING, (1, 2), ()))
    assert first.committed(5) == 4
    assert first.kept(5) == later


def test_the_list_blocks_the_next_round_until_all_owners_have_confirmed() -> None:
    rounds, disk = _stored()
    rounds.promise(5, 1)
    rounds.commit(5, Kept(1, RING, (1, 2, 3), (ENTRY,)))
    rounds.confirmed(5, 1, (1, 2))
    assert "unconfirmed by nodes 3" in refusal(rounds, _prepare(2), FREE)
    rounds.confirmed(5, 2, (3,))
    assert rounds.kept(5) is not None
    rounds.confirmed(5, 1, (3,))
    assert rounds.kept(5) is None
    assert refusal(rounds, _prepare(2), FREE) == ""
    assert len(disk) == 1


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (FREE._replace(ring=RingName(4, b"s" * 16)), "ring of epoch 4"),
        (FREE._replace(marked=(2, 3)), "nodes 2, 3 are marked"),
        (FREE._replace(counts=False), "recovering"),
    ],
)
def test_why_a_member_says_no(here: Circumstances, why: str) -> None:
    assert why in refusal(Rounds(), _prepare(), here)


@pytest.mark.parametrize(("committed", "ready"), [(0, False), (4, False), (5, True)])
def test_schedule_24_a_floor_from_before_the_reaping(committed: int, ready: bool) -> None:
    floor = Clock({b"a" * 16: 9})
    get = get_quorum.GetQuorum((1, 2, 3), (4,), 1, 1, lambda node: True, floor, 4, 2)
    get.start()
    get.replied(1, None, None, 5, committed)
    assert not get.ready, "one owner alone may be the one that missed the write"
    get.replied(2, None, None, 5, committed)
    assert get.ready is ready


U64 = st.integers(0, 2**64 - 1)
ENTRIES = st.lists(
    st.builds(Listed, st.binary(min_size=17, max_size=60), st.binary(min_size=16, max_size=16)),
    max_size=4,
).map(tuple)
NODES = st.lists(st.integers(1, 2**32 - 1), max_size=3).map(tuple)
RINGS = st.builds(RingName, U64, st.binary(min_size=16, max_size=16))
KEPT = st.builds(Kept, U64, RINGS, NODES, ENTRIES)
STATES = st.builds(State, U64, U64, RINGS, st.lists(U64, max_size=4).map(tuple))
PARTITIONS = st.integers(0, 0xFFFF)


@given(st.builds(Prepare, PARTITIONS, U64, RINGS, st.binary(min_size=8, max_size=8), ENTRIES))
def test_prepare(prepare: Prepare) -> None:
    assert reaping.unpack_prepare(reaping.pack_prepare(prepare)) == prepare


@given(U64, st.lists(st.integers(0, 499), max_size=5).map(tuple), st.text(max_size=20))
def test_answers(taken: int, holds: tuple[int, ...], reason: str) -> None:
    for answer in (Answer(True, taken, holds), Answer(False, taken, (), reason)):
        assert reaping.unpack_answer(reaping.pack_answer(answer)) == answer


@given(PARTITIONS, KEPT)
def test_commit(partition: int, kept: Kept) -> None:
    assert reaping.unpack_commit(reaping.pack_commit(partition, kept)) == (partition, kept)


@given(st.binary(max_size=80))
def test_anything_else_is_corrupt(data: bytes) -> None:
    for unpack in (
        reaping.unpack_prepare,
        reaping.unpack_answer,
        reaping.unpack_commit,
    ):
        try:
            unpack(data)
        except Corrupt:
            continue
