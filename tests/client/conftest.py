"""Clusters for the client's tests: the fake one, and a real one where nodes can be started."""

from collections.abc import Iterator

import pytest
from tests.client.fake_cluster import FakeCluster
from tests.client.real_cluster import RealCluster, why_no_real_cluster

from dynamo_client.client import Protocol


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    """Three fake nodes, new for each test, because tests hurt them."""
    cluster = FakeCluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def shared_fake() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def shared_real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    why_not = why_no_real_cluster()
    if why_not:
        pytest.skip(why_not)
    cluster = RealCluster(tmp_path_factory.mktemp("real"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(params=["fake-http", "real-http", "real-native"])
def _place(request: pytest.FixtureRequest) -> tuple[str, Protocol]:
    kind, _, protocol = request.param.partition("-")
    return kind, protocol


@pytest.fixture
def protocol(_place: tuple[str, Protocol]) -> Protocol:
    """How `cluster` is to be spoken to; the fake has no native port."""
    return _place[1]


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, _place: tuple[str, Protocol]
) -> FakeCluster | RealCluster:
    """The fake and the real thing; tests use keys of their own and leave no damage."""
    found: FakeCluster | RealCluster = request.getfixturevalue(f"shared_{_place[0]}")
    return found
