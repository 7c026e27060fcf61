"""What a client does while nodes join and leave, and when most of those it knew are gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from tests.client.fake_cluster import FakeCluster, FakeNode
from tests.client.native_node import NativeNode
from tests.client.test_native_transport import Place

from dynamo_client import DynamoClient
from dynamo_client.client import Protocol
from dynamo_client.routing import Nodes
from dynamo_core.placement import Candidate, next_ring
from dynamo_core.ring import Ring

KEYS = [b"key-%d" % n for n in range(40)]
EPOCHS = 30


@pytest.fixture
def six() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster(6)
    yield cluster
    cluster.close()


async def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# Over HTTP


@pytest.mark.parametrize("left", range(6))
async def test_no_request_fails_when_all_nodes_but_one_are_gone(
    six: FakeCluster, left: int
) -> None:
    """More of them than a request is tried with; whoever isn't there costs no try."""
    async with DynamoClient(six.urls[0]) as kv:
        assert len(kv.nodes) == 6
        for at in range(6):
            if at != left:
                six.stop_node(at)
        for key in KEYS:
            await kv.put(key, b"v")
        assert kv.nodes == (six.urls[left],)


async def test_a_client_follows_a_cluster_of_which_every_node_is_replaced(
    fake: FakeCluster,
) -> None:
    async with DynamoClient(fake.urls[0]) as kv:
        for at in range(3, 9):
            node = FakeNode(fake, f"cart-default-{at}")
            fake.call(node.start())
            fake.nodes.append(node)
            await kv.cluster()
            await _until(lambda node=node: node.url in kv.nodes)
            gone = fake.nodes.pop(0)
            fake.call(gone.stop())
            await kv.put(b"%d" % at, b"v")
        assert {*fake.urls} <= {*kv.nodes}
        for at in range(3, 9):
            assert (await kv.get(b"%d" % at)).values == [b"v"]


def test_who_leaves_is_used_only_if_there_is_nobody_else() -> None:
    nodes = Nodes(["http://a:1"])
    nodes.learn([("http://b:1", "leaving"), ("http://c:1", "up"), ("http://d:1", "joining")], 0.0)
    assert nodes.known == ("http://a:1", "http://c:1")
    nodes.learn([("http://b:1", "leaving"), ("http://d:1", "joining")], 0.0)
    assert nodes.known == ("http://a:1", "http://b:1")


# Over the native protocol


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    await made.start()
    everybody = list(made.nodes)
    yield made
    await asyncio.gather(*(node.stop() for node in {*everybody, *made.nodes}))


def _candidates(nodes: list[NativeNode]) -> list[Candidate]:
    return [
        Candidate(n.name, "", "1", "127.0.0.1", 80 + at, n.port, 1, f"{int(n.name[5:]):032x}")
        for at, n in enumerate(nodes)
    ]


def _epochs_later(place: Place, nodes: list[NativeNode]) -> Ring:
    """Many rings after the present one: the client has heard of none of them."""
    ring = place.ring
    for _ in range(EPOCHS):
        ring = replace(ring, epoch=ring.epoch + 1, parent=ring.id)
    return next_ring(ring, _candidates(nodes), "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("protocol", ["auto", "native"])
async def test_a_ring_that_is_many_epochs_old_costs_no_request(
    place: Place, protocol: Protocol
) -> None:
    """All nodes of the ring that the client holds have left but one, and others have joined."""
    stayed, gone = place.nodes[4], place.nodes[:4]
    async with place.client(protocol) as kv:
        await kv.put(b"k", b"v")
        new = [NativeNode(f"cart-{at}") for at in range(5, 9)]
        await asyncio.gather(*(node.start() for node in new))
        numbers = {node.name: at for at, node in enumerate([*place.nodes, *new])}
        place.url = lambda at: f"http://n{numbers[place.nodes[at].name]}"  # type: ignore[method-assign]
        later = _epochs_later(place, [stayed, *new])
        place.nodes = [stayed, *new]
        place.publish(later)
        await asyncio.gather(*(node.stop() for node in gone))
        for key in KEYS:
            await kv.put(key, b"v")
        transport = kv._transport
        await _until(lambda: transport._ring.name == later.name)  # type: ignore[union-attr]
        await _until(lambda: len(transport.linked) == 5)  # type: ignore[union-attr]
        await _until(lambda: len(kv.nodes) >= 5)
        for node in place.nodes:
            node.operations.clear()
        for key in KEYS:
            await kv.put(key, b"v")
            assert key in [o.key for o in place.owners(key)[0].operations], "a single hop again"
    assert protocol == "auto" or not place.http.calls


async def test_new_members_are_reached_natively_soon_after_the_ring_names_them(
    place: Place,
) -> None:
    """Their addresses are in the view, which is fetched when the ring is another one."""
    async with place.client() as kv:
        new = NativeNode("cart-5")
        await new.start()
        place.nodes.append(new)
        place.publish(next_ring(place.ring, _candidates(place.nodes), "2026-01-01T00:00:00Z"))
        began = time.monotonic()
        while len(kv._transport.linked) < 6:  # type: ignore[union-attr]
            await kv.put(b"k", b"v")
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 5.0, "it waits for the refresh every ten seconds"
