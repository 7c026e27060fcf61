"""Members for the model of reaping: one partition, one key, disks that can do anything.

Each member runs the production `Rounds` and the production rules `refusal`,
`recovery.judge` and `copies.judge` over a disk that is a dictionary: what
isn't fsynced is lost in a crash, and every fsynced state can come back. What a
member says only about fsynced state it says through `say`. An object is a pair
of bit sets (write ids seen, write ids carried), which is what clock and siblings
come to when every write has a dot of its own.
"""

from collections.abc import Callable
from typing import Any

from dynamo_core.copies import Holding
from dynamo_core.frames import RingName
from dynamo_core.recovery import Lack
from dynamo_core.rounds import PREFIX, Listed, Rounds, State

P = 0
KEY = b"d" * 16 + b"key"
OWNERS = (1, 2, 3)
MEMBERS = (1, 2, 3, 4, 5)
W = R = 2

Obj = tuple[int, int]
ABSENT: Obj = (0, 0)


def merge(a: Obj, b: Obj) -> Obj:
    return a[0] | b[0], (a[1] & b[1]) | (a[1] & ~b[0]) | (b[1] & ~a[0])


def leaf(obj: Obj) -> bytes:
    return obj[0].to_bytes(10, "big") + obj[1].to_bytes(6, "big")


class Member:
    """One node: `mem` is what it knows, `disk` what outlives a crash."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.old_hints_shown = False
        self.owner = number in OWNERS
        self.mem: dict[Any, Any] = {}
        self.disk: dict[Any, Any] = {"ring": 1} if number in MEMBERS else {}
        self.snapshots: list[dict[Any, Any]] = []
        self.inc = 0
        self.start()

    def start(self) -> None:
        """A process on what the disk holds; nothing said or asked before is there."""
        self.inc += 1
        self.mem = dict(self.disk)
        self.rounds = Rounds()
        self.rounds.load((k, v) for k, v in sorted(
            (k, v) for k, v in self.mem.items() if isinstance(k, bytes)))  # fmt: skip
        self.rounds.persist = self._persist
        self.pending: list[Callable[[], None]] = []
        if self.lack == Lack.EMPTY and self.rec != ABSENT:
            self.mem["merged"] = True  # what lies there may be of long ago: `Standing.returned`
        self.sure = not self.owner or (self.lack == Lack.EMPTY and not self.merged_any)
        self.told: dict[int, Any] = {}
        self.merged: dict[int, tuple[int, Lack]] = {}
        self.attempt: Any = None
        self.gathered: list[Any] = []
        self.ops: dict[int, Any] = {}

    def _persist(self, key: bytes, value: bytes | None) -> None:
        assert key.startswith(PREFIX)
        if value is None:
            self.mem.pop(key, None)
        else:
            self.mem[key] = value

    # What is on disk

    @property
    def rec(self) -> Obj:
        return self.mem.get("rec", ABSENT)

    @rec.setter
    def rec(self, obj: Obj) -> None:
        if obj == ABSENT:
            self.mem.pop("rec", None)
        else:
            self.mem["rec"] = obj

    @property
    def ring(self) -> int:
        """The epoch of the ring that it holds; 0 if it holds none yet."""
        return self.mem.get("ring", 0)

    @ring.setter
    def ring(self, epoch: int) -> None:
        self.mem["ring"] = epoch

    @property
    def lack(self) -> Lack:
        return self.mem.get("lack", Lack.NOTHING)

    @lack.setter
    def lack(self, lack: Lack) -> None:
        self.mem["lack"] = lack

    @property
    def merged_any(self) -> bool:
        """Whether an empty copy has merged another one's."""
        return self.mem.get("merged", False)

    def holding(self) -> Holding:
        return Holding(self.lack, self.merged_any, self.sure, self.state())

    @property
    def counts(self) -> bool:
        return self.lack == Lack.NOTHING and self.sure

    def hints(self) -> dict[int, tuple[Obj, int, int]]:
        """By target: the object, its lowest stamp, and the start under which all was taken."""
        return {k[1]: self.mem[k] for k in sorted(k for k in self.mem if k[:1] == ("hint",))}

    def marks(self) -> list[int]:
        return sorted(k[1] for k in self.mem if isinstance(k, tuple) and k[0] == "mark")

    def hint(self, target: int, obj: Obj, stamp: int) -> None:
        held, lowest, start = self.mem.get(("hint", target), (ABSENT, stamp, self.inc))
        start = start if start == self.inc else 0
        self.mem["hint", target] = (merge(held, obj), min(lowest, stamp), start)
        ring = self.mem.get(("of ring", target), self.ring)
        self.mem["of ring", target] = min(ring, self.ring)

    def drop_hint(self, target: int) -> None:
        self.mem.pop(("hint", target), None)
        self.mem.pop(("of ring", target), None)

    def mark(self, target: int) -> None:
        self.mem["mark", target] = True

    def clear(self, target: int) -> None:
        self.mem.pop(("mark", target), None)

    def holds(self, disk: bool = True) -> list[Obj]:
        """Every object it would have after a power cut."""
        place = self.disk if disk else self.mem
        found = [place["rec"]] if "rec" in place else []
        return found + [v[0] for k, v in place.items() if isinstance(k, tuple) and k[0] == "hint"]

    def stamp(self) -> int:
        return self.rounds.stamp(P)

    def state(self) -> State:
        return self.rounds.state(P)

    def shows(self) -> Obj:
        """What it reads of the key, but hints that may have come back with an old disk."""
        obj = self.rec
        for held, lowest, start in self.hints().values():
            if start == self.inc or lowest >= self.stamp() or self.old_hints_shown:
                obj = merge(obj, held)
        return obj

    # Durability

    def say(self, what: Callable[[], None]) -> None:
        """Do `what` (send a message) once all that is in memory is fsynced."""
        self.pending.append(what)

    def fsync(self) -> None:
        if self.disk != self.mem:
            self.disk = dict(self.mem)
        pending, self.pending = self.pending, []
        for what in pending:
            what()

    def snapshot(self) -> None:
        self.snapshots.append(dict(self.disk))

    def disk_committed(self) -> int:
        """The round that is committed on disk."""
        rounds = Rounds()
        rounds.load((k, v) for k, v in self.disk.items() if isinstance(k, bytes))
        return rounds.committed(P)

    # Rounds

    def empty(self, floor: int, ring: RingName) -> None:
        """Delete the copy unread: one batch with the floor and the standing."""
        self.rec = ABSENT
        self.mem.pop("merged", None)
        self.lack = Lack.EMPTY
        self.rounds.floor(P, floor, ring)

    def carry_out(self) -> bool:
        """Whether it did now what the kept list names."""
        kept = self.rounds.kept(P)
        if kept is None or self.number not in kept.unconfirmed:
            return False
        reaped = bool(kept.entries) and kept.entries[0].leaf == leaf(self.rec)
        if reaped:
            self.rec = ABSENT
        self.rounds.confirmed(P, kept.reap_round, (self.number,))
        return reaped

    def is_reaped(self) -> bool:
        kept = self.rounds.kept(P)
        return kept is not None and any(entry.skey == KEY for entry in kept.entries)


def name(epoch: int) -> RingName:
    return RingName(epoch, b"r" * 16)


def candidate(obj: Obj) -> Listed:
    return Listed(KEY, leaf(obj))
