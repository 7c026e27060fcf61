"""Reaping under power cuts, lost and rolled-back disks: nothing comes back, nothing is lost.

`DYNAMO_MODEL_REAPING` says how many histories of each kind are tried; the default takes seconds.
"""

import os

import pytest
from tests.core import reaping_newcomers
from tests.core.reaping_model import Violation, run, schedule

HISTORIES = int(os.environ.get("DYNAMO_MODEL_REAPING", "120"))


@pytest.mark.parametrize("bad_max", [0, 1, 2])
def test_what_is_reaped_stays_away_and_what_is_acknowledged_stays(bad_max: int) -> None:
    reaped = emptied = 0
    for seed in range(HISTORIES):
        try:
            world = run(seed, bad_max=bad_max)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
        reaped += len(world.reaped)
        emptied += world.deletions
    assert reaped > HISTORIES // 3, "the model hardly ever gets as far as reaping"
    assert emptied or not bad_max, "no copy was ever too old"
    assert not emptied or bad_max, "a copy was deleted though no disk was bad"


def test_one_disk_breaks_at_any_moment_of_a_round() -> None:
    for seed in range(2 * HISTORIES):
        try:
            schedule(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")


@pytest.mark.parametrize("bad_max", [0, 1])
def test_hints_of_members_that_came_after_a_round(bad_max: int) -> None:
    later = 0
    for seed in range(HISTORIES):
        try:
            later += reaping_newcomers.run(seed, bad_max=bad_max).later
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")
    assert later, "the ring of a hint never mattered"


@pytest.mark.parametrize(
    ("fault", "seeds"),
    [("unknown authors", range(15, 120)), ("the round's own ring", range(185, 200))],
)
def test_the_model_catches_what_takes_a_newcomer(fault: str, seeds: range) -> None:
    for seed in seeds:
        try:
            reaping_newcomers.run(seed, frozenset({fault}))
        except Violation:
            return
    pytest.fail(f"{len(seeds)} histories without a violation although {fault!r}")


@pytest.mark.parametrize(
    ("fault", "histories"),
    [
        ("any leaf", 200),
        ("any round", 200),
        ("bytes of before", 200),
        ("late repairs", 100),
        ("old disks count", 50),
        ("older hints", 100),
        ("older writes", 100),
        ("with hints", 100),
        ("without a yes", 50),
    ],
)
def test_the_model_catches_a_rule_left_out(fault: str, histories: int) -> None:
    for seed in range(histories):
        try:
            schedule(seed, frozenset({fault}))
        except Violation:
            return
    pytest.fail(f"{histories} schedules without a violation although {fault!r}")


@pytest.mark.parametrize(
    ("fault", "seeds"),
    [
        ("copies reaped", range(20)),
        ("list dropped", range(20)),
        ("not idempotent", range(260, 400)),
        ("rebuilt whole", range(100, 250)),
        ("rebuilt without", range(3800, 3840)),
        ("takes unsure", range(310, 360)),
    ],
)
def test_the_model_catches_what_takes_a_longer_history(fault: str, seeds: range) -> None:
    for seed in seeds:
        try:
            run(seed, faults=frozenset({fault}))
        except Violation:
            return
    pytest.fail(f"{len(seeds)} histories without a violation although {fault!r}")
