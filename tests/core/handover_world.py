"""Nodes for the model of handover: one partition, three keys, disks that lose what isn't synced.

Each node runs the production `Custody`, `SlotTable` and `Rounds` over a disk that is a
dictionary, and its record goes through the production bytes at each step. Here stands what
a node does with its copy and its records; who sends what when is `handover_model`. An
object is a pair of bit sets (writes seen, writes carried), which is what clock and siblings
come to when every write has a dot of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dynamo_core.handover import Custody, Effect
from dynamo_core.rounds import PREFIX, Rounds, State
from dynamo_core.slot_table import PREFIX as ROWS
from dynamo_core.slot_table import SlotTable
from dynamo_core.slots import Row, Token, override
from dynamo_core.tenures import Custodies, record_from_bytes, record_to_bytes

P = 0
N, R, W = 3, 2, 2
NODES = (1, 2, 3, 4, 5, 6)
KEYS = (0, 1, 2)

Obj = tuple[int, int]
ABSENT: Obj = (0, 0)


def merge(a: Obj, b: Obj) -> Obj:
    return a[0] | b[0], (a[1] & b[1]) | (a[1] & ~b[0]) | (b[1] & ~a[0])


@dataclass(frozen=True, order=True)
class Wish:
    """A ring, as far as it is about the one partition."""

    epoch: int
    id: int
    wanted: tuple[int, ...] = field(compare=False)
    given_up: tuple[tuple[int, int], ...] = field(compare=False, default=())


FIRST = Wish(1, 0, (1, 2, 3))


class Node:
    """`mem` is what it knows, `disk` what outlives a crash."""

    def __init__(self, number: int, first: Wish) -> None:
        self.number = number
        self.disk: dict[Any, Any] = {"ring": first}
        self.inc = 0
        self.down = False
        self.keeps = False
        """A planted bug: half-pulled copies are kept for another time."""
        self.start()
        self.table.learn(P, tuple(Token(1, 0, n) for n in first.wanted))
        self.custody.found()
        self.fsync()

    def start(self) -> None:
        """A process on what the disk holds."""
        self.inc += 1
        self.mem = dict(self.disk)
        self.pending: list[Callable[[], None]] = []
        stored = sorted((k, v) for k, v in self.mem.items() if isinstance(k, bytes))
        self.rounds = Rounds()
        self.rounds.load((k, v) for k, v in stored if k.startswith(PREFIX))
        self.rounds.persist = self._persist
        self.table = SlotTable(1)
        self.table.load((k, v) for k, v in stored if k.startswith(ROWS))
        self.table.persist = self._persist
        self.custody = Custody(self.table, P, self.number)
        self.custody.persist = self._record
        record = self.mem.get("custody")
        self.walk: dict[Any, Any] = {}
        self.merged: set[int] = set()
        self.heard: set[int] = set()
        self.ops: dict[int, Any] = {}
        self.attempt: Any = None
        held = Custodies({}, {}, None) if record is None else record_from_bytes(record)
        self.apply(self.custody.load(held))

    def _persist(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.mem.pop(key, None)
        else:
            self.mem[key] = value

    def _record(self, record: Custodies) -> None:
        data = record_to_bytes(record)
        if data is None:
            self.mem.pop("custody", None)
        else:
            self.mem["custody"] = data

    def say(self, what: Callable[[], None]) -> None:
        """Do `what` (send a message) once all that is in memory is fsynced."""
        self.pending.append(what)

    def fsync(self) -> None:
        if self.disk != self.mem:
            self.disk = dict(self.mem)
        pending, self.pending = self.pending, []
        for what in pending:
            what()

    # The copy

    def rec(self, key: int) -> Obj:
        return self.mem.get(("rec", key), ABSENT)

    def put(self, key: int, obj: Obj) -> None:
        if obj == ABSENT:
            self.mem.pop(("rec", key), None)
        else:
            self.mem["rec", key] = obj

    def take(self, key: int, obj: Obj) -> None:
        self.put(key, merge(self.rec(key), obj))

    @property
    def copy(self) -> tuple[Obj, ...]:
        return tuple(self.rec(k) for k in KEYS)

    @property
    def durable(self) -> tuple[Obj, ...]:
        return tuple(self.disk.get(("rec", k), ABSENT) for k in KEYS)

    @property
    def root(self) -> bytes:
        return repr(self.copy).encode()

    def empty(self) -> None:
        for key in KEYS:
            self.mem.pop(("rec", key), None)

    # Rows and rings

    @property
    def row(self) -> Row:
        return self.table.row(P)

    @property
    def digest(self) -> bytes:
        return self.table.digest(P)

    @property
    def ring(self) -> Wish:
        return self.mem["ring"]

    @property
    def wanted(self) -> tuple[int, ...]:
        return self.ring.wanted

    @property
    def counts(self) -> bool:
        return self.custody.counts

    def apply(self, effect: Effect) -> None:
        """What goes into the same batch as the record."""
        if Effect.EMPTY in effect and not (self.keeps and not self.counts):
            self.empty()
        if Effect.CLAIM in effect:
            self.merged = set()

    def learn(self, row: Row) -> None:
        self.apply(self.custody.learn(row))

    def adopt(self, ring: Wish, row: Row) -> None:
        """A ring comes with the row of whoever told it."""
        self.learn(row)
        if not self.ring < ring:
            return
        self.mem["ring"] = ring
        given_up = dict(ring.given_up)
        self.table.learn(P, override(self.row, given_up, ring.wanted))
        self.apply(self.custody.adopted(given_up, ring.wanted))

    # Rounds

    def state(self) -> State:
        return self.rounds.state(P)

    @property
    def committed(self) -> int:
        return self.rounds.committed(P)

    def join_rounds(self, theirs: State) -> None:
        self.rounds.join(P, theirs, first=self.copy == (ABSENT,) * len(KEYS))
