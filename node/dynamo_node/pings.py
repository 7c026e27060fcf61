"""Pings: signs of life for idle peers, and the watch over their silence.

Owns one loop: every ping interval each peer is asked how it is, which also
compares rings, and several times as often the links are checked for unanswered
traffic. A check that comes late says how late, because a stalled event loop
must doubt itself before it accuses healthy peers.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import wire
from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.wire import Code
from dynamo_node.links import Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

CHECK_S: Final = 0.1


class Pings:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ping_s = self._node.config.timing.ping_ms / 1000
        next_ping = expected = loop.time()
        while True:
            now = loop.time()
            late_s = max(0.0, now - expected)
            for link in self._node.topology.links.values():
                link.check(now, late_s)
            if now >= next_ping:
                next_ping = now + ping_s
                self.tell_all()
            expected = loop.time() + CHECK_S
            await asyncio.sleep(CHECK_S)

    def tell_all(self) -> None:
        """Let every peer know at once what has changed here, e.g. that this node leaves."""
        for number, link in self._node.topology.links.items():
            if link.up:
                self._ping(number, link)

    def _ping(self, number: int, link: Link) -> None:
        def replied(kind: int, payload: bytes) -> None:
            if kind == wire.Type.PONG:
                self._heard(number, payload)

        facts = json.dumps(self._node.facts()).encode()
        ping_ms = self._node.config.timing.ping_ms
        request_id = link.request(wire.Type.PING, facts, ping_ms, replied)
        asyncio.get_running_loop().call_later(2 * ping_ms / 1000, link.forget, request_id)

    def _heard(self, number: int, payload: bytes) -> None:
        node = self._node
        try:
            facts = facts_of(payload)
            theirs = RingName(int(facts["epoch"]), bytes.fromhex(facts["ring_id"]))
        except (Corrupt, ValueError, KeyError, TypeError, OverflowError):
            return
        node.heard(number, facts)
        if theirs < node.topology.name:
            node.coordinator.on_stale_ring(number, Code.NOT_READY)
        elif theirs > node.topology.name:
            node.coordinator.on_stale_ring(number, Code.STALE_RING)


def facts_of(payload: bytes) -> dict[str, Any]:
    """What a peer says of itself, for display; raises Corrupt when it can't be shown."""
    try:
        facts = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Corrupt("a ping's facts are not JSON") from error
    if not isinstance(facts, dict):
        raise Corrupt("a ping's facts are not an object")
    pending = facts.get("hints_pending", {})
    if not isinstance(pending, dict) or not all(type(n) is int for n in pending.values()):
        raise Corrupt("a ping's hints_pending are not numbers by name")
    return facts
