"""Kept lists: the keys of a committed round, carried out here and at every other holder.

Owns COMMIT, both sides: a list is deleted by, durably, before it is confirmed,
and kept and sent again until all have confirmed it who hold a slot by then. A copy whose
tenure has ended stays as it is: who takes over compares with it, and gets the list.

Forbidden here: what may be on a list (`reaper`) and whether a copy is too old
for a round (`copies`).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import reaping
from dynamo_core.frames import Frame
from dynamo_core.rounds import Kept
from dynamo_core.slots import Row, holders
from dynamo_core.wire import Type
from dynamo_node.awaiting import told
from dynamo_node.inbound import Inbound
from dynamo_node.refusals import MovedError

if TYPE_CHECKING:
    from dynamo_node.node import Node

COMMIT_TIMEOUT_S: Final = 10.0
RESEND_S: Final = 5.0
BITE_KEYS: Final = 50


class KeptLists:
    """One per node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._rounds = node.replica.rounds
        self._loop = asyncio.get_running_loop()
        self._carrying: set[int] = set()
        self._sent: dict[int, float] = {}  # partition -> when its kept list was last sent
        self.on_unknown: Callable[[int, int, int], None] = lambda node, partition, committed: None
        """Told (node, partition, round) of a COMMIT that the disk here never agreed to."""
        self.reaped = 0
        node.handlers[Type.COMMIT] = self._commit
        node.custodies.on_row.append(self._row_changed)

    def _row_changed(self, partition: int, row: Row) -> None:
        """Whoever holds a slot now has to carry the list out, and nobody else."""
        kept, me = self._rounds.kept(partition), self._node.topology.number
        if kept is None:
            return
        left = {*holders(row)}
        if me not in kept.unconfirmed:
            left.discard(me)
        # Who has confirmed it already says so again: that costs a message.
        self._rounds.keep(partition, kept._replace(unconfirmed=tuple(sorted(left))))
        self._sent.pop(partition, None)

    def _commit(self, caller: Inbound, frame: Frame) -> None:
        partition, kept = reaping.unpack_commit(frame.payload)

        async def answer() -> bytes:
            if await self.obey(partition, kept):
                return b"\x01"
            known = self._rounds.agreed_to(partition, kept.reap_round)
            if caller.hello is not None and not known:
                self.on_unknown(caller.hello.number, partition, kept.reap_round)
            return b"\x00"

        self._node.answer_later(caller, frame, Type.COMMIT_REPLY, answer)

    async def obey(self, partition: int, kept: Kept) -> bool:
        """Carry out a committed round's list; True once that is fsynced here."""
        rounds, me = self._rounds, self._node.topology.number
        custody = self._node.custodies.of(partition)
        if not custody.held:
            # What it holds no copy of it has nothing to delete from: its yes said so.
            return not custody.has_copy and partition not in self._node.topology.owned
        if not rounds.agreed_to(partition, kept.reap_round):
            return False
        if rounds.committed(partition) < kept.reap_round:
            unconfirmed = tuple(sorted({*kept.unconfirmed, me}))
            rounds.commit(partition, kept._replace(unconfirmed=unconfirmed))
        mine = rounds.kept(partition)
        if mine is not None and mine.reap_round == kept.reap_round:
            known = {*mine.unconfirmed} - {*kept.unconfirmed, me}
            rounds.confirmed(partition, kept.reap_round, known)
        return await self.carry_out(partition)

    async def carry_out(self, partition: int) -> bool:
        """Delete what the kept list names, if this node has not yet; True when it has."""
        node, me = self._node, self._node.topology.number
        kept, custody = self._rounds.kept(partition), node.custodies.of(partition)
        if kept is None or me not in kept.unconfirmed:
            await node.disk.store.durable()
            return True
        if partition in self._carrying or not custody.held:
            return False
        self._carrying.add(partition)
        reap = node.replica.reap
        try:
            for at in range(0, len(kept.entries), BITE_KEYS):
                async with node.slices.slice("reaping"):
                    bite = kept.entries[at : at + BITE_KEYS]
                    await asyncio.gather(*(told(partial(reap, e.skey, e.leaf)) for e in bite))
            if not custody.held:
                return False
            self._rounds.confirmed(partition, kept.reap_round, (me,))
            await node.disk.store.durable()
        except MovedError:
            return False  # sealed in between
        finally:
            self._carrying.discard(partition)
        self.reaped += len(kept.entries)
        return True

    async def carry_on(self) -> None:
        """Lists that some holder has not confirmed: whoever keeps one sends it again."""
        for partition in self._rounds.kept_partitions():
            if self._loop.time() - self._sent.get(partition, -RESEND_S) < RESEND_S:
                continue
            await self.carry_out(partition)
            await self.send(partition)

    async def send(self, partition: int) -> None:
        """COMMIT the kept list to every holder that has not confirmed it."""
        node, rounds = self._node, self._rounds
        kept, ring = rounds.kept(partition), node.topology.ring
        if kept is None or ring is None:
            return
        self._sent[partition] = self._loop.time()
        there = {m.number for m in ring.everybody}.intersection(node.topology.holders(partition))
        gone = [n for n in kept.unconfirmed if n not in there]
        rounds.confirmed(partition, kept.reap_round, gone)  # given up, or handed on
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
            for n in node.topology.other_holders(partition):
                if (link := node.topology.links.get(n)) is not None:
                    await link.ask(Type.COMMIT, payload, COMMIT_TIMEOUT_S)
            self._sent.pop(partition, None)
