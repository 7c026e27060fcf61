"""Supervisor: one process, and one incarnation of its node after another.

Owns what follows from a disk that fails (design: after a failed write or sync
nothing in memory is trusted): the incarnation ends, its store is closed without
the marker of a clean end, and the disk is opened again, tried for ever with
bounded pauses. Meanwhile the doors say why nobody is served. A disk whose content
turns out damaged while it is used stays closed: each new incarnation would meet
the same damage. And the order of a wanted end: tell, drain, finish, close.

Forbidden here: ports, signals and RocksDB; the simulator runs it as it stands.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dynamo_core.errors import CallerError, DynamoError
from dynamo_node.config import Config
from dynamo_node.node import Node, start_node
from dynamo_node.opening import DamagedError, LockedError, StorageError
from dynamo_node.outside import REAL, Outside

log = logging.getLogger(__name__)

PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 5.0
STEADY_S: Final = 60.0
"""After an incarnation that lived so long the pauses begin anew with the shortest."""
FINISH_S: Final = 5.0
FAILED_FINISH_S: Final = 1.0
"""How long operations may still be answered by other owners once the disk has failed."""
OWN_LOCK_TRIES: Final = 20
"""Tries at a store that this very process doesn't let go of; a new process can open it."""
TOLD_EVERY: Final = 60
"""Of the tries that fail for the same reason, how often one is logged."""


@dataclass(slots=True)
class Trouble:
    """Why there is no node now; times are the loop's."""

    error: DynamoError
    began: float
    last: dict[str, Any] | None
    """What the last incarnation said of itself; None when this process never had one."""
    final: bool = False
    """Whether the disk isn't tried again: another one and a new start are needed."""
    tries: int = 0


class Doors(Protocol):
    """How the world reaches the node: `main` has ports, the simulator its network."""

    async def serve(self, node: Node) -> None:
        """From now on this node answers; raises CallerError for a door that can't be had."""

    async def refuse(self, trouble: Trouble) -> None:
        """From now on everybody is told the trouble, which changes in place."""

    async def shut(self) -> None:
        """From now on nobody comes in: the process ends."""

    async def leave(self) -> None:
        """End the connections that name the incarnation served last."""


class Supervisor:
    """One per process."""

    def __init__(self, config: Config, doors: Doors, outside: Outside = REAL) -> None:
        self._config = config
        self._doors = doors
        self._outside = outside
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._node: Node | None = None
        self._pause_s = PAUSE_S

    def stop(self) -> None:
        """End soon and cleanly; may be called again."""
        self._stop.set()
        if self._node is not None:
            self._node.stopped.set()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises CallerError for a start that only a person can mend, StorageError for an
        end without a store, or without the marker of a clean end.
        """
        trouble: Trouble | None = None
        while True:
            node = await self._opened(trouble)
            self._node = node
            began = self._loop.time()
            try:
                await self._doors.serve(node)
            except BaseException:
                await node.stop()
                raise
            if self._stop.is_set():
                node.stopped.set()
            await node.stopped.wait()
            if node.failure is None:
                await self._end(node)
                return
            now = self._loop.time()
            if now - began >= STEADY_S:
                self._pause_s = PAUSE_S
            damaged = isinstance(node.failure, DamagedError)
            trouble = Trouble(node.failure, now, node.status(), final=damaged)
            self._node = None
            await self._abandon(node, trouble)
            del node

    async def _opened(self, trouble: Trouble | None) -> Node:
        """A node on the disk, as soon as there is one."""
        if trouble is not None:
            await self._pause(trouble)
        while True:
            reopened = trouble is not None and trouble.last is not None
            try:
                node = await start_node(self._config, self._outside, reopened)
            except (CallerError, StorageError) as error:
                if isinstance(error, CallerError) and not reopened:
                    raise
                first = trouble is None
                if trouble is None:
                    trouble = Trouble(error, self._loop.time(), None)
                self._note(trouble, error)
                if isinstance(error, LockedError) and trouble.tries >= OWN_LOCK_TRIES:
                    raise StorageError(str(error)) from None
                if first:
                    await self._doors.refuse(trouble)
            else:
                if trouble is not None:
                    waited = self._loop.time() - trouble.began
                    log.warning("the disk works again after %.1f s", waited)
                return node
            await self._pause(trouble)

    def _note(self, trouble: Trouble, error: DynamoError) -> None:
        again = trouble.tries > 0 and str(error) == str(trouble.error)
        if not again or trouble.tries % TOLD_EVERY == 0:
            log.error("no store, trying again: %s", error)
        trouble.tries += 1
        # Its traceback would keep what a failed start has made.
        trouble.error = error.with_traceback(None)

    async def _pause(self, trouble: Trouble) -> None:
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, PAUSE_S_MAX)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if trouble.final else pause):
                await self._stop.wait()
        if self._stop.is_set():
            raise StorageError(f"ended without a store: {trouble.error}")

    async def _abandon(self, node: Node, trouble: Trouble) -> None:
        """End an incarnation whose disk has failed."""
        await self._doors.refuse(trouble)
        await self._doors.leave()
        await self._finish(node, FAILED_FINISH_S)
        with suppress(StorageError):  # it is known already, and told
            await node.stop()

    async def _end(self, node: Node) -> None:
        node.stopping = True
        log.info("stopping: draining for %d ms", self._config.timing.drain_ms)
        node.gossip.tell_all()
        await asyncio.sleep(self._config.timing.drain_ms / 1000)
        await self._doors.shut()
        await self._finish(node, FINISH_S)
        await self._doors.leave()
        await node.stop()
        if node.failure is not None:
            raise StorageError(f"no clean end: {node.failure}")
        log.info("stopped")

    async def _finish(self, node: Node, seconds: float) -> None:
        """Let what is in flight be answered, and leave hints for owners that are silent."""
        until = self._loop.time() + seconds
        while node.coordinator.busy and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
