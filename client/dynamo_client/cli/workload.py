"""A made-up load: which key is next, and whether it is read or written.

Owns the keys, how they are drawn, and the writers that carry the load out on a
client. Forbidden here: the terminal and processes.
"""

import asyncio
import os
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Literal, TypeAlias

from dynamo_client.cli.latencies import Latencies
from dynamo_client.client import DynamoClient
from dynamo_client.errors import DynamoClientError, TooManySiblings

Distribution: TypeAlias = Literal["uniform", "zipfian"]
# The exponent that YCSB made the usual one.
ZIPF_EXPONENT: Final = 0.99
_DRAWS_MAX: Final = 16
_PAUSE_SECONDS: Final = 0.02
_REASONS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Workload:
    """`keys` keys of which one in each request, `read_ratio` (0..1) of them reads."""

    keys: int = 10_000
    value_bytes: int = 1024
    read_ratio: float = 0.5
    distribution: Distribution = "uniform"

    def key(self, number: int) -> bytes:
        """The name of a key; hot ones are neighbours in number, not on the ring."""
        return b"dynamo-bench-%d" % number

    def draw(self, chance: random.Random) -> Callable[[], int]:
        """A function that draws the number of the next key."""
        if self.distribution == "uniform":
            return lambda: int(chance.random() * self.keys)
        shares = list(accumulate(rank**-ZIPF_EXPONENT for rank in range(1, self.keys + 1)))
        return lambda: min(bisect_left(shares, chance.random() * shares[-1]), self.keys - 1)


class Load:
    """One run of `workload` on `kv`, with `concurrency` requests in flight.

    A write carries the context of what was read or written last, as a session's
    would; a key that is being written is not drawn for another write, because
    two writes that don't know of each other leave siblings, by design.
    """

    def __init__(
        self, kv: DynamoClient, workload: Workload, concurrency: int, seed: int | None = None
    ) -> None:
        self.gets = Latencies()
        self.puts = Latencies()
        self.prepared = 0
        self.failures: Counter[str] = Counter()
        self.gave_up = ""  # why the run was ended early
        self._kv = kv
        self._workload = workload
        self._concurrency = concurrency
        self._chance = random.Random(seed)  # noqa: S311 (a load, not a secret)
        self._value = os.urandom(workload.value_bytes)
        self._contexts: dict[int, str | None] = {}
        self._writing: set[int] = set()
        self._failed_in_a_row = 0

    @property
    def done(self) -> int:
        """Requests that succeeded."""
        return self.gets.count + self.puts.count

    async def prepare(self) -> None:
        """See to it that every key holds a value of the right length; raises what goes wrong."""
        numbers = iter(range(self._workload.keys))

        async def fill() -> None:
            for number in numbers:
                key = self._workload.key(number)
                item = await self._kv.get(key)
                context = item.context
                if [len(value) for value in item.values] != [len(self._value)]:
                    context = (await self._kv.put(key, self._value, context=context)).context
                self._contexts[number] = context
                self.prepared += 1

        await _together([fill() for _ in range(self._concurrency)])

    async def run(self, seconds: float) -> None:
        """Load the store for so long, or until nothing succeeds any more (`gave_up`)."""
        draw = self._workload.draw(self._chance)
        end = time.perf_counter() + seconds
        await _together([self._work(draw, end) for _ in range(self._concurrency)])

    async def _work(self, draw: Callable[[], int], end: float) -> None:
        chance, read_ratio = self._chance.random, self._workload.read_ratio
        clock = time.perf_counter
        while (started := clock()) < end and not self.gave_up:
            number = draw()
            reads = chance() < read_ratio
            if not reads and number in self._writing:
                number = self._another(draw)
                reads = number < 0
                number = max(number, 0)
            try:
                if reads:
                    await self._kv.get(self._workload.key(number))
                    self.gets.add(clock() - started)
                else:
                    await self._put(number)
                    self.puts.add(clock() - started)
            except DynamoClientError as error:
                self._failed(error)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._failed_in_a_row = 0

    def _another(self, draw: Callable[[], int]) -> int:
        """A key that nobody is writing; -1 if luck doesn't find one."""
        for _ in range(_DRAWS_MAX):
            if (number := draw()) not in self._writing:
                return number
        return -1

    async def _put(self, number: int) -> None:
        self._writing.add(number)
        try:
            done = await self._kv.put(
                self._workload.key(number), self._value, context=self._contexts.get(number)
            )
            self._contexts[number] = done.context
        except TooManySiblings:
            # Somebody else writes these keys too: what they wrote has to be read first.
            self._contexts[number] = (await self._kv.get(self._workload.key(number))).context
            raise
        finally:
            self._writing.discard(number)

    def _failed(self, error: DynamoClientError) -> None:
        why = type(error).__name__ + (f" ({error.kind})" if error.kind else "")
        if why in self.failures or len(self.failures) < _REASONS_MAX:
            self.failures[why] += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= max(20, 2 * self._concurrency):
            self.gave_up = self.gave_up or str(error)


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """All to their end; the first error ends them all and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
