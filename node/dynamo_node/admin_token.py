"""Admin token: what a bearer of the operator's port has to show, and where it stands.

Owns the token of this process: one that its configuration holds, or a file that is
read anew when it changes, so that a Secret which is rotated is taken up without a
restart (the kubelet swaps a symlink). A file that can't be read any more, or is empty,
leaves the token as it was: to let nobody in would be no safer, and to let everybody in
is out of the question.
"""

import asyncio
import logging
import os
from hmac import compare_digest
from pathlib import Path
from typing import Final

from dynamo_core.errors import CallerError
from dynamo_node.config import Config

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Shortest time between two looks at the file."""
BYTES_MAX: Final = 4096


class AdminToken:
    """One per process; `now` is asked for at each request."""

    def __init__(self, config: Config) -> None:
        """Raises CallerError for a file that holds no token."""
        self._path = config.admin_token_file
        self._token = config.admin_token.encode()
        self._stamp: tuple[int, ...] = ()
        self._looked_at = 0.0
        self._trouble = ""
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._token = _read(self._path)

    def matches(self, shown: bytes) -> bool:
        """Whether this is the token, or none is needed."""
        self._look()
        return not self._token or compare_digest(shown, self._token)

    def _look(self) -> None:
        if self._path is None:
            return
        now = asyncio.get_running_loop().time()
        if self._looked_at and now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            # The stamp first: what changes between the two is seen at the next look.
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            token = _read(self._path)
        except CallerError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("%s; the admin token stays as it was", error)
            return
        self._stamp, self._trouble = stamp, ""
        if token != self._token:
            self._token = token
            log.info("took up another admin token from %s", self._path)


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes whenever the file behind the path is another one or has been written."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else a pipe would hold us up
        try:
            data = os.read(file, BYTES_MAX + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    token = data.strip()
    if not token:
        raise CallerError(f"admin_token_file {path}: it is empty; a token is needed")
    if len(data) > BYTES_MAX or len(token.split()) > 1 or not token.isascii():
        raise CallerError(
            f"admin_token_file {path}: one ASCII word of up to {BYTES_MAX} bytes is needed"
        )
    return token


def _unreadable(path: Path, error: OSError) -> CallerError:
    return CallerError(f"admin_token_file {path}: {error.strerror or error}")
