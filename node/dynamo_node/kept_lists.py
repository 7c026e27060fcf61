"""Kept lists: the keys of a committed round, carried out here and at every other owner.

Owns COMMIT, both sides: a list is deleted by, durably, before it is confirmed,
and kept and sent again until all owners have confirmed it.

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
from dynamo_core.wire import Type
from dynamo_node.awaiting import told
from dynamo_node.inbound import Inbound

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
        if partition not in self._node.topology.owned:
            return True  # what it doesn't own it holds no copy of: its yes said so
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
        kept = self._rounds.kept(partition)
        if kept is None or me not in kept.unconfirmed:
            await node.disk.store.durable()
            return True
        if partition in self._carrying:
            return False
        self._carrying.add(partition)
        reap = node.replica.reap
        try:
            for at in range(0, len(kept.entries), BITE_KEYS):
                async with node.slices.slice("reaping"):
                    bite = kept.entries[at : at + BITE_KEYS]
                    await asyncio.gather(*(told(partial(reap, e.skey, e.leaf)) for e in bite))
            self._rounds.confirmed(partition, kept.reap_round, (me,))
            await node.disk.store.durable()
        finally:
            self._carrying.discard(partition)
        self.reaped += len(kept.entries)
        return True

    async def carry_on(self) -> None:
        """Lists that some owner has not confirmed: whoever keeps one sends it again."""
        for partition in self._rounds.kept_partitions():
            if self._loop.time() - self._sent.get(partition, -RESEND_S) < RESEND_S:
                continue
            await self.carry_out(partition)
            await self.send(partition)

    async def send(self, partition: int) -> None:
        """COMMIT the kept list to every owner that has not confirmed it."""
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
