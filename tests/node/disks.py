"""Disks to be filled, failed and damaged under real nodes.

Owns small file systems that end with the test, and a node program whose RocksDB
fails while a file says so, where nothing short of a broken drive would.
"""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_EXT4_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING = 2

FAILING_ROCKSDB = f"""
import sys
sys.path.insert(0, {str(_ROOT)!r})
from pathlib import Path
from dynamo_node import storage
from tests.node.hooked_rocksdb import HookedRocksDB

def check(where):
    def fail():
        for line in where.read_text().splitlines() if where.exists() else ():
            raise Exception(line)
    return fail

class Failing(HookedRocksDB):
    def __init__(self, path, *arguments):
        failing = check(Path(path).parent.with_suffix(".failing"))
        failing()
        super().__init__(path, *arguments)
        self.fail_sync = failing

storage.Rdict = Failing
from dynamo_node.main import main
main()
"""
"""A node whose syncs and openings fail with the text in DATA_DIR.failing, while it exists."""


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Somebody else's file takes all but `leave_bytes`."""
        with self._ballast.open("ab") as file:
            while (left := self.free_bytes() - leave_bytes) > 0:
                try:
                    file.write(bytes(min(left, 1 << 20)))
                    file.flush()
                except OSError:
                    break

    def clear(self) -> None:
        self._ballast.unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)


class FailingDisk:
    """A mounted ext4, in a file: every access fails after `fail`, until it is mounted anew."""

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self._image = image

    def fail(self) -> None:
        """As if the drive were pulled: EIO for everything, what wasn't flushed is gone."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _EXT4_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        finally:
            os.close(handle)

    def mount(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["mount", "-o", "loop", str(self._image), str(self.path)],
            capture_output=True,
            text=True,
        )

    def unmount(self) -> bool:
        """Whether it could be: while the node has a file of it open, it can't."""
        return not subprocess.run(["umount", str(self.path)], capture_output=True).returncode


@contextmanager
def failing_disk(folder: Path) -> Iterator[FailingDisk]:
    """A disk that can fail, mounted at `folder`/disk; skips where there can't be one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    disk = FailingDisk(folder / "disk", folder / "disk.img")
    disk.path.mkdir(parents=True)
    with disk._image.open("wb") as file:
        file.truncate(64 << 20)
    try:
        made = subprocess.run(["mkfs.ext4", "-q", str(disk._image)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mkfs.ext4 here")
    mounted = made if made.returncode else disk.mount()
    if mounted.returncode:
        pytest.skip(f"an ext4 in a file can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk.path)], check=False, capture_output=True)


@contextmanager
def small_disk(path: Path, size: str = "64m") -> Iterator[SmallDisk]:
    """A file system of that size at `path`, gone afterwards; skips where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"a small file system can't be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily, so that a process which is still ending doesn't keep it in the tree.
        subprocess.run(["umount", "-l", str(path)], check=True)
