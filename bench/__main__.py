"""`python -m bench`: arguments, checks, the plan, one run, its reports.

`python -m bench idle|handoff|repair` runs that scenario of `mending` instead.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 a cell
or a contender failed, 2 something needed is missing or was asked for wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import etcd, h2load, machine, mending, native, profiling, report
from bench.contender import OPERATIONS, Contender
from bench.errors import BenchError, CannotStart
from bench.measure import Timing
from bench.processes import Children
from bench.rounds import Plan, run
from bench.store import Store

PROJECT = Path(__file__).resolve().parent.parent
OUT = PROJECT / "bench" / "out"
PAGE = PROJECT / "docs" / "benchmarks.md"
VALUE_BYTES = 1024
KEYS = 10_000

_stderr = Console(stderr=True)


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    scenario = given[0] if given and given[0] in mending.SCENARIOS else ""
    options = _arguments(scenario).parse_args(given[1:] if scenario else given)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if not scenario:
            _check(options)
        elif options.dir is not None and not options.dir.is_dir():
            raise CannotStart(f"--dir is {options.dir}, which is not a folder")
        OUT.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            data, scratch = _folders(stack, options)
            # Last in, first out: the servers are gone before their folders are.
            children = stack.enter_context(Children())
            if scenario:
                return _mend(scenario, options, children, data)
            if options.profile:
                return _profile(options, children, data, scratch)
            return _compare(options, children, data, scratch)
    except CannotStart as error:
        _stderr.print(f"bench: {error}", style="red", markup=False, highlight=False)
        return 2
    except BenchError as error:
        _stderr.print(f"bench: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        _stderr.print("bench: interrupted; all servers are stopped")
        return 130


def _arguments(scenario: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {scenario}".rstrip(),
        description=getattr(mending.Scene, scenario).__doc__
        if scenario
        else "This store beside a three-node etcd: one run, one machine, ratios first. Or one"
        f" of {', '.join(mending.SCENARIOS)}: what background work costs.",
    )
    add = parser.add_argument
    if scenario:
        mending.arguments(parser)
        add("--dir", type=Path, metavar="DIR", help="disk for the data (default: bench/out)")
        add("--write-docs", action="store_true", help="put the results into docs/benchmarks.md")
        return parser
    add("--quick", action="store_true", help="one round of 2 s a cell, for a first look")
    add("--rounds", type=_at_least(1), metavar="N", help="alternating rounds (default: 3)")
    add("--seconds", type=_positive, metavar="S", help="window of a cell (default: 6)")
    add(
        "--connections",
        type=_connections,
        default=(1, 16, 64),
        metavar="C,C,...",
        help="connections = requests in flight (default: 1,16,64)",
    )
    add(
        "--operations",
        type=_operations,
        default=OPERATIONS,
        metavar="put,...",
        help="some of put (new keys), overwrite, get",
    )
    add("--dir", type=Path, metavar="DIR", help="disk for both stores' data (default: bench/out)")
    add("--write-docs", action="store_true", help="put the results into docs/benchmarks.md")
    add("--profile", action="store_true", help="our node alone under py-spy, puts then gets")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before anything starts."""
    h2load.version()
    if options.profile:
        profiling.sampler()
    else:
        etcd.version()
    if options.write_docs and (options.quick or options.profile):
        raise CannotStart("--write-docs takes the figures of a full run, not --quick or --profile")
    if options.dir is not None and not options.dir.is_dir():
        raise CannotStart(f"--dir is {options.dir}, which is not a folder")


def _folders(stack: ExitStack, options: argparse.Namespace) -> tuple[Path, Path]:
    """The stores' data on the disk to be measured; request bodies and logs in memory.

    Logs on the same disk would ride along with the stores' fsyncs.
    """
    data = Path(tempfile.mkdtemp(prefix="bench-data-", dir=options.dir or OUT))
    stack.callback(shutil.rmtree, data, ignore_errors=True)
    memory = "/dev/shm"
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=memory if os.path.isdir(memory) else None))
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    return data, scratch


def _plan(options: argparse.Namespace) -> Plan:
    window_s = options.seconds or (2.0 if options.quick else 6.0)
    return Plan(
        rounds=options.rounds or (1 if options.quick else 3),
        connections=options.connections,
        operations=options.operations,
        timing=Timing(lead_s=0.5 if options.quick else 1.0, window_s=window_s),
        warm_up=Timing(lead_s=0.5, window_s=1.0 if options.quick else 2.0),
    )


def _store(options: argparse.Namespace, children: Children, data: Path, scratch: Path) -> Store:
    return Store(children, data, scratch, _value(), KEYS, options.operations)


def _value() -> bytes:
    # Random, so that neither store gains by compressing it.
    return os.urandom(VALUE_BYTES)


def _compare(options: argparse.Namespace, children: Children, data: Path, scratch: Path) -> int:
    plan = _plan(options)
    ours = _store(options, children, data, scratch)
    peer = etcd.Etcd(children, data, scratch, _value(), KEYS)
    contenders: list[Contender] = [ours, native.Native(ours), peer]
    machine.require_space(data, plan.disk_bytes(len(contenders)))
    cells = len(list(plan.cells())) + len(plan.warm_ups())
    _stderr.print(
        f"{ours.name} (HTTP, then native) and {peer.name}, 3 nodes each, {VALUE_BYTES} B values:"
        f" {plan.rounds} rounds x {', '.join(plan.operations)} x"
        f" {', '.join(map(str, plan.connections))} connections, {plan.timing.window_s:g} s each;"
        f" about {plan.estimate_s(len(contenders)) / 60:.1f} minutes",
        highlight=False,
    )
    conditions = machine.conditions(data)
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with Progress(
        BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=_stderr
    ) as bar:
        task = bar.add_task("", total=len(contenders) * (1 + cells) + 1)

        def progress(what: str) -> None:
            bar.update(task, advance=1, description=what)

        samples = run(children, contenders, plan, scratch, progress)
        bar.update(task, advance=1, description="done")
    for contender in contenders:
        for product, version in contender.versions.items():
            conditions[product] = version
    conditions["h2load"] = h2load.version()
    conditions["Commit"] = machine.revision(PROJECT)
    conditions["Run"] = (
        f"{plan.rounds} rounds, {plan.timing.window_s:g} s a cell after"
        f" {plan.timing.lead_s:g} s of lead, {KEYS:,} keys preloaded,"
        f" values of {VALUE_BYTES} B"
    )
    done = report.Report(ours.name, peer.name, at, conditions, samples, native.NAME)
    report.show(done, Console() if sys.stdout.isatty() else Console(width=100))
    stem = "bench-" + at.replace(" UTC", "").replace(" ", "-").replace(":", "")
    (OUT / f"{stem}.json").write_text(report.to_json(done))
    (OUT / f"{stem}.md").write_text(report.to_markdown(done))
    _stderr.print(f"written: bench/out/{stem}.json and .md", highlight=False)
    if options.write_docs and done.disturbed:
        raise BenchError(f"docs/benchmarks.md is left as it was. {done.disturbed}")
    if options.write_docs:
        report.write_docs(PAGE, report.to_markdown(done))
        _stderr.print("written: docs/benchmarks.md", highlight=False)
    return 0


def _mend(scenario: str, options: argparse.Namespace, children: Children, data: Path) -> int:
    conditions = machine.conditions(data)
    del conditions["Filesystem of the data"]
    conditions["Commit"] = machine.revision(PROJECT)
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(mending.Scene(options, children, data).run(scenario))
    text = mending.to_markdown(at, outcome, conditions)
    Console(width=200).print(text, markup=False, highlight=False)
    stem = f"{scenario}-" + at.replace(" UTC", "").replace(" ", "-").replace(":", "")
    (OUT / f"{stem}.md").write_text(text)
    _stderr.print(f"written: bench/out/{stem}.md", highlight=False)
    if options.write_docs:
        report.write_docs(PAGE, text, *mending.marks(scenario))
        _stderr.print("written: docs/benchmarks.md", highlight=False)
    return 0


def _profile(options: argparse.Namespace, children: Children, data: Path, scratch: Path) -> int:
    store = _store(options, children, data, scratch)
    text = profiling.profile(children, store, _plan(options), scratch, OUT, profiling.sampler())
    (OUT / "profile.md").write_text(text)
    Console().print(text, markup=False, highlight=False)
    _stderr.print("written: bench/out/profile.md; stacks in bench/out/profile-*.stacks")
    return 0


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.5 <= number <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.5 to 600")
    return number


def _connections(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and 1 <= int(part) <= 256 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers from 1 to 256 divided by commas, like 1,16,64"
        )
    return tuple(int(part) for part in parts)


def _operations(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if not set(parts) <= set(OPERATIONS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of some of {', '.join(OPERATIONS)}, divided by commas"
        )
    return parts


if __name__ == "__main__":
    sys.exit(main())
