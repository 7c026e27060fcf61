"""Child processes, free ports and CPU time from /proc.

Every child is started through `Children` and ended by its pid, whatever
happens to the benchmark. Forbidden: ending anything by name, and knowing what
a child is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from bench.errors import BenchError

STOP_DEADLINE_S = 15.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Children:
    """A context manager: what it spawned is gone when the block ends."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(self._running)

    def serve(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a server; what it prints goes to ``log``."""
        # Should the benchmark be killed outright, its servers must go with it.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with log.open("ab") as sink:
            return self._spawn([*guard, *argv], sink, env)

    def work(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start something that ends by itself; what it prints waits in its ``stdout``."""
        return self._spawn(argv, subprocess.PIPE, None)

    def _spawn(
        self, argv: Sequence[str], sink: IO[bytes] | int, env: Mapping[str, str] | None
    ) -> subprocess.Popen[str]:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                text=True,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone
            )
        except OSError as error:
            raise BenchError(f"cannot start {argv[0]}: {error}") from error
        self._running.append(child)
        return child

    def stop(self, children: Sequence[subprocess.Popen[str]]) -> None:
        """SIGTERM, then SIGKILL for those still there at the deadline; all are reaped."""
        chosen = list(children)
        for child in chosen:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + STOP_DEADLINE_S
        for child in chosen:
            try:
                child.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self._running = [child for child in self._running if child not in chosen]


def wait_until(
    ready: Callable[[], bool], children: Mapping[str, subprocess.Popen[str]], logs: Path, what: str
) -> None:
    """Poll ``ready`` for at most 30 s; a child that ended, or the deadline, raises BenchError.

    Logs are looked for at ``logs/NAME.log``.
    """
    deadline = time.monotonic() + 30.0
    while not ready():
        check_running(children, logs, what)
        if time.monotonic() > deadline:
            ends = "\n".join(f"{name}: {_tail(logs / f'{name}.log')}" for name in children)
            raise BenchError(f"gave up after 30 s of {what}; the ends of the logs:\n{ends}")
        time.sleep(0.05)


def check_running(children: Mapping[str, subprocess.Popen[str]], logs: Path, what: str) -> None:
    """BenchError for a child that ended while `what` went on."""
    for name, child in children.items():
        if child.poll() is not None:
            raise BenchError(
                f"{name} ended with code {child.returncode} while {what}; the end of its"
                f" log:\n{_tail(logs / f'{name}.log')}"
            )


def _tail(log: Path) -> str:
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return parse_process_cpu(stat) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def machine_cpu_seconds() -> float:
    """Time that all cores were busy, stolen time included (idle and iowait are not)."""
    first = Path("/proc/stat").read_text().splitlines()[0]
    return parse_machine_cpu(first) / _TICKS_PER_S


def parse_process_cpu(stat: str) -> int:
    """Ticks of utime + stime in a line of /proc/PID/stat; the name may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_machine_cpu(line: str) -> int:
    """Ticks of user, nice, system, irq, softirq and steal in the first line of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return user + nice + system + irq + softirq + steal
