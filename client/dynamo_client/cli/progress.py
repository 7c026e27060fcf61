"""Progress of a long command on stderr: a bar for a person, plain lines for a log.

Owns how progress looks. Forbidden here: what is counted, and stdout.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_EVERY_SECONDS = 5.0
_WINDOW_SECONDS = 5.0


class Progress:
    """`with Progress("import") as progress:` and then `show` as often as you like.

    `unit` names what `done` counts. With a terminal on stderr it is a bar,
    otherwise a line every five seconds.
    """

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._line_due = time.monotonic() + _LINE_EVERY_SECONDS
        self._history = [(time.monotonic(), 0)]

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[said]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                auto_refresh=False,
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=None, said="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, share: float | None, remark: str = "") -> None:
        """`done` units so far; `share` 0..1 of the whole, None if that isn't known."""
        now = time.monotonic()
        self._history.append((now, done))
        while len(self._history) > 2 and self._history[1][0] < now - _WINDOW_SECONDS:
            self._history.pop(0)
        since, before = self._history[0]
        rate = (done - before) / max(now - since, 1e-6)
        said = f"{done:,} {self._unit}, {rate:,.0f}/s" + (f", {remark}" if remark else "")
        if self._bar is not None and self._task is not None:
            total = None if share is None else 1.0
            self._bar.update(self._task, total=total, completed=share or 0.0, said=said)
            self._bar.refresh()
        elif now >= self._line_due:
            self._line_due = now + _LINE_EVERY_SECONDS
            shown = "" if share is None else f"{share:.0%}, "
            click.echo(f"{self._title}: {shown}{said}", err=True)
