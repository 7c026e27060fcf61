"""Losses: what was minted, and which writes are gone because their disks are.

Owns the simulator's own knowledge of every dot that was issued, and the judgement
of each disk that forgets: a write is promised to survive unless every disk that
held it when it was acknowledged has lost it, so one whose copies are all gone is
excused only after W disks have lost it. A copy that is being pulled promises nothing:
its node may drop it at any moment. Forbidden here: the nodes' opinion.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from tests.sim.disk import SimDisk

from dynamo_core import objects, records
from dynamo_core.records import DIGEST_BYTES, Record
from dynamo_core.tenures import PREFIX, record_from_bytes
from dynamo_core.versions import Clock, Dot
from dynamo_node.replica import NewWrite, Replica
from dynamo_node.storage import HINTS, META, OBJECTS

Contents: TypeAlias = Mapping[str, Mapping[bytes, bytes]]
_TARGET_BYTES: Final = 4


class WatchedDisk(SimDisk):
    """A disk that tells when it forgets; `forgetting(act)` carries out `act`."""

    forgetting: Callable[[Callable[[], None]], None]
    went_back: bool = False
    """Whether it was ever rolled back: then its node may find out and delete what is too old."""

    def lose_unsynced(self) -> None:
        self.forgetting(super().lose_unsynced)

    def wipe(self) -> None:
        self.forgetting(super().wipe)

    def roll_back(self, snapshot: dict[str, dict[bytes, bytes]]) -> None:
        self.went_back = True
        self.forgetting(lambda: SimDisk.roll_back(self, snapshot))


class Losses:
    """One per world."""

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}
        """Write id -> the key it is of."""
        self.minted: dict[int, list[tuple[Dot, Clock]]] = defaultdict(list)
        """Write id -> each dot it got, and the context that was applied with it."""
        self.excused: set[int] = set()
        self.needed: Callable[[int], int] = lambda write_id: 1
        """How many durable copies the acknowledgement of a write stood for."""
        self.partition: Callable[[bytes], int] = lambda digest: 0
        """The partition of a key's digest."""
        self._times: Counter[int] = Counter()

    def watch(self, replica: Replica) -> None:
        """Note what a node mints from now on."""
        mint, minted = replica.mint, replica._minted

        def begun(key: bytes, digest: bytes, hint_for: int, write: NewWrite, *more: Any) -> None:
            self.keys[int.from_bytes(write.write_id, "big")] = key
            mint(key, digest, hint_for, write, *more)

        def done(record: Record | None, write: NewWrite) -> tuple[bytes, Dot, Clock]:
            found = minted(record, write)
            context = found[2] if write.adopt_clock else write.context
            self.minted[int.from_bytes(write.write_id, "big")].append((found[1], context))
            return found

        replica.mint = begun  # type: ignore[method-assign]
        replica._minted = done  # type: ignore[method-assign]

    def forgot(self, before: Contents, after: Contents, others: Iterable[Contents]) -> None:
        """A disk held `before` and holds `after` now; `others` are all the other disks."""
        gone = self._known(before) - self._known(after)
        if not gone:
            return
        self._times.update(gone)
        left = self._promised(after).union(*(self._promised(other) for other in others))
        self.excused |= {w for w in gone - left if self._times[w] >= self.needed(w)}

    def forgotten(self, write_id: int) -> int:
        """How many times a disk that knew this write forgot it."""
        return self._times[write_id]

    def _promised(self, contents: Contents) -> set[int]:
        """Writes known there by a copy that its disk has, or had, as a holder's; or by a hint."""
        records_of = {
            key[len(PREFIX) :]: record_from_bytes(data)
            for key, data in contents.get(META, {}).items()
            if key.startswith(PREFIX)
        }
        of_holders = {part for part, record in records_of.items() if record.held or record.seals}
        kept = {
            place: data
            for place, data in contents.get(OBJECTS, {}).items()
            if self.partition(place[:DIGEST_BYTES]).to_bytes(2, "big") in of_holders
        }
        return self._known({**contents, OBJECTS: kept})

    def _known(self, contents: Contents) -> set[int]:
        """Writes that some object there carries or has superseded."""
        clocks: dict[bytes, list[Clock]] = defaultdict(list)
        for family, at in ((OBJECTS, DIGEST_BYTES), (HINTS, _TARGET_BYTES + DIGEST_BYTES)):
            for place, data in contents.get(family, {}).items():
                clocks[place[at:]].append(objects.clock_of(records.object_of(data)))
        return {
            write
            for write, dots in self.minted.items()
            if any(c.covers(dot) for c in clocks.get(self.keys[write], ()) for dot, _ in dots)
        }
