"""Waiting: what a process says whose disk has failed, while it tries it again.

Owns the answers of all three ports in that time: the process works (`/healthz`),
may not serve (`/readyz`, `/metrics`), and whoever asks for something gets a 503 with the reason;
`/admin/status` keeps its form, with what the last incarnation knew of ring and disk.
Other nodes find no connection, so that they see this one as down and stand in for it.
"""

import asyncio
import os
from typing import Any, cast

from aiohttp import web

from dynamo_core.objects import FEATURE_LEVEL
from dynamo_node import __version__, problems
from dynamo_node.admin import authorize
from dynamo_node.admin_token import AdminToken
from dynamo_node.config import Config
from dynamo_node.disk_health import FAILED
from dynamo_node.http_server import guarded
from dynamo_node.kv import PREFIX
from dynamo_node.metrics import NO_STORE, NoStore, Page
from dynamo_node.supervisor import Trouble


class Waiting:
    """The answers of one time without a node."""

    def __init__(self, config: Config, trouble: Trouble, token: AdminToken) -> None:
        self._config = config
        self._trouble = trouble
        self._token = token
        self._metrics = Page(NoStore())
        self.client = guarded(self._client)
        self.admin = guarded(self._admin)

    @property
    def _reason(self) -> str:
        return f"this node has no store now: {self._trouble.error}"

    async def _client(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/healthz":
            return web.Response(text=f"ok, but {self._reason}\n")
        if path == "/metrics":
            return self._metrics.response(request)
        if path.startswith(PREFIX):
            raise problems.overloaded(f"{self._reason}; nothing was done: ask another node")
        raise problems.overloaded(self._reason)

    async def _admin(self, request: web.BaseRequest) -> web.StreamResponse:
        authorize(request, self._token)
        if request.path == "/admin/status" and request.method in ("GET", "HEAD"):
            return problems.json_response(self.status())
        raise problems.overloaded(self._reason)

    def status(self) -> dict[str, Any]:
        """`GET /admin/status` of a node without a store; null is what isn't known."""
        config, last = self._config, self._trouble.last or {}
        waited = asyncio.get_running_loop().time() - self._trouble.began
        return {
            "cluster_id": config.cluster_id.hex(),
            "cluster_name": config.cluster_name,
            "name": config.name,
            "number": last.get("number"),
            "incarnation": "",
            "disk_id": last.get("disk_id"),
            "ring": last.get("ring"),
            "state": NO_STORE,
            "ready": False,
            "version": __version__,
            "feature_levels": [FEATURE_LEVEL, FEATURE_LEVEL],
            "keys": None,
            "hints_pending": {},
            "disk": {
                "state": FAILED,
                "reason": str(self._trouble.error),
                "failed_seconds": round(waited, 3),
                "tries": self._trouble.tries,
                "tried_again": not self._trouble.final,
            },
            "durability": config.durability,
            "quorum": {"n": None, "r": None, "w": None, **last.get("quorum", {})},
            "settings": None,
            "pid": os.getpid(),
        }


class Refusal(asyncio.Protocol):
    """A native connection that ends as soon as it begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()  # uvloop's is none by inheritance
