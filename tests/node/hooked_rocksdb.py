"""A RocksDB whose writes and syncs can be watched, held back and made to fail."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rocksdict import Options

from dynamo_node import storage

_Rdict = storage.Rdict


class HookedRocksDB:
    """Stands where `storage.Rdict` stands; everything but write, sync and reads is the real one.

    `log` says what reached RocksDB, in order. While `sync_gate` is cleared, a
    sync waits in its thread. `fail_write`, `fail_sync` and `fail_get` are
    asked before each and may raise.
    """

    def __init__(self, path: str, *arguments: Any) -> None:
        self.log: list[str] = []
        self.sync_gate = threading.Event()
        self.sync_gate.set()
        self.fail_write: Callable[[], None] = lambda: None
        self.fail_sync: Callable[[], None] = lambda: None
        self.fail_close: Callable[[], None] = lambda: None
        self.get_gate = threading.Event()
        self.get_gate.set()
        self.gets = 0
        self._db = _Rdict(path, *arguments)
        # Without the families of the real one, so that it refuses every batch.
        self._scratch = _Rdict(f"{path}-scratch", Options(raw_mode=True))

    @staticmethod
    def list_cf(*arguments: Any) -> list[str]:
        return _Rdict.list_cf(*arguments)

    def write(self, batch: Any, options: Any) -> None:
        size = len(batch)  # raises for a batch that was written, or refused, before
        try:
            self.fail_write()
        except Exception:
            with suppress(Exception):  # as rocksdict does: what is refused is emptied
                self._scratch.write(batch)
            raise
        self._db.write(batch, options)
        self.log.append(f"write {size}")

    def flush_wal(self, sync: bool) -> None:
        self.sync_gate.wait(10)
        self.fail_sync()
        self._db.flush_wal(sync)
        self.log.append("sync" if sync else "flush")

    def get_column_family(self, name: str) -> "_Family":
        return _Family(self, self._db.get_column_family(name))

    def close(self) -> None:
        with suppress(Exception):  # it remembers what it refused
            self._scratch.close()
        self._db.close()
        self.fail_close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class _Family:
    """A column family whose reads can be counted and held back."""

    def __init__(self, owner: HookedRocksDB, family: Any) -> None:
        self._owner = owner
        self._family = family

    def get(self, keys: Any) -> Any:
        self._owner.gets += 1
        self._owner.get_gate.wait(10)
        return self._family.get(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)
