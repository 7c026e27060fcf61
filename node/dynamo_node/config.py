"""Settings of a node: one frozen value, read from a JSON file and checked at start.

Owns every setting's name, unit, default and accepted range. Errors name the
field, what it holds and what would be right; all of them are told at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dynamo_core.contexts import SECRET_BYTES, Keyring
from dynamo_core.errors import CallerError

SYNC: Final = "sync"
BUFFERED: Final = "buffered"
SIBLINGS: Final = "siblings"
LAST_WRITE_WINS: Final = "lastWriteWins"
HINTS_BYTES_MAX: Final = 1 << 30
"""Bytes of hints beyond which only those are kept that a write needs to reach W."""

_LOOPBACK: Final = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client's write may not exceed; replication never refuses what was accepted.

    transfer_bytes_per_second_max: how fast this node takes over partitions, 0 for no
    ceiling. They keep to the share of background work anyway, which is small under load;
    a ceiling is for a network that others need as well.
    """

    value_bytes_max: int = 1 << 20
    siblings_max: int = 100
    object_bytes_max: int = 8 << 20
    transfer_bytes_per_second_max: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Waits, in milliseconds; the reasons stand beside each.

    timeout_ms: a request's deadline when it names none. hedge_ms: how long a
    replica may be silent before another is asked as well, several times a slow
    fsync. straggler_ms: how long after the answer a missing replica is awaited
    before it gets a hint. suspect_ms: unanswered traffic after which a peer is
    no longer tried first. body_ms: how long a client may take to send a value;
    who trickles would hold memory for ever. ping_ms: how often an idle peer is asked for a sign
    of life. antientropy_ms: the pause between two comparisons of this node, one peer
    each. recheck_ms: how long what differs is left alone before it is compared again:
    a write on its way arrives by then. drain_ms: how long a stopping node still accepts,
    so that load balancers notice (design: start and stop). reap_delay_ms: how long a tombstone
    stays as it is before its reaping is proposed; what still moves would only be
    proposed in vain.
    """

    timeout_ms: int = 5000
    hedge_ms: int = 150
    straggler_ms: int = 1000
    suspect_ms: int = 800
    body_ms: int = 30_000
    ping_ms: int = 1000
    drain_ms: int = 5000
    antientropy_ms: int = 1000
    recheck_ms: int = 1000
    reap_delay_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Seed:
    """A node that one without a ring asks for it; used for nothing else."""

    name: str
    host: str
    native_port: int


@dataclass(frozen=True, slots=True)
class Config:
    """All that one node process is told; the ring comes later, over admin or gossip."""

    cluster_name: str
    cluster_id: bytes
    keyring: Keyring
    name: str
    data_dir: Path
    host: str
    http_port: int
    native_port: int
    admin_port: int
    admin_token: str = ""
    seeds: tuple[Seed, ...] = ()
    r: int = 2
    w: int = 2
    reconciliation: str = SIBLINGS
    durability: str = SYNC
    limits: Limits = field(default_factory=Limits)
    timing: Timing = field(default_factory=Timing)
    log_format: str = "text"
    log_level: str = "info"
    memory_bytes: int = 256 << 20
    hints_bytes_max: int = HINTS_BYTES_MAX
    reserve_bytes: int | None = None
    """Free space below which the node is read-only: flushes and compactions need room.
    None: `disk_health.headroom_bytes` of the disk."""

    @property
    def on_loopback(self) -> bool:
        return self.host.startswith(_LOOPBACK)


def load(path: Path) -> Config:
    """Read a configuration file; raises CallerError with every mistake in it."""
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise CallerError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CallerError(f"{path}: not valid JSON: {error}") from error
    try:
        return parse(raw)
    except CallerError as error:
        raise CallerError(f"{path}: {error}") from error


def parse(raw: object) -> Config:
    """A Config from decoded JSON; raises CallerError with every mistake in it."""
    reader = _Reader(raw)
    cluster = reader.section("cluster")
    node = reader.section("node")
    quorum = reader.section("quorum", optional=True)
    limits = reader.section("limits", optional=True)
    timing = reader.section("timing", optional=True)
    log = reader.section("log", optional=True)
    storage = reader.section("storage", optional=True)
    config = Config(
        cluster_name=cluster.text("name"),
        cluster_id=cluster.hexadecimal("id", 16),
        keyring=_keyring(reader),
        name=node.text("name"),
        data_dir=Path(reader.text("data_dir")),
        host=reader.text("host", "127.0.0.1"),
        http_port=reader.integer("http_port", 1, 65535, 8080),
        native_port=reader.integer("native_port", 1, 65535, 7070),
        admin_port=reader.integer("admin_port", 1, 65535, 8081),
        admin_token=reader.text("admin_token", "", empty=True),
        seeds=_seeds(reader),
        r=quorum.integer("r", 1, 255, 2),
        w=quorum.integer("w", 1, 255, 2),
        reconciliation=reader.choice("reconciliation", (SIBLINGS, LAST_WRITE_WINS)),
        durability=reader.choice("durability", (SYNC, BUFFERED)),
        limits=Limits(
            limits.integer("valueBytesMax", 1, 32 << 20, 1 << 20),
            limits.integer("siblingsMax", 1, 10_000, 100),
            limits.integer("objectBytesMax", 1, 48 << 20, 8 << 20),
            limits.integer("transferBytesPerSecondMax", 0, 1 << 40, 0),
        ),
        timing=Timing(
            timing.integer("timeout_ms", 1, 600_000, 5000),
            timing.integer("hedge_ms", 1, 60_000, 150),
            timing.integer("straggler_ms", 1, 60_000, 1000),
            timing.integer("suspect_ms", 10, 60_000, 800),
            timing.integer("body_ms", 10, 600_000, 30_000),
            timing.integer("ping_ms", 10, 60_000, 1000),
            timing.integer("drain_ms", 0, 600_000, 5000),
            timing.integer("antientropy_ms", 10, 600_000, 1000),
            timing.integer("recheck_ms", 10, 60_000, 1000),
            timing.integer("reap_delay_ms", 0, 1 << 40, 60_000),
        ),
        log_format=log.choice("format", ("text", "json")),
        log_level=log.choice("level", ("info", "debug", "warning", "error")),
        memory_bytes=storage.integer("memory_bytes", 16 << 20, 1 << 40, 256 << 20),
        hints_bytes_max=storage.integer("hints_bytes_max", 0, 1 << 50, HINTS_BYTES_MAX),
        reserve_bytes=storage.integer("reserve_bytes", 0, 1 << 50)
        if "reserve_bytes" in storage.raw
        else None,
    )
    storage.known.add("reserve_bytes")
    for section in (cluster, node, quorum, limits, timing, log, storage, reader):
        section.no_others()
    problems = reader.problems
    if not problems and not config.on_loopback and not config.admin_token:
        problems.append(
            f"admin_token: empty, but host {config.host!r} is not loopback; "
            "admin needs a bearer token there"
        )
    if problems:
        raise CallerError("; ".join(problems))
    return config


def _keyring(reader: "_Reader") -> Keyring:
    listed = reader.raw.get("keys")
    reader.known.add("keys")
    secrets: dict[int, bytes] = {}
    first = 0
    if not isinstance(listed, list) or not listed:
        reader.problems.append(f"keys: {_shown(listed)}; a list with at least one key is needed")
    else:
        for index, item in enumerate(listed):
            entry = _Reader(item, f"keys[{index}].", reader.problems)
            key_id = entry.integer("id", 0, 255)
            if index == 0:
                first = key_id
            if key_id in secrets:
                reader.problems.append(f"keys[{index}].id: {key_id} stands there twice")
            secrets[key_id] = entry.hexadecimal("secret", SECRET_BYTES)
            entry.no_others()
    if not secrets:
        secrets[0] = bytes(SECRET_BYTES)
    return Keyring(first, secrets)


def _seeds(reader: "_Reader") -> tuple[Seed, ...]:
    listed = reader.raw.get("seeds", [])
    reader.known.add("seeds")
    if not isinstance(listed, list):
        reader.problems.append(f"seeds: {_shown(listed)}; a list is needed, which may be empty")
        return ()
    seeds = []
    for index, item in enumerate(listed):
        entry = _Reader(item, f"seeds[{index}].", reader.problems)
        seeds.append(
            Seed(entry.text("name"), entry.text("host"), entry.integer("native_port", 1, 65535))
        )
        entry.no_others()
    return tuple(seeds)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_MISSING: Final = object()


class _Reader:
    """Takes fields out of a mapping and collects what is wrong with them."""

    def __init__(self, raw: object, prefix: str = "", problems: "list[str] | None" = None) -> None:
        self.problems: list[str] = [] if problems is None else problems
        self._prefix = prefix
        self.known: set[str] = set()
        self.raw: Mapping[str, Any] = {}
        if isinstance(raw, dict):
            self.raw = raw
        else:
            self.problems.append(
                f"{prefix.rstrip('.') or 'the file'}: {_shown(raw)}; an object is needed"
            )

    def _take(self, name: str, default: object) -> Any:
        self.known.add(name)
        value = self.raw.get(name, default)
        if value is _MISSING:
            self.problems.append(f"{self._prefix}{name}: missing")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> None:
        if value is not _MISSING:
            self.problems.append(f"{self._prefix}{name}: {_shown(value)}; {wanted}")

    def section(self, name: str, optional: bool = False) -> "_Reader":
        value = self._take(name, {} if optional else _MISSING)
        return _Reader({} if value is _MISSING else value, f"{self._prefix}{name}.", self.problems)

    def text(self, name: str, default: object = _MISSING, empty: bool = False) -> str:
        value = self._take(name, default)
        if isinstance(value, str) and (value or empty):
            return value
        self._wrong(name, value, "a text is needed" if empty else "a text that isn't empty")
        return "?"

    def integer(self, name: str, low: int, high: int, default: object = _MISSING) -> int:
        value = self._take(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(name, value, f"a whole number in {low}..{high} is needed")
        return low

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self._take(name, allowed[0])
        if value in allowed:
            return str(value)
        self._wrong(name, value, f"one of {', '.join(allowed)} is needed")
        return allowed[0]

    def hexadecimal(self, name: str, length: int) -> bytes:
        value = self._take(name, _MISSING)
        try:
            data = bytes.fromhex(value)
            if len(data) == length:
                return data
        except (TypeError, ValueError):
            pass
        shown = "a text" if "secret" in name else value
        self._wrong(name, shown, f"{2 * length} hexadecimal digits are needed")
        return bytes(length)

    def no_others(self) -> None:
        for name in sorted(set(self.raw) - self.known):
            self.problems.append(
                f"{self._prefix}{name}: not a setting; known here: {', '.join(sorted(self.known))}"
            )
