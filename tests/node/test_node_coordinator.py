"""The coordinator of a node alone: each operation is answered exactly once, whatever breaks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.node.hooked_rocksdb import HookedRocksDB

from dynamo_core.actors import Minter
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.ring import Member, position
from dynamo_core.slot_table import SlotTable
from dynamo_core.wire import Op, Operation
from dynamo_node import storage
from dynamo_node.config import parse
from dynamo_node.coordinator import Coordinator
from dynamo_node.disk import Disk
from dynamo_node.replica import Replica
from dynamo_node.storage import HINTS, OBJECTS, Store
from dynamo_node.topology import Topology

pytestmark = pytest.mark.timeout(20)


class Alone(NamedTuple):
    coordinator: Coordinator
    store: Store
    db: Any
    answers: list[Outcome]

    def operate(self, operation: Operation, timeout_ms: int = 200) -> None:
        self.coordinator.operate(operation, timeout_ms, self.answers.append)

    async def settled(self) -> list[Outcome]:
        """All answers, when every deadline has passed."""
        await asyncio.sleep(0.4)
        return self.answers


@pytest.fixture
async def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Alone]:
    monkeypatch.setattr(storage, "Rdict", HookedRocksDB)
    config = parse(
        {
            "cluster": {"name": "c", "id": "ab" * 16},
            "keys": [{"id": 1, "secret": "cd" * 32}],
            "node": {"name": "n"},
            "data_dir": str(tmp_path),
            "quorum": {"r": 1, "w": 1},
            "timing": {"hedge_ms": 50, "straggler_ms": 50},
        }
    )
    store = Store(tmp_path / "db", sync=True, memory_bytes=16 << 20)
    disk = Disk(store, "00" * 16, fresh=True)
    candidate = Candidate("n", "", "1", "127.0.0.1", 1, 2, 3, disk.disk_id)
    ring = first_ring("ab" * 16, "c", [candidate], 1, 16, "2026-01-01T00:00:00Z")
    topology = Topology()
    topology.table = SlotTable(ring.partitions)
    topology.table.adopt(ring)
    topology.counting.update(range(ring.partitions))
    topology.adopt(ring, 1, lambda number: pytest.fail("no peers"))
    replica = Replica(disk)
    replica.minter = Minter(1, b"incarn-1", 1, 1 << 30)
    db: Any = store._db
    yield Alone(Coordinator(config, topology, replica), store, db, [])
    db.sync_gate.set()
    db.fail_sync = lambda: None
    await store.close()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a thread's progress is polled
            await asyncio.sleep(0.001)


def _get(key: bytes) -> Operation:
    return Operation(Op.GET, key)


def _put(key: bytes, value: bytes = b"v") -> Operation:
    return Operation(Op.PUT, key, value=value)


async def test_put_get_delete(alone: Alone) -> None:
    for operation in (_put(b"k"), _get(b"k"), Operation(Op.DELETE, b"k"), _get(b"k")):
        alone.operate(operation)
        await _until(lambda: alone.coordinator.in_flight == 0)
    assert [a.kind for a in await alone.settled()] == [
        Kind.WRITTEN,
        Kind.VALUES,
        Kind.WRITTEN,
        Kind.ABSENT,
    ]


class _Down(NamedTuple):
    """A link to a node that can't be reached."""

    member: Member
    healthy: bool = False


@pytest.mark.parametrize("forwarded", [False, True])
async def test_a_leaver_that_holds_nothing_of_a_key_writes_nothing_down(
    alone: Alone, forwarded: bool
) -> None:
    """It may have been found drained a moment ago: its copy would go with it, acknowledged."""
    topology = alone.coordinator.topology
    old = topology.ring
    assert old is not None
    me = old.members[0]
    stays = Candidate("other", "", "1", "127.0.0.1", 4, 5, 6, "11" * 16)
    mine = Candidate("n", "", "1", "127.0.0.1", 1, 2, 3, me.disk_id)
    at = "2026-01-01T00:00:00Z"
    first = first_ring("ab" * 16, "c", [stays], 1, 16, at)
    topology.table = SlotTable(first.partitions)
    topology.table.adopt(first)  # the other holds everything
    topology.counting.clear()
    ring = next_ring(next_ring(first, [stays, mine], at), [stays], at)
    assert [member.name for member in ring.leaving] == ["n"]
    topology.adopt(ring, 2, lambda number: _Down(ring.member(number)))  # type: ignore[arg-type, return-value]
    alone.coordinator.operate(_put(b"k"), 200, alone.answers.append, forwarded=forwarded)
    outcomes = await alone.settled()
    assert [outcome.kind for outcome in outcomes] == [Kind.UNAVAILABLE]
    assert "this node is leaving" in outcomes[0].detail
    assert alone.store.scan(HINTS, b"", b"\xff" * 32, 10) == []


async def test_a_damaged_record_is_a_503_and_is_answered_once(alone: Alone) -> None:
    alone.store.put(OBJECTS, position(b"damaged") + b"damaged", b"\xff not a record")
    for operation in (_get(b"damaged"), _put(b"damaged"), Operation(Op.DELETE, b"damaged")):
        alone.operate(operation)
    assert [a.kind for a in await alone.settled()] == [Kind.UNAVAILABLE] * 3
    assert alone.coordinator.in_flight == 0


async def test_a_store_that_breaks_answers_all_once(alone: Alone) -> None:
    def fail() -> None:
        raise Exception("IO error: disk full")

    alone.db.sync_gate.clear()
    alone.db.fail_sync = fail
    for at in range(5):
        alone.operate(_put(b"%d" % at))
    await asyncio.sleep(0.02)
    alone.db.sync_gate.set()
    await _until(lambda: alone.store.broken is not None)
    alone.operate(_get(b"0"))
    alone.operate(_put(b"later"))
    alone.operate(Operation(Op.DELETE, b"later"))
    assert [a.kind for a in await alone.settled()] == [Kind.UNAVAILABLE] * 8
    assert alone.coordinator.in_flight == 0


async def test_a_slow_disk_ends_at_the_deadline(alone: Alone) -> None:
    alone.db.sync_gate.clear()
    alone.operate(_put(b"slow"), timeout_ms=50)
    [answer] = await alone.settled()
    assert (answer.kind, answer.needed, answer.got) == (Kind.UNAVAILABLE, 1, 0)
    assert "may or may not exist" in answer.detail
    assert alone.coordinator.in_flight == 0


async def test_requests_in_flight_are_bounded(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_node.coordinator.REQUESTS_MAX", 3)
    monkeypatch.setattr("dynamo_node.coordinator.REQUEST_BYTES_MAX", 1000)
    alone.db.sync_gate.clear()
    alone.operate(_put(b"large", bytes(900)))
    alone.operate(_put(b"too much with it", bytes(200)))
    alone.operate(_put(b"a"))
    alone.operate(_put(b"b"))
    alone.operate(_put(b"one too many"))
    assert [a.kind for a in alone.answers] == [Kind.OVERLOADED] * 2
    alone.db.sync_gate.set()
    assert [a.kind for a in await alone.settled()][2:] == [Kind.WRITTEN] * 3
    alone.operate(_put(b"again", bytes(900)))
    assert (await alone.settled())[-1].kind == Kind.WRITTEN
