"""Reports from made-up samples: ratios first, JSON that reads back, the page in docs/."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from bench.errors import BenchError
from bench.figures import Sample
from bench.report import BEGIN, END, Report, show, to_json, to_markdown, write_docs
from rich.console import Console

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def sample(
    contender: str, round_: int, rate: float, generators: int = 1, rest: float = 0.02
) -> Sample:
    servers = {f"{contender}-{number}": 1.0 / (number + 1) for number in range(3)}
    return Sample(contender, "put", 16, round_, 9, rate, 1.5, 1.25, 7.0, generators, 0.4,
                  servers, rest)  # fmt: skip


@pytest.fixture
def report() -> Report:
    samples = [
        *(sample("store", 1, 6000, 16), sample("etcd", 1, 3000)),
        *(sample("store", 2, 4500, 16), sample("etcd", 2, 3000)),
    ]
    return Report("store", "etcd", "2025-01-02 03:04 UTC", {"CPU": "some, 2 cores"}, samples)


def test_markdown_starts_with_the_ratios(report: Report) -> None:
    text = to_markdown(report)
    tables = [block for block in text.split("### ") if "| ---" in block]
    assert tables[0].startswith("Requests per second, store against etcd")
    assert "| put, 16 | 1.75x | 1.50-2.00 | 5,250 | 3,000 |" in tables[0]
    assert "| put, 16 | 1.50 | 1.50 | 1.25 | 1.25 | 7.00 | 7.00 |" in tables[1]
    assert "| put, 16 | store | 1.00 | 0.50 + 0.33 | 0.40 in 16 | 0.02 |" in tables[2]
    assert "| CPU | some, 2 cores |" in tables[3]
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) == 1


def test_other_work_on_the_machine_is_said(report: Report) -> None:
    assert not report.disturbed
    assert "Disturbed" not in to_markdown(report)
    samples = [sample("store", 1, 6000, rest=0.9), sample("etcd", 1, 3000)]
    busy = Report(report.ours, report.peer, report.at, {}, samples)
    assert "in 1 of 2 cells" in busy.disturbed
    assert "up to 0.90" in to_markdown(busy)


def test_json_holds_every_sample(report: Report) -> None:
    read = json.loads(to_json(report))
    assert read["format"] == 1
    assert read["rows"][0]["ratio"] == {"median": 1.75, "low": 1.5, "high": 2.0}
    assert [s["requests_per_s"] for s in read["samples"]] == [6000, 3000, 4500, 3000]
    assert read["conditions"] == {"CPU": "some, 2 cores"}


def test_the_terminal_shows_the_same_figures(report: Report) -> None:
    console = Console(file=io.StringIO(), width=140)
    show(report, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    assert text.index("1.75x") < text.index("7.00")
    assert "some, 2 cores" in text


def test_docs_change_between_their_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs(page, "new\n")
    write_docs(page, "newer\n")
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(BenchError, match="lacks the lines"):
        write_docs(page, "new")
    assert page.read_text() == text


def test_the_page_in_docs_has_its_marks() -> None:
    text = PAGE.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
