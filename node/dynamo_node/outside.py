"""Outside: what a node takes from the world beside its event loop.

Owns randomness, the wall clock, a stopwatch, the name of this boot, the resolver of hosts'
names and the opening of the store, gathered in one value that is passed in: the simulator gives
every node its own, so that a run follows from one seed. Time that orders or bounds
anything is the loop's; the wall clock only dates values for people, and the stopwatch only
measures what is shown to them: the loop counts whole milliseconds.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamo_core.errors import CallerError
from dynamo_node import opening
from dynamo_node.config import SYNC, Config
from dynamo_node.disk_health import headroom_bytes
from dynamo_node.opening import StorageError, families_in
from dynamo_node.storage import FAMILIES, META, Store

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def open_rocksdb(config: Config, create: bool) -> Store:
    """The node's RocksDB under its data_dir; with `create` it is made when there is none.

    Raises CallerError for what is not this store's or can't be used as it stands,
    StorageError for a disk that doesn't work.
    """
    path = opening.made(config.data_dir, create)
    known = sorted(families_in(path))
    if known and META not in known:
        raise CallerError(
            f"{path} is a RocksDB with the column families {', '.join(known)}, not one of this "
            f"store, which has {', '.join(FAMILIES)}; or its MANIFEST was cut short. Name another "
            "data_dir, or move this one away and start again: the node rebuilds itself"
        )
    try:
        wal_bytes_max = headroom_bytes(size_bytes(config)) // 2
    except OSError as error:
        raise StorageError(f"data_dir {config.data_dir}: {error.strerror}") from error
    return Store(
        path,
        sync=config.durability == SYNC,
        memory_bytes=config.memory_bytes,
        wal_bytes_max=wal_bytes_max,
    )


def boot_id() -> str:
    """Names this boot of the machine; "" where the kernel doesn't tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def free_bytes(config: Config) -> int:
    """What the node's filesystem can still take of it; raises OSError."""
    found = os.statvfs(config.data_dir)
    return found.f_bavail * found.f_frsize


def size_bytes(config: Config) -> int:
    """How large the node's filesystem is; raises OSError."""
    found = os.statvfs(config.data_dir)
    return found.f_blocks * found.f_frsize


def look_up(host: str) -> "asyncio.Future[list[str]]":
    """The addresses of a host by the system's resolver, or OSError.

    In a thread of its own that nobody waits for: a resolver that hangs would hold up the
    loop's end, and with it the process's, for as long as it pleases (uvloop's own waits).
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def work() -> None:
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            tell = partial(found.set_result, list(dict.fromkeys(str(i[4][0]) for i in infos)))
        except OSError as error:
            tell = partial(found.set_exception, error)
        except UnicodeError as error:  # not what a name can be
            tell = partial(found.set_exception, OSError(str(error)))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell)

    try:
        threading.Thread(target=work, name="look-up", daemon=True).start()
    except RuntimeError as error:
        found.set_exception(OSError(str(error)))
    return found


@dataclass(frozen=True, slots=True)
class Outside:
    """One node's world; the defaults are the real one."""

    random_bytes: Callable[[int], bytes] = os.urandom
    wall_ns: Callable[[], int] = time.time_ns
    """Nanoseconds since the epoch, as this machine believes."""
    stopwatch: Callable[[], float] = time.perf_counter
    boot_id: Callable[[], str] = boot_id
    open_store: Callable[[Config, bool], Store] = open_rocksdb
    free_bytes: Callable[[Config], int] = free_bytes
    size_bytes: Callable[[Config], int] = size_bytes
    look_up: "Callable[[str], asyncio.Future[list[str]]]" = look_up

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as this machine believes."""
        return self.wall_ns() // 1_000_000


REAL = Outside()
