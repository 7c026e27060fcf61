"""One cell: generators started, a window cut out of their logs, CPU accounted.

The window begins once every generator has run for a while and ends before the
first one stops; rate and latencies come from the requests that ended in it, by
the generators' own clock. Nothing here knows a contender.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Cell, Generator, Load
from bench.errors import BenchError
from bench.figures import Sample, percentile
from bench.h2load import Logged, Totals, parse_log
from bench.processes import Children, cpu_seconds, machine_cpu_seconds

_SPAWN_S_PER_PROCESS = 0.03  # generous: a fork, and TLS set up in vain
_MARGIN_S = 0.3
_HANG_S = 20.0


@dataclass(frozen=True, slots=True)
class Timing:
    """A cell's lead (generators run, nothing counts) and window, in seconds."""

    lead_s: float
    window_s: float

    def load_s(self, streams: int) -> float:
        """How long each generator runs: late starters must still cover the window."""
        return self.lead_s + self.window_s + _MARGIN_S + streams * _SPAWN_S_PER_PROCESS


@dataclass(frozen=True, slots=True)
class _Window:
    start_us: int
    end_us: int

    @property
    def seconds(self) -> float:
        return (self.end_us - self.start_us) / 1e6


def measure(
    children: Children,
    contender: str,
    cell: Cell,
    load: Load,
    timing: Timing,
    scratch: Path,
) -> Sample:
    """Run a load and return its sample; BenchError when any answer was not the wanted one."""
    logs = [scratch / f"log-{number}" for number in range(len(load.streams))]
    for log in logs:
        log.unlink(missing_ok=True)
    start_s = max(stream.start_s for stream in load.streams)
    load_s = cell.load_s + start_s
    duration_ms = round(load_s * 1000)
    began = time.monotonic()
    generators = [
        children.work(stream.command(log, duration_ms=duration_ms))
        for stream, log in zip(load.streams, logs, strict=True)
    ]
    time.sleep(start_s + timing.lead_s)
    before, start_us = _cpu(load.servers, generators), _now_us()
    time.sleep(timing.window_s)
    after, window = _cpu(load.servers, generators), _Window(start_us, _now_us())
    if time.monotonic() - began > load_s:
        raise BenchError("the generators took too long to start; the machine is overloaded")
    texts = _outputs(children, load.streams, generators, load_s)
    logged = [parse_log(log.read_text().splitlines()) for log in logs]
    totals = [stream.totals(text) for stream, text in zip(load.streams, texts, strict=True)]
    _check_answers(logged, totals, load.wanted_status, window)
    load.verify(totals)
    return _sample(contender, cell, logged, window, before, after)


def run_to_completion(
    children: Children, load: Load, requests: Sequence[int], scratch: Path, limit_s: float
) -> None:
    """Run each stream for so many requests (preloading); all must get the wanted status."""
    logs = [scratch / f"log-{number}" for number in range(len(load.streams))]
    for log in logs:
        log.unlink(missing_ok=True)
    generators = [
        children.work(stream.command(log, requests=count))
        for stream, log, count in zip(load.streams, logs, requests, strict=True)
    ]
    texts = _outputs(children, load.streams, generators, limit_s)
    totals = [stream.totals(text) for stream, text in zip(load.streams, texts, strict=True)]
    logged = [parse_log(log.read_text().splitlines()) for log in logs]
    _check_answers(logged, totals, load.wanted_status, None)
    load.verify(totals)


def _outputs(
    children: Children,
    streams: Sequence[Generator],
    generators: Sequence[subprocess.Popen[str]],
    limit_s: float,
) -> list[str]:
    deadline = time.monotonic() + limit_s + _HANG_S
    texts = []
    for stream, generator in zip(streams, generators, strict=True):
        program = stream.program
        try:
            text, _ = generator.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise BenchError(f"{program} still ran {_HANG_S:.0f} s after its time") from None
        if generator.returncode != 0:
            raise BenchError(f"{program} ended with {generator.returncode}: {text.strip()[-400:]}")
        texts.append(text)
    children.stop(generators)
    return texts


def _check_answers(
    logged: Sequence[Sequence[Logged]],
    totals: Sequence[Totals],
    wanted_status: int,
    window: _Window | None,
) -> None:
    failed = sum(one.failed for one in totals)
    others: dict[int, int] = {}
    for rows in logged:
        for row in rows:
            if row.status != wanted_status:
                others[row.status] = others.get(row.status, 0) + 1
        if window is not None and (not rows or rows[0].end_us > window.start_us):
            raise BenchError(
                "a generator had no answer before the window began: it started late, or the"
                " server stalled"
            )
    if others or failed:
        found = ", ".join(f"{count} of status {status}" for status, count in others.items())
        raise BenchError(
            f"every answer must have status {wanted_status}; there were {found or 'none others'},"
            f" and {failed} requests failed"
        )


def _cpu(
    pids: Mapping[str, int], generators: Sequence[subprocess.Popen[str]]
) -> tuple[dict[str, float], float, float]:
    servers = {name: cpu_seconds(pid) for name, pid in pids.items()}
    return servers, sum(cpu_seconds(one.pid) for one in generators), machine_cpu_seconds()


def _sample(
    contender: str,
    cell: Cell,
    logged: Sequence[Sequence[Logged]],
    window: _Window,
    before: tuple[dict[str, float], float, float],
    after: tuple[dict[str, float], float, float],
) -> Sample:
    latencies = sorted(
        row.latency_us / 1000
        for rows in logged
        for row in rows
        if window.start_us <= row.end_us < window.end_us
    )
    if not latencies:
        raise BenchError(f"no request of {contender} ended within the window")
    servers = {name: (after[0][name] - spent) / window.seconds for name, spent in before[0].items()}
    generator = (after[1] - before[1]) / window.seconds
    machine = (after[2] - before[2]) / window.seconds
    return Sample(
        contender=contender,
        operation=cell.operation,
        connections=cell.connections,
        round=cell.round,
        requests=len(latencies),
        requests_per_s=len(latencies) / window.seconds,
        mean_ms=statistics.fmean(latencies),
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        generators=len(logged),
        cpu_generator=generator,
        cpu_servers=servers,
        cpu_rest=max(0.0, machine - generator - sum(servers.values())),
    )


def _now_us() -> int:
    return time.time_ns() // 1000
