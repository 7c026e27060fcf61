"""Handoff when slots have moved: a hint goes to whoever holds what it is of now."""

import asyncio

import pytest
from tests.node.handoff_node import (
    Peer,
    acks,
    hands_off,
    keep,
    keys_of,
    node_with,
    until,
)

from dynamo_core import wire
from dynamo_core.ring import position
from dynamo_node import handoff
from dynamo_node.replica import Replica
from dynamo_node.storage import OBJECTS, Store


async def test_what_a_target_that_is_down_no_longer_holds_doesnt_wait_for_it(
    store: Store, replica: Replica
) -> None:
    """Its slot of partition 5 has gone to node 3: the others' hints wait, those go to all."""
    peers = {2: Peer("down", acks), 3: Peer("new", acks), 4: Peer("old", acks)}
    peers[2].healthy = False
    moved, kept = keys_of({5}), keys_of({4, 6})
    node = node_with(store, replica, peers)
    await keep(store, replica, 2, *moved, *kept)
    async with hands_off(node):
        await asyncio.sleep(0.05)
        assert replica.hints.by_target == {2: 8}
        node.topology.of[5] = (3, 4)
        node.custodies.changed(5)
        await until(lambda: replica.hints.by_target == {2: 4})
        assert set(peers[3].written) == set(peers[4].written) == set(moved)
        assert peers[2].written == []
        peers[2].healthy = True
        await until(lambda: replica.hints.by_target == {})
        assert set(peers[2].written) == set(kept)


async def test_a_target_that_is_up_and_holds_no_slot_gets_nothing(
    store: Store, replica: Replica
) -> None:
    peers = {2: Peer("gave it up", acks), 3: Peer("new", acks)}
    node = node_with(store, replica, peers)
    node.topology.of[5] = (1, 3)
    moved, kept = keys_of({5}), keys_of({4})
    await keep(store, replica, 2, *moved, *kept)
    async with hands_off(node):
        await until(lambda: replica.hints.by_target == {})
    assert set(peers[2].written) == set(kept)
    assert set(peers[3].written) == set(moved)
    for key in moved:
        assert isinstance(store.peek(OBJECTS, position(key) + key), bytes)


async def test_all_present_holders_have_to_have_it(store: Store, replica: Replica) -> None:
    """Which of them came in the target's place isn't known: one that lacks it keeps the hint."""
    peers = {3: Peer("well", acks), 4: Peer("down", acks)}
    peers[4].healthy = False
    node = node_with(store, replica, peers)
    node.topology.of[5] = (3, 4)
    (key,) = keys_of({5}, 1)
    await keep(store, replica, 9, key)
    async with hands_off(node) as work:
        await asyncio.sleep(0.05)
        assert replica.hints.by_target == {9: 1}
        assert peers[3].written == [], "it would be written again and again while one is down"
        peers[4].healthy = True
        work.wake()
        await until(lambda: replica.hints.by_target == {})
    assert peers[3].written == peers[4].written == [key]


async def test_a_holder_that_doesnt_count_yet_has_it_durably_all_the_same(
    store: Store, replica: Replica
) -> None:
    peer = Peer("claims its slot", acks)
    peer.reply = wire.UNCOUNTED
    await keep(store, replica, 2, b"a")
    async with hands_off(node_with(store, replica, {2: peer})):
        await until(lambda: replica.hints.by_target == {})


async def test_who_knows_other_tokens_is_told_and_asked_again_when_they_are_known(
    store: Store, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "RETRY_S", 5.0)
    knows_less = True

    async def refuses_at_first(key: bytes) -> int:
        return wire.Type.ERROR if knows_less else wire.Type.WRITTEN

    peer = Peer("new", refuses_at_first)
    peer.reply = wire.pack_other_row(5, ())
    node = node_with(store, replica, {2: peer})
    (key,) = keys_of({5}, 1)
    await keep(store, replica, 2, key)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with hands_off(node):
        await until(lambda: bool(node.refused))
        assert node.refused == [(2, wire.Type.ERROR, peer.reply)]
        knows_less = False
        node.custodies.changed(5)
        await until(lambda: replica.hints.by_target == {})
    assert loop.time() - began < 4.0, "not when the pause ends, but at once"


# Hints for this node itself


async def test_a_hint_for_this_node_itself_is_merged_once_its_copy_stays(
    store: Store, replica: Replica
) -> None:
    """Its disk is lost: until it has claimed its slot it stands in for itself."""
    node = node_with(store, replica, {2: Peer("well", acks)})
    (key,) = keys_of({5}, 1)
    await keep(store, replica, 1, key)
    node.custodies.keeps = False
    async with hands_off(node):
        await asyncio.sleep(0.1)
        assert replica.hints.by_target == {1: 1}
        node.custodies.keeps = True
        for told in node.custodies.on_counts:
            told(5)
        await until(lambda: replica.hints.by_target == {})
    assert isinstance(store.peek(OBJECTS, position(key) + key), bytes)


async def test_a_hint_for_this_node_whose_slot_has_gone_goes_to_the_present_holders(
    store: Store, replica: Replica
) -> None:
    peers = {2: Peer("well", acks), 3: Peer("new", acks)}
    node = node_with(store, replica, peers)
    node.topology.of[5] = (2, 3)
    (key,) = keys_of({5}, 1)
    await keep(store, replica, 1, key)
    async with hands_off(node):
        await until(lambda: replica.hints.by_target == {})
    assert peers[2].written == peers[3].written == [key]
    assert store.peek(OBJECTS, position(key) + key) is None, "this node is no holder"
