"""`dynamo bench`: load with a progress bar, then operations a second and latencies.

Owns the command's options and its report. Forbidden here: what the load is and
how it is carried out (`workload`).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from dynamo_client.cli.terminal import (
    ANSWER_IS_NO,
    UNREACHABLE,
    complain,
    connect,
    json_option,
    note,
    print_json,
    print_table,
    run,
    timeout_option,
    url_option,
)

if TYPE_CHECKING:
    from dynamo_client.cli.workload import Distribution, Load
    from dynamo_client.client import Protocol

_SHOW_EVERY_SECONDS = 0.25


@click.command("bench", short_help="Load the store and measure it.")
@click.option(
    "--duration", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True, help="In s."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Requests in flight.",
)
@click.option(
    "--value-bytes", type=click.IntRange(0, 64 << 20), default=1024, show_default=True, metavar="N"
)
@click.option(
    "--read-ratio",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of gets; the rest are puts.",
)
@click.option("--keys", type=click.IntRange(1, 10_000_000), default=10_000, show_default=True)
@click.option(
    "--distribution",
    type=click.Choice(["uniform", "zipfian"]),
    default="uniform",
    show_default=True,
    help="How often each key is drawn.",
)
@click.option(
    "--protocol", type=click.Choice(["native", "http"]), default="native", show_default=True
)
@click.option("--r", type=click.IntRange(1), help="Replicas that have to answer a get.")
@click.option("--w", type=click.IntRange(1), help="Replicas that have to store a put.")
@json_option
@timeout_option
@url_option
def bench(
    duration: float,
    concurrency: int,
    value_bytes: int,
    read_ratio: float,
    keys: int,
    distribution: "Distribution",
    protocol: "Protocol",
    r: int | None,
    w: int | None,
    as_json: bool,
    timeout_ms: int,
    url: str,
) -> None:
    """Load the store for --duration seconds, and tell operations a second and latencies.

    It writes keys of its own (dynamo-bench-0, ...) and leaves them there. The
    generator is this one Python process: its share of a core is told too, and
    near 1.00 it is what was measured, not the store. Exit code 1 if requests
    failed, 3 if the cluster was lost.
    """
    from dynamo_client.cli.workload import Load, Workload

    workload = Workload(keys, value_bytes, read_ratio, distribution)

    async def measure() -> tuple[Load, float, float]:
        async with connect(url, timeout_ms, protocol=protocol, discover=True, r=r, w=w) as kv:
            load = Load(kv, workload, concurrency)
            await _shown(
                "prepare", load.prepare(), lambda: (load.prepared, load.prepared / keys, "")
            )
            began, cpu = time.monotonic(), time.process_time()
            await _shown(
                "bench",
                load.run(duration),
                lambda: (load.done, (time.monotonic() - began) / duration, _remark(load)),
            )
            seconds = time.monotonic() - began
            return load, seconds, (time.process_time() - cpu) / seconds

    load, seconds, cpu_share = run(measure(), fast=True)
    if as_json:
        settings = {
            "protocol": protocol,
            "concurrency": concurrency,
            "value_bytes": value_bytes,
            "read_ratio": read_ratio,
            "keys": keys,
            "distribution": distribution,
            "r": r,
            "w": w,
        }
        print_json({**_document(load, seconds, cpu_share), "settings": settings})
    else:
        _print(load, seconds, cpu_share)
    failed = sum(load.failures.values())
    if failed:
        reasons = ", ".join(f"{count:,} {why}" for why, count in load.failures.most_common())
        complain(f"{failed:,} requests failed: {reasons}")
    if load.gave_up:
        complain(f"stopped, because nothing succeeded any more: {load.gave_up}")
        raise click.exceptions.Exit(UNREACHABLE)
    if failed:
        raise click.exceptions.Exit(ANSWER_IS_NO)


async def _shown(
    title: str, work: Coroutine[Any, Any, None], state: Callable[[], tuple[int, float, str]]
) -> None:
    """Carry `work` out, with its progress on stderr."""
    from dynamo_client.cli.progress import Progress

    task = asyncio.ensure_future(work)
    try:
        with Progress(title, "keys" if title == "prepare" else "requests") as progress:
            while not task.done():
                await asyncio.wait((task,), timeout=_SHOW_EVERY_SECONDS)
                done, share, remark = state()
                progress.show(done, min(1.0, share), remark)
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _remark(load: "Load") -> str:
    failed = sum(load.failures.values())
    return f"{failed:,} failed" if failed else ""


def _document(load: "Load", seconds: float, cpu_share: float) -> dict[str, Any]:
    return {
        "operations": load.done,
        "failed": sum(load.failures.values()),
        "failures": dict(load.failures),
        "seconds": round(seconds, 3),
        "ops_per_second": round(load.done / seconds, 1),
        "generator_cores": round(cpu_share, 3),
        "all": load.gets.merged(load.puts).document(),
        "get": load.gets.document(),
        "put": load.puts.document(),
    }


def _print(load: "Load", seconds: float, cpu_share: float) -> None:
    from dynamo_client.cli.latencies import PERCENTILES

    rows = [("get", load.gets), ("put", load.puts), ("all", load.gets.merged(load.puts))]
    print_table(
        ["", "ops/s", *(f"{name} ms" for _, name in PERCENTILES)],
        [
            [
                name,
                f"{found.count / seconds:.0f}",
                *(f"{1000 * found.percentile_s(percent):.2f}" for percent, _ in PERCENTILES),
            ]
            for name, found in rows
            if found.count
        ],
    )
    note(f"{seconds:.1f} s; the generator took {cpu_share:.2f} cores")
