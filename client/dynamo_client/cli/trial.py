"""A recorded workload: what `dynamo verify` does to a cluster, and the history of it.

Owns the sessions, what they do by chance (a seed decides), and how every answer
becomes an operation of a history (`recording` reads it). Forbidden here: the terminal,
and judging (`dynamo_core.history_check`).

Each worker is a client with one session after the other. A session remembers
for each key the context of its last answer, sends it with its writes, and, on
every other read, as a floor. It merges siblings, writes blind, deletes with a
context and without, and writes again what was deleted.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Final

from dynamo_client.cli.recording import READER, clock_in, shown_in
from dynamo_client.client import DynamoClient, new_write_id
from dynamo_client.errors import DynamoClientError, TooManySiblings
from dynamo_core.history import (
    ACKNOWLEDGED,
    DELETE,
    GET,
    PUT,
    REFUSED,
    UNKNOWN,
    History,
    Operation,
    Shown,
)

PAUSE_S: Final = 0.05
"""After a failed request: a cluster in trouble isn't to be hammered."""
_PADDING: Final = b" of dynamo verify" * 4

# What a session does next, and how often in a hundred.
_CHANCES: Final = {
    "get": 22,
    "get with a floor": 22,
    "put": 20,
    "merge": 18,
    "blind put": 6,
    "delete": 7,
    "blind delete": 2,
    "new session": 3,
}

Seen = tuple[str, str]
"""A context: the operation whose answer it came with, and the token."""
Answered = tuple[str, str | None, int]
"""What a write gave: outcome, token, and how many owners acknowledged it."""


class Trial:
    """One recorded run on `kv`; keys are called `prefix` and a number."""

    def __init__(
        self,
        kv: DynamoClient,
        *,
        prefix: str,
        keys: int = 64,
        concurrency: int = 8,
        seed: int = 0,
        pace_s: float = 0.0,
    ) -> None:
        self.history = History()
        self.keys = [f"{prefix}{number}" for number in range(keys)]
        self.failures = 0
        self.reasons: Counter[str] = Counter()
        """The failures by what was asked and what was said: `get 503 not-yet`."""
        self.last_error: DynamoClientError | None = None
        self._kv = kv
        self._concurrency = concurrency
        self._seed = seed
        self._pace_s = pace_s
        self._numbers = count(1)
        self._began = time.monotonic()
        self.started_at = time.time()
        """The history's zero in Unix seconds, to lay it beside what others have seen."""
        self._ended = asyncio.Event()

    @property
    def done(self) -> int:
        """Operations so far."""
        return len(self.history.operations)

    def now(self) -> float:
        """Seconds since the trial was made: the history's clock."""
        return time.monotonic() - self._began

    @property
    def stopped(self) -> bool:
        return self._ended.is_set()

    def stop(self) -> None:
        """End `run` soon."""
        self._ended.set()

    async def run(self, seconds: float) -> None:
        """Work for so long; failed requests are recorded, not raised."""
        self._ended.clear()
        end = self.now() + seconds
        await asyncio.gather(*(self._work(number, end) for number in range(self._concurrency)))

    async def read_all(
        self, nodes: Sequence[DynamoClient], each: Callable[[int], None] = lambda read: None
    ) -> None:
        """Read every key through each of `nodes`; the history says healed from here on."""
        self.history.healed_at = self.now()
        read = 0

        async def through(number: int, kv: DynamoClient) -> None:
            nonlocal read
            for key in self.keys:
                await self._get(kv, f"{READER} {number}", "", key, None)
                read += 1
                each(read)

        await asyncio.gather(*(through(number, kv) for number, kv in enumerate(nodes)))

    # One client

    async def _work(self, number: int, end: float) -> None:
        chance = random.Random(f"{self._seed}/{number}")  # noqa: S311 (a load, not a secret)
        whats, weights = list(_CHANCES), list(_CHANCES.values())
        client, sessions = f"c{number}", count(1)
        session = f"{client}.{next(sessions)}"
        seen: dict[str, Seen] = {}
        while not self._ended.is_set() and self.now() < end:
            what = chance.choices(whats, weights)[0]
            if what == "new session":
                session, seen = f"{client}.{next(sessions)}", {}
                continue
            key = self.keys[int(len(self.keys) * chance.random() ** 2)]  # some are hot
            went_well = await self._step(what, client, session, key, seen, chance)
            pause_s = self._pace_s if went_well else max(self._pace_s, PAUSE_S)
            if pause_s:
                await self._rest(min(pause_s, end - self.now()))
            else:
                await asyncio.sleep(0)

    async def _rest(self, seconds: float) -> None:
        """Or until `stop`."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass

    async def _step(
        self,
        what: str,
        client: str,
        session: str,
        key: str,
        seen: dict[str, Seen],
        chance: random.Random,
    ) -> bool:
        kv, context = self._kv, seen.get(key)
        again = chance.random() < 0.5  # whether a write of unknown outcome is tried once more
        if what.startswith("get"):
            floor = context if what != "get" else None
            found = await self._get(kv, client, session, key, floor)
        elif what == "merge":
            found = await self._get(kv, client, session, key, context)
            if found is not None:
                found = await self._write(PUT, client, session, key, _sendable(found), again)
        elif what.endswith("delete"):
            sent = context if what == "delete" else None
            found = await self._write(DELETE, client, session, key, sent, again)
        else:
            sent = context if what == "put" else None
            found = await self._write(PUT, client, session, key, sent, again)
        # What a session was once told stays its floor: an answer without a context adds nothing,
        # and a read without a floor may be older than what it has.
        if found is not None and found[1] and (what != "get" or context is None):
            seen[key] = found
        return found is not None

    async def _get(
        self, kv: DynamoClient, client: str, session: str, key: str, floor: Seen | None
    ) -> Seen | None:
        name, invoked = f"g{next(self._numbers)}", self.now()
        outcome, token, failed = REFUSED, None, 0
        shown: tuple[Shown, ...] = ()
        owners = 0
        try:
            item = await kv.get(key, context=floor[1] if floor else None)
        except DynamoClientError as error:
            self._failed("get", error)
            failed = 1
        else:
            outcome, shown, token = ACKNOWLEDGED, shown_in(item), item.context
            owners = item.acks.primary
        self._record(
            GET, name, client, session, key, invoked, outcome, floor, token,
            shown=shown, owners=owners, failed=failed,
        )  # fmt: skip
        return (name, token or "") if outcome == ACKNOWLEDGED else None

    async def _write(
        self, op: str, client: str, session: str, key: str, sent: Seen | None, again: bool
    ) -> Seen | None:
        name, invoked = f"w{next(self._numbers)}", self.now()
        token, write_id = sent[1] if sent else None, new_write_id()

        async def once() -> Answered:
            if op == PUT:
                value = name.encode() + _PADDING
                put = await self._kv.put(key, value, context=token, write_id=write_id)
                return ACKNOWLEDGED, put.context, put.acks.primary
            deleted = await self._kv.delete(key, context=token, write_id=write_id)
            # Nothing found, says the last node asked; one before it may have deleted.
            outcome = ACKNOWLEDGED if deleted.found else UNKNOWN
            return outcome, deleted.context, deleted.acks.primary

        # One without a context reads first: it can fail where a write wouldn't.
        what = "blind delete" if op == DELETE and sent is None else op
        (outcome, answered, owners), failed = await self._tried(what, once, again)
        self._record(
            op, name, client, session, key, invoked, outcome, sent, answered,
            by_store=op == DELETE and sent is None, owners=owners, failed=failed,
        )  # fmt: skip
        return (name, answered) if answered is not None and outcome == ACKNOWLEDGED else None

    async def _tried(
        self, what: str, once: Callable[[], Awaitable["Answered"]], again: bool
    ) -> tuple["Answered", int]:
        """Its answer, and how many tries failed; one that may exist is tried again under its id."""
        maybe_done, failed = False, 0
        for _ in range(2 if again else 1):
            try:
                return await once(), failed
            except DynamoClientError as error:
                if not isinstance(error, TooManySiblings):
                    self._failed(what, error)
                    failed += 1
                maybe_done |= error.maybe_done
                if not maybe_done:
                    break
        return ((UNKNOWN if maybe_done else REFUSED), None, 0), failed

    def _record(
        self,
        op: str,
        name: str,
        client: str,
        session: str,
        key: str,
        invoked: float,
        outcome: str,
        sent: Seen | None,
        token: str | None,
        *,
        by_store: bool = False,
        shown: tuple[Shown, ...] = (),
        owners: int = 0,
        failed: int = 0,
    ) -> None:
        operation = Operation(
            id=name,
            op=op,
            client=client,
            session=session,
            key=key,
            invoked=round(invoked, 6),
            returned=round(self.now(), 6),
            outcome=outcome,
            context=sent[0] if sent else None,
            by_store=by_store,
            shown=shown,
            clock=clock_in(token),
            owners=owners,
            failed=failed,
        )
        self.history.operations.append(operation)

    def _failed(self, what: str, error: DynamoClientError) -> None:
        self.failures += 1
        said = f"{error.status or 'no answer'} {error.kind}".strip()
        self.reasons[f"{what} {said}"] += 1
        self.last_error = error


def _sendable(seen: Seen) -> Seen | None:
    """None for the context of an absent key, which is none."""
    return seen if seen[1] else None
