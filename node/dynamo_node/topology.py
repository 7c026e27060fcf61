"""Topology: the ring this node holds and its links to the others.

Owns which nodes are asked for a key and who looks healthy from here. Every
node can compute that for every key, so a request needs no hop to find its
replicas (P§4.6, zero-hop).
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from dynamo_core.frames import NO_RING, RingName
from dynamo_core.ring import Ring, position
from dynamo_node.links import Link

STAND_INS_FACTOR: Final = 2
"""Stand-ins considered for a key, as a multiple of N: who asks all of 500 nodes asks too many."""


class Place(NamedTuple):
    """Where a key lives: `owners` are the first N of its preference list."""

    digest: bytes
    partition: int
    owners: tuple[int, ...]
    others: tuple[int, ...]


class Topology:
    """The ring in force and the links that follow from it."""

    def __init__(self) -> None:
        self.ring: Ring | None = None
        self.number = 0
        self.links: dict[int, Link] = {}
        self.name: RingName = NO_RING
        self.owned: frozenset[int] = frozenset()
        """Partitions of which this node is one of the first N."""
        self._leaving: frozenset[int] = frozenset()
        self._lists: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def adopt(self, ring: Ring, number: int, make_link: Callable[[int], Link]) -> list[Link]:
        """Put `ring` in force; returns links to members that are no more."""
        self.ring, self.number = ring, number
        self.name = RingName(ring.epoch, bytes.fromhex(ring.id))
        self._lists = {}
        self.owned = frozenset(p for p, row in enumerate(ring.slots) if number in row)
        wanted = {m.number: m for m in ring.members if m.number != number}
        gone = [link for n, link in self.links.items() if wanted.get(n) != link.member]
        kept = {n: link for n, link in self.links.items() if wanted.get(n) == link.member}
        self.links = {n: kept.get(n) or make_link(n) for n in wanted}
        return gone

    def place(self, key: bytes) -> Place:
        """Owners and stand-ins of `key`; the node must hold a ring."""
        ring = self.ring
        assert ring is not None
        digest = position(key)
        partition = ring.partition_of(digest)
        found = self._lists.get(partition)
        if found is None:
            everybody = ring.preference_list(partition)
            n = ring.replication
            others = everybody[n : n + n * STAND_INS_FACTOR]
            found = everybody[:n], self.staying_first(others)
            self._lists[partition] = found
        return Place(digest, partition, found[0], found[1])

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
        """A member's name, for people."""
        if self.ring is not None:
            for member in self.ring.members:
                if member.number == number:
                    return member.name
        return f"node {number}"
