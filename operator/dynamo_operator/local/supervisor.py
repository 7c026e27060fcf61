"""The process that carries out the plan with node processes and watches over them.

Owns the loop: look, plan, act, wait. It keeps no truth in memory: whoever
starts it again on the same folder finds the nodes that still run and goes on.
Forbidden: deciding what to do next (`plan` does), and talking to a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dynamo_core.errors import CallerError, DynamoError
from dynamo_operator.local import processes
from dynamo_operator.local.folder import Folder, NodeRecord
from dynamo_operator.local.nodes import NodeRefused, Nodes
from dynamo_operator.local.observing import Sight, address, look, stage
from dynamo_operator.local.screen import Screen
from dynamo_operator.local.start import Source, Wanted, load
from dynamo_operator.plan import Plan, plan, settings, settings_hash
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitReady,
    AwaitStatus,
    Blocked,
    CreateIdentity,
    DecideRing,
    PostRing,
    RestartNode,
    StartNode,
)

BUSY_SECONDS = 0.15
IDLE_SECONDS = 1.0
PEEK_SECONDS = 0.2
UP_SECONDS = 60.0
BACKOFF_SECONDS = (0.5, 1, 2, 4, 8, 16, 30)
STEADY_SECONDS = 30.0  # a node that ran this long starts its backoff anew
CRASHES_MAX = 3  # after which `up` no longer waits for a node


class NotUp(DynamoError):
    """The cluster did not come up; the text says why."""


@dataclass(slots=True)
class _Life:
    """What this supervisor saw of one node since it started."""

    child: subprocess.Popen[bytes] | None = None
    crashes: int = 0
    hopeless: bool = False  # it said itself that it can't run so
    started_at: float = 0.0
    not_before: float = 0.0
    stage: str = ""


@dataclass(slots=True)
class Supervisor:
    """Runs one cluster until it is told to stop. The caller holds the right to supervise."""

    folder: Folder
    source: Source
    wanted: Wanted
    screen: Screen
    attached: bool
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _at_once: asyncio.Event = field(default_factory=asyncio.Event)
    _lives: dict[str, _Life] = field(default_factory=dict)
    _nodes: Nodes | None = None
    _stamp: tuple[int, int] = (0, 0)
    _told: set[str] = field(default_factory=set)
    _up: bool = False

    async def run(self) -> None:
        """Brings the cluster up, watches it, and stops it on SIGINT, SIGTERM or SIGHUP.

        Raises NotUp if it does not come up; its nodes are stopped then too.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        self._stamp = self.source.stamp()
        self._enter()
        began = loop.time()
        try:
            while not self._stop.is_set():
                settled = await self._pass(loop.time() - began)
                await self._wait(IDLE_SECONDS if settled else BUSY_SECONDS)
        except DynamoError as error:
            await self._leave(str(error))
            raise
        else:
            await self._leave("")
        finally:
            if self._nodes is not None:
                await self._nodes.__aexit__(None, None, None)

    # --- beginning and end -----------------------------------------------------------

    def _enter(self) -> None:
        with self.folder.edit() as state:
            state.supervisor = processes.identify(os.getpid())
            state.phase, state.failure, state.refusals = "starting", "", []
            state.manifest = str(self.source.path or "")
            state.replicas = self.source.replicas
            for name, record in state.nodes.items():
                if processes.alive(record.process):
                    self.screen.event(f"{name} still runs (pid {_pid(record.process)}): taken over")
                if record.wanted == "paused" and record.process:
                    processes.send(record.process, signal.SIGCONT)
                record.wanted, record.act = "up", ""

    async def _leave(self, failure: str) -> None:
        """Stops every node, gracefully unless a second signal says otherwise."""
        self.screen.end_progress()
        with self.folder.edit() as state:
            state.phase = "stopping"
            running = {
                name: record.process
                for name, record in state.nodes.items()
                if record.process and processes.alive(record.process)
            }
        if running:
            again = " (Ctrl-C again to stop at once)" if self.attached else ""
            self.screen.event(f"stopping {len(running)} node(s){again}")
        killed = await processes.stop(running.values(), self._at_once)
        for name, process in running.items():
            if process in killed:
                self.screen.event(f"{name} did not stop in time and was killed", "bad")
        for life in self._lives.values():
            if life.child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    life.child.wait(1)
        with self.folder.edit() as state:
            state.phase, state.failure = ("failed", failure) if failure else ("stopped", "")
            state.supervisor = None
            for record in state.nodes.values():
                if not processes.alive(record.process):
                    record.process = None

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    async def _wait(self, seconds: float) -> None:
        """Returns after that time, or as soon as something changed that can be seen cheaply."""
        before = self._peek()
        waited = 0.0
        while waited < seconds and not self._stop.is_set():
            step = min(PEEK_SECONDS, seconds - waited)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), step)
            waited += step
            if self._peek() != before:
                return

    def _peek(self) -> object:
        state = (self.folder.path / "state.json").stat().st_mtime_ns
        exits = [life.child.poll() for life in self._lives.values() if life.child]
        return state, self.source.stamp(), exits

    # --- one pass --------------------------------------------------------------------

    async def _pass(self, elapsed: float) -> bool:
        """Looks, plans, acts. True if nothing is left to do."""
        self._bury()
        self._read_source()
        identity = self.folder.identity()
        if identity is not None and self._nodes is None:
            self._nodes = Nodes(identity.cluster_id)
        sight = await look(self.folder, self.wanted.cluster, self._nodes)
        made = plan(self.wanted.cluster, sight.observed, _now())
        self._tell_refusals(made)
        self._tell_stages(sight)
        if not self._up:
            self._check_up(sight, made, elapsed)
        if made.act:
            await self._carry_out(made, sight)
        else:
            self._tell_steps(made)
        return made.settled or not made.act

    def _bury(self) -> None:
        """Notices nodes that ended, tells why, and says when they may start again."""
        now = asyncio.get_running_loop().time()
        with self._changed_nodes() as dead:
            for name, act, held in dead:
                life = self._life(name)
                code = life.child.poll() if life.child else None
                life.child = None
                if held:
                    again = f"`dynamo local start {name}` brings it back"
                    self.screen.event(f"{name} is down by `dynamo local {act}`; {again}")
                    continue
                if now - life.started_at > STEADY_SECONDS:
                    life.crashes = 0
                life.crashes += 1
                life.hopeless = code == 2
                backoff = BACKOFF_SECONDS[min(life.crashes, len(BACKOFF_SECONDS)) - 1]
                life.not_before = now + backoff
                why = "" if code is None else f" ({_ended(code)})"
                self.screen.event(f"{name} died{why}; starts again in {backoff} s", "bad")
                if code not in (None, 0) and (code or 0) > 0:
                    for line in processes.tail(self.folder.node(name) / "node.log", 1):
                        self.screen.event(f"{name} said: {line}", "bad")

    @contextlib.contextmanager
    def _changed_nodes(self) -> Iterator[list[tuple[str, str, bool]]]:
        """(name, act, held) of nodes whose process has ended; forgets the processes."""
        dead = []
        if any(r.process and not processes.alive(r.process) for r in self._records().values()):
            with self.folder.edit() as state:
                for name, record in state.nodes.items():
                    if record.process and not processes.alive(record.process):
                        record.process = None
                        dead.append((name, record.act, record.wanted != "up"))
        yield dead

    def _read_source(self) -> None:
        """Takes up an edited manifest, or another one handed over by a second `up`."""
        state = self.folder.state()
        path = type(self.folder.path)(state.manifest) if state.manifest else None
        source = Source(path, state.replicas)
        stamp = source.stamp()
        if source == self.source and stamp == self._stamp:
            return
        if source.path is not None and stamp == (0, 0):
            self._tell_once(f"{source.path} is gone; the cluster goes on as it is", "refused")
            return
        self.source, self._stamp = source, stamp
        self._told.clear()
        try:
            wanted = load(source, self.folder.path)
        except CallerError as error:
            self.screen.event(
                "the manifest has mistakes; the cluster goes on as it was:", "refused"
            )
            for line in str(error).splitlines():
                self.screen.event(f"  {line}", "refused")
            return
        if wanted.cluster != self.wanted.cluster:
            self.screen.event("the manifest changed")
        self.wanted = wanted

    # --- carrying out ----------------------------------------------------------------

    async def _carry_out(self, made: Plan, sight: Sight) -> None:
        """Does the steps that are due; stops at the first one that needs another look."""
        for step in made.steps:
            match step:
                case AcceptSpec():
                    self.folder.accept(self.wanted.value)
                case CreateIdentity():
                    self.folder.create_identity()
                    return
                case StartNode(name):
                    self._start(name, made)
                case PostRing(name):
                    await self._post(name, sight)
                case DecideRing(_, ring, problems):
                    if ring is None:
                        return
                    self.folder.decide(ring)
                    self.screen.event(
                        f"decided the first ring: {len(ring.members)} nodes, "
                        f"{ring.partitions} partitions, N={ring.replication}"
                    )
                    for problem in problems:
                        self.screen.event(problem, "refused")
                    return
                case AdoptRing(name):
                    await self._adopt(name, sight)
                    return
                case RestartNode(name):
                    await self._restart(name, made)
                    return
                case Blocked(reason):
                    self._tell_once(reason, "refused")
                    return
                case AwaitStatus() | AwaitReady():
                    return

    def _start(self, name: str, made: Plan) -> None:
        loop = asyncio.get_running_loop()
        life = self._life(name)
        if loop.time() < life.not_before:
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
                **settings(made.cluster),
                "log": {"format": "text", "level": "info"},
            },
        )
        command = [*node_command(), "--config", str(config)]
        with self.folder.edit() as state:
            # Nobody may read the state between the start and the note of its process.
            life.child = processes.spawn(command, self.folder.node(name) / "node.log")
            record = state.record(name)
            record.process = processes.identify(life.child.pid)
            record.settings_hash = settings_hash(made.cluster)
        life.started_at = loop.time()
        if self._up:
            self.screen.event(f"{name} starts (pid {life.child.pid})")

    async def _restart(self, name: str, made: Plan) -> None:
        self.screen.event(f"{name} restarts with its new settings")
        process = self._records()[name].process
        if process is not None:
            await processes.stop([process], self._stop)
        life = self._life(name)
        if life.child is not None:
            life.child.poll()
        with self.folder.edit() as state:
            state.record(name).process = None
        life.child, life.not_before = None, 0.0
        if not self._stop.is_set():
            self._start(name, made)

    async def _post(self, name: str, sight: Sight) -> None:
        assert self._nodes is not None, "a plan posts rings after the identity"
        assert sight.ring is not None, "a ring is decided before it is posted"
        try:
            await self._nodes.post_ring(name, address(sight.state, name), sight.ring)
        except NodeRefused as error:
            self._tell_once(str(error), "bad")

    async def _adopt(self, name: str, sight: Sight) -> None:
        assert self._nodes is not None, "a plan adopts rings after the identity"
        try:
            ring = await self._nodes.ring(name, address(sight.state, name))
        except NodeRefused as error:
            self._tell_once(str(error), "bad")
            return
        self.folder.decide(ring)
        self.screen.event(
            f"the ring file was lost: took the ring of epoch {ring.epoch} from {name}"
        )

    # --- telling ---------------------------------------------------------------------

    def _check_up(self, sight: Sight, made: Plan, elapsed: float) -> None:
        """Ends the coming up: all ready, or those that can be; NotUp if none, or no ring."""
        observed = sight.observed
        if not made.act:
            self._up = True
            self._running(
                "the manifest says to observe only (paused or dryRun): nothing is started"
            )
            return
        stages = {name: stage(sight, name) for name in observed.nodes}
        self.screen.progress({n: "starting" if s == "down" else s for n, s in stages.items()})
        late = elapsed > UP_SECONDS
        ready = [name for name, node in observed.nodes.items() if node.ready]
        failing = [
            name
            for name, node in observed.nodes.items()
            if not node.ready
            and (late or self._life(name).hopeless or self._life(name).crashes >= CRASHES_MAX)
        ]
        whole = len(ready) == len(observed.nodes)
        if whole and made.settled:
            self._up = True
            self._running("")
            self._welcome(sight)
        elif failing and (observed.ring is None or len(failing) == len(observed.nodes)):
            raise NotUp("\n".join(self._reason(name) for name in failing))
        elif failing and len(failing) + len(ready) == len(observed.nodes):
            self._up = True
            self._running("")
            self._welcome(sight)
            for name in failing:
                self.screen.event(self._reason(name), "bad")

    def _welcome(self, sight: Sight) -> None:
        self.screen.end_progress()
        self.screen.nodes(sight)
        self.screen.what_next(sight, self.attached)

    def _running(self, note: str) -> None:
        self.screen.end_progress()
        with self.folder.edit() as state:
            state.phase = "running"
        if note:
            self.screen.event(note, "refused")

    def _reason(self, name: str) -> str:
        log = self.folder.node(name) / "node.log"
        said = "\n".join(f"    {line}" for line in processes.tail(log)) or "    nothing"
        return f"{name} does not get ready; the end of {log} says:\n{said}"

    def _tell_refusals(self, made: Plan) -> None:
        texts = [str(refusal) for refusal in made.refusals]
        if texts != self.folder.state().refusals:
            with self.folder.edit() as state:
                state.refusals = texts
            for text in texts:
                self.screen.event(f"edit refused: {text}", "refused")
            if texts:
                self.screen.event("nothing of that edit is carried out", "refused")

    def _tell_stages(self, sight: Sight) -> None:
        for name in sight.observed.nodes:
            now, life = stage(sight, name), self._life(name)
            if self._up and now != life.stage and now in ("ready", "paused", "unknown"):
                kind = "good" if now == "ready" else "refused"
                probe = sight.probes.get(name)
                more = f": its port answers as {probe.stranger}" if probe and probe.stranger else ""
                self.screen.event(f"{name} is {now}{more}", kind)
            life.stage = now

    def _tell_steps(self, made: Plan) -> None:
        if made.cluster.spec.dry_run:
            for step in made.steps:
                self._tell_once(f"would {step}", "info")

    def _tell_once(self, text: str, kind: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.screen.event(text, kind)

    def _life(self, name: str) -> _Life:
        return self._lives.setdefault(name, _Life())

    def _records(self) -> dict[str, NodeRecord]:
        return self.folder.state().nodes


def node_command() -> list[str]:
    """The command of a node process; DYNAMO_NODE_COMMAND names another for tests."""
    other = os.environ.get("DYNAMO_NODE_COMMAND")
    return other.split() if other else [sys.executable, "-m", "dynamo_node"]


def _ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _pid(process: processes.Process | None) -> int:
    return process.pid if process else 0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
