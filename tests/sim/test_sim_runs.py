"""The simulator itself: runs follow from their seed, and a few seeds in every test run."""

import gc
import os
import subprocess
import sys
import time

import pytest
from tests.sim.loop import SimTask
from tests.sim.run import run

SEEDS = range(20)
FRESH = 15


def test_a_run_follows_from_its_seed() -> None:
    assert run(7).digest == run(7).digest
    assert run(7).digest != run(8).digest


def test_a_trace_changes_nothing() -> None:
    traced = run(3, trace=True)
    assert traced.trace
    assert traced.digest == run(3).digest


def test_a_run_leaves_nothing_behind() -> None:
    # What was cut off and cleaned up behind itself lived on in the thread's own loop: ten
    # thousand seeds took more than a gigabyte, and most of the time went into looking through it.
    def tasks() -> int:
        gc.collect()
        return sum(isinstance(one, SimTask) for one in gc.get_objects())

    before = tasks()
    for seed in (5, 15):
        run(seed)
    assert tasks() <= before


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_run_follows_from_its_seed_in_another_process(hash_seed: str) -> None:
    code = "from tests.sim.run import run; print(*(run(seed).digest for seed in (3, 11, 12)))"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stdout.split() == [run(seed).digest for seed in (3, 11, 12)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_known_seed_is_clean(seed: int) -> None:
    assert not run(seed).failure


def test_fresh_seeds_are_clean() -> None:
    start = time.time_ns() // 1_000_000
    for seed in range(start, start + FRESH):
        result = run(seed)
        assert not result.failure, f"make sim SEED={seed}\n{result.failure}"
