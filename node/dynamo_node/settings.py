"""Settings: what is in force of that part of the configuration which changes at runtime.

Owns the one value that everybody asks (`now`) and its note on the disk. What was put
while the node ran holds beyond a restart, but only over the configuration that it was
put over: the note carries the live part of that file, and a file that says something
else at a later start wins, since whoever wrote it knew better.

Forbidden here: who may change them (`admin`), and what they mean for a request.
"""

import json
import logging
from collections.abc import Callable
from typing import Final

from dynamo_core.errors import CallerError
from dynamo_node import meta
from dynamo_node.config import Settings, settings
from dynamo_node.fields import Reader
from dynamo_node.storage import META, Store

log = logging.getLogger(__name__)

_KEY: Final = b"settings"


class LiveSettings:
    """One per incarnation; `load` comes before anybody asks."""

    def __init__(self, store: Store, in_file: Settings) -> None:
        self._store = store
        self._in_file = in_file
        self.now = in_file
        self.on_change: list[Callable[[], None]] = []
        """Called after other settings are in force."""

    async def load(self) -> None:
        """Take up what was put before this start, unless the file says something else by now."""
        data = await meta.read(self._store, _KEY)
        if data is None:
            return
        try:
            note = json.loads(data)
            over, put = (read(note[name], Settings()) for name in ("file", "put"))
        except (CallerError, ValueError, KeyError, TypeError) as error:
            log.error("the settings that were put can't be read, the file's hold: %s", error)
        else:
            if over == self._in_file:
                self.now = put
                log.info("settings that were put over the file's: %s", json.dumps(put.to_json()))
                return
            log.info("the configuration file has changed: what was put before holds no more")
        self._store.delete(META, _KEY)

    def wanted(self, value: object) -> Settings:
        """The settings in a JSON value; what it leaves out is as the file says.

        Raises CallerError with every mistake.
        """
        return read(value, self._in_file)

    async def put(self, wanted: Settings, replication: int | None) -> None:
        """From now on `wanted` is in force; returns once that is durable.

        replication: of the ring held, None without one. Raises CallerError for settings
        that it can't serve, and nothing is changed; StorageError when it isn't known
        whether they will hold after a restart.
        """
        problems = [
            f"quorum.{name}: {count}; the ring's replication is {replication}, "
            f"it must be within 1..{replication}"
            for name, count in (("r", wanted.r), ("w", wanted.w))
            if replication is not None and count > replication
        ]
        if problems:
            raise CallerError("; ".join(problems))
        if wanted != self.now:
            # In one step with the check: a ring that comes is held against these.
            if wanted == self._in_file:
                self._store.delete(META, _KEY)
            else:
                note = {"file": self._in_file.to_json(), "put": wanted.to_json()}
                self._store.put(META, _KEY, json.dumps(note).encode())
            self.now = wanted
            log.info("settings put: %s", json.dumps(wanted.to_json()))
            for told in self.on_change:
                told()
        await self._store.durable()


def read(value: object, left_out: Settings) -> Settings:
    """Settings in their JSON form; raises CallerError with every mistake."""
    reader = Reader(value, whole="the body")
    found = settings(reader, left_out)
    reader.no_others()
    if reader.problems:
        raise CallerError("; ".join(reader.problems))
    return found
