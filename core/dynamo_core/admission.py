"""Admission: how much of a node's time background work may take (P§6.5).

Owns the figures that the decision rests on (how long foreground operations
took, how long there were none) and the decision: once a second the share of
handoff, repair, transfer and recovery shrinks by a factor while a p99 of the
foreground is above what it is when background work is quiet, and grows by
steps while it isn't. It is never nothing: background work has to end some day.

Forbidden here: clocks (`now` and durations are passed in) and what the share
is used for.
"""

from collections import deque
from typing import Final

SHARE_MIN: Final = 0.02
SHARE_MAX: Final = 0.9
SHARE_FIRST: Final = 0.1
"""What a job finds that begins while clients are served: it has to earn more."""

FLOOR_S: Final = 0.005
"""A p99 below this is good, whatever it was before."""
TOLERANCE: Final = 1.5
"""Times its quiet baseline that a p99 may reach."""
QUIET: Final = 1.25 * SHARE_MIN
"""Background work that takes no more of a second than this isn't what makes it slow."""
LEARNT: Final = 0.2
"""Weight of a new quiet second in the baseline."""
SHRINK_MIN: Final = 0.5
GROW_BUSY: Final = 0.02
GROW_IDLE: Final = 0.05
GROW_ALONE: Final = 0.1
"""Growth a second: under full load, under a load that leaves pauses, and without any."""

ENOUGH: Final = 100
"""Operations that tell a p99: the window reaches back until it has so many."""
WINDOW_S: Final = 10
_STEPS: Final = 4
"""Buckets an octave: a bucket's bounds are at most a fifth apart."""
_BUCKETS: Final = 128
"""Four an octave from 8 us to beyond an hour."""


class Latencies:
    """How long one kind of operation took, second by second, and its quiet p99."""

    __slots__ = ("_counts", "_seconds", "baseline_s")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._seconds: deque[list[int]] = deque(maxlen=WINDOW_S)
        self.baseline_s = 0.0
        """The p99 while background work is quiet; 0 until there was such a second."""

    def add(self, took_s: float) -> None:
        """Count one operation."""
        at = int(took_s * 1_000_000)
        if at < 8:
            at = 8
        octave = at.bit_length()
        bucket = _STEPS * (octave - 4) + ((at >> (octave - 3)) & 3)
        self._counts[bucket if bucket < _BUCKETS else _BUCKETS - 1] += 1

    def end_second(self) -> None:
        """A new second begins."""
        self._seconds.appendleft(self._counts)
        self._counts = [0] * _BUCKETS

    def p99_s(self) -> float:
        """Over the last seconds that together hold enough; 0 when there was nothing."""
        counts, total = [0] * _BUCKETS, 0
        for second in self._seconds:
            counts = [a + b for a, b in zip(counts, second, strict=True)]
            total = sum(counts)
            if total >= ENOUGH:
                break
        over = total // 100  # so many may be above it
        for bucket in reversed(range(_BUCKETS)):
            over -= counts[bucket]
            if over < 0:
                return _upper_s(bucket)
        return 0.0

    @property
    def limit_s(self) -> float:
        """What the p99 may be."""
        return max(FLOOR_S, TOLERANCE * self.baseline_s)

    def slower_last_second(self, limit_s: float) -> bool:
        """Whether anything took longer in the last second itself: else it has passed."""
        counts = self._seconds[0]
        return any(counts[b] and _upper_s(b) > limit_s for b in range(_BUCKETS))

    def was_quiet(self, p99_s: float) -> None:
        """Background work was quiet while the p99 was this."""
        if self.baseline_s:
            self.baseline_s += LEARNT * (p99_s - self.baseline_s)
        else:
            self.baseline_s = p99_s

    @property
    def any_last_second(self) -> bool:
        return any(self._seconds[0])

    @property
    def last_second(self) -> int:
        """Operations of the last whole second."""
        return sum(self._seconds[0]) if self._seconds else 0


class Busy:
    """How much of the time at least one of some overlapping activities went on."""

    __slots__ = ("_going", "_since", "_total_s")

    def __init__(self) -> None:
        self._going = 0
        self._since = 0.0
        self._total_s = 0.0

    def began(self, now: float) -> None:
        """One more goes on."""
        if not self._going:
            self._since = now
        self._going += 1

    def ended(self, now: float) -> None:
        """One of them has ended."""
        self._going -= 1
        if not self._going:
            self._total_s += now - self._since

    def take_s(self, now: float) -> float:
        """The time since this was asked last."""
        if self._going:
            self._total_s += now - self._since
            self._since = now
        taken, self._total_s = self._total_s, 0.0
        return taken


class Admission:
    """One node's decision; told of every operation, asked once a second.

    `coordinated` are operations as their clients see them, `local` what this
    replica does for other nodes' clients: either may be all the load there is.
    `received` is background work that other nodes have this one do.
    """

    def __init__(self, now: float) -> None:
        self.coordinated = Latencies()
        self.local = Latencies()
        self.received = Busy()
        self.share = SHARE_FIRST
        self._foreground = Busy()
        self._decided = now

    def began(self, now: float) -> None:
        """A client's operation begins."""
        self._foreground.began(now)

    def ended(self, now: float, took_s: float) -> None:
        """It was answered, `took_s` after it came."""
        self._foreground.ended(now)
        self.coordinated.add(took_s)

    def decide(self, now: float, used_s: float) -> float:
        """The share from now on; background jobs took `used_s` since it was asked last."""
        passed_s = max(now - self._decided, 1e-9)
        self._decided = now
        idle = max(0.0, 1 - self._foreground.take_s(now) / passed_s)
        used = (used_s + self.received.take_s(now)) / passed_s
        slow, any_load = 1.0, False
        for latencies in (self.coordinated, self.local):
            latencies.end_second()
            if not latencies.any_last_second:
                continue
            any_load = True
            p99_s = latencies.p99_s()
            limit_s = latencies.limit_s
            if p99_s > limit_s and latencies.slower_last_second(limit_s):
                slow = max(slow, p99_s / limit_s)
            if used <= QUIET:
                latencies.was_quiet(p99_s)
        self.share = self._next(slow, idle, used, any_load)
        return self.share

    def _next(self, slow: float, idle: float, used: float, any_load: bool) -> float:
        share = self.share
        if slow > 1.0 and used > QUIET:
            return max(SHARE_MIN, share * max(SHRINK_MIN, 1 / slow))
        if not any_load:
            return min(SHARE_MAX, share + GROW_ALONE)
        step = GROW_BUSY + (GROW_IDLE - GROW_BUSY) * idle
        if used < share / 2 and share > SHARE_FIRST:
            # What nobody uses has proven nothing: the next job begins modestly.
            return max(SHARE_FIRST, share - step)
        if slow > 1.0:
            return share
        return min(SHARE_MAX if used >= share / 2 else SHARE_FIRST, share + step)


def _upper_s(bucket: int) -> float:
    octave, step = divmod(bucket, _STEPS)
    return float((_STEPS + step + 1) << (octave + 1)) / 1_000_000
