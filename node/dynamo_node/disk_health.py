"""Disk health: whether this node's disk takes more, and what it says if not.

Owns the watch over free space and the state that follows: below the reserve
the node is read-only, so that flushes and compactions keep room, and it writes
again by itself when there is clearly more than the reserve. Reads never stop.

Forbidden here: who is told no, and how; see `replica` and `refusals`.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

OK: Final = "ok"
FULL: Final = "full"
FAILED: Final = "failed"

CHECK_S: Final = 0.2
"""Somebody else may fill a disk at once, and this node write what is left in a second."""
NEAR_CHECK_S: Final = 0.1
"""Within a few reserves of the end."""
NEAR: Final = 8
AGAIN: Final = 1.25
"""Times the reserve that must be free before writes are taken again."""
RESERVE_BYTES: Final = 256 << 20
RESERVE_SHARE: Final = 10
"""The reserve is a tenth of the disk, at most RESERVE_BYTES, unless it is configured."""


def headroom_bytes(disk_bytes: int) -> int:
    """The reserve of a disk of that size: half of it is what the log may grow to."""
    return min(RESERVE_BYTES, disk_bytes // RESERVE_SHARE)


class DiskHealth:
    """One per node; `free_bytes` may raise OSError, which changes nothing."""

    def __init__(self, free_bytes: Callable[[], int], reserve_bytes: int) -> None:
        self._free_bytes = free_bytes
        self.reserve_bytes = reserve_bytes
        self.free_bytes: int | None = None
        self.state = OK
        self.reason = ""
        self.check()

    @property
    def read_only(self) -> bool:
        """Whether nothing more may be stored here."""
        return self.state != OK

    def check(self) -> None:
        """Look at the free space; a failed store stays failed."""
        if self.state == FAILED:
            return
        try:
            free = self.free_bytes = self._free_bytes()
        except OSError as error:
            log.debug("the free space isn't known: %s", error)
            return
        if self.state == OK and free < self.reserve_bytes:
            self.state = FULL
            self.reason = f"{free} bytes are free, the reserve is {self.reserve_bytes}"
            log.error("read-only: %s", self.reason)
        elif self.state == FULL and free >= AGAIN * self.reserve_bytes:
            self.state, self.reason = OK, ""
            log.info("there is space again (%d bytes): writes are taken", free)

    def failed(self, reason: str) -> None:
        """A write or an fsync failed: nothing is stored any more."""
        self.state, self.reason = FAILED, reason

    async def run(self) -> None:
        """Watch for ever; cancelled at shutdown."""
        while True:
            near = self.free_bytes is not None and self.free_bytes < NEAR * self.reserve_bytes
            await asyncio.sleep(NEAR_CHECK_S if near else CHECK_S)
            self.check()

    def facts(self) -> dict[str, Any]:
        """For the admin port."""
        return {
            "state": self.state,
            "reason": self.reason,
            "free_bytes": self.free_bytes,
            "reserve_bytes": self.reserve_bytes,
        }
