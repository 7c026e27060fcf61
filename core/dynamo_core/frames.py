"""Frames: how messages are cut out of the byte stream of the native protocol.

Owns the header and the reader that finds whole frames in whatever chunks a
connection delivers; messages themselves are `wire`. A frame that is longer
than agreed, or shorter than its header, is an error of the peer and ends the
connection: there is no way to find the next one.

Header (big-endian): u32 length of what follows | u8 type | u8 flags |
u32 request id | u32 remaining milliseconds | u64 ring epoch | 16 bytes ring
id; then 25 bytes of trace context if the flag says so, then the payload. The
deadline travels as what remains of it, never as a wall time: two clocks need
not agree, and each receiver ages it by its own monotonic clock.
"""

from struct import Struct
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt

HEADER: Final = Struct(">IBBIIQ16s")
LENGTH_BYTES: Final = 4
TRACE_BYTES: Final = 25
FLAG_TRACE: Final = 1
NO_DEADLINE: Final = 0xFFFFFFFF
FRAME_BYTES_MAX: Final = 64 << 20
"""Longest frame between nodes: an object at its highest limit, and room for headers."""
HANDSHAKE_BYTES_MAX: Final = 4096
"""Longest frame before the other side has proven who it is."""

_LENGTH_MIN: Final = HEADER.size - LENGTH_BYTES


class RingName(NamedTuple):
    """(epoch, id): the higher pair wins everywhere."""

    epoch: int
    id: bytes


NO_RING: Final = RingName(0, bytes(16))
"""The name that a node without a ring gives."""


class Frame(NamedTuple):
    """One message as it came: `payload` is of the type's own form (see `wire`)."""

    type: int
    flags: int
    request_id: int
    remaining_ms: int
    epoch: int
    ring_id: bytes
    trace: bytes
    payload: bytes


def pack_frame(
    kind: int,
    request_id: int,
    remaining_ms: int,
    ring: tuple[int, bytes],
    payload: bytes,
    trace: bytes = b"",
) -> bytes:
    """One frame; `remaining_ms` is NO_DEADLINE or what is left for an answer.

    Raises ValueError for a trace context of another length: the reader would lose its place.
    """
    if trace:
        if len(trace) != TRACE_BYTES:
            raise ValueError(f"a trace context has {len(trace)} bytes, not {TRACE_BYTES}")
        return (
            HEADER.pack(
                _LENGTH_MIN + TRACE_BYTES + len(payload),
                kind,
                FLAG_TRACE,
                request_id,
                remaining_ms,
                ring[0],
                ring[1],
            )
            + trace
            + payload
        )
    return (
        HEADER.pack(_LENGTH_MIN + len(payload), kind, 0, request_id, remaining_ms, ring[0], ring[1])
        + payload
    )


class FrameReader:
    """Cuts a byte stream into frames; keeps at most one unfinished frame.

    `frame_bytes_max` may be raised once the peer is known. Raises Corrupt when
    the stream can't be one of frames.
    """

    __slots__ = ("_rest", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = HANDSHAKE_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """All frames that are whole now, in order."""
        if self._rest:
            self._rest += data
            # An unfinished frame of known length is not parsed again for each chunk.
            if (
                len(self._rest) < LENGTH_BYTES
                or len(self._rest)
                < LENGTH_BYTES + int.from_bytes(self._rest[:LENGTH_BYTES], "big")
                <= LENGTH_BYTES + self.frame_bytes_max
            ):
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames = []
        at, end = 0, len(data)
        unpack, size = HEADER.unpack_from, HEADER.size
        while end - at >= LENGTH_BYTES:
            if end - at >= size:
                length, kind, flags, request_id, remaining_ms, epoch, ring_id = unpack(data, at)
            else:
                length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if length > self.frame_bytes_max or length < _LENGTH_MIN:
                raise Corrupt(
                    f"a frame claims {length} bytes; "
                    f"{_LENGTH_MIN}..{self.frame_bytes_max} are allowed"
                )
            stop = at + LENGTH_BYTES + length
            if stop > end:
                break
            payload_at = at + size
            trace = b""
            if flags & FLAG_TRACE:
                if stop - payload_at < TRACE_BYTES:
                    raise Corrupt("a frame promises a trace context and ends before it")
                trace = data[payload_at : payload_at + TRACE_BYTES]
                payload_at += TRACE_BYTES
            frames.append(
                Frame(
                    kind,
                    flags,
                    request_id,
                    remaining_ms,
                    epoch,
                    ring_id,
                    trace,
                    data[payload_at:stop],
                )
            )
            at = stop
        if at < end:
            self._rest += data[at:] if at else data
        return frames

    @property
    def unfinished_bytes(self) -> int:
        """Bytes kept of a frame that is not whole yet."""
        return len(self._rest)
