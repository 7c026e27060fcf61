"""Admission: the share of background work against a model of a node on virtual time."""

import random
from collections.abc import Callable

import pytest

from dynamo_core.admission import (
    FLOOR_S,
    QUIET,
    SHARE_FIRST,
    SHARE_MAX,
    SHARE_MIN,
    Admission,
    Busy,
    Latencies,
)

QUIET_S = 0.010


class Node:
    """A node whose operations get slower the more of its time background work takes."""

    def __init__(self, took_s: Callable[[random.Random, float], float], rate: int = 200) -> None:
        self.admission = Admission(0.0)
        self.rate = rate
        self.took_s = took_s
        self.now = 0.0
        self._random = random.Random(1)

    def seconds(self, count: int, background: bool, local: bool = False) -> list[float]:
        """The share after each of so many seconds, with or without background work."""
        shares = []
        for _ in range(count):
            used = self.admission.share if background else 0.0
            for at in range(self.rate):
                took_s = self.took_s(self._random, used)
                if local:
                    self.admission.local.add(took_s)
                else:
                    began = self.now + at / self.rate
                    self.admission.began(began)
                    self.admission.ended(began + min(took_s, 1 / self.rate), took_s)
            self.now += 1.0
            shares.append(self.admission.decide(self.now, used))
        return shares


def _suffers(random: random.Random, used: float) -> float:
    """10 ms when left alone; every tenth operation meets a bite of the background's."""
    return QUIET_S * (1 + 20 * used * (random.random() < 0.1))


def test_the_share_falls_within_seconds_when_background_work_slows_the_foreground() -> None:
    node = Node(_suffers)
    node.seconds(10, background=False)
    node.rate = 0
    assert node.seconds(20, background=True)[-1] == SHARE_MAX, "nobody is disturbed"
    node.rate = 200
    shares = node.seconds(5, background=True)
    assert shares[-1] < 0.1, shares
    steady = node.seconds(120, background=True)
    assert min(steady) >= SHARE_MIN
    # 1 + 20 * share stays near what is tolerated: 1.5 times the quiet p99.
    assert max(steady[20:]) < 0.12
    assert sum(steady[20:]) / 100 > SHARE_MIN, "it tries again and again"


def test_it_never_falls_below_the_floor_and_recovers_afterwards() -> None:
    slow = True
    node = Node(lambda _, used: 0.5 if slow and used > 0.005 else QUIET_S)
    node.seconds(10, background=False)
    shares = node.seconds(30, background=True)
    assert shares[6] <= QUIET
    assert min(shares) >= SHARE_MIN
    slow = False
    node.seconds(30, background=True)
    assert node.admission.share > 0.5


def test_what_only_the_load_makes_slow_becomes_the_new_baseline() -> None:
    level = QUIET_S
    node = Node(lambda _, used: level)
    node.seconds(10, background=True)
    level = 0.2
    assert node.seconds(10, background=True)[4] <= QUIET
    assert node.seconds(60, background=True)[-1] > 0.3, "being quiet has changed nothing"


@pytest.mark.parametrize("local", [False, True])
def test_a_p99_under_the_floor_is_good_whatever_it_was(local: bool) -> None:
    level = 0.0002
    node = Node(lambda _, used: level)
    node.seconds(10, background=False, local=local)
    level = FLOOR_S * 0.8
    assert node.seconds(60, background=True, local=local)[-1] > 0.5


def test_the_work_of_a_replica_counts_as_the_coordinators_does() -> None:
    node = Node(_suffers)
    node.seconds(10, background=False, local=True)
    shares = node.seconds(100, background=True, local=True)[20:]
    assert sum(shares) / len(shares) < 0.12


def test_a_share_that_nobody_used_has_proven_nothing() -> None:
    node = Node(_suffers)
    assert set(node.seconds(100, background=False)) == {SHARE_FIRST}
    node.rate = 0
    node.seconds(20, background=False)
    assert node.admission.share == SHARE_MAX
    node.rate = 200
    node.seconds(50, background=False)
    assert node.admission.share == pytest.approx(SHARE_FIRST)


def test_background_work_for_others_is_not_quiet() -> None:
    """A target that is flooded must not learn the flood as its quiet state."""
    level = QUIET_S
    node = Node(lambda _, used: level)
    node.seconds(10, background=False)
    level = 0.1
    for _ in range(10):
        node.admission.received.began(node.now)
        node.admission.received.ended(node.now + 0.5)
        node.seconds(1, background=False)
    assert node.admission.share == SHARE_MIN
    assert node.admission.coordinated.baseline_s == pytest.approx(QUIET_S, rel=0.25)


def test_p99_of_a_few_is_the_slowest_and_old_seconds_are_forgotten() -> None:
    latencies = Latencies()
    latencies.end_second()
    assert latencies.p99_s() == 0.0
    for took_s in (0.001, 0.002, 0.1):
        latencies.add(took_s)
    latencies.end_second()
    assert 0.1 <= latencies.p99_s() <= 0.125
    for _ in range(200):
        latencies.add(0.001)
    latencies.end_second()
    assert 0.001 <= latencies.p99_s() <= 0.00125, "the last second holds enough"
    for at in range(200):
        latencies.add(0.001 if at % 20 else 0.05)
    latencies.end_second()
    assert 0.05 <= latencies.p99_s() <= 0.0625


@pytest.mark.parametrize("took_s", [0.0, 1e-7, 3.2e-5, 0.001, 0.0049, 1.0, 60.0, 1e9])
def test_a_bucket_is_at_most_a_quarter_above_what_it_counts(took_s: float) -> None:
    latencies = Latencies()
    latencies.add(took_s)
    latencies.end_second()
    p99_s = latencies.p99_s()
    if 8e-6 <= took_s <= 3600:
        assert took_s <= p99_s <= took_s * 1.26
    else:
        assert p99_s > 0


def test_busy_counts_overlapping_activities_once() -> None:
    busy = Busy()
    busy.began(1.0)
    busy.began(1.5)
    busy.ended(2.0)
    assert busy.take_s(3.0) == 2.0
    busy.ended(4.0)
    busy.began(6.0)
    busy.ended(6.5)
    assert busy.take_s(10.0) == 1.5
    assert busy.take_s(11.0) == 0.0
