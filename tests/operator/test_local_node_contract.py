"""What `dynamo local` relies on in a node: true of the stand-in and of the real one."""

import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_ports

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring

FAKE = [sys.executable, str(Path(__file__).with_name("fake_node.py"))]
REAL = [sys.executable, "-m", "dynamo_node"]


class Node:
    def __init__(self, command: list[str], folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.ports = free_ports(3)
        self.config: dict[str, Any] = {
            "cluster": {"name": "cart", "id": secrets.token_hex(16)},
            "keys": [{"id": 1, "secret": secrets.token_hex(32)}],
            "node": {"name": "cart-default-0"},
            "data_dir": str(folder / "data"),
            "host": "127.0.0.1",
            **dict(zip(("http_port", "native_port", "admin_port"), self.ports, strict=True)),
            "admin_token": "",
            "quorum": {"r": 1, "w": 1},
            "reconciliation": "siblings",
            "durability": "sync",
            "limits": {"valueBytesMax": 1048576, "siblingsMax": 100, "objectBytesMax": 8388608},
            "timing": {"drain_ms": 0},
            "log": {"format": "text", "level": "info"},
        }
        self.child: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        path = self.folder / "config.json"
        path.write_text(json.dumps(self.config))
        self.child = subprocess.Popen(
            [*self.command, "--config", str(path)], stderr=subprocess.PIPE, text=True
        )
        return self.child

    def stop(self) -> int | None:
        if self.child is None:
            return None
        self.child.terminate()
        code = self.child.wait(20)
        if self.child.stderr is not None:
            self.child.stderr.close()
        return code

    def ask(
        self, path: str, body: bytes | None = None, method: str | None = None
    ) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.ports[2]}{path}"
        request = urllib.request.Request(url, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                kind = error.headers["Content-Type"]
                return error.code, {**json.load(error), "content_type": kind}

    def status(self) -> Any:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(OSError):
                return self.ask("/admin/status")[1]
            time.sleep(0.02)
        raise AssertionError("the node does not answer")

    def ready(self) -> Any:
        deadline = time.monotonic() + 20
        while not (status := self.status())["ready"]:
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status

    def ring(self, at: str) -> Ring:
        member = Candidate("cart-default-0", "", "1", "127.0.0.1", *self.ports, self.disk_id)
        return first_ring(self.config["cluster"]["id"], "cart", [member], 1, 16, at)

    @property
    def disk_id(self) -> str:
        return str(self.status()["disk_id"])


@pytest.fixture(params=[FAKE, REAL], ids=["stand-in", "real"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    made = Node(request.param, tmp_path)
    try:
        yield made
    finally:
        if made.child is not None and made.child.poll() is None:
            made.child.kill()
        if made.child is not None:
            made.child.communicate()


def test_a_node_formats_its_disk_waits_for_a_ring_and_keeps_it(node: Node) -> None:
    node.start()
    status = node.status()
    assert status["cluster_id"] == node.config["cluster"]["id"]
    assert (status["cluster_name"], status["name"]) == ("cart", "cart-default-0")
    assert (status["number"], status["ring"], status["ready"]) == (None, None, False)
    assert (status["state"], status["hints_pending"]) == ("waiting", {})
    assert len(bytes.fromhex(status["disk_id"])) == 16
    assert len(bytes.fromhex(status["incarnation"])) == 8
    assert node.child is not None
    assert status["pid"] == node.child.pid
    assert node.ask("/admin/ring")[0] == 404
    assert node.ask("/admin/ring", b'{"epoch": 1}')[0] == 400

    ring = node.ring("2026-01-31T12:00:00Z")
    for _ in range(2):
        assert node.ask("/admin/ring", ring.to_bytes()) == (200, {"epoch": 1, "id": ring.id})
    other = replace(ring, history=())
    code, told = node.ask("/admin/ring", other.to_bytes())
    assert (code, told["ring"]["id"]) == (409, ring.id)
    assert told["content_type"].startswith("application/problem+json")
    status = node.ready()  # which may come a moment after the answer
    assert status["number"] == 1
    assert status["ring"] == {"epoch": 1, "id": ring.id}

    assert node.stop() == 0
    node.start()
    again = node.status()
    assert (again["disk_id"], again["ring"]) == (status["disk_id"], status["ring"])
    assert Ring.from_json(node.ask("/admin/ring")[1]).id == ring.id


def test_settings_are_put_while_it_runs_and_hold_over_the_file_that_they_were_put_over(
    node: Node,
) -> None:
    def put(value: dict[str, Any]) -> int:
        return node.ask("/admin/settings", json.dumps(value).encode(), "PUT")[0]

    def told() -> tuple[int, int, int]:
        settings = node.status()["settings"]
        assert node.ask("/admin/settings") == (200, settings)
        limits = settings["limits"]
        return settings["quorum"]["r"], settings["quorum"]["w"], limits["siblingsMax"]

    node.start()
    assert told() == (1, 1, 100)
    node.ask("/admin/ring", node.ring("2026-01-31T12:00:00Z").to_bytes())
    node.ready()
    assert put({"quorum": {"r": 1, "w": 1}, "limits": {"siblingsMax": 7}}) == 200
    assert put({"quorum": {"r": 2, "w": 1}, "limits": {}}) == 400, "the ring has one replica"
    assert told() == (1, 1, 7)
    assert node.stop() == 0
    node.start()
    assert told() == (1, 1, 7)
    assert node.stop() == 0
    node.config["limits"]["siblingsMax"] = 9
    node.start()
    assert told() == (1, 1, 9), "the file says something else by now"


def test_a_node_that_cannot_run_says_why_in_a_line_and_exits_with_2(node: Node) -> None:
    node.start()
    node.status()
    node.stop()
    node.config["cluster"]["id"] = "ef" * 16
    with node.start() as child:
        _, told = child.communicate(timeout=20)
    assert child.returncode == 2
    assert told.strip()
    assert "Traceback" not in told

    node.config["data_dir"] = str(node.folder / "other")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", node.ports[2]))
        other.listen()
        with node.start() as child:
            _, told = child.communicate(timeout=20)
    assert child.returncode == 2
    assert str(node.ports[2]) in told
    assert "Traceback" not in told
