"""The JSON report of a load (`dynamo verify`), read: its figures, and its timeline as columns.

Pure. What a report lacks, because its load broke off or is an older one's, counts as nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from typing import Any

Load = Mapping[str, Any]


def operations(load: Load) -> int:
    """Writes and reads, those that read back in the end too."""
    counts = load.get("counts", {})
    return int(counts.get("writes", 0) + counts.get("gets", 0))


def acknowledged(load: Load) -> int:
    """Writes."""
    return int(load.get("counts", {}).get("acknowledged", 0))


def failed(load: Load) -> int:
    """Requests, after all tries of the client."""
    return int(load.get("failed_requests", 0))


def broken(load: Load) -> int:
    """Promises."""
    return len(load.get("violations", ())) + int(load.get("more_violations", 0))


@dataclass(frozen=True, slots=True)
class Column:
    """What returned from `began` until `ended`, in seconds since the load began."""

    began: float
    ended: float
    operations: int
    failed: int
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / max(self.ended - self.began, 1e-3)


def columns(load: Load, at_most: int = 1_000_000) -> list[Column]:
    """The timeline, made coarser until that many are enough; [] if there is none.

    The last entry covers only what was left of the load. One shorter than half of the others
    is taken together with the one before: a rate over 20 ms says nothing.
    """
    width = float(load.get("timeline_width_s", 1))
    entries: Sequence[Mapping[str, Any]] = load.get("timeline") or ()
    found = [
        Column(
            began=float(entry["at"]),
            ended=float(entry["at"]) + width,
            operations=entry["operations"],
            failed=entry["failed"],
            p99_ms=entry["p99_ms"],
            max_ms=entry["max_ms"],
        )
        for entry in entries
    ]
    if found and found[-1].began < (load_s := float(load.get("load_s", found[-1].ended))):
        found[-1] = replace(found[-1], ended=min(found[-1].ended, load_s))
    if len(found) > 1 and found[-2].operations and found[-1].ended - found[-1].began < width / 2:
        found[-2:] = [_together(found[-2:])]
    each = ceil(len(found) / at_most)
    return [_together(found[n : n + each]) for n in range(0, len(found), each)] if found else []


def _together(some: Sequence[Column]) -> Column:
    """A p99 of several is between theirs; the highest is shown, so that none is hidden."""
    return Column(
        began=some[0].began,
        ended=some[-1].ended,
        operations=sum(one.operations for one in some),
        failed=sum(one.failed for one in some),
        p99_ms=max(one.p99_ms for one in some),
        max_ms=max(one.max_ms for one in some),
    )


def gaps(load: Load) -> list[tuple[float, float]]:
    """From when until when nothing returned, in seconds since the load began."""
    found = []
    for empty, some in groupby(columns(load), lambda column: not column.operations):
        within = list(some)
        if empty:
            found.append((within[0].began, within[-1].ended))
    return found


def longest_gap_s(load: Load) -> float:
    return max((ended - began for began, ended in gaps(load)), default=0.0)
