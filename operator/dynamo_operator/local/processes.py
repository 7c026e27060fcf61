"""The one door to processes: start them, know them again, signal them, wait for them.

A process is known by its id and the moment it started, so that an id which the
system has given to somebody else is never signalled. Forbidden: knowing what a
process is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

POLL_SECONDS = 0.05
GRACE_SECONDS = 15.0  # a node drains for a moment after SIGTERM, then flushes
LOG_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started at a moment which `started` names (opaque)."""

    pid: int
    started: str


def identify(pid: int) -> Process | None:
    """The process that has this id now, or None if there is none (or only its remains)."""
    started = _started(pid)
    return Process(pid, started) if started else None


def alive(process: Process | None) -> bool:
    return process is not None and _started(process.pid) == process.started


def send(process: Process, signal_number: signal.Signals) -> bool:
    """Signals this very process; False if it is gone."""
    if hasattr(os, "pidfd_open"):
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            return False
        try:
            # The handle can't move to another process between the check and the signal.
            if not alive(process):
                return False
            signal.pidfd_send_signal(handle, signal_number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
    if not alive(process):
        return False
    try:
        os.kill(process.pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a command in its own session, with all its output appended to a log file.

    Its own session keeps it clear of the terminal's Ctrl-C and of our own end.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def stop(
    processes: Iterable[Process],
    at_once: asyncio.Event | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> list[Process]:
    """Ends processes gracefully together; returns those that had to be killed.

    Whoever sets `at_once` cuts the grace short. Returns when all are gone.
    """
    left = [process for process in processes if send(process, signal.SIGTERM)]
    for process in left:
        send(process, signal.SIGCONT)  # a paused one would never see the SIGTERM
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_seconds
    while left and loop.time() < deadline and not (at_once and at_once.is_set()):
        await asyncio.sleep(POLL_SECONDS)
        left = [process for process in left if alive(process)]
    killed = [process for process in left if send(process, signal.SIGKILL)]
    await gone(killed, 5)
    return killed


async def gone(processes: Iterable[Process], seconds: float) -> bool:
    """Waits until all of these have ended; False if some have not in that time."""
    left = list(processes)
    for _ in range(int(seconds / POLL_SECONDS)):
        left = [process for process in left if alive(process)]
        if not left:
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def tail(log: Path, lines: int = 8) -> list[str]:
    """The last lines of a log file; none if there is no such file."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]
    return []


def _started(pid: int) -> str:
    """Names the start of a living process, "" if there is none."""
    if sys.platform != "linux":
        return _started_by_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The second field is the program's name in brackets and may hold anything.
    rest = stat[stat.rfind(")") + 2 :].split()
    # The first thread is a zombie as soon as it ends itself; as long as others haven't, what the
    # process has open stays so, its ports among it.
    threads = int(rest[17])
    if rest[0] in "Xx" or (rest[0] == "Z" and threads <= 1):
        return ""
    return f"{_boot()}:{rest[19]}"


def _started_by_ps(pid: int) -> str:
    result = subprocess.run(  # noqa: S603
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = result.stdout.strip().partition(" ")
    return "" if not started or state.startswith("Z") else started.strip()


@cache
def _boot() -> str:
    """This boot of the machine: start times count from it and repeat in the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
