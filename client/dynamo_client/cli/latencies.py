"""Latencies in bounded memory: counts in buckets that are 1 % wide.

Owns recording and percentiles (nearest rank). Pure. Forbidden here: clocks;
the durations are handed in.
"""

from math import exp, log
from typing import Final

_WIDTH: Final = log(1.01)
_SHORTEST_S: Final = 1e-6
_BUCKETS: Final = 2_200  # up to an hour
PERCENTILES: Final = ((50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"))


class Latencies:
    """Durations in seconds; what is read from them is off by at most 1 %."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self._buckets = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Record one."""
        self.count += 1
        self.total_s += seconds
        at = int(log(max(seconds, _SHORTEST_S) / _SHORTEST_S) / _WIDTH)
        self._buckets[min(at, _BUCKETS - 1)] += 1

    def merged(self, other: "Latencies") -> "Latencies":
        """Both together, as new latencies."""
        both = Latencies()
        both.count = self.count + other.count
        both.total_s = self.total_s + other.total_s
        both._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]
        return both

    def percentile_s(self, percent: float) -> float:
        """The smallest duration that at least `percent` % (0..100) don't exceed; 0 if empty."""
        wanted = max(1, -(-self.count * percent // 100))
        seen = 0
        for at, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted:
                return _SHORTEST_S * exp((at + 0.5) * _WIDTH)
        return 0.0

    def document(self) -> dict[str, float | int]:
        """Count, mean and percentiles in milliseconds, for programs."""
        mean_ms = 1000 * self.total_s / self.count if self.count else 0.0
        figures: dict[str, float | int] = {"count": self.count, "mean_ms": round(mean_ms, 3)}
        for percent, name in PERCENTILES:
            figures[f"{name}_ms"] = round(1000 * self.percentile_s(percent), 3)
        return figures
