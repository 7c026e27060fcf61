"""Listing: all keys of a partition, from the admin ports of the nodes that hold it.

Owns which nodes are asked, also while slots move from one to another: a list counts only
if every node that it is made of named the same holders, and each of those that answers
was asked. Forbidden here: what the keys are for.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from dynamo_client.errors import Unavailable, Unreachable

if TYPE_CHECKING:
    from dynamo_client.cli.admin import Admin, Listed
    from dynamo_core.ring import Ring

TRIES: Final = 8
PAUSE_S: Final = 0.25
"""Between two tries, longer each time: a seal is given and taken within a second."""


class Listing:
    """The keys of `ring`'s partitions, one after the other or several at a time."""

    def __init__(self, admin: "Admin", ring: "Ring") -> None:
        self.problems: list[str] = []
        self._admin = admin
        self._ring = ring
        self._away: set[str] = set()
        self._unlisted = 0
        self._moving = 0
        """Partitions without a list by one row from a node that counts."""

    @property
    def is_incomplete(self) -> bool:
        """Whether keys may be missing from what was listed."""
        return bool(self._unlisted or self._moving)

    def judge(self) -> list[str]:
        """What is to be said of it at the end."""
        found = list(self.problems)
        if self._unlisted:
            found.append(
                f"no owner of {self._unlisted} of {self._ring.partitions} partitions "
                "answered; their keys are missing"
            )
        if self._moving:
            found.append(
                f"{self._moving} of {self._ring.partitions} partitions moved, or were being "
                "recovered, all the while, so that keys may be missing; export again"
            )
        return found

    async def keys(self, partition: int) -> set[bytes]:
        """What the partition's holders hold, of every one that answers."""
        wanted = [self._ring.member(number).name for number in self._ring.slots[partition]]
        found: set[bytes] = set()
        told: list[Listed] = []
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_S * attempt)
            answers = await asyncio.gather(*(self._list_at(name, partition) for name in wanted))
            told = [answer for answer in answers if answer is not None]
            found = found.union(*(answer.keys for answer in told))
            holders = {name for answer in told for name in answer.holders}
            rows = {row for answer in told for row in answer.rows}
            if not told or (
                len(rows) == 1 and holders <= {*wanted} and any(answer.counts for answer in told)
            ):
                break
            wanted = sorted(holders.union(wanted))
        else:
            self._moving += 1
        self._unlisted += not told
        return found

    async def _list_at(self, name: str, partition: int) -> "Listed | None":
        if name in self._away:
            return None  # asked once; its timeout isn't paid for every partition
        try:
            return await self._admin.keys(name, partition)
        except Unavailable:
            return None  # it has no ring yet, or its disk has failed
        except Unreachable as error:
            if name not in self._away:
                self._away.add(name)
                self.problems.append(
                    f"{name} did not list its keys ({error}); "
                    "what only it or a stand-in for it holds is missing"
                )
            return None
