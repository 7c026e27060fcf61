"""Three real nodes on free ports of 127.0.0.1, with a first ring: what the fake is verified by."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ports import free_ports

from dynamo_core.placement import Candidate, first_ring

_UP_SECONDS = 30.0
_CLUSTER_ID = "ab" * 16


def why_no_real_cluster() -> str:
    """ "" if nodes can be started here."""
    for module in ("dynamo_node.__main__", "rocksdict"):
        try:
            if importlib.util.find_spec(module) is None:
                return f"{module} doesn't exist"
        except ImportError as error:
            return str(error)
    return ""


class RealCluster:
    is_real = True

    def __init__(self, folder: Path, nodes: int = 3, reconciliation: str = "siblings") -> None:
        self._folder = folder
        self._reconciliation = reconciliation
        self._names = [f"cart-default-{at}" for at in range(nodes)]
        self._ports = free_ports(3 * nodes)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self._ports[3 * at]}" for at in range(len(self._names))]

    def start(self) -> None:
        for at in range(len(self._names)):
            self._processes.append(self._spawn(at))
        statuses = [
            _poll(lambda at=at: self._admin(at, "/admin/status")) for at in range(len(self._names))
        ]
        members = [
            Candidate(
                name, "", "1", "127.0.0.1", *self._ports[3 * at : 3 * at + 3], disk["disk_id"]
            )
            for at, (name, disk) in enumerate(zip(self._names, statuses, strict=True))
        ]
        ring = first_ring(_CLUSTER_ID, "cart", members, 3, 16, "2024-01-01T00:00:00Z")
        for at in range(len(self._names)):
            self._admin(at, "/admin/ring", json.dumps(ring.to_json()).encode())
        for url in self.urls:
            _poll(lambda url=url: _fetch(f"{url}/readyz"))

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(10)

    def _spawn(self, at: int) -> "subprocess.Popen[bytes]":
        http_port, native_port, admin_port = self._ports[3 * at : 3 * at + 3]
        folder = self._folder / self._names[at]
        folder.mkdir()
        config = {
            "cluster": {"name": "cart", "id": _CLUSTER_ID},
            "keys": [{"id": 1, "secret": "11" * 32}],
            "node": {"name": self._names[at]},
            "data_dir": str(folder / "data"),
            "host": "127.0.0.1",
            "http_port": http_port,
            "native_port": native_port,
            "admin_port": admin_port,
            "admin_token": "",
            "quorum": {"r": 2, "w": 2},
            "reconciliation": self._reconciliation,
            "durability": "buffered",
            "timing": {"drain_ms": 500},
            "limits": {"valueBytesMax": 1048576, "siblingsMax": 100, "objectBytesMax": 8388608},
            "log": {"format": "text", "level": "info"},
        }
        (folder / "data").mkdir()
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dynamo_node", "--config", str(path)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def _admin(self, at: int, path: str, body: bytes | None = None) -> Any:
        if self._processes[at].poll() is not None:
            log = (self._folder / self._names[at] / "log").read_text()
            raise RuntimeError(f"{self._names[at]} ended: {log[-2000:]}")
        return json.loads(_fetch(f"http://127.0.0.1:{self._ports[3 * at + 2]}{path}", body))


def _fetch(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": "application/json"} if body else {}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def _poll(attempt: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _UP_SECONDS
    while True:
        try:
            return attempt()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
