"""How far an import came: which lines are done for good, kept in a small file.

Owns the ledger of finished lines and the checkpoint file beside the imported
one. Forbidden here: sending and reading records.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dynamo_client.cli.source import Identity, Position
from dynamo_core.errors import CallerError

_VERSION = 1


class Ledger:
    """Lines finish in any order; `position` is behind the last one that has none open before it."""

    def __init__(self, start: Position) -> None:
        self.position = start
        self._ahead: dict[int, Position] = {}
        self._first_open: int | None = None

    def done(self, end: Position) -> None:
        """The line that ends here needs no second look."""
        if self._first_open is not None and end.line > self._first_open:
            return  # the position never gets this far, so it isn't worth remembering
        self._ahead[end.line] = end
        while (following := self._ahead.pop(self.position.line + 1, None)) is not None:
            self.position = following

    @property
    def has_failed(self) -> bool:
        """Whether a line is left for the next run."""
        return self._first_open is not None

    def failed(self, end: Position) -> None:
        """The line that ends here has to be tried again by the next run."""
        if self._first_open is None or end.line < self._first_open:
            self._first_open = end.line


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an interrupted import left: the file, the cluster it went to, and the position."""

    file: Identity
    cluster: str
    position: Position

    def mismatch(self, file: Identity, cluster: str) -> str:
        """Why this checkpoint isn't of that import; "" if it is.

        Another cluster, or one that was made anew, has none of the records
        that the earlier run wrote.
        """
        if self.file != file:
            return f"{file.name} has changed since"
        if self.cluster != cluster:
            return "it went to another cluster"
        return ""


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, None if there is none; CallerError if the file is something else."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return Checkpoint(
            Identity(**document["file"]),
            str(document["cluster"]),
            Position(int(document["line"]), int(document["offset"])),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CallerError(f"the checkpoint {path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CallerError(
            f"{path} is not a checkpoint of an import ({error!r}); "
            "give another file with --checkpoint, or --no-resume"
        ) from error


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file in one step; CallerError if it can't be written."""
    document = {
        "version": _VERSION,
        "file": asdict(checkpoint.file),
        "cluster": checkpoint.cluster,
        "line": checkpoint.position.line,
        "offset": checkpoint.position.offset,
    }
    aside = path.with_name(path.name + ".new")
    try:
        aside.write_text(json.dumps(document) + "\n")
        os.replace(aside, path)
    except OSError as error:
        raise CallerError(
            f"the checkpoint {path} can't be written ({error.strerror}); "
            "give another place with --checkpoint, or --no-resume"
        ) from error
