"""What every contender offers to the rounds, and the shape of a load.

This is the seam for further contenders and operations: a contender starts and
stops its own servers, turns (operation, connections) into a `Load`, and proves
afterwards that the load really did what its answers said. Nothing here knows
a store or a generator's command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.h2load import Totals

# A put of a key that nobody has written before; a put over one that exists; a get
# of one that exists.
PUT = "put"
OVERWRITE = "overwrite"
GET = "get"
OPERATIONS = (PUT, OVERWRITE, GET)


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation at one number of connections in one round (0 = warm-up).

    ``streams`` is the number of generator processes that share the connections;
    it is the same for every contender. ``load_s`` is how long they run at most.
    """

    operation: str
    connections: int
    round: int
    streams: int
    load_s: float


class Generator(Protocol):
    """One process that loads: how it is started, and what its last words mean.

    Its log has a line for each request, as h2load writes it; see `h2load.parse_log`.
    """

    @property
    def program(self) -> str:
        """What to call it in errors."""

    @property
    def start_s(self) -> float:
        """How long it takes at most until its first request."""

    def command(
        self, log: Path, *, duration_ms: int | None = None, requests: int | None = None
    ) -> list[str]:
        """Its arguments, bounded by a time or by a number of requests."""

    def totals(self, text: str) -> Totals:
        """What it printed, read; raises BenchError."""


@dataclass(frozen=True, slots=True)
class Load:
    """Generators to start, the one status that counts, the servers at work, and the proof.

    ``servers`` are process ids by name; the one that is loaded comes first.
    ``verify`` gets each stream's totals once all have ended, and raises
    BenchError when the contender's state doesn't agree with them.
    """

    streams: tuple[Generator, ...]
    wanted_status: int
    servers: Mapping[str, int]
    verify: Callable[[Sequence[Totals]], None]


class Contender(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def versions(self) -> Mapping[str, str]:
        """What is compared: product to version."""

    def start(self) -> None:
        """Start the servers and load the keys that gets will ask for; raises BenchError."""

    def pids(self) -> Sequence[int]:
        """All servers, those that stand idle included."""

    def load(self, cell: Cell) -> Load: ...
