"""What machine this is: the conditions that a report states.

Reads /proc and the disk only; starts nothing but `git`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from bench.errors import CannotStart

MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


def conditions(directory: Path) -> dict[str, str]:
    """Name to text, in the order in which a report shows them."""
    kind = filesystem(directory)
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "Memory": _memory(),
        "Kernel": f"{platform.system()} {platform.release()}",
        "Filesystem of the data": kind
        + (" (memory: fsync costs nothing here)" if kind in MEMORY_FILESYSTEMS else ""),
        "Disk": f"{fsync_rate(directory):,.0f} fdatasync/s (1 KiB appended and synced, in turn)",
        "Python": platform.python_version(),
        "Load average before": f"{os.getloadavg()[0]:.2f}",
    }


def filesystem(directory: Path) -> str:
    """Type of the filesystem that holds a directory, from the longest mount point above it."""
    return filesystem_in(Path("/proc/mounts").read_text(), directory.resolve())


def filesystem_in(mounts: str, directory: Path) -> str:
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        _device, point, found, *_ = line.split()
        point = point.replace("\\040", " ")
        # A later mount on the same point hides the earlier one, hence >=.
        if directory.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    return kind


def fsync_rate(directory: Path, seconds: float = 1.0) -> float:
    """How often a second this disk syncs 1 KiB appended to a file: the floor under both stores."""
    path = directory / "fsync-probe"
    block, synced = os.urandom(1024), 0
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        start = time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            os.write(handle, block)
            os.fdatasync(handle)
            synced += 1
        return synced / passed
    finally:
        os.close(handle)
        path.unlink()


def require_space(directory: Path, wanted_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < wanted_bytes:
        raise CannotStart(
            f"{directory} has {free / 2**30:.1f} GiB free, the run may need"
            f" {wanted_bytes / 2**30:.1f} GiB; free some, choose another disk with --dir, or"
            " measure less (--quick, --rounds, --seconds)"
        )


def revision(project: Path) -> str:
    """The commit that was measured, with a mark when the tree differs from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            check=False,
            cwd=project,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> str:
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return f"{total_kib / 2**20:.0f} GiB"
