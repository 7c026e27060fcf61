"""Everything that must be right before a process is started.

Owns reading the manifest (or the built-in one), opening the data folder,
refusing what can't be carried out, and finding ports that are taken. Forbidden:
starting anything.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamo_core.errors import CallerError
from dynamo_operator import manifest
from dynamo_operator.layout import places
from dynamo_operator.local.folder import Folder, is_ours
from dynamo_operator.local.observing import ADMIN_ABOVE_HTTP, HOST, NATIVE_BELOW_HTTP, address
from dynamo_operator.local.processes import alive
from dynamo_operator.local.state import State
from dynamo_operator.observed import Observed
from dynamo_operator.parsing import parse
from dynamo_operator.refusals import refused
from dynamo_operator.spec import API_VERSION, DEFAULT_POOL, KIND, DynamoCluster

DEFAULT_PORT = 8100
DEFAULT_NAME = "local"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the wanted spec comes from: a manifest's path, or None for a built-in one.

    replicas: of the default pool, as `up` was told. scaled: replicas by pool, as `scale` was
    told since; they win over both.
    """

    path: Path | None
    replicas: int | None
    scaled: tuple[tuple[str, int], ...] = ()

    def stamp(self) -> tuple[int, int]:
        """Changes when the file does; (0, 0) without a file or while it is away."""
        try:
            stat = self.path.stat() if self.path else None
        except OSError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A typed spec and the plain value it came from."""

    cluster: DynamoCluster
    value: dict[str, Any]
    ignored: tuple[str, ...] = ()


def load(source: Source, folder: Path | None) -> Wanted:
    """The wanted spec. Without a manifest, a folder's accepted one comes before the default.

    Raises CallerError with every mistake.
    """
    ignored: tuple[str, ...] = ()
    if source.path is not None:
        try:
            text = source.path.read_text(encoding="utf-8")
        except OSError as error:
            raise CallerError(f"{source.path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise CallerError(f"{source.path}: it must be UTF-8 text: {error}") from error
        read = manifest.read(text, str(source.path))
        value, ignored = read.value, read.ignored
    else:
        kept = Folder.open(folder).accepted_value() if folder and is_ours(folder) else None
        value = kept or {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": DEFAULT_NAME},
        }
    told = "as it is"
    value = deepcopy(value)
    if source.replicas is not None:
        told = f"with --replicas {source.replicas}"
        _set_replicas(value, DEFAULT_POOL, source.replicas)
    for pool, replicas in source.scaled:
        told = f"scaled to {replicas} node(s) in pool {pool}"
        _set_replicas(value, pool, replicas)
    try:
        return Wanted(parse(value), value, ignored)
    except CallerError as error:
        raise CallerError(f"{told}: {error}") from error


def source_of(state: State) -> Source:
    """What the folder says that shall be followed. An edit of the manifest ends a `scale`."""
    source = Source(Path(state.manifest) if state.manifest else None, state.replicas)
    if tuple(state.scaled_at) != source.stamp():
        return source
    return replace(source, scaled=tuple(sorted(state.scaled.items())))


def kept(state: State, source: Source) -> Source:
    """A source that was given, with what `scale` has set since, unless the source says anew."""
    before = source_of(state)
    if before.path != source.path:
        return source
    anew = {DEFAULT_POOL} if source.replicas is not None else set()
    return replace(source, scaled=tuple(one for one in before.scaled if one[0] not in anew))


def follow(state: State, source: Source) -> None:
    """Writes down what shall be followed from now on."""
    state.manifest, state.replicas = str(source.path or ""), source.replicas
    state.scaled, state.scaled_at = dict(source.scaled), list(source.stamp())


def _set_replicas(value: dict[str, Any], pool: str, replicas: int) -> None:
    spec = value["spec"] = value.get("spec") or {}
    if pool == DEFAULT_POOL:
        spec["replicas"] = replicas
        return
    pools = {one["name"]: one for one in spec.get("pools") or ()}
    if pool not in pools:
        known = ", ".join((DEFAULT_POOL, *pools))
        raise CallerError(f"there is no pool {pool!r}: the pools are {known}")
    pools[pool]["replicas"] = replicas


def default_data(base: Path, source: Source) -> Path:
    """Where the data goes if nobody says: BASE/NAME."""
    return base / load(source, base / DEFAULT_NAME).cluster.name


def refusals(folder: Folder, cluster: DynamoCluster) -> tuple[str, ...]:
    """Why a spec can't be carried out on what the folder holds; empty if it can."""
    observed = Observed("", folder.ring(), folder.accepted(), {})
    return tuple(str(refusal) for refusal in refused(cluster, observed))


def refusals_anew(cluster: DynamoCluster) -> tuple[str, ...]:
    """The same for a folder that does not exist yet."""
    return tuple(str(refusal) for refusal in refused(cluster, Observed("", None, None, {})))


def check_port(folder: Folder, port: int | None) -> None:
    """The port is chosen once: the ring names it."""
    held = folder.state().port
    if port is not None and port != held:
        raise CallerError(
            f"--port is {port}, and this cluster was made with {held}, which its ring names: "
            "leave it out, or make another cluster with --data"
        )


def check_ports_free(state: State, cluster: DynamoCluster) -> None:
    """Raises CallerError naming every port that somebody else listens on.

    Nodes that run already (left by a supervisor that died) hold theirs by right.
    """
    for name in (place.name for place in places(cluster)):
        state.record(name)
    count = 1 + max(record.index for record in state.nodes.values())
    low, high = state.port - NATIVE_BELOW_HTTP, state.port + ADMIN_ABOVE_HTTP + count - 1
    if low < 1 or high > 65535 or count > ADMIN_ABOVE_HTTP:
        raise CallerError(
            f"--port is {state.port}: {count} node(s) need ports from {low} to {high}, and ports "
            f"go from 1 to 65535; choose one between {1 + NATIVE_BELOW_HTTP} and "
            f"{65536 - ADMIN_ABOVE_HTTP - count}"
        )
    taken = []
    for name, record in state.nodes.items():
        if alive(record.process):
            continue
        place = address(state, name)
        taken += [
            f"{port} ({what} of {name})"
            for what, port in (
                ("HTTP", place.http_port),
                ("native", place.native_port),
                ("admin", place.admin_port),
            )
            if not _free(port)
        ]
    if taken:
        raise CallerError(
            f"port {', '.join(taken)} on {HOST} is in use: end what listens there "
            f"(`ss -ltnp` shows it) or choose others with --port"
        )


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def lines(reasons: Iterable[str]) -> str:
    """Reasons as an indented list for an error message."""
    return "\n".join(f"  {line}" for reason in reasons for line in reason.splitlines())
