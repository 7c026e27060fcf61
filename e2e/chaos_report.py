"""What a chaos run was and what came of it, for people: figures first, then a timeline.

Owns the watch over hints while a run goes on, and the words. Forbidden here:
hurting and judging.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from e2e.chaos import Nemesis
from tests.node.node_processes import Cluster, Connection, NodeProcess

from dynamo_core.history import ACKNOWLEDGED, REFUSED, UNKNOWN, Operation
from dynamo_core.history_report import PROMISES, Report

SAMPLE_S = 0.5
LOOK_TIMEOUT_S = 0.5
"""A paused node doesn't answer; it is looked at again later."""
BUCKETS = 20


class Watch:
    """A thread that asks every node now and then; `with Watch(cluster)`: until the block ends."""

    def __init__(self, cluster: Cluster) -> None:
        self.hints: list[tuple[float, int]] = []
        """When (monotonic seconds), and how many hints all nodes that answered kept."""
        self.reaped: dict[str, int] = {}
        """Tombstones that each node's present process has seen reaped, at the last look."""
        self._reaped_before: Counter[str] = Counter()
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    @property
    def most_hints(self) -> int:
        return max((found for _, found in self.hints), default=0)

    @property
    def reaped_total(self) -> int:
        """Removals of tombstones from replicas, over all nodes and their lives, at least."""
        return sum(self.reaped.values()) + sum(self._reaped_before.values())

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.look()

    def look(self) -> None:
        """Ask all nodes once."""
        kept = 0
        for node in self._cluster.nodes:
            status = _asked(node, "/admin/status")
            kept += sum((status or {}).get("hints_pending", {}).values())
            reaped = (_asked(node, "/admin/tombstones?limit=1") or {}).get("reaped")
            if isinstance(reaped, int):
                before = self.reaped.get(node.name, 0)
                if reaped < before:  # another process, which counts from nothing
                    self._reaped_before[node.name] += before
                self.reaped[node.name] = reaped
        self.hints.append((time.monotonic(), kept))


def _asked(node: NodeProcess, path: str) -> Any:
    if not node.alive:
        return None
    connection = Connection(node.admin_port, LOOK_TIMEOUT_S)
    try:
        with suppress(Exception):  # it is being hurt; what isn't seen now is seen later
            return json.loads(connection.ask("GET", path).body)
    finally:
        connection.close()
    return None


def summary(
    report: Report, operations: Sequence[Operation], nemesis: Nemesis, watch: Watch
) -> list[str]:
    """The figures of a run, one a line."""
    writes = [o for o in operations if o.is_write]
    gets = [o for o in operations if not o.is_write]
    outcomes = Counter(o.outcome for o in writes)
    acknowledged = sorted(o.returned - o.invoked for o in writes if o.acknowledged)
    unanswered = sum(not o.acknowledged for o in gets)
    gaps = _longest_gap([o.returned for o in writes if o.acknowledged])
    broken = Counter(v.promise for v in report.violations)
    lines = [
        "faults: " + ", ".join(f"{n} {act}" for act, n in nemesis.done.items()),
        f"writes: {outcomes[ACKNOWLEDGED]:,} acknowledged, {outcomes[REFUSED]:,} refused, "
        f"{outcomes[UNKNOWN]:,} of unknown outcome; reads: {len(gets):,}, {unanswered:,} "
        "unanswered",
        f"lost: {broken['a']}; resurrected: {broken['e']}; other broken promises: "
        f"{sum(broken.values()) - broken['a'] - broken['e'] + report.more}; "
        f"keys that couldn't be judged: {len(report.unchecked)}",
        f"longest time without an acknowledged write: {gaps:.2f} s",
        f"hints at once, at most: {watch.most_hints:,}; tombstones reaped, all replicas: "
        f"{watch.reaped_total:,}",
        "also: " + ", ".join(f"{n} {name}" for name, n in report.counts.items()),
    ]
    if acknowledged:
        slow = acknowledged[len(acknowledged) * 99 // 100]
        lines.append(f"an acknowledged write took {slow * 1000:.0f} ms at p99, "
                     f"{acknowledged[-1] * 1000:.0f} ms at most")  # fmt: skip
    if nemesis.rebuilt_s:
        took = ", ".join(f"{seconds:.1f}" for seconds in nemesis.rebuilt_s)
        lines.append(f"wiped disks counted again after {took} s")
    lines += [f"({promise}) {PROMISES[promise]}: {n}" for promise, n in sorted(broken.items())]
    return lines


def timeline(
    operations: Sequence[Operation], offset_s: float, nemesis: Nemesis, watch: Watch, end_s: float
) -> list[str]:
    """The run in equal stretches: what was done, what clients got, hints.

    `offset_s` is the history's zero on the monotonic clock, `end_s` when the load ended.
    """
    began = nemesis.began
    step = max(1.0, (end_s - began) / BUCKETS)
    rows = [f"{'from s':>8} {'acked':>7} {'not':>5} {'hints':>7}  faults"]
    start = began
    while start < end_s:
        stop = start + step
        inside = [o for o in operations if o.is_write and start <= o.returned + offset_s < stop]
        acked = sum(o.acknowledged for o in inside)
        hints = max((found for at, found in watch.hints if start <= at < stop), default=0)
        acts = Counter(
            t.act for t in nemesis.told if start <= began + t.at_s < stop and t.act != "heal"
        )
        done = ", ".join(f"{n} {act}" for act, n in acts.items())
        rows.append(f"{start - began:8.1f} {acked:7,} {len(inside) - acked:5,} {hints:7,}  {done}")
        start = stop
    return rows


def _longest_gap(times: Sequence[float]) -> float:
    ordered = sorted(times)
    return max((b - a for a, b in pairwise(ordered)), default=0.0)
