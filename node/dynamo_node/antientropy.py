"""Anti-entropy: keeps the replicas of each partition equal, quietly (P§4.7).

Owns when this node compares with whom: one peer at a time, in turn, those
first for which a mark "needs anti-entropy" is kept here; what clears a mark;
and the full round that an operator asks for. How two replicas compare is
`comparison`, what a peer is answered `antientropy_answers`.

What clears a mark (target, partition): an owner of the partition compares with
the target, in a comparison that began after the mark was made and ended with
the target holding, fsynced, all that is here. A stand-in holds nothing of its
own but hints: once none of the partition are left here, all that it had is
with owners, so it asks the target to compare with all other owners and clears
the mark when the target says that it agrees with each. If the target has no
slot of the partition any more, every owner is asked.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import antientropy, wire
from dynamo_core.errors import DynamoError
from dynamo_core.wire import Type
from dynamo_node.antientropy_answers import HASH_BITE, Answers
from dynamo_node.comparison import Comparison, Ended, Tally

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

KEYS_MAX: Final = 1 << 16
"""Keys listed in one comparison of the loop; then the next peer has its turn."""
BUSY_TRIES: Final = 40
BUSY_WAIT_S: Final = 0.5
AGREE_TIMEOUT_S: Final = 30.0
UNLIMITED: Final = 1 << 62


class View:
    """This node's trees, rounds and standing as core's comparison asks for them."""

    def __init__(self, node: "Node") -> None:
        self.root = node.trees.root
        self.inner = node.trees.inner
        self.segments = node.trees.segments
        self.committed = node.replica.rounds.committed
        self.counts = node.standing.counts


class AntiEntropy:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._one_at_a_time = asyncio.Lock()
        self._shared: tuple[object, dict[int, list[int]]] = (None, {})
        self._last = 0
        self._repairing = False
        self.view = View(node)
        self.exchanging_with = 0
        """The peer with which this node exchanges keys just now, 0 for none."""
        self.reaped: Callable[[int, bytes], bool] = lambda partition, skey: False
        """Whether the key at digest + key is on a list of reaped ones kept for the partition."""
        self.compare_rounds: Callable[[int, int, int], None] = lambda peer, partition, committed: (
            None
        )
        """Told the committed round of a partition that a peer has named."""
        self.rounds_total = 0
        self.repaired_keys_total = 0
        self.last: dict[int, dict[str, Any]] = {}
        """How the last comparison with each peer ended."""
        Answers(node, self)

    # What both sides ask

    def shared(self, number: int) -> list[int]:
        """Partitions that this node and member `number` both own, in order."""
        ring = self._node.topology.ring
        if self._shared[0] is not ring:
            self._shared = ring, {}
        found = self._shared[1].get(number)
        if found is None:
            found = []
            if ring is not None:
                owned = self._node.topology.owned
                found = [p for p, row in enumerate(ring.slots) if number in row and p in owned]
            self._shared[1][number] = found
        return found

    async def hash_roots(self, partitions: list[int]) -> None:
        """Hash what has changed, in bites, so that comparing roots takes no time."""
        unhashed = self._node.trees.unhashed(partitions)
        for at in range(0, len(unhashed), HASH_BITE):
            async with self._node.slices.slice("repair"):
                for partition in unhashed[at : at + HASH_BITE]:
                    self._node.trees.root(partition)

    # The loop

    async def run(self) -> None:
        """Compare for ever; cancelled at shutdown."""
        pause_s = self._node.config.timing.antientropy_ms / 1000
        # Nodes that start together shouldn't all compare at the same moments.
        await asyncio.sleep(pause_s * self._node.outside.random_bytes(1)[0] / 256)
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._turn()
            except DynamoError as error:
                log.warning("anti-entropy: %s", error)

    async def _turn(self) -> None:
        topology = self._node.topology
        if topology.ring is None or self._node.stopping:
            return
        peers = [n for n in sorted(topology.links) if topology.healthy(n) and self.shared(n)]
        if peers:
            marked = {t for p, t, _ in self._node.replica.hints.marks() if p in topology.owned}
            # In turn; every second turn belongs to those for whom there is a mark.
            due = [n for n in peers if n in marked] if self.rounds_total % 2 else peers
            turn = due or peers
            number = next((n for n in turn if n > self._last), turn[0])
            self._last = number
            with suppress(Ended):
                await self._compare(number, self.shared(number), KEYS_MAX)
        await self._settle_foreign_mark()

    async def _compare(self, number: int, partitions: list[int], keys: int) -> Tally:
        """One comparison; raises Ended. Clears the marks that it has answered."""
        node = self._node
        link = node.topology.links.get(number)
        name = node.topology.host_name(number)
        if link is None or not link.healthy:
            raise Ended("it can't be reached")
        async with self._one_at_a_time:
            marks = [
                (p, made) for p, target, made in node.replica.hints.marks() if target == number
            ]
            comparison = Comparison(node, link, keys, frozenset(p for p, _ in marks))
            tally, outcome = comparison.tally, "equal"
            began = asyncio.get_running_loop().time()
            try:
                await comparison.run(partitions)
            except Ended as error:
                outcome = str(error)
                raise
            else:
                if tally.sent or tally.received:
                    outcome = "repaired"
                elif tally.left or len(tally.agreed) < len(partitions):
                    outcome = "differs"
            finally:
                self.rounds_total += 1
                self.repaired_keys_total += tally.sent + tally.received
                for partition, made in marks:
                    if partition in tally.agreed:
                        node.replica.hints.clear_mark(number, partition, made)
                now = asyncio.get_running_loop().time()
                self.last[number] = {
                    "at": now,
                    "outcome": outcome,
                    "bytes": tally.bytes,
                    "keys_sent": tally.sent,
                    "keys_received": tally.received,
                    "seconds": round(now - began, 3),
                }
                if tally.sent or tally.received:
                    log.info(
                        "anti-entropy with %s: %d keys sent, %d received",
                        name,
                        tally.sent,
                        tally.received,
                    )
            return tally

    # Marks

    async def agrees_with_all(self, partition: int) -> bool:
        """Whether every other owner, and this one, can vouch that all this one lacked is here."""
        node = self._node
        ring = node.topology.ring
        if ring is None or not node.standing.counts(partition):
            return False
        for number in ring.slots[partition]:
            if number == node.topology.number:
                continue
            try:
                tally = await self._compare(number, [partition], KEYS_MAX)
            except Ended:
                return False
            if partition not in tally.agreed:
                return False
        await node.disk.store.durable()
        return True

    async def _settle_foreign_mark(self) -> None:
        """Try one mark that no comparison with its target can clear."""
        node = self._node
        ring = node.topology.ring
        assert ring is not None
        hints, me = node.replica.hints, node.topology.number
        for partition, target, made in hints.marks():
            row = ring.slots[partition]
            others = [target] if target in row and target != me else [n for n in row if n != me]
            if me in row and others == [target]:
                continue  # a comparison with the target will do
            if me not in row and hints.in_partition(partition):
                continue
            if not all(map(node.topology.healthy, others)):
                continue
            if me in row:
                agreed = await self.agrees_with_all(partition)
            else:
                agreed = await self._all_agree(partition, others)
            if agreed:
                hints.clear_mark(target, partition, made)
            return

    async def _all_agree(self, partition: int, owners: list[int]) -> bool:
        for number in owners:
            link = self._node.topology.links.get(number)
            if link is None:
                return False
            ask = antientropy.pack_agreed(partition)
            kind, reply = await link.ask(Type.TREE, ask, AGREE_TIMEOUT_S)
            if kind == Type.ERROR:
                code, _ = wire.unpack_error(reply)
                if code in (wire.Code.NOT_READY, wire.Code.STALE_RING):
                    self._node.coordinator.on_stale_ring(number, code)
            if kind != Type.TREE_REPLY or reply != b"\x01":
                return False
        return True

    # For operators

    @property
    def repairing(self) -> bool:
        """Whether a full round is under way."""
        return self._repairing

    async def repair(self, partition: int | None = None) -> dict[str, Any]:
        """One full round with every peer, over one or all shared partitions."""
        topology = self._node.topology
        began = asyncio.get_running_loop().time()
        total = Tally()
        peers, unreachable, failed = [], [], {}
        compared: set[int] = set()
        differing = 0
        self._repairing = True
        try:
            for number in sorted(topology.links):
                shared = [p for p in self.shared(number) if partition in (None, p)]
                if not shared:
                    continue
                name = topology.host_name(number)
                peers.append(name)
                if not topology.healthy(number):
                    unreachable.append(name)
                    continue
                try:
                    tally = await self._fully(number, shared)
                except Ended as error:
                    failed[name] = str(error)
                    continue
                compared.update(shared)
                differing += tally.differing
                total.sent += tally.sent
                total.received += tally.received
                total.bytes += tally.bytes
        finally:
            self._repairing = False
        return {
            "peers": peers,
            "unreachable": unreachable,
            "failed": failed,
            "partitions_compared": len(compared),
            "partitions_differing": differing,
            "keys_sent": total.sent,
            "keys_received": total.received,
            "bytes": total.bytes,
            "seconds": round(asyncio.get_running_loop().time() - began, 3),
        }

    async def _fully(self, number: int, shared: list[int]) -> Tally:
        """A comparison without a bound on its keys; a busy peer is asked again for a while."""
        for _ in range(BUSY_TRIES):
            try:
                return await self._compare(number, shared, UNLIMITED)
            except Ended as error:
                if not error.busy:
                    raise
            await asyncio.sleep(BUSY_WAIT_S)
        raise Ended("it is busy with other comparisons")

    def facts(self) -> dict[str, Any]:
        """For the admin port."""
        now = asyncio.get_running_loop().time()
        topology = self._node.topology
        return {
            "rounds_total": self.rounds_total,
            "repaired_keys_total": self.repaired_keys_total,
            "peers": {
                topology.host_name(number): {
                    **{name: value for name, value in last.items() if name != "at"},
                    "seconds_ago": round(now - last["at"], 3),
                }
                for number, last in sorted(self.last.items())
                if number in topology.links
            },
        }
