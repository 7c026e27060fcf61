"""Custodies: which slots this node holds, and what it knows of who holds the others.

Owns the table of tokens and this node's record for each partition, both on disk:
their loading, what a ring and a peer add to them, and what follows for the copies
here (design: handover; docs/decisions/0012). Nobody is answered by a row that is not
fsynced yet, nor told it: until then its partition is `unsettled`.

Forbidden here: by what right a token is raised (`dynamo_core.handover`), and moving
data (`taking_over`, `handing_over`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from dynamo_core import slots, tenures
from dynamo_core.errors import DynamoError
from dynamo_core.handover import Custody, Effect
from dynamo_core.ring import Ring
from dynamo_core.slot_table import PREFIX as ROW_PREFIX
from dynamo_core.slot_table import SlotTable, given_up
from dynamo_core.slots import Row
from dynamo_core.tenures import PREFIX as RECORD_PREFIX
from dynamo_core.tenures import Custodies as Record
from dynamo_node import meta
from dynamo_node.digests import partition_range
from dynamo_node.refusals import MovedError, OtherRowError, UnsettledRowError
from dynamo_node.storage import META

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

_PARTITION: Final = Struct(">H")


class Custodies:
    """One per node: `load` before anything is answered, `adopted` with each ring."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._topology = node.topology
        self._store = node.disk.store
        self._of: dict[int, Custody] = {}
        self._records: dict[int, Record] = {}
        """As they are on disk; a custody's own is the newer one."""
        self._takes: set[int] = set()
        self._unsynced: dict[int, int] = {}  # partition -> which change of a row is not fsynced
        self._changes = 0
        self._syncing = False
        self.fresh = True
        """Whether no ring was ever adopted on this disk, so that there are no rows."""
        self._earlier = False
        """Whether the disk is of a version that knew no tokens: who had a slot then holds it."""
        self.blank = False
        """Whether nobody has told yet who holds what: a later ring only says who shall."""
        self.on_row: list[Callable[[int, Row], None]] = []
        """Told (partition, row) after a change of who holds it."""
        self.on_counts: list[Callable[[int], None]] = []
        """Told of a partition for which this node begins or ceases to count, or to have a copy."""

    # On disk

    async def load(self, ring: Ring | None) -> None:
        """Take up what is on disk for the ring that is there too; raises Corrupt."""
        if ring is None:
            return
        table = self._make_table(ring.partitions)
        rows = [pair async for pair in meta.pairs(self._store, ROW_PREFIX)]
        table.load(rows)
        self._earlier = not rows
        self.blank = any(t.epoch == 0 for p in range(ring.partitions) for t in table.row(p))
        async for key, value in meta.pairs(self._store, RECORD_PREFIX):
            (partition,) = _PARTITION.unpack_from(key, len(RECORD_PREFIX))
            self._records[partition] = tenures.record_from_bytes(value)

    def _make_table(self, partitions: int) -> SlotTable:
        table = self._topology.table = SlotTable(partitions)
        table.persist = self._put_row
        return table

    def _put_row(self, key: bytes, value: bytes | None) -> None:
        assert value is not None
        self._store.put(META, key, value)
        (partition,) = _PARTITION.unpack_from(key, len(ROW_PREFIX))
        self._changes += 1
        self._unsynced[partition] = self._changes
        self._topology.unsettled.add(partition)
        self._topology.row_changed(partition)
        if not self._syncing:
            self._syncing = True
            self._store.commit(partial(self._synced, self._changes), sync=True)
        for told in self.on_row:
            told(partition, self._topology.row(partition))

    def _synced(self, upto: int, error: BaseException | None) -> None:
        self._syncing = False
        if error is not None:
            return  # the store has failed: nobody is answered any more
        self._settled(upto)
        if self._unsynced:
            self._syncing = True
            self._store.commit(partial(self._synced, self._changes), sync=True)

    def _settled(self, upto: int) -> None:
        for partition in [p for p, n in self._unsynced.items() if n <= upto]:
            del self._unsynced[partition]
            self._topology.unsettled.discard(partition)
            self._topology.forget(partition)

    def _put_record(self, partition: int, record: Record) -> None:
        key = RECORD_PREFIX + _PARTITION.pack(partition)
        value = tenures.record_to_bytes(record)
        if value is None:
            self._store.delete(META, key)
        else:
            self._store.put(META, key, value)
        self._records[partition] = record
        self._refresh(partition)

    # What is known

    @property
    def table(self) -> SlotTable:
        """The table; there is one from the first ring on."""
        table = self._topology.table
        assert table is not None
        return table

    def of(self, partition: int) -> Custody:
        """This node's part in a partition; there is one from the first ring on."""
        found = self._of.get(partition)
        if found is None:
            found = Custody(self.table, partition, self._topology.number)
            found.persist = partial(self._put_record, partition)
            self._of[partition] = found
        return found

    def held(self) -> list[Custody]:
        """Those with anything on this disk, or to which a row gives a slot; in order."""
        wanted = {*self._of, *self._topology.owned}
        found = [self.of(p) for p in sorted(wanted)]
        return [c for c in found if c.has_copy or c.partition in self._topology.owned]

    def sealed(self) -> list[Custody]:
        """Those with a copy whose tenure has ended, in order."""
        return [self._of[p] for p in sorted(self._of) if self._of[p].seals]

    def wanted(self, partition: int) -> tuple[int, ...]:
        """Who shall hold it by the ring in force."""
        ring = self._topology.ring
        assert ring is not None
        return ring.slots[partition]

    def counts(self, partition: int) -> bool:
        """Whether this node holds a slot of it, and what it says counts."""
        topology = self._topology
        return partition in topology.counting and partition not in topology.unsettled

    def takes(self, partition: int) -> bool:
        """Whether the copy here may still change: one that counts or will, not a sealed one."""
        return partition in self._takes

    def refusal(self, partition: int, row: bytes | None, mint: bool) -> DynamoError | None:
        """Why what was asked for under `row` (None: by this node itself) can't be done now.

        Asked in the turn in which it would be done. `mint`: only where this node counts.
        """
        if self._topology.table is None:
            return MovedError()
        if row is not None and (no := self.other_row(partition, row)) is not None:
            return no
        if partition in (self._topology.counting if mint else self._takes):
            return None
        return MovedError()

    def other_row(self, partition: int, row: bytes) -> OtherRowError | None:
        """The refusal of what names `row`, if another one is known here."""
        if row == self.table.digest(partition):
            return None
        unsettled = partition in self._topology.unsettled
        refused = UnsettledRowError if unsettled else OtherRowError
        return refused(partition, self.table.row(partition))

    # Learning

    def adopt(self, ring: Ring, number: int, founder: bool) -> None:
        """A ring is about to be put in force; in one batch with it.

        `founder`: this very disk was named when the cluster was made, and is empty.
        """
        table = self._topology.table or self._make_table(ring.partitions)
        if self._topology.number != number or not self._of:
            self._number(number, table)
        first, self.fresh = self.fresh, False
        self.blank = self.blank or (first and ring.epoch > 1)
        changed = table.adopt(ring)
        void = given_up(ring)
        for partition in sorted({*changed, *self._of, *self._records}):
            custody = self.of(partition)
            if first and (founder or self._earlier) and ring.epoch == 1:
                custody.found()
            self._carry_out(ring, partition, custody.adopted(void, ring.slots[partition]))
        for partition in changed:
            self._refresh(partition)

    def _number(self, number: int, table: SlotTable) -> None:
        """This node has got its number, or another one: what is on disk is taken up under it."""
        self._topology.number = number
        for custody in self._of.values():
            custody.persist = _nothing  # who still works with it does so under the old number
        self._of.clear()
        self._topology.all_rows_changed()
        for partition, record in sorted(self._records.items()):
            custody = self.of(partition)
            custody.held, custody.seals = dict(record.held), dict(record.seals)
            custody.pulling = record.pulling
            self._refresh(partition)

    def learn(self, partition: int, row: Row) -> bool:
        """Join what somebody else knows; whether anything was new. Acted upon once fsynced."""
        if not self.table.learn(partition, row):
            return False
        self._conform(partition)
        return True

    def learn_all(self, rows: Mapping[int, Row]) -> list[int]:
        """`learn` for each; raises Corrupt, before anything is taken, if one isn't this ring's."""
        changed = self.table.learn_all(rows)
        for partition in changed:
            self._conform(partition)
        return changed

    def told_all(self) -> None:
        """A peer has told all that it knows: this node is as good as one that was there."""
        if self.blank:
            rows = map(self.table.row, range(self.table.partitions))
            self.blank = any(token.epoch == 0 for row in rows for token in row)

    def _conform(self, partition: int) -> None:
        ring = self._topology.ring
        assert ring is not None
        self._carry_out(ring, partition, self.of(partition).conform())
        self._refresh(partition)

    def carry_out(self, partition: int, effect: Effect) -> None:
        """Do what a change of the record asks for, in its batch; then it is to be fsynced."""
        ring = self._topology.ring
        assert ring is not None
        self._carry_out(ring, partition, effect)

    def _carry_out(self, ring: Ring, partition: int, effect: Effect) -> None:
        node = self._node
        if Effect.EMPTY in effect:
            node.standing.emptied(partition)
            node.replica.empty(partition, *partition_range(ring, partition))
            node.recovery.forget(partition)
        if Effect.CLAIM in effect:
            # A copy that counts by another slot lacks nothing: it is what the claim would merge.
            if not self.of(partition).counts:
                node.standing.claimed(partition)
            node.recovery.forget(partition)

    def _refresh(self, partition: int) -> None:
        custody = self.of(partition)
        counting = self._topology.counting
        before = partition in counting, partition in self._takes
        for holds, known in ((custody.counts, counting), (custody.takes, self._takes)):
            (known.add if holds else known.discard)(partition)
        self._topology.forget(partition)
        if before != (partition in counting, partition in self._takes):
            for told in self.on_counts:
                told(partition)

    # For proof

    async def durable(self) -> None:
        """Until all that was learned so far may be said and acted upon; or StorageError."""
        upto = self._changes
        await self._store.durable()
        self._settled(upto)

    async def settled(self, partitions: Iterable[int]) -> None:
        """`durable`, and until the rows of these may be told as they are then."""
        await self.durable()
        while not self._topology.unsettled.isdisjoint(partitions):
            await self.durable()

    def open_slots(self, partitions: Iterable[int]) -> int:
        """How many slots are held by another node than the ring in force wants."""
        table = self.table
        return sum(len(slots.moves(table.row(p), self.wanted(p))) for p in partitions)


def _nothing(record: Record) -> None:
    """What becomes of a custody under another number is not this disk's."""
