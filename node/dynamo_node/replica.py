"""Replica: what this node keeps of each key, as an owner or as a stand-in.

Owns local reads, merges, minting, hints and the order in which they happen to
one key. Merges of a key are serialised and see the writes still in the batch;
object and mark share one batch. All calls answer through callbacks, because
most are answered at once and a task for each would cost more than the work.

Forbidden here: the network, and who is asked for what.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from dynamo_core import objects, records
from dynamo_core.actors import BIRTHS_MAX, LeaseExhausted, Minter
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.objects import Object, Sibling
from dynamo_core.outcomes import Kind
from dynamo_core.records import Record, Stamp
from dynamo_core.versions import Clock, Dot
from dynamo_node.config import Limits
from dynamo_node.disk import Disk, new_incarnation
from dynamo_node.outside import REAL, Outside
from dynamo_node.storage import HINTS, OBJECTS, Done, Unread

LEASE_BIRTHS: Final = 1 << 20
"""Births leased at a time; a crash wastes at most so many of 2^32."""

WithValue: TypeAlias = Callable[[bytes | None], None]


class RefusedError(DynamoError):
    """A write that a client may not make; `kind` says which answer it gets."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class NewWrite:
    """What a coordinator mints: `value` None is a tombstone.

    `adopt_clock` is lastWriteWins' put without a context: it takes the local
    object's clock as its own.
    """

    context: Clock
    adopt_clock: bool
    write_id: bytes
    written_ms: int
    content_type: str
    value: bytes | None


class Replica:
    """The local store of objects and hints."""

    def __init__(self, disk: Disk, limits: Limits, outside: Outside = REAL) -> None:
        self._disk = disk
        self._store = disk.store
        self._limits = limits
        self._outside = outside
        self._loading: dict[tuple[str, bytes], list[WithValue]] = {}
        self._extending = False
        self.minter: Minter | None = None
        self.ring_name: Callable[[], RingName] = lambda: NO_RING
        """The ring in force, which stamps hints."""
        self.on_new_incarnation: Callable[[bytes], None] = lambda incarnation: None
        self.keys: int | None = None
        """Keys with a record here (tombstones too); None until they are counted."""
        self.keys_since_count = 0
        self.hints: dict[int, int] = {}
        """Hints kept here by target's node number."""

    # Reading

    def read(
        self,
        key: bytes,
        digest: bytes,
        owners: tuple[int, ...],
        done: WithValue,
        damaged: Callable[[Corrupt], None],
    ) -> None:
        """The encoded object this node can show of `key`: its own and its hints, merged.

        Or `damaged`, when what is stored can't be read.
        """
        skey = digest + key
        if not self.hints:

            def found(record: bytes | None) -> None:
                try:
                    obj = None if record is None else records.object_of(record)
                except Corrupt as error:
                    damaged(error)
                    return
                done(obj)

            self._with(OBJECTS, skey, found)
            return
        places = [(OBJECTS, skey)]
        places += [(HINTS, records.hint_key(o, digest, key)) for o in owners if o in self.hints]
        left = len(places)
        whole: bytes | None = None
        trouble: Corrupt | None = None

        def got(record: bytes | None) -> None:
            nonlocal left, whole, trouble
            left -= 1
            if record is not None:
                try:
                    whole = objects.merge_bytes(whole, records.object_of(record))
                except Corrupt as error:
                    trouble = error
            if left:
                return
            if trouble is None:
                done(whole)
            else:
                damaged(trouble)

        for family, place in places:
            self._with(family, place, got)

    async def read_async(self, key: bytes, digest: bytes, owners: tuple[int, ...]) -> bytes | None:
        """`read` as a coroutine."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.read(key, digest, owners, future.set_result, future.set_exception)
        return await future

    # Writing

    def merge(self, key: bytes, digest: bytes, obj: bytes, done: Done, sync: bool = False) -> None:
        """Merge a whole object from a peer; `done` once the result is safe."""
        skey = digest + key

        def merged(data: bytes | None) -> None:
            try:
                held = None if data is None else records.from_bytes(data)
                result = objects.merge_bytes(None if held is None else held.obj, obj)
            except Corrupt as error:
                done(error)
                return
            if held is None:
                self._put_object(skey, Record(result, None), new=True)
            elif result is not held.obj:
                self._put_object(skey, Record(result, held.mark), new=False)
            self._store.commit(done, sync)

        self._with(OBJECTS, skey, merged)

    def hint(
        self,
        key: bytes,
        digest: bytes,
        target: int,
        obj: bytes,
        reap_round: int,
        done: Done,
        sync: bool = False,
    ) -> None:
        """Keep a whole object for owner `target`; `done` once it is safe."""
        place = records.hint_key(target, digest, key)

        def kept(data: bytes | None) -> None:
            try:
                held = None if data is None else records.from_bytes(data)
                result = objects.merge_bytes(None if held is None else held.obj, obj)
            except Corrupt as error:
                done(error)
                return
            stamp = Stamp(reap_round, *self.ring_name())
            if held is None:
                self._put_hint(place, target, Record(result, None, stamp), new=True)
            elif result is not held.obj:
                lowest = min(stamp, held.stamp or stamp)
                self._put_hint(place, target, Record(result, held.mark, lowest), new=False)
            self._store.commit(done, sync)

        self._with(HINTS, place, kept)

    def mint(
        self,
        key: bytes,
        digest: bytes,
        hint_for: int,
        write: NewWrite,
        minted: Callable[[bytes, Clock], None],
        refused: Callable[[DynamoError], None],
        done: Done,
    ) -> None:
        """Make a new version of `key` and put it into the batch.

        `minted(object, context)` is called when the dot is in the batch, before
        it may leave the node; the context is the author's plus this dot, never
        the stored clock. `done` is called when it is safe. A stand-in mints into the
        hint that it keeps for `hint_for`. Or `refused` is called, with
        RefusedError for what the client can mend, and nothing is written.
        """
        if hint_for:
            family, place = HINTS, records.hint_key(hint_for, digest, key)
        else:
            family, place = OBJECTS, digest + key

        def mint_into(data: bytes | None) -> None:
            try:
                obj, dot, context = self._minted(data, write)
            except DynamoError as error:
                refused(error)
                return
            if hint_for:
                stamp = Stamp(0, *self.ring_name())
                if data is not None:
                    stamp = min(stamp, records.from_bytes(data).stamp or stamp)
                self._put_hint(place, hint_for, Record(obj, dot, stamp), new=data is None)
            else:
                self._put_object(place, Record(obj, dot), new=data is None)
            minted(obj, context.with_dot(dot))
            self._store.commit(done)

        self._with(family, place, mint_into)

    def _minted(self, data: bytes | None, write: NewWrite) -> tuple[bytes, Dot, Clock]:
        minter = self.minter
        if minter is None:
            raise RefusedError(Kind.OVERLOADED, "this node is still starting; try again")
        mark: Dot | None = None
        held: Object = objects.ABSENT
        if data is not None:
            record = records.from_bytes(data)
            mark, held = record.mark, objects.from_bytes(record.obj)
        context = write.context
        if write.adopt_clock and not context:
            context = held.clock
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
        return obj, dot, context

    def _check_limits(self, result: Object, obj: bytes, write: NewWrite) -> None:
        if write.value is None:  # a delete is always written
            return
        limits = self._limits
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

    def forget_hint(self, place: bytes, target: int, sent: bytes) -> None:
        """Remove a hint that its target has made durable, unless it has changed since."""

        def forget(data: bytes | None) -> None:
            if data == sent:
                self._store.delete(HINTS, place)
                left = self.hints.get(target, 0) - 1
                if left > 0:
                    self.hints[target] = left
                else:
                    self.hints.pop(target, None)

        self._with(HINTS, place, forget)

    def _put_object(self, skey: bytes, record: Record, new: bool) -> None:
        self._store.put(OBJECTS, skey, records.to_bytes(record))
        if new:
            self.keys_since_count += 1

    def _put_hint(self, place: bytes, target: int, record: Record, new: bool) -> None:
        self._store.put(HINTS, place, records.to_bytes(record))
        if new:
            self.hints[target] = self.hints.get(target, 0) + 1

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

    # One key at a time

    def _with(self, family: str, place: bytes, then: WithValue) -> None:
        """Call `then` with what is stored, after everybody who asked before."""
        waiting = self._loading.get((family, place)) if self._loading else None
        if waiting is not None:
            waiting.append(then)
            return
        value = self._store.peek(family, place)
        if isinstance(value, Unread):
            self._loading[family, place] = [then]
            self._store.load(family, place, lambda found: self._loaded(family, place, found))
            return
        then(value)

    def _loaded(self, family: str, place: bytes, found: bytes | None) -> None:
        waiting = self._loading.pop((family, place))
        for then in waiting:
            # The one before may have written: the batch knows better than the disk.
            value = self._store.peek(family, place)
            then(found if isinstance(value, Unread) else value)
