"""Slices: the pace of background work (P§6.5).

Owns how long a background job waits after each bite of its work, so that all
of them together keep to the share of the node's time that `admission` grants,
and what each kind has used. All that a job does is

    async with node.slices.slice("repair"):
        ...one bounded bite, a few milliseconds...

Kinds that work at the same time share equally, and so do the jobs of a kind.
Slices don't nest: the inner wait would count as the outer one's work. What a
bite waits for without working, an fsync for instance, it awaits `aside`:

    async with node.slices.slice("recovery") as bite:
        ...
        await bite.aside(durable)

Forbidden here: what the jobs do, and the decision about the share.
"""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Final, TypeVar

from dynamo_core.admission import SHARE_MIN, Admission

T = TypeVar("T")

DECIDE_S: Final = 1.0
BITE_MAX_S: Final = 0.25
"""A bite counts no more: the rest of a longer one was waiting for somebody else."""
WAIT_MAX_S: Final = 5.0
AT_MOST_MIN: Final = 0.001
"""What a peer can spare counts as this much at least: `WAIT_MAX_S` is longer anyway."""


class Slices:
    """One node's pace; every bite of background work goes through `slice`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.admission = Admission(self._loop.time())
        self._jobs: dict[str, int] = {}  # kind -> jobs at work or waiting for their next bite
        self._used_s: dict[str, float] = {}
        self._since_decided_s = 0.0

    @property
    def share(self) -> float:
        """Part of this node's time that all background work may take together."""
        return self.admission.share

    def slice(self, kind: str, at_most: float = 1.0) -> "_Slice":
        """Do one bite inside; leaving waits until the next one is due, `WAIT_MAX_S` at most.

        `at_most` is the part of a peer's time, which has to work for this bite as well, that
        this job may take. A bite
        that fails waits too, so that failing isn't faster; one that is cancelled doesn't.
        """
        return _Slice(self, kind, at_most)

    async def run(self) -> None:
        """Decide about the share for ever; cancelled at shutdown."""
        while True:
            await asyncio.sleep(DECIDE_S)
            used_s, self._since_decided_s = self._since_decided_s, 0.0
            self.admission.decide(self._loop.time(), used_s)

    def facts(self) -> dict[str, Any]:
        """For the admin port: the share, and seconds used by kind since the start."""
        used = {kind: round(seconds, 3) for kind, seconds in sorted(self._used_s.items())}
        return {"share": round(self.share, 3), "used_seconds": used}

    def _begins(self, kind: str) -> None:
        self._jobs[kind] = self._jobs.get(kind, 0) + 1

    def _ends(self, kind: str) -> None:
        left = self._jobs[kind] - 1
        if left:
            self._jobs[kind] = left
        else:
            del self._jobs[kind]

    def _wait_after(self, kind: str, took_s: float, at_most: float) -> float:
        took_s = min(took_s, BITE_MAX_S)
        self._used_s[kind] = self._used_s.get(kind, 0.0) + took_s
        self._since_decided_s += took_s
        mine = max(SHARE_MIN, self.share) / (len(self._jobs) * self._jobs[kind])
        mine = max(AT_MOST_MIN, min(mine, at_most))
        return min(took_s * (1 / mine - 1), WAIT_MAX_S)


class _Slice:
    """The time of one bite."""

    __slots__ = ("_at_most", "_began", "_kind", "_slices")

    def __init__(self, slices: Slices, kind: str, at_most: float) -> None:
        self._slices = slices
        self._kind = kind
        self._at_most = at_most
        self._began = 0.0

    async def aside(self, waited_for: Awaitable[T]) -> T:
        """Await something that takes time and no work; it doesn't count."""
        loop = self._slices._loop
        since = loop.time()
        try:
            return await waited_for
        finally:
            self._began += loop.time() - since

    async def __aenter__(self) -> "_Slice":
        self._slices._begins(self._kind)
        self._began = self._slices._loop.time()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        slices = self._slices
        try:
            took_s = slices._loop.time() - self._began
            wait_s = slices._wait_after(self._kind, took_s, self._at_most)
            if error is None or isinstance(error, Exception):
                await asyncio.sleep(wait_s)
        finally:
            slices._ends(self._kind)
