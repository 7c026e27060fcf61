"""Reaper: carries out the rounds in which tombstones are reaped (design: reaping).

Owns the loop of a partition's first owner, which asks every member and commits;
what this node answers to PREPARE, COMMIT and KEPT; the lists that are kept until
all owners have carried them out; and what is done with a copy that is older than
the rounds of its partition. Whatever lets another node delete is said after an fsync.

Forbidden here: which rounds are too old (`rounds`) and when a round is agreed
(`reaping`), both in the core.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import objects, reaping, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import Frame
from dynamo_core.reaping import CANDIDATES_MAX, Answer, Attempt, Circumstances, Prepare
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.rounds import PREFIX, UNKNOWN, Kept, Listed, State
from dynamo_core.wire import Code, Type
from dynamo_node.inbound import Inbound
from dynamo_node.storage import META, prefix_end
from dynamo_node.tombstones import Tombstones

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S: Final = 5.0
COMMIT_TIMEOUT_S: Final = 10.0
RESEND_S: Final = 5.0
TICK_MAX_S: Final = 5.0
BITE_KEYS: Final = 50
LOAD_KEYS: Final = 200


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
        self._carrying: set[int] = set()
        self._learning: set[int] = set()
        self._told: dict[int, dict[int, tuple[State, Kept | None]]] = {}
        self._not_before: dict[int, float] = {}
        self._sent: dict[int, float] = {}  # partition -> when its kept list was last sent
        self._compared: dict[int, bytes] = {}  # peer -> incarnation its rounds were asked of
        self.reaped = 0
        earlier = node.replica.on_change

        def changed(skey: bytes, old: bytes | None, new: bytes | None) -> None:
            earlier(skey, old, new)
            self.tombstones.changed(skey, old, new, self._loop.time())

        node.replica.on_change = changed
        node.handlers[Type.PREPARE] = self._prepare
        node.handlers[Type.COMMIT] = self._commit
        node.handlers[Type.KEPT] = self._tell

    def _persist(self, key: bytes, value: bytes | None) -> None:
        store = self._node.disk.store
        if value is None:
            store.delete(META, key)
        else:
            store.put(META, key, value)

    async def load(self) -> None:
        """Take up the rounds on disk."""
        start, end = PREFIX, prefix_end(PREFIX)
        while found := await self._node.disk.store.scan_async(META, start, end, LOAD_KEYS):
            self._rounds.load(found)
            start = found[-1][0] + b"\x00"

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
                await self._compare_with_peers()
                await self._carry_on()
                await self._reap()
            except DynamoError as error:
                log.warning("reaping: %s", error)

    async def _reap(self) -> None:
        ring, me = self._node.topology.ring, self._node.topology.number
        assert ring is not None
        for partition in self.tombstones.partitions():
            if ring is not self._node.topology.ring:
                return
            if ring.slots[partition][0] != me or self._not_before.get(partition, 0.0) > (
                self._loop.time()
            ):
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
        members = [m.number for m in ring.members]
        down = {
            n: "is down"
            for n in members
            if n != me and not ((link := node.topology.links.get(n)) and link.up)
        }
        if down:  # a round that can't be agreed on would only be a number more
            self.blockers[partition] = down
            return
        candidates = await self._leaves(partition, places)
        if not candidates:
            return
        number = self._rounds.stamp(partition) + 1
        prepare = Prepare(partition, number, name, candidates)
        owners = ring.slots[partition]
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
            answer = None
            if kind == Type.PREPARE_REPLY:
                try:
                    answer = reaping.unpack_answer(payload)
                except Corrupt as error:
                    log.warning("node %d answers PREPARE: %s", n, error)
            attempt.answered(n, answer)
        self._rounds.take(partition, attempt.highest)
        if not attempt.agreed or node.topology.name != name:
            self.blockers[partition] = attempt.blockers or {me: "took up another ring meanwhile"}
            return
        # A yes is good for the disk that gave it, and only for as long as that is there.
        changed = {
            n: "was started again meanwhile"
            for n, link in links.items()
            if not link.up or link.incarnation != incarnations[n]
        }
        if changed:
            self.blockers[partition] = changed
            return
        self.blockers.pop(partition, None)
        kept = attempt.decision()
        if not kept.entries:  # the owners differ: anti-entropy comes first
            self.blockers[partition] = {me: "the owners' copies of the candidates differ"}
            return
        self._rounds.commit(partition, kept)
        await self._carry_out(partition)
        await self._send_kept(partition)

    async def _leaves(self, partition: int, places: list[bytes]) -> tuple[Listed, ...]:
        listed = []
        for skey in places:
            obj = await self._own(skey)
            if obj is None or objects.has_value(obj):
                self.tombstones.drop(partition, skey)
                continue
            listed.append(Listed(skey, objects.leaf(skey[DIGEST_BYTES:], objects.head_of(obj))))
        return tuple(listed)

    async def _own(self, skey: bytes) -> bytes | None:
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self._node.replica.read_own(skey, future.set_result, future.set_exception)
        return await future

    # What this node answers

    async def _answer(self, prepare: Prepare) -> Answer:
        """Yes or no to a PREPARE; a yes, and what it says of the candidates, is fsynced."""
        node, rounds, partition = self._node, self._rounds, prepare.partition
        hints = node.replica.hints
        owner = partition in node.topology.owned
        reason = reaping.refusal(
            rounds,
            prepare,
            Circumstances(
                node.topology.name,
                hints.in_partition(partition),
                hints.marked(partition),
                not owner or node.standing.counts(partition),
            ),
        )
        if reason:
            if prepare.ring == node.topology.name:
                # What is said no to is never committed: everybody may stamp alike.
                rounds.take(partition, prepare.reap_round)
            return Answer(False, rounds.stamp(partition), reason=reason)
        rounds.promise(partition, prepare.reap_round)
        holds: tuple[int, ...] = ()
        if owner:
            leaves = await self._leaves(partition, [c.skey for c in prepare.candidates])
            here = {*leaves}
            holds = tuple(i for i, c in enumerate(prepare.candidates) if c in here)
        await node.disk.store.durable()
        return Answer(True, prepare.reap_round, holds)

    def _prepare(self, caller: Inbound, frame: Frame) -> None:
        prepare = reaping.unpack_prepare(frame.payload)

        async def answer() -> bytes:
            return reaping.pack_answer(await self._answer(prepare))

        self._reply(caller, frame, Type.PREPARE_REPLY, answer)

    def _commit(self, caller: Inbound, frame: Frame) -> None:
        partition, kept = reaping.unpack_commit(frame.payload)

        async def answer() -> bytes:
            return b"\x01" if await self._obey(partition, kept) else b"\x00"

        self._reply(caller, frame, Type.COMMIT_REPLY, answer)

    def _tell(self, caller: Inbound, frame: Frame) -> None:
        """KEPT: of one partition its rounds and list; without one all that are committed."""
        payload = frame.payload

        async def answer() -> bytes:
            # Not before it is fsynced: the caller may delete by it.
            await self._node.disk.store.durable()
            if not payload:
                return reaping.pack_rounds(self._rounds.all_committed())
            partition = reaping.unpack_partition(payload)
            state, kept = self._rounds.state(partition), self._rounds.kept(partition)
            return reaping.pack_kept_reply(state, kept)

        self._reply(caller, frame, Type.KEPT_REPLY, answer)

    def _reply(
        self,
        caller: Inbound,
        frame: Frame,
        kind: Type,
        answer: Callable[[], Coroutine[Any, Any, bytes]],
    ) -> None:
        async def work() -> None:
            try:
                caller.reply(frame.request_id, kind, await answer())
            except DynamoError as error:
                text = wire.pack_error(Code.STORAGE, str(error)[:512])
                caller.reply(frame.request_id, Type.ERROR, text)

        self._node.in_background(work())

    # Carrying out a list

    async def _obey(self, partition: int, kept: Kept) -> bool:
        """Carry out a committed round's list; True once that is fsynced here."""
        rounds = self._rounds
        if partition not in self._node.topology.owned:
            return True  # what it doesn't own it holds no copy of: its yes said so
        if rounds.committed(partition) < kept.reap_round:
            if not rounds.may_commit(partition, kept.reap_round):
                self._too_old(partition, kept.reap_round)
                return False
            me = self._node.topology.number
            unconfirmed = tuple(sorted({*kept.unconfirmed, me}))
            rounds.commit(partition, kept._replace(unconfirmed=unconfirmed))
        mine = rounds.kept(partition)
        if mine is not None and mine.reap_round == kept.reap_round:
            known = {*mine.unconfirmed} - {*kept.unconfirmed, self._node.topology.number}
            rounds.confirmed(partition, kept.reap_round, known)
        return await self._carry_out(partition)

    async def _carry_out(self, partition: int) -> bool:
        """Delete what the kept list names, if this node has not yet; True when it has."""
        node, me = self._node, self._node.topology.number
        kept = self._rounds.kept(partition)
        if kept is None or me not in kept.unconfirmed:
            await node.disk.store.durable()
            return True
        if partition in self._carrying:
            return False
        self._carrying.add(partition)
        try:
            for at in range(0, len(kept.entries), BITE_KEYS):
                async with node.slices.slice("reaping"):
                    await asyncio.gather(
                        *(self._remove(e) for e in kept.entries[at : at + BITE_KEYS])
                    )
            self._rounds.confirmed(partition, kept.reap_round, (me,))
            await node.disk.store.durable()
        finally:
            self._carrying.discard(partition)
        self.reaped += len(kept.entries)
        return True

    async def _remove(self, entry: Listed) -> None:
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._node.replica.remove(entry.skey, entry.leaf, done)
        await future

    async def _carry_on(self) -> None:
        """Lists that some owner has not confirmed: whoever keeps one sends it again."""
        for partition in self._rounds.kept_partitions():
            if self._loop.time() - self._sent.get(partition, -RESEND_S) < RESEND_S:
                continue
            await self._carry_out(partition)
            await self._send_kept(partition)

    async def _send_kept(self, partition: int) -> None:
        node, rounds = self._node, self._rounds
        kept, ring = rounds.kept(partition), node.topology.ring
        if kept is None or ring is None:
            return
        self._sent[partition] = self._loop.time()
        members = {m.number for m in ring.members}
        gone = [n for n in kept.unconfirmed if n not in members]
        rounds.confirmed(partition, kept.reap_round, gone)  # given up, or drained and left
        payload = reaping.pack_commit(partition, kept)
        others = [n for n in kept.unconfirmed if n in node.topology.links]
        answers = await asyncio.gather(
            *(node.topology.links[n].ask(Type.COMMIT, payload, COMMIT_TIMEOUT_S) for n in others)
        )
        done = [
            n
            for n, (kind, reply) in zip(others, answers, strict=True)
            if kind == Type.COMMIT_REPLY and reply == b"\x01"
        ]
        rounds.confirmed(partition, kept.reap_round, done)
        if rounds.kept(partition) is None:
            # The others may let go of it too; whom this doesn't reach finds out by asking.
            await node.disk.store.durable()
            payload = reaping.pack_commit(partition, kept._replace(unconfirmed=()))
            for n in ring.slots[partition]:
                if (link := node.topology.links.get(n)) is not None:
                    await link.ask(Type.COMMIT, payload, COMMIT_TIMEOUT_S)
            self._sent.pop(partition, None)

    # Copies that are too old

    async def _compare_with_peers(self) -> None:
        """Ask each peer once per start of either what it has committed (design: disks)."""
        for number, link in sorted(self._node.topology.links.items()):
            if not link.up or self._compared.get(number) == link.incarnation:
                continue
            incarnation = link.incarnation
            kind, payload = await link.ask(Type.KEPT, b"", COMMIT_TIMEOUT_S)
            if kind != Type.KEPT_REPLY:
                continue
            ring = self._node.topology.ring
            assert ring is not None
            for partition, committed in reaping.unpack_rounds(payload):
                if partition < ring.partitions and number in ring.slots[partition]:
                    await self._learn(partition, committed, number)
            self._compared[number] = incarnation

    async def _learn(self, partition: int, committed: int, owner: int) -> None:
        node, rounds = self._node, self._rounds
        if partition not in node.topology.owned:
            rounds.take(partition, committed)
            return
        if committed <= rounds.committed(partition) or not node.standing.counts(partition):
            return
        if not rounds.may_commit(partition, committed):
            self._too_old(partition, committed)
            return
        told = await self.rounds_of(partition, owner)
        if told is not None and (kept := told[1]) is not None:
            await self._obey(partition, kept)

    async def rounds_of(self, partition: int, owner: int) -> tuple[State, Kept | None] | None:
        """What `owner` knows of a partition's rounds; None when it can't be had now.

        Asked before a copy is pulled from it, for `rounds.adopt` afterwards.
        """
        link = self._node.topology.links.get(owner)
        if link is None:
            return None
        ask = partition.to_bytes(2, "big")
        kind, payload = await link.ask(Type.KEPT, ask, COMMIT_TIMEOUT_S)
        try:
            return reaping.unpack_kept_reply(payload) if kind == Type.KEPT_REPLY else None
        except Corrupt as error:
            log.warning("the rounds of partition %d: %s", partition, error)
            return None

    async def before_pull(self, partition: int, owners: list[int]) -> list[int]:
        """Ask `owners` for their rounds before their copies are merged; who must not be merged.

        While this node recovers it says no to every round, so what is committed now
        was agreed before, and a copy that was no part of it is an old disk's.
        """
        told = self._told.setdefault(partition, {})
        for owner in owners:
            answer = await self.rounds_of(partition, owner)
            if answer is not None:
                told[owner] = answer
        newest = max((state.committed for state, _ in told.values()), default=0)
        return [
            owner
            for owner, (state, _) in sorted(told.items())
            if state.taken and state.committed < newest and newest not in state.said
        ]

    def pulled(self, partition: int) -> None:
        """The copy here is merged from the others': take over their rounds and list."""
        told, me = self._told.pop(partition, {}), self._node.topology.number
        lists = [kept for _, kept in told.values() if kept is not None]
        newest = max(lists, key=lambda kept: kept.reap_round, default=None)
        if newest is not None:  # what it names may have been pulled from one who had not
            newest = newest._replace(unconfirmed=tuple(sorted({*newest.unconfirmed, me})))
        # Who knows of no round holds only what was sent to it since its disk was made.
        states = [state for state, _ in told.values() if state.taken] or [UNKNOWN]
        self._rounds.adopt(partition, states, newest)

    def compared(self, peer: int, partition: int, committed: int) -> None:
        """Anti-entropy has heard which round a peer has committed."""
        ring = self._node.topology.ring
        behind = committed > self._rounds.committed(partition)
        if ring is None or not behind or partition in self._learning:
            return
        if partition < ring.partitions and peer in ring.slots[partition]:
            self._learning.add(partition)
            self._node.in_background(self._learn_behind(partition, committed, peer))

    async def _learn_behind(self, partition: int, committed: int, peer: int) -> None:
        try:
            await self._learn(partition, committed, peer)
        finally:
            self._learning.discard(partition)

    def is_reaped(self, partition: int, skey: bytes) -> bool:
        """Whether the key is on a list that is kept for the partition: not to be copied back."""
        kept = self._rounds.kept(partition)
        return kept is not None and any(entry.skey == skey for entry in kept.entries)

    def _too_old(self, partition: int, reap_round: int) -> None:
        """A round was committed that this disk never said yes to: it blocks what follows.

        Its copy is kept: deleting it is only safe once the others are known to be complete.
        """
        me = self._node.topology.number
        reason = f"its disk never agreed to round {reap_round}, which others have committed"
        if self.blockers.get(partition, {}).get(me) != reason:
            log.warning("partition %d: %s", partition, reason)
        self.blockers[partition] = {me: reason}

    # For people

    def report(self, after: int, limit: int) -> dict[str, Any]:
        """`GET /admin/tombstones`: up to `limit` partitions behind `after`."""
        node, ring = self._node, self._node.topology.ring
        name = node.topology.host_name
        wanted = sorted({*self.tombstones.partitions(), *self._rounds.kept_partitions()})
        wanted = [p for p in wanted if p > after]
        rows = []
        for p in wanted[:limit]:
            blocked = [
                {"node": name(n), "reason": reason}
                for n, reason in sorted(self.blockers.get(p, {}).items())
            ]
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
                    "coordinator": None if ring is None else name(ring.slots[p][0]),
                    "round": self._rounds.stamp(p),
                    "committed": self._rounds.committed(p),
                    "blocked_by": blocked,
                }
            )
        more = len(wanted) > limit
        return {
            "partitions": rows,
            "reaped": self.reaped,
            "next": wanted[limit - 1] if more else None,
        }
