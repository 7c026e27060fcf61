"""Settings of a node: one frozen value, checked at start.

Owns every setting's name, unit, default and accepted range. Errors name the
field, what it holds and what would be right; all of them are told at once. The
part that may change while the node runs is a value of its own, `Settings`.

Forbidden here: files; see `config_files`.
"""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from dynamo_core.contexts import SECRET_BYTES, Keyring
from dynamo_core.errors import CallerError
from dynamo_node.fields import Reader, shown
from dynamo_telemetry.endpoints import Tracing, trouble

SYNC: Final = "sync"
BUFFERED: Final = "buffered"
SIBLINGS: Final = "siblings"
LAST_WRITE_WINS: Final = "lastWriteWins"
HINTS_BYTES_MAX: Final = 1 << 30
"""Bytes of hints beyond which only those are kept that a write needs to reach W."""
ANY: Final = "::"
"""The host that means all addresses of this machine, of both families."""


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
class Settings:
    """What may change while a node runs; the rest takes a restart.

    r, w: how many replicas a request waits for that names no number of its own; at most
    the replication of the ring.
    """

    r: int = 2
    w: int = 2
    limits: Limits = field(default_factory=Limits)
    tracing: Tracing = field(default_factory=Tracing)

    def to_json(self) -> dict[str, Any]:
        """The form in which they stand in a configuration, and in which they are put."""
        limits = self.limits
        return {
            "quorum": {"r": self.r, "w": self.w},
            "limits": {
                "valueBytesMax": limits.value_bytes_max,
                "siblingsMax": limits.siblings_max,
                "objectBytesMax": limits.object_bytes_max,
                "transferBytesPerSecondMax": limits.transfer_bytes_per_second_max,
            },
            "tracing": {
                "endpoint": self.tracing.endpoint,
                "sampleRatio": self.tracing.sample_ratio,
            },
        }


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
    admin_token_file: Path | None = None
    """Where the admin token stands instead; it is read anew whenever it changes."""
    seeds: tuple[Seed, ...] = ()
    settings: Settings = field(default_factory=Settings)
    """What is in force unless something else was put since this file was written."""
    reconciliation: str = SIBLINGS
    durability: str = SYNC
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
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(raw: object) -> Config:
    """A Config from decoded JSON; raises CallerError with every mistake in it."""
    reader = Reader(raw)
    cluster = reader.section("cluster")
    node = reader.section("node")
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
        admin_token_file=Path(reader.text("admin_token_file"))
        if "admin_token_file" in reader.raw
        else None,
        seeds=_seeds(reader),
        settings=settings(reader, Settings()),
        reconciliation=reader.choice("reconciliation", (SIBLINGS, LAST_WRITE_WINS)),
        durability=reader.choice("durability", (SYNC, BUFFERED)),
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
    reader.known.add("admin_token_file")
    for section in (cluster, node, timing, log, storage, reader):
        section.no_others()
    problems = reader.problems
    if config.admin_token and config.admin_token_file:
        problems.append("admin_token: there is an admin_token_file too; give one of them")
    if (
        not problems
        and not config.on_loopback
        and not (config.admin_token or config.admin_token_file)
    ):
        problems.append(
            f"admin_token: empty, but host {config.host!r} is not loopback; "
            "admin needs a bearer token there, or an admin_token_file"
        )
    if problems:
        raise CallerError("; ".join(problems))
    return config


def settings(reader: Reader, left_out: Settings) -> Settings:
    """The live part in `reader`; a field that isn't there is as in `left_out`."""
    quorum = reader.section("quorum", optional=True)
    limits = reader.section("limits", optional=True)
    tracing = reader.section("tracing", optional=True)
    default = left_out.limits
    endpoint = tracing.text("endpoint", left_out.tracing.endpoint, empty=True)
    if wrong := trouble(endpoint):
        reader.problems.append(f"tracing.endpoint: {wrong}")
    found = Settings(
        r=quorum.integer("r", 1, 255, left_out.r),
        w=quorum.integer("w", 1, 255, left_out.w),
        limits=Limits(
            limits.integer("valueBytesMax", 1, 32 << 20, default.value_bytes_max),
            limits.integer("siblingsMax", 1, 10_000, default.siblings_max),
            limits.integer("objectBytesMax", 1, 48 << 20, default.object_bytes_max),
            limits.integer(
                "transferBytesPerSecondMax", 0, 1 << 40, default.transfer_bytes_per_second_max
            ),
        ),
        tracing=Tracing(endpoint, tracing.share("sampleRatio", left_out.tracing.sample_ratio)),
    )
    quorum.no_others()
    limits.no_others()
    tracing.no_others()
    return found


def _keyring(reader: Reader) -> Keyring:
    listed = reader.raw.get("keys")
    reader.known.add("keys")
    secrets: dict[int, bytes] = {}
    first = 0
    if not isinstance(listed, list) or not listed:
        reader.problems.append(f"keys: {shown(listed)}; a list with at least one key is needed")
    else:
        for index, item in enumerate(listed):
            entry = Reader(item, f"keys[{index}].", reader.problems)
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


def _seeds(reader: Reader) -> tuple[Seed, ...]:
    listed = reader.raw.get("seeds", [])
    reader.known.add("seeds")
    if not isinstance(listed, list):
        reader.problems.append(f"seeds: {shown(listed)}; a list is needed, which may be empty")
        return ()
    seeds = []
    for index, item in enumerate(listed):
        entry = Reader(item, f"seeds[{index}].", reader.problems)
        seeds.append(
            Seed(entry.text("name"), entry.text("host"), entry.integer("native_port", 1, 65535))
        )
        entry.no_others()
    return tuple(seeds)
