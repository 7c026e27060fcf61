"""Three node processes of this store on loopback, loaded over HTTP at one node.

Owns their configuration, the first ring, the keys of a load and the proof by
reading back through another node. Nodes are separate processes, as a user runs
them; the only code shared with them is the core's ring.
"""

from __future__ import annotations

import http.client
import json
import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.contender import PUT, Cell, Load
from bench.errors import BenchError
from bench.h2load import Stream, Totals
from bench.measure import run_to_completion
from bench.processes import Children, free_ports, wait_until
from dynamo_core.placement import Candidate, first_ring

NAME = "dynamo-store"
NODES = 3
SIBLINGS = "siblings"
LAST_WRITE_WINS = "lastWriteWins"
PARTITIONS = 256
# A list of URIs holds this many a second and connection (all of them together:
# 40,000 a second); a node that is faster makes the cell fail and say so.
_PUTS_PER_S_PER_CONNECTION = 15_000
_PUTS_PER_S = 40_000
_PRELOAD_STREAMS = 16
_PRELOAD_LIMIT_S = 120.0
_CONTENT_TYPE = "content-type: application/octet-stream"


class Store:
    """The contender. ``data`` gets its data and logs, ``scratch`` the URI lists and bodies."""

    def __init__(
        self,
        children: Children,
        data: Path,
        scratch: Path,
        value: bytes,
        keys: int,
        reconciliation: str = SIBLINGS,
    ) -> None:
        self._children = children
        self._data = data / NAME
        self._scratch = scratch
        self._value = value
        self._body = scratch / "store-value"
        self._keys = [f"bench-{number:06d}" for number in range(keys)]
        self._key_list = scratch / "store-keys"
        self._reconciliation = reconciliation
        self._nodes: dict[str, subprocess.Popen[str]] = {}
        self._http_ports: dict[str, int] = {}

    @property
    def name(self) -> str:
        return NAME

    @property
    def versions(self) -> Mapping[str, str]:
        products = ("dynamo-store", "aiohttp", "rocksdict", "uvloop")
        return {product: metadata.version(product) for product in products}

    def start(self) -> None:
        self._data.mkdir(parents=True)
        cluster = {"name": "bench", "id": secrets.token_hex(16)}
        key = {"id": 1, "secret": secrets.token_hex(32)}
        ports = free_ports(3 * NODES)
        candidates = []
        for number in range(NODES):
            name = f"bench-default-{number}"
            http_port, native_port, admin_port = ports[3 * number : 3 * number + 3]
            settings = {
                "cluster": cluster,
                "keys": [key],
                "node": {"name": name},
                "data_dir": str(self._data / name),
                "host": "127.0.0.1",
                "http_port": http_port,
                "native_port": native_port,
                "admin_port": admin_port,
                "admin_token": "",
                "quorum": {"r": 2, "w": 2},
                "reconciliation": self._reconciliation,
                "durability": "sync",
                "limits": {
                    "valueBytesMax": 1048576,
                    "siblingsMax": 100,
                    "objectBytesMax": 8388608,
                },
                "log": {"format": "text", "level": "info"},
            }
            config = self._data / f"{name}.json"
            config.touch(mode=0o600)
            config.write_text(json.dumps(settings))
            argv = [sys.executable, "-m", "dynamo_node", "--config", str(config)]
            self._nodes[name] = self._children.serve(argv, self._data / f"{name}.log")
            self._http_ports[name] = http_port
            candidates.append((name, http_port, native_port, admin_port))
        self._publish_ring(cluster, candidates)
        wait_until(self._ready, self._nodes, self._data, "waiting for the nodes to be ready")
        self._preload()

    def pids(self) -> Mapping[str, int]:
        return {name: node.pid for name, node in self._nodes.items()}

    def load(self, cell: Cell) -> Load:
        if cell.operation != PUT:
            return self._gets(cell)
        if self._reconciliation == LAST_WRITE_WINS:
            return self._overwrites(cell)
        return self._new_keys(cell)

    def _new_keys(self, cell: Cell) -> Load:
        """Every put makes a key of its own: blind writes of one key would pile up siblings."""
        rate = min(_PUTS_PER_S_PER_CONNECTION, _PUTS_PER_S // cell.connections)
        count = int(rate * cell.load_s)
        if cell.streams != cell.connections:
            raise BenchError(
                f"{cell.streams} generators share {cell.connections} connections, so the"
                " connections of one would write the same keys; puts without a context need one"
                " generator a connection"
            )
        prefixes = [
            f"put-{cell.round}-{cell.connections}-{number}" for number in range(cell.streams)
        ]
        streams = [
            self._puts(
                self._uri_list(f"store-put-{number}", (f"{prefix}-{n}" for n in range(count))), 1
            )
            for number, prefix in enumerate(prefixes)
        ]

        def verify(totals: Sequence[Totals]) -> None:
            check_lists(totals, count)
            for prefix, total in list(zip(prefixes, totals, strict=True))[:4]:
                for acknowledged in {0, total.succeeded - 1}:
                    self._read_back(f"{prefix}-{acknowledged}")

        return Load(tuple(streams), 204, verify)

    def _overwrites(self, cell: Cell) -> Load:
        def verify(totals: Sequence[Totals]) -> None:
            del totals
            self._read_back(self._keys[0])

        stream = self._puts(self._key_list, cell.connections // cell.streams)
        return Load((stream,) * cell.streams, 204, verify)

    def _gets(self, cell: Cell) -> Load:
        def verify(totals: Sequence[Totals]) -> None:
            check_gets(totals, len(self._value))

        stream = Stream(
            target=str(self._key_list),
            target_is_list=True,
            connections=cell.connections // cell.streams,
            http1=True,
        )
        return Load((stream,) * cell.streams, 200, verify)

    def _puts(self, uris: Path, connections: int) -> Stream:
        return Stream(
            target=str(uris),
            target_is_list=True,
            connections=connections,
            body=self._body,
            method="PUT",
            headers=(_CONTENT_TYPE,),
            http1=True,
        )

    def _uri_list(self, name: str, keys: Iterable[str]) -> Path:
        base = f"http://127.0.0.1:{next(iter(self._http_ports.values()))}/kv/"
        path = self._scratch / name
        path.write_text("".join(f"{base}{key}\n" for key in keys))
        return path

    def _publish_ring(
        self, cluster: Mapping[str, str], nodes: Sequence[tuple[str, int, int, int]]
    ) -> None:
        statuses: dict[str, dict[str, Any]] = {}

        def answering() -> bool:
            for name, _http, _native, admin in nodes:
                status, body = _call(admin, "GET", "/admin/status")
                if status != 200:
                    return False
                statuses[name] = json.loads(body)
            return True

        wait_until(answering, self._nodes, self._data, "waiting for the nodes' admin ports")
        candidates = [
            Candidate(
                name=name,
                zone="",
                capacity="1",
                host="127.0.0.1",
                http_port=http_port,
                native_port=native,
                admin_port=admin,
                disk_id=statuses[name]["disk_id"],
            )
            for name, http_port, native, admin in nodes
        ]
        ring = first_ring(
            cluster_id=cluster["id"],
            cluster_name=cluster["name"],
            members=candidates,
            replication=3,
            partitions=PARTITIONS,
            at=datetime.now(UTC).isoformat(),
        )
        for name, _http, _native, admin in nodes:
            status, body = _call(admin, "POST", "/admin/ring", ring.to_bytes())
            if status != 200:
                raise BenchError(f"{name} answered the ring with {status}: {body[:300]!r}")

    def _ready(self) -> bool:
        return all(_call(port, "GET", "/readyz")[0] == 200 for port in self._http_ports.values())

    def _preload(self) -> None:
        self._body.write_bytes(self._value)
        self._uri_list(self._key_list.name, self._keys)
        parts = [self._keys[first::_PRELOAD_STREAMS] for first in range(_PRELOAD_STREAMS)]
        streams = tuple(
            self._puts(self._uri_list(f"store-preload-{number}", part), 1)
            for number, part in enumerate(parts)
        )
        load = Load(streams, 204, lambda _totals: self._read_back(self._keys[-1]))
        run_to_completion(
            self._children, load, [len(part) for part in parts], self._scratch, _PRELOAD_LIMIT_S
        )

    def _read_back(self, key: str) -> None:
        """A value that was acknowledged at the first node must be read at the last."""
        port = list(self._http_ports.values())[-1]
        status, body = _call(port, "GET", f"/kv/{key}")
        if status != 200 or body != self._value:
            raise BenchError(
                f"key {key} was acknowledged, but reading it back through another node gave"
                f" status {status} and {len(body)} bytes"
            )


def check_gets(totals: Sequence[Totals], value_bytes: int) -> None:
    """Every body is a whole value; those in flight at the end may have arrived as well."""
    received = sum(one.data_bytes for one in totals)
    least = sum(one.succeeded for one in totals) * value_bytes
    most = sum(one.started for one in totals) * value_bytes
    if not least <= received <= most:
        raise BenchError(
            f"gets of {value_bytes} bytes each received {received} bytes in all; it must be"
            f" {least} to {most}"
        )


def check_lists(totals: Sequence[Totals], uris: int) -> None:
    """A list that is used up starts again, and its keys get siblings."""
    most = max(one.started for one in totals)
    if most > uris:
        raise BenchError(
            f"a connection sent {most} puts, more than its list of {uris} keys; raise the two"
            f" limits of puts a second in {Path(__file__).name}"
        )


def _call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request beside the measured load; status 0 when nobody listens (yet)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
