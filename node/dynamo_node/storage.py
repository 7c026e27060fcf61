"""Storage: the one door to RocksDB, with group commit.

Owns column families, the batch of the running loop tick, durability and
blocking calls. All writes of a tick go into one batch; the batch reaches the
WAL at the tick's end; in a thread of its own one fsync covers everything
written so far; then all who wait are told (design: group commit). Reads see
the batch that isn't written yet.

No call here blocks the event loop: a read that memory can't answer goes to a
thread, and a write that RocksDB would stall is tried again a little later.
After a failed write, sync or read nothing in memory is trusted: the store is
broken, everybody who waits is told, and the node has to reopen it under a new
incarnation. A closed store lets go of everything that would hold RocksDB open,
so that the same process may open it again.

Forbidden here: what the bytes mean.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Never, TypeAlias

from rocksdict import ColumnFamily, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

from dynamo_core.errors import DynamoError
from dynamo_node import opening
from dynamo_node.opening import StorageError as StorageError
from dynamo_node.opening import meaning
from dynamo_node.synced import SyncedNote

log = logging.getLogger(__name__)

OBJECTS: Final = "objects"
HINTS: Final = "hints"
META: Final = "meta"
TREES: Final = "trees"
"""Segments of the hash trees; a disk from before them gets the family at its next opening."""
FAMILIES: Final = (OBJECTS, HINTS, META, TREES)

STORED_BYTES: Final = ("rocksdb.estimate-live-data-size", "rocksdb.cur-size-all-mem-tables")
STALL_RETRY_S: Final = 0.005
GATHER_S: Final = 0.001
"""Shortest time between two fsyncs' beginnings: under load more writes share each."""
LOADERS: Final = 2
COUNT_BITE: Final = 500
"""Keys counted before others get the interpreter's lock."""

Done: TypeAlias = Callable[[BaseException | None], None]
Loaded: TypeAlias = Callable[[bytes | None], None]


class _Shut(dict[str, Any]):
    """Stands for the handles of a closed store: whoever comes late gets a clear error."""

    def __missing__(self, family: str) -> Never:
        raise StorageError("the store is closed")


class Unread:
    """The type of UNREAD: memory can't tell, the disk has to be asked."""


UNREAD: Final = Unread()


class Store:
    """An open RocksDB; every method but `scan` and `open` belongs to the event loop.

    `on_broken` is called once, on the loop, when a write, sync or read has failed.
    """

    stalls = 0
    """How often RocksDB didn't take a batch at once because it is behind with compactions."""

    def __init__(
        self, path: Path, *, sync: bool, memory_bytes: int, wal_bytes_max: int = 1 << 40
    ) -> None:
        self._sync = sync
        self._path = path
        self._broken: StorageError | None = None
        self._closed = False
        self.on_broken: Callable[[StorageError], None] = lambda error: None
        self.on_commit: Callable[[float], object] = lambda seconds: None
        """Told how long the disk took for what each group of writes waits for."""
        self.before_write: list[Callable[[], None]] = []
        """Called when a tick that put anything ends; what they put joins its batch.

        A write that RocksDB stalls calls them again: they put only what is new.
        """
        try:
            options = opening.settings(memory_bytes, wal_bytes_max)
            self._db = Rdict(str(path), options, dict.fromkeys(FAMILIES, options))
        except Exception as error:  # rocksdict raises plain Exception
            raise opening.opening_failed(path, error) from error
        self._synced_note = SyncedNote(path)
        self.fell_behind = self._db.latest_sequence_number() < self._synced_note.sequence
        """Whether writes are missing that were synced, and so acknowledged."""
        self._families: dict[str, Rdict] = {f: self._db.get_column_family(f) for f in FAMILIES}
        self._handles: dict[str, ColumnFamily] = {
            f: self._db.get_column_family_handle(f) for f in FAMILIES
        }
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        self._overlay: dict[str, dict[bytes, bytes | None]] = {f: {} for f in FAMILIES}
        self._batch = WriteBatch(raw_mode=True)
        self._ranges: list[tuple[str, bytes, bytes]] = []  # deleted before all that the overlay has
        self._dirty = False
        self._scheduled = False
        self._tick_waiters: list[Done] = []
        self._tick_sync_waiters: list[Done] = []
        self._to_sync: list[Done] = []
        self._syncing: list[Done] | None = None
        self._sync_began = 0.0
        # Batches written, and how many of them the sync in flight and the last one
        # that ended cover. None yet: what recovery found may not be on the disk.
        self._written = 0
        self._covered = -1
        self._durable = -1
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._flusher = threading.Thread(target=self._flush_forever, name="wal-sync", daemon=True)
        self._flusher.start()
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="load")
        self._to_load: list[tuple[str, bytes, Loaded]] = []

    # Reading

    def peek(self, family: str, key: bytes) -> bytes | Unread | None:
        """What is stored under `key` if memory can tell, else UNREAD."""
        overlay = self._overlay[family]
        if overlay and key in overlay:
            return overlay[key]
        if self._broken is not None:
            raise self._unusable()
        if self._ranges and any(f == family and s <= key < e for f, s, e in self._ranges):
            return None
        found, value = self._families[family].key_may_exist(key, True)  # type: ignore[misc]
        if not found:
            return None
        return UNREAD if value is None else value

    def load(self, family: str, key: bytes, done: Loaded) -> None:
        """Read `key` from disk in a thread, together with the tick's other loads.

        The caller must hold back writes to `key` until `done` is called. When
        the read fails, or the store does meanwhile, `done` is not called.
        """
        if self._broken is not None:
            raise self._unusable()
        if not self._to_load:
            self._loop.call_soon(self._start_loads)
        self._to_load.append((family, key, done))

    def _start_loads(self) -> None:
        wanted, self._to_load = self._to_load, []
        if self._closed or self._broken is not None:
            return
        future = self._loop.run_in_executor(self._loaders, self._multi_get, wanted)
        future.add_done_callback(lambda f: self._loads_done(wanted, f))

    def _multi_get(self, wanted: list[tuple[str, bytes, Loaded]]) -> list[bytes | None]:
        values: list[bytes | None] = [None] * len(wanted)
        for family, db in self._families.items():
            places = [i for i, item in enumerate(wanted) if item[0] == family]
            if places:
                found = db.get([wanted[i][1] for i in places])
                for place, value in zip(places, found or (), strict=True):
                    values[place] = value
        return values

    def _loads_done(
        self, wanted: list[tuple[str, bytes, Loaded]], future: "asyncio.Future[list[bytes | None]]"
    ) -> None:
        error = future.exception()
        if error is not None:
            self._break(error)
        if self._broken is not None:
            return
        for (_, _, done), value in zip(wanted, future.result(), strict=True):
            try:
                done(value)
            except DynamoError as caught:
                # A damaged record: whoever asked for it gives up at its deadline,
                # and the others that were loaded with it get theirs.
                log.error("what was read from disk can't be used: %s", caught)

    def scan(
        self, family: str, start: bytes, end: bytes, limit: int, bytes_max: int = 1 << 62
    ) -> list[tuple[bytes, bytes]]:
        """Blocking: up to `limit` pairs with start <= key < end; call it in a thread.

        Raises StorageError for what can't be read: an end that is none would pass
        for the end of the keys.
        """
        if self._broken is not None:
            raise self._unusable()
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        iterator = self._families[family].iter(options)
        try:
            iterator.seek(start)
            while iterator.valid() and len(pairs) < limit and size < bytes_max:
                key, value = iterator.key(), iterator.value()
                pairs.append((key, value))
                size += len(value)
                iterator.next()
            self._check(iterator, family)
        finally:
            del iterator  # an error's traceback would hold it, and it the database
        return pairs

    async def scan_async(
        self, family: str, start: bytes, end: bytes, limit: int, bytes_max: int = 1 << 62
    ) -> list[tuple[bytes, bytes]]:
        """`scan` in a thread; what the present tick wrote isn't seen."""
        self._check_open()
        return await self._loop.run_in_executor(
            self._loaders, self.scan, family, start, end, limit, bytes_max
        )

    async def count(self, family: str) -> int:
        """Exact number of keys now, counted in a thread from a snapshot; or StorageError."""
        self._check_open()
        iterator: RdictIter | None = self._families[family].snapshot().iter()

        def counted() -> int:
            nonlocal iterator
            assert iterator is not None
            try:
                iterator.seek_to_first()
                keys = 0
                while iterator.valid():
                    keys += 1
                    iterator.next()
                    if keys % COUNT_BITE == 0:
                        time.sleep(0)  # the loop waits for the interpreter's lock
                        if self._closed:
                            raise StorageError(f"the store was closed before {family} were counted")
                self._check(iterator, family)
                return keys
            finally:
                iterator = None  # as in `scan`

        return await self._loop.run_in_executor(self._loaders, counted)

    def stored_bytes(self) -> int:
        """About how much the objects take, on disk and in memory; 0 of a closed store.

        What a deleted range took counts until compaction.
        """
        if self._closed or self._broken is not None:
            return 0
        objects = self._families[OBJECTS]
        return sum(objects.property_int_value(name) or 0 for name in STORED_BYTES)

    def _check_open(self) -> None:
        if self._closed or self._broken is not None:
            raise self._unusable()

    def _check(self, iterator: RdictIter, family: str) -> None:
        """An iterator ends at the first damaged block as it does at the last key."""
        try:
            iterator.status()
        except Exception as error:
            # Whatever was read through it may be as wrong: the store is given up.
            del iterator  # as in `scan`
            error = error.with_traceback(None)
            self._loop.call_soon_threadsafe(self._break, error)
            raise meaning(error, f"a part of {family} can't be read", self._path) from error

    # Writing

    def put(self, family: str, key: bytes, value: bytes) -> None:
        """Add to the tick's batch; `commit` tells when it is safe."""
        self._batch.put(key, value, self._handles[family])
        self._overlay[family][key] = value
        self._dirty = True
        if not self._scheduled:
            self._schedule()

    def delete(self, family: str, key: bytes) -> None:
        """Add a deletion to the tick's batch."""
        self._batch.delete(key, self._handles[family])
        self._overlay[family][key] = None
        self._dirty = True
        if not self._scheduled:
            self._schedule()

    def delete_range(self, family: str, start: bytes, end: bytes) -> None:
        """Add the deletion of every start <= key < end; what the tick puts afterwards stays.

        A `load` in flight may still bring what was there: its caller has to know.
        """
        self._batch.delete_range(start, end, self._handles[family])
        self._ranges.append((family, start, end))
        overlay = self._overlay[family]
        for key in [k for k in overlay if start <= k < end]:
            del overlay[key]
        self._dirty = True
        if not self._scheduled:
            self._schedule()

    def commit(self, done: Done, sync: bool = False) -> None:
        """Call `done` once all that was put so far is safe.

        Safe is fsynced, unless the node's durability is `buffered` and `sync`
        isn't asked for: then it is in the WAL, and a process crash keeps it.
        """
        if self._sync or sync:
            self._tick_sync_waiters.append(done)
        else:
            self._tick_waiters.append(done)
        if not self._scheduled:
            self._schedule()

    async def durable(self) -> None:
        """Wait until all that was put so far is fsynced; raises StorageError."""
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        self.commit(done, sync=True)
        await future

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._end_tick)

    def _end_tick(self) -> None:
        if self._broken is not None:
            self._scheduled = False
            self._fail_waiters()
            return
        if self._dirty:
            try:
                for put_more in self.before_write:
                    put_more()
            except Exception as error:  # what belongs together would be written apart
                log.error("what belongs to a write can't be put: %r", error, exc_info=error)
                self._scheduled = False
                self._break(error)
                return
            began = 0.0 if self._sync else time.perf_counter()
            try:
                self._db.write(self._batch, self._write_options)
            except Exception as error:
                if "stall" in str(error).lower():
                    # RocksDB is behind with its compactions: keep the batch and
                    # let the clients wait, not the event loop.
                    self.stalls += 1
                    self._batch = self._batch_again()
                    self._loop.call_later(STALL_RETRY_S, self._end_tick)
                    return
                self._scheduled = False
                self._break(error)
                return
            if not self._sync:
                self.on_commit(time.perf_counter() - began)
            self._batch = WriteBatch(raw_mode=True)
            self._ranges.clear()
            self._dirty = False
            self._written += 1
            for overlay in self._overlay.values():
                if overlay:
                    overlay.clear()
        self._scheduled = False
        if self._tick_waiters:
            waiters, self._tick_waiters = self._tick_waiters, []
            for done in waiters:
                done(None)
        if self._tick_sync_waiters:
            waiters, self._tick_sync_waiters = self._tick_sync_waiters, []
            if self._durable == self._written:  # an idle node syncs nothing again
                for done in waiters:
                    done(None)
            elif self._syncing is not None and self._covered == self._written:
                self._syncing += waiters
            else:
                self._to_sync += waiters
                if self._syncing is None:
                    self._sync_when_due()

    def _batch_again(self) -> WriteBatch:
        """The batch that RocksDB refused: rocksdict empties it all the same."""
        batch = WriteBatch(raw_mode=True)
        for family, start, end in self._ranges:
            batch.delete_range(start, end, self._handles[family])
        for family, overlay in self._overlay.items():
            handle = self._handles[family]
            for key, value in overlay.items():
                if value is None:
                    batch.delete(key, handle)
                else:
                    batch.put(key, value, handle)
        return batch

    def _sync_when_due(self) -> None:
        """Start a sync at once unless one has just been started: then gather a little."""
        self._syncing = []  # from now on others only add to what waits
        due = self._sync_began + GATHER_S
        if self._loop.time() >= due:
            self._start_sync()
        else:
            self._loop.call_at(due, self._start_sync)

    def _start_sync(self) -> None:
        self._sync_began = self._loop.time()
        self._syncing, self._to_sync = self._to_sync, []
        self._covered = self._written
        self._requests.put(True)

    def _flush_forever(self) -> None:
        while self._requests.get():
            error: BaseException | None = None
            began = time.perf_counter()
            try:
                sequence = self._db.latest_sequence_number()
                self._db.flush_wal(True)
                self._synced_note.keep(sequence)
            except Exception as caught:
                error = caught
            try:
                took_s = time.perf_counter() - began
                self._loop.call_soon_threadsafe(self._synced, error, took_s)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _synced(self, error: BaseException | None, took_s: float) -> None:
        waiters, self._syncing = self._syncing or [], None
        if error is not None:
            self._to_sync = waiters + self._to_sync
            self._break(error)
            return
        if self._sync:
            self.on_commit(took_s)
        self._durable = self._covered
        for done in waiters:
            done(None)
        if self._to_sync:
            self._sync_when_due()

    @property
    def dirty(self) -> bool:
        """Whether the running tick has put anything: a snapshot now would lack it."""
        return self._dirty

    # Failing and closing

    def _break(self, cause: BaseException) -> None:
        if self._broken is None:
            self._broken = meaning(cause, "the store failed", self._path)
            # Its traceback holds frames, and they what holds the database open.
            self._broken.__cause__ = cause.with_traceback(None)
            self.on_broken(self._broken)
        self._fail_waiters()

    def _fail_waiters(self) -> None:
        waiters = self._tick_waiters + self._tick_sync_waiters + self._to_sync
        self._tick_waiters, self._tick_sync_waiters, self._to_sync = [], [], []
        for done in waiters:
            done(self._broken)

    def _unusable(self) -> StorageError:
        """A fresh error for each who asks: one that is raised again and again grows."""
        broken = self._broken
        return StorageError("the store is closed") if broken is None else type(broken)(str(broken))

    @property
    def broken(self) -> StorageError | None:
        """Why this store can't be used any more, if so."""
        return self._broken

    async def close(self) -> None:
        """Make everything durable and close, whatever fails; safe to call twice.

        Raises StorageError if something fails that wasn't known before. Afterwards the
        folder can be opened again in this process.
        """
        if self._closed:
            return
        known, trouble = self._broken, None
        if known is None:
            try:
                await self.durable()
            except StorageError as error:
                trouble = error
        self._closed = True
        self._requests.put(False)
        off_loop = partial(self._loop.run_in_executor, None)
        await off_loop(self._flusher.join)
        await off_loop(partial(self._loaders.shutdown, wait=True))
        # Each of them holds the database open, and its lock with it.
        self._families, self._handles = _Shut(), _Shut()
        self._batch = WriteBatch(raw_mode=True)
        self._synced_note.close()
        try:
            await off_loop(self._db.close)
        except Exception as error:
            if known is None and trouble is None:
                trouble = StorageError(f"the store can't be closed: {error}")
                trouble.__cause__ = error.with_traceback(None)
        if self._broken is None:
            self._broken = StorageError("the store is closed")
        if trouble is not None:
            raise trouble


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b"\xff" * 64
