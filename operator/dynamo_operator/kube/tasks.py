"""One task per DynamoCluster: started, woken, restarted, cancelled, watched over.

Owns which clusters exist as far as the watch has told, the task of each, its
resync and its backoff, and the judgement whether passes and watch are alive.
Pure asyncio: no Kubernetes, no kopf. All times are the loop's. Forbidden: what a
pass does.

Nothing here has to be right for the store to be safe: an event that gets lost
costs one resync, a task too many finds that its object is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol
from zlib import crc32

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
STALE_RESYNCS: Final = 4  # resyncs without a pass, or unknown to the watch: something hangs
CLOSE_S: Final = 10.0  # what passes get to end, once they are told to
GONE_MAX: Final = 10_000  # uids that are remembered as gone; late events may still name them


class Reconciler(Protocol):
    """What makes the passes over one cluster."""

    async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
        """Passes until cancelled; one at once, then one whenever `woken` is set.

        It clears `woken` as a pass begins: by that it is seen to live. It returns when
        the object of this uid is gone. What it raises is logged, and it is called again.
        """


@dataclass(frozen=True, slots=True)
class Seen:
    """A DynamoCluster as an event or a list tells of it.

    Of what can change, only what people write: a status that a pass has written is no
    reason for another pass.
    """

    namespace: str
    name: str
    uid: str
    generation: int  # of the spec
    annotations: tuple[tuple[str, str], ...] = ()  # sorted
    deleting: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    seen: Seen
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    resync: asyncio.TimerHandle | None = None
    woken_at: float | None = None  # since when `woken` has been set, looked at at resyncs
    failures: int = 0
    retry_at: float | None = None  # while it waits after a failure
    hurry: asyncio.Event = field(default_factory=asyncio.Event)  # ends that wait
    watched: int = 0  # the highest generation that the watch has told of; 0: none
    unwatched_at: float | None = None  # since when a list knows more than the watch


class Tasks:
    """The table. Only one task at a time acts for a namespace and name."""

    def __init__(self, reconciler: Reconciler, *, resync_s: float) -> None:
        self._reconciler = reconciler
        self._resync_s = resync_s
        self._loop = asyncio.get_running_loop()
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._ending: dict[tuple[str, str], set[asyncio.Task[None]]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._closed = False

    def tell(self, seen: Seen) -> None:
        """The watch tells that this object exists, or has changed."""
        entry = self._note(seen)
        if entry is not None:
            entry.watched = max(entry.watched, seen.generation)
            entry.unwatched_at = None

    def tell_gone(self, namespace: str, name: str, uid: str) -> None:
        """The watch tells that this object is gone."""
        entry = self._entries.get((namespace, name))
        if entry is not None and entry.seen.uid == uid:
            self._end(entry)
        self._remember_gone(uid)

    def wake(self, namespace: str, name: str) -> None:
        """Something that belongs to this cluster has changed."""
        entry = self._entries.get((namespace, name))
        if entry is not None:
            self._wake(entry)

    def uids(self) -> frozenset[str]:
        """Of the clusters that have a task."""
        return frozenset(entry.seen.uid for entry in self._entries.values())

    def audit(self, listed: Iterable[Seen], known_before: frozenset[str]) -> None:
        """Compares with a complete list, so that no event is relied upon.

        known_before: `uids()` as it was before the list was asked for. An object that the
        list has and the watch doesn't tell of for long is a sign that the watch is dead.
        """
        now = self._loop.time()
        by_uid = {seen.uid: seen for seen in listed}
        for known in [entry.seen for entry in self._entries.values()]:
            if known.uid in known_before and known.uid not in by_uid:
                self.tell_gone(known.namespace, known.name, known.uid)
        for seen in by_uid.values():
            entry = self._note(seen)
            if entry is not None and seen.generation > entry.watched:
                entry.unwatched_at = now if entry.unwatched_at is None else entry.unwatched_at

    def hanging(self) -> list[str]:
        """What has stopped, in words; empty while all is well."""
        limit_s, now = STALE_RESYNCS * self._resync_s, self._loop.time()
        found = []
        for (namespace, name), entry in self._entries.items():
            if entry.woken.is_set() and entry.retry_at is None and entry.woken_at is not None:
                since_s = now - entry.woken_at
                if since_s > limit_s:
                    found.append(f"no pass over {namespace}/{name} for {since_s:.0f} s")
            if entry.unwatched_at is not None and now - entry.unwatched_at > limit_s:
                found.append(f"the watch doesn't tell of {namespace}/{name}")
        return found

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
        self._closed = True
        for entry in list(self._entries.values()):
            self._end(entry)
        ending = {task for tasks in self._ending.values() for task in tasks}
        if ending:
            _, hanging = await asyncio.wait(ending, timeout=CLOSE_S)
            for task in hanging:
                log.error("%s doesn't end", task.get_name())

    def _note(self, seen: Seen) -> _Entry | None:
        """The entry of an object that exists, made if need be; None if it is going or gone."""
        if seen.uid in self._gone or self._closed:
            return None
        if seen.deleting:  # what was made for it is the garbage collector's now
            self.tell_gone(seen.namespace, seen.name, seen.uid)
            return None
        key = (seen.namespace, seen.name)
        entry = self._entries.get(key)
        if entry is not None and entry.seen.uid != seen.uid:
            self.tell_gone(*key, entry.seen.uid)  # no name is taken before it is free
            entry = None
        if entry is None:
            entry = self._entries[key] = _Entry(seen)
            entry.task = asyncio.create_task(
                self._supervise(entry, frozenset(self._ending.get(key, ()))),
                name=f"cluster {'/'.join(key)}",
            )
            phase = crc32(seen.uid.encode()) / 2**32  # spreads those that start together
            entry.resync = self._loop.call_later(
                self._resync_s * (0.5 + phase / 2), self._resync, entry
            )
        elif seen != entry.seen and seen.generation >= entry.seen.generation:
            entry.seen, entry.failures = seen, 0
            entry.hurry.set()
            self._wake(entry)
        return entry

    def _wake(self, entry: _Entry) -> None:
        if not entry.woken.is_set():
            entry.woken.set()
            entry.woken_at = self._loop.time()

    def _resync(self, entry: _Entry) -> None:
        self._wake(entry)
        entry.resync = self._loop.call_later(self._resync_s, self._resync, entry)

    def _end(self, entry: _Entry) -> None:
        key = (entry.seen.namespace, entry.seen.name)
        del self._entries[key]
        if entry.resync is not None:
            entry.resync.cancel()
        task = entry.task
        if task is not None and not task.done():
            task.cancel()
            self._ending.setdefault(key, set()).add(task)
            task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        ending = self._ending[key]
        ending.discard(task)
        if not ending:
            del self._ending[key]

    def _remember_gone(self, uid: str) -> None:
        self._gone[uid] = None
        while len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    async def _supervise(self, entry: _Entry, before: frozenset[asyncio.Task[None]]) -> None:
        """The life of one task: after its predecessors' have ended, again after a failure."""
        seen = entry.seen
        if before:
            await asyncio.wait(before)
        while True:
            began = self._loop.time()
            try:
                await self._reconciler.run(seen.namespace, seen.name, seen.uid, entry.woken)
            except Exception as error:  # whatever it is: this cluster again, and the others on
                if self._loop.time() - began > BACKOFF_MAX_S:
                    entry.failures = 0
                await self._back_off(entry, error)
            else:
                self._forget(entry)
                return

    async def _back_off(self, entry: _Entry, error: Exception) -> None:
        pause_s = min(BACKOFF_FIRST_S * 2**entry.failures, BACKOFF_MAX_S)
        entry.failures = min(entry.failures + 1, 10)
        place = f"{entry.seen.namespace}/{entry.seen.name}"
        log.error("%s: %s; again in %.0f s", place, error or repr(error), pause_s, exc_info=error)
        entry.hurry.clear()
        entry.retry_at = self._loop.time() + pause_s
        try:
            async with asyncio.timeout_at(entry.retry_at):
                await entry.hurry.wait()  # by an edit of the spec
        except TimeoutError:
            pass
        entry.retry_at = None
        entry.woken_at = self._loop.time()

    def _forget(self, entry: _Entry) -> None:
        """Its object is gone, as its own pass has found."""
        key = (entry.seen.namespace, entry.seen.name)
        if self._entries.get(key) is entry:
            if entry.resync is not None:
                entry.resync.cancel()
            del self._entries[key]
            self._remember_gone(entry.seen.uid)
