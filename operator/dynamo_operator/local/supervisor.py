"""The process that brings a cluster up, watches over it, and stops it.

Owns the loop (look, plan, act, wait), signals, and the manifest's edits. It
keeps no truth in memory: whoever starts it again on the same folder finds the
nodes that still run and goes on. Forbidden: deciding what to do next (`plan`),
doing it (`carrying`), wording (`telling`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from datetime import UTC, datetime

from dynamo_core.errors import CallerError, DynamoError
from dynamo_operator.local import processes, start
from dynamo_operator.local.carrying import Carrier
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight, look, progress
from dynamo_operator.local.screen import Screen
from dynamo_operator.local.telling import Teller
from dynamo_operator.plan import Plan, plan
from dynamo_operator.steps import Step

BUSY_SECONDS = 0.15
IDLE_SECONDS = 1.0
PEEK_SECONDS = 0.2
STUCK_SECONDS = 5.0  # after which a plan that doesn't change is looked at less often
UP_SECONDS = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotUp(DynamoError):
    """The cluster did not come up; the text says why."""


class Supervisor:
    """Runs one cluster until it is told to stop. The caller holds the right to supervise."""

    def __init__(
        self,
        folder: Folder,
        source: start.Source,
        wanted: start.Wanted,
        screen: Screen,
        attached: bool,
    ) -> None:
        self._folder = folder
        self._source = source
        self._stamp = source.stamp()
        self._wanted = wanted
        self._screen = screen
        self._attached = attached
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._steps: tuple[Step, ...] = ()
        self._changed_at = 0.0
        self._tell = Teller(folder, screen, attached)
        self._carrier = Carrier(folder, self._tell, self._stop)

    async def run(self) -> None:
        """Brings the cluster up, watches it, and stops it on SIGINT, SIGTERM or SIGHUP.

        Raises NotUp if it does not come up; its nodes are stopped then too.
        """
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        self._enter()
        began = loop.time()
        try:
            while not self._stop.is_set():
                at_rest = await self._pass(loop.time() - began)
                await self._wait(IDLE_SECONDS if at_rest else BUSY_SECONDS)
        except DynamoError as error:
            await self._leave(str(error))
            raise
        else:
            await self._leave("")
        finally:
            await self._carrier.close()
            # All is stopped. The end of the loop gives signals their first meaning back: one that
            # comes late would make a death of a clean end.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    # --- beginning and end -----------------------------------------------------------

    def _enter(self) -> None:
        with self._folder.edit() as state:
            state.supervisor = processes.identify(os.getpid())
            state.phase, state.failure, state.refusals, state.plan = "starting", "", [], []
            start.follow(state, self._source)
            for name, record in state.nodes.items():
                if record.process and processes.alive(record.process):
                    self._tell.event(f"{name} still runs (pid {record.process.pid}): taken over")
                    if record.wanted == "paused":
                        processes.send(record.process, signal.SIGCONT)
                record.wanted, record.act = "up", ""

    async def _leave(self, failure: str) -> None:
        """Stops every node, gracefully unless a second signal says otherwise."""
        self._screen.end_progress()
        with self._folder.edit() as state:
            state.phase = "stopping"
            running = {
                name: record.process
                for name, record in state.nodes.items()
                if record.process and processes.alive(record.process)
            }
        if running:
            again = " (Ctrl-C again to stop at once)" if self._attached else ""
            self._tell.event(f"stopping {len(running)} node(s){again}")
        killed = await processes.stop(running.values(), self._at_once)
        for name, process in running.items():
            if process in killed:
                self._tell.event(f"{name} did not stop in time and was killed", "bad")
        for life in self._carrier.lives.values():
            if life.child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    life.child.wait(1)
        with self._folder.edit() as state:
            state.phase, state.failure = ("failed", failure) if failure else ("stopped", "")
            state.supervisor, state.plan = None, []
            for record in state.nodes.values():
                if not processes.alive(record.process):
                    record.process = None

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    # --- one pass --------------------------------------------------------------------

    async def _pass(self, elapsed_seconds: float) -> bool:
        """Looks, plans, acts. True if nothing can be done at present."""
        self._carrier.bury()
        self._read_source()
        sight = await look(self._folder, self._wanted.cluster, self._carrier.connect())
        if sight.ring is not None and sight.settled:
            self._folder.settle(sight.ring)
        made = plan(self._wanted.cluster, sight.observed, _now())
        self._tell.refusals(made)
        self._tell.stages(sight)
        self._tell.plan(made, sight.settled)
        if not self._tell.up:
            self._check_up(sight, made, elapsed_seconds)
        if made.act:
            await self._carrier.carry_out(made, sight, self._wanted)
        else:
            self._tell.steps(made)
        now = asyncio.get_running_loop().time()
        if made.steps != self._steps:
            self._steps, self._changed_at = made.steps, now
        stuck = now - self._changed_at > STUCK_SECONDS
        return made.settled or made.waiting or stuck or not made.act

    def _read_source(self) -> None:
        """Takes up an edited manifest, or another one handed over by a second `up`."""
        state = self._folder.state()
        source = start.source_of(state)
        stamp = source.stamp()
        if source == self._source and stamp == self._stamp:
            return
        if source.path is not None and stamp == (0, 0):
            # Editors may take a file away for a moment before they put the new one there.
            self._tell.once(f"{source.path} is gone; the cluster goes on as it is", "refused")
            return
        before, self._source, self._stamp = self._source, source, stamp
        self._tell.forget()
        try:
            wanted = start.load(source, self._folder.path)
        except CallerError as error:
            self._tell.mistakes(str(error))
            return
        if wanted.cluster != self._wanted.cluster:
            pools = ", ".join(f"{pool} to {count} node(s)" for pool, count in source.scaled)
            by_hand = pools and source.scaled != before.scaled
            self._tell.event(f"scale {pools}" if by_hand else "the manifest changed")
        self._wanted = wanted

    def _check_up(self, sight: Sight, made: Plan, elapsed_seconds: float) -> None:
        """Ends the coming up: all ready, or those that can be; NotUp if none, or no ring."""
        if not made.act:
            self._running()
            self._tell.up = True
            self._tell.event("the manifest says paused or dryRun: nothing is started or changed")
            return
        self._screen.progress(progress(sight))
        nodes = {name: sight.observed.nodes[name] for name in sight.wanted}
        late = elapsed_seconds > UP_SECONDS
        ready = [name for name, node in nodes.items() if node.ready]
        failing = [
            name
            for name, node in nodes.items()
            if not node.ready and (late or self._carrier.life(name).hopeless)
        ]
        if failing and (sight.ring is None or len(failing) == len(nodes)):
            raise NotUp("\n".join(self._tell.reason(name) for name in failing))
        at_rest = made.settled or made.waiting
        if len(ready) + len(failing) == len(nodes) and (failing or at_rest):
            self._running()
            self._tell.welcome(sight)
            for name in failing:
                self._tell.event(self._tell.reason(name), "bad")

    def _running(self) -> None:
        self._screen.end_progress()
        with self._folder.edit() as state:
            state.phase = "running"

    # --- waiting ---------------------------------------------------------------------

    async def _wait(self, seconds: float) -> None:
        """Returns after that time, or as soon as something changed that can be seen cheaply."""
        before = self._peek()
        waited = 0.0
        while waited < seconds and not self._stop.is_set() and self._peek() == before:
            step = min(PEEK_SECONDS, seconds - waited)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), step)
            waited += step

    def _peek(self) -> object:
        return self._folder.state_stamp(), self._source.stamp(), self._carrier.exits()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
