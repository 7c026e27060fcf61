"""A cluster in memory that does what the plan's steps say, one at a time.

Its nodes hold slots and hand them over (`move`): a dumb model of what real ones do,
which fails when a node is removed that still holds one.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from dynamo_core.ring import Ring
from dynamo_operator.layout import places
from dynamo_operator.observed import (
    Address,
    Handover,
    LiveSettings,
    NodeStatus,
    Observed,
    ObservedNode,
)
from dynamo_operator.parsing import parse
from dynamo_operator.plan import Plan, carried_out, plan
from dynamo_operator.proof import is_settled
from dynamo_operator.rolling import live_settings, settings_hash
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitDrained,
    AwaitMoves,
    AwaitReady,
    AwaitRing,
    AwaitStatus,
    AwaitWhole,
    Blocked,
    CreateIdentity,
    DecideRing,
    PostRing,
    PutSettings,
    RemoveNode,
    RestartNode,
    StartNode,
    Step,
)

NOW = "2026-01-31T12:00:00Z"
ID = "ab" * 16
A, B, C, D, E, F = (f"cart-default-{i}" for i in range(6))


def cluster(spec: Any = None, name: str = "cart") -> DynamoCluster:
    return parse(
        {
            "apiVersion": "dynamocluster.io/v1alpha1",
            "kind": "DynamoCluster",
            "metadata": {"name": name},
            "spec": spec or {},
        }
    )


@dataclass
class World:
    """A cluster in memory that does what steps say, one at a time.

    rows: who holds each partition's slots, by number. speed: slots that move at each look.
    """

    cluster: DynamoCluster
    cluster_id: str = ""
    ring: Ring | None = None
    accepted: DynamoCluster | None = None
    nodes: dict[str, ObservedNode] = field(default_factory=dict)
    restarts: list[str] = field(default_factory=list)
    removed: list[RemoveNode] = field(default_factory=list)
    rings: list[Ring] = field(default_factory=list)
    rows: list[set[int]] = field(default_factory=list)
    speed: int = 10_000
    give_up: tuple[int, ...] = ()
    hints: dict[str, int] = field(default_factory=dict)
    wiped: dict[str, int] = field(default_factory=dict)
    held_rings: dict[str, Ring] = field(default_factory=dict)
    at_rest: Ring | None = None
    live: dict[str, LiveSettings] = field(default_factory=dict)

    def observed(self) -> Observed:
        bare = Observed("", self.ring, self.accepted, {})
        wanted = carried_out(self.cluster, bare)
        for place in places(wanted):
            index = len(self.nodes)
            address = Address("127.0.0.1", 8100 + index, 7100 + index, 9100 + index)
            node = ObservedNode(place.name, address, False, False, "", None)
            self.nodes.setdefault(place.name, node)
        for name, node in self.nodes.items():
            if node.status is not None:
                status = replace(node.status, handover=self.handover(name))
                self.nodes[name] = replace(node, status=status)
        nodes = dict(self.nodes)
        if self.ring is not None and is_settled(self.ring, nodes):
            self.at_rest = self.ring
        revisions = dict.fromkeys(nodes, settings_hash(wanted))
        return Observed(
            self.cluster_id, self.ring, self.accepted, nodes, self.give_up, self.at_rest, revisions
        )

    def handover(self, name: str) -> Handover | None:
        """What this node says, under the ring that it holds."""
        ring = self.held_rings.get(name)
        if ring is None:
            return None
        members = {member.number for member in ring.members}
        strangers = [n for row in self.rows for n in sorted(row) if n not in members]
        number = self.number(name)
        return Handover(
            open_slots=len(self.open_slots(ring)),
            records=sum(number in row for row in self.rows if number not in members),
            hints=self.hints.get(name, 0),
            pulling=0,
            sealed_to={},
            held_by={n: strangers.count(n) for n in strangers},
        )

    def open_slots(self, ring: Ring) -> list[tuple[int, int, int]]:
        """(partition, holder, successor) of the slots that have to move."""
        found = []
        for p, (row, target) in enumerate(zip(self.rows, ring.slots, strict=True)):
            come, go = sorted(set(target) - row), sorted(row - set(target))
            found += [(p, old, new) for old, new in zip(go, come, strict=True)]
        return found

    def number(self, name: str) -> int:
        ring = self.held_rings.get(name)
        named = (*ring.members, *ring.leaving) if ring else ()
        return next((member.number for member in named if member.name == name), 0)

    def up(self, number: int) -> bool:
        for name in self.held_rings:
            if self.number(name) == number and self.nodes[name].status is not None:
                return True
        return False

    def move(self) -> None:
        """Nodes gossip the highest ring, and hand over some slots."""
        rings = [self.held_rings[name] for name in self.held_rings if self.nodes[name].status]
        best = max(rings, key=lambda ring: ring.name, default=None)
        if best is None:
            return
        for member in (*best.members, *best.leaving):
            node = self.nodes.get(member.name)
            if node and node.status and self.held_rings.get(member.name) != best:
                self.hold(member.name, best)
        for p, old, new in self.open_slots(best)[: self.speed]:
            if self.up(old) and self.up(new):
                self.rows[p] = self.rows[p] - {old} | {new}

    def hold(self, name: str, ring: Ring) -> None:
        self.held_rings[name] = ring
        self.change(name, status=self.status(name))

    def plan(self) -> Plan:
        return plan(self.cluster, self.observed(), NOW)

    def do(self, step: Step, made: Plan) -> bool:
        """Carries a step out; False if the rest has to wait for another look."""
        match step:
            case AcceptSpec():
                self.accepted = self.cluster
            case CreateIdentity():
                assert not self.cluster_id
                self.cluster_id = ID
            case StartNode(name) | RestartNode(name):
                self.live[name] = live_settings(made.cluster)
                self.start(name, settings_hash(made.cluster))
                if isinstance(step, RestartNode):
                    self.restarts.append(name)
                    return False
            case PutSettings(name):
                self.live[name] = live_settings(made.cluster)
                self.change(name, status=self.status(name))
            case DecideRing(_, ring, _):
                if ring is None:
                    return False
                self.decide(ring)
                return self.ring is not None and self.ring.epoch == 1
            case AdoptRing():
                raise AssertionError("nothing was lost")
            case PostRing(name):
                return self.post(name)
            case RemoveNode(name, keep_data):
                self.remove(name, keep_data)
                self.removed.append(step)
            case AwaitStatus() | AwaitReady() | AwaitWhole() | Blocked():
                return False
            case AwaitRing() | AwaitDrained() | AwaitMoves():
                return False
        return True

    def start(self, name: str, settings: str) -> None:
        status = self.status(name)
        self.change(name, running=True, failing=False, settings_hash=settings, status=status)

    def stop(self, name: str) -> None:
        """A person stops it, and it stays down."""
        self.change(name, running=False, held=True, status=None)

    def decide(self, ring: Ring) -> None:
        assert ring.parent == (self.ring.id if self.ring else "")
        if self.ring is None:
            self.rows = [set(row) for row in ring.slots]
        gone = {entry.number for entry in ring.history if entry.event == "given-up"}
        for p, row in enumerate(self.rows):
            heirs = sorted(set(ring.slots[p]) - row)
            self.rows[p] = row - gone | set(heirs[: len(row & gone)])
        self.ring = ring
        self.rings.append(ring)

    def post(self, name: str) -> bool:
        assert self.ring is not None, "posted before it was decided"
        if self.nodes[name].status is None:
            return False
        held = self.held_rings.get(name)
        if held is None or held.id in (self.ring.id, self.ring.parent):
            self.hold(name, self.ring)
        return True

    def remove(self, name: str, keep_data: bool) -> None:
        assert self.ring is not None
        named = (*self.ring.members, *self.ring.leaving)
        assert name not in [member.name for member in named], "the ring still names it"
        number = self.number(name)
        assert not any(number in row for row in self.rows), f"{name} still holds something"
        del self.nodes[name]
        self.held_rings.pop(name, None)
        if not keep_data:
            self.wiped[name] = self.wiped.get(name, 0) + 1

    def disk(self, name: str) -> str:
        return hashlib.md5(f"{name} {self.wiped.get(name, 0)}".encode()).hexdigest()

    def status(self, name: str) -> NodeStatus:
        ring = self.held_rings.get(name)
        epoch, ring_id = (ring.epoch, ring.id) if ring else (0, "")
        number, ready = self.number(name) or None, ring is not None
        hints = {"somebody": count} if (count := self.hints.get(name)) else {}
        return NodeStatus(
            number,
            "1" * 16,
            self.disk(name),
            epoch,
            ring_id,
            "up",
            ready,
            hints_for=hints,
            settings=self.live.get(name),
        )

    def settle(self, steps_max: int = 10_000, passes_max: int = 60) -> int:
        """Plans and acts until nothing is left; the number of steps done."""
        done = 0
        for _ in range(passes_max):
            made = self.plan()
            if made.settled or not made.act:
                return done
            for step in made.steps:
                if done == steps_max:
                    return done
                done += 1
                if not self.do(step, made):
                    break
            self.move()
        raise AssertionError(f"it does not settle: {self.plan().steps}")

    def passes(self, count: int) -> None:
        """So many looks, each acted upon as far as that goes."""
        for _ in range(count):
            made = self.plan()
            for step in made.steps:
                if not self.do(step, made):
                    break
            self.move()

    def change(self, name: str, **fields: Any) -> None:
        self.nodes[name] = replace(self.nodes[name], **fields)


def settled(spec: Any = None) -> World:
    world = World(cluster(spec))
    world.settle()
    return world


def kinds(made: Plan) -> list[str]:
    return [type(step).__name__ for step in made.steps]


def edited(world: World, spec: Any) -> World:
    world.cluster = cluster(spec)
    return world


def until_leaving(spec: Any, replicas: int) -> World:
    """A settled cluster that was scaled down, at the moment when its ring is decided and known."""
    world = edited(settled(spec), {**spec, "replicas": replicas})
    world.speed = 0
    world.passes(2)
    return world


def acts(ring: Ring) -> list[tuple[str, str]]:
    """What a ring's own entries of the history say."""
    return [(entry.event, entry.name) for entry in ring.history if entry.epoch == ring.epoch]


def names(world: World) -> list[str]:
    assert world.ring is not None
    return [member.name for member in world.ring.members]


def leaving(world: World) -> list[str]:
    assert world.ring is not None
    return [member.name for member in world.ring.leaving]
