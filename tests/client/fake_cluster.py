"""A cluster of fake nodes: the contract's HTTP over one store in memory, in a thread.

It is verified: `test_client_contract.py` runs the same tests against it and
against real nodes. `faults` of a node make it misbehave, one entry a request.
"""

import asyncio
import json
import threading
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import web
from bench.ports import free_ports
from tests.client.fake_store import VALUE_BYTES_MAX, BadContextError, Store

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring, position

REPLICAS = 3
CLUSTER_ID = "c0ffee" + "0" * 26
PUT_JSON = "application/vnd.dynamo.put+json"
T = TypeVar("T")


class FakeNode:
    """One node. Faults: unavailable, overloaded, drop-before, drop-after, hang, html."""

    def __init__(self, cluster: "FakeCluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.faults: deque[str] = deque()
        self.fault_forever = ""
        self.requests: list[web.Request] = []
        self.is_ready = True
        (self.port,) = free_ports(1)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=8 * VALUE_BYTES_MAX)
        app.router.add_get("/cluster", self._cluster)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/admin/ring", self._ring)
        app.router.add_get("/admin/status", self._status)
        app.router.add_get("/admin/keys", self._keys)
        app.router.add_route("*", r"/kv/{key:[\s\S]*}", self._kv)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def is_up(self) -> bool:
        return self._runner is not None

    async def _kv(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        fault = self.faults.popleft() if self.faults else self.fault_forever
        body = await request.read()
        if fault == "hang":
            await asyncio.sleep(30)
        if fault == "overloaded":
            return _problem(503, "overloaded", "too many requests", {"Retry-After": "1"})
        if fault == "unavailable":
            return _problem(503, "unavailable", "1 of 2 replicas answered", needed=2, got=1)
        if fault == "html":
            return web.Response(status=404, text="<h1>nginx</h1>", content_type="text/html")
        if fault != "drop-before":
            answer = self._answer(request, body)
        if fault.startswith("drop"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return answer

    def _answer(self, request: web.Request, body: bytes) -> web.Response:
        store = self.cluster.store
        key = unquote_to_bytes(request.raw_path.partition("?")[0].removeprefix("/kv/"))
        if not key:
            return _problem(400, "bad-key", "the key is empty")
        if len(key) > 1024:
            return _problem(413, "too-large", "the key is over 1024 bytes")
        for name in ("r", "w"):
            given = request.query.get(name, "1")
            if not given.isdecimal() or not 1 <= int(given) <= REPLICAS:
                return _problem(400, "bad-quorum", f"{name} is {given}; 1..{REPLICAS} is right")
        content_type = request.headers.get("Content-Type", "application/octet-stream")
        token = request.headers.get("X-Dynamo-Context")
        try:
            if request.method == "PUT" and content_type == PUT_JSON:
                envelope = json.loads(body)
                token, content_type = envelope.get("context"), envelope["content_type"]
                body = b64decode(envelope["value"])
            elif content_type == PUT_JSON and body:
                token = json.loads(body)["context"]
            covered = store.open(key, token)
        except BadContextError:
            return _problem(400, "bad-context", "the context is not of this key")
        write_id = request.headers.get("X-Dynamo-Write-Id", str(len(store.objects)))
        if request.method == "GET":
            return self._get(key, covered)
        if request.method == "DELETE":
            return self._delete(key, token, covered, write_id)
        if len(body) > VALUE_BYTES_MAX:
            return _problem(413, "too-large", f"the value is over {VALUE_BYTES_MAX} bytes")
        if store.is_full(key, covered):
            return _problem(409, "too-many-siblings", "read first")
        return _done(store.write(key, body, covered, write_id, content_type))

    def _get(self, key: bytes, floor: set[int]) -> web.Response:
        store = self.cluster.store
        if not store.covers(key, floor):
            return _problem(503, "not-yet", "the floor is not reached", needed=2, got=1)
        live, context = store.read(key)
        headers = {"X-Dynamo-Acks": "primary=2, standin=0"}
        in_header = context is not None and len(context) <= 6 * 1024
        if context is not None and in_header:
            headers["X-Dynamo-Context"] = context
        if not live:
            extra = {} if in_header or context is None else {"context": context}
            return _problem(404, "not-found", "no value", headers, **extra)
        if len(live) == 1 and in_header:
            headers["Content-Type"] = live[0].content_type
            return web.Response(body=live[0].value, headers=headers)
        siblings = [
            {
                "value": b64encode(v.value or b"").decode(),
                "content_type": v.content_type,
                "dot": f"1:{v.dot}",
                "written_at": datetime.fromtimestamp(v.dot, UTC).isoformat(),
            }
            for v in live
        ]
        document = {"context": context, "siblings": siblings}
        return web.json_response(document, status=300, headers=headers)

    def _delete(
        self, key: bytes, token: str | None, covered: set[int], write_id: str
    ) -> web.Response:
        store = self.cluster.store
        if token is None:
            live, shown = store.read(key)
            if not live:
                return self._get(key, set())
            covered = store.open(key, shown)
        return _done(store.write(key, None, covered, write_id, ""))

    async def _cluster(self, request: web.Request) -> web.Response:
        return web.json_response(self.cluster.view())

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_ready else 503)

    async def _ring(self, request: web.Request) -> web.Response:
        return web.json_response(self.cluster.ring().to_json())

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"cluster_id": self.cluster.id, "name": self.name})

    async def _keys(self, request: web.Request) -> web.Response:
        partition = int(request.query["partition"])
        after = bytes.fromhex(request.query.get("after", ""))
        limit = min(int(request.query["limit"]), self.cluster.page_keys_max)
        ring = self.cluster.ring()
        owners = [ring.member(number).name for number in ring.slots[partition]]
        holders = self.cluster.holders.get(partition, owners)
        keys = sorted(
            key
            for key in self.cluster.store.objects
            if self.name in holders
            and ring.partition_of(position(key)) == partition
            and key > after
        )
        page = [b64encode(key).decode() for key in keys[:limit]]
        following = keys[limit - 1].hex() if len(keys) > limit else None
        return web.json_response(
            {
                "keys": page,
                "next": following,
                "holders": holders,
                "row": self.cluster.row_of(partition),
                "counts": self.name in holders,
            }
        )


class FakeCluster:
    """Three nodes over one store, in a thread with its own event loop."""

    is_real = False

    def __init__(self, nodes: int = 3) -> None:
        self.id = CLUSTER_ID
        self.store = Store()
        self.page_keys_max = 1000
        self.holders: dict[int, list[str]] = {}
        """Partition -> names, where another node holds a slot than the ring names."""
        self.row_of: Callable[[int], str] = lambda partition: "00" * 8
        self.nodes = [FakeNode(self, f"cart-default-{at}") for at in range(nodes)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for node in self.nodes:
            self.call(node.start())

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def stop_node(self, at: int) -> None:
        self.call(self.nodes[at].stop())

    def start_node(self, at: int) -> None:
        self.call(self.nodes[at].start())

    def close(self) -> None:
        for node in self.nodes:
            self.call(node.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def view(self) -> dict[str, Any]:
        ring = self.ring()
        return {
            "name": ring.cluster_name,
            "ring": {
                "epoch": ring.epoch,
                "settled": True,
                "partitions": ring.partitions,
                "n": ring.replication,
                "imbalance": "0.01",
                "zones_distinct": 0,
            },
            "nodes": [
                {
                    "name": node.name,
                    "zone": "",
                    "state": "up" if node.is_up else "suspect",
                    "capacity": "1",
                    "tokens": ring.tokens(number),
                    "ownership_percent": 33.3,
                    "keys": len(self.store.objects),
                    "hints_pending": 0,
                    "incarnation": "00" * 8,
                    "http": node.url,
                    "admin": node.url,
                }
                for number, node in enumerate(self.nodes, 1)
            ],
            "transfers": [],
        }

    def ring(self) -> Ring:
        members = [
            Candidate(node.name, "", "1", "127.0.0.1", node.port, 1, 1, f"{at:032x}")
            for at, node in enumerate(self.nodes, 1)
        ]
        return _first_ring(tuple(members))


_RINGS: dict[tuple[Candidate, ...], Ring] = {}


def _first_ring(members: tuple[Candidate, ...]) -> Ring:
    if members not in _RINGS:
        _RINGS[members] = first_ring(
            CLUSTER_ID, "cart", members, min(REPLICAS, len(members)), 16, "2024-01-01T00:00:00Z"
        )
    return _RINGS[members]


def _done(context: str) -> web.Response:
    headers = {"X-Dynamo-Acks": "primary=2, standin=0"}
    if len(context) <= 6 * 1024:
        return web.Response(status=204, headers={**headers, "X-Dynamo-Context": context})
    return web.json_response({"context": context}, headers=headers)


def _problem(
    status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extra: object
) -> web.Response:
    document = {"type": f"urn:dynamo:{kind}", "title": kind, "status": status, "detail": detail}
    text = json.dumps(document | extra)
    return web.Response(
        status=status, text=text, content_type="application/problem+json", headers=headers
    )
