"""The contract's section 3 as the client sees it, against the fake and against real nodes."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.client.fake_cluster import FakeCluster
from tests.client.real_cluster import RealCluster

from dynamo_client import (
    BadRequest,
    DynamoClient,
    NotFound,
    Siblings,
    TooLarge,
    TooManySiblings,
)
from dynamo_client.client import Protocol, new_write_id
from dynamo_client.http_transport import PUT_JSON
from dynamo_client.items import OCTET_STREAM


@pytest.fixture
async def kv(cluster: FakeCluster | RealCluster, protocol: Protocol) -> AsyncIterator[DynamoClient]:
    async with DynamoClient(cluster.urls, protocol=protocol) as client:
        yield client


@pytest.fixture
def key() -> bytes:
    return secrets.token_bytes(12)


@pytest.mark.parametrize(
    "hostile",
    [
        b"a/b//c",
        b".",
        b"..",
        b"../../admin",
        b"%2F",
        b"a?b#c&d",
        b" ",
        b"\x00\xff\r\n",
        "schlüssel".encode(),
        b"x" * 1024,
        b"+",
        b"kv",
    ],
)
async def test_any_key_comes_back_with_its_value(kv: DynamoClient, hostile: bytes) -> None:
    value = b"of " + hostile
    context = (await kv.get(hostile)).context
    await kv.put(hostile, value, context=context)
    item = await kv.get(hostile)
    assert item.value == value
    assert item.found
    assert item.acks.primary >= 1


@pytest.mark.parametrize("value", [b"", b"\x00\r\n\r\n\xff", secrets.token_bytes(300_000)])
async def test_any_value_comes_back_with_its_type(
    kv: DynamoClient, key: bytes, value: bytes
) -> None:
    await kv.put(key, value, content_type="image/png")
    (sibling,) = (await kv.get(key)).siblings
    assert sibling.value == value
    assert sibling.content_type == "image/png"


async def test_text_keys_are_utf8(kv: DynamoClient, key: bytes) -> None:
    text = "ключ " + key.hex()
    await kv.put(text, b"1")
    assert (await kv.get(text.encode())).value == b"1"


async def test_absent_key(kv: DynamoClient, key: bytes) -> None:
    item = await kv.get(key)
    assert not item.found
    assert item.values == []
    assert item.context is None
    with pytest.raises(NotFound) as caught:
        _ = item.value
    assert caught.value.item is item


async def test_writes_without_context_become_siblings(kv: DynamoClient, key: bytes) -> None:
    await kv.put(key, b"one", content_type="text/plain")
    await kv.put(key, b"two")
    item = await kv.get(key)
    assert sorted(item.values) == [b"one", b"two"]
    assert {s.content_type for s in item.siblings} == {"text/plain", OCTET_STREAM}
    assert len({s.dot for s in item.siblings}) == 2
    assert all(s.dot and s.written_at for s in item.siblings)
    with pytest.raises(Siblings) as caught:
        _ = item.value
    assert caught.value.item is item
    await kv.put(key, b"both", context=item.context)
    assert (await kv.get(key)).value == b"both"


async def test_a_puts_context_covers_only_what_it_was_sent_and_wrote(
    kv: DynamoClient, key: bytes
) -> None:
    await kv.put(key, b"x")
    mine = await kv.put(key, b"y")
    await kv.put(key, b"y2", context=mine.context)
    assert sorted((await kv.get(key)).values) == [b"x", b"y2"]


async def test_delete_with_a_context(kv: DynamoClient, key: bytes) -> None:
    await kv.put(key, b"x")
    item = await kv.get(key)
    done = await kv.delete(key, context=item.context)
    assert done.found
    gone = await kv.get(key)
    assert not gone.found
    assert gone.context is not None
    await kv.put(key, b"again", context=gone.context)
    assert (await kv.get(key)).value == b"again"


async def test_delete_without_a_context(kv: DynamoClient, key: bytes) -> None:
    assert not (await kv.delete(key)).found
    await kv.put(key, b"x")
    assert (await kv.delete(key)).found
    assert not (await kv.get(key)).found


async def test_a_delete_leaves_what_it_had_not_seen(kv: DynamoClient, key: bytes) -> None:
    mine = await kv.put(key, b"seen")
    await kv.put(key, b"unseen")
    await kv.delete(key, context=mine.context)
    assert (await kv.get(key)).values == [b"unseen"]


async def test_bad_contexts_write_nothing(kv: DynamoClient, key: bytes) -> None:
    await kv.put(key, b"kept")
    good = (await kv.get(key)).context
    assert good is not None
    other = (await kv.put(key + b"other", b"1")).context
    forged = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
    for bad in ("nonsense", forged, other, good + "A"):
        with pytest.raises(BadRequest) as caught:
            await kv.put(key, b"lost", context=bad)
        assert caught.value.status == 400
    with pytest.raises(BadRequest):
        await kv.delete(key, context="nonsense")
    assert (await kv.get(key)).value == b"kept"


async def test_a_context_that_no_header_can_carry(kv: DynamoClient, key: bytes) -> None:
    with pytest.raises(BadRequest):
        await kv.put(key, b"x", context="a\r\nX-Evil: 1")
    assert not (await kv.get(key)).found


@pytest.mark.parametrize("quorum", [0, 4, 99])
async def test_bad_quorum(kv: DynamoClient, key: bytes, quorum: int) -> None:
    with pytest.raises(BadRequest):
        await kv.get(key, r=quorum)
    with pytest.raises(BadRequest):
        await kv.put(key, b"x", w=quorum)
    assert not (await kv.get(key)).found


async def test_good_quorums(kv: DynamoClient, key: bytes) -> None:
    for quorum in (1, 2, 3):
        context = (await kv.get(key, r=quorum)).context
        await kv.put(key, b"%d" % quorum, w=quorum, context=context)
    assert (await kv.get(key, r=3)).value == b"3"


async def test_limits(kv: DynamoClient, key: bytes) -> None:
    with pytest.raises(TooLarge) as caught:
        await kv.put(key, bytes(1024 * 1024 + 1))
    assert caught.value.status == 413
    await kv.put(key, bytes(1024 * 1024))
    assert len((await kv.get(key)).value) == 1024 * 1024


async def test_a_repeated_write_id_shows_once(kv: DynamoClient, key: bytes) -> None:
    write_id = new_write_id()
    await kv.put(key, b"x", write_id=write_id)
    await kv.put(key, b"x", write_id=write_id)
    assert (await kv.get(key)).values == [b"x"]


async def test_too_many_siblings_are_refused_and_merged(kv: DynamoClient, key: bytes) -> None:
    async def write_blind() -> None:
        for number in range(200):
            await kv.put(key, b"%d" % number)

    with pytest.raises(TooManySiblings):
        await write_blind()
    item = await kv.get(key)
    assert 90 <= len(item.values) <= 101
    await kv.update(key, lambda values: b",".join(sorted(values)))
    assert (await kv.get(key)).value.count(b",") == len(item.values) - 1


async def test_read_your_writes(kv: DynamoClient, key: bytes) -> None:
    for number in range(5):
        done = await kv.put(key, b"%d" % number, context=(await kv.get(key)).context, w=1)
        assert (await kv.get(key, context=done.context, r=1)).value == b"%d" % number


async def test_concurrent_updates_lose_nothing(kv: DynamoClient, key: bytes) -> None:
    async def add(number: int) -> None:
        def merge(values: list[bytes]) -> bytes:
            merged = {number}
            for value in values:
                merged |= set(json.loads(value))
            return json.dumps(sorted(merged)).encode()

        await kv.update(key, merge)

    await asyncio.gather(*(add(number) for number in range(20)))
    found = {number for value in (await kv.get(key)).values for number in json.loads(value)}
    assert found == set(range(20))


async def test_a_value_of_the_envelopes_own_type(kv: DynamoClient, key: bytes) -> None:
    await kv.put(key, b'{"value": "not mine"}', content_type=PUT_JSON)
    (sibling,) = (await kv.get(key)).siblings
    assert sibling.value == b'{"value": "not mine"}'
    assert sibling.content_type == PUT_JSON


async def test_cluster_view(kv: DynamoClient, cluster: FakeCluster | RealCluster) -> None:
    view = await kv.cluster()
    assert view["name"] == "cart"
    assert {"epoch", "settled", "partitions", "n", "imbalance", "zones_distinct"} <= set(
        view["ring"]
    )
    wanted = {"name", "zone", "state", "capacity", "tokens", "ownership_percent", "keys"}
    wanted |= {"hints_pending", "incarnation", "http", "admin"}
    assert all(wanted <= set(node) for node in view["nodes"])
    assert sorted(node["http"] for node in view["nodes"]) == sorted(cluster.urls)
    assert isinstance(view["transfers"], list)
