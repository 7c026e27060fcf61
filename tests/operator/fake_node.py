"""A stand-in for a node process: the admin HTTP, the disk's id and the ring, nothing else.

It keeps the interface that `dynamo local` relies on; test_local_node_contract runs
the same checks against it and against the real node.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path

from aiohttp import web

from dynamo_core.errors import CallerError
from dynamo_core.ring import Ring

STARTED = time.monotonic()


class FakeNode:
    def __init__(self, config: dict) -> None:
        self.config = config
        self.data = Path(config["data_dir"])
        self.incarnation = secrets.token_hex(8)
        self.stopping = False
        disk = self.data / "disk.json"
        if not disk.exists():
            self.data.mkdir(parents=True, exist_ok=True)
            held = {"cluster": config["cluster"]["id"], "id": secrets.token_hex(16)}
            disk.write_text(json.dumps(held))
        held = json.loads(disk.read_text())
        if held["cluster"] != config["cluster"]["id"]:
            fail(f"the disk {self.data} belongs to the cluster {held['cluster']}")
        self.disk_id = held["id"]
        ring = self.data / "ring.json"
        self.ring = Ring.from_bytes(ring.read_bytes()) if ring.exists() else None

    async def status(self, request: web.Request) -> web.Response:
        ring = self.ring
        member = ring.member_named(self.config["node"]["name"]) if ring else None
        return web.json_response(
            {
                "cluster_id": self.config["cluster"]["id"],
                "cluster_name": self.config["cluster"]["name"],
                "name": self.config["node"]["name"],
                "number": member.number if member else None,
                "incarnation": self.incarnation,
                "disk_id": self.disk_id,
                "ring": {"epoch": ring.epoch, "id": ring.id} if ring else None,
                "state": "leaving" if self.stopping else "up" if ring else "waiting",
                "ready": ring is not None and not self.stopping,
                "version": "0.1.0",
                "feature_levels": [1, 1],
                "keys": 0,
                "hints_pending": {},
                "durability": self.config["durability"],
                "quorum": {"n": ring.replication if ring else 0, **self.config["quorum"]},
                "uptime_seconds": time.monotonic() - STARTED,
                "pid": os.getpid(),
            }
        )

    async def get_ring(self, request: web.Request) -> web.Response:
        if self.ring is None:
            return problem(404, "no ring", "this node holds no ring yet")
        return web.json_response(self.ring.to_json())

    async def post_ring(self, request: web.Request) -> web.Response:
        try:
            ring = Ring.from_bytes(await request.read())
        except CallerError as error:
            return problem(400, "bad ring", str(error))
        if self.ring is not None and ring.id != self.ring.id and ring.parent != self.ring.id:
            return problem(409, "not the parent", "another ring", ring=self.ring.to_json())
        (self.data / "ring.json").write_bytes(ring.to_bytes())
        self.ring = ring
        return web.json_response({"epoch": ring.epoch, "id": ring.id})


def problem(status: int, title: str, detail: str, **more: object) -> web.Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return web.json_response(body, status=status, content_type="application/problem+json")


def fail(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    path = parser.parse_args().config
    config = json.loads(path.read_text())
    if (path.parent / "broken").exists():
        fail("the disk smells of smoke")
    node = FakeNode(config)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/admin/status", node.status)
    app.router.add_get("/admin/ring", node.get_ring)
    app.router.add_post("/admin/ring", node.post_ring)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        web.run_app(
            app, host=config["host"], port=config["admin_port"], print=None, handle_signals=False
        )
    except OSError as error:
        fail(f"port {config['admin_port']} is in use: {error}")


if __name__ == "__main__":
    main()
