"""Writes the records of an import: many at once, each key in the file's order.

Owns what is done with a record, the retries, and the counts. Forbidden here:
files and the terminal.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

from dynamo_client.cli.checkpoint import Ledger
from dynamo_client.cli.records import BadRecord, Record, parse
from dynamo_client.cli.source import START, Line, Position
from dynamo_client.client import DynamoClient, new_write_id
from dynamo_client.errors import (
    DynamoClientError,
    TooManySiblings,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from dynamo_client.items import Item
from dynamo_core.errors import CallerError

_PAUSE_SECONDS_MAX: Final = 2.0
_REASONS_KEPT: Final = 10


class _GaveUpError(Exception):
    """Ends the writers; `gave_up` says why."""


@dataclass(slots=True)
class Counts:
    """Lines by outcome, and the first reasons for what went wrong as (line number, why)."""

    written: int = 0
    present: int = 0
    failed: int = 0
    bad: int = 0
    retries: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)

    @property
    def finished(self) -> int:
        return self.written + self.present + self.failed + self.bad

    def blame(self, line: int, why: str) -> None:
        if len(self.reasons) < _REASONS_KEPT:
            self.reasons.append((line, why))


class Importer:
    """One import over `kv`.

    Each record is read first: what is there already is not written again, and
    what is written replaces exactly what was read, so that no import makes
    siblings, even if it is run twice. `blind` leaves the read out.
    `rate`: records a second at most (None: as fast as it goes).
    """

    def __init__(
        self,
        kv: DynamoClient,
        *,
        concurrency: int,
        rate: float | None = None,
        blind: bool = False,
        start: Position = START,
        retry_seconds: float = 30.0,
    ) -> None:
        self.counts = Counts()
        self.ledger = Ledger(start)
        self.gave_up = ""  # why the whole import was stopped
        self._kv = kv
        self._concurrency = concurrency
        self._rate = rate
        self._blind = blind
        self._retry_seconds = retry_seconds
        self._next_start = 0.0  # of a record, in the loop's time, where there is a `rate`
        self._lines: deque[Line] = deque()
        self._reading = asyncio.Lock()
        # Set once the last write of a key that is being written has ended.
        self._last_of_key: dict[bytes, asyncio.Future[None]] = {}
        # As many failures on end as there are writers mean that the cluster is gone.
        self._failed_in_a_row = 0

    async def run(self, batches: AsyncGenerator[list[Line], None]) -> None:
        """Write everything, or until the cluster has taken nothing for too long (`gave_up`)."""
        # As many writers as may be at work, not a task for each record: there are millions.
        writers = [asyncio.create_task(self._work(batches)) for _ in range(self._concurrency)]
        try:
            ended, _ = await asyncio.wait(writers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await batches.aclose()
        for writer in ended:
            error = writer.exception()
            if isinstance(error, CallerError):
                raise error  # the file can't be read
            if error is not None:
                self.gave_up = self.gave_up or f"{type(error).__name__}: {error}"

    async def _work(self, batches: AsyncGenerator[list[Line], None]) -> None:
        """Take line after line until there is none, or no use in it."""
        while (line := await self._next_line(batches)) is not None:
            if self._rate:
                await self._wait_for_turn(self._rate)
            record = self._record(line)
            if record is None:
                self.ledger.done(line.end)
                continue
            earlier = self._last_of_key.get(record.key)
            mine = self._last_of_key[record.key] = asyncio.get_running_loop().create_future()
            try:
                if earlier is not None:
                    await earlier  # the same key twice: the later line has to win
                await self._take(record, line.end)
            finally:
                if self._last_of_key[record.key] is mine:
                    del self._last_of_key[record.key]
                mine.set_result(None)
            if self.gave_up:
                raise _GaveUpError

    async def _next_line(self, batches: AsyncGenerator[list[Line], None]) -> Line | None:
        while not self._lines:
            async with self._reading:
                if not self._lines:
                    batch = await anext(batches, None)
                    if batch is None:
                        return None
                    self._lines.extend(batch)
        return self._lines.popleft()

    async def _wait_for_turn(self, rate: float) -> None:
        now = asyncio.get_running_loop().time()
        # A stall is caught up for one second at most.
        start = max(self._next_start, now - 1.0) if self._next_start else now
        self._next_start = start + 1 / rate
        await asyncio.sleep(max(0.0, start - now))

    def _record(self, line: Line) -> Record | None:
        """The line's record; None for an empty line and, blamed, for one that is no record."""
        if not line.text.strip():
            return None
        try:
            return parse(line.text)
        except BadRecord as error:
            self.counts.bad += 1
            self.counts.blame(line.end.line, str(error))
            return None

    async def _take(self, record: Record, end: Position) -> None:
        try:
            present = await self._write_patiently(record)
        except (Unavailable, Unreachable, UnexpectedAnswer) as error:
            self._fail(end, str(error))
            self.ledger.failed(end)
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._concurrency:
                self.gave_up = self.gave_up or str(error)
        except DynamoClientError as error:
            # It would fail again just so: the next run needn't come back to it.
            self._fail(end, str(error))
            self.ledger.done(end)
        else:
            self._failed_in_a_row = 0
            if present:
                self.counts.present += 1
            else:
                self.counts.written += 1
            self.ledger.done(end)

    def _fail(self, end: Position, why: str) -> None:
        self.counts.failed += 1
        self.counts.blame(end.line, why)

    async def _write_patiently(self, record: Record) -> bool:
        """True if nothing had to be written; raises the last error when patience ends."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._retry_seconds
        # One id for each value, however often it is tried: it shows once.
        write_ids = [new_write_id() for _ in record.values]
        pauses = deque((0.05, 0.1, 0.2, 0.5, 1.0))
        tried_write = False
        while True:
            try:
                context = None
                if not self._blind:
                    item = await self._kv.get(record.key)
                    if _holds(item, record):
                        return not tried_write
                    context = item.context
                tried_write = True
                for (value, content_type), write_id in zip(record.values, write_ids, strict=True):
                    await self._kv.put(
                        record.key,
                        value,
                        context=context,
                        content_type=content_type,
                        write_id=write_id,
                    )
                return False
            except (Unavailable, Unreachable, TooManySiblings, UnexpectedAnswer) as error:
                if now() >= deadline or self.gave_up or _hopeless(error, self._blind):
                    raise
                self.counts.retries += 1
            await asyncio.sleep(pauses.popleft() if pauses else _PAUSE_SECONDS_MAX)


def _holds(item: Item, record: Record) -> bool:
    stored = [(sibling.value, sibling.content_type) for sibling in item.siblings]
    return sorted(stored) == sorted(record.values)


def _hopeless(error: DynamoClientError, blind: bool) -> bool:
    if isinstance(error, UnexpectedAnswer):
        return (error.status or 0) < 500
    # Only a read can help where there are too many siblings.
    return blind and isinstance(error, TooManySiblings)
