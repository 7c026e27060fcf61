"""What the client does when nodes fail: the fake misbehaves on request."""

import asyncio
import time

import pytest
from tests.client.fake_cluster import FakeCluster
from tests.client.fake_store import VALUE_BYTES_MAX

from dynamo_client import (
    BadRequest,
    DynamoClient,
    NotYet,
    Overloaded,
    Siblings,
    TooLarge,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from dynamo_client.routing import Nodes, base_url
from dynamo_client.sync import DynamoClient as SyncClient


def _write_ids(fake: FakeCluster) -> list[str]:
    return [
        request.headers["X-Dynamo-Write-Id"]
        for node in fake.nodes
        for request in node.requests
        if request.method == "PUT"
    ]


async def test_one_url_is_enough_to_find_all_nodes(fake: FakeCluster) -> None:
    async with DynamoClient(fake.urls[1]) as kv:
        assert sorted(kv.nodes) == sorted(fake.urls)
        for number in range(6):
            await kv.put(b"%d" % number, b"x")
    assert [len(node.requests) for node in fake.nodes] == [2, 2, 2]


async def test_a_node_that_is_not_ready_gets_nothing(fake: FakeCluster) -> None:
    fake.nodes[2].is_ready = False
    async with DynamoClient(fake.urls[0]) as kv:
        for number in range(6):
            await kv.put(b"%d" % number, b"x")
    assert not fake.nodes[2].requests


async def test_without_discovery_only_the_given_nodes_are_used(fake: FakeCluster) -> None:
    async with DynamoClient(fake.urls[:2], discover=False) as kv:
        for number in range(4):
            await kv.put(b"%d" % number, b"x")
    assert [len(node.requests) for node in fake.nodes] == [2, 2, 0]


async def test_a_dead_node_costs_nobody_a_request(fake: FakeCluster) -> None:
    async with DynamoClient(fake.urls) as kv:
        fake.stop_node(0)
        for number in range(10):
            await kv.put(b"%d" % number, b"x")
        assert fake.urls[0] not in kv.nodes
        fake.start_node(0)
        deadline = time.monotonic() + 10
        while fake.urls[0] not in kv.nodes and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert fake.urls[0] in kv.nodes


@pytest.mark.parametrize("fault", ["overloaded", "drop-before", "drop-after", "unavailable"])
async def test_a_write_that_may_have_happened_shows_once(fake: FakeCluster, fault: str) -> None:
    for node in fake.nodes[:2]:
        node.fault_forever = fault
    async with DynamoClient(fake.urls) as kv:
        for number in range(3):
            await kv.put(b"%d" % number, b"x")
        for number in range(3):
            assert (await kv.get(b"%d" % number)).values == [b"x"]
    # Turns begin at a failing node in at least one case; the id stays the same.
    assert len(set(_write_ids(fake))) == 3 < len(_write_ids(fake))


async def test_a_hanging_node_leaves_time_for_another(fake: FakeCluster) -> None:
    fake.nodes[0].fault_forever = "hang"
    async with DynamoClient(fake.urls, timeout_ms=800) as kv:
        started = time.monotonic()
        for number in range(4):
            await kv.put(b"%d" % number, b"x")
        assert time.monotonic() - started < 1.5
    assert len(fake.nodes[0].requests) == 1


async def test_the_deadline_holds(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.fault_forever = "hang"
    async with DynamoClient(fake.urls) as kv:
        started = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            await kv.put(b"k", b"x", timeout_ms=400)
        assert time.monotonic() - started < 1.0
    assert caught.value.maybe_done
    assert "no answer within" in str(caught.value)
    assert "may have been carried out" in str(caught.value)


async def test_no_node_at_all() -> None:
    async with DynamoClient(["http://127.0.0.1:9", "127.0.0.1:1"]) as kv:
        with pytest.raises(Unreachable) as caught:
            await kv.get(b"k")
    assert not caught.value.maybe_done
    assert "http://127.0.0.1:9: connection refused" in str(caught.value)
    assert "http://127.0.0.1:1: connection refused" in str(caught.value)


async def test_errors_carry_what_the_node_said(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.faults.extend(["unavailable", "overloaded"])
    async with DynamoClient(fake.urls) as kv:
        with pytest.raises(Unavailable) as caught:
            await kv.put(b"k", b"x")
        error = caught.value
        assert (error.status, error.kind, error.needed, error.got) == (503, "unavailable", 2, 1)
        assert error.maybe_done
        assert error.node in fake.urls
        with pytest.raises(Overloaded) as busy:
            await kv.get(b"k")
        assert busy.value.retry_after_seconds == 1
        future = fake.store.token(b"k", {1, 2, 3})
        with pytest.raises(NotYet):
            await kv.get(b"k", context=future)


async def test_another_server_is_not_taken_for_an_empty_store(fake: FakeCluster) -> None:
    for node in fake.nodes:
        node.fault_forever = "html"
    async with DynamoClient(fake.urls) as kv:
        with pytest.raises(UnexpectedAnswer, match="doesn't look like a Dynamo node"):
            await kv.get(b"k")


async def test_long_contexts_travel_in_bodies(fake: FakeCluster) -> None:
    fake.store.context_padding = "x" * 8000
    async with DynamoClient(fake.urls) as kv:
        first = await kv.put(b"k", b"\x00one", content_type="text/plain")
        assert first.context is not None
        assert len(first.context) > 6 * 1024
        await kv.put(b"k", b"\x00two", context=first.context, content_type="text/plain")
        item = await kv.get(b"k")
        assert item.value == b"\x00two"
        assert item.siblings[0].content_type == "text/plain"
        assert item.context == fake.store.token(b"k", {1, 2})
        with pytest.raises(BadRequest, match="native protocol takes it"):
            await kv.get(b"k", context=item.context)  # a floor has no body to travel in
        assert (await kv.delete(b"k", context=item.context)).found
        assert not (await kv.get(b"k")).found


async def test_update_repeats_an_uncertain_write_as_it_is(fake: FakeCluster) -> None:
    merged: list[list[bytes]] = []

    async def merge(values: list[bytes]) -> bytes:
        merged.append(values)
        return b"%d" % (int(values[0]) + 1 if values else 1)

    async with DynamoClient(fake.urls[0], discover=False) as kv:
        await kv.update(b"n", merge)
        fake.nodes[0].faults.extend(["", "drop-after", "unavailable"])
        await kv.update(b"n", merge)
        assert (await kv.get(b"n")).value == b"2"
    assert merged == [[], [b"1"]]


async def test_update_gives_up_after_its_attempts(fake: FakeCluster) -> None:
    fake.nodes[0].fault_forever = "unavailable"
    async with DynamoClient(fake.urls[0], discover=False) as kv:
        with pytest.raises(Unavailable):
            await kv.update(b"n", lambda values: b"", attempts=2)
        assert len(fake.nodes[0].requests) == 2
        with pytest.raises(ValueError, match="attempts is 0"):
            await kv.update(b"n", lambda values: b"", attempts=0)


async def test_input_is_checked_before_anything_is_sent(fake: FakeCluster) -> None:
    async with DynamoClient(fake.urls) as kv:
        with pytest.raises(BadRequest, match="empty"):
            await kv.get(b"")
        with pytest.raises(TooLarge, match="1025 bytes"):
            await kv.get(b"x" * 1025)
        with pytest.raises(BadRequest, match="UTF-8"):
            await kv.get("\ud800")
        with pytest.raises(TypeError, match="a value is bytes, not str"):
            await kv.put(b"k", "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not int"):
            await kv.put(7, b"")  # type: ignore[arg-type]
    assert not any(node.requests for node in fake.nodes)


async def test_a_closed_client_says_so(fake: FakeCluster) -> None:
    kv = DynamoClient(fake.urls)
    await kv.put(b"k", b"x")  # works without `async with` too
    await kv.close()
    with pytest.raises(RuntimeError, match="closed"):
        await kv.get(b"k")


def test_sync_twin(fake: FakeCluster) -> None:
    with SyncClient(fake.urls[0]) as kv:
        kv.put(b"k", b"1")
        kv.put(b"k", b"2")
        item = kv.get(b"k")
        with pytest.raises(Siblings):
            _ = item.value

        def merge(values: list[bytes]) -> bytes:
            # The merge may use the client itself.
            return b"+".join(sorted(values)) + (b"" if kv.get(b"other").found else b"!")

        kv.update(b"k", merge)
        assert kv.get(b"k").value == b"1+2!"
        assert kv.delete(b"k").found
        assert kv.cluster()["name"] == "cart"
        assert sorted(kv.nodes) == sorted(fake.urls)
    kv.close()
    with pytest.raises(RuntimeError, match="closed"):
        kv.get(b"k")


def test_big_values_are_refused_by_words_and_not_by_a_broken_pipe(fake: FakeCluster) -> None:
    with SyncClient(fake.urls) as kv, pytest.raises(TooLarge):
        kv.put(b"k", bytes(4 * VALUE_BYTES_MAX))


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("127.0.0.1:8100", "http://127.0.0.1:8100"),
        (" http://node:8100/ ", "http://node:8100"),
        ("https://[::1]:8100", "https://[::1]:8100"),
    ],
)
def test_urls(url: str, right: str) -> None:
    assert base_url(url) == right


@pytest.mark.parametrize("url", ["", "ftp://x", "http://x/kv", "http://x:port", "http://x:99999"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(BadRequest):
        base_url(url)


def test_who_is_down_by_one_nodes_word_is_judged_by_whether_it_answers_here() -> None:
    """That node may itself be cut off from all others; it was the only one left to ask then."""
    nodes = Nodes(["http://service:1"])
    named = [("http://a:1", "up"), ("http://b:1", "up"), ("http://c:1", "down")]
    nodes.learn(named, now=0.0)
    assert nodes.due(0.0) == ["http://a:1", "http://b:1", "http://c:1"]
    nodes.succeeded("http://a:1")
    nodes.succeeded("http://b:1")
    nodes.failed("http://c:1", 0.0)
    # Now a says that it reaches nobody.
    nodes.learn([("http://a:1", "up"), ("http://b:1", "down"), ("http://c:1", "down")], now=1.0)
    assert nodes.proven == ("http://service:1", "http://a:1", "http://b:1")
    nodes.failed("http://b:1", 2.0)
    assert nodes.order()[-2:] == ["http://b:1", "http://c:1"]


def test_nodes_come_back_by_probes_only() -> None:
    nodes = Nodes(["http://a:1"])
    nodes.learn([("http://b:1", "up"), ("http://c:1", "left")], now=0.0)
    assert nodes.proven == ("http://a:1",)
    assert nodes.due(0.0) == ["http://b:1"]
    nodes.failed("http://b:1", 0.0)
    assert nodes.due(0.4) == []
    assert nodes.next_probe() == 0.5
    nodes.failed("http://b:1", 0.5)
    assert nodes.next_probe() == 1.5
    nodes.succeeded("http://b:1")
    assert nodes.proven == ("http://a:1", "http://b:1")
    nodes.failed("http://a:1", 2.0)
    assert nodes.order() == ["http://b:1", "http://a:1"]
    nodes.learn([], now=3.0)
    assert nodes.known == ("http://a:1",)
