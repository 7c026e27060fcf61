"""A cluster of node processes on loopback.

Owns their configuration, the first ring, their start, and how one is hurt:
killed, wiped, started again. Nodes are separate processes, as a user runs them;
the only code shared with them is the core's ring. Nothing here knows a load.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.ports import free_ports
from bench.processes import Children, check_running, wait_until
from dynamo_core.placement import Candidate, first_ring

SIBLINGS = "siblings"
LAST_WRITE_WINS = "lastWriteWins"
NODES = 3
PARTITIONS = 256


class Nodes:
    """Replication 3, W = R = 2, durability sync; all files of the cluster in ``folder``."""

    def __init__(
        self, children: Children, folder: Path, reconciliation: str, count: int = NODES
    ) -> None:
        self._children = children
        self._count = count
        self._folder = folder
        self._reconciliation = reconciliation
        self._cluster = {"name": "bench", "id": secrets.token_hex(16)}
        self._key = {"id": 1, "secret": secrets.token_hex(32)}
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._ports: dict[str, tuple[int, int, int]] = {}

    def start(self) -> None:
        """Start them, give them the first ring, wait until all are ready; or BenchError."""
        self._folder.mkdir(parents=True)
        ports = free_ports(3 * self._count)
        for number in range(self._count):
            name = f"bench-default-{number}"
            self._ports[name] = (ports[3 * number], ports[3 * number + 1], ports[3 * number + 2])
            config = self._folder / f"{name}.json"
            config.touch(mode=0o600)
            config.write_text(json.dumps(self._settings(name)))
            self.launch(name)
        self._publish_ring()
        wait_until(self._ready, self._running, self._folder, "waiting for the nodes to be ready")

    def launch(self, name: str) -> None:
        """Start that node's process; it may not be ready for a while."""
        config = self._folder / f"{name}.json"
        argv = [sys.executable, "-m", "dynamo_node", "--config", str(config)]
        self._running[name] = self._children.serve(argv, self._folder / f"{name}.log")

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for its end."""
        self._running[name].kill()
        self._running[name].wait()

    def check_running(self) -> None:
        """BenchError, with the end of its log, for a node that ended."""
        check_running(self._running, self._folder, "it was measured")

    def wipe(self, name: str) -> None:
        """Take away the disk of a node that doesn't run."""
        shutil.rmtree(self._folder / name)

    def admin(self, name: str, path: str) -> Any:
        """What that node's admin port answers to a GET, decoded; None while it can't be had."""
        status, body = call(self._ports[name][2], "GET", path)
        return json.loads(body) if status == 200 else None

    def put_settings(self, name: str, body: bytes) -> int:
        """The status with which that node answers other live settings."""
        return call(self._ports[name][2], "PUT", "/admin/settings", body)[0]

    def pids(self) -> Mapping[str, int]:
        return {name: node.pid for name, node in self._running.items()}

    @property
    def http_ports(self) -> list[int]:
        return [http for http, _native, _admin in self._ports.values()]

    def read(self, key: str) -> tuple[int, bytes]:
        """Status and body of a get through the last node, which no load is sent to."""
        return call(self.http_ports[-1], "GET", f"/kv/{key}")

    def _settings(self, name: str) -> dict[str, Any]:
        http_port, native_port, admin_port = self._ports[name]
        return {
            "cluster": self._cluster,
            "keys": [self._key],
            "node": {"name": name},
            "data_dir": str(self._folder / name),
            "host": "127.0.0.1",
            "http_port": http_port,
            "native_port": native_port,
            "admin_port": admin_port,
            "admin_token": "",
            "quorum": {"r": 2, "w": 2},
            "reconciliation": self._reconciliation,
            "durability": "sync",
            "timing": {"drain_ms": 0},  # no load balancer has to notice that they stop
            "limits": {"valueBytesMax": 1048576, "siblingsMax": 100, "objectBytesMax": 8388608},
            "log": {"format": "text", "level": "info"},
        }

    def _publish_ring(self) -> None:
        disks: dict[str, str] = {}

        def answering() -> bool:
            for name, (_http, _native, admin) in self._ports.items():
                status, body = call(admin, "GET", "/admin/status")
                if status != 200:
                    return False
                disks[name] = json.loads(body)["disk_id"]
            return True

        wait_until(answering, self._running, self._folder, "waiting for the nodes' admin ports")
        members = [
            Candidate(
                name=name,
                zone="",
                capacity="1",
                host="127.0.0.1",
                http_port=http_port,
                native_port=native_port,
                admin_port=admin_port,
                disk_id=disks[name],
            )
            for name, (http_port, native_port, admin_port) in self._ports.items()
        ]
        ring = first_ring(
            cluster_id=self._cluster["id"],
            cluster_name=self._cluster["name"],
            members=members,
            replication=3,
            partitions=PARTITIONS,
            at=datetime.now(UTC).isoformat(),
        )
        for name, (_http, _native, admin) in self._ports.items():
            status, body = call(admin, "POST", "/admin/ring", ring.to_bytes())
            if status != 200:
                raise BenchError(f"{name} answered the ring with {status}: {body[:300]!r}")

    def _ready(self) -> bool:
        return all(call(port, "GET", "/readyz")[0] == 200 for port in self.http_ports)


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
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
