"""Reaper: carries out the rounds in which tombstones are reaped (design: reaping).

Owns the loop of a partition's first holder, which asks every member, and every leaving
one, and commits; and what this node answers to PREPARE. The lists of committed rounds are
`kept_lists`, what becomes of a copy that missed one is `copies`. Whatever lets
another node delete is said after an fsync.

Forbidden here: which rounds are too old (`rounds`) and when a round is agreed
(`reaping`), both in the core.
"""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import objects, reaping
from dynamo_core.actors import newest_node
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.reaping import CANDIDATES_MAX, Answer, Attempt, Circumstances, Prepare
from dynamo_core.rounds import PREFIX, Listed, next_round
from dynamo_core.wire import Code, Type
from dynamo_node import meta
from dynamo_node.awaiting import given
from dynamo_node.copies import Copies
from dynamo_node.digests import leaf_of
from dynamo_node.inbound import Inbound
from dynamo_node.kept_lists import KeptLists
from dynamo_node.storage import META
from dynamo_node.tombstones import Tombstones

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S: Final = 5.0
TICK_MAX_S: Final = 5.0


class Reaper:
    """One per node; `load` before anything is written, `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._rounds = node.replica.rounds
        self._rounds.persist = self._persist
        self._delay_s = node.config.timing.reap_delay_ms / 1000
        self._tick_s = min(TICK_MAX_S, max(0.05, self._delay_s / 2))
        self._pause_s = 4 * self._tick_s
        self._loop = asyncio.get_running_loop()
        self.tombstones = Tombstones(node.disk.store, node.slices)
        self.blockers: dict[int, dict[int, str]] = {}
        """Partition -> member -> why its last round was not agreed."""
        self.lists = KeptLists(node)
        self.copies = Copies(node, self.lists)
        self.lists.on_unknown = self.copies.heard_committed
        self._not_before: dict[int, float] = {}
        node.replica.on_change.append(self._changed)
        node.replica.on_emptied.append(self.tombstones.emptied)
        node.handlers[Type.PREPARE] = self._prepare

    def _changed(self, skey: bytes, old: bytes | None, new: bytes | None) -> None:
        self.tombstones.changed(skey, old, new, self._loop.time())

    def _persist(self, key: bytes, value: bytes | None) -> None:
        store = self._node.disk.store
        if value is None:
            store.delete(META, key)
        else:
            store.put(META, key, value)

    async def load(self) -> None:
        """Take up the rounds on disk."""
        async for pair in meta.pairs(self._node.disk.store, PREFIX):
            self._rounds.load((pair,))

    # The loop

    async def run(self) -> None:
        """Reap for ever, one partition at a time."""
        node = self._node
        scanned = False
        while True:
            await asyncio.sleep(self._tick_s)
            ring = node.topology.ring
            if ring is None:
                continue
            try:
                if not scanned:
                    await self.tombstones.scan(ring, self._loop.time())
                    scanned = True
                await self.lists.carry_on()
                await self._reap()
            except DynamoError as error:
                log.warning("reaping: %s", error)

    async def _reap(self) -> None:
        topology = self._node.topology
        ring = topology.ring
        assert ring is not None
        for partition in self.tombstones.partitions():
            if ring is not topology.ring:
                return
            if topology.holders(partition)[0] != topology.number:
                continue
            if self._not_before.get(partition, 0.0) > self._loop.time():
                continue
            await self.tombstones.refill(ring, partition, self._loop.time())
            due = self._loop.time() - self._delay_s
            places = self.tombstones.older_than(partition, due, CANDIDATES_MAX)
            if places:
                # Whatever comes of it: the next attempt is not at once.
                self._not_before[partition] = self._loop.time() + self._pause_s
                await self._round(partition, places)

    async def _round(self, partition: int, places: list[bytes]) -> None:
        """One attempt at one round, as its coordinator."""
        node = self._node
        ring, me, name = node.topology.ring, node.topology.number, node.topology.name
        assert ring is not None
        row, owners = node.topology.digest(partition), node.topology.holders(partition)
        members = [m.number for m in ring.everybody]
        down = {
            n: "is down"
            for n in members
            if n != me and not ((link := node.topology.links.get(n)) and link.up)
        }
        if down:  # a round that can't be agreed on would only be a number more
            self.blockers[partition] = down
            return
        found = await self._leaves(partition, places)
        candidates = tuple(leaf for leaf, newest in found if newest < ring.next_number)
        if not candidates:
            if found:
                self.blockers[partition] = {me: "a node that only a later ring names has written"}
            return
        number = next_round(self._rounds.stamp(partition), name)
        if not number:
            self.blockers[partition] = {me: "knows of a round of a later ring"}
            return
        prepare = Prepare(partition, number, name, row, candidates)
        attempt = Attempt(prepare, members, owners)
        links = {n: node.topology.links[n] for n in members if n != me}
        incarnations = {n: link.incarnation for n, link in links.items()}
        attempt.answered(me, await self._answer(prepare))
        if attempt.blockers:
            self.blockers[partition] = attempt.blockers
            return
        whole, bare = (
            reaping.pack_prepare(prepare),
            reaping.pack_prepare(prepare._replace(candidates=())),
        )
        asked = [
            links[n].ask(Type.PREPARE, whole if n in owners else bare, PREPARE_TIMEOUT_S)
            for n in links
        ]
        for n, (kind, payload) in zip(links, await asyncio.gather(*asked), strict=True):
            attempt.answered(n, self._heard(n, kind, payload))
        self._rounds.take(partition, attempt.highest)
        if not attempt.agreed:
            self.blockers[partition] = attempt.blockers
            return
        # A yes is good for the disk that gave it, and only for as long as that is there: after
        # the last one each has to be heard of once more, over the connection that it came by.
        again = [links[n].ask(Type.PING, b"", PREPARE_TIMEOUT_S) for n in links]
        alive = {
            n
            for n, (kind, _) in zip(links, await asyncio.gather(*again), strict=True)
            if kind == Type.PONG
        }
        changed = {
            n: "may have been started again meanwhile"
            for n, link in links.items()
            if n not in alive or link.incarnation != incarnations[n]
        }
        if node.topology.name != name or node.topology.digest(partition) != row:
            changed[me] = "took up another ring, or other tokens, meanwhile"
        elif reason := node.custodies.of(partition).blocks_reaping(ring.slots[partition]):
            changed[me] = reason
        if changed:
            self.blockers[partition] = changed
            return
        self.blockers.pop(partition, None)
        kept = attempt.decision()
        if not kept.entries:  # the owners differ: anti-entropy comes first
            self.blockers[partition] = {me: "the owners' copies of the candidates differ"}
            return
        self._rounds.commit(partition, kept)
        await self.lists.carry_out(partition)
        await self.lists.send(partition)

    def _heard(self, number: int, kind: int, payload: bytes) -> Answer | None:
        """What a member said to PREPARE; None when it is no answer."""
        if kind != Type.PREPARE_REPLY:
            self._node.coordinator.reply_was_no(number, kind, payload)
            if kind == Type.ERROR and payload[:1] == bytes((Code.OTHER_ROW,)):
                return Answer(False, 0, reason="knows other tokens of the partition")
            return None
        try:
            return reaping.unpack_answer(payload)
        except Corrupt as error:
            log.warning("node %d answers PREPARE: %s", number, error)
            return None

    async def _leaves(self, partition: int, places: list[bytes]) -> list[tuple[Listed, int]]:
        """What may be reaped there, and the highest number of a node whose write it knows of.

        If the ring in force has given that to nobody yet, a later ring names a node that
        is not asked yet, and may keep a hint of what would be reaped.
        """
        listed = []
        for skey in places:
            obj = await given(partial(self._node.replica.read_own, skey))
            leaf = leaf_of(skey, obj)
            if obj is None or leaf is None or not objects.reapable(obj):
                self.tombstones.drop(partition, skey)
                continue
            listed.append((Listed(skey, leaf), newest_node(objects.clock_of(obj))))
        return listed

    # What this node answers

    async def _answer(self, prepare: Prepare) -> Answer:
        """Yes or no to a PREPARE; a yes, and what it says of the candidates, is fsynced."""
        node, rounds, partition = self._node, self._rounds, prepare.partition
        hints = node.replica.hints
        owner = partition in node.topology.owned
        sure = self.copies.sure(partition)
        if node.topology.ring is None or node.topology.digest(partition) != prepare.row:
            return Answer(False, rounds.stamp(partition), reason="has learned of other tokens")
        reason = reaping.refusal(
            rounds,
            prepare,
            Circumstances(
                node.topology.name,
                hints.in_partition(partition),
                hints.marked(partition),
                not owner or node.standing.counts(partition),
                sure,
                node.custodies.of(partition).blocks_reaping(node.custodies.wanted(partition)),
            ),
        )
        if reason:
            if prepare.ring == node.topology.name and sure:
                # What is said no to is never committed: everybody may stamp alike. An old
                # disk must not, or what it reads would pass for newer than it is.
                rounds.take(partition, prepare.reap_round)
            return Answer(False, rounds.stamp(partition), reason=reason)
        rounds.promise(partition, prepare.reap_round)
        holds: tuple[int, ...] = ()
        if owner:
            found = await self._leaves(partition, [c.skey for c in prepare.candidates])
            here = {leaf for leaf, _ in found}
            holds = tuple(i for i, c in enumerate(prepare.candidates) if c in here)
        await node.disk.store.durable()
        return Answer(True, prepare.reap_round, holds)

    def _prepare(self, caller: Inbound, frame: Frame) -> None:
        prepare = reaping.unpack_prepare(frame.payload)
        if self._node.rows.differ(caller, frame, prepare.partition, prepare.row):
            return

        async def answer() -> bytes:
            return reaping.pack_answer(await self._answer(prepare))

        self._node.answer_later(caller, frame, Type.PREPARE_REPLY, answer)

    # For people

    def report(self, after: int, limit: int) -> dict[str, Any]:
        """`GET /admin/tombstones`: up to `limit` partitions behind `after`."""
        topology = self._node.topology
        name = topology.host_name
        old = self.copies.waits_for
        wanted = sorted({*self.tombstones.partitions(), *self._rounds.kept_partitions(), *old})
        wanted = [p for p in wanted if p > after]
        rows = []
        for p in wanted[:limit]:
            blocked = [
                {"node": name(n), "reason": reason}
                for n, reason in sorted(self.blockers.get(p, {}).items())
            ]
            if p in old:
                reason = f"its copy is older than round {old[p]}, and waits for a complete one"
                blocked.append({"node": name(topology.number), "reason": reason})
            kept = self._rounds.kept(p)
            if kept is not None:
                blocked += [
                    {"node": name(n), "reason": f"has not confirmed round {kept.reap_round}"}
                    for n in kept.unconfirmed
                ]
            rows.append(
                {
                    "partition": p,
                    "tombstones": self.tombstones.count(p),
                    "spent_clocks": self.tombstones.spent(p),
                    "coordinator": None if topology.ring is None else name(topology.holders(p)[0]),
                    "round": self._rounds.stamp(p),
                    "committed": self._rounds.committed(p),
                    "blocked_by": blocked,
                }
            )
        more = len(wanted) > limit
        return {
            "partitions": rows,
            "reaped": self.lists.reaped,
            "next": wanted[limit - 1] if more else None,
        }
