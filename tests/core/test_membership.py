"""Membership: versions decide, everybody comes to know the same, and nothing hostile gets in."""

import contextlib
import dataclasses
from random import Random

import pytest
from bench.gossip import Simulated, measure
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core import gossip_messages as messages
from dynamo_core.errors import Corrupt
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.gossip_messages import (
    DISK_LOST,
    JOINED,
    LEFT,
    STARTED,
    Delta,
    Entry,
    Event,
    Facts,
)
from dynamo_core.membership import (
    DEPARTED_MAX,
    FIGURES_S,
    LOG_EVENTS_MAX,
    Membership,
    next_generation,
    pick,
    shown_state,
    unseen,
)

RING = RingName(3, b"r" * 16)
FACTS = Facts("up", b"incarn-1", 10, 0, RING)


def member(number: int, members: int = 3, generation: int = 1 << 16) -> Membership:
    made = Membership(generation + number)
    made.ring(number, range(1, members + 1))
    made.say(FACTS, 0.0)
    return made


def exchange(caller: Membership, called: Membership) -> bool:
    """One round; whether anything had to be told."""
    ring, message = caller.follow(called.answer(caller.open(), RING))
    assert ring == RING
    if message is not None:
        caller.conclude(called.answer(message, RING))
    return message is not None


def test_two_that_differ_know_the_same_after_one_round_and_then_say_next_to_nothing() -> None:
    a, b = member(1), member(2)
    a.enter(STARTED, 1, a.generation, b"incarn-1", 5)
    b.enter(LEFT, 3, 7, bytes(8), 4)
    assert exchange(a, b)
    assert a.digest == b.digest
    assert b.facts(1) == FACTS
    assert [e.kind for e in a.events()] == [e.kind for e in b.events()] == [STARTED, LEFT]
    assert not exchange(b, a)
    assert len(a.open()) + len(b.answer(a.open(), RING)) < 40


def test_of_two_versions_the_higher_holds_whatever_the_order() -> None:
    old, new = member(1), member(1, generation=5 << 16)
    new.say(FACTS._replace(state="leaving"), 0.0)
    for told in ((old, new), (new, old)):
        listener = member(2)
        for source in told:
            listener.answer(source.tell(), RING)
        found = listener.facts(1)
        assert found is not None
        assert found.state == "leaving"


def test_a_node_that_others_know_under_a_higher_generation_goes_above_it() -> None:
    before, peer = member(1, generation=9 << 16), member(2)
    before.enter(STARTED, 1, before.generation, b"incarn-1", 1)
    exchange(before, peer)
    after = member(1)  # its disk was wiped or rolled back
    after.say(FACTS._replace(state="recovering", incarnation=b"incarn-2"), 0.0)
    after.enter(STARTED, 1, after.generation, b"incarn-2", 2)
    first = after.generation
    exchange(after, peer)
    assert after.generation > before.generation > first
    exchange(after, peer)
    found = peer.facts(1)
    assert found is not None
    assert (found.state, found.incarnation) == ("recovering", b"incarn-2")
    started = [e.incarnation for e in peer.events() if e.kind == STARTED]
    assert started[0] == b"incarn-1"
    assert started[-1] == b"incarn-2"
    assert after.digest == peer.digest


def test_two_lives_that_count_alike_still_differ() -> None:
    assert next_generation(0, 1) != next_generation(0, 2)
    assert next_generation(next_generation(0, 0xFFFF), 0) > next_generation(0, 0xFFFF)
    assert next_generation(messages.GENERATION_MAX, 5) == messages.GENERATION_MAX


def test_a_generation_that_nothing_is_above_is_left_alone() -> None:
    a = member(1)
    top = messages.GENERATION_MAX
    a.answer(messages.pack_delta(Delta(entries=(Entry(1, top, 1, FACTS),))), RING)
    assert a.generation < top
    assert a.facts(1) == FACTS


def test_figures_are_told_rarely_and_states_at_once() -> None:
    a = member(1)
    assert not a.say(FACTS._replace(keys=11), 1.0)
    assert a.say(FACTS._replace(keys=11, hints_pending=1), 1.0), "hints where there were none"
    assert not a.say(FACTS._replace(keys=12, hints_pending=2), 2.0)
    assert a.say(FACTS._replace(keys=12, hints_pending=2, state="leaving"), 2.0)
    assert a.say(FACTS._replace(keys=99, hints_pending=2, state="leaving"), 2.0 + FIGURES_S)
    assert not a.say(FACTS._replace(keys=99, hints_pending=2, state="leaving"), 99.0)


def test_a_share_that_halves_and_a_full_disk_are_told_at_once() -> None:
    a = member(1)
    assert not a.say(FACTS._replace(share_percent=51), 1.0)
    assert a.say(FACTS._replace(share_percent=50), 1.0)
    assert not a.say(FACTS._replace(share_percent=90), 1.5), "more can wait"
    assert a.say(FACTS._replace(share_percent=50, read_only=True), 2.0)


def test_strangers_get_no_entry_and_logs_are_bounded() -> None:
    a = member(1)
    stranger = Entry(9, 1, 1, FACTS)
    flood = tuple(
        Event(author, 1, n, STARTED, author, 1, b"incarn-9", 0)
        for author in range(1, 400)
        for n in range(1, 40)
    )
    a.answer(messages.pack_delta(Delta(entries=(stranger,), events=flood)), RING)
    assert a.facts(9) is None
    assert len(a.events()) == (3 + DEPARTED_MAX) * LOG_EVENTS_MAX[STARTED]
    for at in range(100):
        a.enter(DISK_LOST, 1, at, bytes(8), 0)
    assert sum(e.author == 1 for e in a.events()) == (
        LOG_EVENTS_MAX[STARTED] + LOG_EVENTS_MAX[DISK_LOST]
    )
    kept = {(e.author, e.generation, e.counter) for e in a.kept}
    dropped = {(e.author, e.generation, e.counter) for e in a.dropped}
    assert kept - dropped == {(e.author, e.generation, e.counter) for e in a.events()}


def test_a_node_that_was_started_often_joined_when_it_joined() -> None:
    events: list[Event] = []
    peer = member(2)
    for life in range(1, 40):
        a = Membership(life << 16, events)
        a.ring(1, (1, 2, 3))
        a.enter(JOINED, 1, 1, bytes(8), life * 1000)
        a.enter(LEFT, 3, 5, bytes(8), life * 1000)
        a.enter(STARTED, 1, a.generation, b"incarn-1", life * 1000)
        a.say(FACTS, 0.0)
        exchange(a, peer)
        assert a.digest == peer.digest
        events = a.events()
        assert [e.wall_ms for e in events if e.kind in (JOINED, LEFT)] == [1000, 1000]
    assert [e.wall_ms // 1000 for e in events if e.kind == STARTED] == list(range(33, 40))


def test_an_event_is_entered_once_and_survives_a_restart() -> None:
    a = member(1)
    for _ in range(3):
        a.enter(LEFT, 2, 4, bytes(8), 1)
    assert len(a.events()) == 1
    again = Membership(2 << 16, [messages.unpack_event(messages.pack_event(e)) for e in a.kept])
    again.ring(1, (1, 2, 3))
    again.enter(LEFT, 2, 4, bytes(8), 99)
    assert again.events() == a.events()
    assert again.kept == []


def test_messages_are_bounded_in_a_torn_cluster_of_1000_and_everything_arrives() -> None:
    a, b = (Membership(generation << 16) for generation in (1, 2))
    everybody = range(1, 1001)
    for number, one in ((1, a), (2, b)):
        one.ring(number, everybody)
        one.say(FACTS, 0.0)
    # Half of them reach nobody of the other half, and each has a full log.
    halves = everybody[::2], everybody[1::2]
    known = Delta(
        entries=tuple(
            Entry(n, 5, 1, FACTS._replace(unreachable=tuple(halves[n % 2]))) for n in everybody[2:]
        ),
        events=tuple(
            Event(n, 5, at, STARTED, n, at, b"incarn-9", 1_700_000_000_000)
            for n in everybody
            for at in range(1, LOG_EVENTS_MAX[STARTED] + 1)
        ),
    )
    a.answer(messages.pack_delta(known), RING)
    longest, rounds = 0, 0
    while a.digest != b.digest:
        caller, called = (a, b) if rounds % 2 else (b, a)
        _, message = caller.follow(called.answer(caller.open(), RING))
        assert message is not None
        reply = called.answer(message, RING)
        caller.conclude(reply)
        longest, rounds = max(longest, len(message), len(reply)), rounds + 1
        assert rounds < 20
    assert 50_000 < longest < 400_000
    assert len(b.events()) == LOG_EVENTS_MAX[STARTED] * 1000


numbers = st.integers(1, messages.U32_MAX)
facts = st.builds(
    Facts,
    st.sampled_from(messages.STATES),
    st.binary(min_size=8, max_size=8),
    st.none() | st.integers(0, messages.U64_MAX - 1),
    st.integers(0, messages.U64_MAX),
    st.builds(RingName, st.integers(0, messages.U64_MAX), st.binary(min_size=16, max_size=16)),
    st.integers(0, messages.U32_MAX),
    st.integers(0, 100),
    st.sets(numbers, max_size=20).map(lambda found: tuple(sorted(found))),
    st.booleans(),
)
generations = st.integers(0, messages.GENERATION_MAX)
entries = st.builds(Entry, numbers, generations, numbers, facts)


@given(st.lists(entries, max_size=5), st.sets(numbers, max_size=5))
def test_a_delta_comes_back_as_it_went(found: list[Entry], wanted: set[int]) -> None:
    wants = tuple(sorted(wanted))
    delta = Delta(wants, wants, tuple(found))
    assert messages.unpack_delta(messages.pack_delta(delta)) == delta


@given(st.binary(max_size=80), st.integers(1, 4))
def test_noise_is_corrupt_or_harmless(noise: bytes, step: int) -> None:
    a = member(1)
    for use in (lambda data: a.answer(data, RING), a.follow, a.conclude):
        for data in (noise, bytes((step,)) + noise):
            with contextlib.suppress(Corrupt):
                use(data)


def test_every_cut_and_every_flipped_bit_of_a_message_is_corrupt_or_harmless() -> None:
    a, b = member(1), member(2)
    b.enter(STARTED, 2, 5, b"incarn-2", 7)
    _, message = b.follow(a.answer(b.open(), RING))
    assert message is not None
    rng = Random(1)
    for at in range(len(message)):
        with pytest.raises(Corrupt):
            member(1).answer(message[:at], RING)
        spoiled = bytearray(message)
        spoiled[at] ^= 1 << rng.randrange(8)
        with contextlib.suppress(Corrupt):
            member(1).answer(bytes(spoiled), RING)


@pytest.mark.parametrize(
    ("link", "said", "seen", "shown"),
    [
        ("up", None, False, "up"),
        ("up", "recovering", False, "recovering"),
        ("up", "leaving", True, "leaving"),
        ("suspect", "recovering", True, "suspect"),
        ("down", "up", True, "suspect"),
        ("down", "leaving", False, "down"),
    ],
)
def test_what_is_shown_of_a_member(link: str, said: str | None, seen: bool, shown: str) -> None:
    assert shown_state(link, said, seen) == shown


def test_down_is_whom_nobody_reaches() -> None:
    two, three = FACTS._replace(unreachable=(5,)), FACTS._replace(unreachable=(4, 5))
    assert unseen([4, 5], [two, three]) == {5}
    assert unseen([4, 5], [three]) == {4, 5}
    assert unseen([4, 5], []) == {4, 5}, "without witnesses nobody is seen"
    assert unseen([], [two]) == set()


def test_pick_follows_the_bytes_and_not_the_order() -> None:
    assert pick([], bytes(8)) is None
    assert {pick({3, 1, 2}, bytes([*bytes(7), n])) for n in range(3)} == {1, 2, 3}


def test_news_reach_everybody_in_rounds_that_grow_with_the_logarithm() -> None:
    few, many = measure(8), measure(64)
    assert many.rounds_one <= 9
    assert many.rounds_all <= 9
    assert many.bytes_quiet == few.bytes_quiet < 128, "nothing new costs the same at any size"
    assert many.bytes_busy < 1500
    assert dataclasses.replace(measure(8)) == few, "the same seed, the same run"


def test_a_member_that_was_cut_off_catches_up() -> None:
    simulated = Simulated(12)
    simulated.rounds_until_agreed()
    away = simulated.members.pop(12)
    for number in range(1, 12):
        member_facts = simulated.members[number].facts(number)
        assert member_facts is not None
        simulated.members[number].say(member_facts._replace(state="leaving"), 99.0)
    simulated.rounds_until_agreed()
    simulated.members[12] = away
    simulated.rounds_until_agreed()
    assert all((f := away.facts(n)) is not None and f.state == "leaving" for n in range(1, 12))


def test_who_has_no_ring_says_so() -> None:
    ring, message = member(1).follow(Membership(1).answer(member(1).open(), NO_RING))
    assert ring == NO_RING
    assert message is not None
