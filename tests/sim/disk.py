"""Disk: what survives a simulated process, and the store that runs on it.

Owns `SimDisk`, which outlives processes (what is fsynced, and the batches that
are only in the page cache), and `SimStore`, which keeps the contract of
`dynamo_node.storage.Store` on top of it (tests/sim/test_sim_store.py asks both the
same). A process crash keeps what reached the log; a power cut keeps what was
fsynced and any prefix of the batches after it. What recovery has read again is
not fsynced either.
"""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from dynamo_node.opening import LockedError, StorageError
from dynamo_node.storage import (
    FAMILIES,
    GATHER_S,
    OBJECTS,
    UNREAD,
    Done,
    Loaded,
    Store,
    Unread,
)

Batch: TypeAlias = dict[str, dict[bytes, bytes | None]]


@dataclass
class Temper:
    """How a disk behaves now; times in seconds."""

    sync_s: float = 0.0015
    read_s: float = 0.0004
    slowness: float = 1.0
    unread_share: float = 0.05
    """Of the look-ups, how many memory can't answer."""
    full: bool = False
    fails: bool = False
    """Every write, sync and opening fails."""
    fails_next_sync: bool = False
    fails_next_write: bool = False

    def error(self) -> OSError:
        return OSError("No space left on device" if self.full else "I/O error")


@dataclass
class SimDisk:
    """One volume."""

    rng: Random
    synced: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    unsynced: list[Batch] = field(default_factory=list)
    temper: Temper = field(default_factory=Temper)
    in_use: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever stored here."""
        return not self.unsynced and not any(self.synced.values())

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        """What a process would find now."""
        found = {family: dict(self.synced.get(family, {})) for family in FAMILIES}
        for batch in self.unsynced:
            _apply(found, batch)
        return found

    def sync(self, batches: int) -> None:
        """The oldest `batches` of those not fsynced are fsynced now."""
        done, self.unsynced = self.unsynced[:batches], self.unsynced[batches:]
        for family in FAMILIES:
            self.synced.setdefault(family, {})
        for batch in done:
            _apply(self.synced, batch)

    def cut_power(self) -> int:
        """A random prefix of what wasn't fsynced survives; how many batches are lost."""
        before = len(self.unsynced)
        self.lose_unsynced()
        lost = before - len(self.unsynced)
        self.sync(len(self.unsynced))
        return lost

    def lose_unsynced(self) -> None:
        """Only a random prefix of what wasn't fsynced can still be read."""
        del self.unsynced[self.rng.randint(0, len(self.unsynced)) :]

    def wipe(self) -> None:
        """A new, empty volume."""
        self.synced = {}
        self.unsynced = []

    def snapshot(self) -> dict[str, dict[bytes, bytes]]:
        """What a snapshot of the volume holds: the page cache isn't part of it."""
        return {family: dict(pairs) for family, pairs in self.synced.items()}

    def roll_back(self, snapshot: dict[str, dict[bytes, bytes]]) -> None:
        """The volume is restored from a snapshot."""
        self.synced = {family: dict(pairs) for family, pairs in snapshot.items()}
        self.unsynced = []


def _apply(found: dict[str, dict[bytes, bytes]], batch: Batch) -> None:
    for family, changes in batch.items():
        pairs = found[family]
        for key, value in changes.items():
            if value is None:
                pairs.pop(key, None)
            else:
                pairs[key] = value


class SimStore(Store):
    """A `Store` without RocksDB and threads; delays are the disk's, on the loop's time."""

    def __init__(self, disk: SimDisk, *, sync: bool, create: bool = True) -> None:
        if disk.in_use:
            raise LockedError("the store can't be opened: it is open elsewhere")
        if disk.temper.fails or disk.temper.full:
            raise StorageError(f"the store can't be opened: {disk.temper.error()}")
        if not create and disk.is_empty:
            raise StorageError("the store can't be opened: its disk is empty")
        disk.in_use = True
        self.disk = disk
        self._path = Path("/sim")
        self.fell_behind = False
        self._sync = sync
        self._broken: StorageError | None = None
        self._closed = False
        self.on_broken: Callable[[StorageError], None] = lambda error: None
        self.before_write: list[Callable[[], None]] = []
        self._held = disk.contents()
        self._sorted = {family: sorted(pairs) for family, pairs in self._held.items()}
        self._batch_now: Batch = {family: {} for family in FAMILIES}
        self._dirty = False
        self._scheduled = False
        self._tick_waiters: list[Done] = []
        self._tick_sync_waiters: list[Done] = []
        self._to_sync: list[Done] = []
        self._syncing: list[Done] | None = None
        self._sync_began = 0.0
        self._ever_synced = False
        self._loop = asyncio.get_running_loop()

    # Reading

    def peek(self, family: str, key: bytes) -> bytes | Unread | None:
        batch = self._batch_now[family]
        if batch and key in batch:
            return batch[key]
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise StorageError("the store is closed")
        disk = self.disk
        if disk.rng.random() < disk.temper.unread_share:
            return UNREAD
        return self._held[family].get(key)

    def load(self, family: str, key: bytes, done: Loaded) -> None:
        def read() -> None:
            value = self._held[family].get(key)
            self._loop.call_later(self._read_s(), loaded, value)

        def loaded(value: bytes | None) -> None:
            if self._broken is None and not self._closed:
                done(value)

        self._loop.call_later(self._read_s(), read)

    def scan(
        self, family: str, start: bytes, end: bytes, limit: int, bytes_max: int = 1 << 62
    ) -> list[tuple[bytes, bytes]]:
        if self._closed or self._broken is not None:
            raise self._unusable()
        keys, held = self._sorted[family], self._held[family]
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        at = bisect_left(keys, start)
        while at < len(keys) and keys[at] < end and len(pairs) < limit and size < bytes_max:
            pairs.append((keys[at], held[keys[at]]))
            size += len(pairs[-1][1])
            at += 1
        return pairs

    async def scan_async(
        self, family: str, start: bytes, end: bytes, limit: int, bytes_max: int = 1 << 62
    ) -> list[tuple[bytes, bytes]]:
        await asyncio.sleep(self._read_s())
        pairs = self.scan(family, start, end, limit, bytes_max)
        await asyncio.sleep(self._read_s())
        return pairs

    def stored_bytes(self) -> int:
        return sum(map(len, self._held[OBJECTS].values()))

    async def count(self, family: str) -> int:
        count = len(self._held[family])
        await asyncio.sleep(self._read_s())
        return count

    def _read_s(self) -> float:
        temper = self.disk.temper
        return temper.read_s * temper.slowness * self.disk.rng.random()

    # Writing

    def put(self, family: str, key: bytes, value: bytes) -> None:
        assert type(key) is bytes, (family, key)
        assert type(value) is bytes, (family, key, value)
        self._change(family, key, value)

    def delete(self, family: str, key: bytes) -> None:
        self._change(family, key, None)

    def delete_range(self, family: str, start: bytes, end: bytes) -> None:
        keys = self._sorted[family]
        held = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        put = [key for key in self._batch_now[family] if start <= key < end]
        for key in (*held, *put):
            self._change(family, key, None)

    def _change(self, family: str, key: bytes, value: bytes | None) -> None:
        batch = self._batch_now[family]
        batch.pop(key, None)
        batch[key] = value
        self._dirty = True
        if not self._scheduled:
            self._schedule()

    def commit(self, done: Done, sync: bool = False) -> None:
        if self._sync or sync:
            self._tick_sync_waiters.append(done)
        else:
            self._tick_waiters.append(done)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._end_tick)

    def _end_tick(self) -> None:
        self._scheduled = False
        if self._broken is not None:
            self._fail_waiters()
            return
        if self._dirty:
            try:
                for put_more in self.before_write:
                    self._scheduled = True  # what they put joins this batch
                    put_more()
            except Exception as error:
                self._scheduled = False
                self._break(error)
                return
            self._scheduled = False
            temper = self.disk.temper
            if temper.full or temper.fails or temper.fails_next_write:
                temper.fails_next_write = False
                self._break(temper.error())
                return
            self._write()
        waiters, self._tick_waiters = self._tick_waiters, []
        for done in waiters:
            done(None)
        waiters, self._tick_sync_waiters = self._tick_sync_waiters, []
        if not waiters:
            return
        if self._ever_synced and not self.disk.unsynced:  # nothing is waiting for the disk
            for done in waiters:
                done(None)
            return
        self._to_sync += waiters
        if self._syncing is None:
            self._sync_when_due()

    def _write(self) -> None:
        batch = {family: changes for family, changes in self._batch_now.items() if changes}
        self._batch_now = {family: {} for family in FAMILIES}
        self._dirty = False
        self.disk.unsynced.append(batch)
        for family, changes in batch.items():
            held, keys = self._held[family], self._sorted[family]
            for key, value in changes.items():
                if value is None:
                    if held.pop(key, None) is not None:
                        del keys[bisect_left(keys, key)]
                else:
                    if key not in held:
                        insort(keys, key)
                    held[key] = value

    def _sync_when_due(self) -> None:
        self._syncing = []
        due = self._sync_began + GATHER_S
        if self._loop.time() >= due:
            self._start_sync()
        else:
            self._loop.call_at(due, self._start_sync)

    def _start_sync(self) -> None:
        self._sync_began = self._loop.time()
        self._syncing, self._to_sync = self._to_sync, []
        temper = self.disk.temper
        delay = temper.sync_s * temper.slowness * (0.3 + self.disk.rng.expovariate(1.0))
        self._loop.call_later(delay, self._synced, len(self.disk.unsynced))

    def _synced(self, batches: Any) -> None:
        waiters, self._syncing = self._syncing or [], None
        temper = self.disk.temper
        if temper.full or temper.fails or temper.fails_next_sync:
            temper.fails_next_sync = False
            self._to_sync = waiters + self._to_sync
            # The kernel gives each failed page up once it has said so.
            self.disk.lose_unsynced()
            self._break(temper.error())
            return
        self.disk.sync(batches)
        self._ever_synced = True
        for done in waiters:
            done(None)
        if self._to_sync:
            self._sync_when_due()

    # Closing

    async def close(self) -> None:
        if self._closed:
            return
        try:
            if self._broken is None:
                await self.durable()
        finally:
            self._closed = True
            self.disk.in_use = False
