"""What a run of the scenarios leaves for people: the record, its sums, and the files.

A scenario notes what it did and when, and keeps the reports of its loads; the page lays the
two side by side. Forbidden here: pytest (conftest.py has the hooks), the words and pictures
of the page (`report_page`, `report_chart`), and importing the product.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e.report_load import acknowledged, broken, failed, operations

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
STORY_MAX = 20_000
"""Characters; of a longer one its end is kept, where the reason stands."""


@dataclass(slots=True)
class Event:
    """Something done to the cluster, in Unix seconds; a moment has no end, a fault has one."""

    what: str
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Scenario:
    """One test and what came of it; it failed unless something says that it ended well.

    loads: JSON reports of `dynamo verify`. seconds: of the test itself. budget: requests of
    its loads that may fail. recovery_s: the longest time from the end of a fault until all was
    settled. story: why it failed or was skipped. lines: the figures it told.
    """

    name: str
    events: list[Event] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = FAILED
    seconds: float = 0.0
    budget: int = 0
    recovery_s: float | None = None
    story: str = ""
    lines: list[str] = field(default_factory=list)

    def mark(self, what: str) -> None:
        """A moment: it happens now."""
        self.events.append(Event(what, time.time()))

    @contextmanager
    def fault(self, what: str) -> Iterator[Event]:
        """Something is broken as long as the block lasts, however it ends."""
        event = Event(what, time.time())
        self.events.append(event)
        try:
            yield event
        finally:
            event.ended = time.time()

    def reported(self, phase: str, outcome: str, seconds: float, text: str) -> None:
        """What came of a phase (setup, call, teardown); a failure in any of them is one."""
        if phase == "call" or outcome != PASSED:
            self.seconds += seconds
        if outcome == FAILED or (phase == "call" and outcome == PASSED):
            self.outcome = outcome
        elif outcome == SKIPPED:
            self.outcome = SKIPPED
        if outcome != PASSED:
            self.story = "\n\n".join(filter(None, (self.story, text)))[-STORY_MAX:]


@dataclass(slots=True)
class Run:
    """All scenarios of a session; times in Unix seconds. seed, versions: "" if not told."""

    began: float
    ended: float = 0.0
    seed: str = ""
    versions: str = ""
    scenarios: list[Scenario] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Totals:
    """A run in figures. budget: of the scenarios that had a load."""

    passed: int
    failed: int
    skipped: int
    operations: int
    acknowledged: int
    requests_failed: int
    budget: int
    promises_broken: int
    recovery_s: float | None
    recovery_in: str
    seconds: float


def totals(run: Run) -> Totals:
    found: Sequence[Scenario] = run.scenarios
    loads = [load for scenario in found for load in scenario.loads]
    recoveries = [(s.recovery_s, s.name) for s in found if s.recovery_s is not None]
    slowest = max(recoveries, default=None)
    return Totals(
        passed=sum(s.outcome == PASSED for s in found),
        failed=sum(s.outcome == FAILED for s in found),
        skipped=sum(s.outcome == SKIPPED for s in found),
        operations=sum(map(operations, loads)),
        acknowledged=sum(map(acknowledged, loads)),
        requests_failed=sum(map(failed, loads)),
        budget=sum(s.budget for s in found if s.loads),
        promises_broken=sum(map(broken, loads)),
        recovery_s=slowest[0] if slowest else None,
        recovery_in=slowest[1] if slowest else "",
        seconds=max(0.0, run.ended - run.began),
    )


def document(run: Run) -> dict[str, Any]:
    """All of it, for programs; loads as `dynamo verify` gave them."""
    return {"totals": asdict(totals(run)), **asdict(run)}


def write(folder: Path, run: Run, page: str) -> None:
    """report.html and report.json in place of those of the run before."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(document(run), indent=1), encoding="utf-8")
