"""Real node processes on free ports of 127.0.0.1, to be started, hurt and read.

Owns starting, killing, pausing and stopping; small blocking HTTP; and polling
with a deadline. Processes end with the cluster, whatever the test did.
"""

import http.client
import json
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from bench.ports import free_ports

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring

CLUSTER_ID = "ab" * 16
SECRET = "cd" * 32
UP_S = 30.0
REPAIR_S = 60.0
POLL_S = 0.02

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = UP_S, wanted: object = None) -> T:
    """Ask until the condition is truthy (or equals `wanted`) and return it; fails at the end."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found == wanted if wanted is not None else found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}; last seen: {found!r}")
        time.sleep(POLL_S)


def path_of(key: bytes, **query: object) -> str:
    """The path of a key, with every byte that needs it percent-encoded."""
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return f"/kv/{quote(key, safe='')}" + (f"?{asked}" if asked else "")


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def context(self) -> str:
        return self.headers.get("X-Dynamo-Context", "")

    @property
    def acks(self) -> str:
        return self.headers.get("X-Dynamo-Acks", "")

    def problem(self, status: int, kind: str) -> str:
        """Check that this is that problem in full form; returns its detail."""
        assert self.status == status, (self.status, self.body[:300])
        assert self.headers["Content-Type"] == "application/problem+json", self.headers
        found = self.json
        assert found["type"] == f"urn:dynamo:problem:{kind}", found
        assert found["status"] == status
        assert found["title"]
        assert found["detail"]
        return str(found["detail"])


class Connection:
    """A kept-alive HTTP connection."""

    def __init__(self, port: int, timeout_s: float = 15.0) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        named = dict(headers or {})
        chunked = "Transfer-Encoding" in named
        self._http.request(method, path, body, named, encode_chunked=chunked)
        answer = self._http.getresponse()
        return Reply(answer.status, answer.headers, answer.read())

    def connect(self) -> None:
        self._http.connect()

    def close(self) -> None:
        self._http.close()


class NodeProcess:
    """One node: its folder, its ports, and its process while it has one."""

    def __init__(
        self, folder: Path, name: str, ports: tuple[int, int, int], settings: dict[str, Any]
    ) -> None:
        self.folder = folder
        self.name = name
        self.http_port, self.native_port, self.admin_port = ports
        self.log_path = folder / f"{name}.log"
        self.config_path = folder / f"{name}.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str, ...] = ("-m", "dynamo_node")
        self.more: tuple[str, ...] = ()
        """Further words of its command line."""
        self.settings = {
            "cluster": {"name": "cart", "id": CLUSTER_ID},
            "keys": [{"id": 1, "secret": SECRET}],
            "node": {"name": name},
            "data_dir": str(folder / name),
            "host": "127.0.0.1",
            "http_port": self.http_port,
            "native_port": self.native_port,
            "admin_port": self.admin_port,
            "timing": {"drain_ms": 50},
            "storage": {"memory_bytes": 16 << 20},
            **settings,
        }

    # Life

    def start(self, program: tuple[str, ...] = ()) -> None:
        """Start it with `program`, else with its own."""
        assert self.process is None or self.process.poll() is not None
        program = program or self.program
        self.config_path.write_text(json.dumps(self.settings))
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--config", str(self.config_path), *self.more],
                stdout=log,
                stderr=log,
            )

    def wait_up(self) -> dict[str, Any]:
        """Wait until admin answers; returns the status."""
        return until(self._status_or_none, f"{self.name} answers", UP_S)

    def candidate(self) -> Candidate:
        """This node as a member of a ring, once it answers."""
        ports = self.http_port, self.native_port, self.admin_port
        return Candidate(self.name, "", "1", "127.0.0.1", *ports, self.wait_up()["disk_id"])

    def wait_ready(self) -> None:
        """Wait until it may serve; it may still be starting."""
        until(
            lambda: (self._status_or_none() or {}).get("ready") and self._serves(),
            f"{self.name} is ready",
            UP_S,
        )

    def _serves(self) -> bool:
        try:
            return self.http("GET", "/readyz").status == 200
        except OSError:
            return False

    def _status_or_none(self) -> dict[str, Any] | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self.log()[-2000:]}")
        try:
            return self.status()
        except OSError:
            return None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def pause(self) -> None:
        """SIGSTOP, and wait until the kernel says that it stands still."""
        assert self.process is not None
        self.signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; `wait_end` says how it went."""
        self.signal(signal.SIGTERM)

    def wait_end(self, seconds: float = 30.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # Talking

    def http(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request on a connection of its own; `X_Y` in `headers` means X-Y."""
        return self._once(self.http_port, method, path, body, headers)

    def admin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        return self._once(self.admin_port, method, path, body, headers)

    def repair(self, query: str = "") -> Any:
        """What a comparison of everything came to: it is answered when that has ended.

        It keeps to the share of background work, which is small after a start and under load.
        """
        connection = Connection(self.admin_port, REPAIR_S)
        try:
            return connection.ask("POST", f"/admin/repair{query}").json
        finally:
            connection.close()

    def _once(
        self, port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        connection = Connection(port)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return connection.ask(method, path, body, named)
        finally:
            connection.close()

    def put(self, key: bytes, value: bytes, context: str = "", **query: object) -> Reply:
        headers = {"X_Dynamo_Context": context} if context else {}
        return self.http("PUT", path_of(key, **query), value, **headers)

    def get(self, key: bytes, context: str = "", **query: object) -> Reply:
        headers = {"X_Dynamo_Context": context} if context else {}
        return self.http("GET", path_of(key, **query), **headers)

    def delete(self, key: bytes, context: str = "", **query: object) -> Reply:
        headers = {"X_Dynamo_Context": context} if context else {}
        return self.http("DELETE", path_of(key, **query), **headers)

    def values(self, key: bytes, **query: object) -> set[bytes]:
        """What a GET shows: the values of all siblings, empty when there is none."""
        reply = self.http("GET", path_of(key, **query), Accept="application/json")
        if reply.status == 300:
            return {b64decode(sibling["value"]) for sibling in reply.json["siblings"]}
        if reply.status == 200 and reply.context:
            return {reply.body}
        reply.problem(404, "not-found")
        return set()

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.admin("GET", "/admin/status").json
        return status

    def digest(self) -> dict[str, str]:
        digest: dict[str, str] = self.admin("GET", "/admin/digest").json
        return digest

    def replica(self, key: bytes) -> dict[str, Any]:
        """This node's own view of a key, without a quorum."""
        reply = self.admin("GET", f"/admin/replica/{quote(key, safe='')}")
        assert reply.status == 200, reply.body
        found: dict[str, Any] = reply.json
        return found

    def peers(self) -> dict[str, str]:
        """Name to state of every node, as this one sees them."""
        cluster = self.http("GET", "/cluster").json
        return {node["name"]: node["state"] for node in cluster["nodes"]}

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Cluster:
    """Some nodes of one cluster; `start` forms it, `close` ends every process."""

    def __init__(self, folder: Path, nodes: int = 3, **settings: Any) -> None:
        self.folder = folder
        ports = free_ports(3 * nodes)
        self.nodes = [
            NodeProcess(
                folder,
                f"cart-default-{at}",
                (ports[3 * at], ports[3 * at + 1], ports[3 * at + 2]),
                settings,
            )
            for at in range(nodes)
        ]
        self.extra: list[NodeProcess] = []
        """Further processes that tests start; they end with the cluster."""
        self.ring: Ring | None = None

    def start(self, replication: int = 3, partitions: int = 16) -> None:
        for node in self.nodes:
            node.start()
        self.ring = first_ring(
            CLUSTER_ID,
            "cart",
            [node.candidate() for node in self.nodes],
            replication,
            partitions,
            "2026-01-01T00:00:00Z",
        )
        for node in self.nodes:
            assert node.admin("POST", "/admin/ring", self.ring.to_bytes()).status == 200
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until all are ready and every one sees every other as up."""
        for node in self.nodes:
            node.wait_ready()
        for node in self.nodes:
            until(lambda node=node: set(node.peers().values()), "all up", UP_S, wanted={"up"})

    def wait_hints_delivered(self, seconds: float = 30.0) -> None:
        for node in self.nodes:
            until(
                lambda node=node: not node.status()["hints_pending"],
                f"{node.name} has delivered its hints",
                seconds,
            )

    def wait_equal(self, seconds: float = 30.0) -> None:
        """Wait until the hash trees of every shared partition are equal."""

        def differing() -> list[str]:
            digests = [node.digest() for node in self.nodes]
            partitions = {p for digest in digests for p in digest}
            return [p for p in partitions if len({d[p] for d in digests if p in d}) > 1]

        until(differing, "replicas are byte-equal", seconds, wanted=[])

    def close(self) -> None:
        for node in (*self.nodes, *self.extra):
            if node.alive:
                node.signal(signal.SIGKILL)
                node.wait_end()

    def unclean_lines(self) -> list[str]:
        """Log lines that no input may cause: tracebacks, and errors nobody foresaw."""
        bad = (
            "Traceback",
            "unforeseen",
            "background task failed",
            "Fatal error",
            "never retrieved",
        )
        return [
            f"{node.name}: {line}"
            for node in (*self.nodes, *self.extra)
            for line in node.log().splitlines()
            if any(word in line for word in bad)
        ]

    def assert_clean(self) -> None:
        """All nodes live and answer, and no log holds a traceback."""
        for node in self.nodes:
            assert node.alive, node.log()[-2000:]
            assert node.http("GET", "/healthz").status == 200
        unclean = self.unclean_lines()
        assert not unclean, "\n".join(unclean[:20])

    def tails(self, lines: int = 40) -> Iterator[tuple[str, str]]:
        for node in (*self.nodes, *self.extra):
            yield node.name, "\n".join(node.log().splitlines()[-lines:])


@contextmanager
def running(folder: Path, nodes: int = 3, **settings: Any) -> Iterator[Cluster]:
    """A formed cluster for the length of a block."""
    cluster = Cluster(folder, nodes, **settings)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
