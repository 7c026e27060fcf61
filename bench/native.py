"""This store again, over the native protocol by a generator of our own.

It is the client's single hop (P§6.4): one process with a connection to every
node, each request sent to an owner of its key. The same clusters, keys and
values as `bench.store` has; its CPU is stated, because it is a Python client.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contender import GET, PUT, Cell, Load
from bench.errors import BenchError
from bench.h2load import Totals
from bench.nodes import Nodes
from bench.store import Store, check_gets

NAME = "dynamo native"


@dataclass(frozen=True, slots=True)
class Stream:
    """One process of `bench.native_load`; ``keys`` are those that exist, () makes new ones.

    New keys are ``prefix``-0, ``prefix``-1 and so on.
    """

    url: str
    in_flight: int
    prefix: str
    keys: int = 0
    body: Path | None = None

    @property
    def program(self) -> str:
        return "the native generator"

    @property
    def start_s(self) -> float:
        return 2.0  # Python, its imports, three handshakes, on a machine that is busy

    def command(
        self, log: Path, *, duration_ms: int | None = None, requests: int | None = None
    ) -> list[str]:
        if duration_ms is None or requests is not None:
            raise ValueError("the native generator is bounded by a time")
        argv = [sys.executable, "-m", "bench.native_load", self.url, self.prefix, str(log)]
        argv += ["--in-flight", str(self.in_flight), "--duration-ms", str(duration_ms)]
        if self.keys:
            argv += ["--keys", str(self.keys)]
        return argv if self.body is None else [*argv, "--body", str(self.body)]

    def totals(self, text: str) -> Totals:
        try:
            found = json.loads(text.splitlines()[-1])
            return Totals(**found)
        except (IndexError, ValueError, TypeError):
            tail = text.strip()[-400:] or "(nothing)"
            raise BenchError(
                f"the native generator printed no totals; its last words: {tail}"
            ) from None


class Native:
    """The contender; ``store`` owns the clusters, and is started before."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def name(self) -> str:
        return NAME

    @property
    def versions(self) -> Mapping[str, str]:
        return {}  # the store's own

    def start(self) -> None:
        """Nothing: the store's nodes are up."""

    def pids(self) -> Sequence[int]:
        return ()  # the store tells them

    def load(self, cell: Cell) -> Load:
        nodes = self._store.nodes(cell.operation)
        url = f"http://127.0.0.1:{nodes.http_ports[0]}"
        if cell.operation == PUT:
            return self._new_keys(nodes, url, cell)
        keys, common = len(self._store.keys), self._store.keys[0].rpartition("-")[0]
        body = None if cell.operation == GET else self._store.body
        value_bytes = self._store.body.stat().st_size

        def verify(totals: Sequence[Totals]) -> None:
            if cell.operation == GET:
                check_gets(totals, value_bytes)
            else:
                self._store.read_back(nodes, self._store.keys[-1])

        stream = Stream(url, cell.connections, common, keys, body)
        return Load((stream,), 200 if body is None else 204, nodes.pids(), verify)

    def _new_keys(self, nodes: Nodes, url: str, cell: Cell) -> Load:
        prefix = f"native-{cell.round}-{cell.connections}"

        def verify(totals: Sequence[Totals]) -> None:
            # Every put that was begun has been acknowledged, or the run had failed.
            for number in {0, totals[0].started // 2, totals[0].started - 1}:
                self._store.read_back(nodes, f"{prefix}-{number}")

        stream = Stream(url, cell.connections, prefix, body=self._store.body)
        return Load((stream,), 204, nodes.pids(), verify)
