"""Handoff: no target waits for another, and a hint that can't be delivered stops no other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_core import objects, records, wire
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.records import Stamp
from dynamo_core.ring import position
from dynamo_core.versions import EMPTY
from dynamo_node import handoff
from dynamo_node.config import Limits
from dynamo_node.disk import Disk
from dynamo_node.handoff import Handoff
from dynamo_node.replica import Replica
from dynamo_node.slices import Slices
from dynamo_node.storage import HINTS, OBJECTS, Store
from dynamo_node.topology import Place

DEADLINE_S = 10.0
OBJECT = objects.to_bytes(
    objects.put(ABSENT, EMPTY, Sibling((b"a" * 16, 1), b"w" * 16, 0, "", b"v"))
)


class Peer:
    """A link whose answer to every write is `answer()`."""

    healthy = True

    def __init__(self, name: str, answer: Callable[[bytes], Any]) -> None:
        self.member = SimpleNamespace(name=name)
        self._answer = answer
        self.written: list[bytes] = []

    async def ask(self, kind: int, payload: bytes, timeout_s: float) -> tuple[int, bytes]:
        key = wire.unpack_write(payload).key
        assert kind == wire.Type.WRITE
        assert wire.unpack_write(payload).sync, "a hint goes only for what is fsynced"
        answer = await self._answer(key)
        self.written.append(key)
        return int(answer), b""


async def _acks(key: bytes) -> int:
    return wire.Type.WRITTEN


async def _hangs(key: bytes) -> int:
    await asyncio.Event().wait()
    return wire.Type.ERROR


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    found = Store(tmp_path / "db", sync=True, memory_bytes=16 << 20)
    yield found
    await found.close()


@pytest.fixture
def replica(store: Store) -> Replica:
    return Replica(Disk(store, "00" * 16, fresh=True), Limits())


async def _keep(store: Store, replica: Replica, target: int, *keys: bytes) -> None:
    for key in keys:
        stamp = Stamp(0, 1, bytes(16))
        replica.hints.keep(key, position(key), target, OBJECT, stamp, lambda error: None)
    await store.durable()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _handoff(store: Store, replica: Replica, peers: dict[int, Peer]) -> Handoff:
    topology: Any = SimpleNamespace(
        links=peers,
        number=1,
        ring=object(),
        host_name=lambda n: f"node {n}",
        place=lambda key: Place(position(key), 0, (1, 2, 3), ()),
    )
    return Handoff(store, replica, topology, Slices(), lambda number: 1.0)


async def test_a_silent_target_holds_up_nobody(store: Store, replica: Replica) -> None:
    peers = {2: Peer("silent", _hangs), 3: Peer("well", _acks)}
    await _keep(store, replica, 2, b"a")
    await _keep(store, replica, 3, b"b", b"c")
    running = asyncio.create_task(_handoff(store, replica, peers).run())
    await _until(lambda: replica.hints.by_target == {2: 1})
    assert sorted(peers[3].written) == [b"b", b"c"]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_damaged_hint_and_refused_ones_stop_no_other(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 2)
    refused = {b"k1", b"k2", b"k3"}

    async def refuses_some(key: bytes) -> int:
        return wire.Type.ERROR if key in refused else wire.Type.WRITTEN

    peers = {2: Peer("choosy", refuses_some)}
    keys = [b"k%d" % n for n in range(9)]
    await _keep(store, replica, 2, *keys)
    damaged = records.hint_key(2, bytes(16), b"damaged")
    store.put(HINTS, damaged, b"\xff nothing of ours")
    await store.durable()
    await replica.hints.load(16)
    assert replica.hints.by_target == {2: 10}
    work = _handoff(store, replica, peers)
    running = asyncio.create_task(work.run())
    await _until(lambda: replica.hints.by_target == {2: 4})
    refused.clear()
    work.wake()
    await _until(lambda: replica.hints.by_target == {2: 1})
    await store.durable()
    assert [place for place, _ in store.scan(HINTS, b"", b"\xff" * 64, 10)] == [damaged]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_hints_for_a_member_that_has_left_go_to_the_owners_of_now(
    store: Store, replica: Replica
) -> None:
    refusing = True

    async def refuses_at_first(key: bytes) -> int:
        return wire.Type.ERROR if refusing else wire.Type.WRITTEN

    peers = {2: Peer("well", _acks), 3: Peer("choosy", refuses_at_first)}
    await _keep(store, replica, 9, b"a", b"b")
    work = _handoff(store, replica, peers)
    running = asyncio.create_task(work.run())
    await _until(lambda: len(peers[3].written) >= 2)
    assert replica.hints.by_target == {9: 2}, "one owner has not got them yet"
    refusing = False
    await _until(lambda: replica.hints.by_target == {})
    await store.durable()
    assert set(peers[2].written) == {b"a", b"b"}
    for key in (b"a", b"b"):
        assert isinstance(store.peek(OBJECTS, position(key) + key), bytes), "this node is an owner"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("code", [wire.Code.READ_ONLY, wire.Code.STALE_RING, wire.Code.STORAGE])
async def test_a_target_that_takes_nothing_is_tried_in_turn_and_ever_more_rarely(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch, code: wire.Code
) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 2)
    monkeypatch.setattr(handoff, "RETRY_S", 0.05)
    monkeypatch.setattr(handoff, "PAUSE_MAX_S", 0.1)
    full = True

    async def refuses(key: bytes) -> int:
        return wire.Type.ERROR if full else wire.Type.WRITTEN

    class Refusing(Peer):
        async def ask(self, kind: int, payload: bytes, timeout_s: float) -> tuple[int, bytes]:
            answer, _ = await super().ask(kind, payload, timeout_s)
            return answer, bytes((code,)) if answer == wire.Type.ERROR else b""

    peer = Refusing("full", refuses)
    keys = [b"k%d" % n for n in range(20)]
    await _keep(store, replica, 2, *keys)
    running = asyncio.create_task(_handoff(store, replica, {2: peer}).run())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await _until(lambda: len(peer.written) >= 20)
    took_s = loop.time() - began
    assert set(peer.written) == set(keys), "nobody is tried twice before all had their turn"
    assert took_s > 0.8, "ten batches, after pauses of 0.05, 0.1, 0.1 s and so on"
    full = False
    await _until(lambda: replica.hints.by_target == {})
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_delivery_keeps_to_what_its_target_can_spare(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 1)
    slices = Slices()
    slices.admission.share = 0.9
    loop = asyncio.get_running_loop()
    sent_at: list[float] = []

    async def slowly(key: bytes) -> int:
        sent_at.append(loop.time())
        await asyncio.sleep(0.02)
        return wire.Type.WRITTEN

    topology: Any = SimpleNamespace(
        links={2: Peer("busy", slowly)}, number=1, ring=object(), host_name=str
    )
    await _keep(store, replica, 2, *(b"k%d" % n for n in range(4)))
    running = asyncio.create_task(
        Handoff(store, replica, topology, slices, {2: 0.1}.__getitem__).run()
    )
    await _until(lambda: replica.hints.by_target == {})
    # A tenth of the time: each bite of 20 ms is followed by nine of them.
    assert sent_at[-1] - sent_at[0] > 3 * 0.18
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
