"""Hints: what this node keeps for owners that could not be reached (P§4.6).

Owns the family of hints with its byte limit, the counts by target and by
partition, and the durable marks "this target needs anti-entropy for this
partition", which stand in for hints beyond W that found no room. The limit
binds only those: a hint that a write needs to reach W is kept all the same.

Forbidden here: the network; delivery is `handoff`.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Final

from dynamo_core import objects, records
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.records import DIGEST_BYTES, SEVERAL, Record, Stamp
from dynamo_core.ring import partition_of
from dynamo_core.rounds import Rounds
from dynamo_node import meta
from dynamo_node.opening import StorageError
from dynamo_node.refusals import NoRoomError, ReadOnlyError, ReapedError
from dynamo_node.storage import HINTS, META, Done, Store
from dynamo_node.turns import Turns

log = logging.getLogger(__name__)

SCAN_HINTS: Final = 1000
SCAN_BYTES: Final = 8 << 20
_MARK_PREFIX: Final = b"mark/"
_MARK: Final = Struct(">HI")
_COUNT: Final = Struct(">Q")
_TARGET_BYTES: Final = 4


class HintStore:
    """The hints and marks on this node's disk; loaded once before anything is written."""

    def __init__(self, store: Store, turns: Turns, rounds: Rounds, bytes_max: int) -> None:
        self._store = store
        self._turns = turns
        self._rounds = rounds
        self._partitions = 1
        self.read_only: Callable[[], bool] = lambda: False
        """Whether the disk takes nothing more."""
        self.other_row: Callable[[int, bytes], DynamoError | None] = lambda partition, row: None
        """Why a write under `row` is not of now."""
        self.was_asked: Callable[[RingName], bool] = lambda ring: True
        """Whether no round of this ring was committed without the yes of this node."""
        self.start = SEVERAL
        """What names the node's present start, and stamps what is taken in it."""
        self.bytes_max = bytes_max
        self.bytes = 0
        self.by_target: dict[int, int] = {}
        """Hints by the node number they are meant for."""
        self._by_partition: dict[int, int] = {}
        self._by_place: dict[int, dict[int, int]] = {}  # target -> partition -> hints
        self._marks: dict[tuple[int, int], int] = {}  # (partition, target) -> which making
        self._marks_made = 0

    async def load(self, partitions: int) -> None:
        """Count what is on disk, for a ring of `partitions` (1 when none is held yet)."""
        self._partitions = partitions
        self.bytes = 0
        self.by_target.clear()
        self._by_partition.clear()
        self._by_place.clear()
        self._marks.clear()
        start = b""
        while True:
            found = await self._store.scan_async(HINTS, start, b"\xff" * 64, SCAN_HINTS, SCAN_BYTES)
            for place, data in found:
                self._counted(place, len(data), 1)
            if not found:
                break
            start = found[-1][0] + b"\x00"
        async for key, value in meta.pairs(self._store, _MARK_PREFIX):
            partition, target = _MARK.unpack_from(key, len(_MARK_PREFIX))
            self._marks[partition, target] = made = _COUNT.unpack(value)[0]
            self._marks_made = max(self._marks_made, made)

    def ring_has(self, partitions: int) -> None:
        """The first ring came: Q is fixed for life, and no hint can be older than it."""
        self._partitions = partitions

    # What is here

    def pending(self) -> dict[int, int]:
        """Hints and marks by target: all that target still has to get from here."""
        pending = dict(self.by_target)
        for _, target in self._marks:
            pending[target] = pending.get(target, 0) + 1
        return pending

    def in_partition(self, partition: int) -> int:
        """Hints kept here for keys of `partition`."""
        return self._by_partition.get(partition, 0)

    def partitions_for(self, target: int) -> list[int]:
        """Partitions of the hints kept here for `target`, in order."""
        return sorted(self._by_place.get(target, ()))

    def targets_in(self, partition: int) -> list[int]:
        """For whom hints of `partition` are kept here, in order."""
        return sorted(t for t, partitions in self._by_place.items() if partition in partitions)

    def may_be_old(self, digest: bytes, stamp: Stamp) -> bool:
        """Whether a hint kept here may be older than the round that this node stamps with.

        It is of an earlier start: the disk may have been rolled back meanwhile, and
        what the hint holds deleted and reaped. It is still delivered, under its own round.
        """
        known = self._rounds.stamp(partition_of(digest, self._partitions))
        return stamp.reap_round < known and stamp.start != self.start

    # Hints

    def keep(
        self,
        key: bytes,
        digest: bytes,
        target: int,
        obj: bytes,
        stamp: Stamp,
        done: Done,
        *,
        sync: bool = False,
        over: bool = False,
        row: bytes | None = None,
    ) -> None:
        """Keep a whole object for owner `target`; `done` once it is safe.

        `done` gets NoRoomError when it doesn't fit and `over` doesn't say that W
        needs it, ReapedError when its stamp is older than what is promised here (under
        NO_RING: it may never be committed), OtherRowError when `row`, if given, isn't
        what is known of the partition.
        """
        if self.read_only():
            done(ReadOnlyError())
            return
        place = records.hint_key(target, digest, key)
        partition = partition_of(digest, self._partitions)

        def kept(data: bytes | None) -> None:
            if row is not None and (no := self.other_row(partition, row)) is not None:
                done(no)
                return
            # Asked at the last moment: a promise may have been given while it was loaded.
            if self._rounds.refuses_hint(partition, stamp.reap_round):
                done(ReapedError(NO_RING, self._rounds.stamp(partition)))
                return
            try:
                held = None if data is None else records.from_bytes(data)
                result = objects.merge_bytes(None if held is None else held.obj, obj)
            except Corrupt as error:
                done(error)
                return
            if held is None or result is not held.obj:
                if not over and self.bytes + len(place) + len(result) > self.bytes_max:
                    done(NoRoomError(f"{self.bytes} bytes of hints are kept here already"))
                    return
                mark, oldest = None, stamp
                if held is not None:
                    mark, oldest = held.mark, stamp.with_older(held.stamp or stamp)
                self.put(place, Record(result, mark, oldest), data)
            self._store.commit(done, sync)

        self._turns.take(HINTS, place, kept, done)

    def put(self, place: bytes, record: Record, old: bytes | None) -> None:
        """Put a hint's record into the batch in the place of `old`; within that place's turn."""
        stamp = record.stamp
        if stamp is not None:
            start = self.start
            if old is not None and _start_of(old) != start:
                start = SEVERAL
            record = record._replace(stamp=stamp._replace(start=start))
        data = records.to_bytes(record)
        if old is not None:
            self._counted(place, len(old), -1)
        self._counted(place, len(data), 1)
        self._store.put(HINTS, place, data)

    def forget(self, place: bytes, sent: bytes) -> None:
        """Remove a hint that its target has made durable, unless it has changed since."""

        def forget(data: bytes | None) -> None:
            if data is not None and data == sent:
                self._store.delete(HINTS, place)
                self._counted(place, len(data), -1)

        self._turns.take(HINTS, place, forget, _stays)

    def refused_as_reaped(self, place: bytes, sent: bytes, ring: RingName, reap_round: int) -> bool:
        """Its target has `reap_round` of `ring` committed, beyond the hint's; whether it stays.

        A round needs the yes of every member, given while it keeps no hint. So a hint
        that was taken as a whole in the present start is newer than a round which this node
        has not said yes to: it has only not heard of it, because its disk or its membership
        is new. So is one that was taken as a whole under a later ring than the round's,
        whatever the start: who was asked had said yes before it took that ring up, and who
        wasn't is a member since. It is stamped with the round, and delivered.
        """
        restamped = self._newer(sent, ring, reap_round)
        if restamped is None:
            return False

        def restamp(data: bytes | None) -> None:
            if data == sent:
                self.put(place, restamped, data)

        self._turns.take(HINTS, place, restamp, _stays)
        return True

    def committed_elsewhere(
        self, key: bytes, digest: bytes, owners: tuple[int, ...], ring: RingName, reap_round: int
    ) -> None:
        """An owner has `reap_round` of `ring` committed: what is newer here of `key` says so.

        As in `refused_as_reaped`, but as soon as it is known: a hint may have to wait, one
        for this node itself until its copy counts, and after another start of this node
        nothing else tells it from one of an old disk. NO_RING: it was only promised.
        """
        if ring == NO_RING or not self.was_asked(ring):
            return
        for target in owners:
            if target not in self.by_target:
                continue
            place = records.hint_key(target, digest, key)

            def restamp(data: bytes | None, place: bytes = place) -> None:
                restamped = None
                if data is not None:
                    with suppress(Corrupt):  # it stays as it is
                        restamped = self._newer(data, ring, reap_round)
                if restamped is not None:
                    self.put(place, restamped, data)

            self._turns.take(HINTS, place, restamp, _stays)

    def _newer(self, data: bytes, ring: RingName, reap_round: int) -> Record | None:
        """A hint as one of `reap_round`, which it is older than by its stamp but not by now."""
        record = records.from_bytes(data)
        stamp = record.stamp
        if stamp is None or stamp.reap_round >= reap_round:
            return None
        of_this_start = stamp.start == self.start != SEVERAL
        if not of_this_start and (ring == NO_RING or stamp.ring <= ring):
            return None
        return record._replace(stamp=stamp._replace(reap_round=reap_round))

    def _counted(self, place: bytes, size: int, sign: int) -> None:
        target = int.from_bytes(place[:_TARGET_BYTES], "big")
        digest = place[_TARGET_BYTES : _TARGET_BYTES + DIGEST_BYTES]
        self.bytes += sign * (len(place) + size)
        partition = partition_of(digest, self._partitions)
        places = self._by_place.setdefault(target, {})
        for counts, at in (
            (self.by_target, target),
            (self._by_partition, partition),
            (places, partition),
        ):
            left = counts.get(at, 0) + sign
            if left > 0:
                counts[at] = left
            else:
                counts.pop(at, None)
        if not places:
            del self._by_place[target]

    # Marks

    def mark(self, target: int, partition: int) -> None:
        """Note durably, with the tick's batch, that `target` misses something of `partition`."""
        self._marks_made += 1
        self._marks[partition, target] = self._marks_made
        self._store.put(META, _mark_key(partition, target), _COUNT.pack(self._marks_made))

    def marks(self) -> list[tuple[int, int, int]]:
        """(partition, target, which making) of every mark, in order."""
        return sorted((p, t, made) for (p, t), made in self._marks.items())

    def marked(self, partition: int) -> list[int]:
        """Targets that miss something of `partition`, in order."""
        return sorted(target for p, target in self._marks if p == partition)

    def clear_mark(self, target: int, partition: int, made: int) -> None:
        """A compare with `target` that began after making `made` ended equal: forget the mark.

        One that was made again meanwhile stays.
        """
        if self._marks.get((partition, target)) == made:
            del self._marks[partition, target]
            self._store.delete(META, _mark_key(partition, target))


def _stays(error: StorageError) -> None:
    """The store has failed: the hint stays on its disk, for the next incarnation."""


def _start_of(data: bytes) -> bytes:
    stamp = records.from_bytes(data).stamp
    return SEVERAL if stamp is None else stamp.start


def _mark_key(partition: int, target: int) -> bytes:
    return _MARK_PREFIX + _MARK.pack(partition, target)
