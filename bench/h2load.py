"""The load generator: h2load's command line, its summary and its request log.

Owns everything that is known about h2load's behaviour, and nothing about the
contenders. Read from h2load 1.52 (nghttp2):

- every connection of one process walks the list of URIs from its first line, so
  two connections of one process write the same keys; distinct keys per
  connection need one process per connection;
- ``-d`` makes the method POST, and ``-H ':method: PUT'`` overrides that, for
  HTTP/1.1 too;
- with ``-D`` the requests in flight at the end are counted as started, never as
  done, and are missing in the log.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, CannotStart

PROGRAM = "h2load"
PACKAGE = "nghttp2-client"

_REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded,"
    r" (\d+) failed, (\d+) errored, (\d+) timeout",
    re.MULTILINE,
)
_TRAFFIC = re.compile(r"^traffic: .*\((\d+)\) data", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stream:
    """One h2load process: what it sends, over how many connections, one at a time each.

    ``target`` is a URI, or a file with one URI a line (``target_is_list``).
    With ``body`` the file's bytes are sent with every request.
    """

    target: str
    connections: int
    target_is_list: bool = False
    body: Path | None = None
    method: str = ""
    headers: tuple[str, ...] = ()
    http1: bool = False

    @property
    def program(self) -> str:
        return PROGRAM

    @property
    def start_s(self) -> float:
        return 0.0  # it is there at once

    def command(
        self, log: Path, *, duration_ms: int | None = None, requests: int | None = None
    ) -> list[str]:
        return command(self, log, duration_ms=duration_ms, requests=requests)

    def totals(self, text: str) -> Totals:
        return parse_summary(text)


@dataclass(frozen=True, slots=True)
class Totals:
    """A process's own summary. ``data_bytes`` are bodies received."""

    started: int
    succeeded: int
    failed: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Logged:
    """One finished request: when it ended (microseconds since 1970), status, latency."""

    end_us: int
    status: int
    latency_us: int


def command(
    stream: Stream, log: Path, *, duration_ms: int | None = None, requests: int | None = None
) -> list[str]:
    """The arguments of one process, bounded by a time or by a number of requests."""
    if (duration_ms is None) == (requests is None):
        raise ValueError("give either duration_ms or requests")
    argv = [PROGRAM, "-c", str(stream.connections), "-m", "1", "-t", "1", f"--log-file={log}"]
    if duration_ms is not None:
        argv += ["-D", f"{duration_ms}ms", "--warm-up-time=0"]
    else:
        argv += ["-n", str(requests)]
    if stream.http1:
        argv.append("--h1")
    if stream.body is not None:
        argv += ["-d", str(stream.body)]
    if stream.method:
        argv += ["-H", f":method: {stream.method}"]
    for header in stream.headers:
        argv += ["-H", header]
    return [*argv, "-i", stream.target] if stream.target_is_list else [*argv, stream.target]


def parse_summary(text: str) -> Totals:
    requests, traffic = _REQUESTS.search(text), _TRAFFIC.search(text)
    if requests is None or traffic is None:
        tail = text.strip()[-400:] or "(nothing)"
        raise BenchError(f"h2load printed no summary; its last words: {tail}")
    total, started, _done, succeeded, failed, errored, timeout = map(int, requests.groups())
    return Totals(
        started=started,
        succeeded=succeeded,
        # A request that was never started (connection refused) is no success either.
        failed=max(failed + errored, total - succeeded) + timeout,
        data_bytes=int(traffic.group(1)),
    )


def parse_log(lines: Iterable[str]) -> list[Logged]:
    """Rows are ``start (us since 1970) TAB status TAB latency (us)``; later columns are ignored."""
    logged = []
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        try:
            start_us, status, latency_us = int(fields[0]), int(fields[1]), int(fields[2])
        except (ValueError, IndexError):
            raise BenchError(
                f"line {number} of h2load's log is {line.strip()!r}; expected start, status and"
                " latency, divided by tabs"
            ) from None
        logged.append(Logged(start_us + latency_us, status, latency_us))
    return logged


def version() -> str:
    """Also the check that h2load is there."""
    if shutil.which(PROGRAM) is None:
        raise CannotStart(f"{PROGRAM} is not installed; on Debian: apt-get install {PACKAGE}")
    done = subprocess.run(
        [PROGRAM, "--version"], check=False, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()
