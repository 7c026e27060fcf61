"""Cells on a machine that has other work: what began too late is measured again, later.

A benchmark refuses a cell whose generators weren't all at work when its window began.
That is right, and says nothing about what the tests are about.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.contender import Cell, Load
from bench.errors import BenchError
from bench.figures import Sample
from bench.measure import Timing, measure
from bench.processes import Children

LEADS_S = (0.2, 1.0, 5.0)
WINDOW_S = 0.4
TOO_LATE = ("it started late, or the server stalled", "the machine is overloaded")


def measured(
    children: Children,
    load: Callable[[Cell], Load],
    folder: Path,
    operation: str,
    connections: int,
    streams: int = 1,
    round_: int = 1,
) -> Sample:
    """Measure that cell; each try is a round of its own, so that its keys are new."""
    for again, lead_s in enumerate(LEADS_S):
        timing = Timing(lead_s, WINDOW_S)
        cell = Cell(operation, connections, round_ + 100 * again, streams, timing.load_s(streams))
        try:
            return measure(children, "contender", cell, load(cell), timing, folder)
        except BenchError as error:
            if lead_s == LEADS_S[-1] or not str(error).endswith(TOO_LATE):
                raise
    raise AssertionError("the last try returns or raises")
