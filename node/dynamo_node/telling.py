"""Telling: what all nodes tell each other of themselves, when somebody looks.

Owns one such question in JSON: asked of all peers together, once a second however many
look, and what each said last, when, and how long that took. Peers may be of another
version: an answer that is no JSON object isn't heard.

Forbidden here: what is told, and any use of it as proof.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dynamo_core.errors import DynamoError
from dynamo_core.frames import Frame
from dynamo_core.wire import Type
from dynamo_node.inbound import Inbound

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

FRESH_S: Final = 1.0
ASK_TIMEOUT_S: Final = 0.5

Facts = dict[str, Any]


class Told(NamedTuple):
    """What a peer said; `at` is the loop's time, `took_s` from the question to the answer."""

    facts: Facts
    at: float
    took_s: float


class Telling:
    """One question; `own` gives this node's answer to it."""

    def __init__(self, node: "Node", ask: Type, reply: Type, own: Callable[[], Facts]) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._ask = ask
        self._reply = reply
        self._own = own
        self.told: dict[int, Facts] = {}
        """By number, of those that answered when they were asked last."""
        self.last: dict[int, Told] = {}
        """By number, of all peers that ever answered and are linked still."""
        self._asked_at = -FRESH_S
        self._asking: asyncio.Future[None] | None = None
        node.handlers[ask] = self._answer

    def _answer(self, caller: Inbound, frame: Frame) -> None:
        payload = json.dumps(self._own(), separators=(",", ":")).encode()
        caller.reply(frame.request_id, self._reply, payload)

    async def refresh(self) -> None:
        """Hear the others, unless that was done a moment ago; waits `ASK_TIMEOUT_S` at most."""
        if self._loop.time() - self._asked_at < FRESH_S:
            return
        if self._asking is None:
            self._asking = self._loop.create_future()
            self._node.in_background(self._hear(self._asking))
        await asyncio.shield(self._asking)

    async def _hear(self, heard: "asyncio.Future[None]") -> None:
        links = self._node.topology.links

        async def ask(number: int) -> tuple[int, Told | None]:
            began = self._loop.time()
            try:
                kind, reply = await links[number].ask(self._ask, b"", ASK_TIMEOUT_S)
                facts = json.loads(reply) if kind == self._reply else None
            except (DynamoError, ValueError, KeyError, RecursionError) as error:
                log.warning("%s of node %d: %s", self._reply.name, number, error)
                return number, None
            now = self._loop.time()
            return number, Told(facts, now, now - began) if isinstance(facts, dict) else None

        try:
            answers = await asyncio.gather(*(ask(n) for n in sorted(links) if links[n].up))
            found = {number: told for number, told in answers if told is not None}
            self.told = {number: told.facts for number, told in found.items()}
            self.last = {n: told for n, told in {**self.last, **found}.items() if n in links}
            self._asked_at = self._loop.time()
        finally:
            self._asking = None
            if not heard.done():
                heard.set_result(None)
