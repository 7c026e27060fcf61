"""Gossip: every second this node and one random peer tell each other what is new (P§4.8.1).

Owns the rounds, what this node says of itself, and what of it is on disk: the
generation, raised at every start, and the history. How two nodes reconcile is
`membership`'s. Rings spread with it: who finds that a peer's differs teaches it
or learns. All of it is for display and advice, never proof.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import membership as rules
from dynamo_core.admission import SHARE_FIRST
from dynamo_core.errors import Corrupt
from dynamo_core.frames import Frame, RingName
from dynamo_core.gossip_messages import (
    DISK_LOST,
    GENERATION_MAX,
    JOINED,
    LEFT,
    STARTED,
    STATES,
    Event,
    Facts,
    pack_event,
    unpack_event,
)
from dynamo_core.membership import Membership, next_generation
from dynamo_core.ring import Ring
from dynamo_core.wire import Type
from dynamo_node import meta
from dynamo_node.inbound import Inbound
from dynamo_node.storage import META

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 1.0
ACTS_TOLD_MAX: Final = 4
"""Acts of a ring that are entered into the history when it is taken up: the last ones."""
_GENERATION_KEY: Final = b"member/generation"
_LOG_PREFIX: Final = b"member/log/"


class Gossip:
    """One per node: `load`, then `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.membership = Membership(0)
        self._ring: Ring | None = None
        self._generation = 0
        node.handlers[Type.GOSSIP] = self._asked

    async def load(self) -> None:
        """Take up the history on disk and raise the generation, durably, before it is told."""
        store = self._node.disk.store
        events: list[Event] = []
        async for _, value in meta.pairs(store, _LOG_PREFIX):
            try:
                events.append(unpack_event(value))
            except Corrupt as error:
                log.error("an event of the history on disk is left out: %s", error)
        noted = await meta.read(store, _GENERATION_KEY)
        held = min(int.from_bytes(noted or b"", "big"), GENERATION_MAX)
        salt = int.from_bytes(self._node.outside.random_bytes(2), "big")
        self.membership = Membership(next_generation(held, salt), events)
        self._keep()
        await store.durable()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + ROUND_S, loop.time())
            await asyncio.sleep(due - loop.time())
            self._refresh()
            links = self._node.topology.links
            up = [n for n, link in links.items() if link.up]
            number = rules.pick(
                [n for n in up if links[n].healthy] or up, self._node.outside.random_bytes(8)
            )
            if number is not None:
                await self._round(number)

    def tell_all(self) -> None:
        """Let every peer know at once what has changed here, e.g. that this node leaves."""
        self._refresh()
        message = self.membership.tell()
        for link in self._node.topology.links.values():
            if link.up:
                link.request(
                    Type.GOSSIP, message, int(ANSWER_TIMEOUT_S * 1000), lambda kind, payload: None
                )

    def facts(self, number: int) -> Facts | None:
        """What that member said of itself last."""
        return self.membership.facts(number)

    def spared(self, number: int) -> float:
        """The part of its time that a peer can spare for this node's deliveries.

        Everybody who keeps hints works for it at once, so what it told is divided among
        them. What it told in an earlier life says nothing: it begins modestly.
        """
        links = self._node.topology.links
        link, facts = links.get(number), self.membership.facts(number)
        told = SHARE_FIRST
        if link is not None and facts is not None and facts.incarnation == link.incarnation:
            told = facts.share_percent / 100
        keepers = (self.membership.facts(n) for n, other in links.items() if other.up)
        others = sum(1 for f in keepers if f is not None and f.hints_pending)
        return told / (1 + others)

    def history(self) -> list[dict[str, Any]]:
        """The history as people read it; each line has the clock of the node that entered it."""
        names = self._node.topology.host_name
        return [
            {
                "node": names(event.subject),
                "number": event.subject,
                "event": event.kind,
                "epoch": event.mark if event.kind in (JOINED, LEFT) else None,
                "incarnation": event.incarnation.hex() if event.kind == STARTED else "",
                "at_ms": event.wall_ms,
                "entered_by": names(event.author),
                "version": [event.generation, event.counter],
            }
            for event in self.membership.events()
        ]

    # Rounds

    async def _round(self, number: int) -> None:
        link = self._node.topology.links[number]
        kind, reply = await link.ask(Type.GOSSIP, self.membership.open(), ANSWER_TIMEOUT_S)
        if kind != Type.GOSSIP_REPLY:
            return
        try:
            ring, message = self.membership.follow(reply)
            self._compare(number, ring)
            if message is not None:
                kind, reply = await link.ask(Type.GOSSIP, message, ANSWER_TIMEOUT_S)
                if kind == Type.GOSSIP_REPLY:
                    self.membership.conclude(reply)
        except Corrupt as error:
            log.warning("gossip of %s can't be used: %s", link.member.name, error)
        await self._node.rows.sync(number)
        self._keep()

    def _asked(self, caller: Inbound, frame: Frame) -> None:
        self._refresh()
        reply = self.membership.answer(frame.payload, self._node.topology.name)
        caller.reply(frame.request_id, Type.GOSSIP_REPLY, reply)
        if caller.hello is not None:
            self._compare(caller.hello.number, RingName(frame.epoch, frame.ring_id))
        self._keep()

    def _compare(self, number: int, theirs: RingName) -> None:
        mine = self._node.topology.name
        if theirs != mine:
            self._node.rings.exchange(number, teach=theirs < mine)

    # What this node says

    def _refresh(self) -> None:
        node = self._node
        ring = node.topology.ring
        if ring is None:
            return
        if ring is not self._ring:
            self._ring = ring
            self.membership.ring(node.topology.number, (m.number for m in ring.everybody))
            self._enter_acts(ring)
        number, wall_ms = node.topology.number, node.outside.wall_ms()
        if node.replica.minter is not None:
            self.membership.enter(
                STARTED, number, self.membership.generation, node.incarnation, wall_ms
            )
        self.membership.say(self._facts(), asyncio.get_running_loop().time())
        self._keep()

    def _enter_acts(self, ring: Ring) -> None:
        """Joins are entered by who joined, leaves by the member of the lowest number."""
        node = self._node
        me, wall_ms = node.topology.number, node.outside.wall_ms()
        nobody = bytes(8)
        mine = [a for a in ring.history if a.number == me and a.event in ("created", "joined")]
        for act in mine[-1:]:
            self.membership.enter(JOINED, me, act.epoch, nobody, wall_ms)
        if me == ring.members[0].number:
            for act in [a for a in ring.history if a.event == "left"][-ACTS_TOLD_MAX:]:
                self.membership.enter(LEFT, act.number, act.epoch, nobody, wall_ms)
        disk_id = node.disk.disk_id
        if ring.node(me).disk_id != disk_id:
            # Named by the disk it now has: each one is told once.
            self.membership.enter(DISK_LOST, me, int(disk_id[:12], 16), nobody, wall_ms)

    def _facts(self) -> Facts:
        node = self._node
        state = node.state
        return Facts(
            state if state in STATES else "joining",
            node.incarnation,
            node.replica.key_count,
            sum(node.replica.hints.pending().values()),
            node.topology.name,
            len(node.recovery.lacking()),
            round(100 * node.slices.share),
            tuple(sorted(n for n, link in node.topology.links.items() if not link.up)),
            node.disk_health.read_only,
        )

    # On disk

    def _keep(self) -> None:
        """Write what is new, nobody waits for it, since others have it too; heed who leaves."""
        store, membership = self._node.disk.store, self.membership
        for event in membership.kept:
            store.put(META, _log_key(event), pack_event(event))
        for event in membership.dropped:
            store.delete(META, _log_key(event))
        membership.kept.clear()
        membership.dropped.clear()
        if membership.generation != self._generation:
            self._generation = membership.generation
            store.put(META, _GENERATION_KEY, self._generation.to_bytes(8, "big"))
        facts = ((n, membership.facts(n)) for n in self._node.topology.links)
        self._node.topology.leaving(n for n, f in facts if f is not None and f.state == "leaving")


def _log_key(event: Event) -> bytes:
    return (
        _LOG_PREFIX
        + event.author.to_bytes(4, "big")
        + event.generation.to_bytes(8, "big")
        + event.counter.to_bytes(4, "big")
    )
