"""Frames over one TCP connection to a node, from the handshake on.

Owns a client's side of the handshake, cutting frames from chunks, and
collecting what one loop tick sends into one write. Forbidden here: requests,
deadlines and dialling (`native_link`).
"""

import asyncio
import os
from typing import Final, Protocol, cast

from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.frames import (
    FRAME_BYTES_MAX,
    NO_DEADLINE,
    NO_RING,
    Frame,
    FrameReader,
    pack_frame,
)
from dynamo_core.handshake import ClientCaller
from dynamo_core.wire import Type

CLIENT_NAME: Final = "dynamo-client"
_SEND_BYTES_HIGH: Final = 4 << 20


class Owner(Protocol):
    """Whom a connection tells what happens on it."""

    def replied(self, frame: Frame) -> None:
        """A frame after the handshake came."""

    def room(self) -> None:
        """The connection takes bytes again."""

    def lost(self, connection: "Connection", why: str) -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """One TCP connection; `welcomed` gives the caller once the node has let it in."""

    def __init__(self, owner: Owner, target: str, cluster_id: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.congested = False
        self.welcomed: asyncio.Future[ClientCaller] = loop.create_future()
        self._owner = owner
        self._call_soon = loop.call_soon
        self._reader = FrameReader()
        self._caller = ClientCaller(CLIENT_NAME, target, os.urandom(16), cluster_id)
        self._out: list[bytes] = []
        self._why = ""

    def send(self, data: bytes) -> None:
        """Queue a packed frame; everything of one tick leaves in one write."""
        if not self._out:
            self._call_soon(self._flush)
        self._out.append(data)

    def abort(self, why: str = "") -> None:
        """End the connection now."""
        self._why = self._why or why
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_SEND_BYTES_HIGH)
        self.send(pack_frame(Type.HELLO, 0, NO_DEADLINE, NO_RING, self._caller.hello()))

    def data_received(self, data: bytes) -> None:
        try:
            replied = self._owner.replied
            for frame in self._reader.feed(data):
                if self.welcomed.done():
                    replied(frame)
                else:
                    self._shake_hands(frame)
        except (Corrupt, CallerError) as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._out.clear()
        why = self._why or (str(exc) if exc else "the node closed it")
        self._fail(ConnectionError(why))
        self._owner.lost(self, why)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._owner.room()

    def _shake_hands(self, frame: Frame) -> None:
        if frame.type == Type.CHALLENGE:
            self._caller.challenge(frame.payload)
        elif frame.type == Type.WELCOME and self._caller.incarnation:
            self._reader.frame_bytes_max = FRAME_BYTES_MAX
            self.welcomed.set_result(self._caller)
        elif frame.type == Type.REFUSED:
            raise CallerError(frame.payload.decode(errors="replace"))
        else:
            raise Corrupt(f"a frame of type {frame.type} during the handshake")

    def _fail(self, error: Exception) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(error)
            self.welcomed.exception()  # retrieved: the dialler may have given up
        self.abort(str(error))

    def _flush(self) -> None:
        out = self._out
        if out and self.transport is not None:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
