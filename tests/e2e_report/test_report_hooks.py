"""What a session of pytest with e2e/conftest.py leaves: the report of its scenarios, or nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.e2e_report.page_reader import Reader

ROOT = Path(__file__).resolve().parents[2]

SCENARIOS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no cluster")

def test_good(scenario, tell, run):
    run.versions = "kubernetes 1.36"
    tell("it took 3 s")
    with scenario.fault("a pod is gone"):
        pass

def test_bad(scenario):
    scenario.budget = 4
    assert 1 == 2, "the reason"

@pytest.mark.skipif(True, reason="no second image")
def test_left_out(scenario):
    pass

def test_without_a_cluster(broken, scenario):
    pass

def test_of_something_else(tell):
    tell("nothing of it")
"""


def _session(folder: Path, tests: str, *flags: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "e2e" / "conftest.py", folder)
    (folder / "test_it.py").write_text(tests)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "E2E_REPORT": "left", "E2E_SEED": "4711"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_session_with_scenarios(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "junit.xml").write_text("old")
    done = _session(tmp_path, SCENARIOS)
    assert done.returncode == 1, done.stdout
    assert "it took 3 s" in done.stdout
    assert "left/report.html" in done.stdout

    kept = json.loads((tmp_path / "left" / "report.json").read_text())
    assert (kept["seed"], kept["versions"]) == ("4711", "kubernetes 1.36")
    assert kept["began"] <= kept["ended"]
    good, bad, left_out, clusterless = kept["scenarios"]
    assert (good["name"], good["outcome"], good["lines"]) == (
        "test_good",
        "passed",
        ["it took 3 s"],
    )
    assert good["events"][0]["ended"] >= good["events"][0]["began"] >= kept["began"]
    assert (bad["outcome"], bad["budget"]) == ("failed", 4)
    assert "the reason" in bad["story"]
    assert left_out["outcome"] == "skipped"
    assert "no second image" in left_out["story"]
    assert clusterless["outcome"] == "failed"
    assert "no cluster" in clusterless["story"]

    page = Reader((tmp_path / "left" / "report.html").read_text(encoding="utf-8"))
    assert "2 of 4 scenarios failed" in page.text
    suite = ElementTree.parse(tmp_path / "left" / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == list("5111")


def test_a_session_without_leaves_nothing(tmp_path: Path) -> None:
    done = _session(tmp_path, "def test_of_something_else(tell):\n    tell('x')\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "left").exists()
    assert "report:" not in done.stdout


def test_scenarios_that_are_only_listed_leave_nothing(tmp_path: Path) -> None:
    assert _session(tmp_path, SCENARIOS, "--collect-only").returncode == 0
    assert not (tmp_path / "left").exists()


def test_a_junit_file_that_was_asked_for_stays_where_it_was_asked_for(tmp_path: Path) -> None:
    _session(tmp_path, SCENARIOS, "--junit-xml", "mine.xml", "-k", "good")
    assert (tmp_path / "mine.xml").exists()
    assert sorted(path.name for path in (tmp_path / "left").iterdir()) == [
        "report.html", "report.json",
    ]  # fmt: skip
