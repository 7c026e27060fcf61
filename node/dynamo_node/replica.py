"""Replica: what this node keeps of each key, as an owner or as a stand-in.

Owns local reads, merges and minting. Merges of a key are serialised (`turns`)
and see the writes still in the batch; object, mark and tree change share one
batch; `hints` keeps what is meant for others. All calls answer through callbacks, because
most are answered at once and a task for each would cost more than the work.

Forbidden here: the network, and who is asked for what.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from dynamo_core import objects, records
from dynamo_core.actors import BIRTHS_MAX, LeaseExhausted, Minter
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.objects import Object, Sibling
from dynamo_core.outcomes import Kind
from dynamo_core.records import DIGEST_BYTES, Record, Stamp
from dynamo_core.ring import partition_of
from dynamo_core.rounds import Rounds
from dynamo_core.versions import Clock, Dot
from dynamo_node.awaiting import given
from dynamo_node.config import HINTS_BYTES_MAX, Limits
from dynamo_node.disk import Disk, new_incarnation
from dynamo_node.hints import HintStore
from dynamo_node.opening import StorageError
from dynamo_node.outside import REAL, Outside
from dynamo_node.refusals import ReadOnlyError, ReapedError, RefusedError
from dynamo_node.storage import HINTS, OBJECTS, Done
from dynamo_node.turns import Turns, WithValue

LEASE_BIRTHS: Final = 1 << 20
"""Births leased at a time; a crash wastes at most so many of 2^32."""
CLOCK_ENTRIES_MAX: Final = 4096
"""Of an object that a write makes: some 100 KiB, a context that still fits where it has to."""

Change: TypeAlias = Callable[[bytes, bytes | None, bytes | None], None]


@dataclass(frozen=True, slots=True)
class NewWrite:
    """What a coordinator mints: `value` None is a tombstone.

    `adopt_clock` is lastWriteWins' put without a context: it takes the local
    object's clock as its own. `limits` are those that the write began with.
    """

    context: Clock
    adopt_clock: bool
    write_id: bytes
    written_ms: int
    content_type: str
    value: bytes | None
    limits: Limits


class Replica:
    """The local store of objects; `hints` is the one of hints."""

    def __init__(
        self,
        disk: Disk,
        outside: Outside = REAL,
        hints_bytes_max: int = HINTS_BYTES_MAX,
    ) -> None:
        self._disk = disk
        self._store = disk.store
        self._outside = outside
        self._turns = Turns(disk.store)
        self._partitions = 1
        self._extending = False
        self.minter: Minter | None = None
        self.read_only: Callable[[], bool] = lambda: False
        """Whether the disk takes nothing more; what is stored is still read."""
        self.rounds = Rounds()
        self.hints = HintStore(disk.store, self._turns, self.rounds, hints_bytes_max)
        self.ring_name: Callable[[], RingName] = lambda: NO_RING
        """The ring in force, which stamps hints."""
        self.refusal: Callable[[int, bytes | None, bool], DynamoError | None] = (
            lambda partition, row, mint: None
        )
        """Why (partition, row that was named, whether to mint) can't be written here now."""
        self.on_change: list[Change] = []
        """Told (digest + key, old object, new object) before a change is put into the batch."""
        self.on_emptied: list[Callable[[int, bytes, bytes], None]] = []
        """Told (partition, start, end) before all places start <= place < end are deleted."""
        self.emptied: Counter[int] = Counter()
        """How often each partition's records were deleted unread since this start."""
        self.on_new_incarnation: Callable[[bytes], None] = lambda incarnation: None
        self.keys: int | None = None
        """Keys with a record here (tombstones too); None until they are counted."""
        self.keys_since_count = 0
        self.on_put: Callable[[int], object] = lambda siblings: None
        """Told how many siblings the record has after a put was minted here."""

    def ring_has(self, partitions: int) -> None:
        """The first ring came; Q is fixed for life."""
        self._partitions = partitions
        self.hints.ring_has(partitions)

    # Reading

    def read(
        self,
        key: bytes,
        digest: bytes,
        owners: tuple[int, ...],
        done: WithValue,
        damaged: Callable[[DynamoError], None],
    ) -> None:
        """The encoded object this node can show of `key`: its own and its hints, merged.

        Not a hint that may be older than the round which the answer is stamped with.
        Or `damaged`, when what is stored can't be read.
        """
        skey = digest + key
        hinted = self.hints.by_target
        if not hinted:

            def found(record: bytes | None) -> None:
                try:
                    obj = None if record is None else records.object_of(record)
                except Corrupt as error:
                    damaged(error)
                    return
                done(obj)

            self._turns.take(OBJECTS, skey, found, damaged)
            return
        places = [(OBJECTS, skey)]
        places += [(HINTS, records.hint_key(o, digest, key)) for o in owners if o in hinted]
        left = len(places)
        whole: bytes | None = None
        trouble: Corrupt | StorageError | None = None

        def got(record: bytes | None) -> None:
            nonlocal left, whole, trouble
            left -= 1
            if record is not None:
                try:
                    held = records.from_bytes(record)
                    if held.stamp is None or not self.hints.may_be_old(digest, held.stamp):
                        whole = objects.merge_bytes(whole, held.obj)
                except Corrupt as error:
                    trouble = error
            if left:
                return
            if trouble is None:
                done(whole)
            else:
                damaged(trouble)

        def failed(error: StorageError) -> None:
            nonlocal trouble
            trouble = error
            got(None)

        for family, place in places:
            self._turns.take(family, place, got, failed)

    async def read_async(self, key: bytes, digest: bytes, owners: tuple[int, ...]) -> bytes | None:
        """`read` as a coroutine."""
        return await given(partial(self.read, key, digest, owners))

    def read_own(
        self, skey: bytes, done: WithValue, damaged: Callable[[DynamoError], None]
    ) -> None:
        """The encoded object of this node's own record at digest + key, hints left aside."""
        self._read_record(OBJECTS, skey, done, damaged)

    async def read_own_async(self, skey: bytes) -> bytes | None:
        """`read_own` as a coroutine; raises Corrupt for a damaged record."""
        return await given(partial(self.read_own, skey))

    def read_hint(
        self, place: bytes, done: WithValue, damaged: Callable[[DynamoError], None]
    ) -> None:
        """The encoded object that is kept at that place of the hints (`records.hint_key`)."""
        self._read_record(HINTS, place, done, damaged)

    def _read_record(
        self,
        family: str,
        place: bytes,
        done: WithValue,
        damaged: Callable[[DynamoError], None],
    ) -> None:
        def found(data: bytes | None) -> None:
            try:
                obj = None if data is None else records.object_of(data)
            except Corrupt as error:
                damaged(error)
                return
            done(obj)

        self._turns.take(family, place, found, damaged)

    # Writing

    def merge(
        self,
        key: bytes,
        digest: bytes,
        obj: bytes,
        reap_round: int,
        done: Done,
        sync: bool = False,
        row: bytes | None = None,
    ) -> None:
        """Merge a whole object from a peer; `done` once the result is safe.

        `row` names the tokens under which it was asked for, None for this node's own work.
        `done` gets ReapedError when what is older than its round was reaped here,
        ReadOnlyError when the disk takes nothing more, MovedError or OtherRowError when
        the copy here isn't one to be written under that row.
        """
        if self.read_only():
            done(ReadOnlyError())
            return
        skey = digest + key

        def merged(data: bytes | None) -> None:
            partition = self.partition_of(digest)
            if (no := self.refusal(partition, row, False)) is not None:
                done(no)
                return
            if self.rounds.refuses_write(partition, reap_round):
                state = self.rounds.state(partition)
                done(ReapedError(state.ring, state.committed))
                return
            try:
                held = None if data is None else records.from_bytes(data)
                result = objects.merge_bytes(None if held is None else held.obj, obj)
            except Corrupt as error:
                done(error)
                return
            if held is None:
                self._put_object(skey, None, Record(result, None))
            elif result is not held.obj:
                self._put_object(skey, held.obj, Record(result, held.mark))
            self._store.commit(done, sync)

        self._turns.take(OBJECTS, skey, merged, done)

    def take_round(self, partition: int, reap_round: int, then: Callable[[], None]) -> None:
        """Stamp with at least `reap_round` from now on; `then` once that is fsynced."""

        def taken(error: BaseException | None) -> None:
            if error is None:
                then()

        self.rounds.take(partition, reap_round)
        self._store.commit(taken, sync=True)

    def mint(
        self,
        key: bytes,
        digest: bytes,
        hint_for: int,
        write: NewWrite,
        minted: Callable[[bytes, Clock, int], None],
        refused: Callable[[DynamoError], None],
        done: Done,
        wanted: Callable[[], bool] = lambda: True,
        row: bytes | None = None,
        replaces: Callable[[list[Dot]], None] | None = None,
    ) -> None:
        """Make a new version of `key` and put it into the batch.

        `minted(object, context, reap round)` is called when the dot is in the batch,
        before it may leave the node; the context is the author's plus this dot, never
        the stored clock. A write that is here already, tried at another coordinator
        before, keeps the dot that it has. `done` is called when it is safe. A stand-in
        mints into the hint that it keeps for `hint_for`. Or `refused` is called, with
        RefusedError for what the client can mend, and nothing is written. Where the
        record has to be read from disk first, and then `wanted` says no, nothing is
        written and nobody told: a write that was given up may have been deleted since.
        An owner mints only while it counts under `row`: nothing follows a seal.
        `replaces` is told first which siblings here the author's context covers.
        """
        if self.read_only():
            refused(RefusedError(Kind.OVERLOADED, "this node's disk is full; nothing was written"))
            return
        if hint_for:
            family, place = HINTS, records.hint_key(hint_for, digest, key)
        else:
            family, place = OBJECTS, digest + key

        def mint_into(data: bytes | None) -> None:
            if not wanted():
                return
            partition = self.partition_of(digest)
            no = None
            if not hint_for:
                no = self.refusal(partition, row, True)
            elif row is not None:
                no = self.hints.other_row(partition, row)
            if no is not None:
                refused(no)
                return
            try:
                held = None if data is None else records.from_bytes(data)
                obj, dot, context = self._minted(held, write)
                if replaces is not None and held is not None:
                    old = objects.from_bytes(held.obj).siblings
                    replaces([s.dot for s in old if context.covers(s.dot)])
            except DynamoError as error:
                refused(error)
                return
            reap_round = self.rounds.stamp(partition)
            if hint_for:
                # Not bound by the limit: this is the copy that the write begins with.
                stamp = Stamp(reap_round, *self.ring_name())
                if held is not None:
                    stamp = stamp.with_older(held.stamp or stamp)
                    reap_round = stamp.reap_round
                if held is None or obj is not held.obj:
                    self.hints.put(place, Record(obj, dot, stamp), data)
            elif held is None or obj is not held.obj:
                self._put_object(place, None if held is None else held.obj, Record(obj, dot))
            minted(obj, context.with_dot(dot), reap_round)
            self._store.commit(done)

        self._turns.take(family, place, mint_into, refused)

    def _minted(self, record: Record | None, write: NewWrite) -> tuple[bytes, Dot, Clock]:
        minter = self.minter
        if minter is None:
            raise RefusedError(Kind.OVERLOADED, "this node is still starting; try again")
        mark: Dot | None = None
        held: Object = objects.ABSENT
        if record is not None:
            mark, held = record.mark, objects.from_bytes(record.obj)
        context = write.context
        if write.adopt_clock and not context:
            context = held.clock
        if record is not None:
            same = write.write_id, write.content_type, write.value
            if (before := objects.written_before(held, context, same)) is not None:
                return record.obj, before, context
        if minter.births_left() < LEASE_BIRTHS // 4:
            self._extend_lease(minter)
        try:
            dot = minter.next_dot(mark)
        except LeaseExhausted as error:
            raise RefusedError(
                Kind.OVERLOADED, "this node waits for its disk to lease more births; try again"
            ) from error
        result = objects.put(
            held,
            context,
            Sibling(dot, write.write_id, write.written_ms, write.content_type, write.value),
        )
        obj = objects.to_bytes(result)
        self._check_limits(result, obj, write)
        if write.value is not None:
            self.on_put(len(result.siblings))
        return obj, dot, context

    def _check_limits(self, result: Object, obj: bytes, write: NewWrite) -> None:
        if write.value is None:  # a delete is always written
            return
        limits, clock = write.limits, result.clock
        if (entries := len(clock.vector) + len(clock.dots)) > CLOCK_ENTRIES_MAX:
            raise RefusedError(
                Kind.TOO_MANY_SIBLINGS,
                f"the key's clock would have {entries} entries, the limit is "
                f"{CLOCK_ENTRIES_MAX}: delete the key and write it again once it has been "
                "reaped, or write another key",
            )
        many = len(result.siblings) > 1
        if many and (live := len(objects.shown(result))) > limits.siblings_max:
            raise RefusedError(
                Kind.TOO_MANY_SIBLINGS,
                f"this write would make {live} siblings of the key, the limit is "
                f"{limits.siblings_max}: read the key and write with the context of that read",
            )
        if len(obj) > limits.object_bytes_max:
            raise RefusedError(
                Kind.TOO_MANY_SIBLINGS if many else Kind.TOO_LARGE,
                f"the key with all its siblings would take {len(obj)} bytes, the limit is "
                f"{limits.object_bytes_max}"
                + (": read the key and write with the context of that read" if many else ""),
            )

    def _put_object(self, skey: bytes, old: bytes | None, record: Record) -> None:
        for told in self.on_change:
            told(skey, old, record.obj)
        self._store.put(OBJECTS, skey, records.to_bytes(record))
        if old is None:
            self.keys_since_count += 1

    def reap(self, skey: bytes, leaf: bytes, done: Done) -> None:
        """Reap the record at digest + key if its leaf is still this one; `done` once fsynced.

        It goes if nothing in it lives; else the spent part of its clock does, and the
        mark with its actor's entry: whoever mints here next takes a new birth. `done` gets
        MovedError where the copy here must stay as it is.
        """
        key = skey[DIGEST_BYTES:]

        def reap(data: bytes | None) -> None:
            if (no := self.refusal(self.partition_of(skey), None, False)) is not None:
                done(no)
                return
            try:
                held = None if data is None else records.from_bytes(data)
                if held is not None and objects.leaf(key, objects.head_of(held.obj)) == leaf:
                    self._reap(skey, held)
            except Corrupt as error:
                done(error)
                return
            self._store.commit(done, sync=True)

        self._turns.take(OBJECTS, skey, reap, done)

    def _reap(self, skey: bytes, held: Record) -> None:
        if objects.has_value(held.obj):
            left = objects.retired(objects.from_bytes(held.obj))
            mark = held.mark if held.mark and left.clock.covers(held.mark) else None
            self._put_object(skey, held.obj, Record(objects.to_bytes(left), mark))
        else:
            for told in self.on_change:
                told(skey, held.obj, None)
            self._store.delete(OBJECTS, skey)
            self.keys_since_count -= 1

    def empty(self, partition: int, start: bytes, end: bytes) -> None:
        """Delete every record of the partition, unread, within the tick's batch.

        Its places are start <= place < end. Nobody sees one of them any more, not even
        who is waiting for it already; what is written from now on stays.
        """
        self.emptied[partition] += 1
        for told in self.on_emptied:
            told(partition, start, end)
        self._turns.emptied(OBJECTS, start, end)
        self._store.delete_range(OBJECTS, start, end)
        self.keys = None

    def partition_of(self, digest: bytes) -> int:
        """The partition that a key's digest lies in."""
        return partition_of(digest, self._partitions)

    @property
    def key_count(self) -> int | None:
        """Keys with a record here; None until they have been counted."""
        return None if self.keys is None else self.keys + self.keys_since_count

    # Births

    def lease(self, minter: Minter, end: int, then: Callable[[], None]) -> None:
        """Extend `minter`'s lease to `end`; `then` is called when it is durable."""
        self._disk.put_lease(minter.incarnation, end)

        def extended(error: BaseException | None) -> None:
            if error is None:
                minter.extended(end)
                then()

        self._store.commit(extended, sync=True)

    def _extend_lease(self, minter: Minter) -> None:
        if self._extending:
            return
        self._extending = True
        held = minter
        if minter.lease_end >= BIRTHS_MAX:
            # All births of this incarnation are leased: go on under a new one.
            minter = Minter(minter.number, new_incarnation(self._outside))

        def extended() -> None:
            self._extending = False
            if self.minter is held and held is not minter:
                self.minter = minter
                self.on_new_incarnation(minter.incarnation)

        self.lease(minter, min(minter.lease_end + LEASE_BIRTHS, BIRTHS_MAX), extended)
