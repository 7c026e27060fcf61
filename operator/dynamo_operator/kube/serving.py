"""The life of an operator process: connect, stand by, lead, end.

Owns the order of these and who ends whom. Nothing is done to any cluster but
under the lease, and the process ends at once when it is lost: whatever it was
about to do, the next leader finds out what is to be done. Forbidden: kopf's and
Kubernetes' ways (`handlers`, `api`), and options (`main`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dynamo_operator.kube.api import Api
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.errors import KubeError
from dynamo_operator.kube.handlers import seen, watch
from dynamo_operator.kube.health import Health
from dynamo_operator.kube.kinds import DYNAMO_CLUSTER
from dynamo_operator.kube.lease import Lease, Terms
from dynamo_operator.kube.measures import Measures
from dynamo_operator.kube.names import OPERATOR, Release
from dynamo_operator.kube.tasks import Reconciler, Seen, Tasks

log = logging.getLogger(__name__)

DONE, FAILED, LOST = 0, 1, 3  # exit codes; 3 also: the API server can't be reached
RETRY_S: Final = 5.0
STOP_S: Final = 15.0  # for the watches to close

Build = Callable[[Api, Release], AbstractAsyncContextManager[Reconciler]]


@dataclass(frozen=True, slots=True)
class Options:
    """namespaces: () is the whole cluster; identity is this process's alone."""

    namespaces: tuple[str, ...]
    lease_namespace: str
    identity: str
    release: Release
    liveness_port: int
    resync_s: float
    liveness_host: str | None = None
    terms: Terms = field(default_factory=Terms)
    measures: Measures = field(default_factory=Measures)


async def serve(
    options: Options,
    build: Build,
    connection: Connection,
    *,
    stop: asyncio.Event,
    end: Callable[[int], None],
) -> int:
    """Until `stop` is set; returns the exit code. When the lease is lost, `end` ends the process.

    `end` must not return to the loop (os._exit): the clusters are another process's by then.
    """
    health = Health(options.measures)
    await health.start(options.liveness_port, options.liveness_host)
    try:
        plain = Api(connection)
        lease = Lease(
            plain,
            options.lease_namespace,
            OPERATOR,
            options.identity,
            wall=lambda: datetime.now(UTC),
            terms=options.terms,
        )
        if not await _unless(stop, _served(plain, options.namespaces)):
            return DONE
        health.state = "standing by"
        options.measures.leads(False)
        if not await _unless(stop, lease.acquire()):
            return DONE
        health.state = "leading"
        options.measures.leads(True)
        api = Api(connection, may_write=lease.holds)
        async with build(api, options.release) as reconciler:
            tasks = Tasks(reconciler, resync_s=options.resync_s)
            health.hanging = tasks.hanging
            return await _lead(options, tasks, connection, api, lease, stop=stop, end=end)
    finally:
        health.state = "stopping"
        options.measures.leads(False)
        await health.close()


async def _lead(
    options: Options,
    tasks: Tasks,
    connection: Connection,
    api: Api,
    lease: Lease,
    *,
    stop: asyncio.Event,
    end: Callable[[int], None],
) -> int:
    """Returns when nothing acts any more: told to stop, or the watches have failed."""
    keeping = asyncio.create_task(lease.keep(), name="lease")
    keeping.add_done_callback(lambda task: _judge(task, end))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    auditing = asyncio.create_task(_audit(options, api, tasks), name="audit")
    watching = asyncio.create_task(
        watch(connection, tasks, options.namespaces, started=lambda: take_signals(stop)),
        name="watch",
    )
    try:
        await asyncio.wait({stopping, auditing, watching}, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in (auditing, watching) if task.done()]
        for task in failed:
            log.critical("%s ended: %r", task.get_name(), task.exception())
        return FAILED if failed else DONE
    finally:
        await tasks.close()
        keeping.cancel()
        await lease.release()
        stopping.cancel()
        auditing.cancel()
        watching.cancel()
        await asyncio.wait({stopping, auditing, watching}, timeout=STOP_S)


def _judge(keeping: asyncio.Task[None], end: Callable[[int], None]) -> None:
    if not keeping.cancelled():
        log.critical("this process ends: %s", keeping.exception())
        end(LOST)


def take_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _served(api: Api, namespaces: tuple[str, ...]) -> None:
    """Returns when DynamoClusters can be listed: the CRD is there, and so are the rights."""
    told = ""
    while True:
        try:
            await _listed(api, namespaces)
        except KubeError as error:
            if str(error) != told:
                told = str(error)
                log.warning("waiting until DynamoClusters can be listed: %s", error)
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _audit(options: Options, api: Api, tasks: Tasks) -> None:
    """Each resync, what there is against what the watch has told."""
    while True:
        known_before = tasks.uids()
        try:
            listed = await _listed(api, options.namespaces)
        except KubeError as error:
            log.warning("no list of DynamoClusters: %s", error)
        else:
            tasks.audit(listed, known_before)
        await asyncio.sleep(options.resync_s)


async def _listed(api: Api, namespaces: tuple[str, ...]) -> list[Seen]:
    found: list[Seen] = []
    for namespace in namespaces or (None,):
        found += [seen(body) for body in await api.list_all(DYNAMO_CLUSTER, namespace)]
    return found


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done before `stop` was set."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return working.done()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait({working, stopping})
