"""What the tests of real clusters share: a way to say their figures, and the report of a run.

A test that asks for `scenario` is one of the report, however it ends. After a session with at
least one of them report.html, report.json and junit.xml are in the folder that E2E_REPORT
names (e2e/out), in place of those before. E2E_SEED and E2E_VERSIONS are told in it.
"""

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from e2e.report import Run, Scenario, write
from e2e.report_page import page

Tell = Callable[[str], None]

_RUN = pytest.StashKey[Run]()
_SCENARIO = pytest.StashKey[Scenario]()
_OUR_JUNIT = pytest.StashKey[bool]()


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Tell:
    """Print a line whatever pytest captures: a run without its figures says little."""

    def told(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)
        if line and (scenario := _scenario_of(request.node)) is not None:
            scenario.lines.append(line)

    told("")
    return told


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Scenario:
    """This test's place in the report."""
    found = _scenario_of(request.node)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """The whole session in the report: whoever knows its seed or versions puts them there."""
    return request.config.stash[_RUN]


def _scenario_of(item: pytest.Item) -> Scenario | None:
    """Made at the first look: a test that is skipped never gets its fixtures."""
    if "scenario" not in getattr(item, "fixturenames", ()):
        return None
    if _SCENARIO not in item.stash:
        item.stash[_SCENARIO] = Scenario(item.name)
        item.config.stash[_RUN].scenarios.append(item.stash[_SCENARIO])
    return item.stash[_SCENARIO]


def _folder(config: pytest.Config) -> Path:
    return config.rootpath / os.environ.get("E2E_REPORT", "e2e/out")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest's own junitxml looks whether it has to write anything."""
    seed, versions = os.environ.get("E2E_SEED", ""), os.environ.get("E2E_VERSIONS", "")
    config.stash[_RUN] = Run(began=time.time(), seed=seed, versions=versions)
    config.stash[_OUR_JUNIT] = not getattr(config.option, "xmlpath", None)
    if config.stash[_OUR_JUNIT]:
        config.option.xmlpath = str(_folder(config) / "junit.xml")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Without a scenario there is no report, so what was asked of junitxml is taken back."""
    config = session.config
    scenarios = [item for item in session.items if "scenario" in getattr(item, "fixturenames", ())]
    if (not scenarios or config.option.collectonly) and config.stash[_OUR_JUNIT]:
        junit = config.pluginmanager.get_plugin("junitxml")
        if junit is not None:
            junit.pytest_unconfigure(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if (scenario := _scenario_of(item)) is not None:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        scenario.reported(report.when, report.outcome, report.duration, why)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash[_RUN]
    run.ended = time.time()
    if run.scenarios:
        write(_folder(session.config), run, page(run))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[_RUN].scenarios:
        terminalreporter.write_line(f"report: {_folder(config) / 'report.html'}")
