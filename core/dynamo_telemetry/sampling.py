"""Sampling: which requests are traced (parent-based, by a share, within a rate).

Owns the share as OpenTelemetry's TraceIdRatioBased defines it, so that everybody who sees
a trace's id decides alike, and the rate within which what was slow or failed is kept though
the share left it out. `now` is passed in, in seconds of any clock that only rises.
"""

from typing import Final

LATE_PER_S: Final = 5.0
LATE_BURST: Final = 20.0
_BITS: Final = 64
LOW: Final = (1 << _BITS) - 1
"""The bits of a trace id that decide."""


def bound(ratio: float) -> int:
    """A trace is kept if the lower 64 bits of its id are below this."""
    return round(ratio * (1 << _BITS))


class Budget:
    """A token bucket: how many traces are kept for being slow or failed."""

    def __init__(self, per_s: float = LATE_PER_S, burst: float = LATE_BURST) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at: float | None = None
        self.refused = 0
        """How many weren't kept because too many were just before."""

    def take(self, now: float) -> bool:
        """Whether one more is kept."""
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(self._burst, self._left + since * self._per_s)
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True
