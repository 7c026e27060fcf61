"""Counters: what a node counts as it happens, in plain numbers.

Owns the tallies that nobody else keeps and the histograms with their bounds. Whoever
sees a fact counts it here, which costs a request less than what its socket costs; what
others keep anyway (hints, transfers, rounds) is read where it lies when somebody asks.

Forbidden here: Prometheus, whose form is `metrics`, and every clock but the two that
are passed in.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, NamedTuple

from dynamo_core.frames import TRACE_BYTES
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Op

TOO_SLOW: Final = len(Kind) + 1
"""A body that didn't come in time: refused before there was an operation."""
OUTCOMES: Final = {**{int(kind): kind.name.lower() for kind in Kind}, TOO_SLOW: "too_slow"}
"""How a request ended -> the label that says so."""
OPS: Final = {int(op): op.name.lower() for op in Op}

REQUEST_S: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1),
    *(0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0),
)
"""From below a read that memory answers to the longest `timeout_ms`; 0.3 s is the paper's
promise, 5 s the deadline of who names none. Neighbours are at most a factor of three apart."""
COMMIT_S: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    *(0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
"""From a disk with a cache that survives power cuts to one that hangs."""
LAG_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 10.0)
"""The loop's own timers are a millisecond coarse; after 0.8 s of silence others suspect."""
SIBLINGS: Final = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
"""One is the paper's figure (P§6: 99.94% of reads saw one version), 100 the usual limit."""

_SAMPLED: Final = 1
"""The flag of a W3C trace context, its last byte, which says that somebody keeps the trace."""


class Exemplar(NamedTuple):
    """One observation whose trace was kept."""

    trace_id: str
    value: float
    wall_ms: int


class Histogram:
    """How often a value fell into each bucket: of `bounds`, and one above them all."""

    __slots__ = ("bounds", "buckets", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The last one of each bucket that has any."""

    def observe(self, value: float) -> int:
        """Count a value; returns its bucket, the first whose bound isn't below it."""
        at = bisect_left(self.bounds, value)
        self.buckets[at] += 1
        self.total += value
        return at


class Counters:
    """One per node; `clock` gives seconds and only rises, `wall_ms` dates exemplars."""

    def __init__(self, clock: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self.clock = clock
        self._wall_ms = wall_ms
        ops = range(max(OPS) + 1)
        self.requests = [[0] * (TOO_SLOW + 1) for _ in ops]
        """By Op and Kind: clients' requests, at the node that they came to."""
        self.durations = [Histogram(REQUEST_S) for _ in ops]
        """By Op: of those that weren't refused at once."""
        self.shown = Histogram(SIBLINGS)
        """Values that a read showed, of keys that have any."""
        self.written = Histogram(SIBLINGS)
        """What lies beside each other in the record of a key after a put."""
        self.commits = Histogram(COMMIT_S)
        self.loop_lag = Histogram(LAG_S)
        self.read_repairs = 0
        """Replicas that were sent what a read had found newer elsewhere."""

    def refused(self, op: int, kind: int) -> None:
        """A client was told no before anything was done."""
        self.requests[op][kind] += 1

    def answered(self, op: int, outcome: Outcome, took_s: float, trace: bytes = b"") -> None:
        """A client got its answer; `trace` is the request's trace context, if it has one."""
        kind = outcome.kind
        self.requests[op][kind] += 1
        durations = self.durations[op]
        at = durations.observe(took_s)
        if kind == Kind.VALUES:
            self.shown.observe(len(outcome.siblings))
        if trace and trace[TRACE_BYTES - 1] & _SAMPLED:
            durations.exemplars[at] = Exemplar(trace[:16].hex(), took_s, self._wall_ms())
