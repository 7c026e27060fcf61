"""Nodes for the model of handover: one partition, three keys, disks that lose what isn't synced.

Each node runs the production `Custody`, `SlotTable` and `Rounds` over a disk that is a
dictionary, and its record goes through the production bytes at each step. Here stands what
a node does with its copy, hints and records; who sends what when is `handover_model`. An
object is a pair of bit sets (writes seen, writes carried), which is what clock and siblings
come to when every write has a dot of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from dynamo_core.frames import RingName
from dynamo_core.handover import Custody, Effect
from dynamo_core.ring import Ring
from dynamo_core.rounds import PREFIX, Rounds, State
from dynamo_core.slot_table import PREFIX as ROWS
from dynamo_core.slot_table import SlotTable
from dynamo_core.slots import Row, Token
from dynamo_core.tenures import Custodies, record_from_bytes, record_to_bytes

P = 0
N = 3
NODES = (1, 2, 3, 4, 5, 6)
KEYS = (0, 1, 2)

Obj = tuple[int, int]
ABSENT: Obj = (0, 0)


def merge(a: Obj, b: Obj) -> Obj:
    return a[0] | b[0], (a[1] & b[1]) | (a[1] & ~b[0]) | (b[1] & ~a[0])


class Member(NamedTuple):
    number: int


class Act(NamedTuple):
    epoch: int
    event: str
    number: int
    name: str


@dataclass(frozen=True, order=True)
class Wish:
    """A ring, as far as it is about the one partition."""

    epoch: int
    id: int
    wanted: tuple[int, ...] = field(compare=False)
    given_up: tuple[tuple[int, int], ...] = field(compare=False, default=())
    drained: tuple[int, ...] = field(compare=False, default=())

    @property
    def gone(self) -> frozenset[int]:
        """Nodes that are in this ring no more."""
        return frozenset({*dict(self.given_up), *self.drained})

    # What `SlotTable.adopt` asks a ring for

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        return (self.wanted,)

    @property
    def everybody(self) -> tuple[Member, ...]:
        return tuple(Member(n) for n in NODES if n not in self.gone)

    @property
    def history(self) -> tuple[Act, ...]:
        placed = (Act(1, "created", n, f"n{n}") for n in NODES)
        return (*placed, *(Act(epoch, "given-up", n, f"n{n}") for n, epoch in self.given_up))

    @property
    def name(self) -> RingName:
        return RingName(self.epoch, self.id.to_bytes(16, "big"))


FIRST = Wish(1, 0, (1, 2, 3))
SEVERAL = -1


class Hint(NamedTuple):
    obj: Obj
    stamp: int
    inc: int
    """In which start it was taken, or SEVERAL."""


class Node:
    """`mem` is what it knows, `disk` what outlives a crash."""

    def __init__(self, number: int, first: Wish) -> None:
        self.number = number
        self.disk: dict[Any, Any] = {"ring": first}
        self.inc = 0
        self.down = False
        self.changes = self.synced = 0
        """Of what is known here, or on the disk; `synced` when the disk had all of it."""
        self.have = (0,) * len(KEYS)
        """By key: writes that are on this disk, or superseded by what is."""
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
        self._disk_changed()
        self.pending: list[Callable[[], None]] = []
        stored = sorted((k, v) for k, v in self.mem.items() if isinstance(k, bytes))
        self.rounds = Rounds()
        self.rounds.load((k, v) for k, v in stored if k.startswith(PREFIX))
        self.rounds.persist = self.keep
        self.table = SlotTable(1)
        self.table.load((k, v) for k, v in stored if k.startswith(ROWS))
        self.table.persist = self.keep
        if self.row:
            self._table_adopts(self.ring)
        self.custody = Custody(self.table, P, self.number)
        self.custody.persist = self._record
        record = self.mem.get("custody")
        self.walk: dict[Any, Any] = {}
        self.merged: set[int] = set()
        self.heard: set[int] = set()
        self.ops: dict[int, Any] = {}
        self.having: dict[Any, set[int]] = {}
        """A hint under a row -> which holders are known to have it."""
        self.attempt: Any = None
        held = Custodies({}, {}, None) if record is None else record_from_bytes(record)
        self.apply(self.custody.load(held))

    def keep(self, key: Any, value: Any) -> None:
        """Put it into the batch; None deletes it."""
        self.changes += 1
        if value is None:
            self.mem.pop(key, None)
        else:
            self.mem[key] = value

    def _record(self, record: Custodies) -> None:
        self.keep("custody", record_to_bytes(record))

    def say(self, what: Callable[[], None]) -> None:
        """Do `what` (send a message) once all that is in memory is fsynced."""
        self.pending.append(what)

    def fsync(self) -> None:
        if self.synced != self.changes:
            self.disk = dict(self.mem)
            self._disk_changed()
        pending, self.pending = self.pending, []
        for what in pending:
            what()

    def _disk_changed(self) -> None:
        self.changes += 1
        self.synced = self.changes
        have = [self.disk.get(("rec", key), ABSENT)[0] for key in KEYS]
        for k, v in self.disk.items():
            if k[0] == "hint":
                have[k[2]] |= v.obj[0]
        self.have = tuple(have)

    # The copy

    def rec(self, key: int) -> Obj:
        return self.mem.get(("rec", key), ABSENT)

    def put(self, key: int, obj: Obj) -> None:
        if obj != self.rec(key):
            self.keep(("rec", key), None if obj == ABSENT else obj)

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
            self.keep(("rec", key), None)

    # Hints

    def hints(self) -> list[tuple[tuple[int, int], Hint]]:
        """((target, key), hint), in order."""
        return sorted((k[1:], v) for k, v in self.mem.items() if k[0] == "hint")

    def hint(self, target: int, key: int) -> Obj:
        held = self.mem.get(("hint", target, key))
        return ABSENT if held is None else held.obj

    def put_hint(self, target: int, key: int, obj: Obj, stamp: int) -> int:
        """The stamp that what is kept then has."""
        held = self.mem.get(("hint", target, key))
        inc = self.inc
        if held is not None:
            obj, stamp = merge(held.obj, obj), min(held.stamp, stamp)
            inc = inc if held.inc == inc else SEVERAL
        self.keep(("hint", target, key), Hint(obj, stamp, inc))
        return stamp

    def forget_hint(self, target: int, key: int) -> None:
        self.keep(("hint", target, key), None)

    # Rows and rings

    @property
    def row(self) -> Row:
        return self.table.row(P)

    @property
    def digest(self) -> bytes:
        return self.table.digest(P)

    @property
    def settled(self) -> bool:
        """Whether the row that is known is fsynced: nobody is answered before."""
        return all(
            self.disk.get(k) == v
            for k, v in self.mem.items()
            if isinstance(k, bytes) and k.startswith(ROWS)
        )

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
        self.keep("ring", ring)
        self.heard.clear()
        self._table_adopts(ring)
        self.apply(self.custody.adopted(dict(ring.given_up), ring.wanted))

    def _table_adopts(self, ring: Wish) -> None:
        self.table.adopt(cast(Ring, ring))

    # Rounds

    def state(self) -> State:
        return self.rounds.state(P)

    @property
    def committed(self) -> int:
        return self.rounds.committed(P)

    def join_rounds(self, theirs: State) -> None:
        self.rounds.join(P, theirs, first=self.copy == (ABSENT,) * len(KEYS))
