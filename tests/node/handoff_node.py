"""A node as handoff sees it: real hints on a real store; peers and holders as a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_core import objects, wire
from dynamo_core.frames import RingName
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.records import Stamp
from dynamo_core.ring import partition_of, position
from dynamo_core.slots import Token
from dynamo_core.versions import EMPTY
from dynamo_node.handoff import Handoff
from dynamo_node.replica import Replica
from dynamo_node.slices import Slices
from dynamo_node.storage import Store

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


async def acks(key: bytes) -> int:
    return wire.Type.WRITTEN


async def hangs(key: bytes) -> int:
    await asyncio.Event().wait()
    return wire.Type.ERROR


async def keep(store: Store, replica: Replica, target: int, *keys: bytes) -> None:
    for key in keys:
        stamp = Stamp(0, 1, bytes(16))
        replica.hints.keep(key, position(key), target, OBJECT, stamp, lambda error: None)
    await store.durable()


async def until(condition: Callable[[], bool]) -> None:
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


def node_with(
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
        tracing=SimpleNamespace(on=False),
    )
    node.coordinator = SimpleNamespace(reply_was_no=lambda *no: node.refused.append(no))
    return node


async def ended(running: "asyncio.Task[None]") -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@asynccontextmanager
async def hands_off(node: Any) -> AsyncIterator[Handoff]:
    work = Handoff(node)
    running = asyncio.create_task(work.run())
    yield work
    await ended(running)


def keys_of(partitions: set[int], count: int = 4) -> list[bytes]:
    keys = (b"k%d" % n for n in range(10_000))
    return [k for k in keys if partition_of(position(k), PARTITIONS) in partitions][:count]
