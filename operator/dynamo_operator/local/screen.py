"""What people see: progress while a cluster comes up, events, tables, what to try next.

Results go to stdout, everything else to stderr. Forbidden: looking or acting;
it shows what it is given.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dynamo_operator.local.observing import Sight, address, stage
from dynamo_operator.steps import uncounted

_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "formatted": "yellow",
    "waiting": "yellow",
    "joining": "yellow",
    "leaving": "yellow",
    "left": "yellow",
    "paused": "magenta",
    "killed": "red",
    "stopped": "red",
    "down": "red",
    "unknown": "red",
}
PLAN_SECONDS = 10.0  # how often a log gets counts anew
_KINDS = {"info": "", "good": "green", "bad": "red", "refused": "yellow"}


class Screen:
    """Speaks to one terminal (or log file). Use it as a context: progress ends with it."""

    def __init__(self, folder: Path, default_folder: Path) -> None:
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._out = Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._stages: dict[str, str] = {}
        self._lines: list[str] = []
        self._plan_told = 0.0
        same = folder.absolute() == default_folder.absolute()
        near = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        self.data_option = "" if same else f" --data {shlex.quote(str(near))}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end_progress()

    def progress(self, stages: Mapping[str, str]) -> None:
        """Shows how far each node is: in place on a terminal, else a line for each change."""
        if self._err.is_terminal:
            if self._live is None:
                self._live = Live(console=self._err, refresh_per_second=8, transient=True)
                self._live.start()
            if dict(stages) != self._stages:
                self._live.update(_progress_table(stages))
        else:
            for name, now in stages.items():
                if self._stages.get(name) != now:
                    self._err.print(f"{name}: {now}", markup=False)
        self._stages = dict(stages)

    def end_progress(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def plan(self, lines: Sequence[str]) -> None:
        """Shows the steps that remain, the present one first; none ends it.

        In place on a terminal, else a line when it waits for something else, and now and then
        for its counts: what is done is told as an event.
        """
        if self._err.is_terminal:
            if not lines:
                self.end_progress()
            elif self._live is None:
                self._live = Live(console=self._err, refresh_per_second=8, transient=True)
                self._live.start()
            if self._live is not None and list(lines) != self._lines:
                self._live.update(_plan_table(lines))
        elif lines and lines[0].startswith("wait"):
            first, now = lines[0], monotonic()
            known = self._lines[0] if self._lines else ""
            steady = uncounted(first) == uncounted(known)
            if first != known and (not steady or now - self._plan_told > PLAN_SECONDS):
                self._plan_told = now
                self.event(first)
            else:
                return
        self._lines = list(lines)

    def say(self, text: str, kind: str = "info") -> None:
        """One line, or a few, about the command itself."""
        self._err.print(Text(text, style=_KINDS[kind]))

    def event(self, text: str, kind: str = "info") -> None:
        """One line about something that happened, with its time."""
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._err.print(Text.assemble((now, "dim"), " ", (text, _KINDS[kind])))

    def result(self, text: str) -> None:
        self._out.print(text, markup=False)

    def nodes(self, sight: Sight) -> None:
        """The table of nodes, on stdout."""
        ring = sight.ring
        zones = bool(ring and any(member.zone for member in ring.members))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("NODE", *(("ZONE",) if zones else ()), "STATE", "URL", "PID", "DATA"):
            table.add_column(column)
        table.add_column("HINTS", justify="right")
        for name in sight.observed.nodes:
            now = stage(sight, name)
            member = ring.member_named(name) if ring else None
            record, probe = sight.records[name], sight.probes.get(name)
            process = record.process if sight.observed.nodes[name].running else None
            table.add_row(
                name,
                *((member.zone if member else "",) if zones else ()),
                Text(now, style=_STYLES.get(now, "")),
                f"http://{address(sight.state, name).host}:{address(sight.state, name).http_port}",
                str(process.pid) if process else "-",
                f"{ring.ownership(member.number):.0%}" if ring and member else "-",
                str(probe.hints_pending) if probe and probe.status else "-",
            )
        self._out.print(table)

    def what_next(self, sight: Sight, attached: bool) -> None:
        """Commands to try, on stdout, ready to be copied."""
        names = list(sight.wanted)
        urls = [f"http://127.0.0.1:{address(sight.state, name).http_port}" for name in names]
        me, data = program(), self.data_option
        url = "" if sight.state.port == 8100 else f" --url {urls[0]}"
        rows = [
            ("watch it in a browser (any node's address will do)", ""),
            ("", f"{urls[0]}/ui"),
            ("write, then read from another node", ""),
            ("", f"curl -X PUT --data 'hello' {urls[0]}/kv/greeting"),
            ("", f"curl {urls[-1]}/kv/greeting"),
            ("the same with the command line", ""),
            ("", f"{me} put cart:7 '3 apples'{url}  &&  {me} get cart:7{url}"),
            ("hurt it: writes go on, and the node catches up when it returns", ""),
            ("", f"{me} local kill {names[-1]}{data}"),
            ("", f"{me} local status{data}"),
            ("", f"{me} local start {names[-1]}{data}"),
        ]
        if attached:
            rows.append(("stop all nodes: Ctrl-C (the data stays)", ""))
        else:
            rows.append(("stop all nodes (the data stays)", ""))
            rows.append(("", f"{me} local stop{data}"))
        self._out.print()
        for comment, command in rows:
            if comment:
                self._out.print(Text(f"# {comment}", style="dim"))
            else:
                self._out.print(Text(f"  {command}"))


def _plan_table(lines: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1))
    for index, line in enumerate(lines):
        mark = Text("·", style="dim") if index else Spinner("dots", style="yellow")
        table.add_row(mark, Text(line, style="dim" if index else ""))
    return table


def program() -> str:
    """How this command was called, so that what is printed can be copied."""
    called = Path(sys.argv[0])
    if called.name not in ("dynamo", "kubectl-dynamo"):
        return "dynamo"
    found = shutil.which(called.name)
    if found and Path(found).resolve() == called.resolve():
        return called.name
    try:
        return str(called.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(called)


def _progress_table(stages: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, now in stages.items():
        style = _STYLES.get(now, "yellow")
        mark = Text("✓", style=style) if now == "ready" else Spinner("dots", style=style)
        table.add_row(mark, name, Text(now, style=style))
    return table
