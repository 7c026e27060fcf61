"""Pings: signs of life from idle peers, and the watch over everybody's silence (P§4.8.3).

Owns one loop: several times a second the links are checked for unanswered
traffic, and a peer from which nothing came for a whole ping interval is asked
for a sign of life. A check that comes late says how late, because a stalled
event loop must doubt itself before it accuses healthy peers.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from dynamo_core.wire import Type
from dynamo_node.links import Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

CHECK_S: Final = 0.1
PINGS_MAX: Final = 64
"""Peers pinged in one interval; in a larger cluster each has its turn later."""


class Pings:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._heard: dict[int, int] = {}
        self._last = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ping_s = self._node.config.timing.ping_ms / 1000
        next_ping = expected = loop.time()
        while True:
            now = loop.time()
            late_s = max(0.0, now - expected)
            self._node.counters.loop_lag.observe(late_s)
            for link in self._node.topology.links.values():
                link.check(now, late_s)
            if now >= next_ping:
                next_ping = now + ping_s
                self._ping_idle()
            expected = loop.time() + CHECK_S
            await asyncio.sleep(CHECK_S)

    def _ping_idle(self) -> None:
        """Ask those of whom nothing came since the last time, in turn."""
        links = self._node.topology.links
        idle = [n for n, link in links.items() if link.up and self._heard.get(n) == link.replies]
        turn = sorted(idle, key=lambda n: (n <= self._last, n))[:PINGS_MAX]
        for number in turn:
            self._ping(links[number])
        if turn:
            self._last = turn[-1]
        self._heard = {n: link.replies for n, link in links.items()}

    def _ping(self, link: Link) -> None:
        ping_ms = self._node.config.timing.ping_ms
        request_id = link.request(Type.PING, b"", ping_ms, lambda kind, payload: None)
        asyncio.get_running_loop().call_later(2 * ping_ms / 1000, link.forget, request_id)
