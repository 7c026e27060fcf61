"""`dynamo export`: every key as a JSON line.

Owns the walk over partitions and the order of the output. A key is found at the
nodes that hold its partition (`listing`) and then read with a quorum, as any
client would. Forbidden here: the lines' form (`records`).
"""

import asyncio
import gzip
import os
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dynamo_client.cli.listing import Listing
from dynamo_client.cli.terminal import (
    UNREACHABLE,
    Cluster,
    admin_token_option,
    cluster_options,
    complain,
    note,
    print_json,
    run,
)
from dynamo_client.errors import Unavailable, Unreachable
from dynamo_client.items import Item, show_key
from dynamo_core.errors import CallerError

if TYPE_CHECKING:
    from dynamo_client.cli.admin import Admin
    from dynamo_client.client import DynamoClient
    from dynamo_core.ring import Ring

_LISTED_AHEAD = 4
_READ_TRIES = 4
_SHOW_EVERY_SECONDS = 0.25


@click.command("export", short_help="Write every key as JSON lines.")
@click.option(
    "-o", "--output", type=click.Path(), default="-", help="A file, packed if it ends in .gz."
)
@click.option("--concurrency", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option("--r", type=click.IntRange(1), help="Replicas that have to answer each read.")
@admin_token_option
@cluster_options("auto")
def dump(
    output: str,
    concurrency: int,
    r: int | None,
    admin_token: str,
    cluster: Cluster,
    as_json: bool,
) -> None:
    """Write every key as JSON lines, as `dynamo import` reads them, to stdout or a file.

    With -o the file appears when it is complete, and --json puts a summary on
    stdout. Exit code 3 if keys may be missing, because nodes didn't answer.
    """
    to_file = output != "-"
    started = time.monotonic()

    async def walk(sink: IO[bytes] | gzip.GzipFile) -> _Export:
        from dynamo_client.cli.admin import Admin

        async with cluster.connect(discover=True, r=r) as kv:
            view = await kv.cluster()
            async with Admin(view, admin_token) as admin:
                export = _Export(kv, admin, await admin.ring(), concurrency)
                await export.write(sink, show=to_file or not sys.stdout.isatty())
                return export

    with _sink(output) as sink:
        export = run(walk(sink), fast=True)
    seconds = time.monotonic() - started
    if to_file and as_json:
        print_json({**export.counts(), "file": output, "seconds": round(seconds, 3)})
    elif not as_json:
        note(
            f"{export.keys:,} keys in {seconds:.1f} s ({export.keys / max(seconds, 1e-6):,.0f}/s), "
            f"{export.with_siblings:,} of them with siblings"
        )
    for problem in export.problems:
        complain(problem)
    if export.is_incomplete:
        raise click.exceptions.Exit(UNREACHABLE)


class _Export:
    """One walk over all partitions of `ring`."""

    def __init__(self, kv: "DynamoClient", admin: "Admin", ring: "Ring", concurrency: int) -> None:
        self.keys = 0
        self.with_siblings = 0
        self.problems: list[str] = []
        self.is_incomplete = False
        self._kv = kv
        self._ring = ring
        self._listing = Listing(admin, ring)
        self._concurrency = concurrency
        self._unreadable = 0
        self._partitions_done = 0

    def counts(self) -> dict[str, Any]:
        """The summary for programs."""
        return {
            "keys": self.keys,
            "with_siblings": self.with_siblings,
            "complete": not self.is_incomplete,
            "problems": self.problems,
        }

    async def write(self, sink: IO[bytes] | gzip.GzipFile, *, show: bool) -> None:
        """Write a line for each key that holds a value; the order is the ring's."""
        from dynamo_client.cli.progress import Progress
        from dynamo_client.cli.records import render

        shown = 0.0
        reads: deque[asyncio.Task[Item | None]] = deque()

        def take(item: Item | None) -> None:
            if item is not None and item.found:
                sink.write(render(item))
                self.keys += 1
                self.with_siblings += len(item.siblings) > 1

        try:
            with Progress("export", "keys") as progress:
                async with aclosing(self._listed()) as keys:
                    async for key in keys:
                        reads.append(asyncio.create_task(self._read(key)))
                        if len(reads) >= self._concurrency:
                            take(await reads.popleft())
                        if show and time.monotonic() - shown > _SHOW_EVERY_SECONDS:
                            shown = time.monotonic()
                            progress.show(self.keys, self._partitions_done / self._ring.partitions)
                while reads:
                    take(await reads.popleft())
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        self._judge()

    async def _listed(self) -> AsyncGenerator[bytes, None]:
        todo = iter(range(self._ring.partitions))
        ahead = deque(
            asyncio.create_task(self._listing.keys(partition))
            for partition in islice(todo, _LISTED_AHEAD)
        )
        try:
            while ahead:
                keys = await ahead.popleft()
                if (partition := next(todo, None)) is not None:
                    ahead.append(asyncio.create_task(self._listing.keys(partition)))
                for key in sorted(keys):
                    yield key
                self._partitions_done += 1
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _read(self, key: bytes) -> Item | None:
        for attempt in range(1, _READ_TRIES + 1):
            try:
                return await self._kv.get(key)
            except (Unavailable, Unreachable) as error:
                if attempt == _READ_TRIES:
                    if not self._unreadable:
                        self.problems.append(f"the key {show_key(key)} can't be read: {error}")
                    self._unreadable += 1
                    return None
            await asyncio.sleep(0.1 * 2**attempt)
        return None

    def _judge(self) -> None:
        if self._unreadable > 1:
            self.problems.append(f"{self._unreadable - 1:,} more keys can't be read")
        self.problems += self._listing.judge()
        self.is_incomplete = bool(self._unreadable) or self._listing.is_incomplete


@contextmanager
def _sink(output: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Stdout, or a file that takes its name when everything is in it."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    aside = Path(f"{output}.part")
    try:
        opened = aside.open("wb")
    except OSError as error:
        raise CallerError(f"{output} can't be written: {(error.strerror or '').lower()}") from error
    try:
        with opened:
            if output.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=opened, mode="wb", mtime=0) as packed:
                    yield packed
            else:
                yield opened
        os.replace(aside, output)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
