"""One of our nodes under py-spy while it takes puts, then gets.

Owns the sampler's command line and the summary of its stacks. py-spy is an
optional tool of developers: it is not among the project's dependencies.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.contender import Load
from bench.errors import BenchError, CannotStart
from bench.figures import Sample
from bench.measure import Timing, measure
from bench.processes import Children
from bench.rounds import Plan, settle
from bench.store import Store

SAMPLES_PER_S = 250
CONNECTIONS = 16
_TOP = 30
_FRAME = re.compile(r"(?P<name>.+) \((?P<file>[^()]*?)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Share:
    """A function's percentage of all samples: by itself, and with all that it called."""

    function: str
    own: float
    total: float


def sampler() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise CannotStart(
            "--profile needs py-spy, which is not installed; .venv/bin/pip install py-spy"
        )
    return found


def profile(
    children: Children, store: Store, plan: Plan, scratch: Path, out: Path, program: str
) -> str:
    """Profile the loaded node for each operation; returns markdown, leaves stacks in ``out``."""
    store.start()
    parts = []
    for operation in plan.operations:
        cell = plan.cell(operation, CONNECTIONS, 1)
        settle(store.pids())
        load = store.load(cell)
        stacks = out / f"profile-{operation}.stacks"
        stacks.unlink(missing_ok=True)
        log = out / f"profile-{operation}.log"
        log.unlink(missing_ok=True)
        spy = children.serve(_record(program, load, plan.timing, stacks), log)
        sample = measure(children, store.name, cell, load, plan.timing, scratch)
        if spy.wait(timeout=60) != 0 or not stacks.exists():
            raise BenchError(f"py-spy failed: {log.read_text().strip()[-400:]}")
        log.unlink()
        parts.append(_markdown(sample, summarise(stacks.read_text().splitlines())))
    return "\n".join(parts)


def _record(program: str, load: Load, timing: Timing, stacks: Path) -> list[str]:
    pid = next(iter(load.servers.values()))
    seconds = max(1, round(timing.lead_s + timing.window_s))
    return [
        program,
        "record",
        *("--pid", str(pid)),
        *("--duration", str(seconds)),
        *("--rate", str(SAMPLES_PER_S)),
        # Who holds the interpreter: a node is full when its event loop is. Pausing the node
        # for each sample would slow it down several times on a busy machine.
        *("--gil", "--nonblocking"),
        *("--format", "raw"),
        *("--output", str(stacks)),
    ]


def summarise(stacks: Iterable[str]) -> list[Share]:
    """Fold collapsed stacks (``frame;frame;... count``, outermost first) into shares.

    Sorted by own share, largest first. A function that recurses counts once a stack.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in stacks:
        if not line.strip():
            continue
        path, _, count = line.rpartition(" ")
        functions = [_function(frame) for frame in path.split(";")]
        own[functions[-1]] += int(count)
        for function in set(functions):
            total[function] += int(count)
    samples = sum(own.values())
    shares = [
        Share(function, 100 * own[function] / samples, 100 * total[function] / samples)
        for function in total
    ]
    return sorted(shares, key=lambda share: (-share.own, -share.total, share.function))


def _function(frame: str) -> str:
    """``name (file:line)`` without its line; the file's last two parts."""
    match = _FRAME.match(frame)
    if match is None:
        return frame
    return f"{match['name']} ({'/'.join(match['file'].split('/')[-2:])})"


def _markdown(sample: Sample, shares: list[Share]) -> str:
    lines = [
        f"## {sample.operation}: {sample.requests_per_s:,.0f} requests/s under the profiler",
        "",
        f"{CONNECTIONS} connections; percent of the samples in which the loaded node's"
        " interpreter was at work (waiting, and what libuv does outside of it, left out).",
        "",
        "| own % | with callees % | function |",
        "| ---: | ---: | --- |",
        *(f"| {s.own:.1f} | {s.total:.1f} | `{s.function}` |" for s in shares[:_TOP]),
        "",
        "Largest with callees:",
        "",
        "| with callees % | own % | function |",
        "| ---: | ---: | --- |",
        *(
            f"| {s.total:.1f} | {s.own:.1f} | `{s.function}` |"
            for s in sorted(shares, key=lambda share: -share.total)[:_TOP]
        ),
        "",
    ]
    return "\n".join(lines)
