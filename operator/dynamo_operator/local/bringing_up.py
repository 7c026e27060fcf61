"""What `dynamo local up` does, in the foreground, detached, or on a cluster that runs.

Owns the order: read everything, refuse what can't be, and only then start.
Forbidden: the loop itself (`supervisor`), and anything that other commands do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dynamo_core.errors import CallerError
from dynamo_operator.local import acts, start
from dynamo_operator.local.folder import Folder, is_ours
from dynamo_operator.local.observing import Sight, progress
from dynamo_operator.local.processes import Process, alive, tail
from dynamo_operator.local.screen import Screen, program
from dynamo_operator.local.supervisor import UP_SECONDS, Supervisor
from dynamo_operator.rolling import puts, settings_hash


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line gave. base holds the default data folders."""

    manifest: Path | None
    replicas: int | None
    data: Path | None
    port: int | None
    detach: bool
    in_background: bool  # this process is the supervisor that a detaching one started
    base: Path


def up(options: Options) -> None:
    """Carries out `up`. Raises CallerError before anything starts, NotUp or NotRunning after."""
    path = options.manifest.absolute() if options.manifest else None
    source = start.Source(path, options.replicas)
    data = (options.data or start.default_data(options.base, source)).absolute()
    wanted = start.load(source, data)
    anew = start.refusals_anew(wanted.cluster)
    if anew:
        raise CallerError(f"this manifest can't be carried out:\n{start.lines(anew)}")
    known = is_ours(data)
    folder = Folder.create(data, wanted.cluster.name, options.port or start.DEFAULT_PORT)
    screen = Screen(folder.path, options.base / wanted.cluster.name)
    try:
        # What `scale` has set holds until the manifest is edited or --replicas says otherwise.
        source = start.kept(folder.state(), source)
        wanted = start.load(source, data)
        if known:
            start.check_port(folder, options.port)
            refused = start.refusals(folder, wanted.cluster)
            if refused:
                raise CallerError(
                    f"{folder.path} holds a cluster that this would change in ways that this "
                    f"version can't carry out:\n{start.lines(refused)}"
                )
        right = folder.supervise()
        if right is None:
            _hand_over(folder, source, wanted, screen)
            return
        with right:
            start.check_ports_free(folder.state(), wanted.cluster)
            # Before anybody looks: whoever knows no manifest would take the built-in one's
            # nodes for this cluster's, and give them the first ports.
            acts.hand_over(folder, source)
            if wanted.ignored and not options.in_background:
                screen.say(f"the manifest also holds {', '.join(wanted.ignored)}: ignored here")
            if not options.detach:
                _supervise(folder, source, wanted, screen, right, options)
    except CallerError:
        if not known:
            folder.wipe()  # nothing is in it but what was made a moment ago
        raise
    if options.detach:
        _detach(folder, source, screen)


def _supervise(
    folder: Folder,
    source: start.Source,
    wanted: start.Wanted,
    screen: Screen,
    right: IO[bytes],
    options: Options,
) -> None:
    assert not right.closed, "only one supervisor may run"
    attached = not options.in_background
    with screen:
        count = wanted.cluster.spec.nodes_total
        screen.say(f"{wanted.cluster.name}: {count} node(s), data in {folder.path}")
        supervisor = Supervisor(folder, source, wanted, screen, attached)
        asyncio.run(supervisor.run())
    given = f" -f {options.manifest}" if options.manifest else ""
    replicas = folder.state().replicas if options.manifest else None
    given += "" if replicas is None else f" --replicas {replicas}"
    again = f"`{program()} local up{given}{screen.data_option}`"
    screen.say(f"{wanted.cluster.name} is stopped; its data stays. {again} goes on with it.")


def _detach(folder: Folder, source: start.Source, screen: Screen) -> None:
    arguments = ["up", "--in-background", "--data", str(folder.path)]
    if source.path is not None:
        arguments += ["-f", str(source.path)]
    if source.replicas is not None:
        arguments += ["--replicas", str(source.replicas)]
    log_start = folder.log.stat().st_size if folder.log.exists() else 0
    child = acts.detach(folder, arguments)
    with screen:
        try:
            sight = asyncio.run(_follow(folder, child, screen))
        except acts.NotRunning as error:
            said = tail(folder.log, 12) if log_start < folder.log.stat().st_size else []
            lines = "\n".join(f"    {line}" for line in said)
            raise acts.NotRunning(f"{error}\nthe end of {folder.log}:\n{lines}") from error
    screen.nodes(sight)
    screen.what_next(sight, attached=False)


async def _follow(folder: Folder, child: Process | None, screen: Screen) -> Sight:
    """Shows progress until the supervisor says that it is up. Raises NotRunning."""
    if child is None:
        raise acts.NotRunning("the supervisor did not start")
    deadline = asyncio.get_running_loop().time() + UP_SECONDS + 20
    while asyncio.get_running_loop().time() < deadline:
        sight = await acts.sight(folder)
        if sight.state.supervisor == child:
            if sight.state.phase == "running":
                return sight
            screen.progress(progress(sight))
        if not alive(child):
            raise acts.NotRunning(folder.state().failure or "the supervisor ended")
        await asyncio.sleep(acts.POLL_SECONDS)
    raise acts.NotRunning("the cluster did not come up in time")


def _hand_over(folder: Folder, source: start.Source, wanted: start.Wanted, screen: Screen) -> None:
    """A second `up`: says so, and passes a changed manifest on to the supervisor."""
    name = wanted.cluster.name
    state = folder.state()
    screen.say(f"{name} is running already (data in {folder.path})")
    if source.path is not None or source.replicas is not None:
        acts.hand_over(folder, source)  # from now on this file is watched
    up = [n for n, record in state.nodes.items() if record.wanted == "up"]
    down = [n for n in state.nodes if n not in up]
    wanted_hash = settings_hash(wanted.cluster)
    known = wanted.cluster == folder.accepted()
    # The supervisor may have seen the edit before us and be in the middle of it.
    if not known or any(state.nodes[n].settings_hash != wanted_hash for n in up):
        screen.say("it carries out the changed manifest")
        if wanted.cluster.spec.paused or wanted.cluster.spec.dry_run:
            return
        if down:
            screen.say(f"new settings wait until {', '.join(down)} is started again", "refused")
        asyncio.run(_carried_out(folder, wanted, wanted_hash if not down else ""))
    screen.nodes(asyncio.run(acts.sight(folder)))


async def _carried_out(folder: Folder, wanted: start.Wanted, wanted_hash: str) -> None:
    """Returns when the spec is accepted and, with a hash, its nodes run with those settings.

    Data may still move then; that takes as long as it takes.
    """

    def done(now: Sight) -> bool:
        nodes = [now.observed.nodes[name] for name in now.wanted]
        if now.observed.accepted != wanted.cluster or puts(wanted.cluster, nodes):
            return False
        return not wanted_hash or all(n.ready and n.settings_hash == wanted_hash for n in nodes)

    seconds = UP_SECONDS + 30 * wanted.cluster.spec.nodes_total
    await acts.wait_until(folder, done, "the manifest is carried out", seconds)
