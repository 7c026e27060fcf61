"""When a copy counts again: the rule, and its messages."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import recovery
from dynamo_core.errors import Corrupt
from dynamo_core.recovery import Ask, Lack, Page, Verdict, judge

GOOD, UNCLEAN, EMPTY = Lack.NOTHING, Lack.UNCLEAN, Lack.EMPTY


def test_one_of_three_counts_after_both_others() -> None:
    assert judge(EMPTY, {2: GOOD, 3: GOOD}, {2, 3}, w=2) == Verdict(True)
    assert not judge(EMPTY, {2: GOOD, 3: GOOD}, {2}, w=2).counts


def test_schedule_11_one_complete_holder_is_too_few_where_w_is_two() -> None:
    verdict = judge(EMPTY, {2: GOOD, 3: None}, {2}, w=2)
    assert not verdict.counts
    assert "can't be reached" in verdict.waits_for
    assert judge(EMPTY, {2: GOOD, 3: None}, {2}, w=3).counts, "with w=3 everybody has it"


def test_schedule_12_two_of_three_lost_count_together_and_say_so() -> None:
    others = {2: GOOD, 3: EMPTY}
    assert not judge(EMPTY, others, {2}, w=2).counts, "what the other one accepted is merged first"
    assert judge(EMPTY, others, {2, 3}, w=2) == Verdict(True, possible_loss=True)
    assert not judge(EMPTY, {2: EMPTY, 3: None}, {2}, w=2).counts, "the third may have all of it"


def test_who_relies_on_a_doubtful_copy_inherits_the_doubt() -> None:
    assert judge(EMPTY, {2: GOOD, 3: GOOD}, {2, 3}, 2, doubtful={3}) == Verdict(True, True)
    assert judge(EMPTY, {2: GOOD, 3: GOOD}, {2, 3}, 3, doubtful={3}) == Verdict(True)


def test_schedule_22_after_a_power_cut_everywhere_all_must_be_heard() -> None:
    assert not judge(UNCLEAN, {2: UNCLEAN, 3: None}, {2}, w=2).counts
    assert judge(UNCLEAN, {2: UNCLEAN, 3: UNCLEAN}, {2, 3}, w=2) == Verdict(True, True)


def test_schedule_23_if_all_disks_were_empty_only_a_person_can_tell() -> None:
    verdict = judge(EMPTY, {2: EMPTY, 3: EMPTY}, {2, 3}, w=2)
    assert not verdict.counts
    assert "accept-loss" in verdict.waits_for
    assert not judge(EMPTY, {}, set(), w=1).counts, "a single copy, lost"
    assert judge(UNCLEAN, {}, set(), w=1) == Verdict(True, True)


def test_without_possible_loss_every_acknowledged_write_was_merged() -> None:
    # By counting: a write on any W of the N copies, some of which were lost later.
    for n in range(1, 6):
        for w in range(1, n + 1):
            for lacks in itertools.product((GOOD, EMPTY, None), repeat=n - 1):
                others = {i + 2: lack for i, lack in enumerate(lacks)}
                merged = {o for o, lack in others.items() if lack is not None}
                verdict = judge(EMPTY, others, merged, w)
                if not verdict.counts or verdict.possible_loss:
                    continue
                complete = {o for o in merged if others[o] == GOOD}
                for holders in itertools.combinations(range(1, n + 1), w):
                    assert complete & set(holders), (n, w, others, holders)


@given(st.integers(0, 0xFFFF), st.binary(max_size=40), st.booleans())
def test_ask(partition: int, after: bytes, probe: bool) -> None:
    ask = Ask(partition, after, probe)
    assert recovery.unpack_ask(recovery.pack_ask(ask)) == ask


@given(
    st.builds(
        Page,
        st.sampled_from(Lack),
        st.booleans(),
        st.integers(0, 2**64 - 1),
        st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9))),
        st.booleans(),
    )
)
def test_page(page: Page) -> None:
    assert recovery.unpack_page(recovery.pack_page(page)) == page


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_page_that_is_cut_is_refused(cut: int) -> None:
    packed = recovery.pack_page(Page(GOOD, True, 7, [(b"key", b"object-bytes")]))
    assert len(packed) == 31
    if cut in (10, 30):  # nothing after the head, or the whole
        return
    with pytest.raises(Corrupt):
        recovery.unpack_page(packed[:cut])
