"""What a run says: tables for the terminal, JSON, markdown, the page in docs/.

Ratios come first everywhere. Pure apart from the files it is told to write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.figures import Row, Sample, Side, Spread, rows

# More than this many cores busy with anything else: the figures don't count. Both
# idle stores and the kernel's own work stay well below it.
BUSY_CORES = 0.3

BEGIN = "<!-- results: written by `make bench ARGS=--write-docs`, not by hand -->"
END = "<!-- end of results -->"


@dataclass(frozen=True, slots=True)
class Report:
    ours: str
    peer: str
    at: str
    conditions: Mapping[str, str]
    samples: Sequence[Sample]
    native: str = ""
    """The contender that speaks our native protocol, if there was one."""

    @property
    def native_rows(self) -> list[Row]:
        """The native protocol against the peer."""
        return rows(self.samples, self.native, self.peer) if self.native else []

    @property
    def rows(self) -> list[Row]:
        return rows(self.samples, self.ours, self.peer)

    @property
    def _all_rows(self) -> list[Row]:
        """Every contender once; the peer's sides are in `rows`."""
        alone = [replace(r, sides={self.native: r.sides[self.native]}) for r in self.native_rows]
        return self.rows + alone

    @property
    def disturbed(self) -> str:
        """What to say when the machine did other work meanwhile; empty when it did not."""
        rests = [side.cpu_rest for row in self._all_rows for side in row.sides.values()]
        busy = [rest for rest in rests if rest > BUSY_CORES]
        if not busy:
            return ""
        return (
            f"Disturbed: in {len(busy)} of {len(rests)} cells other work kept more than"
            f" {BUSY_CORES} cores busy (up to {max(busy):.2f}), so these figures don't count."
        )


def show(report: Report, console: Console) -> None:
    for title, header, body in _tables(report):
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for line in body:
            table.add_row(*line)
        console.print(table)
    if report.disturbed:
        console.print(report.disturbed, style="bold red", highlight=False)
    for name, text in report.conditions.items():
        console.print(f"[dim]{name}: {text}[/dim]", highlight=False)


def to_json(report: Report) -> str:
    return json.dumps(
        {
            "format": 1,
            "at": report.at,
            "ours": report.ours,
            "peer": report.peer,
            "conditions": dict(report.conditions),
            "rows": [asdict(row) for row in report.rows],
            "native": report.native,
            "native_rows": [asdict(row) for row in report.native_rows],
            "samples": [asdict(sample) for sample in report.samples],
        },
        indent=1,
    )


def to_markdown(report: Report) -> str:
    parts = [f"Measured {report.at}."]
    if report.disturbed:
        parts.append(f"**{report.disturbed}**")
    for title, header, body in _tables(report):
        rule = ["---", *["---:"] * (len(header) - 1)]
        parts.append(f"### {title}\n\n" + "\n".join(map(_line, [header, rule, *body])))
    shown = [("", ""), ("---", "---"), *report.conditions.items()]
    parts.append("### Conditions\n\n" + "\n".join(map(_line, shown)))
    return "\n\n".join(parts) + "\n"


def write_docs(page: Path, markdown: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the two marks of the page; all else stays as it is."""
    head, found, rest = page.read_text().partition(begin)
    _old, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{page} lacks the lines {begin!r} and {end!r} around its results")
    page.write_text(f"{head}{begin}\n\n{markdown}\n{end}{tail}")


def _tables(report: Report) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    folded = report.rows
    ours, peer = report.ours, report.peer
    yield (
        f"Requests per second, {ours} against {peer}",
        ["connections", f"{ours} / {peer}", "of rounds", ours, peer],
        [
            [
                _cell_name(row),
                f"{row.ratio.median:.2f}x",
                f"{row.ratio.low:.2f}-{row.ratio.high:.2f}",
                _rate(row.sides[ours].requests_per_s),
                _rate(row.sides[peer].requests_per_s),
            ]
            for row in folded
        ],
    )
    yield (
        "Latency in milliseconds",
        ["connections"]
        + [f"{name} {what}" for what in ("mean", "p50", "p99") for name in (ours, peer)],
        [
            [
                _cell_name(row),
                *(
                    f"{getattr(row.sides[name], what):.2f}"
                    for what in ("mean_ms", "p50_ms", "p99_ms")
                    for name in (ours, peer)
                ),
            ]
            for row in folded
        ],
    )
    if report.native_rows:
        yield _native_table(report)
    yield (
        "CPU, in cores (1.00 = one core)",
        ["connections", "store", "loaded server", "its peers", "generator", "rest"],
        [
            [_cell_name(row), name, *_cpu(side)]
            for row in report._all_rows
            for name, side in row.sides.items()
        ],
    )


def _native_table(report: Report) -> tuple[str, list[str], list[list[str]]]:
    """A client's single hop: beside the peer, beside HTTP, and what the generator took of it."""
    native, ours, peer = report.native, report.ours, report.peer
    over_http = {
        (row.operation, row.connections): f"{row.ratio.median:.2f}x"
        for row in rows(report.samples, native, ours)
    }
    lines = []
    for row in report.native_rows:
        side = row.sides[native]
        cpu = side.cpu_generator + sum(side.cpu_servers.values())
        lines.append(
            [
                _cell_name(row),
                f"{row.ratio.median:.2f}x",
                f"{row.ratio.low:.2f}-{row.ratio.high:.2f}",
                over_http.get((row.operation, row.connections), "-"),
                _rate(side.requests_per_s),
                f"{side.mean_ms:.2f}",
                f"{side.p50_ms:.2f}",
                f"{side.p99_ms:.2f}",
                f"{side.cpu_generator:.2f} ({side.cpu_generator / cpu:.0%})" if cpu else "-",
            ]
        )
    return (
        "The native protocol, single hop, by our own generator (one Python process)",
        [
            "in flight",
            f"native / {peer}",
            "of rounds",
            "native / HTTP",
            "requests/s",
            "mean ms",
            "p50 ms",
            "p99 ms",
            "generator's cores (share of all CPU)",
        ],
        lines,
    )


def _cell_name(row: Row) -> str:
    return f"{row.operation}, {row.connections}"


def _rate(rate: Spread) -> str:
    return f"{rate.median:,.0f}"


def _cpu(side: Side) -> list[str]:
    loaded, *others = side.cpu_servers.values()
    processes = f" in {side.generators}" if side.generators > 1 else ""
    return [
        f"{loaded:.2f}",
        " + ".join(f"{share:.2f}" for share in others),
        f"{side.cpu_generator:.2f}{processes}",
        f"{side.cpu_rest:.2f}",
    ]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
