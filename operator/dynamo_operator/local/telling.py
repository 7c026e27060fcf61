"""What the supervisor says while it works: each thing once, when it happens.

Owns the wording of events and the memory of what has been said. Forbidden:
acting, and looking anywhere but at what it is given.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from time import monotonic

from dynamo_core.ring import Ring
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight, stage
from dynamo_operator.local.processes import tail
from dynamo_operator.local.screen import Screen
from dynamo_operator.plan import Plan
from dynamo_operator.steps import told, uncounted

_TOLD = ("ready", "leaving", "paused", "unknown")
PLAN_SECONDS = 1.0  # how often mere counts are written down anew


@dataclass(slots=True)
class Teller:
    """Speaks through a screen. Until `up` is set, progress is shown in place of events."""

    folder: Folder
    screen: Screen
    attached: bool
    up: bool = False
    _told: set[str] = field(default_factory=set)
    _stages: dict[str, str] = field(default_factory=dict)
    _plan: list[str] = field(default_factory=list)
    _plan_next: float = 0.0
    _scaling: bool = False

    def event(self, text: str, kind: str = "info") -> None:
        self.screen.event(text, kind)

    def once(self, text: str, kind: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.event(text, kind)

    def forget(self) -> None:
        """After an edit, what was said before may be said again."""
        self._told.clear()

    def mistakes(self, text: str) -> None:
        self.event("the manifest has mistakes; nothing of it is carried out:", "refused")
        for line in text.splitlines():
            self.event(f"  {line}", "refused")

    def refusals(self, made: Plan) -> None:
        texts = [str(refusal) for refusal in made.refusals]
        if texts == self.folder.state().refusals:
            return
        with self.folder.edit() as state:
            state.refusals = texts
        for text in texts:
            self.event(f"edit refused: {text}", "refused")
        self.event(
            "nothing of that edit is carried out" if texts else "the refused edit is taken back"
        )

    def stages(self, sight: Sight) -> None:
        for name in sight.observed.nodes:
            now = stage(sight, name)
            if self.up and now != self._stages.get(name) and now in _TOLD:
                probe = sight.probes.get(name)
                more = f": its port answers as {probe.stranger}" if probe and probe.stranger else ""
                self.event(f"{name} is {now}{more}", "good" if now == "ready" else "refused")
            self._stages[name] = now

    def steps(self, made: Plan) -> None:
        """What a dry run would do."""
        if made.cluster.spec.dry_run:
            for line in told(made.to_do):
                self.once(f"would {line}", "info")

    def plan(self, made: Plan, settled: bool) -> None:
        """Shows the plan in progress, and keeps it in the folder for `dynamo local status`."""
        lines = told(made.to_do) if made.act else []
        new = list(map(uncounted, lines)) != list(map(uncounted, self._plan))
        now = monotonic()
        if new or (lines != self._plan and now > self._plan_next):
            self._plan, self._plan_next = lines, now + PLAN_SECONDS
            with self.folder.edit() as state:
                state.plan = lines
        if not self.up:
            return
        self.screen.plan(lines if made.scaling else [])
        if self._scaling and not made.scaling and settled:
            self.event("the ring is carried out: all data is where it belongs", "good")
        self._scaling = made.act and (made.scaling or (self._scaling and not settled))

    def removed(self, name: str, keep_data: bool) -> None:
        where = (
            f"its data stays in {self.folder.node(name)}" if keep_data else "its data is deleted"
        )
        self.event(f"{name} is removed; {where}", "good")

    def started(self, name: str, pid: int) -> None:
        if self.up:
            self.event(f"{name} starts (pid {pid})")

    def held(self, name: str, act: str) -> None:
        self.event(
            f"{name} is down by `dynamo local {act}`; `dynamo local start {name}` brings it back"
        )

    def died(self, name: str, code: int | None, again_seconds: float) -> None:
        why = ""
        if code is not None:
            why = f" ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        self.event(f"{name} died{why}; starts again in {again_seconds:g} s", "bad")
        if code is not None and code > 0:
            for line in tail(self.folder.node_log(name), 1):
                self.once(f"{name} said: {line}", "bad")

    def decided(self, what: str, ring: Ring, problems: tuple[str, ...]) -> None:
        shape = f"{len(ring.members)} node(s), {ring.partitions} partitions, N={ring.replication}"
        if ring.epoch == 1:
            self.event(f"decided the first ring: {shape}")
        else:
            self.event(f"decided {what} (epoch {ring.epoch}, {shape})")
        for problem in problems:
            self.event(problem, "refused")

    def welcome(self, sight: Sight) -> None:
        """The cluster is up: what there is, and what to try."""
        self.up = True
        self.screen.end_progress()
        self._stages = {name: stage(sight, name) for name in sight.observed.nodes}
        if self.attached:
            self.screen.nodes(sight)
            self.screen.what_next(sight, attached=True)
        else:
            self.event("the cluster is up", "good")

    def reason(self, name: str) -> str:
        """Why a node does not get ready, as far as its log tells."""
        log = self.folder.node_log(name)
        said = "\n".join(f"    {line}" for line in tail(log)) or "    nothing"
        return f"{name} does not get ready; the end of {log} says:\n{said}"
