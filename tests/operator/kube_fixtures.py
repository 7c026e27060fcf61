"""An operator in the test's own process that does nothing but say when it is woken."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
from tests.operator.kube_patches import Object
from tests.operator.kube_world import KubeWorld

from dynamo_operator.kube.api import Api
from dynamo_operator.kube.lease import Terms
from dynamo_operator.kube.measures import Measures
from dynamo_operator.kube.names import Release
from dynamo_operator.kube.serving import Build, Options, serve
from dynamo_operator.kube.tasks import Reconciler

RELEASE = Release("1.0.0", "dynamo-node:1.0.0")
QUICK = Terms(duration_s=20, renew_every_s=0.3, renew_deadline_s=15.0, retry_s=0.1, request_s=10.0)


async def until(what: Callable[[], object], seconds: float = 20.0) -> None:
    """Polls. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - polled, with a deadline
            await asyncio.sleep(0.01)


async def told(port: int, path: str = "/healthz", *, code: int = 200) -> str:
    """What the health of an operator says once it answers with this code."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    if answer.status == code:
                        return await answer.text()
            await asyncio.sleep(0.01)


def dynamo_cluster(name: str = "cart", namespace: str = "shop", **spec: object) -> Object:
    return {
        "kind": "DynamoCluster",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec or {"replicas": 3},
    }


@dataclass
class Passes:
    """A reconciler: notes what becomes of its tasks."""

    started: list[tuple[str, str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # uids
    passes: dict[str, int] = field(default_factory=dict)  # by uid
    api: Api | None = None

    async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
        self.started.append((namespace, name, uid))
        try:
            while True:
                woken.clear()
                self.passes[uid] = self.passes.get(uid, 0) + 1
                await woken.wait()
        finally:
            self.ended.append(uid)

    @contextlib.asynccontextmanager
    async def build(self, api: Api, release: Release) -> AsyncIterator[Reconciler]:
        assert release == RELEASE
        self.api = api
        yield self


@dataclass
class Running:
    """An operator at work."""

    world: KubeWorld
    passes: Passes
    stop: asyncio.Event
    ended: list[int]  # exit codes with which the process ended itself
    task: asyncio.Task[int]
    port: int

    async def end(self) -> int:
        self.stop.set()
        async with asyncio.timeout(30):
            return await self.task


@contextlib.asynccontextmanager
async def operator(
    world: KubeWorld,
    port: int,
    *,
    namespaces: tuple[str, ...] = (),
    identity: str = "one",
    resync_s: float = 60.0,
    terms: Terms = QUICK,
    passes: Passes | None = None,
    build: Build | None = None,
    measures: Measures | None = None,
) -> AsyncIterator[Running]:
    """The whole of `serving`, with its health on a port of 127.0.0.1.

    build: what makes the passes, if they are not to be those of `passes`, which only note.
    """
    passes = passes or Passes()
    stop, ended = asyncio.Event(), []
    options = Options(
        namespaces=namespaces,
        lease_namespace="dynamo-system",
        identity=identity,
        release=RELEASE,
        liveness_port=port,
        resync_s=resync_s,
        liveness_host="127.0.0.1",
        terms=terms,
        measures=measures or Measures(),
    )
    work = serve(options, build or passes.build, world.connection(), stop=stop, end=ended.append)
    running = Running(world, passes, stop, ended, asyncio.create_task(work), port)
    try:
        yield running
    finally:
        stop.set()
        if not running.task.done():
            await asyncio.wait({running.task}, timeout=30)
        if running.task.done() and not running.task.cancelled():
            running.task.result()
        running.task.cancel()
