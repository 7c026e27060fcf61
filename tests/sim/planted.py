"""What proves a planted bug caught: the ordinary checks accuse, and are silent without it."""

from collections.abc import Callable, Sequence

import pytest
from tests.sim.loop import SimFailure

from dynamo_core.history_report import Report

Scenario = Callable[[int], Report]
Plant = Callable[[pytest.MonkeyPatch], None]


def innocent(scenario: Scenario, seeds: Sequence[int]) -> None:
    """Without a bug nothing is accused, whatever the seed."""
    for seed in seeds:
        report = scenario(seed)
        assert report.ok, f"seed {seed}\n" + "\n".join(map(str, report.violations))
        assert not report.unchecked


def accused(scenario: Scenario, seeds: Sequence[int], promises: set[str]) -> None:
    """With it, all of these promises are found broken within those seeds."""
    found: set[str] = set()
    failures: list[str] = []
    for seed in seeds:
        try:
            report = scenario(seed)
            found |= {violation.promise for violation in report.violations}
        except SimFailure as error:  # it didn't even heal; the other seeds will tell
            failures.append(str(error))
        if promises <= found:
            return
    pytest.fail(f"accused of {sorted(found)}, wanted {sorted(promises)}; {failures}")
