"""What the supervisor says while it works: each thing once, when it happens.

Owns the wording of events and the memory of what has been said. Forbidden:
acting, and looking anywhere but at what it is given.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from dynamo_core.ring import Ring
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight, stage
from dynamo_operator.local.processes import tail
from dynamo_operator.local.screen import Screen
from dynamo_operator.plan import Plan


@dataclass(slots=True)
class Teller:
    """Speaks through a screen. Until `up` is set, progress is shown in place of events."""

    folder: Folder
    screen: Screen
    attached: bool
    up: bool = False
    _told: set[str] = field(default_factory=set)
    _stages: dict[str, str] = field(default_factory=dict)

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
            if self.up and now != self._stages.get(name) and now in ("ready", "paused", "unknown"):
                probe = sight.probes.get(name)
                more = f": its port answers as {probe.stranger}" if probe and probe.stranger else ""
                self.event(f"{name} is {now}{more}", "good" if now == "ready" else "refused")
            self._stages[name] = now

    def steps(self, made: Plan) -> None:
        """What a dry run would do."""
        if made.cluster.spec.dry_run:
            for step in made.steps:
                self.once(f"would {step}", "info")

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

    def decided(self, ring: Ring, problems: tuple[str, ...]) -> None:
        self.event(
            f"decided the first ring: {len(ring.members)} node(s), "
            f"{ring.partitions} partitions, N={ring.replication}"
        )
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
