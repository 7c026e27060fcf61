"""Handoff: no target waits for another, and a hint that can't be delivered stops no other."""

import asyncio

import pytest
from tests.node.handoff_node import (
    Peer,
    acks,
    ended,
    hands_off,
    hangs,
    keep,
    keys_of,
    node_with,
    until,
)

from dynamo_core import records, wire
from dynamo_core.frames import RingName
from dynamo_core.ring import position
from dynamo_node import handoff
from dynamo_node.handoff import Handoff
from dynamo_node.replica import Replica
from dynamo_node.storage import HINTS, OBJECTS, Store


async def test_a_silent_target_holds_up_nobody(store: Store, replica: Replica) -> None:
    peers = {2: Peer("silent", hangs), 3: Peer("well", acks)}
    await keep(store, replica, 2, b"a")
    await keep(store, replica, 3, b"b", b"c")
    running = asyncio.create_task(Handoff(node_with(store, replica, peers)).run())
    await until(lambda: replica.hints.by_target == {2: 1})
    assert sorted(peers[3].written) == [b"b", b"c"]
    await ended(running)


async def test_a_damaged_hint_and_refused_ones_stop_no_other(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "BATCH_HINTS", 2)
    refused = {b"k1", b"k2", b"k3"}

    async def refuses_some(key: bytes) -> int:
        return wire.Type.ERROR if key in refused else wire.Type.WRITTEN

    peers = {2: Peer("choosy", refuses_some)}
    keys = [b"k%d" % n for n in range(9)]
    await keep(store, replica, 2, *keys)
    damaged = records.hint_key(2, bytes(16), b"damaged")
    store.put(HINTS, damaged, b"\xff nothing of ours")
    await store.durable()
    await replica.hints.load(16)
    assert replica.hints.by_target == {2: 10}
    work = Handoff(node_with(store, replica, peers))
    running = asyncio.create_task(work.run())
    await until(lambda: replica.hints.by_target == {2: 4})
    refused.clear()
    work.wake()
    await until(lambda: replica.hints.by_target == {2: 1})
    await store.durable()
    assert [place for place, _ in store.scan(HINTS, b"", b"\xff" * 64, 10)] == [damaged]
    await ended(running)


async def test_hints_for_a_member_that_has_left_go_to_the_owners_of_now(
    store: Store, replica: Replica
) -> None:
    refusing = True

    async def refuses_at_first(key: bytes) -> int:
        return wire.Type.ERROR if refusing else wire.Type.WRITTEN

    peers = {2: Peer("well", acks), 3: Peer("choosy", refuses_at_first)}
    await keep(store, replica, 9, b"a", b"b")
    work = Handoff(node_with(store, replica, peers))
    running = asyncio.create_task(work.run())
    await until(lambda: len(peers[3].written) >= 2)
    assert replica.hints.by_target == {9: 2}, "one owner has not got them yet"
    refusing = False
    await until(lambda: replica.hints.by_target == {})
    await store.durable()
    assert set(peers[2].written) == {b"a", b"b"}
    for key in (b"a", b"b"):
        assert isinstance(store.peek(OBJECTS, position(key) + key), bytes), "this node is an owner"
    await ended(running)


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
    await keep(store, replica, 2, *keys)
    running = asyncio.create_task(Handoff(node_with(store, replica, {2: peer})).run())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: len(peer.written) >= 20)
    took_s = loop.time() - began
    assert set(peer.written) == set(keys), "nobody is tried twice before all had their turn"
    assert took_s > 0.8, "ten batches, after pauses of 0.05, 0.1, 0.1 s and so on"
    full = False
    await until(lambda: replica.hints.by_target == {})
    await ended(running)


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
    await keep(store, replica, 2, *(b"k%d" % n for n in range(4)))
    running = asyncio.create_task(Handoff(node_with(store, replica, peers, 0.1, 0.9)).run())
    await until(lambda: replica.hints.by_target == {})
    # A tenth of the time: each bite of 20 ms is followed by nine of them.
    assert sent_at[-1] - sent_at[0] > 3 * 0.18
    await ended(running)


# What may not be forgotten, nor stamped anew


async def test_a_hint_for_a_former_holder_stays_while_one_node_holds_two_slots(
    store: Store, replica: Replica
) -> None:
    """All present holders are fewer disks then than may have been counted (0015)."""
    peers = {2: Peer("well", acks), 3: Peer("well", acks)}
    node = node_with(store, replica, peers)
    (key,) = keys_of({5}, 1)
    node.topology.of[5], node.topology.twice = (2, 3), {5}
    await keep(store, replica, 9, key)
    async with hands_off(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {9: 1}
        node.topology.twice = set()
        node.custodies.changed(5)
        await until(lambda: replica.hints.by_target == {})


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
    node = node_with(store, replica, {2: peer})
    replica.hints.start = b"now here"
    await keep(store, replica, 2, b"a")
    async with hands_off(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {2: 1}, "the ring that names it isn't known here"
        if given_up:
            node.rings.left = True
            await until(lambda: replica.hints.by_target == {})
            assert [target for _, target, _ in replica.hints.marks()] == [2]
            return
        node.topology.name = later
        place = records.hint_key(2, position(b"a"), b"a")

        def stamped() -> int:
            stamp = records.from_bytes(store.peek(HINTS, place)).stamp  # type: ignore[arg-type]
            return 0 if stamp is None else stamp.reap_round

        await until(lambda: stamped() == 7)
