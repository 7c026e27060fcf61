"""Keeps the list of nodes fresh while a client is open (P§6.4).

Owns the task that fetches `/cluster` at start, every ten seconds, and soon after a
node has failed or the ring has changed, and that probes nodes before they take
requests again.
Forbidden here: users' requests.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from dynamo_client.errors import DynamoClientError, Unreachable
from dynamo_client.routing import Nodes
from dynamo_client.transport import Transport

REFRESH_SECONDS: Final = 10.0
# When nodes fail one after the other, the view is fetched at most this often.
_REFRESH_SECONDS_MIN: Final = 1.0
_PROBE_TIMEOUT_MS: Final = 1_000
_NODES_ASKED_MAX: Final = 4


class Discovery:
    """Feeds `nodes` from what the nodes say; made inside a running event loop."""

    def __init__(self, nodes: Nodes, transport: Transport) -> None:
        self._nodes = nodes
        self._transport = transport
        self._now = asyncio.get_running_loop().time
        self._stale = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        transport.on_new_ring = self.suspect

    async def start(self) -> None:
        """Fetch the first view and go on in the background; never fails for want of an answer."""
        await self._refresh()
        await self._probe()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the background task."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def suspect(self) -> None:
        """A node failed, or the ring is another one: what is known of the cluster is stale."""
        self._stale = True
        self._wake.set()

    def learn(self, view: Mapping[str, Any]) -> None:
        """Take over the nodes that an answer of `/cluster` names."""
        named = view.get("nodes")
        if not isinstance(named, list):
            return
        entries = [entry for entry in named if isinstance(entry, dict) and entry.get("http")]
        # An address that isn't a URL is the cluster's mistake; the given nodes still serve.
        with suppress(DynamoClientError):
            self._nodes.learn(
                [(str(entry["http"]), str(entry.get("state", ""))) for entry in entries],
                self._now(),
            )
            self._wake.set()  # who is new is probed at once

    async def _watch(self) -> None:
        refreshed = self._now()
        while True:
            self._wake.clear()
            due = refreshed + (_REFRESH_SECONDS_MIN if self._stale else REFRESH_SECONDS)
            next_probe = self._nodes.next_probe()
            wakes = due if next_probe is None else min(due, next_probe)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(wakes):
                    await self._wake.wait()
            if self._now() >= due:
                self._stale = False
                await self._refresh()
                refreshed = self._now()
            await self._probe()

    async def _refresh(self) -> None:
        reached = 0
        for node in self._nodes.order():
            try:
                view = await self._transport.cluster(node, _PROBE_TIMEOUT_MS)
            except Unreachable as error:
                self._nodes.failed(node, self._now())
                reached += error.kind != "no-connection"
            except DynamoClientError:
                reached += 1  # no view from this one; requests will tell whether it serves
            else:
                self.learn(view)
                self._nodes.succeeded(node)
                return
            if reached == _NODES_ASKED_MAX:
                return

    async def _probe(self) -> None:
        due = self._nodes.due(self._now())
        answers = await asyncio.gather(
            *(self._transport.ready(node, _PROBE_TIMEOUT_MS) for node in due)
        )
        for node, is_ready in zip(due, answers, strict=True):
            if is_ready:
                self._nodes.succeeded(node)
            else:
                self._nodes.failed(node, self._now())
