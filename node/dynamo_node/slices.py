"""Slices: the pace of background work (P§6.5).

Owns how long a background job waits after each bite of its work, so that all
of them together keep to the share of the node's time that they are given, and
what they have used of it, by kind. `async with slices.slice("repair"): bite`
around each bounded bite (a few milliseconds) is all that a job does.

Forbidden here: what the jobs do, and any decision about the share.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

BITE_MAX_S: Final = 0.25
"""A bite counts no more: the rest of a longer one was waiting for somebody else."""
WAIT_MAX_S: Final = 5.0


class Slices:
    """One node's pace; every background bite goes through `slice`."""

    def __init__(self) -> None:
        self.share = 0.2
        """Part of the node's time that all background work may take together."""
        self._active: dict[str, int] = {}
        self.used_s: dict[str, float] = {}

    @asynccontextmanager
    async def slice(self, kind: str = "other") -> AsyncIterator[None]:
        """Do one bite inside; leaving waits until the next is due.

        Bites of different kinds share the time equally, whatever they number.
        """
        loop = asyncio.get_running_loop()
        self._active[kind] = self._active.get(kind, 0) + 1
        began = loop.time()
        try:
            try:
                yield
            finally:
                taken = loop.time() - began
                self.used_s[kind] = self.used_s.get(kind, 0.0) + taken
            mine = self.share / (len(self._active) * self._active[kind])
            wait = min(taken, BITE_MAX_S) * (1 / mine - 1)
            await asyncio.sleep(min(wait, WAIT_MAX_S))
        finally:
            if self._active[kind] == 1:
                del self._active[kind]
            else:
                self._active[kind] -= 1

    def facts(self) -> dict[str, Any]:
        """The share and what each kind has used, for the admin port."""
        used = {kind: round(seconds, 3) for kind, seconds in sorted(self.used_s.items())}
        return {"share": round(self.share, 3), "used_seconds": used}
