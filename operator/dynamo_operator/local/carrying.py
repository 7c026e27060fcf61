"""Carrying out a plan's steps with processes, and knowing how each node has fared.

Owns node processes while the supervisor lives: starting, restarting, noticing
their end, backing off. Forbidden: deciding which step is next (`plan` does),
and the loop around it (`supervisor`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from dynamo_core.ring import Ring
from dynamo_operator.layout import places, pool_named
from dynamo_operator.local import processes
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight, address
from dynamo_operator.local.start import Wanted
from dynamo_operator.local.telling import Teller
from dynamo_operator.nodes import NodeBehind, NodeRefused, Nodes
from dynamo_operator.plan import Plan
from dynamo_operator.rolling import live_json, live_settings, settings, settings_hash
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
)

BACKOFF_SECONDS = (0.5, 1, 2, 4, 8, 16, 30)
STEADY_SECONDS = 30.0  # a node that ran this long starts its backoff anew
CRASHES_MAX = 3  # after which nobody waits for a node to come up
DRAIN_MS = 1000
SEEDS_MAX = 5  # one that answers is enough
EXIT_CONFIG = 2  # a node's own word that it can't run so


@dataclass(slots=True)
class Life:
    """What this supervisor saw of one node since it started. Times are of the loop's clock."""

    child: subprocess.Popen[bytes] | None = None
    crashes: int = 0
    exit_code: int | None = None
    started_at: float = 0.0
    not_before: float = 0.0

    @property
    def hopeless(self) -> bool:
        return self.exit_code == EXIT_CONFIG or self.crashes >= CRASHES_MAX


@dataclass(slots=True)
class Carrier:
    """Does steps, one pass at a time. `stop` cuts waits short."""

    folder: Folder
    teller: Teller
    stop: asyncio.Event
    nodes: Nodes | None = None
    lives: dict[str, Life] = field(default_factory=dict)

    async def close(self) -> None:
        if self.nodes is not None:
            await self.nodes.close()

    def life(self, name: str) -> Life:
        return self.lives.setdefault(name, Life())

    def exits(self) -> list[int | None]:
        """Asks the system after each child; this also lets ended ones go."""
        return [life.child.poll() for life in self.lives.values() if life.child]

    def connect(self) -> Nodes | None:
        """The door to the nodes, from the moment that the cluster has an identity."""
        identity = self.folder.identity()
        if identity is not None and self.nodes is None:
            self.nodes = Nodes(identity.cluster_id)
        return self.nodes

    def bury(self) -> None:
        """Notices nodes that ended, tells why, and says when they may start again."""
        self.exits()
        records = self.folder.state().nodes
        if not any(r.process and not processes.alive(r.process) for r in records.values()):
            return
        with self.folder.edit() as state:
            dead = [
                (name, record)
                for name, record in state.nodes.items()
                if record.process and not processes.alive(record.process)
            ]
            for _, record in dead:
                record.process = None
        for name, record in dead:
            life = self.life(name)
            life.exit_code = life.child.poll() if life.child else None
            life.child = None
            if record.wanted != "up":
                self.teller.held(name, record.act)
            else:
                self._back_off(name, life)

    def _back_off(self, name: str, life: Life) -> None:
        now = asyncio.get_running_loop().time()
        if now - life.started_at > STEADY_SECONDS:
            life.crashes = 0
        life.crashes += 1
        seconds = BACKOFF_SECONDS[min(life.crashes, len(BACKOFF_SECONDS)) - 1]
        life.not_before = now + seconds
        self.teller.died(name, life.exit_code, seconds)

    async def carry_out(self, made: Plan, sight: Sight, wanted: Wanted) -> None:
        """Does the steps that are due; stops at the first one that needs another look."""
        puts = [step.node for step in made.steps if isinstance(step, PutSettings)]
        for step in made.steps:
            match step:
                case AcceptSpec():
                    self._accept(made, wanted)
                case CreateIdentity():
                    self.folder.create_identity()
                    return
                case StartNode(name):
                    self._start(name, made)
                case PostRing(name):
                    await self._post(name, sight)
                case PutSettings():
                    # All at once: while they differ, nodes answer clients by different rules.
                    await asyncio.gather(*(self._put(name, made, sight) for name in puts))
                    puts = []
                case DecideRing(what, ring, problems):
                    if ring is not None:
                        self._decide(ring)
                        self.teller.decided(what, ring, problems)
                    return
                case RemoveNode(name, keep_data):
                    await self._remove(name, keep_data, sight)
                case AdoptRing(name):
                    await self._adopt(name, sight)
                    return
                case RestartNode(name):
                    await self._restart(name, made)
                    return
                case Blocked(reason):
                    self.teller.once(reason, "refused")
                    return
                case AwaitStatus() | AwaitReady() | AwaitRing() | AwaitWhole():
                    return
                case AwaitDrained() | AwaitMoves():
                    return

    def _accept(self, made: Plan, wanted: Wanted) -> None:
        with self.folder.edit() as state:
            for place in places(made.cluster):
                pool = pool_named(made.cluster, place.name)
                if pool is not None:  # remembered, since a pool may be gone when its nodes go
                    state.record(place.name).when_scaled = pool.storage.when_scaled
        self.folder.accept(wanted.value)

    def _decide(self, ring: Ring) -> None:
        self.folder.decide(ring)
        numbers = {member.number for member in (*ring.members, *ring.leaving)}
        if not set(self.folder.state().give_up) <= numbers:
            with self.folder.edit() as state:
                state.give_up = [number for number in state.give_up if number in numbers]

    def _start(self, name: str, made: Plan) -> None:
        now = asyncio.get_running_loop().time()
        life = self.life(name)
        if now < life.not_before:
            return
        identity = self.folder.identity()
        assert identity is not None, "a plan starts nodes after the identity"
        place = address(self.folder.state(), name)
        config = self.folder.write_config(
            name,
            {
                "cluster": {"name": made.cluster.name, "id": identity.cluster_id},
                "keys": list(identity.keys),
                "node": {"name": name},
                "data_dir": str(self.folder.node(name) / "data"),
                "host": place.host,
                "http_port": place.http_port,
                "native_port": place.native_port,
                "admin_port": place.admin_port,
                "admin_token": "",
                "seeds": self._seeds(name),
                **settings(made.cluster),
                # No load balancer has to notice here, and people wait for it at Ctrl-C.
                "timing": {"drain_ms": DRAIN_MS},
                "log": {"format": "text", "level": "info"},
            },
        )
        command = [*node_command(), "--config", str(config)]
        with self.folder.edit() as state:
            record = state.record(name)
            if record.wanted != "up":
                return  # stopped by a command since the last look
            # Under the lock: nobody may read the state between the start and its note.
            life.child = processes.spawn(command, self.folder.node_log(name))
            record.process = processes.identify(life.child.pid)
            record.settings_hash = settings_hash(made.cluster)
        life.started_at = now
        self.teller.started(name, life.child.pid)

    def _seeds(self, name: str) -> list[dict[str, Any]]:
        """Some of the other nodes: whom `name` asks for the ring while it has none."""
        state = self.folder.state()
        others = sorted((r.index, n) for n, r in state.nodes.items() if n != name)[:SEEDS_MAX]
        places = [(n, address(state, n)) for _, n in others]
        return [{"name": n, "host": p.host, "native_port": p.native_port} for n, p in places]

    async def _restart(self, name: str, made: Plan) -> None:
        self.teller.event(f"{name} restarts with its new settings")
        process = self.folder.state().nodes[name].process
        if process is not None:
            await processes.stop([process], self.stop)
        life = self.life(name)
        if life.child is not None:
            life.child.poll()
        with self.folder.edit() as state:
            state.record(name).process = None
        life.child, life.not_before = None, 0.0
        if not self.stop.is_set():
            self._start(name, made)

    async def _post(self, name: str, sight: Sight) -> None:
        assert self.nodes is not None, "a plan posts rings after the identity"
        assert sight.ring is not None, "a ring is decided before it is posted"
        try:
            await self.nodes.post_ring(name, address(sight.state, name), sight.ring)
        except NodeBehind:
            pass  # its peers hold the rings between, and teach it
        except NodeRefused as error:
            self.teller.once(str(error), "bad")

    async def _put(self, name: str, made: Plan, sight: Sight) -> None:
        assert self.nodes is not None, "only of a node that was asked is it known what it runs with"
        node = sight.observed.nodes.get(name)
        has = node.status.settings if node is not None and node.status is not None else None
        wanted = live_json(live_settings(made.cluster, has))
        try:
            await self.nodes.put_settings(name, address(sight.state, name), wanted)
        except NodeRefused as error:
            self.teller.once(str(error), "bad")
        else:
            self.teller.event(f"{name} has its new settings")

    async def _remove(self, name: str, keep_data: bool, sight: Sight) -> None:
        """Ends a node. Nothing is stopped or deleted under another ring than was looked at."""
        ring = self.folder.ring()
        if ring is None or sight.ring is None or ring.id != sight.ring.id:
            return
        if any(member.name == name for member in (*ring.members, *ring.leaving)):
            return
        record = self.folder.state().nodes.get(name)
        if record is not None and record.process is not None:
            await processes.stop([record.process], self.stop)
        life = self.lives.pop(name, None)
        if life is not None and life.child is not None:
            life.child.poll()
        await asyncio.to_thread(self.folder.remove, name, keep_data)
        self.teller.removed(name, keep_data)

    async def _adopt(self, name: str, sight: Sight) -> None:
        assert self.nodes is not None, "a plan adopts rings after the identity"
        try:
            ring = await self.nodes.ring(name, address(sight.state, name))
        except NodeRefused as error:
            self.teller.once(str(error), "bad")
            return
        self.folder.decide(ring)
        self.teller.event(f"the ring file was lost: took epoch {ring.epoch} from {name}")


def node_command() -> list[str]:
    """The command of a node process; DYNAMO_NODE_COMMAND names another for tests."""
    other = os.environ.get("DYNAMO_NODE_COMMAND")
    return other.split() if other else [sys.executable, "-m", "dynamo_node"]
