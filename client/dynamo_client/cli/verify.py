"""`dynamo verify`: a recorded workload, and whether the cluster kept its promises.

Owns the command's options, and the order: the load (`trial`), the wait until the cluster
is whole and all is read (`settling`), what each replica holds of what was lost, and the
report (`verdict`). Forbidden here: what is promised (`dynamo_core.history_check`).
"""

import asyncio
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dynamo_client.cli.terminal import (
    Cluster,
    admin_token_option,
    cluster_options,
    note,
    run,
)

if TYPE_CHECKING:
    from dynamo_client.cli.trial import Trial
    from dynamo_core.history import History, ReplicaCopy

_SHOW_EVERY_S: Final = 0.25
_KEYS_TOLD_MAX: Final = 20


@click.command("verify", short_help="Check that the cluster keeps its promises.")
@click.option(
    "--duration", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="In s."
)
@click.option("--concurrency", type=click.IntRange(1, 1024), default=8, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Operations a second at most."
)
@click.option("--keys", type=click.IntRange(1, 100_000), default=64, show_default=True)
@click.option("--seed", type=int, help="What the clients do follows from it.")
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="How long the cluster may take afterwards to be whole and equal, in s.",
)
@click.option("--history", type=click.Path(dir_okay=False), help="Keep what happened here.")
@click.option(
    "--check", type=click.Path(exists=True, dir_okay=False), help="Judge a kept history; no load."
)
@admin_token_option
@cluster_options("auto")
def verify(
    duration: float,
    concurrency: int,
    rate: float | None,
    keys: int,
    seed: int | None,
    settle: float,
    history: str | None,
    check: str | None,
    admin_token: str,
    cluster: Cluster,
    as_json: bool,
) -> None:
    """Work on the cluster for --duration seconds, and check every promise it made.

    Kill nodes meanwhile, pause them, cut them off: afterwards it waits until the
    cluster is whole, reads every key through several nodes, and says of every
    lost write whose it was and where each replica stands. It writes keys of its
    own (dynamo-verify-RUN-0, ...) and leaves them there; the cluster has to keep
    siblings (not lastWriteWins). Exit code 1 if a promise was broken, 3 if the
    cluster was lost or isn't whole.
    """
    from dynamo_client.cli.verdict import say

    if check is not None:
        from dynamo_core.history import from_lines

        with Path(check).open(encoding="utf-8") as lines:
            kept = from_lines(lines)
        raise click.exceptions.Exit(say(kept, {}, as_json))
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    note(f"seed {seed}")
    found = run(
        _verified(
            cluster,
            admin_token,
            duration,
            concurrency,
            rate,
            keys,
            seed,
            settle,
            history,
        ),
        fast=True,
    )
    record, facts = found
    raise click.exceptions.Exit(say(record, {"seed": seed, **facts}, as_json))


async def _verified(
    cluster: Cluster,
    admin_token: str,
    duration: float,
    concurrency: int,
    rate: float | None,
    keys: int,
    seed: int,
    settle: float,
    path: str | None,
) -> "tuple[History, dict[str, Any]]":
    from dynamo_client.cli.settling import settled
    from dynamo_client.cli.trial import Trial
    from dynamo_core.history_check import check

    async with cluster.connect(discover=True) as kv:
        view = await kv.cluster()  # a cluster that isn't there ends it here
        if (kept := view.get("reconciliation", "siblings")) != "siblings":
            raise click.UsageError(
                f"the cluster's reconciliation is {kept}: a write without a context may replace "
                "what nobody has seen there, so nothing can be said of losses; verify needs a "
                "cluster that keeps siblings"
            )
        prefix = f"dynamo-verify-{os.urandom(4).hex()}-"
        trial = Trial(
            kv,
            prefix=prefix,
            keys=keys,
            concurrency=concurrency,
            seed=seed,
            pace_s=concurrency / rate if rate else 0.0,
        )
        trial.history.n = replication(view)
        try:
            await _worked(trial, duration)
            if trial.done == trial.failures and trial.last_error is not None:
                raise trial.last_error
            lacking = await settled(kv, trial, settle, cluster.timeout_ms)
            accused = check(trial.history).accused
            if accused:
                copies = await replicas(await kv.cluster(), accused[:_KEYS_TOLD_MAX], admin_token)
                trial.history.replicas.extend(copies)
        finally:
            if path is not None:
                await asyncio.to_thread(_keep, trial.history, Path(path))
    return trial.history, {
        "lacking": lacking,
        "failed_requests": trial.failures,
        "failures": dict(trial.reasons),
        "started_at": trial.started_at,
    }


async def _worked(trial: "Trial", seconds: float) -> None:
    from dynamo_client.cli.progress import Progress

    task = asyncio.ensure_future(trial.run(seconds))
    try:
        with _stopped_by_signals(trial), Progress("verify", "operations") as progress:
            while not task.done():
                await asyncio.wait((task,), timeout=_SHOW_EVERY_S)
                failed = f"{trial.failures:,} failed" if trial.failures else ""
                progress.show(trial.done, min(1.0, trial.now() / seconds), failed)
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def _stopped_by_signals(trial: "Trial") -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the load, and what was done is judged.

    A second one ends all, by a handler of its own: the first process of a container is not
    killed by a signal that it doesn't take. Only a main thread gets signals: elsewhere
    nothing is taken.
    """
    loop = asyncio.get_running_loop()
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {each: signal.getsignal(each) for each in signals}

    def give_back() -> None:
        for each, handler in before.items():
            if loop.remove_signal_handler(each):
                signal.signal(each, handler)

    def stop() -> None:
        trial.stop()
        note("stopped: what was done until now is judged; once more ends at once")
        for each in signals:
            loop.add_signal_handler(each, os._exit, 128 + each)

    for each in signals:
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        if not trial.stopped:  # else the next one ends at once, whatever is being judged
            give_back()


def replication(view: Mapping[str, Any]) -> int:
    """N, as `/cluster` tells it; 0 if it doesn't."""
    ring = view.get("ring")
    n = ring.get("n") if isinstance(ring, dict) else None
    return n if isinstance(n, int) else 0


async def replicas(
    view: Mapping[str, Any], keys: Sequence[str], admin_token: str
) -> "list[ReplicaCopy]":
    """What each node holds itself of `keys`, from the admin ports that can be reached."""
    from dynamo_client.cli.admin import Admin
    from dynamo_client.cli.recording import copy_in
    from dynamo_client.errors import DynamoClientError

    found: list[ReplicaCopy] = []
    async with Admin(view, admin_token) as admin:
        for name in admin.names:
            try:
                found += [copy_in(name, k, await admin.replica(name, k.encode())) for k in keys]
            except DynamoClientError as error:
                note(f"{name} doesn't tell what it holds: {error}")
    return found


def _keep(history: "History", path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in history.lines())
