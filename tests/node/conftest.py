"""What tests of a node begin with: a store, a replica, and clusters of real nodes.

When a test fails, it shows what the open clusters' nodes logged.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.node.hooked_rocksdb import HookedRocksDB
from tests.node.node_processes import Cluster
from tests.node.opened_stores import Opener

from dynamo_node import storage
from dynamo_node.disk import Disk
from dynamo_node.replica import Replica
from dynamo_node.storage import StorageError, Store

_MEMORY_BYTES = 16 << 20
_NUMBERS = count()
_OPEN: list[Cluster] = []


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    found = Store(tmp_path / "db", sync=True, memory_bytes=_MEMORY_BYTES)
    yield found
    await found.close()


@pytest.fixture
def replica(store: Store) -> Replica:
    """A new disk's, in a ring of 16 partitions."""
    found = Replica(Disk(store, "00" * 16, fresh=True))
    found.ring_has(16)
    return found


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Open the test's store, hooked; what is left open is closed."""
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    stores: list[Store] = []

    def open_store(sync: bool = True) -> tuple[Store, HookedRocksDB]:
        store = Store(tmp_path / "db", sync=sync, memory_bytes=_MEMORY_BYTES)
        stores.append(store)
        db: Any = store._db
        return store, db

    yield open_store
    for store in stores:
        db: Any = store._db
        db.sync_gate.set()
        db.get_gate.set()
        db.fail_write = db.fail_sync = lambda: None
        with suppress(StorageError):
            await store.close()


@pytest.fixture
def key() -> bytes:
    """A key that no other test has."""
    return b"contract %d/\xff" % next(_NUMBERS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes shared by a module, N/R/W 3/2/2; tests use keys of their own and heal it.

    In the end all live, answer and see each other, and no log holds a traceback: what the
    tests did left no mark, whichever of a module's tests this process was given.
    """
    found = Cluster(tmp_path_factory.mktemp("shared"))
    _OPEN.append(found)
    try:
        found.start()
        yield found
        found.assert_clean()
        found.wait_whole()
    finally:
        found.close()
        _OPEN.remove(found)


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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for cluster in _OPEN:
            for name, tail in cluster.tails():
                report.sections.append((f"log of {name}", tail))
