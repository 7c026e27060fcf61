"""Handoff: no target waits for another, and a hint that can't be delivered stops no other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_core import objects, records, wire
from dynamo_core.frames import RingName
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.records import Stamp
from dynamo_core.ring import partition_of, position
from dynamo_core.slots import Token
from dynamo_core.versions import EMPTY
from dynamo_node import handoff
from dynamo_node.config import Limits
from dynamo_node.disk import Disk
from dynamo_node.handoff import Handoff
from dynamo_node.replica import Replica
from dynamo_node.slices import Slices
from dynamo_node.storage import HINTS, OBJECTS, Store

DEADLINE_S = 10.0
ROW = b"the row!"
PARTITIONS = 16
OBJECT = objects.to_bytes(
    objects.put(ABSENT, EMPTY, Sibling((b"a" * 16, 1), b"w" * 16, 0, "", b"v"))
)


class Peer:
    """A link whose answer to every write is `answer()`."""

    def __init__(self, name: str, answer: Callable[[bytes], Any]) -> None:
        self.member = SimpleNamespace(name=name)
        self._answer = answer
        self.healthy = True
        self.reply = b""
        self.written: list[bytes] = []

    async def ask(self, kind: int, payload: bytes, timeout_s: float) -> tuple[int, bytes]:
        key = wire.unpack_write(payload[wire.ROW_BYTES :]).key
        assert kind == wire.Type.WRITE
        assert wire.unpack_write(payload[wire.ROW_BYTES :]).sync, (
            "a hint goes only for what is fsynced"
        )
        assert payload[: wire.ROW_BYTES] == ROW
        answer = await self._answer(key)
        self.written.append(key)
        return int(answer), self.reply


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
    found = Replica(Disk(store, "00" * 16, fresh=True), Limits())
    found.ring_has(PARTITIONS)
    return found


async def _keep(store: Store, replica: Replica, target: int, *keys: bytes) -> None:
    for key in keys:
        stamp = Stamp(0, 1, bytes(16))
        replica.hints.keep(key, position(key), target, OBJECT, stamp, lambda error: None)
    await store.durable()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Holders:
    """Who holds what: nodes 1, 2 and 3 everything, or what a test says; this is node 1."""

    def __init__(self, peers: dict[int, Peer]) -> None:
        self.links = peers
        self.number = 1
        self.ring = SimpleNamespace(partitions=PARTITIONS)
        self.of: dict[int, tuple[int, ...]] = {}
        self.twice: set[int] = set()
        self.unsettled: set[int] = set()
        self.name = RingName(1, bytes(16))

    def holders(self, partition: int) -> tuple[int, ...]:
        return self.of.get(partition, (1, 2, 3))

    def row(self, partition: int) -> tuple[Token, ...]:
        holders = self.holders(partition)
        slots = (*holders, *holders[:1]) if partition in self.twice else holders
        return tuple(Token(1, 0, holder) for holder in slots)

    def digest(self, partition: int) -> bytes:
        return ROW

    def healthy(self, number: int) -> bool:
        link = self.links.get(number)
        return link.healthy if link is not None else number == self.number

    def host_name(self, number: int) -> str:
        return f"node {number}"


class Custodies:
    """What tells that a row has changed."""

    def __init__(self) -> None:
        self.on_row: list[Any] = []
        self.on_counts: list[Any] = []
        self.keeps = True

    def of(self, partition: int) -> Any:
        return self

    async def durable(self) -> None:
        pass

    def changed(self, *partitions: int) -> None:
        for partition in partitions:
            for told in self.on_row:
                told(partition, ())


def _node(
    store: Store, replica: Replica, peers: dict[int, Peer], spared: float = 1.0, share: float = 1.0
) -> Any:
    slices = Slices()
    slices.admission.share = share
    node = SimpleNamespace(
        disk=SimpleNamespace(store=store),
        replica=replica,
        topology=Holders(peers),
        custodies=Custodies(),
        slices=slices,
        gossip=SimpleNamespace(spared=lambda number: spared),
        rings=SimpleNamespace(left=False),
        refused=[],
    )
    node.coordinator = SimpleNamespace(reply_was_no=lambda *no: node.refused.append(no))
    return node


async def _ended(running: "asyncio.Task[None]") -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@asynccontextmanager
async def _running(node: Any) -> AsyncIterator[Handoff]:
    work = Handoff(node)
    running = asyncio.create_task(work.run())
    yield work
    await _ended(running)


async def test_a_silent_target_holds_up_nobody(store: Store, replica: Replica) -> None:
    peers = {2: Peer("silent", _hangs), 3: Peer("well", _acks)}
    await _keep(store, replica, 2, b"a")
    await _keep(store, replica, 3, b"b", b"c")
    running = asyncio.create_task(Handoff(_node(store, replica, peers)).run())
    await _until(lambda: replica.hints.by_target == {2: 1})
    assert sorted(peers[3].written) == [b"b", b"c"]
    await _ended(running)


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
    work = Handoff(_node(store, replica, peers))
    running = asyncio.create_task(work.run())
    await _until(lambda: replica.hints.by_target == {2: 4})
    refused.clear()
    work.wake()
    await _until(lambda: replica.hints.by_target == {2: 1})
    await store.durable()
    assert [place for place, _ in store.scan(HINTS, b"", b"\xff" * 64, 10)] == [damaged]
    await _ended(running)


async def test_hints_for_a_member_that_has_left_go_to_the_owners_of_now(
    store: Store, replica: Replica
) -> None:
    refusing = True

    async def refuses_at_first(key: bytes) -> int:
        return wire.Type.ERROR if refusing else wire.Type.WRITTEN

    peers = {2: Peer("well", _acks), 3: Peer("choosy", refuses_at_first)}
    await _keep(store, replica, 9, b"a", b"b")
    work = Handoff(_node(store, replica, peers))
    running = asyncio.create_task(work.run())
    await _until(lambda: len(peers[3].written) >= 2)
    assert replica.hints.by_target == {9: 2}, "one owner has not got them yet"
    refusing = False
    await _until(lambda: replica.hints.by_target == {})
    await store.durable()
    assert set(peers[2].written) == {b"a", b"b"}
    for key in (b"a", b"b"):
        assert isinstance(store.peek(OBJECTS, position(key) + key), bytes), "this node is an owner"
    await _ended(running)


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
    running = asyncio.create_task(Handoff(_node(store, replica, {2: peer})).run())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await _until(lambda: len(peer.written) >= 20)
    took_s = loop.time() - began
    assert set(peer.written) == set(keys), "nobody is tried twice before all had their turn"
    assert took_s > 0.8, "ten batches, after pauses of 0.05, 0.1, 0.1 s and so on"
    full = False
    await _until(lambda: replica.hints.by_target == {})
    await _ended(running)


async def test_a_delivery_keeps_to_what_its_target_can_spare(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 1)
    loop = asyncio.get_running_loop()
    sent_at: list[float] = []

    async def slowly(key: bytes) -> int:
        sent_at.append(loop.time())
        await asyncio.sleep(0.02)
        return wire.Type.WRITTEN

    peers = {2: Peer("busy", slowly)}
    await _keep(store, replica, 2, *(b"k%d" % n for n in range(4)))
    running = asyncio.create_task(Handoff(_node(store, replica, peers, 0.1, 0.9)).run())
    await _until(lambda: replica.hints.by_target == {})
    # A tenth of the time: each bite of 20 ms is followed by nine of them.
    assert sent_at[-1] - sent_at[0] > 3 * 0.18
    await _ended(running)


# Hints whose target holds no slot of their partition any more


def _keys_of(partitions: set[int], count: int = 4) -> list[bytes]:
    keys = (b"k%d" % n for n in range(10_000))
    return [k for k in keys if partition_of(position(k), PARTITIONS) in partitions][:count]


async def test_what_a_target_that_is_down_no_longer_holds_doesnt_wait_for_it(
    store: Store, replica: Replica
) -> None:
    """Its slot of partition 5 has gone to node 3: the others' hints wait, those go to all."""
    peers = {2: Peer("down", _acks), 3: Peer("new", _acks), 4: Peer("old", _acks)}
    peers[2].healthy = False
    moved, kept = _keys_of({5}), _keys_of({4, 6})
    node = _node(store, replica, peers)
    await _keep(store, replica, 2, *moved, *kept)
    async with _running(node):
        await asyncio.sleep(0.05)
        assert replica.hints.by_target == {2: 8}
        node.topology.of[5] = (3, 4)
        node.custodies.changed(5)
        await _until(lambda: replica.hints.by_target == {2: 4})
        assert set(peers[3].written) == set(peers[4].written) == set(moved)
        assert peers[2].written == []
        peers[2].healthy = True
        await _until(lambda: replica.hints.by_target == {})
        assert set(peers[2].written) == set(kept)


async def test_a_target_that_is_up_and_holds_no_slot_gets_nothing(
    store: Store, replica: Replica
) -> None:
    peers = {2: Peer("gave it up", _acks), 3: Peer("new", _acks)}
    node = _node(store, replica, peers)
    node.topology.of[5] = (1, 3)
    moved, kept = _keys_of({5}), _keys_of({4})
    await _keep(store, replica, 2, *moved, *kept)
    async with _running(node):
        await _until(lambda: replica.hints.by_target == {})
    assert set(peers[2].written) == set(kept)
    assert set(peers[3].written) == set(moved)
    for key in moved:
        assert isinstance(store.peek(OBJECTS, position(key) + key), bytes)


async def test_all_present_holders_have_to_have_it(store: Store, replica: Replica) -> None:
    """Which of them came in the target's place isn't known: one that lacks it keeps the hint."""
    peers = {3: Peer("well", _acks), 4: Peer("down", _acks)}
    peers[4].healthy = False
    node = _node(store, replica, peers)
    node.topology.of[5] = (3, 4)
    (key,) = _keys_of({5}, 1)
    await _keep(store, replica, 9, key)
    async with _running(node) as work:
        await asyncio.sleep(0.05)
        assert replica.hints.by_target == {9: 1}
        assert peers[3].written == [], "it would be written again and again while one is down"
        peers[4].healthy = True
        work.wake()
        await _until(lambda: replica.hints.by_target == {})
    assert peers[3].written == peers[4].written == [key]


async def test_a_holder_that_doesnt_count_yet_has_it_durably_all_the_same(
    store: Store, replica: Replica
) -> None:
    peer = Peer("claims its slot", _acks)
    peer.reply = wire.UNCOUNTED
    await _keep(store, replica, 2, b"a")
    async with _running(_node(store, replica, {2: peer})):
        await _until(lambda: replica.hints.by_target == {})


async def test_who_knows_other_tokens_is_told_and_asked_again_when_they_are_known(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "RETRY_S", 5.0)
    knows_less = True

    async def refuses_at_first(key: bytes) -> int:
        return wire.Type.ERROR if knows_less else wire.Type.WRITTEN

    peer = Peer("new", refuses_at_first)
    peer.reply = wire.pack_other_row(5, ())
    node = _node(store, replica, {2: peer})
    (key,) = _keys_of({5}, 1)
    await _keep(store, replica, 2, key)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with _running(node):
        await _until(lambda: bool(node.refused))
        assert node.refused == [(2, wire.Type.ERROR, peer.reply)]
        knows_less = False
        node.custodies.changed(5)
        await _until(lambda: replica.hints.by_target == {})
    assert loop.time() - began < 4.0, "not when the pause ends, but at once"


# Hints for this node itself


async def test_a_hint_for_this_node_itself_is_merged_once_its_copy_stays(
    store: Store, replica: Replica
) -> None:
    """Its disk is lost: until it has claimed its slot it stands in for itself."""
    node = _node(store, replica, {2: Peer("well", _acks)})
    (key,) = _keys_of({5}, 1)
    await _keep(store, replica, 1, key)
    node.custodies.keeps = False
    async with _running(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {1: 1}
        node.custodies.keeps = True
        for told in node.custodies.on_counts:
            told(5)
        await _until(lambda: replica.hints.by_target == {})
    assert isinstance(store.peek(OBJECTS, position(key) + key), bytes)


async def test_a_hint_for_this_node_whose_slot_has_gone_goes_to_the_present_holders(
    store: Store, replica: Replica
) -> None:
    peers = {2: Peer("well", _acks), 3: Peer("new", _acks)}
    node = _node(store, replica, peers)
    node.topology.of[5] = (2, 3)
    (key,) = _keys_of({5}, 1)
    await _keep(store, replica, 1, key)
    async with _running(node):
        await _until(lambda: replica.hints.by_target == {})
    assert peers[2].written == peers[3].written == [key]
    assert store.peek(OBJECTS, position(key) + key) is None, "this node is no holder"


# What may not be forgotten, nor stamped anew


async def test_a_hint_for_a_former_holder_stays_while_one_node_holds_two_slots(
    store: Store, replica: Replica
) -> None:
    """All present holders are fewer disks then than may have been counted (0015)."""
    peers = {2: Peer("well", _acks), 3: Peer("well", _acks)}
    node = _node(store, replica, peers)
    (key,) = _keys_of({5}, 1)
    node.topology.of[5], node.topology.twice = (2, 3), {5}
    await _keep(store, replica, 9, key)
    async with _running(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {9: 1}
        node.topology.twice = set()
        node.custodies.changed(5)
        await _until(lambda: replica.hints.by_target == {})


@pytest.mark.parametrize("given_up", [False, True])
async def test_who_was_not_asked_for_a_round_stamps_no_hint_anew(
    store: Store, replica: Replica, given_up: bool
) -> None:
    """What it holds may be deleted and reaped: a member says so, who is none can't know."""
    later = RingName(2, bytes(16))

    async def reaped(payload: bytes) -> int:
        return wire.Type.ERROR

    peer = Peer("well", reaped)
    peer.reply = wire.pack_reaped(later, 7)
    node = _node(store, replica, {2: peer})
    replica.hints.start = b"now here"
    await _keep(store, replica, 2, b"a")
    async with _running(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {2: 1}, "the ring that names it isn't known here"
        if given_up:
            node.rings.left = True
            await _until(lambda: replica.hints.by_target == {})
            assert [target for _, target, _ in replica.hints.marks()] == [2]
            return
        node.topology.name = later
        place = records.hint_key(2, position(b"a"), b"a")

        def stamped() -> int:
            stamp = records.from_bytes(store.peek(HINTS, place)).stamp  # type: ignore[arg-type]
            return 0 if stamp is None else stamp.reap_round

        await _until(lambda: stamped() == 7)
