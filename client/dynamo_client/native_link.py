"""One connection to one node in the native protocol, kept up for as long as it is wanted.

Owns dialling with backoff, matching replies to requests, deadlines, and the
bound on what is in flight. Forbidden here: bytes on the wire
(`native_connection`), what requests mean (`native_transport`), and the choice
of node.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dynamo_client.errors import Unreachable
from dynamo_client.native_connection import Connection
from dynamo_client.spans import outgoing
from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.frames import NO_RING, Frame, RingName, pack_frame

IN_FLIGHT_MAX: Final = 4096
_BACKOFF_FIRST_S: Final = 0.05
_BACKOFF_MAX_S: Final = 5.0
_DIAL_TIMEOUT_S: Final = 2.0
_SWEEP_S: Final = 0.05
SILENCE_S: Final = 2.0
"""A connection that owes answers and says nothing for so long is given up."""

# Outcomes of a request that no frame answered; frame types are above zero.
_LOST: Final = 0
_EXPIRED: Final = -1


@dataclass(slots=True)
class Cluster:
    """What all links of a client share: which cluster they mean, and the ring it is known by."""

    id: bytes = bytes(16)
    ring_name: RingName = NO_RING
    on_newer_ring: Callable[[], None] = field(default=lambda: None)


class Link:
    """All this client has to do with one node; made inside a running event loop.

    `node` is the URL that errors name, `target` the node's own name: whoever
    else answers at the address is refused.
    """

    def __init__(self, node: str, host: str, port: int, target: str, cluster: Cluster) -> None:
        self.node = node
        self.address = (host, port)
        self.target = target
        self.cluster = cluster
        self.trouble = "no connection yet"
        """Why there is no connection, for people."""
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has ended, well or not."""
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._waiting: dict[int, tuple[asyncio.Future[tuple[int, bytes]], float]] = {}
        self._next_id = 1
        self._heard = 0.0
        self._sweeping = False
        self._room = asyncio.Event()
        self._wake = asyncio.Event()
        self._dialler = self._loop.create_task(self._dial_forever())

    @property
    def is_up(self) -> bool:
        """Whether a connection stands."""
        return self._connection is not None

    async def ask(
        self, kind: int, payload: bytes, timeout_ms: int, node_ms: int, *, writes: bool = False
    ) -> tuple[int, bytes]:
        """Send a request and wait for its reply: (frame type, payload).

        The node is given `node_ms` of the `timeout_ms`. Unreachable if no reply
        came; its `maybe_done` is true for a write that was sent.
        """
        loop = self._loop
        now = loop.time()
        deadline = now + timeout_ms / 1000
        connection = self._connection
        if connection is None or connection.congested or len(self._waiting) >= IN_FLIGHT_MAX:
            connection = await self._free_connection(deadline)
            now = loop.time()
            node_ms = max(1, node_ms - timeout_ms + int((deadline - now) * 1000))
        request_id = self._next_id
        self._next_id = request_id + 1 if request_id < 0xFFFFFFFF else 1
        future: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        if not self._waiting:
            self._heard = now
        self._waiting[request_id] = (future, deadline)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP_S, self._sweep, now + _SWEEP_S)
        trace, ring_name = outgoing(), self.cluster.ring_name
        context = b"" if trace is None else trace.to_bytes()
        connection.send(pack_frame(kind, request_id, node_ms, ring_name, payload, context))
        try:
            reply = await future
        except asyncio.CancelledError:
            self._waiting.pop(request_id, None)
            raise
        if reply[0] > 0:
            return reply
        if reply[0] == _EXPIRED:
            why, how = f"no answer within {timeout_ms} ms", "timeout"
        else:
            why, how = f"the native connection was lost ({self.trouble})", "broken"
        raise Unreachable(f"{self.node}: {why}", node=self.node, kind=how, maybe_done=writes)

    async def close(self) -> None:
        """End the connection and the dialling; requests in flight fail."""
        self._dialler.cancel()
        await asyncio.gather(self._dialler, return_exceptions=True)
        if self._connection is not None:
            self.trouble = "closed"
            self._connection.abort()

    # For the connection: see `native_connection.Owner`

    def replied(self, frame: Frame) -> None:
        """A frame after the handshake came."""
        found = self._waiting.pop(frame.request_id, None)
        self._heard = self._loop.time()
        cluster = self.cluster
        if frame.epoch >= cluster.ring_name[0] and (
            (frame.epoch, frame.ring_id) > cluster.ring_name
        ):
            cluster.on_newer_ring()
        if found is not None:
            if not found[0].done():
                found[0].set_result((frame.type, frame.payload))
            if not self._room.is_set() and len(self._waiting) < IN_FLIGHT_MAX:
                self._room.set()

    def room(self) -> None:
        """The connection takes bytes again."""
        self._room.set()

    def lost(self, connection: Connection, why: str) -> None:
        """The connection is gone: whoever waits for a reply learns it."""
        if self._connection is not connection:
            return
        self._connection = None
        self.trouble = why
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_result((_LOST, b""))
        self._room.set()
        self._wake.set()

    # Waiting

    async def _free_connection(self, deadline: float) -> Connection:
        """The connection, once it takes another request."""
        while True:
            connection = self._connection
            if connection is None:
                raise Unreachable(
                    f"{self.node}: no native connection ({self.trouble})",
                    node=self.node,
                    kind="no-connection",
                )
            if not connection.congested and len(self._waiting) < IN_FLIGHT_MAX:
                return connection
            self._room.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._room.wait()
            except TimeoutError:
                raise Unreachable(
                    f"{self.node}: too much is in flight to send more in time",
                    node=self.node,
                    kind="timeout",
                ) from None

    def _sweep(self, due: float) -> None:
        """Fail what is over its deadline; one timer for all is cheaper than one for each."""
        now = self._loop.time()
        # A loop that lagged has not read what was sent: it doubts itself first.
        self._heard = min(now, self._heard + max(0.0, now - due))
        late = [number for number, (_, deadline) in self._waiting.items() if deadline <= now]
        for number in late:
            future, _ = self._waiting.pop(number)
            if not future.done():
                future.set_result((_EXPIRED, b""))
        if (self._waiting or late) and now - self._heard > SILENCE_S and self._connection:
            self._connection.abort("it had gone silent")
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            self._loop.call_later(_SWEEP_S, self._sweep, now + _SWEEP_S)

    # Connecting

    async def _dial_forever(self) -> None:
        backoff = _BACKOFF_FIRST_S
        while True:
            self._wake.clear()
            if await self._dial():
                backoff = _BACKOFF_FIRST_S
                self.tried.set()
                while self.is_up:
                    await self._wake.wait()
                    self._wake.clear()
            self.tried.set()
            # Spread, so that a node that returns isn't called by all at once.
            await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311
            backoff = min(_BACKOFF_MAX_S, backoff * 2)

    async def _dial(self) -> bool:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self, self.target, self.cluster.id), *self.address
                )
                caller = await connection.welcomed
            cluster = self.cluster
            if cluster.id not in (bytes(16), caller.cluster_id):
                # Another link learned the cluster in the meantime, and it is another one.
                raise CallerError(f"the node there is of cluster {caller.cluster_id.hex()}")
            if connection.transport is None:
                raise ConnectionError("closed right after its welcome")
        except (OSError, TimeoutError, CallerError, Corrupt) as error:
            self.trouble = str(error) or "no answer to the handshake in time"
            if connection is not None:
                connection.abort()
            return False
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
            raise
        cluster.id = caller.cluster_id
        self._connection = connection
        return True
