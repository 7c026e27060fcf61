"""Main: one node process, from its configuration to a clean end.

Owns the command line, the three ports, signals and the order of shutting down:
`/readyz` says no, the node goes on accepting for a while with `Connection:
close`, then stops accepting, finishes what is in flight, and closes the disk
with the marker of a clean end.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from dynamo_core.errors import CallerError
from dynamo_node import __version__
from dynamo_node.admin import AdminDoor
from dynamo_node.config import Config, load
from dynamo_node.http_server import ClientDoor
from dynamo_node.inbound import Inbound
from dynamo_node.logs import set_up
from dynamo_node.node import Node, start_node
from dynamo_node.service import Service
from dynamo_node.storage import StorageError

log = logging.getLogger(__name__)

EXIT_USAGE: Final = 2
EXIT_STORAGE: Final = 1
FINISH_S: Final = 5.0
BACKLOG: Final = 1024
GC_THRESHOLD: Final = 50_000
"""Allocations between collections: most objects of a request are freed by their count."""


def main() -> None:
    """The entry point; exits 0 after SIGTERM, 1 when the disk fails, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="dynamo-node", description="One storage node.")
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="JSON settings")
    parser.add_argument("--version", action="version", version=f"dynamo-node {__version__}")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
    except CallerError as error:
        sys.exit(_told(error, EXIT_USAGE))
    set_up(config.log_format, config.log_level, config.name)
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            failure = runner.run(_serve(config))
    except (CallerError, StorageError) as error:
        sys.exit(_told(error, EXIT_USAGE))
    sys.exit(EXIT_STORAGE if failure else 0)


def _told(error: BaseException, code: int) -> int:
    print(f"dynamo-node: {error}", file=sys.stderr)
    return code


async def _serve(config: Config) -> StorageError | None:
    node = await start_node(config)
    doors = _Doors(node)
    try:
        await doors.open()
    except BaseException:
        await doors.close()
        await node.stop()
        raise
    gc.collect()
    gc.freeze()
    stop = node.stopped
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info(
        "version %s, http %d, native %d, admin %d, durability %s",
        __version__,
        config.http_port,
        config.native_port,
        config.admin_port,
        config.durability,
    )
    await stop.wait()
    node.stopping = True
    if node.failure is None:
        log.info("stopping: draining for %d ms", config.timing.drain_ms)
        node.gossip.tell_all()
        await asyncio.sleep(config.timing.drain_ms / 1000)
    await doors.close()
    await node.stop()
    log.info("stopped")
    return node.failure


class _Doors:
    """The three listening ports."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client = ClientDoor(node)
        self._admin = web.AppRunner(AdminDoor(node).app, access_log=None, handle_signals=False)
        self._service = Service(node)
        self._connections: set[Inbound] = set()
        self._servers: list[asyncio.Server] = []

    async def open(self) -> None:
        """Listen everywhere; raises CallerError for a port that can't be had."""
        config = self._node.config
        loop = asyncio.get_running_loop()
        port = config.native_port
        try:
            self._servers.append(
                await loop.create_server(
                    lambda: Inbound(self._service, self._connections),
                    config.host,
                    port,
                    backlog=BACKLOG,
                )
            )
            port = config.admin_port
            await self._admin.setup()
            await web.TCPSite(self._admin, config.host, port).start()
            port = config.http_port
            self._servers.append(
                await loop.create_server(self._client.server, config.host, port, backlog=BACKLOG)
            )
        except OSError as error:
            raise CallerError(f"port {port} on {config.host}: {error.strerror or error}") from error

    async def close(self) -> None:
        """Stop accepting, let what is in flight finish, end the connections."""
        for server in self._servers:
            server.close()
        coordinator = self._node.coordinator
        until = asyncio.get_running_loop().time() + FINISH_S
        while coordinator.in_flight and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self._client.server.pre_shutdown()
        await self._client.server.shutdown(1.0)
        await self._admin.cleanup()
        for connection in list(self._connections):
            connection.close_soon()
