"""Contexts: which span of which trace something belongs to (W3C Trace Context).

Owns the header `traceparent` and the 25 bytes in which a frame of the native protocol
carries the same: trace id (16), span id (8), flags (1). `tracestate` is not carried on.
"""

import re
from typing import Final, NamedTuple, Self

SAMPLED: Final = 1
CONTEXT_BYTES: Final = 25

_HEADER: Final = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


class SpanContext(NamedTuple):
    """One span from outside; neither id is 0 in a valid one."""

    trace_id: int
    span_id: int
    flags: int = SAMPLED

    @property
    def sampled(self) -> bool:
        """Whether whoever began the trace keeps it."""
        return bool(self.flags & SAMPLED)

    @property
    def trace_hex(self) -> str:
        """The trace's id as tools show it: 32 hex digits."""
        return f"{self.trace_id:032x}"

    def to_bytes(self) -> bytes:
        """The 25 bytes in a frame."""
        return (self.trace_id << 72 | self.span_id << 8 | self.flags).to_bytes(CONTEXT_BYTES, "big")

    def traceparent(self) -> str:
        """The header of version 00."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """What a frame carries; None for nothing and for what is no valid context."""
        if len(data) != CONTEXT_BYTES:
            return None
        trace_id, span_id = int.from_bytes(data[:16], "big"), int.from_bytes(data[16:24], "big")
        return cls(trace_id, span_id, data[24]) if trace_id and span_id else None

    @classmethod
    def from_header(cls, header: str) -> Self | None:
        """What a `traceparent` says; None for an invalid one, which is ignored as W3C asks.

        A version above 00 is read as far as 00 goes; ff is forbidden.
        """
        found = _HEADER.fullmatch(header)
        if found is None:
            return None
        version, trace, span, flags, more = found.groups()
        if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
            return None
        # Of the flags only those that 00 knows mean anything here.
        return cls(int(trace, 16), int(span, 16), int(flags, 16) & SAMPLED)


def from_outside(data: bytes) -> bytes:
    """The same 25 bytes with nothing but W3C's flag: what nodes add is nobody else's to say."""
    return data[:-1] + bytes((data[-1] & SAMPLED,)) if data else data


def header_bytes(header: str) -> bytes:
    """A `traceparent` in the form of a frame; b"" for one that is invalid."""
    found = SpanContext.from_header(header)
    return found.to_bytes() if found is not None else b""
