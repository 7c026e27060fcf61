"""Links: the connections that this node opens to its peers, one for each.

Owns dialling with backoff, the calling side of the handshake, matching replies
to requests, and what traffic says about a peer's health (P§4.8.3: detection is
local and driven by traffic). A peer is used when its link is up, not congested
and not silent; whoever fails is tried again for ever.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.frames import (
    FRAME_BYTES_MAX,
    NO_DEADLINE,
    NO_RING,
    Frame,
    RingName,
    pack_frame,
)
from dynamo_core.handshake import Caller, Identity, ReplacedError
from dynamo_core.ring import Member
from dynamo_core.wire import Type
from dynamo_node.framing import FramedProtocol
from dynamo_node.names import Names, NotFoundError
from dynamo_node.outside import REAL

log = logging.getLogger(__name__)

LOST: Final = 0
"""The type that a reply callback gets when the link went down instead."""

OnReply: TypeAlias = Callable[[int, bytes], None]

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
DIAL_TIMEOUT_S: Final = 2.0
DROP_FACTOR: Final = 5
"""Suspect times of silence, without a byte either way, after which a connection is given up:
whatever eats its packets may leave a new one alone, and else the peer is known to be down."""
STEADY_S: Final = 2.0
"""A connection that ends sooner doesn't start the backoff anew."""
FLAP_S: Final = 30.0
"""A peer that is suspected again within so long after the last time is trusted later."""
PROBATION_MAX_S: Final = 8.0
REQUESTS_MAX: Final = 100_000
PAYLOAD_BYTES_MAX: Final = FRAME_BYTES_MAX - 1024
"""Longest payload that is sent: a longer frame would end the connection for everybody."""


class _Connection(FramedProtocol):
    """The calling end of one connection."""

    def __init__(self, link: "Link") -> None:
        super().__init__()
        self._link = link
        self.identity = link.identity()
        self._caller = Caller(self.identity, link.member.name, link.nonce())
        self.ready: asyncio.Future[bytes] = self.loop.create_future()

    def opened(self) -> None:
        self._say(Type.HELLO, self._caller.hello())

    def frame_received(self, frame: Frame) -> None:
        if frame.type == Type.CHALLENGE:
            try:
                self._say(Type.PROOF, self._caller.challenge(frame.payload))
            except CallerError as error:
                self._fail(error)
        elif frame.type == Type.WELCOME and self._caller.incarnation and not self.ready.done():
            # Only a CHALLENGE with the right proof has set the incarnation.
            self.peer_is_known()
            # From now on every frame is a reply.
            self.frame_received = self._link.reply_received  # type: ignore[method-assign]
            self.ready.set_result(self._caller.incarnation)
        elif frame.type == Type.REPLACED and self._caller.incarnation:
            self._fail(ReplacedError(frame.payload.decode(errors="replace")))
        elif frame.type == Type.REFUSED:
            self._fail(CallerError(frame.payload.decode(errors="replace")))
        else:
            raise Corrupt(f"a frame of type {frame.type} during the handshake")

    def closed(self, error: BaseException | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("closed during the handshake"))
            self.ready.exception()  # retrieved: the dialler may have given up
        self._link.connection_closed(self)

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of an unfinished frame that came, and bytes that wait to leave."""
        waiting = 0 if self.transport is None else self.transport.get_write_buffer_size()
        return self.reader.unfinished_bytes, waiting

    def _say(self, kind: Type, payload: bytes) -> None:
        self.send(pack_frame(kind, 0, NO_DEADLINE, NO_RING, payload))

    def _fail(self, error: BaseException) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        self.abort()


class Link:
    """All this node has to do with one peer; `identity` is asked at each dial."""

    def __init__(
        self,
        member: Member,
        identity: Callable[[], Identity],
        ring_name: Callable[[], RingName],
        suspect_s: float,
        nonce: Callable[[], bytes] = lambda: REAL.random_bytes(16),
        addresses: Callable[[str], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        """`addresses` of a host are asked for at each dial too; see `Names`."""
        self.member = member
        self.identity = identity
        self.nonce = nonce
        self._addresses = addresses or Names(REAL.look_up).addresses
        self.incarnation = b""
        self.refusal = ""
        """Why the peer isn't found, or it or what answers at its address was refused last."""
        self.on_up: Callable[[Link], None] = lambda link: None
        self.on_replaced: Callable[[bytes], None] = lambda incarnation: None
        """Told which incarnation of ours the peer takes for replaced."""
        self._ring_name = ring_name
        self._suspect_s = suspect_s
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._waiting: dict[int, OnReply] = {}
        self._next_id = 1
        self.replies = 0
        """Frames received after the handshake: whether a peer is idle shows in it."""
        self._silent_since: float | None = None
        self._progress = (0, 0)
        self._moved_at = 0.0
        self._suspect = False
        self._suspected_at = -FLAP_S
        self._probation_s = 0.0
        self._trusted_from = 0.0
        self._dialler: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    # Using

    @property
    def up(self) -> bool:
        """Whether a connection stands."""
        return self._connection is not None

    @property
    def healthy(self) -> bool:
        """Whether requests should go here first."""
        connection = self._connection
        return connection is not None and not self._suspect and not connection.congested

    @property
    def state(self) -> str:
        """`up`, `suspect` (silent or congested) or `down`, as this node sees it."""
        return "down" if not self.up else "up" if self.healthy else "suspect"

    def request(
        self, kind: int, payload: bytes, remaining_ms: int, on_reply: OnReply, trace: bytes = b""
    ) -> int:
        """Send a request; `on_reply(type, payload)` is called once, with LOST at the worst.

        The reply may come after the deadline; whoever stops waiting says so
        with `forget`. Returns the request id, 0 when nothing was sent.
        """
        connection = self._connection
        if (
            connection is None
            or connection.congested
            or len(self._waiting) >= REQUESTS_MAX
            or remaining_ms <= 0
            or len(payload) > PAYLOAD_BYTES_MAX
        ):
            # Not at once: the caller is still busy sending to the others.
            self._loop.call_soon(on_reply, LOST, b"")
            return 0
        request_id = self._next_id
        self._next_id = request_id + 1 if request_id < 0xFFFFFFFF else 1
        self._waiting[request_id] = on_reply
        if self._silent_since is None:
            self._silent_since = self._loop.time()
        connection.send(
            pack_frame(kind, request_id, remaining_ms, self._ring_name(), payload, trace)
        )
        return request_id

    def forget(self, request_id: int) -> None:
        """Nobody waits for that reply any more."""
        self._waiting.pop(request_id, None)

    async def ask(
        self, kind: int, payload: bytes, timeout_s: float, trace: bytes = b""
    ) -> tuple[int, bytes]:
        """`request` as a coroutine; (LOST, b"") when no reply came in time."""
        future: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()

        def reply(got: int, data: bytes) -> None:
            if not future.done():
                future.set_result((got, data))

        request_id = self.request(kind, payload, max(1, int(timeout_s * 1000)), reply, trace)
        try:
            # Not wait_for: that loses a cancellation which comes together with the reply.
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return LOST, b""
        finally:
            self.forget(request_id)

    def check(self, now: float, late_s: float) -> None:
        """Look at the silence; `late_s` is how late this check itself came.

        A loop that lagged has not read what its peers sent: it doubts itself
        first and gives them that time again.
        """
        if self._suspect and self._silent_since is None and now >= self._trusted_from:
            self._trust()
        if self._silent_since is None:
            return
        self._silent_since = min(now, self._silent_since + late_s)
        if now - self._silent_since <= self._suspect_s:
            return
        connection = self._connection
        if not self._suspect or connection is None:
            self._suspected(now)
            return
        # Part of a long frame that comes, or of one that leaves, is a sign of life too.
        progress = connection.progress
        if progress[0] != self._progress[0] or progress[1] < self._progress[1]:
            self._moved_at = now
        self._progress = progress
        silent_s = now - max(self._silent_since, min(now, self._moved_at + late_s))
        if silent_s > DROP_FACTOR * self._suspect_s:
            log.warning("peer %s said nothing for %.1f s, dialled anew", self.member.name, silent_s)
            connection.abort()

    def _suspected(self, now: float) -> None:
        if self._suspect:
            return
        self._suspect = True
        self._moved_at = 0.0
        # Once is an accident and forgiven with the first answer; who does it again and
        # again would cost somebody a wait each time.
        if now - self._suspected_at < FLAP_S:
            self._probation_s = min(PROBATION_MAX_S, max(self._suspect_s, 2 * self._probation_s))
        else:
            self._probation_s = 0.0
        self._suspected_at = now
        log.warning("peer %s is silent, suspected", self.member.name)

    def _trust(self) -> None:
        self._suspect = False
        log.info("peer %s answers again", self.member.name)

    # Connecting

    @property
    def started(self) -> bool:
        return self._dialler is not None

    def start(self) -> None:
        self._dialler = self._loop.create_task(self._dial_forever())

    def close(self) -> None:
        """Dial no more, and end the connection once what is queued has left."""
        if self._dialler is not None:
            self._dialler.cancel()
        if self._connection is not None:
            self._connection.close_soon()

    async def stop(self) -> None:
        """`close`; returns when nothing of it runs any more."""
        self.close()
        if self._dialler is not None:
            await asyncio.gather(self._dialler, return_exceptions=True)

    def dial_now(self) -> None:
        """The peer has just called: it is worth a try before the backoff ends."""
        self._wake.set()

    def reconnect(self) -> None:
        """Drop the connection and open another, e.g. under a new incarnation."""
        if self._connection is not None:
            self._connection.abort()
        self._wake.set()

    async def _dial_forever(self) -> None:
        backoff = BACKOFF_FIRST_S
        while True:
            self._wake.clear()
            connection: _Connection | None = None
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    connection = await self._opened()
                    incarnation = await connection.ready
            except (OSError, TimeoutError, CallerError, Corrupt) as error:
                if connection is not None:
                    connection.abort()
                told = isinstance(error, CallerError | NotFoundError)
                if told and str(error) != self.refusal:
                    self.refusal = str(error)
                    log.warning("peer %s: %s", self.member.name, error)
                if isinstance(error, ReplacedError) and connection is not None:
                    self.on_replaced(connection.identity.incarnation)
            except asyncio.CancelledError:
                # The process may go on: a handshake that ended later would name an
                # incarnation that is no more, and have the living one refused.
                if connection is not None:
                    connection.abort()
                raise
            else:
                began = self._loop.time()
                self._connected(connection, incarnation)
                while self._connection is connection:
                    await self._wake.wait()
                    self._wake.clear()
                if self._loop.time() - began >= STEADY_S:
                    backoff = BACKOFF_FIRST_S
            try:
                async with asyncio.timeout(backoff):
                    await self._wake.wait()
            except TimeoutError:
                backoff = min(BACKOFF_MAX_S, backoff * 2)

    async def _opened(self) -> _Connection:
        """A connection to the first of the peer's present addresses that takes one."""
        addresses = list(await self._addresses(self.member.host))
        port = self.member.native_port
        while True:
            # None may use up the time of those behind it.
            alone = len(addresses) == 1
            share_s = None if alone else DIAL_TIMEOUT_S / 2 / len(addresses)
            try:
                async with asyncio.timeout(share_s):
                    _, connection = await self._loop.create_connection(
                        lambda: _Connection(self), addresses[0], port
                    )
                    return connection
            except (OSError, TimeoutError):
                if alone:
                    raise
                del addresses[0]

    def _connected(self, connection: _Connection, incarnation: bytes) -> None:
        if connection.transport is None:  # closed right after its welcome
            return
        if connection.identity != self.identity():  # it changed while we dialled
            connection.abort()
            return
        self._connection = connection
        self._silent_since = None
        self._suspect = False
        self.refusal = ""
        self.incarnation = incarnation
        log.info("peer %s is up, incarnation %s", self.member.name, incarnation.hex())
        self.on_up(self)

    def connection_closed(self, connection: _Connection) -> None:
        """Called by the connection; fails all that wait for a reply on it."""
        if self._connection is not connection:
            return
        self._connection = None
        self._silent_since = None
        log.warning("peer %s is down", self.member.name)
        waiting, self._waiting = self._waiting, {}
        self._wake.set()
        for on_reply in waiting.values():
            try:
                on_reply(LOST, b"")
            except Exception as error:  # the others have to be told all the same
                log.error("a request to %s failed: %r", self.member.name, error, exc_info=error)

    def reply_received(self, frame: Frame) -> None:
        """Called by the connection for every frame after the handshake."""
        self.replies += 1
        if self._suspect:
            now = self._loop.time()
            if self._trusted_from <= self._suspected_at:
                self._trusted_from = now + self._probation_s
            if now >= self._trusted_from:
                self._trust()
        on_reply = self._waiting.pop(frame.request_id, None)
        self._silent_since = self._loop.time() if self._waiting else None
        if on_reply is not None:
            on_reply(frame.type, frame.payload)
