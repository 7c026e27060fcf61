"""A steady load beside which background work is measured, and its latencies by stretches.

Owns an open loop: so many operations a second begin on time, however long the
ones before take, half gets and half puts over a fixed set of keys, each put
with the context of the last one of that key. A latency counts from the moment
at which its operation was due. What fails, and what finds too many in flight,
is counted. Forbidden here: processes, and what the load is beside of.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.figures import percentile
from dynamo_client.client import DynamoClient
from dynamo_client.errors import DynamoClientError

KEYS = 500
IN_FLIGHT_MAX = 256
TIMEOUT_MS = 3_000


class Done(NamedTuple):
    """One operation: when it was due, what it was, how long it took; `ok` if it succeeded."""

    due_s: float
    put: bool
    took_ms: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """The load's figures over a stretch of time; latencies in ms of what succeeded."""

    seconds: float
    operations: int
    failed: int
    get_p50: float
    get_p99: float
    put_p50: float
    put_p99: float


def stretch(done: Sequence[Done], start_s: float, end_s: float) -> Stretch:
    """What was due from `start_s` to `end_s`; a figure without operations is not a number."""
    inside = [one for one in done if start_s <= one.due_s < end_s]
    took = {
        put: sorted(one.took_ms for one in inside if one.ok and one.put == put)
        for put in (False, True)
    }

    def at(put: bool, percent: float) -> float:
        return percentile(took[put], percent) if took[put] else float("nan")

    return Stretch(
        end_s - start_s,
        len(inside),
        sum(not one.ok for one in inside),
        at(False, 50),
        at(False, 99),
        at(True, 50),
        at(True, 99),
    )


class Steady:
    """`async with Steady(kv, ...)`: the load goes on until the block ends."""

    def __init__(self, kv: DynamoClient, per_second: float, value: bytes, seed: int = 1) -> None:
        self.done: list[Done] = []
        self.acknowledged: set[str] = set()
        """Keys of which a put was acknowledged: each must be there in the end."""
        self._kv = kv
        self._pause_s = 1 / per_second
        self._value = value
        self._chance = random.Random(seed)
        self._contexts: dict[str, str | None] = {f"steady-{n}": None for n in range(KEYS)}
        self._free = list(self._contexts)
        self._going: set[asyncio.Task[None]] = set()
        self._pacer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Steady:
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
        await asyncio.gather(
            *(task for task in (self._pacer, *self._going) if task is not None),
            return_exceptions=True,
        )

    async def _pace(self) -> None:
        due = time.monotonic()
        while True:
            due += self._pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            put = self._chance.random() < 0.5
            if len(self._going) >= IN_FLIGHT_MAX:
                self.done.append(Done(due, put, 0.0, ok=False))
                continue
            # One operation of a key at a time: its context is that of the last put.
            at = self._chance.randrange(len(self._free))
            self._free[at], self._free[-1] = self._free[-1], self._free[at]
            task = asyncio.create_task(self._operate(self._free.pop(), put, due))
            self._going.add(task)
            task.add_done_callback(self._going.discard)

    async def _operate(self, key: str, put: bool, due: float) -> None:
        ok = False
        try:
            if put:
                told = await self._kv.put(
                    key, self._value, context=self._contexts[key], timeout_ms=TIMEOUT_MS
                )
                self._contexts[key] = told.context
                self.acknowledged.add(key)
            else:
                item = await self._kv.get(key, timeout_ms=TIMEOUT_MS)
                if key in self.acknowledged and not item.values:
                    raise AssertionError(f"{key} was acknowledged and is gone")
            ok = True
        except DynamoClientError:
            pass
        finally:
            self._free.append(key)
            self.done.append(Done(due, put, (time.monotonic() - due) * 1000, ok))
