"""Inbound: the native connections that others open to this node (port 7070).

Owns the accepting side of the handshake and what each role may send. A wrong
cluster, target, key or a frame that the caller's role may not send ends the
connection. What requests do belongs to `service`.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, Protocol

from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.frames import NO_DEADLINE, Frame, RingName, pack_frame
from dynamo_core.handshake import ROLE_CLIENT, Acceptor, Hello, Identity, ReplacedError
from dynamo_core.wire import FROM_CLIENTS, Type
from dynamo_node.framing import FramedProtocol

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
KEEPALIVE: Final = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 60,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}
"""Seconds and tries after which a client that went dark no longer holds its connection."""
CLIENTS_MAX: Final = 4096
CONNECTIONS_MAX: Final = CLIENTS_MAX + 2048
"""Of all roles: clients, who prove nothing, can't take what nodes need to reach each other."""


class Dispatch(Protocol):
    """What `Inbound` needs of the node: see `service.Service`."""

    def identity(self) -> Identity: ...
    def nonce(self) -> bytes: ...
    def ring_name(self) -> RingName: ...
    def is_replaced(self, number: int, name: str, incarnation: bytes) -> bool: ...
    def peer_called(self, hello: Hello) -> None: ...

    def peer_spoke(self, hello: Hello) -> None: ...
    def client_frame_bytes_max(self) -> int: ...
    def handle(self, caller: "Inbound", frame: Frame) -> None: ...


class Inbound(FramedProtocol):
    """The accepting end of one connection."""

    def __init__(self, service: Dispatch, connections: "set[Inbound]") -> None:
        super().__init__()
        self._service = service
        self._connections = connections
        self._acceptor: Acceptor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._spoke = False
        """Whether a node has sent something since it was welcomed."""
        self.hello: Hello | None = None
        self._peer = ""

    @property
    def is_client(self) -> bool:
        return self.hello is not None and self.hello.role == ROLE_CLIENT

    @property
    def gone(self) -> bool:
        """Whether the connection has ended, as far as that has been read."""
        return self.transport is None or self.transport.is_closing()

    def opened(self) -> None:
        assert self.transport is not None
        address = self.transport.get_extra_info("peername")
        self._peer = f"{address[0]}:{address[1]}" if address else "?"
        if len(self._connections) >= CONNECTIONS_MAX:
            log.warning(
                "native connection from %s refused: %d are open", self._peer, CONNECTIONS_MAX
            )
            self.abort()
            return
        self._connections.add(self)
        if (plug := self.transport.get_extra_info("socket")) is not None:
            for (level, option), value in KEEPALIVE.items():
                plug.setsockopt(level, option, value)
        self._timer = self.loop.call_later(HANDSHAKE_TIMEOUT_S, self.abort)

    def frame_received(self, frame: Frame) -> None:
        if self.hello is not None:
            if self.hello.role == ROLE_CLIENT and frame.type not in FROM_CLIENTS:
                raise Corrupt(f"a client sent a frame of type {frame.type}")
            if not self._spoke and self.hello.role != ROLE_CLIENT:
                self._spoke = True
                self._service.peer_spoke(self.hello)
            self._service.handle(self, frame)
        elif self._refused:
            return  # said in the same breath as what was refused
        elif frame.type == Type.HELLO and self._acceptor is None:
            self._acceptor = Acceptor(
                self._service.identity(), self._service.nonce(), self._service.is_replaced
            )
            self._guarded(self._greet, frame)
        elif frame.type == Type.PROOF and self._acceptor is not None:
            self._guarded(self._admit, frame)
        else:
            raise Corrupt(f"a frame of type {frame.type} before the handshake")

    def reply(self, request_id: int, kind: int, payload: bytes) -> None:
        """Answer the request `request_id`; silently dropped if the caller has gone."""
        if self.transport is not None:
            self.send(pack_frame(kind, request_id, NO_DEADLINE, self._service.ring_name(), payload))

    def limits_changed(self) -> None:
        """A client may send longer frames by now; what it has begun to send stays allowed."""
        if self.is_client:
            longest = max(self.reader.frame_bytes_max, self._service.client_frame_bytes_max())
            self.reader.frame_bytes_max = longest

    def pause_writing(self) -> None:
        # Who doesn't read its answers is not read from either.
        super().pause_writing()
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport is not None:
            self.transport.resume_reading()

    def abort(self, error: BaseException | None = None) -> None:
        if error is not None:
            log.warning("native connection from %s ended: %s", self._peer, error)
        super().abort(error)

    def closed(self, error: BaseException | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._connections.discard(self)

    def _guarded(self, step: Callable[[Frame], None], frame: Frame) -> None:
        try:
            step(frame)
        except (CallerError, Corrupt) as error:
            log.warning("native connection from %s refused: %s", self._peer, error)
            self._refused = True
            kind = Type.REPLACED if isinstance(error, ReplacedError) else Type.REFUSED
            self.reply(0, kind, str(error).encode()[:1024])
            self.close_soon()

    def _greet(self, frame: Frame) -> None:
        assert self._acceptor is not None
        challenge = self._acceptor.hello(frame.payload)
        for_client = self._acceptor.caller.role == ROLE_CLIENT
        if for_client and sum(c.is_client for c in self._connections) >= CLIENTS_MAX:
            raise CallerError(f"{CLIENTS_MAX} clients are connected here; try another node")
        self.reply(0, Type.CHALLENGE, challenge)
        if for_client:
            self._welcome(self._acceptor.caller)

    def _admit(self, frame: Frame) -> None:
        assert self._acceptor is not None
        self._welcome(self._acceptor.proof(frame.payload))

    def _welcome(self, hello: Hello) -> None:
        self.hello = hello
        self.peer_is_known()
        if hello.role == ROLE_CLIENT:
            # Anybody may be a client: it may not make this node hold more than a write.
            self.reader.frame_bytes_max = self._service.client_frame_bytes_max()
        if self._timer is not None:
            self._timer.cancel()
        self.reply(0, Type.WELCOME, b"")
        if hello.role != ROLE_CLIENT:
            self._end_older(hello)
            self._service.peer_called(hello)

    def _end_older(self, hello: Hello) -> None:
        """A node holds one connection here; who calls anew has given up the last one.

        Whoever went dark could not say so, and an incarnation that is replaced wouldn't.
        """
        for other in list(self._connections):
            said = other.hello
            if other is self or said is None or said.role == ROLE_CLIENT:
                continue
            if said.number == hello.number != 0:
                other.abort()
