"""Where an import's lines come from: a file, a gzip file, or stdin.

Owns the reading thread (a pipe may stand still for as long as it likes without
holding up the event loop), positions, and the identity of a file. Forbidden
here: what the lines mean.
"""

import asyncio
import gzip
import hashlib
import io
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from dynamo_core.errors import CallerError

_CHUNK_BYTES: Final = 64 * 1024
_LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_QUEUED_BATCHES_MAX: Final = 4
_IDENTITY_BYTES: Final = 64 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"


class Position(NamedTuple):
    """A place between two lines: how many lines are before it, and how many (unpacked) bytes."""

    line: int = 0
    offset: int = 0


START: Final = Position()


class Line(NamedTuple):
    """A line without its line break, and the position after it."""

    text: bytes
    end: Position


class _Batch(NamedTuple):
    lines: list[Line]
    raw_offset: int  # how much of the file had been read for them


@dataclass(frozen=True, slots=True)
class Identity:
    """Tells whether a file is the one of an earlier run: name, size and a digest of both ends."""

    name: str
    bytes: int
    digest: str


class Source:
    """The lines of `path` ("-" is stdin) from `start` on. Files may be packed with gzip."""

    def __init__(self, path: str, start: Position = START) -> None:
        self._start = start
        self._path = path
        self._raw = _open(path)
        self._stopped = threading.Event()
        self._queue: asyncio.Queue[_Batch | BaseException | None]
        self.bytes_read = 0  # of the file as it is stored, for the lines that were taken
        self.bytes_total: int | None = None
        if path != "-":
            self.bytes_total = os.fstat(self._raw.fileno()).st_size

    async def batches(self) -> AsyncGenerator[list[Line], None]:
        """Lists of lines in order; CallerError if the file can't be read to its end."""
        loop = asyncio.get_running_loop()
        self._queue = asyncio.Queue(_QUEUED_BATCHES_MAX)
        # A daemon, because a read from a terminal can't be interrupted.
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        try:
            while (batch := await self._queue.get()) is not None:
                if isinstance(batch, BaseException):
                    raise CallerError(f"{self._path}: {batch}") from batch
                yield batch.lines
                self.bytes_read = batch.raw_offset
        finally:
            self._stopped.set()
            while not self._queue.empty():
                self._queue.get_nowait()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        def hand_over(batch: _Batch | BaseException | None) -> None:
            if not self._stopped.is_set():
                asyncio.run_coroutine_threadsafe(self._queue.put(batch), loop).result()

        # RuntimeError: the loop was closed, nobody waits for lines any more.
        with self._raw, suppress(RuntimeError):
            try:
                for batch in self._lines():
                    if self._stopped.is_set():
                        return
                    hand_over(batch)
                hand_over(None)
            except (OSError, EOFError, ValueError) as error:
                hand_over(error)

    def _lines(self) -> Iterator[_Batch]:
        line, offset = 0, 0
        unpacked = self._unpacked()
        if self._start.line and not isinstance(unpacked, gzip.GzipFile):
            self._raw.seek(self._start.offset)
            line, offset = self._start
        rest = b""
        while chunk := unpacked.read(_CHUNK_BYTES):
            # Splitting at \n alone: a value may hold other line breaks of Unicode.
            *texts, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                raise ValueError(f"line {line + len(texts) + 1} is longer than 64 MiB")
            batch = []
            for text in texts:
                line, offset = line + 1, offset + len(text) + 1
                if line > self._start.line:
                    batch.append(Line(text, Position(line, offset)))
            yield _Batch(batch, self._raw_offset())
        if rest and line >= self._start.line:
            last = Line(rest, Position(line + 1, offset + len(rest)))
            yield _Batch([last], self._raw_offset())

    def _raw_offset(self) -> int:
        return 0 if self.bytes_total is None else self._raw.tell()

    def _unpacked(self) -> io.BufferedIOBase | io.RawIOBase:
        if self._path == "-":
            return self._raw
        magic = self._raw.read(2)
        self._raw.seek(0)
        if magic == _GZIP_MAGIC:
            return gzip.GzipFile(fileobj=cast(BinaryIO, self._raw))
        return self._raw


def identity_of(path: str) -> Identity:
    """The identity of a file; CallerError if it can't be read."""
    with _open(path) as raw:
        size = os.fstat(raw.fileno()).st_size
        digest = hashlib.sha256(raw.read(_IDENTITY_BYTES) or b"")
        raw.seek(max(0, size - _IDENTITY_BYTES))
        digest.update(raw.read(_IDENTITY_BYTES) or b"")
    return Identity(Path(path).name, size, digest.hexdigest())


def _open(path: str) -> io.RawIOBase:
    # Unbuffered: a buffered stdin would be locked by the reading thread at exit.
    try:
        if path == "-":
            return open(0, "rb", buffering=0, closefd=False)
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise CallerError(
            f"{path} can't be read: {(error.strerror or str(error)).lower()}"
        ) from error
