"""The report of the scenarios: what it adds up, what its pages and pictures show."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from e2e.report import Event, Run, Scenario, document, totals, write
from e2e.report_chart import COLUMNS_MAX, LEFT, RIGHT, chart, nice
from e2e.report_load import columns, gaps
from e2e.report_page import page
from tests.e2e_report.page_reader import Reader

BEGAN = 1_700_000_000.0


def _entry(at: int, operations: int = 100, failed: int = 0, ms: float = 10.0) -> dict[str, Any]:
    ms = ms if operations else 0.0
    return {
        "at": at, "operations": operations, "failed": failed,
        "p50_ms": ms / 2, "p99_ms": ms, "max_ms": 2 * ms,
    }  # fmt: skip


def _load(entries: Iterable[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    timeline = list(entries)
    return {
        "violations": [], "more_violations": 0, "failed_requests": 0,
        "counts": {"writes": 50, "gets": 70, "acknowledged": 48},
        "started_at": BEGAN, "load_s": float(len(timeline)),
        "timeline_width_s": 1, "timeline": timeline, **changes,
    }  # fmt: skip


def _run(*scenarios: Scenario, **changes: Any) -> Run:
    return Run(began=BEGAN - 60, ended=BEGAN + 600, scenarios=list(scenarios), **changes)


def _picture(load: dict[str, Any], *events: Event) -> Reader:
    return Reader(chart(load, events))


def test_a_fault_ends_with_its_block_however_that_ends() -> None:
    scenario = Scenario("test_x")
    scenario.mark("scaled")

    def breaks() -> None:
        with scenario.fault("a pod is gone") as event:
            assert event.ended is None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()
    moment, fault = scenario.events
    assert (moment.what, moment.ended) == ("scaled", None)
    assert fault.what == "a pod is gone"
    assert fault.ended is not None
    assert moment.began <= fault.began <= fault.ended


@pytest.mark.parametrize(
    ("phases", "outcome", "story"),
    [
        ([("setup", "passed"), ("call", "passed"), ("teardown", "passed")], "passed", ""),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], "failed", "call"),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], "failed", "teardown"),
        ([("setup", "failed"), ("teardown", "passed")], "failed", "setup"),
        ([("setup", "skipped"), ("teardown", "passed")], "skipped", "setup"),
        ([("setup", "passed"), ("call", "skipped"), ("teardown", "passed")], "skipped", "call"),
        ([("setup", "passed")], "failed", ""),  # broken off
    ],
)
def test_an_outcome_is_that_of_all_phases(
    phases: list[tuple[str, str]], outcome: str, story: str
) -> None:
    scenario = Scenario("test_x")
    for phase, came in phases:
        scenario.reported(phase, came, 1.0, phase)
    assert (scenario.outcome, scenario.story) == (outcome, story)


def test_totals() -> None:
    broken = _load([_entry(0)], failed_requests=3, violations=[{}, {}], more_violations=1)
    found = totals(
        _run(
            Scenario("a", loads=[_load([_entry(0)]), broken], budget=5, recovery_s=2.0),
            Scenario("b", outcome="passed", recovery_s=7.5, budget=100),
            Scenario("c", outcome="skipped", loads=[{}]),
        )
    )
    assert (found.passed, found.failed, found.skipped) == (1, 1, 1)
    assert (found.operations, found.acknowledged) == (240, 96)
    assert (found.requests_failed, found.budget, found.promises_broken) == (3, 5, 3)
    assert (found.recovery_s, found.recovery_in, found.seconds) == (7.5, "b", 660.0)


def test_files_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write(folder, _run(Scenario("a"), Scenario("b")), "old")
    run = _run(Scenario("c", events=[Event("x", 1.0, 2.0)], loads=[_load([_entry(0)])]), seed="7")
    write(folder, run, page(run))
    assert (folder / "report.html").read_text(encoding="utf-8") == page(run)
    kept = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert kept == document(run)
    assert [scenario["name"] for scenario in kept["scenarios"]] == ["c"]
    assert kept["scenarios"][0]["events"] == [{"what": "x", "began": 1.0, "ended": 2.0}]


def test_a_whole_page() -> None:
    load = _load([_entry(n) for n in range(9)], failed_requests=6)
    good = Scenario("test_pods_killed", [Event("cart-0", BEGAN + 2, BEGAN + 4)], [load], "passed")
    good.budget, good.recovery_s, good.lines = 5, 12.34, ["told: 7"]
    found = Reader(
        page(_run(good, Scenario("test_y", outcome="skipped"), seed="77", versions="v1"))
    )
    assert len(found.of("svg")) == 1
    for words in ("1 scenario passed", "seed 77, v1", "12.3 s", "Pods killed", "told: 7", "6 (5)"):
        assert words in found.text, words
    # Over the budget: in the head and in the row.
    assert [a.get("class") for a in found.of("bad")] == ["bad", "bad"]
    assert {a["href"] for a in found.of("a")} == {f"#{a['id']}" for a in found.of("article")}


def test_a_failure_is_said_in_words_and_open() -> None:
    found = Reader(page(_run(Scenario("test_x", story="it broke"), Scenario("test_y"))))
    assert "✗ 2 of 2 scenarios failed" in found.text
    assert "it broke" in found.text
    assert "It was broken off" in found.text
    assert [a for a in found.of("details") if "open" in a] == found.of("details")


def test_an_empty_run() -> None:
    found = Reader(page(_run()))
    assert "Nothing was tried" in found.text
    assert "No scenario was run" in found.text


def test_nothing_that_a_run_says_is_markup() -> None:
    evil = "\"><script>alert(1)</script><b a='&amp;"
    scenario = Scenario(
        evil, story=evil, lines=[evil], loads=[_load([_entry(n) for n in range(9)])]
    )
    scenario.events = [Event(evil, BEGAN + 1), Event(evil, BEGAN + 2, BEGAN + 3)]
    scenario.outcome = evil
    found = Reader(page(_run(scenario, seed=evil, versions=evil)))  # which refuses <script>
    assert not found.of("b")
    # Row, heading and code of the name; outcome twice; story, line, seed, versions; of each
    # event the row, the words, the title and a tooltip or more.
    assert found.text.lower().count("<script>alert(1)</script>") >= 9 + 2 * 4
    assert evil in str(found.of("svg")[0]["aria-label"])


@pytest.mark.parametrize("load", [{}, {"counts": {"writes": 3}}, _load([]), _load([], load_s=0.0)])
def test_a_load_without_a_timeline(load: dict[str, Any]) -> None:
    found = Reader(page(_run(Scenario("test_x", [Event("x", BEGAN)], [load], "passed"))))
    assert not found.of("svg")
    assert "There is no timeline of this load." in found.text


def test_a_gap_shows() -> None:
    whole = _picture(_load([_entry(n) for n in range(10)]))
    assert not whole.of("gap")
    assert str(whole.of("p99")[0]["d"]).count("M") == 1
    gap = _picture(_load([_entry(n, 0 if 4 <= n < 7 else 100) for n in range(10)]))
    (drawn,) = gap.of("gap")
    wide = RIGHT - LEFT
    assert float(str(drawn["x"])) == pytest.approx(LEFT + 0.4 * wide, abs=0.1)
    assert float(str(drawn["width"])) == pytest.approx(0.3 * wide, abs=0.2)
    assert "3 s without an answer" in gap.text
    assert "nothing returned: 0:04 to 0:07" in gap.text
    assert str(gap.of("p99")[0]["d"]).count("M") == 2  # no line leads through it


def test_a_short_gap_of_a_long_load_shows() -> None:
    load = _load([_entry(n, 0 if n == 1_800 else 100) for n in range(3_600)])
    found = _picture(load)
    assert len(found.of("hit")) <= COLUMNS_MAX
    assert float(str(found.of("gap")[0]["width"])) >= 2
    assert sum(one.operations for one in columns(load, COLUMNS_MAX)) == 359_900


def test_what_is_drawn_together_hides_no_worst() -> None:
    load = _load([_entry(0), _entry(1, failed=2, ms=400.0), _entry(2), _entry(3)])
    first, second = columns(load, 2)
    assert (first.began, first.ended, first.failed) == (0, 2, 2)
    assert (first.p99_ms, first.max_ms, first.rate) == (400.0, 800.0, 100.0)
    assert (second.began, second.ended) == (2, 4)


def test_a_short_last_entry_makes_no_spike() -> None:
    short = _load([_entry(0), _entry(1), _entry(2, operations=8)], load_s=2.02)
    assert [one.operations for one in columns(short)] == [100, 108]
    assert columns(short)[-1].ended == 2.02
    assert [one.ended for one in columns({**short, "load_s": 2.7})] == [1, 2, 2.7]
    hung = _load([_entry(0), _entry(1, operations=0), _entry(2, operations=8)], load_s=2.02)
    assert gaps(hung) == [(1, 2)]  # and it stays one


def test_wide_entries() -> None:
    load = _load([_entry(n) for n in range(0, 20, 4)], timeline_width_s=4, load_s=20.0)
    assert [one.rate for one in columns(load)] == [25.0] * 5
    assert columns(load)[-1].ended == 20


def test_what_failed_is_a_cross_with_its_count() -> None:
    found = _picture(_load([_entry(n, failed=7 if n == 3 else 0) for n in range(10)]))
    assert len(found.of("failed")) == 1
    assert "0:03: 100 operations, 7 requests failed" in found.text
    assert not _picture(_load([_entry(0)])).of("failed")


def test_events_lie_where_they_were() -> None:
    found = _picture(
        _load([_entry(n) for n in range(100)]),
        Event("before", BEGAN - 20, BEGAN - 1),
        Event("partly", BEGAN - 5, BEGAN + 25),
        Event("whole", BEGAN + 50, BEGAN + 75),
        Event("moment", BEGAN + 90),
        Event("after", BEGAN + 101),
    )
    at = [(float(str(a["x"])), float(str(a["width"]))) for a in found.of("fault")]
    quarter = (RIGHT - LEFT) / 4
    expected = [(LEFT, quarter), (LEFT + 2 * quarter, quarter)]
    assert [x for one in at for x in one] == pytest.approx([x for e in expected for x in e], abs=1)
    assert len(found.of("moment")) == 1
    assert "before" not in found.text
    assert "after" not in found.text
    for words in ("whole: 0:50 to 1:15, 25.0 s", "moment: at 1:30"):
        assert words in found.text


def test_words_of_events_touch_no_others() -> None:
    """They begin at once: each has a line of its own, or, when there is none left, only a title."""
    together = [Event(f"the pod {n} was killed", BEGAN + 5, BEGAN + 6) for n in range(40)]
    lines = [a["y"] for a in _picture(_load([_entry(n) for n in range(10)]), *together).of("event")]
    assert len(lines) == len(set(lines)) == 12
    far = [Event("one", BEGAN + 1), Event("two", BEGAN + 50)]
    lines = [a["y"] for a in _picture(_load([_entry(n) for n in range(99)]), *far).of("event")]
    assert len(lines) == 2
    assert len(set(lines)) == 1


def test_a_load_that_knows_no_clock_has_no_events() -> None:
    load = _load([_entry(n) for n in range(10)])
    del load["started_at"]
    assert not _picture(load, Event("x", BEGAN + 1, BEGAN + 2)).of("fault")


def test_a_load_in_which_nothing_returned() -> None:
    found = _picture(_load([_entry(n, operations=0) for n in range(5)]))
    assert len(found.of("gap")) == 1
    assert found.of("p99")[0]["d"] == ""


@pytest.mark.parametrize(("most", "end"), [(0, 1), (1, 1), (149, 200), (201, 500), (0.3, 0.5)])
def test_ends_of_axes(most: float, end: float) -> None:
    assert nice(most) == pytest.approx(end)
