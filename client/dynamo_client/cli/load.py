"""`dynamo import`: the command around the importer.

Owns its options, the checkpoint's life, and what is said at the end. Forbidden
here: how a record is written (`importer`) and how lines are read (`source`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamo_client.cli.terminal import (
    ANSWER_IS_NO,
    INTERRUPTED,
    UNREACHABLE,
    Cluster,
    admin_token_option,
    cluster_options,
    complain,
    note,
    print_json,
    run,
)

if TYPE_CHECKING:
    from dynamo_client.cli.checkpoint import Checkpoint
    from dynamo_client.cli.importer import Importer
    from dynamo_client.cli.source import Identity, Position, Source

_SHOW_EVERY_SECONDS = 0.25
_SAVE_EVERY_SECONDS = 1.0


@click.command("import", short_help="Write the records of a JSON lines file.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--concurrency", type=click.IntRange(1, 1024), default=32, show_default=True)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Records a second at most.")
@click.option("--blind", is_flag=True, help="Don't read first: for a first load only.")
@click.option("--checkpoint", type=click.Path(dir_okay=False), help="[default: FILE.dynamo-import]")
@click.option("--resume/--no-resume", default=True, help="Go on where an interrupted run ended.")
@click.option(
    "--retry-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long a record is tried while the cluster can't take it.",
)
@click.option("--w", type=click.IntRange(1), help="Replicas that have to store a record.")
@admin_token_option
@cluster_options("auto")
def load(
    file: str,
    concurrency: int,
    rate: float | None,
    blind: bool,
    checkpoint: str | None,
    resume: bool,
    retry_seconds: float,
    w: int | None,
    admin_token: str,
    cluster: Cluster,
    as_json: bool,
) -> None:
    """Write the records of FILE, one JSON object a line; `-` is stdin, .gz is unpacked.

    A record is {"key": ..., "value": ...}, with key_base64 and value_base64 for
    bytes that aren't text, and content_type if you like. What is there already
    is not written again. An interrupted import goes on when it is called again.
    Exit code 1 if a record failed or a line is no record, 3 if the cluster was lost.
    """
    if file == "-" and checkpoint is not None:
        raise click.UsageError("stdin can't be resumed; --checkpoint needs a file")
    started = time.monotonic()
    job = _Job(file, checkpoint, resume)

    async def write() -> None:
        from dynamo_client.cli.importer import Importer

        async with cluster.connect(discover=True, w=w) as kv:
            view = await kv.cluster()
            await job.open(lambda: _cluster_name(view, admin_token))
            job.importer = Importer(
                kv,
                concurrency=concurrency,
                rate=rate,
                blind=blind,
                start=job.start,
                retry_seconds=retry_seconds,
            )
            await job.carry_out()

    try:
        run(write(), fast=True)
    except KeyboardInterrupt:
        job.keep()
        job.report(time.monotonic() - started, as_json)
        if job.path is not None:
            note("interrupted: the same command goes on from there")
        raise click.exceptions.Exit(INTERRUPTED) from None
    raise click.exceptions.Exit(job.finish(time.monotonic() - started, as_json))


class _Job:
    """One import: its source, its checkpoint and its end."""

    def __init__(self, file: str, checkpoint: str | None, resume: bool) -> None:
        from dynamo_client.cli.source import START, identity_of

        self.file = file
        self.path: Path | None = None
        self.start: Position = START
        self.importer: Importer | None = None
        self.source: Source | None = None
        self._resume = resume
        self._identity: Identity | None = None
        self._cluster = ""
        if file != "-":
            if Path(file).is_dir():
                raise click.UsageError(f"{file} is a folder; a file of JSON lines is needed")
            self._identity = identity_of(file)
            self.path = Path(checkpoint) if checkpoint else Path(f"{file}.dynamo-import")

    async def open(self, cluster_name: Callable[[], Awaitable[str]]) -> None:
        """Find where to start, and say so if it isn't the beginning."""
        from dynamo_client.cli import checkpoint
        from dynamo_client.cli.source import Source

        if self.path is not None and self._identity is not None:
            self._cluster = await cluster_name()
            earlier = checkpoint.load(self.path) if self._resume else None
            if earlier is not None:
                why_not = earlier.mismatch(self._identity, self._cluster)
                if why_not:
                    note(f"starting over: {self.path} is of an earlier import, but {why_not}")
                else:
                    self.start = earlier.position
                    note(
                        f"going on after line {self.start.line:,}: the lines before were done by "
                        "an earlier run (--no-resume starts over)"
                    )
            checkpoint.save(self.path, self._checkpoint(self.start, self._identity))
        self.source = Source(self.file, self.start)

    async def carry_out(self) -> None:
        """Run the importer, showing progress and saving the position from time to time."""
        from dynamo_client.cli.progress import Progress

        assert self.importer is not None
        assert self.source is not None
        work = asyncio.create_task(self.importer.run(self.source.batches()))
        saved = time.monotonic()
        try:
            with Progress(f"import {Path(self.file).name}", "records") as progress:
                while not work.done():
                    await asyncio.wait((work,), timeout=_SHOW_EVERY_SECONDS)
                    progress.show(self.importer.counts.finished, self._share(), self._remark())
                    if time.monotonic() - saved >= _SAVE_EVERY_SECONDS:
                        self.keep()
                        saved = time.monotonic()
            await work
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            self.keep()

    def keep(self) -> None:
        """Write the checkpoint."""
        from dynamo_client.cli import checkpoint

        if self.path is not None and self._identity is not None and self.importer is not None:
            position = self.importer.ledger.position
            checkpoint.save(self.path, self._checkpoint(position, self._identity))

    def finish(self, seconds: float, as_json: bool) -> int:
        """Report, drop the checkpoint if nothing is left to do, and tell the exit code."""
        assert self.importer is not None
        counts, gave_up = self.importer.counts, self.importer.gave_up
        open_lines = gave_up or self.importer.ledger.has_failed
        if self.path is not None and not open_lines:
            self.path.unlink(missing_ok=True)
        self.report(seconds, as_json)
        if gave_up:
            complain(f"stopped, because the cluster takes no more records: {gave_up}")
        if open_lines and self.path is not None:
            at = self.importer.ledger.position.line
            note(f"the same command goes on after line {at:,} and tries again what failed")
        if gave_up:
            return UNREACHABLE
        return ANSWER_IS_NO if counts.failed or counts.bad else 0

    def report(self, seconds: float, as_json: bool) -> None:
        """The counts on stdout, the first reasons on stderr."""
        if self.importer is None:
            return
        counts = self.importer.counts
        rate = counts.finished / max(seconds, 1e-6)
        for line, why in counts.reasons:
            complain(f"line {line}: {why}")
        if counts.failed + counts.bad > len(counts.reasons):
            note(f"... and {counts.failed + counts.bad - len(counts.reasons):,} more")
        if as_json:
            print_json(
                {
                    "file": self.file,
                    "records": counts.finished,
                    "written": counts.written,
                    "already_there": counts.present,
                    "failed": counts.failed,
                    "bad_lines": counts.bad,
                    "retries": counts.retries,
                    "skipped_lines": self.start.line,
                    "done_through_line": self.importer.ledger.position.line,
                    "seconds": round(seconds, 3),
                    "records_per_second": round(rate, 1),
                    "problems": [{"line": line, "why": why} for line, why in counts.reasons],
                }
            )
            return
        click.echo(
            f"{counts.finished:,} records in {seconds:.1f} s ({rate:,.0f}/s): "
            f"{counts.written:,} written, {counts.present:,} skipped (already there), "
            f"{counts.failed:,} failed, {counts.bad:,} bad lines"
            + (f"; {self.start.line:,} lines skipped (earlier run)" if self.start.line else "")
        )

    def _share(self) -> float | None:
        assert self.source is not None
        total = self.source.bytes_total
        return self.source.bytes_read / total if total else None

    def _remark(self) -> str:
        assert self.importer is not None
        counts = self.importer.counts
        parts = ((counts.failed, "failed"), (counts.bad, "bad lines"), (counts.retries, "retries"))
        return ", ".join(f"{count:,} {name}" for count, name in parts if count)

    def _checkpoint(self, position: "Position", identity: "Identity") -> "Checkpoint":
        from dynamo_client.cli.checkpoint import Checkpoint

        return Checkpoint(identity, self._cluster, position)


async def _cluster_name(view: dict[str, object], admin_token: str) -> str:
    """What tells this cluster from others: its id where a node tells it, else its name."""
    from dynamo_client.cli.admin import Admin

    name = str(view.get("name", ""))
    async with Admin(view, admin_token) as admin:
        return f"{name} {await admin.cluster_id()}".strip()
