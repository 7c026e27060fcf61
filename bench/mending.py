"""What background work costs and how long it takes: `python -m bench idle|handoff|repair`.

Owns three scenarios on a cluster of real processes filled with real records:
nothing happens (idle); a node is down while records are written, and comes
back (handoff); a node's disk is lost and rebuilt (repair). The last two run
beside a steady load whose latencies are compared before, during and after.
Every wait is bounded. Tables go to stdout, into bench/out, and with
--write-docs into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from bench import records
from bench.errors import BenchError
from bench.nodes import SIBLINGS, Nodes
from bench.processes import Children, cpu_seconds, machine_cpu_seconds, resident_bytes
from bench.steady import Steady, Stretch, stretch
from dynamo_client.client import DynamoClient

SCENARIOS = ("idle", "handoff", "repair")
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "packages.jsonl.gz"
POLL_S = 0.25
SETTLED_MOST_S = 300.0
VALUE_BYTES = 1024
Table = tuple[list[str], list[list[str]]]


@dataclass
class Outcome:
    """What a scenario found: tables with their headings, and what was done, in a sentence."""

    done: str = ""
    tables: list[Table] = field(default_factory=list)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the three scenarios."""
    add = parser.add_argument
    add("--data", type=Path, default=DATA, help="JSON lines of key and value, .gz too")
    add("--records", type=int, default=20_000, help="records that are there from the start")
    add("--missed", type=int, default=20_000, help="handoff: records written while one is down")
    add("--nodes", type=int, default=3, help="node processes (default: 3)")
    add("--rate", type=float, default=200.0, help="operations a second of the steady load")
    add("--seconds", type=float, default=20.0, help="each stretch before and after; idle: all")


class Scene:
    """A filled cluster and its clients, in one running event loop."""

    def __init__(self, options: argparse.Namespace, children: Children, data: Path) -> None:
        self.options = options
        self.nodes = Nodes(children, data / "mending", SIBLINGS, options.nodes)
        self.kv: DynamoClient = None  # type: ignore[assignment]  # made by `run`
        self.source: Iterator[tuple[str, bytes]] = iter(())
        self.shares: list[tuple[float, dict[str, float]]] = []
        """When, and what share each node gave to background work then."""

    async def run(self, scenario: str) -> Outcome:
        options = self.options
        most = options.records + (options.missed if scenario == "handoff" else 0)
        self.source = records.read(options.data, most)
        await asyncio.to_thread(self.nodes.start)
        urls = [f"http://127.0.0.1:{port}" for port in self.nodes.http_ports]
        async with DynamoClient(urls) as self.kv:
            began = time.monotonic()
            count, size = await records.write(self.kv, islice(self.source, options.records))
            filled = f"{count:,} records, {size / 1e6:.1f} MB of values"
            took_s = time.monotonic() - began
            await self.until(self.equal, "the cluster to settle after it was filled")
            outcome: Outcome = await {
                "idle": self.idle,
                "handoff": self.handoff,
                "repair": self.repair,
            }[scenario]()
            outcome.done = (
                f"{options.nodes} nodes, N/R/W 3/2/2, filled with {filled}"
                f" in {took_s:.0f} s. {outcome.done}"
            )
            return outcome

    # The scenarios

    async def idle(self) -> Outcome:
        """Nothing at all: what does the cluster still do?"""
        seconds = self.options.seconds
        await asyncio.sleep(min(10.0, seconds))  # compactions and caches come to rest
        pids, ours = self.nodes.pids(), os.getpid()
        before = {name: self._work(name) for name in pids}
        cpu = {name: cpu_seconds(pid) for name, pid in pids.items()}
        whole, own = machine_cpu_seconds(), cpu_seconds(ours)
        began = time.monotonic()
        await asyncio.sleep(seconds)
        passed_s = time.monotonic() - began
        used = {name: cpu_seconds(pid) - cpu[name] for name, pid in pids.items()}
        rest = machine_cpu_seconds() - whole - (cpu_seconds(ours) - own) - sum(used.values())
        rows = []
        for name, pid in pids.items():
            rounds, repaired = self._work(name)
            rows.append(
                [
                    name,
                    f"{repaired - before[name][1]}",
                    f"{rounds - before[name][0]}",
                    f"{used[name]:.2f}",
                    f"{100 * used[name] / passed_s:.2f}%",
                    f"{resident_bytes(pid) / 2**20:.0f}",
                ]
            )
        heads = ["node", "keys repaired", "comparisons", "CPU s", "of a core", "memory MiB"]
        return Outcome(
            f"Then nothing for {passed_s:.0f} s; the rest of the machine took"
            f" {rest / passed_s:.2f} cores.",
            [(heads, rows)],
        )

    def _work(self, name: str) -> tuple[int, int]:
        """Comparisons and repaired keys of a node since its start."""
        facts = (self.nodes.admin(name, "/admin/status") or {}).get("antientropy", {})
        return int(facts.get("rounds_total", 0)), int(facts.get("repaired_keys_total", 0))

    async def handoff(self) -> Outcome:
        """One is down while records are written; then its hints are delivered."""
        victim = self._victim()
        async with self._load() as load:
            times = [time.monotonic()]
            await self._pass(self.options.seconds)
            times.append(time.monotonic())
            await asyncio.to_thread(self.nodes.kill, victim)
            missed, size = await records.write(self.kv, self.source)
            await self._pass(2.0)  # stragglers' hints are stored by then
            pending = sum(self._pending().values())
            times.append(time.monotonic())
            self.nodes.launch(victim)
            await self.until(lambda: self._state(victim) == "up", f"{victim} to be up")
            up_s = time.monotonic() - times[-1]
            await self.until(lambda: not any(self._pending().values()), "hints to be delivered")
            times.append(time.monotonic())
            await self._pass(self.options.seconds)
            times.append(time.monotonic())
        await self.until(self.equal, "replicas to be equal")
        self._nothing_lost(load)
        drained_s = times[3] - times[2] - up_s
        table = [
            ["records written while it was down", f"{missed:,} ({size / 1e6:.1f} MB)"],
            ["hints when it came back", f"{pending:,}"],
            ["seconds from its start until it was up", f"{up_s:.1f}"],
            ["seconds from then until every hint was delivered", f"{drained_s:.1f}"],
            ["hints a second", f"{pending / max(drained_s, 0.1):,.0f}"],
            ["share for background work during that", self._shares(times[2], times[3])],
        ]
        names = ("before", "one is down, records are written", "hints are delivered", "after")
        return Outcome(
            self._load_told(),
            [(["", victim], table), self._stretches(load, names, times)],
        )

    async def repair(self) -> Outcome:
        """A disk is lost: the node comes back empty and is rebuilt."""
        victim = self._victim()
        held = (self.nodes.admin(victim, "/admin/status") or {}).get("keys", 0)
        async with self._load() as load:
            times = [time.monotonic()]
            await self._pass(self.options.seconds)
            times.append(time.monotonic())
            await asyncio.to_thread(self.nodes.kill, victim)
            await asyncio.to_thread(self.nodes.wipe, victim)
            self.nodes.launch(victim)
            await self.until(
                lambda: self._state(victim) in ("up", "recovering"), f"{victim} to be back"
            )
            back_s = time.monotonic() - times[-1]
            await self.until(lambda: self._state(victim) == "up", f"{victim} to be rebuilt")
            times.append(time.monotonic())
            await self._pass(self.options.seconds)
            times.append(time.monotonic())
        await self.until(self.equal, "replicas to be equal")
        self._nothing_lost(load)
        took_s = times[2] - times[1] - back_s
        table = [
            ["keys it had held", f"{held:,}"],
            ["seconds from its start until it recovered", f"{back_s:.1f}"],
            ["seconds from then until it counted again", f"{took_s:.1f}"],
            ["keys a second", f"{held / max(took_s, 0.1):,.0f}"],
            ["share for background work during that", self._shares(times[1], times[2])],
        ]
        names = ("before", "it is rebuilt", "after")
        return Outcome(
            self._load_told(),
            [(["", victim], table), self._stretches(load, names, times)],
        )

    # The load beside it

    def _victim(self) -> str:
        return list(self.nodes.pids())[-1]

    def _load(self) -> Steady:
        return Steady(self.kv, self.options.rate, os.urandom(VALUE_BYTES))

    def _load_told(self) -> str:
        return (
            f"Beside it a steady load of {self.options.rate:g} operations/s, half gets and half"
            f" puts of {VALUE_BYTES} B, from one client that goes straight to the replicas."
        )

    def _stretches(self, load: Steady, names: Sequence[str], times: Sequence[float]) -> Table:
        found = [stretch(load.done, start, end) for start, end in pairwise(times)]
        first = found[0]
        heads = ["", "s", "operations", "failed", "get p50 ms", "get p99", "put p50", "put p99"]
        heads += ["p99 against before (get, put)"]
        return heads, [
            [name, *_figures(one), f"{_over(one.get_p99, first.get_p99)}, "
             f"{_over(one.put_p99, first.put_p99)}"]
            for name, one in zip(names, found, strict=True)
        ]  # fmt: skip

    def _nothing_lost(self, load: Steady) -> None:
        """Every acknowledged key of the load is read through the node that was hurt, too."""
        lost = [key for key in sorted(load.acknowledged) if self.nodes.read(key)[0] != 200]
        if lost:
            raise BenchError(f"{len(lost)} acknowledged keys are gone, {lost[0]} for instance")

    # Waiting and looking

    async def until(self, met: Callable[[], bool], what: str) -> None:
        """Poll, noting the nodes' shares; BenchError after `SETTLED_MOST_S`."""
        deadline = time.monotonic() + SETTLED_MOST_S
        while not await asyncio.to_thread(met):
            self.nodes.check_running()
            if time.monotonic() > deadline:
                raise BenchError(f"gave up after {SETTLED_MOST_S:g} s of waiting for {what}")
            await self._pass(POLL_S)

    async def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 1.0))
            found = await asyncio.to_thread(self._statuses)
            shares = {
                name: float(status["background_share"]["share"])
                for name, status in found.items()
                if status is not None
            }
            self.shares.append((time.monotonic(), shares))

    def _shares(self, start: float, end: float) -> str:
        inside = [share for at, found in self.shares if start <= at <= end
                  for share in found.values()]  # fmt: skip
        if not inside:
            return "not seen"
        mean = sum(inside) / len(inside)
        return f"{min(inside):.0%} to {max(inside):.0%}, {mean:.0%} in the mean"

    def _statuses(self) -> dict[str, Any]:
        return {name: self.nodes.admin(name, "/admin/status") for name in self.nodes.pids()}

    def _state(self, name: str) -> str:
        return str((self.nodes.admin(name, "/admin/status") or {}).get("state", ""))

    def _pending(self) -> dict[str, int]:
        """Hints that each node keeps; a node that doesn't answer is taken to keep one."""
        return {
            name: 1 if status is None else sum(status["hints_pending"].values())
            for name, status in self._statuses().items()
        }

    def equal(self) -> bool:
        """Whether no hint waits and all replicas of every partition are equal."""
        if any(self._pending().values()):
            return False
        roots: dict[str, set[str]] = {}
        for name in self.nodes.pids():
            for partition, root in (self.nodes.admin(name, "/admin/digest") or {"": ""}).items():
                roots.setdefault(partition, set()).add(root)
        return "" not in roots and all(len(found) == 1 for found in roots.values())


def _figures(one: Stretch) -> list[str]:
    latencies = (one.get_p50, one.get_p99, one.put_p50, one.put_p99)
    return [
        f"{one.seconds:.1f}",
        f"{one.operations:,}",
        f"{one.failed}",
        *("-" if math.isnan(ms) else f"{ms:.1f}" for ms in latencies),
    ]


def _over(ms: float, before_ms: float) -> str:
    return "-" if math.isnan(ms) or not before_ms > 0 else f"{ms / before_ms:.1f}x"


def to_markdown(at: str, outcome: Outcome, conditions: dict[str, str]) -> str:
    """What stands in the page between the two marks of the scenario."""
    parts = [f"Measured {at}. {outcome.done}"]
    for heads, rows in outcome.tables:
        lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    parts.append("Conditions: " + "; ".join(f"{k} {v}" for k, v in conditions.items()) + ".")
    return "\n\n".join(parts) + "\n"


def marks(scenario: str) -> tuple[str, str]:
    """The lines around that scenario's results in the page."""
    return (
        f"<!-- {scenario}: written by `python -m bench {scenario} --write-docs` -->",
        f"<!-- end of {scenario} -->",
    )
