"""Records to fill a cluster with: JSON lines `{"key", "value"}`, as `dynamo import` takes them.

Owns reading them from a file, more of them than it holds if need be, and
writing them with bounded concurrency. A record that isn't taken fails the run.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from bench.errors import BenchError, CannotStart
from dynamo_client.client import DynamoClient
from dynamo_client.errors import DynamoClientError

AT_ONCE = 32
TRIES = 5


def read(path: Path, most: int) -> Iterator[tuple[str, bytes]]:
    """`most` records; when the file ends it begins again, with keys of their own."""
    if not path.is_file():
        raise CannotStart(f"there is no file {path}; name one of JSON lines with --data")
    return islice(_endless(path), most)


def _endless(path: Path) -> Iterator[tuple[str, bytes]]:
    for again in count():
        opened = gzip.open if path.suffix == ".gz" else open
        line = ""
        with opened(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                key = record["key"] if not again else f"{record['key']} {again}"
                yield key, record["value"].encode()
        if not line:
            raise CannotStart(f"{path} holds no records")


async def write(kv: DynamoClient, records: Iterator[tuple[str, bytes]]) -> tuple[int, int]:
    """Write them all; how many there were, and how many bytes of values."""
    written = size = 0

    async def worker() -> None:
        nonlocal written, size
        for key, value in records:
            await _put(kv, key, value)
            written += 1
            size += len(value)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return written, size


async def _put(kv: DynamoClient, key: str, value: bytes) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            await kv.put(key, value)
            return
        except DynamoClientError as error:
            if attempt == TRIES:
                raise BenchError(f"record {key!r} is not taken: {error}") from error
            await asyncio.sleep(0.1 * attempt)
