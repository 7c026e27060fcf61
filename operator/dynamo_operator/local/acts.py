"""What the commands do to a cluster that runs: stop, kill, pause, resume, start, hand over.

Owns the order that keeps the supervisor from interfering: the wish is written
into the folder first, then the process is signalled. Works without a
supervisor too, wherever a signal is enough. Forbidden: the command line, tables.
"""

from __future__ import annotations

import asyncio
import difflib
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Literal

from dynamo_core.errors import CallerError, DynamoError
from dynamo_operator.local import processes
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight, look
from dynamo_operator.local.processes import Process
from dynamo_operator.local.start import Source, follow, load, source_of
from dynamo_operator.local.state import State, Wanted
from dynamo_operator.nodes import Nodes
from dynamo_operator.spec import DynamoCluster

READY_SECONDS = 45.0
SUPERVISOR_STOP_SECONDS = 25.0
POLL_SECONDS = 0.2


class NotRunning(DynamoError):
    """There is no process to ask, or the cluster did not get ready in time."""


def resolve(state: State, words: Iterable[str]) -> list[str]:
    """Node names from full names, endings of names ("default-1") or ordinals ("1")."""
    found = []
    for word in words:
        matches = [name for name in state.nodes if name == word or name.endswith(f"-{word}")]
        if word in state.nodes:
            matches = [word]
        if len(matches) == 1:
            found.append(matches[0])
            continue
        names = ", ".join(state.nodes) or "none yet"
        if matches:
            raise CallerError(f"{word!r} may be any of {', '.join(matches)}: give more of the name")
        close = difflib.get_close_matches(word, list(state.nodes), n=1)
        hint = f"did you mean {close[0]}?" if close else f"the nodes are {names}"
        raise CallerError(f"there is no node {word!r}: {hint}")
    return found


async def sight(folder: Folder) -> Sight:
    """One look at the cluster as it was last accepted, or as the manifest has it before that."""
    cluster = wanted_cluster(folder)
    identity = folder.identity()
    if identity is None:
        return await look(folder, cluster, None)
    async with Nodes(identity.cluster_id) as nodes:
        return await look(folder, cluster, nodes)


def wanted_cluster(folder: Folder) -> DynamoCluster:
    accepted = folder.accepted()
    if accepted is not None:
        return accepted
    return load(source_of(folder.state()), folder.path).cluster


def halt(folder: Folder, name: str, act: Literal["stop", "kill", "pause", "resume"]) -> str:
    """Carries out one act on one node; returns what was done, for people."""
    wanted: dict[str, Wanted] = {"stop": "down", "kill": "down", "pause": "paused", "resume": "up"}
    with folder.edit() as state:
        record = state.nodes[name]
        process = record.process if processes.alive(record.process) else None
        if process is None and act in ("pause", "resume"):
            raise NotRunning(f"{name} is not running: `dynamo local start {name}` starts it")
        if act == "resume" and record.wanted != "paused":
            return f"{name} is not paused"
        record.wanted, record.act = wanted[act], "" if act == "resume" else act
    if process is None:
        return f"{name} was not running; it stays down until `dynamo local start {name}`"
    if act == "stop":
        killed = asyncio.run(processes.stop([process]))
        return f"{name} " + ("did not stop in time and was killed" if killed else "stopped")
    number = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}[act]
    processes.send(process, number)
    if act == "kill":
        asyncio.run(processes.gone([process], 5))
    done = {"kill": "killed", "pause": "paused", "resume": "resumed"}[act]
    return f"{name} {done} (pid {process.pid})"


def start(folder: Folder, name: str) -> str:
    """Has the supervisor start a node that is held down, and waits until it is ready."""
    supervisor_or_fail(folder)
    ring = folder.ring()
    with folder.edit() as state:
        record = state.nodes[name]
        if record.wanted == "paused" and record.process:
            processes.send(record.process, signal.SIGCONT)
        running = processes.alive(record.process)
        record.wanted, record.act = "up", ""
        if ring is not None and state.give_up:  # whoever starts it hasn't given it up any more
            mine = [m.number for m in (*ring.members, *ring.leaving) if m.name == name]
            state.give_up = [number for number in state.give_up if number not in mine]

    def ready(now: Sight) -> bool:  # a leaver may be drained and gone before we look
        node = now.observed.nodes.get(name)
        return node is None or node.ready

    asyncio.run(wait_until(folder, ready, f"{name} is ready"))
    return f"{name} was running" if running else f"{name} is ready"


async def wait_until(
    folder: Folder, done: Callable[[Sight], bool], what: str, seconds: float = READY_SECONDS
) -> Sight:
    """Looks again and again. Raises NotRunning when time is up or the supervisor is gone."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        now = await sight(folder)
        if done(now):
            return now
        if now.state.phase == "failed":
            raise NotRunning(now.state.failure)
        if not processes.alive(now.state.supervisor):
            raise NotRunning(f"the supervisor ended before {what}; its log is {folder.log}")
        if asyncio.get_running_loop().time() > deadline:
            raise NotRunning(f"after {seconds:.0f} s it is still not so that {what}")
        await asyncio.sleep(POLL_SECONDS)


async def stop_all(folder: Folder) -> tuple[int, int]:
    """Ends supervisor and nodes; (nodes that ran, nodes that had to be killed)."""
    state = folder.state()
    ran = _running(state)
    if state.supervisor is not None and processes.alive(state.supervisor):
        processes.send(state.supervisor, signal.SIGTERM)
        if not await processes.gone([state.supervisor], SUPERVISOR_STOP_SECONDS):
            processes.send(state.supervisor, signal.SIGKILL)
            await processes.gone([state.supervisor], 5)
    killed = await processes.stop(_running(folder.state()))
    with folder.edit() as state:
        state.phase, state.supervisor = "stopped", None
        for record in state.nodes.values():
            if not processes.alive(record.process):
                record.process = None
    return len(ran), len(killed)


def hand_over(folder: Folder, source: Source) -> None:
    """Tells the running supervisor which manifest it shall follow from now on."""
    with folder.edit() as state:
        follow(state, source)


def detach(folder: Folder, arguments: list[str]) -> Process | None:
    """Starts a supervisor in its own session, with its output in the folder's log."""
    command = [sys.executable, "-m", "dynamo_operator.local", *arguments]
    child = processes.spawn(command, folder.log)
    return processes.identify(child.pid)


def supervisor_or_fail(folder: Folder) -> Process:
    supervisor = folder.state().supervisor
    if supervisor is None or not processes.alive(supervisor):
        raise NotRunning("the cluster is not running: `dynamo local up` starts it")
    return supervisor


def _running(state: State) -> list[Process]:
    return [
        record.process
        for record in state.nodes.values()
        if record.process and processes.alive(record.process)
    ]
