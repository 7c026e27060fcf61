"""The ring: which partition a key falls into and which nodes hold it (P§4.2, §4.3, §6.2).

Owns the immutable `Ring` with its name (epoch, id), its canonical bytes, and preference
lists. Every node computes the same answers from the same bytes. Forbidden here: deciding
who should own what (placement does), and anything that changes a ring after it was made.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Self

from dynamo_core.errors import CallerError
from dynamo_core.fields import need_list, need_object, refuse
from dynamo_core.ring_checks import check_head, check_history, check_members, check_tokens


@dataclass(frozen=True, slots=True)
class Member:
    """A node that the ring names. `number` is given once and never reused."""

    number: int
    name: str
    zone: str  # "" = none
    capacity: str  # positive decimal, as given; only its ratio to the others counts
    host: str
    http_port: int
    native_port: int
    admin_port: int
    disk_id: str  # 32 hex; the disk this member joined with


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One administrative act (P§4.8.1): what happened to which node, in which epoch."""

    epoch: int
    at: str  # ISO 8601 in UTC, given by the caller: core has no clock
    event: str  # one of EVENTS
    name: str
    number: int


def position(key: bytes) -> bytes:
    """The place of a key on the ring: its 16-byte MD5 digest (P§4.1)."""
    return hashlib.md5(key, usedforsecurity=False).digest()


def partition_of(digest: bytes, partitions: int) -> int:
    """The partition, 0..partitions-1, that a 16-byte position lies in; see `Ring.partition_of`."""
    return (digest[0] << 8 | digest[1]) >> (17 - partitions.bit_length())


@dataclass(frozen=True)
class Ring:
    """Who owns which token and holds which slot, from one epoch on.

    `slots[p]` holds the partition's first min(N, members) nodes, those of its walk. Their
    order within a row is the slots' identity: a node that stays among them keeps its slot
    from one ring to the next, so a row is in walking order only when it was first made.

    A leaving member owns no token and is in no preference list. It is named so that others
    know its address until what it holds has been handed over, and so that it may hold this
    ring itself.
    """

    cluster_id: str  # 32 hex
    cluster_name: str
    epoch: int  # 1, 2, ...
    parent: str  # id of the ring that this one follows; "" for the first
    partitions: int  # Q
    replication: int  # N
    feature_level: int
    next_number: int
    members: tuple[Member, ...]  # by number
    owners: tuple[int, ...]  # Q numbers: who owns the token of partition p
    slots: tuple[tuple[int, ...], ...]  # Q rows
    leaving: tuple[Member, ...]  # by number: not members any more, and not drained yet
    history: tuple[HistoryEntry, ...]

    def __post_init__(self) -> None:
        check_head(self)
        check_members(self)
        check_tokens(self)
        check_history(self)

    # --- names and bytes -------------------------------------------------------------

    @cached_property
    def id(self) -> str:
        """32 hex: the first 16 bytes of SHA-256 over the canonical form without the id."""
        return hashlib.sha256(_canonical(self._contents())).hexdigest()[:32]

    @cached_property
    def name(self) -> tuple[int, bytes]:
        """(epoch, 16-byte id). Of two rings the one with the higher name wins everywhere."""
        return self.epoch, bytes.fromhex(self.id)

    def to_json(self) -> dict[str, object]:
        """A fresh JSON value of all fields and "id"; tuples become lists."""
        value: dict[str, object] = json.loads(self.to_bytes())
        return value

    def to_bytes(self) -> bytes:
        """Canonical JSON with "id": sorted keys, no spaces, ASCII."""
        return _canonical({**self._contents(), "id": self.id})

    def _contents(self) -> dict[str, object]:
        contents = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for field in ("members", "leaving"):
            contents[field] = list(map(_fields, getattr(self, field)))
        contents["history"] = list(map(_fields, self.history))
        return contents

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The ring in these bytes. CallerError if they are not JSON or not a valid ring."""
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CallerError(f"the ring is not JSON: {error}; it must be a ring as JSON") from None
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The ring in this JSON value, entirely checked; "id" may be left out.

        CallerError names the field at fault, what it holds and what would be right.
        """
        fields = dict(value) if isinstance(value, dict) else value
        given = fields.pop("id", None) if isinstance(fields, dict) else None
        fields = need_object("ring", fields, cls.__dataclass_fields__)
        for field in ("members", "leaving"):
            fields[field] = tuple(
                Member(**need_object(f"{field}[{i}]", item, Member.__dataclass_fields__))  # type: ignore[arg-type]
                for i, item in enumerate(need_list(field, fields[field]))
            )
        fields["history"] = tuple(
            HistoryEntry(**need_object(f"history[{i}]", item, HistoryEntry.__dataclass_fields__))  # type: ignore[arg-type]
            for i, item in enumerate(need_list("history", fields["history"]))
        )
        fields["owners"] = tuple(need_list("owners", fields["owners"]))
        fields["slots"] = tuple(
            tuple(need_list(f"slots[{i}]", row))
            for i, row in enumerate(need_list("slots", fields["slots"]))
        )
        ring = cls(**fields)  # type: ignore[arg-type]  # checked by the constructor
        if given is not None and given != ring.id:
            raise refuse("id", given, f"{ring.id}, the id of this ring's contents")
        return ring

    # --- questions -------------------------------------------------------------------

    @cached_property
    def _shift(self) -> int:
        return 16 - (self.partitions.bit_length() - 1)

    @cached_property
    def _lists(self) -> list[tuple[int, ...] | None]:
        return [None] * self.partitions

    @cached_property
    def _members(self) -> dict[int, Member]:
        return {member.number: member for member in self.members}

    @cached_property
    def everybody(self) -> tuple[Member, ...]:
        """Members and leaving members, by number: whoever may hold something of this ring's."""
        return tuple(sorted(self.members + self.leaving, key=lambda node: node.number))

    @cached_property
    def _everybody(self) -> dict[int, Member]:
        return {node.number: node for node in self.everybody}

    @cached_property
    def _tokens(self) -> Counter[int]:
        return Counter(self.owners)

    @cached_property
    def _slots_held(self) -> Counter[int]:
        return Counter(chain.from_iterable(self.slots))

    @cached_property
    def zones(self) -> dict[int, str]:
        """The zone of each member, by number."""
        return {member.number: member.zone for member in self.members}

    def partition_of(self, digest: bytes) -> int:
        """The partition that a 16-byte position lies in: its top log2(Q) bits."""
        return (digest[0] << 8 | digest[1]) >> self._shift

    def preference_list(self, partition: int) -> tuple[int, ...]:
        """All members in the order in which they are asked for this partition (P§4.3, §4.6).

        The first are `slots[partition]`, the rest follow in walking order.
        """
        found = self._lists[partition]
        if found is None:
            row = self.slots[partition]
            found = tuple(dict.fromkeys(chain(row, self._walk(partition))))
            self._lists[partition] = found
        return found

    def _walk(self, partition: int) -> Iterator[int]:
        """Owners clockwise from a partition, repeated as they come, then the tokenless."""
        return chain(self.owners[partition:], self.owners[:partition], self._members)

    def member(self, number: int) -> Member:
        """The member with this number. CallerError if the ring names none."""
        try:
            return self._members[number]
        except KeyError:
            raise refuse("node number", number, "the number of a member of the ring") from None

    def node(self, number: int) -> Member:
        """The member or leaving member with this number. CallerError if the ring names none."""
        try:
            return self._everybody[number]
        except KeyError:
            right = "the number of a member or leaving member of the ring"
            raise refuse("node number", number, right) from None

    def member_named(self, name: str) -> Member | None:
        """The member of this name, if the ring has one."""
        return next((member for member in self.members if member.name == name), None)

    def node_named(self, name: str) -> Member | None:
        """The member or leaving member of this name, if the ring has one."""
        return next((node for node in self.everybody if node.name == name), None)

    def tokens(self, number: int) -> int:
        """How many tokens a node owns; 0 for a stranger."""
        return self._tokens[number]

    def slots_of(self, number: int) -> int:
        """How many slots a node shall hold; 0 for a stranger."""
        return self._slots_held[number]

    def ownership(self, number: int) -> float:
        """The share (0..1) of all slots that a node holds: its share of the stored data."""
        return self._slots_held[number] / self._slots_held.total()


def _fields(item: Member | HistoryEntry) -> dict[str, object]:
    """As `asdict`, which copies each value and takes longer than the JSON that follows."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _canonical(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
