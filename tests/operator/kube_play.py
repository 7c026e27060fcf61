"""A whole operator on an emulated cluster, one pass at a time, with nodes that play along.

The nodes speak real admin HTTP. They hold slots and hand them over as fast as `speed` says, by
the dumb model of plan_world: whoever is removed with a slot or a claim that is missed fails
the play.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from tests.operator.kube_controllers import Cluster
from tests.operator.kube_direct import Direct, direct_api
from tests.operator.kube_fixtures import dynamo_cluster
from tests.operator.kube_patches import Object
from tests.operator.kube_world import KubeWorld

from dynamo_core.errors import CallerError
from dynamo_core.ring import Member, Ring
from dynamo_operator.kube import kinds, kube_plan, names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.carrying import Carrier
from dynamo_operator.kube.observing import Network, Observer
from dynamo_operator.kube.reconcile import ClusterPasses
from dynamo_operator.kube.telling import Teller
from dynamo_operator.kube.tracing import ClusterTracing, Traced
from dynamo_operator.kube.world import Surroundings
from dynamo_operator.observed import Address
from dynamo_operator.parsing import parse
from dynamo_operator.spec import DynamoCluster

RELEASE = names.Release("1.0.0", "dynamo-node:1.0.0")
PASSES_MAX = 60
LIMITS = {"valueBytesMax": 1 << 20, "siblingsMax": 100, "objectBytesMax": 8 << 20}


@dataclass
class FakeDisk:
    """What a volume holds."""

    volume: str
    disk_id: str
    ring: Ring | None = None
    settings: dict[str, Any] | None = None


@dataclass
class FakeNode:
    """One that runs in a pod, and answers on a port of 127.0.0.1."""

    name: str
    pod_uid: str
    disk: FakeDisk
    in_file: dict[str, Any]
    identity: dict[str, Any]
    token: str
    incarnation: str
    port: int = 0
    runner: web.ServerRunner | None = None
    ready: bool = True
    state: str = "up"
    silent: bool = False  # others may reach it, the operator doesn't
    hints: dict[str, int] = field(default_factory=dict)  # kept for others, by their names
    transfers: list[dict[str, Any]] = field(default_factory=list)
    disk_space: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        return self.disk.settings or self.in_file

    def member(self) -> Member | None:
        return self.disk.ring.node_named(self.name) if self.disk.ring else None


@dataclass
class Play:
    """The operator, the cluster around it, and its nodes."""

    world: KubeWorld
    machines: Cluster
    release: names.Release = RELEASE
    ready_within_s: float = 600.0
    speed: int = 10_000
    bad_images: set[str] = field(default_factory=set)
    broken_pods: set[str] = field(default_factory=set)
    nodes: dict[str, FakeNode] = field(default_factory=dict)
    disks: dict[str, FakeDisk] = field(default_factory=dict)  # by volume
    rows: list[set[int]] = field(default_factory=list)  # who holds each partition's slots
    kept: dict[int, FakeDisk] = field(default_factory=dict)  # on which disk, by number
    unready_most: int = 0
    monitors: dict[str, str] | None = None
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By pod: why its container waits, and the message of that."""
    mortal: Direct | None = None  # the operator that makes the present pass
    traced: Traced = field(default_factory=Traced)
    joined: dict[str, list[str]] = field(default_factory=dict)
    """By request, what nodes were told of the trace that it belongs to."""
    _lives: int = 0
    _api: Api | None = None
    _tellers: dict[Api, Teller] = field(default_factory=dict)
    _tracing: dict[Api, ClusterTracing] = field(default_factory=dict)
    _starting: list[Object] = field(default_factory=list)
    _stopping: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machines.on_start = self._starting.append
        self.machines.on_stop = lambda pod: self._stopping.append(pod["metadata"]["name"])
        self.machines.ready = self._serves

    # What a person does

    def apply(self, name: str = "cart", **spec: Any) -> Object:
        spec = {"replicas": 3, "ring": {"partitions": 16}, **spec}
        return self.world.add(dynamo_cluster(name, **spec))

    def edit(self, spec: dict[str, Any] | None = None, **metadata: Any) -> None:
        changes: Object = {"metadata": metadata} if metadata else {}
        if spec is not None:
            changes["spec"] = spec
        self.world.edit(kinds.DYNAMO_CLUSTER, "shop", "cart", changes)

    def annotate(self, **annotations: str) -> None:
        told = {f"{names.GROUP}/{key.replace('_', '-')}": v for key, v in annotations.items()}
        self.edit(annotations=told)

    @property
    def applied(self) -> Object:
        found = self.world.find(kinds.DYNAMO_CLUSTER, "shop", "cart")
        assert found is not None
        return found

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.applied.get("status") or {})

    def events(self, reason: str = "") -> list[str]:
        """What was told, in order."""
        found = self.world.all(kinds.EVENT, "shop")
        found.sort(key=lambda one: one["eventTime"])
        return [one["note"] for one in found if reason in ("", one["reason"])]

    def age(self, pod: str, seconds: float) -> None:
        """Has a pod been there for so long."""
        since = datetime.now(UTC) - timedelta(seconds=seconds)
        self.world.store.backdate(kinds.POD, "shop", pod, since)

    def condition(self, kind: str) -> tuple[str, str, str]:
        one = next(c for c in self.status["conditions"] if c["type"] == kind)
        return one["status"], one["reason"], one["message"]

    # What there is

    @property
    def ring(self) -> Ring | None:
        found = self.world.find(kinds.CONFIG_MAP, "shop", "cart-ring")
        return Ring.from_bytes(found["data"]["ring.json"].encode()) if found else None

    def pods(self) -> list[str]:
        return sorted(pod["metadata"]["name"] for pod in self.world.all(kinds.POD, "shop"))

    def claims(self) -> list[str]:
        return sorted(one["metadata"]["name"] for one in self.world.all(kinds.CLAIM, "shop"))

    def set(self, name: str = "cart-default") -> Object:
        found = self.world.find(kinds.STATEFUL_SET, "shop", name)
        assert found is not None
        return found

    # Time

    async def turn(self, api: Api | None = None) -> float | None:
        """The cluster settles, then the operator makes one pass; what it would wait for."""
        await self.settle()
        try:
            return await self.one_pass(api or self._door())
        finally:
            await self.settle()

    async def one_pass(self, api: Api) -> float | None:
        """Of the operator behind this door, while nothing else happens."""
        around = self._surroundings()
        passes = ClusterPasses(api, around, Loopback(self))
        owner = self._owner()
        observer = Observer(api, around, Loopback(self))
        try:
            teller = self._tellers.setdefault(api, Teller(api, owner))
            tracing = self._tracing.setdefault(api, self.traced.cluster(owner))
            return await passes._pass(owner, observer, teller, tracing)
        finally:
            await observer.close()

    async def look(self, api: Api) -> Callable[[], Awaitable[None]]:
        """An operator looks and plans now; what it then does, whenever that is."""
        await self.settle()
        owner = self._owner()
        observer = Observer(api, self._surroundings(), Loopback(self))
        value = {key: part for key, part in self.applied.items() if key != "status"}
        sight = await observer.look(parse(value), owner, self.status)
        made = kube_plan.plan(parse(value), sight.world)

        async def act() -> None:
            try:
                if made.act and made.to_do:
                    teller = Teller(api, owner)
                    await Carrier(api, teller, observer.nodes, value).carry_out(made, sight)
            finally:
                await observer.close()
                await self.settle()

        return act

    def _owner(self) -> names.Owner:
        return names.Owner("cart", "shop", self.applied["metadata"]["uid"])

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            self.release,
            "dynamo-system",
            {"app.kubernetes.io/name": "dynamo-operator"},
            monitors=self.monitors,
            ready_within_s=self.ready_within_s,
        )

    def restart(self) -> None:
        """The operator begins anew, with nothing in its memory."""
        self._api = None

    def _door(self) -> Api:
        """One for all passes: a new one costs more than a pass."""
        if self._api is None:
            self._api, _ = direct_api(self.world)
        return self._api

    async def settle(self) -> None:
        """Controllers, kubelets and nodes do what is theirs."""
        for _ in range(20):
            changed = self.machines.step()
            changed = await self._kubelet() or changed
            self.move()
            changed = self._tell_waiting() or changed
            away = sum(not self._serves(pod) for pod in self.world.all(kinds.POD, "shop"))
            self.unready_most = max(self.unready_most, away)
            if not changed:
                return

    async def until_settled(self, passes: int = PASSES_MAX) -> int:
        """Passes until the operator has nothing left to do; how many it took."""
        for count in range(passes):
            if (
                await self.turn() == float("inf")
                and self.status.get("observedGeneration")
                == (self.applied["metadata"]["generation"])
            ):
                return count + 1
        raise AssertionError(f"it does not settle: {json.dumps(self.status, indent=1)}")

    async def until(self, what: Callable[[], object], passes: int = PASSES_MAX) -> None:
        for _ in range(passes):
            if what():
                return
            await self.turn()
        raise AssertionError(f"never: {json.dumps(self.status, indent=1)}")

    async def by_itself(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        """The cluster goes on while an operator's own process does its part."""
        async with asyncio.timeout(seconds):
            while not what():
                await self.settle()
                await asyncio.sleep(0.02)

    # Nodes

    def _serves(self, pod: Object) -> bool:
        node = self.nodes.get(pod["metadata"]["name"])
        live = node is not None and node.pod_uid == pod["metadata"]["uid"]
        return live and node is not None and node.ready and node.disk.ring is not None

    async def _kubelet(self) -> bool:
        """Pods that were given a machine run, others end."""
        there = {pod["metadata"]["name"]: pod for pod in self.world.all(kinds.POD, "shop")}
        changed = False
        for name in [n for n in self.nodes if n not in there or not _is(self.nodes[n], there[n])]:
            await self._stop(name)
            changed = True
        self._starting.clear()
        self._stopping.clear()
        held = self.world.find(kinds.SECRET, "shop", "cart-admin")
        for node in self.nodes.values():
            node.token = _plain(held)["token"] if held else node.token
        for name, pod in there.items():
            image = pod["spec"]["containers"][0]["image"]
            host = pod["spec"].get("nodeName")
            if name in self.nodes or not host or host in self.machines.down:
                continue
            if (
                name in self.broken_pods
                or image in self.bad_images
                or "deletionTimestamp" in pod["metadata"]
            ):
                continue
            await self._start(pod)
            changed = True
        return changed

    def _tell_waiting(self) -> bool:
        before = self.world.store.version
        for pod in self.world.all(kinds.POD, "shop"):
            why = self.waiting.get(pod["metadata"]["name"])
            state = {"waiting": {"reason": why[0], "message": why[1]}} if why else {"running": {}}
            told = [{"name": "node", "state": state}]
            self.world.store.set_status(kinds.POD, pod, {"containerStatuses": told})
        return self.world.store.version != before

    async def _start(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        claim = self.world.find(kinds.CLAIM, "shop", f"data-{name}")
        assert claim is not None
        volume = claim["spec"]["volumeName"]
        disk = self.disks.setdefault(
            volume, FakeDisk(volume, hashlib.md5(volume.encode()).hexdigest())
        )
        config = self._mounted(pod)
        self._lives += 1
        node = FakeNode(
            name,
            pod["metadata"]["uid"],
            disk,
            {part: config[part] for part in ("quorum", "limits", "tracing") if part in config},
            config["identity"],
            config["token"],
            f"{self._lives:016x}",
        )
        await self._serve(node)
        self.nodes[name] = node

    def _mounted(self, pod: Object) -> dict[str, Any]:
        """What the pod's files say, read as its node would."""
        found: dict[str, Any] = {}
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                held = self.world.find(kinds.CONFIG_MAP, "shop", volume["configMap"]["name"])
                assert held is not None, volume
                found |= json.loads(held["data"]["node.json"])
            elif "secret" in volume:
                held = self.world.find(kinds.SECRET, "shop", volume["secret"]["secretName"])
                assert held is not None, volume
                for key, text in _plain(held).items():
                    found["identity" if key == "identity.json" else key] = (
                        json.loads(text) if key.endswith(".json") else text
                    )
        return found

    async def _stop(self, name: str) -> None:
        node = self.nodes.pop(name)
        if node.runner is not None:
            await node.runner.cleanup()

    async def close(self) -> None:
        for name in list(self.nodes):
            await self._stop(name)

    async def _serve(self, node: FakeNode) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await self._answer(request, node)

        node.runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
        await node.runner.setup()
        site = web.TCPSite(node.runner, "127.0.0.1", 0)
        await site.start()
        node.port = node.runner.addresses[0][1]

    async def _answer(self, request: web.BaseRequest, node: FakeNode) -> web.Response:
        if node.silent:
            return await _json({"title": "not now"}, 503)
        match (request.method, request.path):
            case ("GET", "/admin/status"):
                return await self._status(request, node)
            case ("GET", "/admin/ring"):
                return await self._get_ring(request, node)
            case ("GET", "/admin/transfers"):
                return await _json({"transfers": node.transfers})
        told = request.headers.get("traceparent", "")
        self.joined.setdefault(f"{request.method} {request.path}", []).append(told)
        if self.mortal is not None and not self.mortal.note_write():
            return await _json({"title": "nobody asks any more"}, 503)
        match (request.method, request.path):
            case ("POST", "/admin/ring"):
                return await self._post_ring(request, node)
            case ("PUT", "/admin/settings"):
                return await self._put(request, node)
        return await _json({"title": "not found"}, 404)

    async def _status(self, request: web.BaseRequest, node: FakeNode) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {node.token}":
            return await _json({"title": "no token"}, 401)
        ring, member = node.disk.ring, node.member()
        return await _json(
            {
                "cluster_id": node.identity["cluster"]["id"],
                "cluster_name": node.identity["cluster"]["name"],
                "name": node.name,
                "number": member.number if member else None,
                "incarnation": node.incarnation,
                "disk_id": node.disk.disk_id,
                "ring": {"epoch": ring.epoch, "id": ring.id} if ring else None,
                "state": node.state,
                "ready": node.ready and ring is not None,
                "handover": self.handover(node),
                "hints_pending": node.hints,
                "disk": node.disk_space,
                "settings": node.settings,
                "pid": 1,
            }
        )

    async def _get_ring(self, request: web.BaseRequest, node: FakeNode) -> web.Response:
        return await _json(node.disk.ring.to_json() if node.disk.ring else {}, 200)

    async def _post_ring(self, request: web.BaseRequest, node: FakeNode) -> web.Response:
        try:
            ring = Ring.from_bytes(await request.read())
        except CallerError as error:
            return await _json({"title": "bad ring", "detail": str(error)}, 400)
        held = node.disk.ring
        if held is not None and ring.id != held.id and ring.parent != held.id:
            return await _json({"title": "not the parent", "ring": held.to_json()}, 409)
        if ring.node_named(node.name) is None:
            return await _json({"title": "bad ring", "detail": "it doesn't name this node"}, 400)
        if not self.rows:
            self.rows = [set(row) for row in ring.slots]
        self.take(node, ring)
        return await _json({"epoch": ring.epoch, "id": ring.id})

    async def _put(self, request: web.BaseRequest, node: FakeNode) -> web.Response:
        """Of a version that knows nothing of tracing, unless its file has it."""
        put = await request.json()
        if unknown := sorted(set(put) - set(node.in_file)):
            return await _json({"title": "bad settings", "detail": f"unknown: {unknown}"}, 400)
        node.disk.settings = put
        return await _json(node.settings)

    # Slots, as in plan_world

    def take(self, node: FakeNode, ring: Ring) -> None:
        node.disk.ring = ring
        gone = {entry.number for entry in ring.history if entry.event == "given-up"}
        for p, row in enumerate(self.rows):
            heirs = sorted(set(ring.slots[p]) - row)
            self.rows[p] = row - gone | set(heirs[: len(row & gone)])
        member = ring.node_named(node.name)
        if member is not None:
            held = self.kept.setdefault(member.number, node.disk)
            if held is not node.disk and self._rebuilds(ring, member, held):
                self.kept[member.number] = node.disk

    def _rebuilds(self, ring: Ring, member: Member, lost: FakeDisk) -> bool:
        """Whether an empty disk gets back what a lost one held: all others must have theirs."""
        others = {one.number: self.nodes.get(one.name) for one in ring.members if one != member}
        whole = all(node and self.kept.get(n) is node.disk for n, node in others.items())
        return whole and self.world.find(kinds.VOLUME, None, lost.volume) is None

    def handover(self, node: FakeNode) -> dict[str, Any]:
        ring, member = node.disk.ring, node.member()
        if ring is None or member is None:
            return {"open_slots": 0, "records": 0, "hints": 0, "pulling": 0,
                    "sealed_to": {}, "held_by": {}}  # fmt: skip
        members = {one.number for one in ring.members}
        strangers = [n for row in self.rows for n in row if n not in members]
        mine = sum(member.number in row for row in self.rows)
        return {
            "open_slots": len(self.open_slots(ring)),
            "records": 0 if member.number in members else mine,
            "hints": 0,
            "pulling": len(node.transfers),
            "sealed_to": {},
            "held_by": {str(n): strangers.count(n) for n in strangers},
        }

    def open_slots(self, ring: Ring) -> list[tuple[int, int, int]]:
        found = []
        for p, (row, target) in enumerate(zip(self.rows, ring.slots, strict=True)):
            come, go = sorted(set(target) - row), sorted(row - set(target))
            found += [(p, old, new) for old, new in zip(go, come, strict=True)]
        return found

    def move(self) -> None:
        """Nodes gossip the highest ring, and hand over some slots."""
        rings = [node.disk.ring for node in self.nodes.values() if node.disk.ring]
        best = max(rings, key=lambda ring: ring.name, default=None)
        if best is None:
            return
        up = {}
        for node in self.nodes.values():
            held = node.disk.ring
            if held is not None and held != best and best.node_named(node.name):
                self.take(node, best)
            if (member := node.member()) is not None:
                up[member.number] = node
        for p, old, new in self.open_slots(best)[: self.speed]:
            if old in up and new in up:
                self.rows[p] = self.rows[p] - {old} | {new}

    def check(self) -> None:
        """Every slot is held by a node whose disk still exists."""
        ring = self.ring
        if ring is None or not self.rows:
            return
        volumes = {one["metadata"]["name"] for one in self.world.all(kinds.VOLUME)}
        holders = {n for row in self.rows for n in row}
        # Whom no ring has reached yet holds nothing: rows begin with the first one.
        lost = {n for n in holders & self.kept.keys() if self.kept[n].volume not in volumes}
        assert not lost, f"nodes {lost} are gone with what they held"


class Loopback(Network):
    """Nodes of a play answer on ports of their own."""

    def __init__(self, play: Play) -> None:
        self._play = play

    def probe(self, pod: Object) -> Address | None:  # type: ignore[override]
        node = self._play.nodes.get(pod["metadata"]["name"])
        if node is None or node.pod_uid != pod["metadata"]["uid"]:
            return None
        return Address("127.0.0.1", node.port, node.port, node.port)

    def member(self, cluster: DynamoCluster, pod: str) -> Address:
        return super().member(cluster, pod)


def _is(node: FakeNode, pod: Object) -> bool:
    return bool(node.pod_uid == pod["metadata"]["uid"])


def _plain(secret: Object) -> dict[str, str]:
    import base64

    found = {key: base64.b64decode(text).decode() for key, text in secret.get("data", {}).items()}
    return found | dict(secret.get("stringData", {}))


async def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


@contextlib.asynccontextmanager
async def playing(zones: tuple[str, ...] = ("", "", ""), **more: Any) -> AsyncIterator[Play]:
    """A cluster of so many machines, each in its zone."""
    async with KubeWorld().serving() as world:
        machines = Cluster(world.store)
        for number, zone in enumerate(zones):
            machines.add_node(f"machine-{number}", zone)
        machines.add_storage_class()
        play = Play(world, machines, **more)
        try:
            yield play
        finally:
            await play.close()
            await asyncio.sleep(0)
