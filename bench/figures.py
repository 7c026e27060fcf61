"""Arithmetic over samples: percentiles, medians, ratios.

Pure: no files, processes or clocks. Latencies are milliseconds, CPU is in
cores (1.0 = one core busy for the whole window), rates are per second.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """What one cell of one round measured for one contender."""

    contender: str
    operation: str
    connections: int
    round: int
    requests: int
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    generators: int
    cpu_generator: float
    cpu_servers: Mapping[str, float]
    cpu_rest: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a figure over the rounds, with its lowest and highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One operation at one number of connections: the ratio first, then both sides."""

    operation: str
    connections: int
    ratio: Spread
    sides: Mapping[str, Side]


@dataclass(frozen=True, slots=True)
class Side:
    """One contender's figures in a row, each over all rounds."""

    requests_per_s: Spread
    mean_ms: float
    p50_ms: float
    p99_ms: float
    generators: int
    cpu_generator: float
    cpu_servers: Mapping[str, float]
    cpu_rest: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least ``percent`` % do not exceed."""
    if not ordered:
        raise ValueError("a percentile of no values is not defined")
    if not 0 < percent <= 100:
        raise ValueError(f"percent is {percent}; it must be above 0 and at most 100")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def spread(values: Iterable[float]) -> Spread:
    listed = list(values)
    return Spread(statistics.median(listed), min(listed), max(listed))


def rows(samples: Sequence[Sample], ours: str, peer: str) -> list[Row]:
    """Fold samples into rows, in the order in which cells first appear.

    The ratio is taken within each round, between neighbours in time, and only
    then summarised: a slow spell of the machine meets both sides of a round.
    """
    cells = dict.fromkeys((sample.operation, sample.connections) for sample in samples)
    folded = []
    for operation, connections in cells:
        of_cell = [s for s in samples if (s.operation, s.connections) == (operation, connections)]
        by_side = {name: [s for s in of_cell if s.contender == name] for name in (ours, peer)}
        rates = {
            name: {s.round: s.requests_per_s for s in listed} for name, listed in by_side.items()
        }
        both = sorted(rates[ours].keys() & rates[peer].keys())
        if not both:
            continue
        folded.append(
            Row(
                operation=operation,
                connections=connections,
                ratio=spread(rates[ours][n] / rates[peer][n] for n in both),
                sides={name: _side(listed) for name, listed in by_side.items()},
            )
        )
    return folded


def _side(listed: Sequence[Sample]) -> Side:
    names = dict.fromkeys(name for sample in listed for name in sample.cpu_servers)
    return Side(
        requests_per_s=spread(s.requests_per_s for s in listed),
        mean_ms=statistics.median(s.mean_ms for s in listed),
        p50_ms=statistics.median(s.p50_ms for s in listed),
        p99_ms=statistics.median(s.p99_ms for s in listed),
        generators=max(s.generators for s in listed),
        cpu_generator=statistics.median(s.cpu_generator for s in listed),
        cpu_servers={
            name: statistics.median(s.cpu_servers.get(name, 0.0) for s in listed) for name in names
        },
        cpu_rest=statistics.median(s.cpu_rest for s in listed),
    )
