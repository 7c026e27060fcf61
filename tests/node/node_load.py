"""Clients that keep writing while nodes are hurt, and remember what was acknowledged."""

import http.client
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tests.node.node_processes import Connection, NodeProcess, path_of

PACE_S = 0.005
"""Between two writes of one writer: the machine is shared, and all is read back later."""


class Load:
    """Writers on threads; each key is written once, blind, with one write id for all tries.

    `acknowledged` holds what got a 204, `failed` every answer that was not one,
    and, when `tolerant` is off, every connection that broke in mid-request. A
    refused connection, and one that says it will close, only means: take the
    next node.
    """

    def __init__(self, nodes: list[NodeProcess], tolerant: bool, prefix: bytes = b"load") -> None:
        self._nodes = nodes
        self._tolerant = tolerant
        self._prefix = prefix
        self._stop = threading.Event()
        self._numbers = count()
        self.acknowledged: dict[bytes, bytes] = {}
        self.failed: list[str] = []

    @contextmanager
    def running(self, writers: int = 4) -> Iterator["Load"]:
        """Write until the block ends."""
        threads = [threading.Thread(target=self._write, args=(at,)) for at in range(writers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)

    def _write(self, at: int) -> None:
        connection: Connection | None = None
        try:
            while not self._stop.wait(PACE_S):
                number = next(self._numbers)
                key, value = self._prefix + b" %d" % number, b"value %d" % number
                headers = {"X-Dynamo-Write-Id": os.urandom(16).hex()}
                for _ in range(20):
                    if connection is None:
                        at += 1
                        connection = Connection(self._nodes[at % len(self._nodes)].http_port)
                        try:
                            connection.connect()
                        except OSError:
                            connection = None
                            continue
                    try:
                        reply = connection.ask("PUT", path_of(key), value, headers)
                    except (OSError, http.client.HTTPException) as error:
                        connection.close()
                        connection = None
                        if not self._tolerant:
                            self.failed.append(f"{key!r}: {error!r}")
                        continue
                    if reply.headers.get("Connection", "").lower() == "close":
                        connection.close()
                        connection = None
                    if reply.status == 204:
                        self.acknowledged[key] = value
                        break
                    self.failed.append(f"{key!r}: {reply.status} {reply.body[:200]!r}")
                    break
                else:
                    self.failed.append(f"{key!r}: no node took it")
        finally:
            if connection is not None:
                connection.close()

    def check_all(self, node: NodeProcess, **query: object) -> None:
        """Every acknowledged write is read back through `node`, alone."""
        connection = Connection(node.http_port)
        wrong = {}
        for key, value in self.acknowledged.items():
            reply = connection.ask("GET", path_of(key, **query))
            if (reply.status, reply.body) != (200, value):
                wrong[key] = reply.status, reply.body[:100]
        connection.close()
        assert not wrong, f"{len(wrong)} of {len(self.acknowledged)}: {list(wrong.items())[:5]}"
