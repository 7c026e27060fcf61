"""Standing: for which partitions this node's disk can be believed (design: recovering).

Owns the durable list of partitions that this node is recovering: it takes
writes for them and abstains from reads, because what it holds may lack what
others acknowledged with it. A disk starts complete only if the first ring
names it; an empty or foreign one recovers everything, and so does one that was
`buffered` when the machine went down. `recovery` ends it, partition by partition.
"""

from collections.abc import Callable, Iterable, Mapping
from struct import Struct
from struct import error as struct_error
from typing import Final

from dynamo_core.errors import Corrupt
from dynamo_core.recovery import Lack
from dynamo_core.ring import Ring
from dynamo_node.storage import META, Store

COUNTS_KEY: Final = b"counts"
_ENTRY: Final = Struct(">HB")
_LOSS: Final = 0x10
_MERGED: Final = 0x20


class Standing:
    """One per disk."""

    __slots__ = ("_lacking", "_losses", "_merged", "_store", "known")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lacking: dict[int, Lack] = {}
        self._losses: frozenset[int] = frozenset()
        self._merged: set[int] = set()
        self.known = False
        """Whether a ring was ever adopted on this disk."""

    def load(self, data: bytes | None) -> None:
        """Take up what META holds under COUNTS_KEY."""
        if data is None:
            return
        self.known = True
        try:
            entries = [(p, Lack(lack & 0x0F), lack) for p, lack in _ENTRY.iter_unpack(data)]
        except (struct_error, ValueError) as error:
            raise Corrupt("the list of recovering partitions is damaged") from error
        self._lacking = {p: lack for p, lack, _ in entries if lack}
        self._losses = frozenset(p for p, _, raw in entries if raw & _LOSS)
        self._merged = {p for p, _, raw in entries if raw & _MERGED}

    def counts(self, partition: int) -> bool:
        """Whether this node may say what it doesn't hold of `partition`."""
        return partition not in self._lacking

    def lack(self, partition: int) -> Lack:
        return self._lacking.get(partition, Lack.NOTHING)

    @property
    def recovering(self) -> Mapping[int, Lack]:
        """Partitions that don't count, and why."""
        return self._lacking

    @property
    def possible_losses(self) -> frozenset[int]:
        """Partitions that were taken up again although too few complete replicas were left."""
        return self._losses

    def begin(self, ring: Ring, number: int, disk_id: str) -> bool:
        """The first ring that this disk sees; in the same batch as the ring itself.

        True if the ring names this very disk as one that the cluster was made with.
        """
        me = ring.node(number)
        founder = any(entry.number == number and entry.event == "created" for entry in ring.history)
        self.known = True
        whole = founder and me.disk_id == disk_id
        if not whole:
            self._lacking = dict.fromkeys(range(ring.partitions), Lack.EMPTY)
        self._put()
        return whole

    def unclean(self, partitions: Iterable[int]) -> None:
        """What was written last may be gone from these; durable with the tick's batch."""
        for partition in partitions:
            self._lacking.setdefault(partition, Lack.UNCLEAN)
        self._put()

    def emptied(self, partition: int) -> None:
        """The copy was too old to be merged and is deleted unread: a lost disk's."""
        self._lacking[partition] = Lack.EMPTY
        self._merged.discard(partition)
        self._put()

    def claimed(self, partition: int) -> None:
        """A slot was taken without a seal: what is here, if anything, lacks what others have."""
        if self.lack(partition) != Lack.EMPTY:
            self._lacking[partition] = Lack.EMPTY
            self._put()

    def merged(self, partition: int) -> bool:
        """Whether what another owner holds was merged here since this copy doesn't count."""
        return partition in self._merged

    def returned(self, has_records: Callable[[int], bool]) -> None:
        """After a start: an empty copy with records isn't known to be newer than others' rounds.

        What was sent to it may be of long ago: the disk may have gone back to that moment.
        """
        kept = {p for p, lack in self._lacking.items() if lack == Lack.EMPTY and has_records(p)}
        if not kept <= self._merged:
            self._merged |= kept
            self._put()

    def merging(self, partition: int) -> None:
        """What another owner holds is about to be merged; durable no later than the first of it."""
        if partition not in self._merged:
            self._merged.add(partition)
            self._put()

    def completed(self, partition: int, possible_loss: bool) -> None:
        """All that can be had is merged here, durably; so is this with the tick's batch."""
        self._lacking.pop(partition, None)
        self._merged.discard(partition)
        if possible_loss:
            self._losses |= {partition}
        self._put()

    def handed_over(self, partition: int) -> None:
        """Somebody else has all that was here, and the doubt about it, if there was one."""
        if partition in self._losses:
            self._losses -= {partition}
            self._put()

    def accepted(self, partition: int) -> bool:
        """A person accepts what may be missing; False when there was nothing to accept."""
        if self.counts(partition) and partition not in self._losses:
            return False
        self._lacking.pop(partition, None)
        self._merged.discard(partition)
        self._losses -= {partition}
        self._put()
        return True

    def _put(self) -> None:
        touched = sorted({*self._lacking, *self._losses})
        entries = (_ENTRY.pack(p, self.lack(p) | self._flags(p)) for p in touched)
        self._store.put(META, COUNTS_KEY, b"".join(entries))

    def _flags(self, partition: int) -> int:
        loss = _LOSS if partition in self._losses else 0
        return loss | (_MERGED if partition in self._merged else 0)
