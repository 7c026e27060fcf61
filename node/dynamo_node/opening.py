"""Opening: a store's folder before RocksDB has it open, and what RocksDB's errors mean.

Owns what may lie where a store shall be made (nothing is ever made over data),
who may use it, with which settings RocksDB opens it, and the translation of its
errors: a disk that doesn't work now (`StorageError`), one whose content can't be
read (`DamagedError`), one that somebody else has (`LockedError`).

Forbidden here: what the bytes mean, and an open store; see `storage`.
"""

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict

from dynamo_core.errors import CallerError, DynamoError

LOG_FILES_KEPT: Final = 3
WAL_BYTES_MIN: Final = 1 << 20
_LOCKS: Final = Path("/proc/locks")


class StorageError(DynamoError):
    """The disk or RocksDB refused; the cause is chained."""


class DamagedError(StorageError):
    """What is stored can't be read: the same disk won't do again, another has to be given."""


class LockedError(CallerError):
    """The store is open already; two never share a folder."""


def made(data_dir: Path, create: bool) -> Path:
    """The folder of the store in `data_dir`, made if there is none and `create` allows it.

    Raises CallerError for what only a person can mend (a file in the way, a missing
    permission), StorageError for a disk that doesn't work, DamagedError where the
    remains of a store lie without what RocksDB begins with.
    """
    path = data_dir / "db"
    try:
        if create:
            for folder in (data_dir, path):
                folder.mkdir(parents=True, exist_ok=True)
        files = sorted(os.listdir(path))
    except FileExistsError as error:
        raise CallerError(
            f"data_dir {data_dir}: {error.filename} is a file; a folder is needed"
        ) from error
    except NotADirectoryError as error:
        raise CallerError(
            f"data_dir {data_dir}: {error.filename} lies below a file; a folder is needed"
        ) from error
    except PermissionError as error:
        raise _not_permitted(data_dir, error) from error
    except FileNotFoundError as error:
        raise _gone(data_dir) from error
    except OSError as error:
        raise StorageError(f"data_dir {data_dir}: {error.strerror}") from error
    if "CURRENT" not in files:
        remains = [f for f in files if f.endswith((".sst", ".blob", ".log"))]
        if remains:
            raise DamagedError(
                damaged(
                    f"the store at {path} can't be opened",
                    f"its file CURRENT is missing beside {len(remains)} files of data "
                    f"({', '.join(remains[:3])})",
                    path,
                )
            )
        if not create:
            raise _gone(data_dir)
    # A file system that is read-only says so itself, and may be writable again.
    elif not (os.access(path, os.W_OK | os.X_OK) or os.statvfs(path).f_flag & os.ST_RDONLY):
        denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        raise _not_permitted(data_dir, denied)
    return path


def _gone(data_dir: Path) -> StorageError:
    return StorageError(
        f"data_dir {data_dir} is empty, and this process had a disk there: bring that one back, "
        "or start the node again to begin with an empty one and rebuild it from the other owners"
    )


def _not_permitted(data_dir: Path, error: OSError) -> CallerError:
    where = Path(str(error.filename or data_dir))
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        found = where.stat()
        whose = f"{where} belongs to uid {found.st_uid} with mode {found.st_mode & 0o7777:04o}"
    except OSError:
        whose = f"{where} can't be looked at"
    return CallerError(
        f"data_dir {data_dir}: {error.strerror}: {whose}, and this process runs as uid "
        f"{os.getuid()}, which has to read and write there (in Kubernetes: fsGroup)"
    )


def families_in(path: Path) -> Iterable[str]:
    """Column families of the store at `path`; none when there is no store yet."""
    if not (path / "CURRENT").exists():
        return ()
    try:
        return Rdict.list_cf(str(path), Options(raw_mode=True))
    except Exception as error:  # rocksdict raises plain Exception
        raise opening_failed(path, error) from error


def opening_failed(path: Path, error: BaseException) -> StorageError | CallerError:
    """What a failed opening of the store at `path` means."""
    text = str(error)
    if "lock hold by" in text or ("LOCK" in text and "temporarily unavailable" in text):
        return LockedError(
            f"the store at {path} can't be opened: {_holder(path / 'LOCK')} has it open, and two "
            "never share one; stop that process, or give this node a data_dir of its own"
        )
    if "Permission denied" in text or "Operation not permitted" in text:
        return CallerError(
            f"the store at {path} can't be opened: {text}; this process runs as uid "
            f"{os.getuid()}, which has to read and write there"
        )
    if "No such file" in text:  # a file of its own that RocksDB misses
        return DamagedError(damaged(f"the store at {path} can't be opened", text, path))
    return meaning(error, f"the store at {path} can't be opened", path)


def _holder(lock: Path) -> str:
    """Who has `lock`, as far as the kernel tells."""
    try:
        inode = str(lock.stat().st_ino)
        for line in _LOCKS.read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[5].rpartition(":")[2] == inode:
                mine = words[4] == str(os.getpid())
                return "this process itself" if mine else f"process {words[4]}"
    except OSError:
        pass
    return "another process"


def meaning(error: BaseException, what: str, path: Path | None = None) -> StorageError:
    """RocksDB's error as one of this store: damage, or a disk that doesn't work."""
    if isinstance(error, StorageError):
        return error
    text = str(error)
    if "Corruption:" in text:
        return DamagedError(damaged(what, text, path))
    return StorageError(f"{what}: {text}")


def damaged(what: str, text: str, path: Path | None) -> str:
    """The text of a DamagedError, with what to do about the store at `path`."""
    text = " ".join(text.split())
    if path is None:
        return f"{what}: {text}"
    return (
        f"{what}: it is damaged: {text}; to replace this disk, stop the node, move "
        f"{path.parent} away and start it again: it rebuilds itself from the other owners"
    )


def settings(memory_bytes: int, wal_bytes_max: int) -> Options:
    """With what RocksDB is opened."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    # A quarter of the memory for writes, half for blocks; compaction and
    # indexes take the rest. Large, few memtables keep write stalls rare.
    wal_bytes = min(max(64 << 20, memory_bytes // 2), max(WAL_BYTES_MIN, wal_bytes_max))
    options.set_write_buffer_size(min(max(4 << 20, memory_bytes // 8), wal_bytes // 2))
    options.set_max_write_buffer_number(3)
    options.set_max_background_jobs(2)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_bytes_per_sync(1 << 20)
    options.set_keep_log_file_num(LOG_FILES_KEPT)
    # An opening writes what it finds in the log once more, and needs that much room.
    options.set_max_total_wal_size(wal_bytes)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(memory_bytes // 2))
    options.set_block_based_table_factory(table)
    return options
