"""Disks to be filled, failed and damaged under real nodes.

Owns small file systems that end with the test, and a node program whose RocksDB
fails while a file says so, where nothing short of a broken drive would.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

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
