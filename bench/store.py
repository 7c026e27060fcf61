"""This store as a contender: its loads over HTTP at one node, and their proof.

Two clusters stand side by side, for the two meanings that a blind put can
have: `siblings` (the default), where every put must make a key of its own, and
`lastWriteWins`, where puts overwrite. Only the one under load does any work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from bench.contender import GET, OVERWRITE, PUT, Cell, Load
from bench.errors import BenchError
from bench.h2load import Stream, Totals
from bench.measure import run_to_completion
from bench.nodes import LAST_WRITE_WINS, SIBLINGS, Nodes
from bench.processes import Children

NAME = "dynamo"
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
        operations: Sequence[str],
    ) -> None:
        self._children = children
        self._scratch = scratch
        self._value = value
        self._body = scratch / "store-value"
        self._keys = [f"bench-{number:06d}" for number in range(keys)]
        wanted = dict.fromkeys(_reconciliation(operation) for operation in operations)
        self._clusters = {
            reconciliation: Nodes(children, data / NAME / reconciliation, reconciliation)
            for reconciliation in wanted
        }

    @property
    def name(self) -> str:
        return NAME

    @property
    def versions(self) -> Mapping[str, str]:
        products = ("dynamo-store", "aiohttp", "rocksdict", "uvloop")
        return {product: metadata.version(product) for product in products}

    def start(self) -> None:
        self._body.write_bytes(self._value)
        for nodes in self._clusters.values():
            nodes.start()
            self.preload(nodes)

    def preload(self, nodes: Nodes) -> None:
        """Write every key once, in parallel."""
        parts = [self._keys[first::_PRELOAD_STREAMS] for first in range(_PRELOAD_STREAMS)]
        streams = tuple(
            self._puts(self._uri_list(nodes, f"store-preload-{number}", part), 1)
            for number, part in enumerate(parts)
            if part
        )

        def verify(totals: Sequence[Totals]) -> None:
            del totals
            self.read_back(nodes, self._keys[-1])

        run_to_completion(
            self._children,
            Load(streams, 204, {}, verify),
            [len(part) for part in parts if part],
            self._scratch,
            _PRELOAD_LIMIT_S,
        )

    def nodes(self, operation: str) -> Nodes:
        """The cluster that takes this operation."""
        return self._clusters[_reconciliation(operation)]

    @property
    def keys(self) -> Sequence[str]:
        """The keys that are there from the start."""
        return self._keys

    @property
    def body(self) -> Path:
        """The file with the value of every key."""
        return self._body

    def pids(self) -> list[int]:
        return [pid for nodes in self._clusters.values() for pid in nodes.pids().values()]

    def load(self, cell: Cell) -> Load:
        nodes = self.nodes(cell.operation)
        loads = {PUT: self._new_keys, OVERWRITE: self._overwrites, GET: self._gets}
        return loads[cell.operation](nodes, cell)

    def _new_keys(self, nodes: Nodes, cell: Cell) -> Load:
        """Every put makes a key of its own: blind writes of one key would pile up siblings."""
        if cell.streams != cell.connections:
            raise BenchError(
                f"{cell.streams} generators share {cell.connections} connections, so the"
                " connections of one would write the same keys; puts of new keys need one"
                " generator a connection"
            )
        rate = min(_PUTS_PER_S_PER_CONNECTION, _PUTS_PER_S // cell.connections)
        count = int(rate * cell.load_s)
        prefixes = [
            f"put-{cell.round}-{cell.connections}-{number}" for number in range(cell.streams)
        ]
        streams = []
        for number, prefix in enumerate(prefixes):
            keys = (f"{prefix}-{n}" for n in range(count))
            streams.append(self._puts(self._uri_list(nodes, f"store-put-{number}", keys), 1))

        def verify(totals: Sequence[Totals]) -> None:
            check_lists(totals, count)
            for prefix, total in list(zip(prefixes, totals, strict=True))[:4]:
                for acknowledged in {0, total.succeeded - 1}:
                    self.read_back(nodes, f"{prefix}-{acknowledged}")

        return Load(tuple(streams), 204, nodes.pids(), verify)

    def _overwrites(self, nodes: Nodes, cell: Cell) -> Load:
        uris = self._uri_list(nodes, "store-keys", self._keys)
        stream = self._puts(uris, cell.connections // cell.streams)

        def verify(totals: Sequence[Totals]) -> None:
            del totals
            for key in (self._keys[0], self._keys[-1]):
                self.read_back(nodes, key)

        return Load((stream,) * cell.streams, 204, nodes.pids(), verify)

    def _gets(self, nodes: Nodes, cell: Cell) -> Load:
        stream = Stream(
            target=str(self._uri_list(nodes, "store-keys", self._keys)),
            target_is_list=True,
            connections=cell.connections // cell.streams,
            http1=True,
        )

        def verify(totals: Sequence[Totals]) -> None:
            check_gets(totals, len(self._value))

        return Load((stream,) * cell.streams, 200, nodes.pids(), verify)

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

    def _uri_list(self, nodes: Nodes, name: str, keys: Iterable[str]) -> Path:
        base = f"http://127.0.0.1:{nodes.http_ports[0]}/kv/"
        path = self._scratch / name
        path.write_text("".join(f"{base}{key}\n" for key in keys))
        return path

    def read_back(self, nodes: Nodes, key: str) -> None:
        """A value that was acknowledged at the first node must be read at the last."""
        status, body = nodes.read(key)
        if status != 200 or body != self._value:
            raise BenchError(
                f"key {key} was acknowledged, but reading it back through another node gave"
                f" status {status} and {len(body)} bytes"
            )


def _reconciliation(operation: str) -> str:
    return LAST_WRITE_WINS if operation == OVERWRITE else SIBLINGS


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
