"""The data folder of a local cluster: what must outlive every process of it.

Owns the files and their locks: the marker that says the folder is ours, the
identity (id and keys, mode 0600), the decided ring, the accepted manifest, and
`state.json` (ports, processes, what each node is wanted to be). Each file is
replaced whole and flushed. Forbidden: starting, signalling or asking anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from dynamo_core.errors import CallerError
from dynamo_core.ring import Ring
from dynamo_operator.local.state import State, state_from
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spec import DynamoCluster

MARKER = "dynamo-local.json"
FILES = (
    "identity.json",
    "ring.json",
    "settled.json",
    "accepted.json",
    "state.json",
    "lock",
    ".gitignore",
)


class FolderError(CallerError):
    """The folder is missing, foreign, in use, or holds something unreadable."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The cluster's id (32 hex) and its keys, the signing one first."""

    cluster_id: str
    keys: tuple[dict[str, Any], ...]


class Folder:
    """One cluster's data folder. Make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rings: dict[str, tuple[tuple[int, int, int], Ring]] = {}

    @classmethod
    def create(cls, path: Path, cluster_name: str, port: int) -> Folder:
        """Makes the folder, or opens it if it is this cluster's already.

        Refuses a folder with other contents, so that a wipe can never hit them.
        """
        path = path.absolute()
        if is_ours(path):
            folder = cls.open(path)
            if folder.cluster_name != cluster_name:
                raise FolderError(
                    f"{path} is the data folder of the cluster {folder.cluster_name}, and the "
                    f"manifest names {cluster_name}: give another folder with --data"
                )
            return folder
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FolderError(
                f"{path} exists and is no data folder of ours: give an empty or new one with --data"
            )
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = cls(path)
        _write(path / ".gitignore", b"# it holds the cluster's key\n*\n")
        # The marker comes last: a folder with one can be opened.
        folder._write_state(State(port))
        _write(path / MARKER, _json({"format": 1, "cluster": cluster_name}))
        return folder

    @classmethod
    def open(cls, path: Path) -> Folder:
        path = path.absolute()
        if not is_ours(path):
            raise FolderError(
                f"{path} is no data folder of a local cluster (there is no {MARKER} in it)"
            )
        return cls(path)

    @property
    def cluster_name(self) -> str:
        return str(self._read(MARKER)["cluster"])

    @property
    def log(self) -> Path:
        return self.path / "supervisor.log"

    def node(self, name: str) -> Path:
        return self.path / "nodes" / name

    def node_log(self, name: str) -> Path:
        return self.node(name) / "node.log"

    # --- identity, spec and ring: decided once, then only read -----------------------

    def identity(self) -> Identity | None:
        value = self._read("identity.json", missing=None)
        if value is None:
            return None
        return Identity(str(value["id"]), tuple(value["keys"]))

    def create_identity(self) -> Identity:
        """A new id and key, unless there is one: an identity is never made twice."""
        with self._locked():
            identity = self.identity()
            if identity is None:
                keys = ({"id": 1, "secret": secrets.token_hex(32)},)
                identity = Identity(secrets.token_hex(16), keys)
                value = {"id": identity.cluster_id, "keys": list(identity.keys)}
                _write(self.path / "identity.json", _json(value), mode=0o600)
        return identity

    def ring(self) -> Ring | None:
        """The decided ring. Read anew only after the file was replaced: checking it is work."""
        return self._read_ring("ring.json")

    def settled(self) -> Ring | None:
        """The last decided ring under which everything lay where it should."""
        return self._read_ring("settled.json")

    def _read_ring(self, name: str) -> Ring | None:
        path = self.path / name
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if name not in self._rings or self._rings[name][0] != stamp:
            try:
                self._rings[name] = stamp, Ring.from_bytes(path.read_bytes())
            except CallerError as error:
                raise FolderError(f"{path} is damaged: {error}") from error
        return self._rings[name][1]

    def settle(self, ring: Ring) -> None:
        """Notes that everything lies where that ring wants it."""
        held = self.settled()
        if held is None or held.id != ring.id:
            with self._locked():
                _write(self.path / "settled.json", ring.to_bytes())

    def decide(self, ring: Ring) -> None:
        """Writes a ring down for good. Refused unless it follows the one that is there."""
        with self._locked():
            held = self.ring()
            if held is not None and held.id != ring.id and ring.parent != held.id:
                raise FolderError(
                    f"the ring of epoch {ring.epoch} doesn't follow the decided one of epoch "
                    f"{held.epoch}: somebody else decided in between"
                )
            _write(self.path / "ring.json", ring.to_bytes())

    def accepted(self) -> DynamoCluster | None:
        value = self.accepted_value()
        if value is None:
            return None
        try:
            return parse(value)
        except SpecError as error:
            raise FolderError(f"{self.path / 'accepted.json'} is damaged: {error}") from error

    def accepted_value(self) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._read("accepted.json", missing=None)
        return value

    def accept(self, value: dict[str, Any]) -> None:
        _write(self.path / "accepted.json", _json(value))

    def remove(self, name: str, keep_data: bool) -> None:
        """Forgets a node whose process has ended. Its record goes last: this can be repeated."""
        if not keep_data and self.node(name).exists():
            shutil.rmtree(self.node(name))
        with self.edit() as state:
            state.nodes.pop(name, None)

    def write_config(self, name: str, config: dict[str, Any]) -> Path:
        """A node's configuration file; it holds keys, so only the owner may read it."""
        folder = self.node(name)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "config.json", _json(config), mode=0o600)
        return folder / "config.json"

    # --- state -----------------------------------------------------------------------

    def state(self) -> State:
        value = self._read("state.json")
        try:
            return state_from(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise FolderError(f"{self.path / 'state.json'} is damaged: {error!r}") from error

    def state_stamp(self) -> int:
        """Changes whenever the state is written."""
        return (self.path / "state.json").stat().st_mtime_ns

    @contextlib.contextmanager
    def edit(self) -> Iterator[State]:
        """The state, to be changed within the block; nobody else can in the meantime."""
        with self._locked():
            state = self.state()
            yield state
            self._write_state(state)

    def _write_state(self, state: State) -> None:
        _write(self.path / "state.json", _json(asdict(state)))

    # --- locks -----------------------------------------------------------------------

    def supervise(self) -> IO[bytes] | None:
        """The right to supervise, held until the file is closed; None if somebody has it."""
        file = (self.path / "supervisor.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    def supervised(self) -> bool:
        file = self.supervise()
        if file is None:
            return True
        file.close()
        return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- the end ---------------------------------------------------------------------

    def wipe(self) -> bool:
        """Deletes all that is ours; False if something else stays in the folder.

        The caller has stopped every process. The marker goes last, so that an
        interrupted wipe can be repeated.
        """
        if (self.path / "nodes").exists():
            shutil.rmtree(self.path / "nodes")
        for name in FILES:  # whoever was killed while writing one left its new form behind
            for unfinished in self.path.glob(f"{name}.*.new"):
                unfinished.unlink(missing_ok=True)
        for name in (*FILES, "supervisor.log", "supervisor.log.1", "supervisor.lock", MARKER):
            (self.path / name).unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except OSError:
            return False
        with contextlib.suppress(OSError):
            if self.path.parent.name == ".dynamo":
                self.path.parent.rmdir()
        return True

    def _read(self, name: str, **default: Any) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            if "missing" in default:
                return default["missing"]
            raise FolderError(f"{path} is missing: the data folder is damaged") from None
        except ValueError as error:
            raise FolderError(f"{path} is damaged: {error}") from error


def is_ours(path: Path) -> bool:
    return (path / MARKER).is_file()


def find(data: Path | None, base: Path) -> Folder:
    """The folder that a command means: the one given, the only one, or the default one."""
    if data is not None:
        return Folder.open(data)
    found = sorted(marker.parent for marker in base.glob(f"*/{MARKER}"))
    if len(found) == 1:
        return Folder.open(found[0])
    default = base / "local"
    if default in found:
        return Folder.open(default)
    if found:
        names = ", ".join(str(path) for path in found)
        raise FolderError(f"there are several clusters here ({names}): name one with --data")
    raise FolderError(
        f"there is no local cluster in {base}: `dynamo local up` makes one, --data names another"
    )


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces a file whole and durably; a crash leaves the old one or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
