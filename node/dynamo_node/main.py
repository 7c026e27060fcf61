"""Main: one node process, from its configuration to its end.

Owns the command line, the three ports and signals. The ports are opened once and
stay for the life of the process; who answers behind them changes with the
incarnation, and while the disk has failed it is `waiting`. What happens when belongs
to `supervisor`.
"""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from dynamo_core.errors import CallerError
from dynamo_node import __version__
from dynamo_node.admin import AdminDoor
from dynamo_node.admin_token import AdminToken
from dynamo_node.config import ANY, Config
from dynamo_node.config_files import load
from dynamo_node.http_server import ClientDoor, Handler, make_server
from dynamo_node.inbound import Inbound
from dynamo_node.logs import set_up
from dynamo_node.metrics import Connections
from dynamo_node.node import Node
from dynamo_node.opening import StorageError
from dynamo_node.service import Service
from dynamo_node.supervisor import Supervisor, Trouble
from dynamo_node.waiting import Refusal, Waiting

log = logging.getLogger(__name__)

EXIT_USAGE: Final = 2
EXIT_STORAGE: Final = 1
BACKLOG: Final = 1024
SHUTDOWN_S: Final = 1.0
GC_THRESHOLD: Final = 50_000
"""Allocations between collections: most objects of a request are freed by their count."""


def main() -> None:
    """The entry point; exits 0 after SIGTERM, 1 for an end without a store, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="dynamo-node", description="One storage node.")
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        type=Path,
        metavar="FILE",
        help="JSON settings; several files make up one configuration",
    )
    parser.add_argument("--name", help="the node's name (node.name)")
    parser.add_argument("--version", action="version", version=f"dynamo-node {__version__}")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config, arguments.name)
    except CallerError as error:
        sys.exit(_told(error, EXIT_USAGE))
    set_up(config.log_format, config.log_level, config.name)
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(config))
    except CallerError as error:
        sys.exit(_told(error, EXIT_USAGE))
    except StorageError as error:
        sys.exit(_told(error, EXIT_STORAGE))


def _told(error: BaseException, code: int) -> int:
    print(f"dynamo-node: {error}", file=sys.stderr)
    return code


async def _run(config: Config) -> None:
    ports = _Ports(config)
    supervisor = Supervisor(config, ports)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    try:
        await supervisor.run()
    finally:
        await ports.close()


class _Ports:
    """The three listening ports, as the supervisor's doors."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._token = AdminToken(config)
        self._client: Handler = self._nobody
        self._client_server = make_server(self._answer_client)
        self._waiting_admin = make_server(self._nobody)
        self._admin: web.AppRunner | None = None
        self._service: Service | None = None
        self._connections: set[Inbound] = set()
        self._listening: list[asyncio.Server] = []

    async def serve(self, node: Node) -> None:
        admin = web.AppRunner(
            AdminDoor(node, self._token).app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
        )
        await admin.setup()
        self._admin = admin
        # Connections that were kept alive would go on hearing of the trouble.
        await self._waiting_admin.shutdown(SHUTDOWN_S)
        self._client = ClientDoor(node, self._open_connections).handle
        self._service = Service(node)
        node.settings.on_change.append(self._settings_changed)
        await self._listen()
        # What is here by now stays for the incarnation's life: no collection looks at it.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    async def refuse(self, trouble: Trouble) -> None:
        waiting = Waiting(self._config, trouble, self._token)
        self._client = waiting.client
        self._waiting_admin = make_server(waiting.admin)
        admin, self._admin, self._service = self._admin, None, None
        await self._listen()
        if admin is not None:
            await admin.cleanup()

    async def shut(self) -> None:
        for server in self._listening:
            server.close()

    async def leave(self) -> None:
        for connection in list(self._connections):
            connection.close_soon()

    async def close(self) -> None:
        """End everything that is still open."""
        await self.shut()
        self._client_server.pre_shutdown()
        await self._client_server.shutdown(SHUTDOWN_S)
        await self._waiting_admin.shutdown(SHUTDOWN_S)
        if self._admin is not None:
            await self._admin.cleanup()
        await self.leave()

    def _answer_client(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        return self._client(request)

    async def _nobody(self, request: web.BaseRequest) -> web.StreamResponse:
        raise ConnectionError  # no port is open before somebody answers there

    def _open_connections(self) -> Connections:
        clients = sum(connection.is_client for connection in self._connections)
        http = len(self._client_server.connections)
        return Connections(http, clients, len(self._connections) - clients)

    def _native(self) -> asyncio.Protocol:
        if self._service is None:
            return Refusal()
        return Inbound(self._service, self._connections)

    def _settings_changed(self) -> None:
        for connection in self._connections:
            connection.limits_changed()

    def _admin_connection(self) -> asyncio.Protocol:
        server = self._waiting_admin if self._admin is None else self._admin.server
        assert server is not None
        return server()

    async def _listen(self) -> None:
        """Open the ports if they aren't yet; raises CallerError for one that can't be had."""
        if self._listening:
            return
        config, loop = self._config, asyncio.get_running_loop()
        for factory, port in (
            (self._native, config.native_port),
            (self._admin_connection, config.admin_port),
            (self._client_server, config.http_port),
        ):
            try:
                if config.host == ANY:
                    at_any = _dual_stack(port)
                    server = await loop.create_server(factory, sock=at_any, backlog=BACKLOG)
                else:
                    server = await loop.create_server(factory, config.host, port, backlog=BACKLOG)
            except OSError as error:
                raise CallerError(
                    f"port {port} on {config.host}: {error.strerror or error}"
                ) from error
            self._listening.append(server)
        log.info(
            "version %s, http %d, native %d, admin %d, durability %s",
            __version__,
            config.http_port,
            config.native_port,
            config.admin_port,
            config.durability,
        )


def _dual_stack(port: int) -> socket.socket:
    """A socket for the port on all addresses of this machine, of both families if it has them.

    asyncio would make one for IPv6 alone. Raises OSError.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server((ANY, port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
