"""Synced: how far this store's log is known to have been on the disk.

Owns one small file beside the store, overwritten after every sync with the number
of the last write that it covered. RocksDB takes a log that is damaged in its
middle, or gone, for one that ends there, as after a power cut, and opens without a
word; a store whose last write is older than the one noted here has lost what was
acknowledged. The note itself is never waited for: after a power cut it may be some
seconds old, and then tells less, but never too much.
"""

import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_NAME: Final = "synced"


class SyncedNote:
    """The note of the store at `path`; another store's is ignored."""

    def __init__(self, path: Path) -> None:
        self.sequence = 0
        """The last write that is known to have been synced; 0 when nothing is known."""
        self._file = -1
        self._identity = ""
        try:
            self._identity = (path / "IDENTITY").read_text().strip()
            self._file = os.open(path.parent / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            words = os.pread(self._file, 256, 0).decode(errors="replace").split()
        except OSError as error:
            log.warning("how far the log was synced isn't noted: %s", error)
            return
        if len(words) >= 2 and words[0] == self._identity and words[1].isdigit():
            self.sequence = int(words[1])

    def keep(self, sequence: int) -> None:
        """All writes up to this one are synced; blocks for a few microseconds, in a thread."""
        if self._file < 0:
            return
        try:
            os.pwrite(self._file, f"{self._identity} {sequence:020d}\n".encode(), 0)
        except OSError as error:
            log.warning("how far the log was synced isn't noted: %s", error)
            self.close()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
