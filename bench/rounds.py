"""The plan of a run and its alternating rounds.

Order: for each round, connections and operation, every contender in turn, so
that neighbours in time are compared. Any contender that keeps to
`bench.contender.Contender` can stand in the list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.contender import GET, PUT, Cell, Contender
from bench.errors import BenchError
from bench.figures import Sample
from bench.measure import Timing, measure
from bench.processes import Children, cpu_seconds

_START_S = 12.0  # both contenders together, preloading included: for the estimate only
_GAP_S = 0.6  # between cells: lists written, logs read; for the estimate only
_SETTLE_S_MAX = 3.0
_SETTLED_CORES = 0.3
_WARM_UP_CONNECTIONS = 16
# To refuse a disk that is too small: three replicas, each in a log and a table.
_BYTES_PER_PUT = 3 * 2 * 1400
_PUTS_PER_S = 6_000


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    connections: tuple[int, ...]
    operations: tuple[str, ...]
    timing: Timing
    warm_up: Timing

    def cell(self, operation: str, connections: int, round_: int) -> Cell:
        """The same number of generators for every contender.

        New keys need one a connection (see `bench.h2load`), the others need one in all.
        """
        streams = connections if operation == PUT else 1
        timing = self.timing if round_ else self.warm_up
        return Cell(operation, connections, round_, streams, timing.load_s(streams))

    def warm_ups(self) -> list[Cell]:
        return [self.cell(operation, _WARM_UP_CONNECTIONS, 0) for operation in self.operations]

    def cells(self) -> Iterator[Cell]:
        for round_ in range(1, self.rounds + 1):
            for connections in self.connections:
                for operation in self.operations:
                    yield self.cell(operation, connections, round_)

    def estimate_s(self, contenders: int) -> float:
        cells = [*self.warm_ups(), *self.cells()]
        return _START_S + contenders * sum(cell.load_s + _GAP_S for cell in cells)

    def disk_bytes(self, contenders: int) -> int:
        """What the puts of all contenders may leave on the disk, guessed generously."""
        put_s = sum(c.load_s for c in [*self.warm_ups(), *self.cells()] if c.operation != GET)
        return 2**30 + int(contenders * put_s * _PUTS_PER_S * _BYTES_PER_PUT)


def run(
    children: Children,
    contenders: Sequence[Contender],
    plan: Plan,
    scratch: Path,
    progress: Callable[[str], None],
) -> list[Sample]:
    """Start everyone, warm up, and measure every cell. BenchError names the cell that failed."""
    for contender in contenders:
        progress(f"starting {contender.name}")
        contender.start()
    samples = []
    for cell in [*plan.warm_ups(), *plan.cells()]:
        timing = plan.timing if cell.round else plan.warm_up
        for contender in contenders:
            what = f"{contender.name}: {cell.operation}, {cell.connections} connections, " + (
                f"round {cell.round}" if cell.round else "warm-up"
            )
            progress(what)
            settle([pid for each in contenders for pid in each.pids()])
            try:
                load = contender.load(cell)
                sample = measure(children, contender.name, cell, load, timing, scratch)
            except BenchError as error:
                raise BenchError(f"{what}: {error}") from error
            if cell.round:
                samples.append(sample)
    return samples


def settle(pids: Sequence[int]) -> None:
    """Wait (bounded) until the work left over from the last cell is done."""
    deadline = time.monotonic() + _SETTLE_S_MAX
    busy = 1.0
    while busy > _SETTLED_CORES and time.monotonic() < deadline:
        before, start = sum(map(cpu_seconds, pids)), time.monotonic()
        time.sleep(0.2)
        busy = (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - start)
