"""What the tests of real clusters share: a way to say their figures, and the report of a run.

A test that asks for `scenario` is one of the report, however it ends. After a session with at
least one of them report.html, report.json and junit.xml are in the folder that E2E_REPORT
names (e2e/out), in place of those before. E2E_SEED and E2E_VERSIONS are told in it.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from e2e.dynamo_cluster import Dynamo, dynamo_cluster
from e2e.evidence import folder
from e2e.kube import Kubectl, kube_cluster
from e2e.report import Run, Scenario, write
from e2e.report_page import page

Tell = Callable[[str], None]


class Clusters:
    """Makes the DynamoClusters of one scenario: `with clusters("name", replicas=5) as dynamo`."""

    def __init__(self, kubectl: Kubectl, scenario: Scenario) -> None:
        self.kubectl = kubectl
        self._scenario = scenario

    def __call__(self, name: str, **spec: Any) -> AbstractContextManager[Dynamo]:
        return dynamo_cluster(self.kubectl, self._scenario, name, **spec)


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
def kubectl() -> Iterator[Kubectl]:
    """For the Kubernetes cluster of this session, with the operator installed."""
    with kube_cluster() as found:
        yield found


@pytest.fixture
def clusters(kubectl: Kubectl, scenario: Scenario) -> Clusters:
    """DynamoClusters of this scenario."""
    return Clusters(kubectl, scenario)


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


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest's own junitxml looks whether it has to write anything."""
    seed, versions = os.environ.get("E2E_SEED", ""), os.environ.get("E2E_VERSIONS", "")
    config.stash[_RUN] = Run(began=time.time(), seed=seed, versions=versions)
    config.stash[_OUR_JUNIT] = not getattr(config.option, "xmlpath", None)
    if config.stash[_OUR_JUNIT]:
        config.option.xmlpath = str(folder(config.rootpath) / "junit.xml")


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
        write(folder(session.config.rootpath), run, page(run))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[_RUN].scenarios:
        terminalreporter.write_line(f"report: {folder(config.rootpath) / 'report.html'}")
