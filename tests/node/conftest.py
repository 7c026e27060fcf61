"""Clusters of real nodes for tests; when one fails, it shows what the nodes logged."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.node.node_processes import Cluster

_OPEN: list[Cluster] = []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes shared by a module, N/R/W 3/2/2; tests use keys of their own and heal it."""
    yield from _opened(Cluster(tmp_path_factory.mktemp("shared")))


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of its own: `make_cluster(nodes=3, replication=3, **settings)`."""
    made: list[Cluster] = []

    def make(nodes: int = 3, replication: int = 3, **settings: Any) -> Cluster:
        folder = tmp_path / f"cluster{len(made)}"
        folder.mkdir()
        quorum = min(2, replication)  # a ring that r or w can't be served with is refused
        settings.setdefault("quorum", {"r": quorum, "w": quorum})
        found = Cluster(folder, nodes, **settings)
        made.append(found)
        _OPEN.append(found)
        found.start(replication)
        return found

    try:
        yield make
    finally:
        for found in made:
            found.close()
            _OPEN.remove(found)


def _opened(cluster: Cluster) -> Iterator[Cluster]:
    _OPEN.append(cluster)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        _OPEN.remove(cluster)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for cluster in _OPEN:
            for name, tail in cluster.tails():
                report.sections.append((f"log of {name}", tail))
