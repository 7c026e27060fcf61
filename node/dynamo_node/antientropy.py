"""Anti-entropy: keeps the replicas of each partition equal, quietly (P§4.7).

Owns when this node compares with whom: one peer at a time, in turn, every
second turn for those for which a mark "needs anti-entropy" is kept here, less
often where a disk is full; what two nodes share, which is what both hold by the
tokens known here; and the full round that an operator asks for. How two
replicas compare is `comparison`, what clears a mark `marks`, what a peer is
answered `antientropy_answers`.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import slots
from dynamo_core.errors import DynamoError
from dynamo_core.slots import Row
from dynamo_node.antientropy_answers import HASH_BITE, Answers
from dynamo_node.background_spans import RoundSpan
from dynamo_node.comparison import Comparison
from dynamo_node.marks import Marks
from dynamo_node.repairs import Ended, Tally

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

KEYS_MAX: Final = 1 << 16
"""Keys listed in one comparison of the loop; then the next peer has its turn."""
BUSY_TRIES: Final = 40
BUSY_WAIT_S: Final = 0.5
FULL_PAUSE_S: Final = 5.0
FULL_PAUSE_MAX_S: Final = 60.0
"""Between two comparisons with a peer when a disk takes nothing: doubled up to this."""
UNLIMITED: Final = 1 << 62


class View:
    """This node's rows, trees, rounds and standing as core's comparison asks for them."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.root = node.trees.root
        self.inner = node.trees.inner
        self.segments = node.trees.segments
        self.committed = node.replica.rounds.committed
        self.takes = node.custodies.takes

    def row(self, partition: int) -> bytes:
        """What names its tokens; none before a ring is held, or for what isn't a partition."""
        table = self._node.topology.table
        return b"" if table is None or partition >= table.partitions else table.digest(partition)

    def rows(self, partitions: Sequence[int]) -> bytes:
        """The same for several that are partitions, one after the other."""
        table = self._node.topology.table
        return b"" if table is None else table.digests(partitions)

    def counts(self, partition: int) -> bool:
        """Whether this node can vouch for its copy: it holds a slot by its own record, and
        its disk has what that slot's holder has to have."""
        node = self._node
        return (
            node.custodies.counts(partition)
            and node.standing.counts(partition)
            and node.reaper.copies.sure(partition)
        )


class AntiEntropy:
    """One per node; `run` until cancelled."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._one_at_a_time = asyncio.Lock()
        self._shared: dict[int, list[int]] = {}
        self._shared_of: tuple[object, int] = (None, 0)
        node.custodies.on_row.append(self._row_changed)
        self._turns = 0
        self._last = [0, 0]
        """The peers that had the last turn of either kind."""
        self._begin: dict[int, int] = {}
        """Peer -> the partition with which the next comparison's exchange begins."""
        self._full: dict[int, tuple[float, float]] = {}
        """Peer -> (not before, the pause): a disk took nothing."""
        self._repairing = False
        self.view = View(node)
        self.marks = Marks(node, lambda number, shared: self._compare(number, shared, KEYS_MAX))
        self.exchanging_with = 0
        """The peer with which this node exchanges keys just now, 0 for none."""
        self.compare_rounds: Callable[[int, int, int], None] = lambda peer, partition, committed: (
            None
        )
        """Told the committed round of a partition that a peer has named."""
        self.rounds_total = 0
        self.repaired_keys_total = 0
        self.mended_total = 0
        """Segments of trees that were not their objects'."""
        self.last: dict[int, dict[str, Any]] = {}
        """How the last comparison with each peer ended."""
        Answers(node, self)

    # What both sides ask

    def shared(self, number: int) -> list[int]:
        """Partitions of which this node and `number` both hold a slot, in order.

        Nobody changes the list: it is made anew when somebody else holds one.
        """
        topology = self._node.topology
        if self._shared_of != (topology.table, topology.number):
            self._shared_of = topology.table, topology.number
            self._shared.clear()
        found = self._shared.get(number)
        if found is None:
            holders = topology.holders
            found = [p for p in sorted(topology.owned) if number in holders(p)]
            self._shared[number] = found
        return found

    def _row_changed(self, partition: int, row: Row) -> None:
        owned = partition in self._node.topology.owned
        holders = slots.holders(row)
        for number, shared in self._shared.items():
            at = bisect_left(shared, partition)
            was, is_now = shared[at : at + 1] == [partition], owned and number in holders
            if was != is_now:
                new = [partition] if is_now else []
                self._shared[number] = shared[:at] + new + shared[at + was :]

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
        now = asyncio.get_running_loop().time()
        peers = [
            n
            for n in sorted(topology.links)
            if topology.healthy(n) and self.shared(n) and self._full.get(n, (now, 0.0))[0] <= now
        ]
        number = self._next_peer(peers)
        if number is not None:
            with suppress(Ended):
                await self._compare(number, self.shared(number), KEYS_MAX)
        await self.marks.settle_one()
        bite = partial(self._node.slices.slice, "repair")
        self.mended_total += await self._node.trees.scrub(topology.owned, bite)

    def _next_peer(self, peers: list[int]) -> int | None:
        """In turn; every second turn belongs to those for whom there is a mark."""
        self._turns += 1
        marked = self.marks.targets()
        due = [n for n in peers if n in marked]
        kind = self._turns % 2 if due else 0
        turn = due if kind else peers
        if not turn:
            return None
        # Each kind has its own turns, else a mark that stays would be all that has any.
        self._last[kind] = number = next((n for n in turn if n > self._last[kind]), turn[0])
        return number

    async def _compare(self, number: int, partitions: list[int], keys: int) -> Tally:
        """One comparison; raises Ended. Clears the marks that it has answered."""
        node = self._node
        link = node.topology.links.get(number)
        name = node.topology.host_name(number)
        if link is None or not link.healthy:
            raise Ended("it can't be reached")
        async with self._one_at_a_time:
            marks = self.marks.of(number)
            span = RoundSpan(node.tracing, name, len(partitions))
            insist = frozenset(p for p, _ in marks)
            comparison = Comparison(node, link, keys, insist, span.header)
            tally, outcome = comparison.tally, "equal"
            began = asyncio.get_running_loop().time()
            try:
                await comparison.run(partitions, self._begin.get(number, 0))
            except Ended as error:
                outcome = str(error)
                raise
            else:
                if tally.full:
                    outcome = "its disk is full"
                elif tally.sent or tally.received:
                    outcome = "repaired"
                elif tally.left or len(tally.agreed) + len(tally.moved) < len(partitions):
                    outcome = "differs"
            finally:
                self.rounds_total += 1
                self.repaired_keys_total += tally.sent + tally.received
                self.marks.compared(number, marks, tally.agreed)
                now = asyncio.get_running_loop().time()
                self._go_on(number, tally, now)
                self.last[number] = {
                    "at": now,
                    "outcome": outcome,
                    "bytes": tally.bytes,
                    "keys_sent": tally.sent,
                    "keys_received": tally.received,
                    "partitions_moved": len(tally.moved),
                    "seconds": round(now - began, 3),
                }
                span.end(outcome, tally.sent, tally.received, tally.bytes, tally.writers)
                if tally.sent or tally.received:
                    log.info(
                        "anti-entropy with %s: %d keys sent, %d received",
                        name,
                        tally.sent,
                        tally.received,
                    )
            return tally

    def _go_on(self, number: int, tally: Tally, now: float) -> None:
        """Where and when the next comparison with a peer goes on."""
        if tally.left:
            # One that never ends must not keep the others from their turn.
            begun = tally.left[0] == self._begin.get(number)
            self._begin[number] = tally.left[0] + begun
        else:
            self._begin.pop(number, None)
        if tally.full:
            pause_s = min(FULL_PAUSE_MAX_S, 2 * self._full.get(number, (0.0, FULL_PAUSE_S / 2))[1])
            self._full[number] = now + pause_s, pause_s
        else:
            self._full.pop(number, None)

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
                if not any(partition in (None, p) for p in self.shared(number)):
                    continue
                name = topology.host_name(number)
                peers.append(name)
                if not topology.healthy(number):
                    unreachable.append(name)
                    continue
                try:
                    tally = await self._fully(number, partition)
                except Ended as error:
                    failed[name] = str(error)
                    continue
                compared.update(tally.compared)
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

    async def _fully(self, number: int, partition: int | None) -> Tally:
        """Comparisons of one or all shared partitions, without a bound on their keys.

        A busy peer is asked again for a while, and so is one that knows other tokens of some.
        """
        total, why = Tally(), "it is busy with other comparisons"
        for _ in range(BUSY_TRIES):
            shared = [p for p in self.shared(number) if partition in (None, p)]
            try:
                tally = await self._compare(
                    number, [p for p in shared if p not in total.compared], UNLIMITED
                )
            except Ended as error:
                if not error.busy:
                    raise
            else:
                total.add(tally)
                if not tally.moved:
                    return total
                why = f"{len(tally.moved)} partitions are moving"
            await asyncio.sleep(BUSY_WAIT_S)
        raise Ended(why)

    def facts(self) -> dict[str, Any]:
        """For the admin port."""
        now = asyncio.get_running_loop().time()
        topology = self._node.topology
        return {
            "rounds_total": self.rounds_total,
            "repaired_keys_total": self.repaired_keys_total,
            "mended_segments_total": self.mended_total,
            "peers": {
                topology.host_name(number): {
                    **{name: value for name, value in last.items() if name != "at"},
                    "seconds_ago": round(now - last["at"], 3),
                }
                for number, last in sorted(self.last.items())
                if number in topology.links
            },
        }
