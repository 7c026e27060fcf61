"""`dynamo local ...`: a whole cluster with processes on this machine.

Owns the commands' names, options, help and exit codes (0 done, 1 the answer is
no, 2 usage, 3 cluster unreachable). Results go to stdout, everything else to
stderr. Forbidden here: imports that cost time (what a command needs is loaded
when it runs), and decisions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from dynamo_core.errors import CallerError, DynamoError

if TYPE_CHECKING:
    from dynamo_operator.local.folder import Folder
    from dynamo_operator.local.observing import Sight

USAGE, UNREACHABLE = 2, 3
BASE = Path(".dynamo")

F = TypeVar("F", bound=Callable[..., Any])

_data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="The cluster's data folder (default: .dynamo/NAME here).",
)
_node_argument = click.argument("nodes", nargs=-1, required=True, metavar="NODE...")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def local() -> None:
    """Run a whole cluster on this machine, planned as the operator plans it."""


@local.command()
@click.option(
    "-f",
    "--filename",
    "manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A DynamoCluster manifest; edits are carried out when it is saved.",
)
@click.option("--replicas", type=click.IntRange(0), help="Nodes of the default pool.")
@_data_option
@click.option("--port", type=click.IntRange(1, 65535), help="HTTP port of the first node (8100).")
@click.option("--detach", is_flag=True, help="Return when the cluster is ready; it goes on.")
@click.option("--in-background", is_flag=True, hidden=True)
def up(
    manifest: Path | None,
    replicas: int | None,
    data: Path | None,
    port: int | None,
    detach: bool,
    in_background: bool,
) -> None:
    """Start a cluster, or go on with it.

    Without a manifest it has three nodes. Node i listens on 8100+i (HTTP), 7100+i
    (native) and 9100+i (admin). Ctrl-C stops all nodes; the data stays, and `up`
    goes on with it.
    """
    with _errors():
        from dynamo_operator.local import bringing_up

        bringing_up.up(
            bringing_up.Options(manifest, replicas, data, port, detach, in_background, BASE)
        )


@local.command()
@_data_option
@click.option("--json", "as_json", is_flag=True, help="Output for programs.")
def status(data: Path | None, as_json: bool) -> None:
    """Show the nodes; exit code 3 if none is ready."""
    with _errors():
        from dynamo_operator.local.acts import sight

        folder = _find(data)
        now = asyncio.run(sight(folder))
        if as_json:
            click.echo(json.dumps(_as_json(folder, now), indent=2))
        else:
            _show(folder, now)
        if not any(node.ready for node in now.observed.nodes.values()):
            raise SystemExit(UNREACHABLE)


@local.command()
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@_data_option
def stop(nodes: tuple[str, ...], data: Path | None) -> None:
    """Stop nodes (SIGTERM), or all; the data stays."""
    if nodes:
        _act("stop", nodes, data)
        return
    with _errors():
        _stop_all(_find(data))


@local.command()
@_node_argument
@_data_option
def kill(nodes: tuple[str, ...], data: Path | None) -> None:
    """Kill nodes (SIGKILL); they stay down until `start`."""
    _act("kill", nodes, data)


@local.command()
@_node_argument
@_data_option
def pause(nodes: tuple[str, ...], data: Path | None) -> None:
    """Freeze nodes (SIGSTOP) until `resume`."""
    _act("pause", nodes, data)


@local.command()
@_node_argument
@_data_option
def resume(nodes: tuple[str, ...], data: Path | None) -> None:
    """Let paused nodes go on (SIGCONT)."""
    _act("resume", nodes, data)


@local.command()
@_node_argument
@_data_option
def start(nodes: tuple[str, ...], data: Path | None) -> None:
    """Start nodes that are down, until they are ready."""
    with _errors():
        from dynamo_operator.local import acts

        folder = _find(data)
        for name in acts.resolve(folder.state(), nodes):
            click.echo(acts.start(folder, name))


@local.command()
@click.argument("replicas", type=click.IntRange(0), metavar="N")
@click.option("--pool", default="default", show_default=True, help="The pool to scale.")
@click.option("--wait", is_flag=True, help="Return when all data is where it belongs.")
@_data_option
def scale(replicas: int, pool: str, wait: bool, data: Path | None) -> None:
    """Change the number of nodes of a pool, until the manifest is edited.

    Data moves while clients read and write; `status` shows how far it is. Nodes are
    stopped only after it is proven that others hold what they held. A cluster that
    doesn't run is scaled at its next `up`.
    """
    with _errors():
        from dynamo_operator.local import scaling
        from dynamo_operator.local.screen import Screen

        folder = _find(data)
        told, under_way = scaling.scale(folder, replicas, pool)
        click.echo(told)
        if wait and under_way:
            with Screen(folder.path, BASE / folder.cluster_name) as screen:
                scaling.follow(folder, lambda now: screen.plan(now.state.plan))


@local.command("give-up")
@click.argument("node", metavar="NODE")
@_data_option
def give_up(node: str, data: Path | None) -> None:
    """Give up a node that is down for good, and what only it holds.

    For a node that shall leave and will never run again: nobody else can end the
    wait for it. One that has merely lost its disk is started, and rebuilds itself.
    Refused unless all others are whole. Its data stays in its folder.
    """
    with _errors():
        from dynamo_operator.local import acts, scaling

        folder = _find(data)
        for name in acts.resolve(folder.state(), [node]):
            click.echo(scaling.give_up(folder, name))


@local.command()
@_data_option
@click.option("--wipe", is_flag=True, help="Delete the data too.")
def down(data: Path | None, wipe: bool) -> None:
    """Stop the whole cluster; with --wipe, delete its data folder."""
    with _errors():
        folder = _find(data)
        _stop_all(folder)
        if not wipe:
            click.echo(f"the data stays in {folder.path} (--wipe deletes it)", err=True)
        elif folder.wipe():
            click.echo(f"deleted {folder.path}")
        else:
            click.echo(f"deleted the cluster's data; other files stay in {folder.path}")


def _act(
    act: Literal["stop", "kill", "pause", "resume"], nodes: tuple[str, ...], data: Path | None
) -> None:
    with _errors():
        from dynamo_operator.local import acts

        folder = _find(data)
        for name in acts.resolve(folder.state(), nodes):
            click.echo(acts.halt(folder, name, act))


def _stop_all(folder: Folder) -> None:
    from dynamo_operator.local import acts

    ran, killed = asyncio.run(acts.stop_all(folder))
    more = f", {killed} of them killed, since they did not stop in time" if killed else ""
    told = f"{folder.cluster_name}: {ran} node(s) stopped{more}"
    click.echo(told if ran else "nothing was running")


def _find(data: Path | None) -> Folder:
    from dynamo_operator.local.folder import find

    return find(data, BASE)


def _show(folder: Folder, now: Sight) -> None:
    from dynamo_operator.local.processes import alive
    from dynamo_operator.local.screen import Screen

    screen = Screen(folder.path, BASE / folder.cluster_name)
    epoch = f"ring epoch {now.ring.epoch}" if now.ring else "no ring yet"
    supervised = alive(now.state.supervisor)
    who = f"supervisor pid {now.state.supervisor.pid}" if now.state.supervisor else ""
    screen.result(
        f"{folder.cluster_name}: {epoch}, "
        + (f"{now.state.phase}, {who}" if supervised else "not supervised (`dynamo local up`)")
    )
    screen.nodes(now)
    if supervised and now.state.plan:
        screen.result("plan in progress:")
        for index, line in enumerate(now.state.plan):
            screen.result(f"  {'- ' if index else '> '}{line}")
    for refusal in now.state.refusals:
        screen.say(f"edit refused: {refusal}", "refused")
    if now.state.failure:
        screen.say(now.state.failure, "bad")


def _as_json(folder: Folder, now: Sight) -> dict[str, Any]:
    from dynamo_operator.local.observing import stage
    from dynamo_operator.local.processes import alive

    nodes = []
    for name, node in now.observed.nodes.items():
        process = now.records[name].process if node.running else None
        host, probe = f"http://{node.address.host}", now.probes.get(name)
        nodes.append(
            {
                "name": name,
                "state": stage(now, name),
                "ready": node.ready,
                "wanted": now.records[name].wanted,
                "pid": process.pid if process else None,
                "http": f"{host}:{node.address.http_port}",
                "native": f"{node.address.host}:{node.address.native_port}",
                "admin": f"{host}:{node.address.admin_port}",
                "ring_epoch": node.status.ring_epoch if node.status else None,
                "incarnation": node.status.incarnation if node.status else None,
                "hints_pending": probe.hints_pending if probe and probe.status else None,
            }
        )
    supervised = alive(now.state.supervisor)
    return {
        "name": folder.cluster_name,
        "cluster_id": now.observed.cluster_id or None,
        "data": str(folder.path),
        "supervisor": now.state.supervisor.pid if supervised and now.state.supervisor else None,
        "phase": now.state.phase if supervised or now.state.phase == "failed" else "stopped",
        "failure": now.state.failure or None,
        "refusals": now.state.refusals,
        "ring": {"epoch": now.ring.epoch, "id": now.ring.id, "settled": now.settled}
        if now.ring
        else None,
        "plan": now.state.plan if supervised else [],
        "nodes": nodes,
    }


@contextmanager
def _errors() -> Iterator[None]:
    """Turns the store's errors into a line on stderr and the contract's exit codes."""
    try:
        yield
    except DynamoError as error:
        click.secho("error: ", fg="red", nl=False, err=True)
        click.echo(str(error), err=True)
        raise SystemExit(USAGE if isinstance(error, CallerError) else UNREACHABLE) from error
