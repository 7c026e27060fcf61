"""Names: under which addresses a host is found at this moment.

Owns the lookups of members' hosts, a new one for each connection that is opened: a pod
that comes back has its name, and another address. How many are under way is bounded,
for a resolver that hangs gives up after many seconds and can't be told to: one lookup
for a host however often it is dialled meanwhile, and a few hosts at a time.

Forbidden here: the resolver itself (`outside`), and deadlines, which are the dialler's.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Final, TypeAlias

LOOKUPS_MAX: Final = 16

Found: TypeAlias = "asyncio.Future[list[str]]"


class NotFoundError(OSError):
    """The host has no address, or nobody can tell; it is told why, once for each reason."""


class Names:
    """One per node; `look_up` gives a future of addresses, or of OSError."""

    def __init__(self, look_up: Callable[[str], Found]) -> None:
        self._look_up = look_up
        self._pending: dict[str, Found] = {}
        self._free = asyncio.Semaphore(LOOKUPS_MAX)

    async def addresses(self, host: str) -> Sequence[str]:
        """At least one; raises NotFoundError. Whoever stops waiting ends no lookup."""
        if _is_address(host):
            return (host,)
        await self._free.acquire()
        pending = self._pending.get(host)
        if pending is not None:
            self._free.release()
        else:
            pending = self._begin(host)
        try:
            found = pending.result() if pending.done() else await asyncio.shield(pending)
        except OSError as error:
            raise NotFoundError(f"{host} isn't found: {error.strerror or error}") from error
        if not found:
            raise NotFoundError(f"{host} has no address")
        return found

    def _begin(self, host: str) -> Found:
        try:
            pending = self._look_up(host)
        except BaseException:
            self._free.release()
            raise
        if pending.done():
            self._free.release()
        else:
            self._pending[host] = pending
            pending.add_done_callback(partial(self._ended, host))
        return pending

    def _ended(self, host: str, pending: Found) -> None:
        del self._pending[host]
        self._free.release()
        if not pending.cancelled():
            pending.exception()  # retrieved: nobody may be waiting any more


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
