"""Alarms: coarse timers that cost next to nothing.

Owns waking operations that may have been finished long before. Every request
needs a timer and almost none needs it to ring, so all that are due within the
same GRAIN_S share one timer of the loop, and there is no cancelling: who is
finished ignores the call.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

GRAIN_S: Final = 0.01


class Alarms:
    """One per node; times are the loop's."""

    __slots__ = ("_due", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: dict[int, list[Callable[[], None]]] = {}

    def at(self, when: float, ring: Callable[[], None]) -> None:
        """Call `ring` at `when` or up to GRAIN_S later."""
        grain = int(when / GRAIN_S) + 1
        waiting = self._due.get(grain)
        if waiting is None:
            self._due[grain] = [ring]
            self._loop.call_at(grain * GRAIN_S, self._ring, grain)
        else:
            waiting.append(ring)

    def _ring(self, grain: int) -> None:
        for ring in self._due.pop(grain):
            try:
                ring()
            except Exception as error:  # the others' only timer is this one too
                log.error("an alarm failed: %r", error, exc_info=error)
