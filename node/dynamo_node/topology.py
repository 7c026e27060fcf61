"""Topology: the ring this node holds, who holds what by now, and its links to the others.

Owns which nodes are asked for a key and who looks healthy from here. Every
node can compute that for every key, so a request needs no hop to find its
replicas (P§4.6, zero-hop). A ring says who shall hold a partition, the table of
tokens who does: requests go to holders, writes to those who are to be as well.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from dynamo_core import slots
from dynamo_core.frames import NO_RING, RingName
from dynamo_core.ring import Ring, position
from dynamo_core.slot_table import SlotTable
from dynamo_core.slots import Row
from dynamo_node.links import Link

STAND_INS_FACTOR: Final = 2
"""Stand-ins considered for a key, as a multiple of N: who asks all of 500 nodes asks too many."""


class Place(NamedTuple):
    """Where a key lives now: `owners` hold a slot of its partition each.

    `others` stand in for them, in the order of the preference list. `incoming` are to
    hold a slot soon and get every write as well, which doesn't count. `row` names the
    tokens that all this follows from; `counts` says whether this node is an owner that
    counts.
    """

    digest: bytes
    partition: int
    owners: tuple[int, ...]
    others: tuple[int, ...]
    incoming: tuple[int, ...] = ()
    row: bytes = b""
    counts: bool = True


class _Lists(NamedTuple):
    """What a partition's places have in common."""

    owners: tuple[int, ...]
    others: tuple[int, ...]
    incoming: tuple[int, ...]
    row: bytes
    counts: bool


class Topology:
    """The ring in force, the tokens that are known, and the links that follow from it."""

    def __init__(self) -> None:
        self.ring: Ring | None = None
        self.number = 0
        self.leaver = False
        """Whether the ring names this node only until it has handed over what it has."""
        self.links: dict[int, Link] = {}
        self.name: RingName = NO_RING
        self.table: SlotTable | None = None
        """Who holds what; there is one from the first ring on."""
        self.owned: set[int] = set()
        """Partitions of which this node holds a slot, by their rows."""
        self.counting: set[int] = set()
        """Those of them for which it counts, by its own record."""
        self.unsettled: set[int] = set()
        """Partitions whose row isn't fsynced here yet: nobody is answered by it."""
        self._leaving: frozenset[int] = frozenset()
        self._lists: dict[int, _Lists] = {}

    def adopt(self, ring: Ring, number: int, make_link: Callable[[int], Link]) -> list[Link]:
        """Put `ring` in force; returns links to members that are no more."""
        self.ring, self.number = ring, number
        self.leaver = any(member.number == number for member in ring.leaving)
        self.name = RingName(ring.epoch, bytes.fromhex(ring.id))
        self.all_rows_changed()
        wanted = {m.number: m for m in ring.everybody if m.number != number}
        gone = [link for n, link in self.links.items() if wanted.get(n) != link.member]
        kept = {n: link for n, link in self.links.items() if wanted.get(n) == link.member}
        self.links = {n: kept.get(n) or make_link(n) for n in wanted}
        return gone

    # Who holds what

    def row(self, partition: int) -> Row:
        """The tokens of a partition's slots; the node must hold a ring."""
        assert self.table is not None
        return self.table.row(partition)

    def digest(self, partition: int) -> bytes:
        """What names the row in requests about the partition."""
        assert self.table is not None
        return self.table.digest(partition)

    def holders(self, partition: int) -> tuple[int, ...]:
        """Nodes that hold a slot of the partition now, as far as is known here."""
        return slots.holders(self.row(partition))

    def other_holders(self, partition: int) -> list[int]:
        """The same without this node."""
        return [n for n in self.holders(partition) if n != self.number]

    def row_changed(self, partition: int) -> None:
        """Somebody else holds one of its slots now."""
        self._lists.pop(partition, None)
        if any(token.holder == self.number for token in self.row(partition)):
            self.owned.add(partition)
        else:
            self.owned.discard(partition)

    def all_rows_changed(self) -> None:
        """This node's number is another one, or the ring is."""
        self._lists = {}
        if self.table is not None:
            for partition in range(self.table.partitions):
                self.row_changed(partition)

    def forget(self, partition: int) -> None:
        """Whether this node counts for it may have changed."""
        self._lists.pop(partition, None)

    # Places

    def place(self, key: bytes) -> Place:
        """Owners and stand-ins of `key`; the node must hold a ring."""
        ring = self.ring
        assert ring is not None
        digest = position(key)
        partition = ring.partition_of(digest)
        return Place(digest, partition, *(self._lists.get(partition) or self._list(partition)))

    def nodes_of(self, partition: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Owners and stand-ins of a partition's keys; the node must hold a ring."""
        lists = self._lists.get(partition) or self._list(partition)
        return lists.owners, lists.others

    def _list(self, partition: int) -> _Lists:
        ring, table = self.ring, self.table
        assert ring is not None
        assert table is not None
        row = table.row(partition)
        owners = slots.holders(row)
        rest = (n for n in ring.preference_list(partition) if n not in owners)
        others = tuple(rest)[: ring.replication * STAND_INS_FACTOR]
        found = self._lists[partition] = _Lists(
            owners,
            self.staying_first(others),
            slots.incoming(row, ring.slots[partition]),
            table.digest(partition),
            partition in self.counting and partition not in self.unsettled,
        )
        return found

    def leaving(self, numbers: Iterable[int]) -> None:
        """These nodes have said that they are shutting down; the rest is not, or no more."""
        told = frozenset(numbers)
        if told != self._leaving:
            self._leaving, self._lists = told, {}

    def staying_first(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """The same nodes in the same order, but those that shut down come last.

        They still answer for a while, yet whoever can choose chooses another: a hint
        would stay on their disks, an operation may not be finished.
        """
        if not self._leaving:
            return numbers
        return tuple(sorted(numbers, key=self._leaving.__contains__))

    def healthy(self, number: int) -> bool:
        """Whether that node should be tried first; this node itself always is."""
        link = self.links.get(number)
        return link.healthy if link is not None else number == self.number

    def host_name(self, number: int) -> str:
        """A member's name, for people; a leaving member's too."""
        if self.ring is not None:
            for member in self.ring.everybody:
                if member.number == number:
                    return member.name
        return f"node {number}"
