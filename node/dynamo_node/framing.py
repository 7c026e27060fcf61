"""Framing: an asyncio connection that speaks frames, whichever side opened it.

Owns cutting frames from chunks, collecting what one loop tick sends into one
write, and the bound on bytes that wait to be sent. What frames mean belongs to
`links` (we called) and `inbound` (we were called).
"""

import asyncio
from typing import Final, cast

from dynamo_core.errors import Corrupt
from dynamo_core.frames import FRAME_BYTES_MAX, Frame, FrameReader

SEND_BYTES_HIGH: Final = 4 << 20
"""Bytes waiting for a slow receiver above which the connection counts as congested."""


class FramedProtocol(asyncio.Protocol):
    """One connection; subclasses implement `frame_received` and `closed`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.reader = FrameReader()
        self.congested = False
        self._out: list[bytes] = []

    # For subclasses

    def opened(self) -> None:
        """The connection stands; nothing has been said yet."""

    def frame_received(self, frame: Frame) -> None:
        """One whole frame came; raises Corrupt to end the connection."""
        raise NotImplementedError

    def closed(self, error: BaseException | None) -> None:
        """The connection is gone."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=SEND_BYTES_HIGH)
        self.opened()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self.reader.feed(data):
                if self.transport is None:
                    return
                self.frame_received(frame)
        except Corrupt as error:
            self.abort(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._out.clear()
        self.closed(exc)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    # For all

    def send(self, data: bytes) -> None:
        """Queue a packed frame; everything of one tick leaves in one write."""
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(data)

    def peer_is_known(self) -> None:
        """The handshake is over: long frames are welcome now."""
        self.reader.frame_bytes_max = FRAME_BYTES_MAX

    def abort(self, error: BaseException | None = None) -> None:
        """End the connection now; `closed` follows."""
        if self.transport is not None:
            self.transport.abort()

    def close_soon(self) -> None:
        """Send what is queued, then end the connection."""
        self._flush()
        if self.transport is not None:
            self.transport.close()

    def _flush(self) -> None:
        out = self._out
        if out and self.transport is not None:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
