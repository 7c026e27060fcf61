"""Reaping: how a partition's members agree on one round (design: reaping).

Owns PREPARE and COMMIT with their encodings, what a member answers, and
the coordinator's side of one round as a state machine. Only when every member
has said yes under one ring may a list be committed; whoever doesn't answer has
not said yes, and an aborted round is never tried again under its number.

Forbidden here: time, the network, and the records that are deleted.
"""

from collections.abc import Sequence
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.rounds import (
    Kept,
    Listed,
    Rounds,
    entries_from_bytes,
    entries_to_bytes,
    kept_from_bytes,
    kept_to_bytes,
    next_round,
)

CANDIDATES_MAX: Final = 500
"""Keys that one round may reap: some 530 KB with the longest keys."""

_PREPARE: Final = Struct(">8sHQQ16s")
_ANSWER: Final = Struct(">BQ")
_INDEX: Final = Struct(">H")
_PARTITION: Final = Struct(">H")


class Prepare(NamedTuple):
    """Asked of every member and leaving member; `candidates` only of owners.

    `row` names the tokens of the partition: who its owners are follows from them.
    """

    partition: int
    reap_round: int
    ring: RingName
    row: bytes
    candidates: tuple[Listed, ...] = ()


class Answer(NamedTuple):
    """`taken` is the highest round the member stamps with; `holds` are candidates by index.

    `reason` says for people why a no is one.
    """

    yes: bool
    taken: int
    holds: tuple[int, ...] = ()
    reason: str = ""


def pack_prepare(prepare: Prepare) -> bytes:
    partition, reap_round, ring, row, candidates = prepare
    return _PREPARE.pack(row, partition, reap_round, *ring) + entries_to_bytes(candidates)


def unpack_prepare(payload: bytes) -> Prepare:
    try:
        row, partition, reap_round, epoch, ring_id = _PREPARE.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a PREPARE ends early") from error
    entries = entries_from_bytes(payload[_PREPARE.size :])
    if len(entries) > CANDIDATES_MAX:
        raise Corrupt(f"a PREPARE names {len(entries)} keys; {CANDIDATES_MAX} are the most")
    return Prepare(partition, reap_round, RingName(epoch, ring_id), row, entries)


def pack_answer(answer: Answer) -> bytes:
    yes, taken, holds, reason = answer
    rest = b"".join(map(_INDEX.pack, holds)) if yes else reason.encode()[:512]
    return _ANSWER.pack(yes, taken) + rest


def unpack_answer(payload: bytes) -> Answer:
    try:
        yes, taken = _ANSWER.unpack_from(payload)
        rest = payload[_ANSWER.size :]
        if not yes:
            return Answer(False, taken, (), rest.decode(errors="replace"))
        return Answer(True, taken, tuple(i for (i,) in _INDEX.iter_unpack(rest)))
    except struct_error as error:
        raise Corrupt("an answer to PREPARE ends early") from error


def pack_commit(partition: int, kept: Kept) -> bytes:
    return _PARTITION.pack(partition) + kept_to_bytes(kept)


def unpack_commit(payload: bytes) -> tuple[int, Kept]:
    return unpack_partition(payload), kept_from_bytes(payload[2:])


def unpack_partition(payload: bytes) -> int:
    """The partition that a COMMIT begins with."""
    if len(payload) < 2:
        raise Corrupt("a message of reaping without its partition")
    return int.from_bytes(payload[:2], "big")


class Circumstances(NamedTuple):
    """What keeps a member from saying yes, as it stands when it is asked."""

    ring: RingName
    hints: int
    marked: Sequence[int]
    counts: bool
    """Whether its copy is complete; True for a member that owns none."""
    sure: bool = True
    """Whether its copy is known to be as new as its rounds; True for a member that owns none."""
    slots: str = ""
    """Why its part in who holds the partition stands in the way (`Custody.blocks_reaping`)."""


def refusal(rounds: Rounds, prepare: Prepare, here: Circumstances) -> str:
    """Why a member must say no; empty when it may promise."""
    partition = prepare.partition
    if prepare.ring != here.ring:
        return f"holds the ring of epoch {here.ring.epoch}"
    if here.slots:
        return here.slots
    if here.hints:
        return f"holds {here.hints} hints of this partition"
    if here.marked:
        return f"nodes {', '.join(map(str, here.marked))} are marked as needing anti-entropy"
    if not here.counts:
        return "is recovering this partition"
    if not here.sure:
        return "has not heard yet how the other owners' copies stand"
    kept = rounds.kept(partition)
    if kept is not None:
        waits = ", ".join(map(str, kept.unconfirmed))
        return f"keeps the list of round {kept.reap_round}, unconfirmed by nodes {waits}"
    if prepare.reap_round <= rounds.stamp(partition):
        return f"has taken round {rounds.stamp(partition)} already"
    return ""


class Attempt:
    """One round as its coordinator sees it; it counts as a member like the others."""

    __slots__ = ("_answers", "_owners", "blockers", "highest", "members", "prepare")

    def __init__(self, prepare: Prepare, members: Sequence[int], owners: Sequence[int]) -> None:
        self.prepare = prepare
        self.members = tuple(members)
        self._owners = tuple(owners)
        self._answers: dict[int, Answer] = {}
        self.blockers: dict[int, str] = {}
        self.highest = prepare.reap_round

    def answered(self, member: int, answer: Answer | None) -> None:
        """A member's answer, or None when none came; a second one changes nothing."""
        if member in self._answers or member in self.blockers:
            return
        if answer is None:
            self.blockers[member] = "did not answer"
            return
        if next_round(answer.taken, self.prepare.ring):
            # One of a later ring is left to that one: no round of this one could follow it.
            self.highest = max(self.highest, answer.taken)
        if answer.yes:
            self._answers[member] = answer
        else:
            self.blockers[member] = answer.reason

    @property
    def agreed(self) -> bool:
        """Whether every member has said yes."""
        return all(member in self._answers for member in self.members)

    def decision(self) -> Kept:
        """The list: what all owners hold unchanged. Only after all agreed."""
        assert self.agreed
        held = set(range(len(self.prepare.candidates)))
        for owner in self._owners:
            held &= set(self._answers[owner].holds)
        entries = tuple(self.prepare.candidates[i] for i in sorted(held))
        return Kept(self.prepare.reap_round, self.prepare.ring, self._owners, entries)
