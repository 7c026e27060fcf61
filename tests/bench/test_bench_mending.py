"""Mending: the figures of a steady load, the records it is filled with, and where tables go."""

import argparse
import gzip
import json
import math
from itertools import islice
from pathlib import Path

import pytest
from bench import mending, records, report
from bench.__main__ import main
from bench.errors import BenchError, CannotStart
from bench.processes import Children, check_running
from bench.steady import Done, stretch


def test_a_stretch_counts_what_was_due_in_it_and_only_what_succeeded() -> None:
    done = [Done(at / 10, put=at % 2 == 1, took_ms=float(at), ok=True) for at in range(100)]
    done.append(Done(5.0, put=False, took_ms=9999.0, ok=False))
    found = stretch(done, 4.0, 6.0)
    assert (found.seconds, found.operations, found.failed) == (2.0, 21, 1)
    assert (found.get_p50, found.get_p99) == (48.0, 58.0)
    assert (found.put_p50, found.put_p99) == (49.0, 59.0)
    nothing = stretch(done, 50.0, 60.0)
    assert nothing.operations == 0
    assert math.isnan(nothing.get_p50)
    assert mending._figures(nothing)[2:] == ["0", "-", "-", "-", "-"]
    assert mending._over(nothing.get_p99, 1.0) == "-"
    assert mending._over(3.0, 2.0) == "1.5x"


def test_more_records_than_a_file_holds_have_keys_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl.gz"
    with gzip.open(path, "wt") as out:
        for n in range(3):
            out.write(json.dumps({"key": f"k{n}", "value": f"v{n}"}) + "\n")
    found = list(islice(records.read(path, 7), 100))
    assert [key for key, _ in found] == ["k0", "k1", "k2", "k0 1", "k1 1", "k2 1", "k0 2"]
    assert found[4][1] == b"v1"
    with pytest.raises(CannotStart, match="no file"):
        records.read(tmp_path / "other", 1)
    (tmp_path / "empty").touch()
    with pytest.raises(CannotStart, match="holds no records"):
        list(records.read(tmp_path / "empty", 1))


def test_the_page_has_a_place_for_every_scenario(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shipped = Path(mending.__file__).parent.parent / "docs" / "benchmarks.md"
    page.write_text(shipped.read_text())
    outcome = mending.Outcome("Then nothing.", [(["node", "CPU s"], [["n-0", "1.5"]])])
    for scenario in mending.SCENARIOS:
        text = mending.to_markdown("now", outcome, {"CPU": "one"})
        report.write_docs(page, text, *mending.marks(scenario))
    assert page.read_text().count("| n-0 | 1.5 |") == 3
    assert "Conditions: CPU one." in page.read_text()


def test_options_are_those_of_the_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    mending.arguments(parser)
    assert parser.parse_args([]).nodes == 3
    with pytest.raises(SystemExit):
        main(["handoff", "--connections", "1"])
    assert "--connections" in capsys.readouterr().err
    assert main(["idle", "--data", "/nowhere/at all", "--records", "1"]) == 2


def test_a_node_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Children() as children:
        child = children.serve(["sh", "-c", "echo why; exit 3"], tmp_path / "n.log")
        child.wait(10)
        with pytest.raises(BenchError, match=r"n ended with code 3 while it slept(.|\n)*why"):
            check_running({"n": child}, tmp_path, "it slept")
