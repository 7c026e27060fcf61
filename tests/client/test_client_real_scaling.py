"""Real nodes join and leave while clients read and write: no request fails, nothing is lost."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports
from tests.client.real_cluster import RealCluster, why_no_real_cluster

from dynamo_client.client import DynamoClient
from dynamo_core.placement import Candidate, next_ring
from dynamo_core.ring import Ring

pytestmark = pytest.mark.skipif(bool(why_no_real_cluster()), reason=why_no_real_cluster())

SETTLED_SECONDS = 60.0
KEYS = 120


class Scaled(RealCluster):
    """Nodes 0..2 are in the first ring; more are started, and rings published, by the test."""

    def add(self) -> int:
        at = len(self._names)
        self._names.append(f"cart-default-{at}")
        self._ports += free_ports(3)
        self._processes.append(self._spawn(at))
        return at

    def status(self, at: int) -> Any:
        return self._admin(at, "/admin/status")

    def ring(self, at: int) -> Ring:
        return Ring.from_json(self._admin(at, "/admin/ring"))

    def publish(self, wanted: list[int], drained: tuple[int, ...] = ()) -> Ring:
        """The next ring, of these nodes, at all that it names."""
        members = [
            Candidate(
                self._names[at], "", "1", "127.0.0.1", *self._ports[3 * at : 3 * at + 3],
                self.status(at)["disk_id"],
            )
            for at in wanted
        ]  # fmt: skip
        held = max((self.ring(at) for at in wanted if self._holds(at)), key=lambda r: r.name)
        ring = next_ring(held, members, "2026-01-01T00:00:00Z", drained)
        names = {node.name for node in ring.everybody}
        for at, name in enumerate(self._names):
            if name in names:
                self._admin(at, "/admin/ring", json.dumps(ring.to_json()).encode())
        return ring

    def _holds(self, at: int) -> bool:
        return self.status(at)["ring"] is not None

    def end(self, at: int) -> None:
        self._processes[at].send_signal(signal.SIGTERM)
        self._processes[at].wait(20)


@pytest.fixture
def scaled(tmp_path: Path) -> Iterator[Scaled]:
    cluster = Scaled(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


async def _off_loop(work: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


class Load:
    """Clients that read and write one key after the other, until told to stop."""

    def __init__(self, kv: DynamoClient, name: str) -> None:
        self.kv = kv
        self.name = name
        self.written: dict[str, bytes] = {}
        self.failures: list[str] = []
        self.requests = 0
        self.last = ""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        n = 0
        while True:
            key, value = f"{self.name}-{n % KEYS}", b"%d" % n
            n += 1
            self.last = key
            try:
                item = await self.kv.get(key)
                if (was := self.written.get(key)) is not None and item.values != [was]:
                    self.failures.append(f"{key} is {item.values}, was {was!r}")
                await self.kv.put(key, value, context=item.context)
                self.written[key] = value
            except Exception as error:  # each of them is what the test is about
                self.failures.append(f"{key}: {error!r}")
            self.requests += 2
            await asyncio.sleep(0.002)


async def _settled(scaled: Scaled, epoch: int, nodes: list[int]) -> None:
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        told = [await _off_loop(scaled.status, at) for at in nodes]
        if all(
            s["ring"]["epoch"] == epoch
            and not s["handover"]["open_slots"]
            and not s["handover"]["pulling"]
            and not s["handover"]["sealed_to"]
            for s in told
        ):
            return
        assert time.monotonic() < deadline, [s["handover"] for s in told]
        await asyncio.sleep(0.1)


async def _drained(scaled: Scaled, at: int) -> None:
    deadline = time.monotonic() + SETTLED_SECONDS
    while not (facts := (await _off_loop(scaled.status, at))["handover"])["drained"]:
        assert time.monotonic() < deadline, facts
        await asyncio.sleep(0.1)


async def test_no_request_fails_while_all_nodes_but_one_are_replaced(scaled: Scaled) -> None:
    """Those that the clients were given first leave, and others join."""
    given = scaled.urls[0]
    async with (
        DynamoClient(given, protocol="native") as native,
        DynamoClient(given, protocol="http") as http,
    ):
        loads = [Load(native, "native"), Load(http, "http")]
        new = [await _off_loop(scaled.add) for _ in range(2)]
        for at in new:
            await _off_loop(_started, scaled, at)
        members = [2, *new]
        ring = await _off_loop(scaled.publish, members)
        await _settled(scaled, ring.epoch, [0, 1, *members])
        for at in (0, 1):
            await _drained(scaled, at)
        ring = await _off_loop(scaled.publish, members, tuple(n.number for n in ring.leaving))
        assert not ring.leaving
        await asyncio.gather(*(_off_loop(scaled.end, at) for at in (0, 1)))
        await asyncio.sleep(0.5)
        for load in loads:
            await load.stop()
            assert load.failures == []
            assert load.requests > 100
            for key, value in load.written.items():
                # The last write may have been carried out and not answered when it was stopped.
                assert value in (await load.kv.get(key)).values or key == load.last
        for kv in (native, http):
            assert {scaled.urls[at] for at in members} <= {*kv.nodes} <= {
                given, *(scaled.urls[at] for at in members)
            }  # fmt: skip


def _started(scaled: Scaled, at: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            scaled.status(at)
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
