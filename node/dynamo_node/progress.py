"""Progress: how far each partition on its way to this node is, and what has come in all.

How much a partition has nobody counts: keys lie evenly over its places, because they are
hashes, so that the part of its places that is done tells how much there will be.

Forbidden here: the network, and what is due next.
"""

from dataclasses import dataclass
from typing import Final

from dynamo_core.tenures import Asked

RATE_OVER_S: Final = 5.0
PLACE_BITS: Final = 64
"""Of a place that are looked at."""

WAITING: Final = "waiting"
PULLING: Final = "pulling"
SEALING: Final = "sealing"
WALKING: Final = "walking"
CLAIMING: Final = "claiming"


@dataclass(slots=True)
class Progress:
    """One partition on its way here, since this process has begun with it; times are the loop's."""

    partition: int
    source: int
    began: float
    state: str = WAITING
    stalled: str = ""
    """Why it stands still, if it does."""
    stalled_at: float = 0.0
    """Since when."""
    bytes: int = 0
    """Of keys and objects that came."""
    from_share: float = 0.0
    """The part of the partition's places that was here already."""
    share: float = 0.0
    sealed_at: float = 0.0
    """When the seal was asked for; 0 if it wasn't."""
    _mark: tuple[float, int] = (0.0, 0)
    _mark_before: tuple[float, int] = (0.0, 0)

    def stands_still(self, now: float, why: str) -> None:
        """It waits; `why` may be another reason than a moment ago."""
        if not self.stalled:
            self.stalled_at = now
        self.stalled = why

    def came(self, now: float, size: int, share: float) -> None:
        """A page was merged, which ends at that part of the partition's places."""
        if not self._mark[0]:
            self._mark = self._mark_before = self.began, 0
        self.bytes += size
        self.share = max(self.share, share)
        if now - self._mark[0] >= RATE_OVER_S:
            self._mark_before, self._mark = self._mark, (now, self.bytes)

    def again(self) -> None:
        """The copy was emptied: what came doesn't count any more."""
        self.from_share = self.share = 0.0
        self.bytes = 0
        self._mark = self._mark_before = 0.0, 0

    @property
    def bytes_total(self) -> int:
        """An estimate; 0 as long as nothing came."""
        came = self.share - self.from_share
        return round(self.bytes / came) if came > 0 else 0

    @property
    def bytes_done(self) -> int:
        """What was here before this process is estimated as well."""
        came = self.share - self.from_share
        return round(self.bytes / came * self.share) if came > 0 else 0

    def rate(self, now: float) -> float:
        """Bytes per second lately."""
        since, before = self._mark_before
        return (self.bytes - before) / (now - since) if 0 < since < now else 0.0


@dataclass(slots=True)
class Totals:
    """Since this process has started."""

    bytes: int = 0
    keys: int = 0
    partitions: int = 0
    handed_over: int = 0
    """Partitions whose copy here was covered and deleted."""
    pauses: int = 0
    pause_s: float = 0.0
    pause_s_max: float = 0.0
    """From the question for the seal until the copy here counted: what clients wait at most."""


def share_of(place: bytes, partitions: int) -> float:
    """The part of its partition's places that lies up to `place`."""
    bits = partitions.bit_length() - 1
    within = (int.from_bytes(place[:8], "big") << bits) & ((1 << PLACE_BITS) - 1)
    return within / (1 << PLACE_BITS)


def state_of(asked: Asked, whole: bool) -> str:
    """In one word how far a half-pulled copy is."""
    if asked is Asked.SEALED:
        return WALKING
    return SEALING if asked is Asked.MAYBE or whole else PULLING
