"""Who leads: one process at a time, by a Lease.

Owns the record's reading and writing, and the judgement whether this process
may act. Another's clock is never trusted: a lease has run out when its record
has not changed for its duration on this process's own monotonic clock; the times
in the record are for people. Whoever can't renew in time stops
before anybody else may begin. Forbidden: ending the process (the caller's), and
anything that the leader does.

Why not `kubernetes.aio.leaderelection` (37): it goes by the wall clock, which may
jump; a request of it has no deadline, so that one that hangs outlasts the lease
while its work goes on; it lets only ApiException count as a failure, so that a
refused connection ends the election but not the work; it never gives the lease
up at a clean end, so that each upgrade costs the whole duration.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, Protocol, TypeVar

from dynamo_core.errors import DynamoError
from dynamo_operator.kube.errors import AlreadyExists, Conflict, KubeError, Unreachable
from dynamo_operator.kube.kinds import LEASE, Kind

log = logging.getLogger(__name__)

Object = dict[str, Any]
T = TypeVar("T")


class LeaseLost(DynamoError):
    """Another process leads, or may begin to: this one must end at once."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds. `duration_s` is what others wait for; all but that is this process's own."""

    duration_s: int = 15
    renew_every_s: float = 4.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0
    request_s: float = 3.0  # so that one request that hangs is not the end

    def __post_init__(self) -> None:
        if not self.retry_s <= self.renew_every_s < self.renew_deadline_s < self.duration_s:
            raise ValueError("retry <= renewal < its deadline < duration, all in seconds")


class Leases(Protocol):
    """What of the door (`api.Api`) is used."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None: ...
    async def create(self, kind: Kind, body: Object) -> Object: ...
    async def patch(
        self, kind: Kind, namespace: str | None, name: str, changes: Object
    ) -> Object: ...


class Lease:
    """One contender. `identity` is this process's alone, also across restarts."""

    def __init__(
        self,
        leases: Leases,
        namespace: str,
        name: str,
        identity: str,
        *,
        wall: Callable[[], datetime],
        terms: Terms | None = None,
    ) -> None:
        self._leases = leases
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._wall = wall
        self._terms = terms or Terms()
        self._loop = asyncio.get_running_loop()
        self._version = ""  # of the record as this process wrote it last
        self._held_until = 0.0  # by the loop's clock; past it nothing may be done
        self._seen: tuple[str, float] = ("", 0.0)  # version of the record, and since when
        self._told = ""

    def holds(self) -> bool:
        """Whether this process may act now."""
        return self._loop.time() < self._held_until

    async def acquire(self) -> None:
        """Returns when this process leads. Raises nothing: trouble is logged and waited out."""
        while True:
            try:
                if await self._take():
                    log.info(
                        "leading, by lease %s/%s as %s",
                        self._namespace,
                        self._name,
                        self._identity,
                    )
                    return
            except KubeError as error:
                self._tell(f"no lease yet: {error}")
            await asyncio.sleep(self._terms.retry_s)

    async def keep(self) -> NoReturn:
        """Renews until that fails. Raises LeaseLost, before another can have begun."""
        pause_s = self._terms.renew_every_s
        while True:
            try:
                async with asyncio.timeout_at(self._held_until):
                    await asyncio.sleep(pause_s)
                    await self._renew()
                pause_s = self._terms.renew_every_s
            except Unreachable as error:
                log.warning("the lease was not renewed, %.1f s left: %s", self._left_s(), error)
                pause_s = self._terms.retry_s
            except (KubeError, TimeoutError) as error:
                self._held_until = 0.0
                why = str(error) or "it was not renewed in time"
                raise LeaseLost(f"lease {self._namespace}/{self._name} lost: {why}") from error

    async def release(self) -> None:
        """Gives the lease to whoever asks next; to be called when nothing acts any more."""
        held, self._held_until = self.holds(), 0.0
        if not held:
            return
        try:
            await self._within(self._write({"holderIdentity": "", "leaseDurationSeconds": 1}))
        except KubeError as error:
            log.warning("the lease was not released, it runs out by itself: %s", error)

    async def _take(self) -> bool:
        """Whether the lease is this process's now. Raises KubeError."""
        asked_at = self._loop.time()
        record = await self._read()
        if record is None:
            place = {"name": self._name, "namespace": self._namespace}
            spec = {**self._spec(), "acquireTime": self._now(), "leaseTransitions": 0}
            try:
                made = await self._within(
                    self._leases.create(LEASE, {"metadata": place, "spec": spec})
                )
            except AlreadyExists:
                return False
            self._hold(made, asked_at)
            return True
        spec = record.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._run_out(record):
            self._tell(f"standing by: {holder} leads")
            return False
        asked_at = self._loop.time()
        self._version = record["metadata"]["resourceVersion"]
        changes = {
            "acquireTime": self._now(),
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1,
        }
        try:
            written = await self._within(self._write({**self._spec(), **changes}))
        except Conflict:
            return False
        self._hold(written, asked_at)
        return True

    async def _renew(self) -> None:
        """Raises Unreachable (to be tried again), or another KubeError (it is lost).

        A lease that has been deleted is lost: somebody else may have made it anew.
        """
        for _ in range(2):
            asked_at = self._loop.time()
            try:
                written = await self._within(self._write(self._spec()))
            except Conflict:
                # Not as it was written last: by another contender, by a person, or by a
                # renewal of this process whose answer was lost.
                record = await self._read()
                holder = ((record or {}).get("spec") or {}).get("holderIdentity") or "nobody"
                if record is None or holder != self._identity:
                    raise Conflict(f"{holder} holds it") from None
                self._version = record["metadata"]["resourceVersion"]
            else:
                self._hold(written, asked_at)
                return
        raise Unreachable("the record changes under each renewal")

    def _run_out(self, record: Object) -> bool:
        version = record["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._loop.time())
        duration_s = (record.get("spec") or {}).get("leaseDurationSeconds")
        return self._loop.time() - self._seen[1] >= (duration_s or self._terms.duration_s)

    def _hold(self, record: Object, asked_at: float) -> None:
        self._version = record["metadata"]["resourceVersion"]
        self._held_until = asked_at + self._terms.renew_deadline_s

    def _left_s(self) -> float:
        return self._held_until - self._loop.time()

    def _spec(self) -> Object:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._terms.duration_s,
            "renewTime": self._now(),
        }

    def _now(self) -> str:
        return self._wall().isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            log.info("%s", text)

    def _read(self) -> Awaitable[Object | None]:
        return self._within(self._leases.get(LEASE, self._namespace, self._name))

    def _write(self, spec: Object) -> Awaitable[Object]:
        changes = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        return self._leases.patch(LEASE, self._namespace, self._name, changes)

    async def _within(self, answer: Awaitable[T]) -> T:
        seconds = self._terms.request_s
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise Unreachable(f"no answer within {seconds:.1f} s") from error
