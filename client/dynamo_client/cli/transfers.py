"""`dynamo transfers`: what moves between nodes, how far it is, and what holds it up.

Owns the table and its summary; the figures are each receiver's own, and an estimate
until all of a partition is there. Forbidden here: changing anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from dynamo_client.cli.overview import cluster_view, ring_line
from dynamo_client.cli.terminal import (
    json_option,
    print_json,
    print_table,
    run,
    timeout_option,
    url_option,
)

ROWS_MAX: Final = 40
"""Rows for a person who didn't ask for all of them."""
REASONS_MAX: Final = 5
_WAITING: Final = "waiting"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE_S, _HOUR_S = 60, 3600

Transfer = Mapping[str, Any]


@click.command("transfers", short_help="Show what moves between nodes.")
@click.option("--all", "show_all", is_flag=True, help=f"Show more than {ROWS_MAX} rows.")
@json_option
@timeout_option
@url_option
def transfers(url: str, timeout_ms: int, as_json: bool, show_all: bool) -> None:
    """Show the partitions that move between nodes, those that run first.

    A node that joins takes over one partition after the other; how much is left of one
    is an estimate. What stands still says why.
    """
    view = run(cluster_view(url, timeout_ms))
    moving = listed(view)
    if as_json:
        print_json({"cluster": view.get("name"), "ring": view.get("ring"), "transfers": moving})
        return
    if moving:
        shown = moving if show_all else moving[:ROWS_MAX]
        print_table(
            ("partition", "from", "to", "state", "done", "of", "rate", "left", "stalled"),
            [
                (
                    each.get("partition"),
                    each.get("from"),
                    each.get("to"),
                    each.get("state"),
                    size(each.get("bytes_done")),
                    size(each.get("bytes_total")),
                    _rate(each.get("bytes_per_second")),
                    duration(each.get("eta_seconds")),
                    each.get("stalled"),
                )
                for each in shown
            ],
        )
        if len(shown) < len(moving):
            click.echo(f"and {len(moving) - len(shown)} more (--all shows them)")
        click.echo()
    click.echo(f"{view.get('name', '?')}: {summary(moving)}; {ring_line(view)}")
    for reason in reasons(moving):
        click.echo(reason)


def listed(view: Mapping[str, Any]) -> list[Transfer]:
    """The transfers of a view: those that run first, in the order of partitions."""
    found = view.get("transfers")
    moving = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return sorted(moving, key=lambda t: (t.get("state") == _WAITING, _number(t.get("partition"))))


def summary(moving: Sequence[Transfer]) -> str:
    """All transfers in one line."""
    if not moving:
        return "nothing moves"
    states = Counter(str(each.get("state", "?")) for each in moving)
    waiting = states.pop(_WAITING, 0)
    running = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    parts = [part for part in (running, f"{waiting} {_WAITING}" if waiting else "") if part]
    partitions = f"{len(moving)} transfer{'s' if len(moving) > 1 else ''}"
    done = sum(_number(each.get("bytes_done")) for each in moving)
    total = sum(_number(each.get("bytes_total")) for each in moving)
    rate = sum(_number(each.get("bytes_per_second")) for each in moving)
    text = f"{partitions} ({', '.join(parts)})"
    if total:
        text += f", {size(done)} of about {size(total)}"
    if rate > 0:
        text += f" at {_rate(rate)}, about {duration(max(0.0, total - done) / rate)} left"
    return text


def reasons(moving: Sequence[Transfer]) -> list[str]:
    """What the transfers that stand still wait for, the most frequent first."""
    counts = Counter(str(each["stalled"]) for each in moving if each.get("stalled"))
    return [f"{count} can't go on: {why}" for why, count in counts.most_common(REASONS_MAX)]


def size(amount: object) -> str:
    """Bytes for people."""
    value = _number(amount)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def duration(seconds: object) -> str:
    """Seconds for people; "" for none."""
    if seconds is None:
        return ""
    value = round(_number(seconds))
    if value < _MINUTE_S:
        return f"{value} s"
    if value < _HOUR_S:
        return f"{value // _MINUTE_S} min {value % _MINUTE_S} s"
    return f"{value // _HOUR_S} h {value % _HOUR_S // _MINUTE_S} min"


def _rate(amount: object) -> str:
    return f"{size(amount)}/s" if _number(amount) else ""


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
