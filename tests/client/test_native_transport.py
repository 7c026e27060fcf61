"""The single hop: which node is asked, what happens when it can't be, and the same errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.client.native_node import CLUSTER_ID, NativeNode
from tests.client.real_cluster import RealCluster, why_no_real_cluster

from dynamo_client.client import DynamoClient, Protocol
from dynamo_client.errors import (
    BadRequest,
    DynamoClientError,
    NotYet,
    Overloaded,
    TooLarge,
    TooManySiblings,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from dynamo_client.items import Acks, DeleteResult, Item, PutResult
from dynamo_client.native_answers import item_of, put_result_of
from dynamo_client.native_transport import NativeTransport
from dynamo_client.transport import DeleteCall, GetCall, PutCall
from dynamo_core.frames import FRAME_BYTES_MAX
from dynamo_core.objects import Sibling
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.placement import Candidate, first_ring, next_ring
from dynamo_core.ring import Ring, position
from dynamo_core.wire import Code, Op, Operation, Type, pack_error, pack_outcome

KEYS = [b"key-%d" % n for n in range(24)]


class OnlyHttp:
    """What HTTP serves beside native: the view. Calls that fall back are counted."""

    def __init__(self, view: Callable[[], dict[str, Any]]) -> None:
        self._view = view
        self.calls: list[str] = []

    async def get(self, node: str, call: GetCall, timeout_ms: int) -> Item:
        self.calls.append(node)
        return Item(call.key)

    async def put(self, node: str, call: PutCall, timeout_ms: int) -> PutResult:
        self.calls.append(node)
        return PutResult("http", Acks())

    async def delete(self, node: str, call: DeleteCall, timeout_ms: int) -> DeleteResult:
        self.calls.append(node)
        return DeleteResult(True, "http", Acks())

    async def cluster(self, node: str, timeout_ms: int) -> dict[str, Any]:
        return self._view()

    async def ready(self, node: str, timeout_ms: int) -> bool:
        return True

    def owners(self, key: bytes, *, reads: bool) -> Sequence[str]:
        return ()

    async def close(self) -> None: ...


class Place:
    """Five nodes with native ports, a ring of three replicas, and a client's way to them."""

    def __init__(self) -> None:
        self.nodes = [NativeNode(f"cart-{at}") for at in range(5)]
        self.http = OnlyHttp(self.view)
        self.scheme = "http"

    async def start(self) -> None:
        await asyncio.gather(*(node.start() for node in self.nodes))
        self.publish(first_ring(CLUSTER_ID, "cart", self.members(), 3, 16, "2024-01-01T00:00:00Z"))

    def publish(self, ring: Ring) -> None:
        self.ring = ring
        for node in self.nodes:
            node.ring = ring

    def members(self) -> list[Candidate]:
        return [
            Candidate(node.name, "", "1", "127.0.0.1", 80 + at, node.port, 1, f"{at:032x}")
            for at, node in enumerate(self.nodes)
        ]

    def url(self, at: int) -> str:
        return f"{self.scheme}://n{at}"

    def view(self) -> dict[str, Any]:
        return {
            "nodes": [
                {
                    "name": node.name,
                    "state": "up",
                    "http": self.url(at),
                    "native": f"127.0.0.1:{node.port}",
                }
                for at, node in enumerate(self.nodes)
            ]
        }

    def owners(self, key: bytes) -> list[NativeNode]:
        row = self.ring.slots[self.ring.partition_of(position(key))]
        named = {node.name: node for node in self.nodes}
        return [named[self.ring.member(number).name] for number in row]

    def client(self, protocol: Protocol = "auto", **more: Any) -> DynamoClient:
        return DynamoClient(
            self.url(0),
            transport=lambda: NativeTransport(self.http, falls_back=protocol == "auto"),
            **more,
        )


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    made = Place()
    await made.start()
    yield made
    await asyncio.gather(*(node.stop() for node in made.nodes))


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_put_goes_to_the_first_owner_and_gets_are_shared_by_all(place: Place) -> None:
    for node in place.nodes:
        node.answer = lambda operation: Outcome(Kind.ABSENT if operation.op == Op.GET else Kind(1))
    async with place.client() as kv:
        for key in KEYS:
            await kv.put(key, b"v")
            for _ in range(3):
                await kv.get(key)
    for key in KEYS:
        owners = place.owners(key)
        puts = [n for n in place.nodes for o in n.operations if (o.op, o.key) == (Op.PUT, key)]
        gets = [n for n in place.nodes for o in n.operations if (o.op, o.key) == (Op.GET, key)]
        assert puts == owners[:1]
        assert sorted(n.name for n in gets) == sorted(n.name for n in owners)
    assert not place.http.calls


async def test_the_next_owner_gets_the_same_write_when_one_fails(place: Place) -> None:
    first, second, _ = place.owners(b"k")
    first.answer = lambda operation: Outcome(Kind.UNAVAILABLE, needed=2, got=1)
    async with place.client() as kv:
        await kv.put(b"k", b"v")
        assert [o.write_id for o in first.operations] == [o.write_id for o in second.operations]
        await first.stop()
        await until(lambda: len(kv._transport.linked) == 4)  # type: ignore[union-attr]
        await kv.put(b"k", b"w")
        assert len(second.operations) == 2
    assert not place.http.calls


async def test_a_hanging_owner_leaves_time_for_the_next(place: Place) -> None:
    first, second, _ = place.owners(b"k")
    first.answer = lambda operation: None
    async with place.client(timeout_ms=600) as kv:
        started = time.monotonic()
        await kv.put(b"k", b"v")
        assert time.monotonic() - started < 0.6
        await kv.put(b"k", b"v")
    assert len(first.operations) == 1  # not asked again before a probe has proven it
    assert first.remaining_ms[0] < 300
    assert len(second.operations) == 2


async def test_a_newer_ring_is_fetched_when_a_frame_names_it(place: Place) -> None:
    async with place.client() as kv:
        asked = sum(node.rings_asked for node in place.nodes)
        place.publish(next_ring(place.ring, place.members()[2:], "2024-01-02T00:00:00Z"))
        await kv.put(b"k", b"v")
        await until(lambda: sum(node.rings_asked for node in place.nodes) > asked)
        await until(lambda: kv._transport._ring.name == place.ring.name)  # type: ignore[union-attr]
        for node in place.nodes:
            node.operations.clear()
        for key in KEYS:
            await kv.put(key, b"v")
        assert not place.nodes[0].operations
        assert not place.nodes[1].operations
        for key in KEYS:
            assert key in [o.key for o in place.owners(key)[0].operations]


async def test_auto_takes_http_where_native_cannot_be_reached(place: Place) -> None:
    await asyncio.gather(*(node.stop() for node in place.nodes))
    async with place.client() as kv:
        assert (await kv.put(b"k", b"v")).context == "http"
        assert not (await kv.get(b"k")).found
        assert (await kv.delete(b"k")).found
    assert len(place.http.calls) == 3


async def test_native_insists(place: Place) -> None:
    await asyncio.gather(*(node.stop() for node in place.nodes))
    async with place.client("native") as kv:
        with pytest.raises(Unreachable, match="no native connection") as caught:
            await kv.put(b"k", b"v")
        assert not caught.value.maybe_done
    assert not place.http.calls


async def test_nodes_behind_https_are_not_spoken_to_in_the_clear(place: Place) -> None:
    place.scheme = "https"
    async with place.client() as kv:
        assert (await kv.put(b"k", b"v")).context == "http"
    async with place.client("native") as kv:
        with pytest.raises(Unreachable, match="no TLS"):
            await kv.put(b"k", b"v")
    assert not any(node.operations for node in place.nodes)


async def test_a_handshake_that_never_ends_holds_nobody_up(place: Place) -> None:
    for node in place.nodes:
        node.welcomes = False
    started = time.monotonic()
    async with place.client() as kv:
        assert (await kv.put(b"k", b"v")).context == "http"
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    "nodes",
    [
        None,
        "x",
        [None, 7, {}],
        [{"name": "a", "http": "http://n0", "native": "nonsense"}],
        [{"name": "a", "http": "http://n0", "native": "h:99999"}],
        [{"name": "", "http": "http://n0", "native": "h:1"}],
        [{"name": "a", "http": 7, "native": ["h", 1]}],
    ],
)
async def test_odd_views_open_no_links(nodes: object) -> None:
    transport = NativeTransport(OnlyHttp(lambda: {"nodes": nodes}), falls_back=True)
    await transport.cluster("http://n0", 500)
    assert transport.linked == ()
    assert transport.owners(b"k", reads=True) == ()
    await transport.close()


async def test_what_the_call_says_arrives(place: Place) -> None:
    async with place.client() as kv:
        await kv.put(b"k", b"v", context="seen", content_type="a/b", w=3, write_id="0f" * 16)
        await kv.delete(b"k", context="seen", r=2, w=1, write_id="0e" * 16)
    put, delete = place.owners(b"k")[0].operations
    assert put == Operation(Op.PUT, b"k", 3, b"\x0f" * 16, "seen", "a/b", b"v")
    assert delete == Operation(Op.DELETE, b"k", 1, b"\x0e" * 16, "seen")


async def test_what_no_frame_can_carry_is_refused_before_it_is_sent(place: Place) -> None:
    async with place.client() as kv:
        for bad in (0, 256, -1):
            with pytest.raises(BadRequest, match="w is"):
                await kv.put(b"k", b"v", w=bad)
        with pytest.raises(BadRequest, match="32 hex"):
            await kv.put(b"k", b"v", write_id="abc")
        with pytest.raises(BadRequest):
            await kv.put(b"k", b"v", context="\ud800")
        with pytest.raises(BadRequest):
            await kv.put(b"k", b"v", content_type="x" * 256)
        with pytest.raises(TooLarge):
            await kv.put(b"k", bytes(FRAME_BYTES_MAX))
    assert not any(node.operations for node in place.nodes)


@pytest.mark.parametrize(
    ("outcome", "error", "status", "kind"),
    [
        (Outcome(Kind.BAD_REQUEST, detail="why"), BadRequest, 400, "bad-request"),
        (Outcome(Kind.TOO_LARGE, detail="why"), TooLarge, 413, "too-large"),
        (Outcome(Kind.TOO_MANY_SIBLINGS, detail="why"), TooManySiblings, 409, "too-many-siblings"),
        (Outcome(Kind.UNAVAILABLE, needed=2, got=1), Unavailable, 503, "unavailable"),
        (Outcome(Kind.NOT_YET, needed=2, got=1), NotYet, 503, "not-yet"),
        (Outcome(Kind.OVERLOADED), Overloaded, 503, "overloaded"),
    ],
)
def test_every_refusal_is_the_exception_that_http_gives(
    outcome: Outcome, error: type[DynamoClientError], status: int, kind: str
) -> None:
    for read in (
        lambda: item_of(b"k", Type.OPERATION_REPLY, pack_outcome(outcome), "n"),
        lambda: put_result_of(Type.OPERATION_REPLY, pack_outcome(outcome), "n"),
    ):
        with pytest.raises(error) as caught:
            read()
        said = caught.value
        assert type(said) is error
        assert (said.status, said.kind, said.node) == (status, kind, "n")
        assert said.maybe_done == (status == 503)
        if outcome.needed and isinstance(said, Unavailable):
            assert (said.needed, said.got) == (2, 1)
        if isinstance(said, Overloaded):
            assert said.retry_after_seconds == 1


@pytest.mark.parametrize(
    ("code", "error", "maybe_done"),
    [
        (Code.BAD_REQUEST, BadRequest, False),
        (Code.EXPIRED, Unavailable, False),
        (Code.OVERLOADED, Overloaded, False),
        (Code.STORAGE, Unavailable, True),
        (Code.NOT_READY, Overloaded, False),
        (Code.STALE_RING, Overloaded, False),
    ],
)
def test_error_frames(code: Code, error: type[DynamoClientError], maybe_done: bool) -> None:
    with pytest.raises(error) as caught:
        put_result_of(Type.ERROR, pack_error(code, "why"), "n")
    assert caught.value.maybe_done == maybe_done


def test_siblings_carry_what_the_answer_carries() -> None:
    dot = (b"\x00\x00\x00\x07" + b"\xab" * 8 + b"\x00\x00\x00\x02", 5)
    siblings = (Sibling(dot, bytes(16), 0, "", b"v"), Sibling(dot, bytes(16), 2**63, "a/b", b""))
    reply = pack_outcome(Outcome(Kind.VALUES, "ctx", siblings, 2, 1))
    item = item_of(b"k", Type.OPERATION_REPLY, reply, "n")
    assert (item.values, item.context, item.acks) == ([b"v", b""], "ctx", Acks(2, 1))
    first, second = item.siblings
    assert (first.content_type, first.written_at) == (
        "application/octet-stream",
        "1970-01-01T00:00:00.000Z",
    )
    assert first.dot == f"7.{'ab' * 8}.2:5"
    assert second.written_at is None


@given(st.integers(0, 255), st.binary(max_size=80))
@example(int(Type.ERROR), b"\x07 what only nodes say to each other")
def test_any_bytes_are_an_answer_or_one_of_our_errors(kind: int, payload: bytes) -> None:
    for each in (kind, Type.OPERATION_REPLY, Type.ERROR):
        with suppress(DynamoClientError):
            item_of(b"k", each, payload, "n")


def test_a_reply_to_another_question_is_unexpected() -> None:
    with pytest.raises(UnexpectedAnswer):
        item_of(b"k", Type.OPERATION_REPLY, pack_outcome(Outcome(Kind.WRITTEN)), "n")
    with pytest.raises(UnexpectedAnswer):
        put_result_of(Type.PONG, b"", "n")


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="there are auto, native and http"):
        DynamoClient("http://n", protocol="tcp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs discover"):
        DynamoClient("http://n", protocol="native", discover=False)


@pytest.mark.skipif(bool(why_no_real_cluster()), reason=why_no_real_cluster())
async def test_by_default_real_nodes_are_reached_natively_and_long_floors_pass(
    shared_real: RealCluster,
) -> None:
    async with DynamoClient(shared_real.urls[0]) as kv:
        transport = kv._transport
        assert isinstance(transport, NativeTransport)
        assert sorted(transport.linked) == sorted(shared_real.urls)
        await kv.put(
            b"native-by-default", b"v", context=(await kv.get("native-by-default")).context
        )
        with pytest.raises(BadRequest, match="not one that this cluster issued"):
            await kv.get(b"native-by-default", context="x" * 7_000)  # of no header's size
