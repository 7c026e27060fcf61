"""One native connection: multiplexing, deadlines, bounds, and coming back after trouble."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from tests.client.native_node import CLUSTER_ID, NativeNode

from dynamo_client import native_link
from dynamo_client.errors import Unreachable
from dynamo_client.native_link import Cluster, Link
from dynamo_core.frames import RingName
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Op, Operation, Type, pack_operation, pack_outcome, unpack_outcome


@pytest.fixture
async def node() -> AsyncIterator[NativeNode]:
    running = NativeNode("cart-0")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def link(node: NativeNode) -> AsyncIterator[Link]:
    made = Link("http://n", "127.0.0.1", node.port, "cart-0", Cluster())
    await made.tried.wait()
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def put(key: bytes) -> bytes:
    return pack_operation(Operation(Op.PUT, key, value=b"v"))


async def ask(link: Link, key: bytes = b"k", timeout_ms: int = 2_000) -> tuple[int, bytes]:
    return await link.ask(Type.OPERATION, put(key), timeout_ms, timeout_ms, writes=True)


async def test_requests_of_a_tick_leave_together_and_find_their_own_replies(
    node: NativeNode, link: Link
) -> None:
    node.answer = lambda operation: Outcome(Kind.WRITTEN, operation.key.decode())
    replies = await asyncio.gather(*(ask(link, b"%d" % n) for n in range(200)))
    assert [unpack_outcome(payload).context for _, payload in replies] == [
        str(n) for n in range(200)
    ]
    assert node.chunks == 1


async def test_replies_out_of_order(node: NativeNode, link: Link) -> None:
    held: list[bytes] = []

    def reversed_pairs(frame: object) -> bytes:
        request_id = frame.request_id  # type: ignore[attr-defined]
        payload = pack_outcome(Outcome(Kind.WRITTEN, str(request_id)))
        held.append(node.frame(Type.OPERATION_REPLY, payload, request_id))
        if len(held) < 2:
            return b""
        return held.pop() + held.pop()

    node.raw = reversed_pairs
    first, second = await asyncio.gather(ask(link, b"a"), ask(link, b"b"))
    one, two = (int(unpack_outcome(payload).context) for _, payload in (first, second))
    assert two == one + 1


async def test_a_node_that_says_nothing_costs_the_deadline_and_may_have_written(
    node: NativeNode, link: Link
) -> None:
    node.answer = lambda operation: None
    started = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within 200 ms") as caught:
        await ask(link, timeout_ms=200)
    assert 0.15 < time.monotonic() - started < 1.0
    assert (caught.value.kind, caught.value.maybe_done) == ("timeout", True)
    with pytest.raises(Unreachable) as read:
        await link.ask(Type.OPERATION, put(b"k"), 100, 100)
    assert not read.value.maybe_done
    assert link.is_up


async def test_a_silent_connection_is_opened_anew(
    node: NativeNode, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "SILENCE_S", 0.15)
    node.answer = lambda operation: None
    with pytest.raises(Unreachable, match="silent"):
        await ask(link)
    node.answer = lambda operation: Outcome(Kind.WRITTEN)
    await until(lambda: link.is_up)
    assert (await ask(link))[0] == Type.OPERATION_REPLY


async def test_a_lost_connection_fails_what_is_in_flight_and_comes_back(
    node: NativeNode, link: Link
) -> None:
    node.answer = lambda operation: None
    waiting = asyncio.ensure_future(ask(link))
    await until(lambda: bool(node.operations))
    await node.stop()
    with pytest.raises(Unreachable, match="lost") as caught:
        await waiting
    assert (caught.value.kind, caught.value.maybe_done) == ("broken", True)
    with pytest.raises(Unreachable, match="no native connection") as refused:
        await ask(link)
    assert not refused.value.maybe_done
    await node.start()
    await until(lambda: link.is_up)


async def test_what_is_in_flight_is_bounded(
    node: NativeNode, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "IN_FLIGHT_MAX", 2)
    node.answer = lambda operation: None
    held = [asyncio.ensure_future(ask(link, timeout_ms=400)) for _ in range(2)]
    await until(lambda: len(node.operations) == 2)
    with pytest.raises(Unreachable, match="too much is in flight") as caught:
        await ask(link, timeout_ms=100)
    assert not caught.value.maybe_done
    assert len(node.operations) == 2
    await asyncio.gather(*held, return_exceptions=True)
    node.answer = lambda operation: Outcome(Kind.WRITTEN)
    await asyncio.gather(*(ask(link) for _ in range(20)))


async def test_a_caller_that_leaves_is_forgotten(node: NativeNode, link: Link) -> None:
    node.answer = lambda operation: None
    waiting = asyncio.ensure_future(ask(link))
    await until(lambda: bool(node.operations))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    node.answer = lambda operation: Outcome(Kind.WRITTEN)
    assert (await ask(link))[0] == Type.OPERATION_REPLY


@pytest.mark.parametrize(
    ("name", "cluster_id", "why"),
    [("cart-9", CLUSTER_ID, "cart-9"), ("cart-0", "ab" * 16, "cluster")],
)
async def test_whoever_else_answers_there_is_refused(name: str, cluster_id: str, why: str) -> None:
    stranger = NativeNode(name, cluster_id)
    await stranger.start()
    known = Cluster(bytes.fromhex(CLUSTER_ID))
    link = Link("http://n", "127.0.0.1", stranger.port, "cart-0", known)
    try:
        await link.tried.wait()
        assert not link.is_up
        assert why in link.trouble
        with pytest.raises(Unreachable, match=why):
            await ask(link)
        assert not stranger.operations
    finally:
        await link.close()
        await stranger.stop()


async def test_the_first_welcome_tells_which_cluster_it_is(node: NativeNode, link: Link) -> None:
    assert link.cluster.id.hex() == CLUSTER_ID


@pytest.mark.parametrize("garbage", [b"\x00" * 64, b"\xff" * 64, b"HTTP/1.1 400 Bad Request\r\n"])
async def test_garbage_ends_the_connection_and_nothing_else(
    node: NativeNode, link: Link, garbage: bytes
) -> None:
    node.raw = lambda frame: garbage
    with pytest.raises(Unreachable, match="lost"):
        await ask(link)
    node.raw = None
    await until(lambda: link.is_up)
    await ask(link)


async def test_a_newer_ring_in_any_frame_is_told(node: NativeNode, link: Link) -> None:
    told: list[int] = []
    link.cluster.on_newer_ring = lambda: told.append(1)
    await ask(link)
    assert not told
    link.cluster.ring_name = RingName(0, b"")
    await ask(link)
    assert told
