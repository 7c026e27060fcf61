"""What kubelet and Prometheus ask the operator: does it work, may it be counted as started, and
what has it measured.

Owns the HTTP endpoint and the wording of its answers. Forbidden: judging tasks
(`tasks` does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from aiohttp import web

from dynamo_operator.kube.measures import CONTENT_TYPE, Measures

State = Literal["starting", "standing by", "leading", "stopping"]


class Health:
    """`/healthz` fails while something hangs, `/readyz` until this process stands by or leads;
    `/metrics` has what it has measured."""

    def __init__(self, measures: Measures | None = None) -> None:
        self.state: State = "starting"
        self.hanging: Callable[[], list[str]] = list
        self._measures = measures or Measures()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int, host: str | None = None) -> int:
        """Listens, on all addresses unless told otherwise; returns the port (0: a free one)."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _: web.Request) -> web.Response:
        hanging = self.hanging()
        if hanging:
            return web.Response(status=503, text="".join(f"{line}\n" for line in hanging))
        return web.Response(text=f"{self.state}\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self.state in ("standing by", "leading")
        return web.Response(status=200 if ready else 503, text=f"{self.state}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._measures.text(), headers={"Content-Type": CONTENT_TYPE})
