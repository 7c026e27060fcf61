"""Seeds: where a node without a ring asks for one, and nothing else (P§4.8.2).

Owns the first contact of a fresh or wiped disk: the seeds are dialled with the
usual handshake and proof, and asked again and again until one gives a ring
that names this node. Once it holds a ring, from wherever, they are not used
any more, nor at later starts: gossip with the ring's members does the rest.
"""

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dynamo_core.errors import CallerError
from dynamo_core.frames import NO_RING
from dynamo_core.ring import Member, Ring
from dynamo_core.wire import Type
from dynamo_node.links import Link

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

ASK_FIRST_S: Final = 0.1
ASK_MAX_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 2.0


class Seeds:
    """One per node; `run` ends when the node holds a ring."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._refusal = ""

    async def run(self) -> None:
        node = self._node
        config = node.config
        others = [seed for seed in config.seeds if seed.name != config.name]
        if node.topology.ring is not None or not others:
            return
        log.info("no ring here: asking %s", ", ".join(seed.name for seed in others))
        links = []
        for seed in others:
            port = seed.native_port
            member = Member(0, seed.name, "", "1", seed.host, port, port, port, "0" * 32)
            link = Link(
                member,
                node.identity,
                lambda: NO_RING,
                config.timing.suspect_ms / 1000,
                lambda: node.outside.random_bytes(16),
                node.names.addresses,
            )
            links.append(link)
        try:
            up = asyncio.Event()
            for link in links:
                link.on_up = lambda _: up.set()
                link.start()
            pause = ASK_FIRST_S
            while node.topology.ring is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await up.wait()
                up.clear()
                pause = min(ASK_MAX_S, 2 * pause)
                for link in links:
                    if link.up and node.topology.ring is None:
                        await self._ask(link)
        finally:
            for link in links:
                link.close()  # also when the node stops in this very moment
            await asyncio.gather(*(link.stop() for link in links))

    async def _ask(self, link: Link) -> None:
        kind, payload = await link.ask(Type.RING, b"", ANSWER_TIMEOUT_S)
        if kind != Type.RING_REPLY or not payload:
            return  # it has none itself, as yet
        try:
            await self._node.rings.learn(Ring.from_bytes(payload))
        except CallerError as error:
            refusal = f"the ring of seed {link.member.name} is not taken up: {error}; waiting"
            if refusal != self._refusal:
                self._refusal = refusal
                log.warning("%s", refusal)
        else:
            log.info("took the ring from seed %s", link.member.name)
