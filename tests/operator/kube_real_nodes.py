"""A DynamoCluster on a real API server whose nodes are real processes, as a person sees it.

Owns the namespace of one test, the operator's process, waiting, and the load that is judged.
Forbidden: doing anything that a person couldn't, disasters apart (`stand_in`).
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64decode
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from bench.ports import free_ports
from e2e.judging import judge
from tests.operator.api_rights import operator_account
from tests.operator.api_server import ApiServer, Door
from tests.operator.kube_stand_in import OWNED, StandIn
from tests.operator.stand_in_machine import MERGE

from dynamo_client.cli.trial import Trial
from dynamo_client.client import DynamoClient
from dynamo_core.ring import Ring
from dynamo_operator.kube import kinds, names
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.observed import Address

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
NODES_MAX = 5
PARTITIONS = 32
RECORDS = 200
VALUE_BYTES = 1024
DEADLINE_S = 240.0  # a machine that others keep busy takes its time to start processes
POLL_S = 0.2
SPEC = {
    "replicas": 3,
    "ring": {"partitions": PARTITIONS},
    "storage": {"size": "1Gi", "whenScaled": "Delete"},
    "resources": {"requests": {"memory": "64Mi"}},
}


class RealNodes:
    """The DynamoCluster `cart` in a namespace of its own."""

    def __init__(self, server: ApiServer, namespace: str, folder: Path) -> None:
        self.server = server
        self.namespace = namespace
        self.folder = folder
        ports = free_ports(3 * NODES_MAX + 1)
        self.nodes = {
            f"cart-default-{at}": Address("127.0.0.1", *ports[3 * at : 3 * at + 3])
            for at in range(NODES_MAX)
        }
        self._health = ports[-1]
        server.made("/api/v1/namespaces", {"metadata": {"name": namespace}})
        self._kubeconfig = operator_account(server, namespace, f"operator-{namespace}", folder)
        self.stand_in = StandIn(server, namespace, folder, self.nodes)
        self._door = Door(server)
        self._asking = threading.Lock()

    def close(self) -> None:
        self._door.close()

    # What a person does

    def apply(self, **more: Any) -> None:
        self.server.made(
            kinds.DYNAMO_CLUSTER.path(self.namespace),
            {
                "apiVersion": "dynamocluster.io/v1alpha1",
                "kind": "DynamoCluster",
                "metadata": {"name": "cart"},
                "spec": {**SPEC, **more},
            },
        )

    def scale(self, replicas: int) -> None:
        """As `kubectl scale` does."""
        self._patch({"spec": {"replicas": replicas}}, "scale")

    def edit(self, **spec: Any) -> None:
        self._patch({"spec": spec})

    def delete(self) -> None:
        path = kinds.DYNAMO_CLUSTER.path(self.namespace, "cart")
        status, told = self._ask("DELETE", path)
        assert status == 200, told

    def _patch(self, changes: Object, sub: str = "") -> None:
        path = kinds.DYNAMO_CLUSTER.path(self.namespace, "cart", sub)
        status, told = self._ask("PATCH", path, changes, MERGE)
        assert status == 200, told

    def _ask(self, method: str, path: str, *more: Any) -> tuple[int, Any]:
        with self._asking:
            return self._door.ask(method, path, *more)

    # What there is

    def all(self, kind: Kind) -> dict[str, Object]:
        status, told = self._ask("GET", kind.path(self.namespace))
        assert status == 200, told
        return {one["metadata"]["name"]: one for one in told["items"]}

    def get(self, kind: Kind, name: str) -> Object:
        status, told = self._ask("GET", kind.path(self.namespace, name))
        assert status == 200, told
        found: Object = told
        return found

    @property
    def ring(self) -> Ring:
        """The one that the operator has decided."""
        found = self.get(kinds.CONFIG_MAP, "cart-ring")
        return Ring.from_bytes(found["data"]["ring.json"].encode())

    def uids(self, kind: Kind) -> dict[str, str]:
        return {name: one["metadata"]["uid"] for name, one in self.all(kind).items()}

    def admin(self, path: str) -> dict[str, Any]:
        """What each running node answers there."""
        secret = self.get(kinds.SECRET, "cart-admin")["data"]["token"]
        headers = {"Authorization": f"Bearer {b64decode(secret).decode()}"}
        found = {}
        for name in self.all(kinds.POD):
            url = f"http://127.0.0.1:{self.nodes[name].admin_port}{path}"
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                found[name] = json.load(answer)
        return found

    def disks(self) -> dict[str, str]:
        """Which disk each node has."""
        return {name: one["disk_id"] for name, one in self.admin("/admin/status").items()}

    def left(self) -> set[tuple[str, str]]:
        """All that was made for it and is still there."""
        every = (kinds.STATEFUL_SET, kinds.POD, kinds.CLAIM, *OWNED)
        return {
            (kind.name, name)
            for kind in every
            for name, body in self.all(kind).items()
            if names.CLUSTER_LABEL in body["metadata"].get("labels", {})
        }

    def urls(self, nodes: int = 3) -> list[str]:
        each = list(self.nodes.values())[:nodes]
        return [f"http://127.0.0.1:{node.http_port}" for node in each]

    def settled(self, nodes: int) -> bool:
        """Whether all is as the spec says, with so many nodes, and nothing is under way."""
        seen = self.get(kinds.DYNAMO_CLUSTER, "cart")
        status = seen.get("status", {})
        now = {one["type"]: one["status"] for one in status.get("conditions", ())}
        quiet = {"Available": "True", "Progressing": "False", "Degraded": "False"}
        told = status.get("observedGeneration") == seen["metadata"]["generation"]
        whole = status.get("nodesTotal") == status.get("nodesReady") == nodes
        return told and whole and quiet.items() <= now.items() and bool(status["ring"]["settled"])

    def copies_equal(self) -> bool:
        """Whether each partition has exactly three copies, byte for byte the same."""
        if any(any(one["hints_pending"].values()) for one in self.admin("/admin/status").values()):
            return False
        copies: dict[str, list[str]] = defaultdict(list)
        for digest in self.admin("/admin/digest").values():
            for partition, root in digest.items():
                copies[partition].append(root)
        whole = [len(each) == 3 and len(set(each)) == 1 for each in copies.values()]
        return len(copies) == PARTITIONS and all(whole)

    # Waiting

    async def until(
        self, what: Callable[[], object], why: str, seconds: float = DEADLINE_S
    ) -> None:
        """Polls, beside the load; fails with the status and the ends of all logs."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(what):
            if self.stand_in.failure is not None:
                raise self.stand_in.failure
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {why}\n{self._told()}")
            await asyncio.sleep(POLL_S)

    async def until_settled(self, nodes: int) -> None:
        await self.until(lambda: self.settled(nodes), f"{nodes} nodes are settled")

    def _told(self) -> str:
        logs = [self.folder / "operator.log", *self.folder.glob("pods/*/log")]
        ends = [f"{log}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs]
        story = json.dumps(self.stand_in.story, indent=1)
        clusters = self.all(kinds.DYNAMO_CLUSTER)
        return "\n\n".join([json.dumps(clusters, indent=1), story, *ends])

    # The operator and the load

    @contextlib.contextmanager
    def operator(self) -> Iterator[subprocess.Popen[bytes]]:
        """Its process; it ends with the block, if the test hasn't ended it before."""
        nodes = {
            n: (a.host, a.http_port, a.native_port, a.admin_port) for n, a in self.nodes.items()
        }
        with (self.folder / "operator.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.operator.operator_process"),
                    *(self.namespace, str(self._health), json.dumps(nodes)),
                ],
                cwd=ROOT,
                env=os.environ | {"KUBECONFIG": str(self._kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def gone(self, operator: subprocess.Popen[bytes]) -> None:
        """Killed in the middle of whatever it does; its lease needn't run out."""
        operator.kill()
        operator.wait()
        status, told = self._ask("DELETE", kinds.LEASE.path(self.namespace, names.OPERATOR))
        assert status == 200, told

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[Trial]:
        """Sessions at work, beside records that lie still. In the end nothing is lost, and every
        partition has three equal copies."""
        urls = self.urls()
        records = {f"record/{n}": f"value of {n} ".ljust(VALUE_BYTES, "v") for n in range(RECORDS)}
        async with DynamoClient(urls, timeout_ms=10_000) as kv:
            for key, value in records.items():
                await kv.put(key, value.encode())
            trial = Trial(kv, prefix="trial-", keys=60, concurrency=4, seed=7, pace_s=0.02)
            trial.history.n = 3
            working = asyncio.create_task(trial.run(3600))
            try:
                yield trial
            finally:
                trial.stop()
                await working
            await self.until(self.copies_equal, "three equal copies of every partition")
            await judge(trial, urls, self.folder)
            assert trial.done > 100, "hardly any load"
            for key, value in records.items():
                assert (await kv.get(key)).value == value.encode(), key


@contextlib.contextmanager
def real_nodes(server: ApiServer, namespace: str, folder: Path) -> Iterator[RealNodes]:
    found = RealNodes(server, namespace, folder)
    with found.stand_in, contextlib.closing(found):
        yield found
