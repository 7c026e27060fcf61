"""What clients got, second by second: a history's load in equal stretches of time.

Owns which operations are the load's, and the stretches: all of one width, without a hole,
so that a gap in which nobody was answered shows as zeros. Pure. Forbidden here: clocks, and
judging (`dynamo_core.history_check`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from typing import Any, Final

from dynamo_client.cli.recording import READER
from dynamo_core.history import Operation

STRETCHES_MAX: Final = 3_600
"""An hour of seconds; a longer load has wider stretches."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What returned from `at` on, in seconds since the load began, until the next one begins.

    failed: requests, of which an operation can have had two. Durations are those of all the
    operations, the failed ones too; 0 if there was none. One that hung through a gap shows in
    the `max_ms` of the stretch in which it returned.
    """

    at: int
    operations: int = 0
    failed: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """width_s: of each stretch. load_s: when the last operation returned, within the last one."""

    width_s: int
    load_s: float
    stretches: tuple[Stretch, ...]

    def document(self) -> dict[str, Any]:
        """As it stands in the JSON report."""
        return {
            "load_s": self.load_s,
            "timeline_width_s": self.width_s,
            "timeline": [asdict(stretch) for stretch in self.stretches],
        }


def timeline(operations: Iterable[Operation]) -> Timeline:
    """Of the load alone; what was read back in the end doesn't count."""
    load = [o for o in operations if 0 <= o.returned < inf and not o.client.startswith(READER)]
    if not load:
        return Timeline(1, 0.0, ())
    load_s = max(o.returned for o in load)
    width_s = 1
    while load_s >= width_s * STRETCHES_MAX:
        width_s *= 2
    inside: list[list[Operation]] = [[] for _ in range(int(load_s // width_s) + 1)]
    for operation in load:
        inside[int(operation.returned // width_s)].append(operation)
    stretches = tuple(_stretch(n * width_s, found) for n, found in enumerate(inside))
    return Timeline(width_s, load_s, stretches)


def _stretch(at: int, found: Sequence[Operation]) -> Stretch:
    if not found:
        return Stretch(at)
    took = sorted(o.returned - o.invoked for o in found)
    return Stretch(
        at=at,
        operations=len(found),
        failed=sum(o.failed for o in found),
        p50_ms=_percentile_ms(took, 50),
        p99_ms=_percentile_ms(took, 99),
        max_ms=_percentile_ms(took, 100),
    )


def _percentile_ms(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank, of seconds in order."""
    return round(1000 * ordered[ceil(len(ordered) * percent / 100) - 1], 3)
