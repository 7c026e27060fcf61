"""Outside: what a node takes from the world beside its event loop.

Owns randomness, the wall clock, the name of this boot and the opening of the
store, gathered in one value that is passed in: the simulator gives every node
its own, so that a run follows from one seed. Time that orders or bounds
anything is the loop's; the wall clock only dates values for people.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynamo_core.errors import CallerError
from dynamo_node.config import SYNC, Config
from dynamo_node.storage import META, StorageError, Store, families_in

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def open_rocksdb(config: Config) -> Store:
    """The node's RocksDB under its data_dir, made when there is none.

    Raises CallerError for a RocksDB that isn't of this store, StorageError for
    one that doesn't work.
    """
    path = config.data_dir / "db"
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"data_dir {config.data_dir}: {error.strerror}") from error
    known = set(families_in(path))
    if known and META not in known:
        raise CallerError(f"{path} is a RocksDB, but not of this store; name another data_dir")
    return Store(path, sync=config.durability == SYNC, memory_bytes=config.memory_bytes)


def boot_id() -> str:
    """Names this boot of the machine; "" where the kernel doesn't tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def wall_ms() -> int:
    """Milliseconds since the epoch, as this machine believes."""
    return time.time_ns() // 1_000_000


def free_bytes(config: Config) -> int:
    """What the node's filesystem can still take of it; raises OSError."""
    found = os.statvfs(config.data_dir)
    return found.f_bavail * found.f_frsize


@dataclass(frozen=True, slots=True)
class Outside:
    """One node's world; the defaults are the real one."""

    random_bytes: Callable[[int], bytes] = os.urandom
    wall_ms: Callable[[], int] = wall_ms
    boot_id: Callable[[], str] = boot_id
    open_store: Callable[[Config], Store] = open_rocksdb
    free_bytes: Callable[[Config], int] = free_bytes


REAL = Outside()
