"""A stand-in for a node process: the admin HTTP, the disk's id and the ring, nothing else.

It keeps the interface that `dynamo local` relies on, and starts fast. It has handed
over whatever it should; a file `handover.json` beside its configuration says otherwise.
test_local_node_contract runs the same checks against it and the real node.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dynamo_core.errors import CallerError
from dynamo_core.ring import Member, Ring

STARTED = time.monotonic()
Answer = tuple[int, dict[str, Any]]


class FakeNode:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.data = Path(config["data_dir"])
        self.incarnation = secrets.token_hex(8)
        disk = self.data / "disk.json"
        if not disk.exists():
            self.data.mkdir(parents=True, exist_ok=True)
            fresh = {"cluster": config["cluster"]["id"], "id": secrets.token_hex(16)}
            disk.write_text(json.dumps(fresh))
        held = json.loads(disk.read_text())
        if held["cluster"] != config["cluster"]["id"]:
            fail(f"the disk {self.data} belongs to the cluster {held['cluster']}")
        self.disk_id = held["id"]
        self.in_file = {name: config[name] for name in ("quorum", "limits")}
        self.settings = self.in_file
        put = self.data / "settings.json"
        if put.exists():
            note = json.loads(put.read_text())
            if note["over"] == self.in_file:
                self.settings = note["put"]
        ring = self.data / "ring.json"
        self.ring = Ring.from_bytes(ring.read_bytes()) if ring.exists() else None

    def status(self) -> Answer:
        ring, name = self.ring, self.config["node"]["name"]
        member = named(ring, name) if ring else None
        return 200, {
            "cluster_id": self.config["cluster"]["id"],
            "cluster_name": self.config["cluster"]["name"],
            "name": name,
            "number": member.number if member else None,
            "incarnation": self.incarnation,
            "disk_id": self.disk_id,
            "ring": {"epoch": ring.epoch, "id": ring.id} if ring else None,
            "state": "up" if ring else "waiting",
            "ready": ring is not None,
            "handover": self.handover(),
            "version": "0.1.0",
            "feature_levels": [1, 1],
            "keys": 0,
            "hints_pending": {},
            "durability": self.config["durability"],
            "quorum": {"n": ring.replication if ring else 0, **self.settings["quorum"]},
            "settings": self.settings,
            "uptime_seconds": time.monotonic() - STARTED,
            "pid": os.getpid(),
        }

    def get_settings(self) -> Answer:
        return 200, self.settings

    def put_settings(self, body: bytes) -> Answer:
        put = {name: {**self.in_file[name], **json.loads(body)[name]} for name in self.in_file}
        for name, count in put["quorum"].items():
            if count > (self.ring.replication if self.ring else 255):
                return problem(400, "bad settings", f"quorum.{name}: {count}")
        note = {"over": self.in_file, "put": put}
        (self.data / "settings.json").write_text(json.dumps(note))
        self.settings = put
        return 200, put

    def handover(self) -> dict[str, Any]:
        facts = {"open_slots": 0, "records": 0, "hints": 0, "pulling": 0, "drained": False}
        told = self.data.parent / "handover.json"
        more = json.loads(told.read_text()) if told.exists() else {}
        return {**facts, "sealed_to": {}, "held_by": {}, **more}

    def get_ring(self) -> Answer:
        if self.ring is None:
            return problem(404, "no ring", "this node holds no ring yet")
        return 200, self.ring.to_json()

    def post_ring(self, body: bytes) -> Answer:
        try:
            ring = Ring.from_bytes(body)
        except CallerError as error:
            return problem(400, "bad ring", str(error))
        if self.ring is not None and ring.id != self.ring.id and ring.parent != self.ring.id:
            return problem(409, "not the parent", "another ring", ring=self.ring.to_json())
        if named(ring, self.config["node"]["name"]) is None:
            return problem(400, "bad ring", "it doesn't name this node")
        (self.data / "ring.json").write_bytes(ring.to_bytes())
        self.ring = ring
        return 200, {"epoch": ring.epoch, "id": ring.id}


def named(ring: Ring, name: str) -> Member | None:
    """The member or leaving member of that name."""
    return next((m for m in (*ring.members, *ring.leaving) if m.name == name), None)


def problem(status: int, title: str, detail: str, **more: object) -> Answer:
    return status, {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
    } | more


def handler(node: FakeNode) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            routes = {
                "/admin/status": node.status,
                "/admin/ring": node.get_ring,
                "/admin/settings": node.get_settings,
            }
            self.answer(*routes[self.path]())

        def do_PUT(self) -> None:
            self.answer(*node.put_settings(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_POST(self) -> None:
            self.answer(*node.post_ring(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            kind = "application/json" if status == 200 else "application/problem+json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True


def fail(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    path = parser.parse_args().config
    if (path.parent / "broken").exists():
        fail("the disk smells of smoke")
    node = FakeNode(json.loads(path.read_text()))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        server = Server((node.config["host"], node.config["admin_port"]), handler(node))
    except OSError as error:
        fail(f"port {node.config['admin_port']} is in use: {error}")
    server.serve_forever()


if __name__ == "__main__":
    main()
