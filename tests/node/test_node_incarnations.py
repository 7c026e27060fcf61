"""No dot twice: rings and rollbacks that come while an incarnation is taken up or confirmed."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.node.node_processes import CLUSTER_ID, SECRET

from dynamo_core import wire
from dynamo_core.errors import DynamoError
from dynamo_core.frames import NO_DEADLINE, NO_RING, Frame
from dynamo_core.handshake import ROLE_NODE, Hello
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.ring import Ring
from dynamo_core.wire import Lease, Type
from dynamo_node import births
from dynamo_node.config import Config, parse
from dynamo_node.disk import Clean, open_disk
from dynamo_node.incarnations import Known
from dynamo_node.links import Link
from dynamo_node.node import Node
from dynamo_node.rings import RingConflictError
from dynamo_node.service import Service

pytestmark = pytest.mark.timeout(20)

NAMES = ("cart-default-0", "cart-default-1", "cart-default-2", "cart-default-3")
OLD = b"incarn-1"
AT = "2026-01-01T00:00:00Z"


def _config(folder: Path) -> Config:
    return parse(
        {
            "cluster": {"name": "cart", "id": CLUSTER_ID},
            "keys": [{"id": 1, "secret": SECRET}],
            "node": {"name": NAMES[0]},
            "data_dir": str(folder),
            "storage": {"memory_bytes": 16 << 20},
        }
    )


def _candidates(count: int, disk_id: str) -> list[Candidate]:
    ports = free_ports(count)  # nobody listens there
    return [
        Candidate(name, "", "1", "127.0.0.1", port, port, port, disk_id if not at else "0" * 32)
        for at, (name, port) in enumerate(zip(NAMES[:count], ports, strict=True))
    ]


class Life:
    """A node in this process, between its start and its stop."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.candidates = _candidates(4, node.disk.disk_id)
        self.first = self.ring(None, 3)

    def ring(self, parent: Ring | None, members: int, at: str = AT) -> Ring:
        if parent is None:
            return first_ring(CLUSTER_ID, "cart", self.candidates[:members], 3, 16, at)
        return next_ring(parent, self.candidates[:members], at)


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Life]:
    """A node that was shut down cleanly with births 1..9 of incarnation OLD used."""
    config = _config(tmp_path)
    node = Node(config, await open_disk(config), Clean(OLD, 10, 1000, 0))
    await node.start()
    yield Life(node)
    await node.stop()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - progress of other tasks is polled
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("grants", [True, False])
async def test_a_ring_that_comes_while_peers_are_asked_starts_no_births_again(
    life: Life, monkeypatch: pytest.MonkeyPatch, grants: bool
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    minters: list[tuple[bytes, int]] = []

    async def confirmed(links: Iterable[object], lease: Lease) -> bool:
        asked.set()
        await answer.wait()
        return grants

    monkeypatch.setattr(births, "confirmed", confirmed)
    node = life.node
    await node.rings.post(life.first)
    await asked.wait()
    await node.rings.post(life.ring(life.first, 4))
    for _ in range(50):  # whoever takes up an incarnation beside the first has time to
        await asyncio.sleep(0.002)
        if node.replica.minter is not None:
            minters.append((node.replica.minter.incarnation, node.replica.minter.next_birth))
    answer.set()
    await _until(lambda: node.replica.minter is not None)
    assert node.replica.minter is not None
    minters.append((node.replica.minter.incarnation, node.replica.minter.next_birth))
    assert all(birth >= 10 for name, birth in minters if name == OLD), minters
    assert (minters[-1][0] == OLD) is grants


@pytest.mark.parametrize(("accept", "renewed"), [((2,), False), ((2, 3), True)])
async def test_a_new_incarnation_only_where_most_peers_take_the_present_one_for_the_living(
    life: Life, monkeypatch: pytest.MonkeyPatch, accept: tuple[int, ...], renewed: bool
) -> None:
    node = life.node
    await node.rings.post(life.ring(None, 4))
    await _until(lambda: node.replica.minter is not None)
    monkeypatch.setattr(Link, "up", property(lambda link: link.member.number in accept))
    present = node.incarnation
    for said in (OLD, present, present):  # the first is about a connection of before
        node.topology.links[4].on_replaced(said)
        await node.disk.store.durable()
        assert node.incarnation == present or said == present
    await asyncio.sleep(0)
    assert node.replica.minter is not None
    assert node.replica.minter.incarnation == node.incarnation
    assert (node.incarnation != present) is renewed


async def test_no_birth_is_taken_after_the_marker_of_a_clean_end_was_filled(life: Life) -> None:
    node = life.node
    await node.rings.post(life.first)
    await _until(lambda: node.replica.minter is not None)
    await node.stop()
    assert node.replica.minter is None


class _Caller:
    """Stands where `Inbound` stands, for a peer that is number 2."""

    def __init__(self, incarnation: bytes) -> None:
        self.hello = Hello(
            wire.PROTOCOL_VERSION, ROLE_NODE, bytes(16), 2, incarnation, bytes(16), "peer", "me", 1
        )
        self.answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

    def reply(self, request_id: int, kind: int, payload: bytes) -> None:
        self.answers.put_nowait((kind, payload))


async def _grants(node: Node, incarnation: bytes, held: int, wanted: int) -> bool:
    """Whether a node that has just been started itself grants this."""
    caller: Any = _Caller(incarnation)
    payload = wire.pack_lease(Lease(2, incarnation, held, wanted))
    frame = Frame(Type.LEASE, 0, 1, NO_DEADLINE, *NO_RING, b"", payload)
    service = Service(node)
    service.handle(caller, frame)
    kind, said = await caller.answers.get()
    assert kind == Type.LEASE_REPLY
    return bool(said == b"\x01")


async def test_schedule_3_a_grant_outlives_the_next_incarnation_and_this_nodes_restart(
    life: Life,
) -> None:
    node = life.node
    await node.rings.post(life.first)
    assert await _grants(node, OLD, 1000, 2000)
    # The peer ends uncleanly, and later goes on with its next incarnation.
    assert await _grants(node, b"incarn-2", 1000, 2000)
    # Its volume is rolled back to before the first grant.
    assert not await _grants(node, OLD, 1000, 2000)
    assert await _grants(node, OLD, 2000, 3000), "a disk that is not behind goes on"
    assert not await _grants(node, b"incarn-2", 1999, 3000)


async def test_a_node_whose_disk_was_replaced_confirms_nothing(life: Life) -> None:
    life.candidates = _candidates(4, "f" * 32)
    await life.node.rings.post(life.ring(None, 3))
    assert life.node.recovering
    assert not await _grants(life.node, OLD, 1000, 2000)


async def test_schedule_3_a_zombie_stays_refused_after_its_peers_restart(tmp_path: Path) -> None:
    config = _config(tmp_path)

    async def run() -> tuple[Node, Service]:
        node = Node(config, await open_disk(config), None)
        await node.start()
        return node, Service(node)

    node, service = await run()
    for incarnation in (OLD, b"incarn-2"):
        service.peer_spoke(_Caller(incarnation).hello)
    assert service.is_replaced(2, "peer", OLD)
    await node.stop()
    node, service = await run()
    # The living one redials first, and then the zombie wakes.
    service.peer_spoke(_Caller(b"incarn-2").hello)
    assert service.is_replaced(2, "peer", OLD)
    assert not service.is_replaced(2, "peer", b"incarn-2")
    assert not service.is_replaced(3, "peer", OLD), "another node's"
    assert not service.is_replaced(2, "other", OLD), "one of a ring that was decided apart"
    await node.stop()


async def test_what_is_known_of_a_nodes_incarnations_is_bounded(life: Life) -> None:
    known = life.node.incarnations
    names = [at.to_bytes(8, "big") for at in range(200)]
    assert [known.called(2, "peer", name) for name in names] == [False] + [True] * 199
    assert not known.called(2, "peer", names[-1])
    replaced = [known.is_replaced(2, "peer", name) for name in names]
    assert replaced == [False] * 136 + [True] * 63 + [False]
    await life.node.disk.store.durable()
    again = Known(life.node.disk.store)
    await again.load()
    assert [again.is_replaced(2, "peer", name) for name in names] == replaced


async def test_schedule_7_of_two_rings_posted_at_once_one_is_refused(life: Life) -> None:
    node = life.node
    await node.rings.post(life.first)
    rings = [life.ring(life.first, 4), life.ring(life.first, 4, "2026-01-02T00:00:00Z")]
    rings.sort(key=lambda ring: ring.id)
    for posted in (rings, rings[::-1]):
        told = await asyncio.gather(*map(node.rings.post, posted), return_exceptions=True)
        assert sum(isinstance(answer, DynamoError) for answer in told) == 1, told
        refused = [a for a in told if a is not None]
        assert isinstance(refused[0], RingConflictError)
        held = node.topology.ring
        assert held is not None
        rings = [life.ring(held, 3), life.ring(held, 3, "2026-01-03T00:00:00Z")]
        rings.sort(key=lambda ring: ring.id)
