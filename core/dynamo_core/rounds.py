"""Rounds: which reap round a partition's data is of, and what is too old to be taken.

Owns one member's knowledge of the numbered rounds in which tombstones are
reaped (design: reaping). What is read or minted here is stamped with the
highest round this member has promised or been told; a hint below that and, at
an owner, a mutation below the round committed here are refused, because what
they would bring back may have been reaped. Each change goes to `persist` in the
same step; it may be said to others only once that is fsynced.

Forbidden here: where this is kept, and how a round is agreed on (`reaping`).
"""

from collections.abc import Callable, Iterable
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.frames import NO_RING, RingName

SAID_MAX: Final = 32
"""Rounds said yes to that are remembered beyond the committed one; the oldest go first."""

_EPOCH_AT: Final = 32
_RING_AT: Final = 16
"""In a round's number: bits above these say the epoch, and first of all the ring."""

PREFIX: Final = b"round/"
_KEPT_SUFFIX: Final = b"/kept"
_PARTITION: Final = Struct(">H")
_STATE: Final = Struct(">QQQ16sB")
_KEPT: Final = Struct(">QQ16sB")
_ENTRY: Final = Struct(">H16s")
_NODE: Final = Struct(">I")
_ROUND: Final = Struct(">Q")


def next_round(stamp: int, ring: RingName) -> int:
    """The number of the next round under `ring`, above the highest one taken, `stamp`.

    0 if that is of a later ring, which is to be known first. Numbers of a ring are above
    all of those before it, and those of two rings of one epoch lie apart: a member that a
    ring gives up may have promised a number that nobody else has heard of, and its yes must
    not pass for one to another round (docs/decisions/0006).
    """
    number = max(stamp + 1, _first(ring))
    return number if number >> _EPOCH_AT == ring.epoch else 0


def last_before(ring: RingName) -> int:
    """The highest number that a round of a ring before this one can have.

    What a node has taken or minted under `ring` is newer than all of those, whether it has
    heard of them or not: it had said yes before it took that ring up, or it is a member
    since (docs/decisions/0009).
    """
    return max(_first(ring) - 1, 0)


def _first(ring: RingName) -> int:
    return ring.epoch << _EPOCH_AT | int.from_bytes(ring.id[:2], "big") >> 1 << _RING_AT


class Listed(NamedTuple):
    """One key of a round's list: digest + key, and the leaf it must still have."""

    skey: bytes
    leaf: bytes


class Kept(NamedTuple):
    """A committed round's list, kept until every owner of its ring has carried it out."""

    reap_round: int
    ring: RingName
    unconfirmed: tuple[int, ...]
    """Owners not known to have carried it out, in order."""
    entries: tuple[Listed, ...]


class State(NamedTuple):
    """What one member knows of one partition's rounds.

    `taken` stamps; `said` are the rounds above `committed` that this very disk has
    said yes to, ascending; `ring` is the one that `committed` was committed under.
    """

    taken: int = 0
    committed: int = 0
    ring: RingName = NO_RING
    said: tuple[int, ...] = ()

    def agreed_to(self, reap_round: int) -> bool:
        """Whether what is here is as new as that round, if it was committed."""
        return reap_round <= self.committed or reap_round in self.said


UNKNOWN: Final = State()


class Rounds:
    """Per partition; nothing is kept where nothing was ever reaped."""

    __slots__ = ("_kept", "_states", "persist")

    def __init__(self) -> None:
        self._states: dict[int, State] = {}
        self._kept: dict[int, Kept] = {}
        self.persist: Callable[[bytes, bytes | None], None] = lambda key, value: None
        """Puts a key (None: deletes it) into the tick's batch."""

    # What is known

    def stamp(self, partition: int) -> int:
        """The round of what is read or minted here now."""
        state = self._states.get(partition)
        return 0 if state is None else state.taken

    def committed(self, partition: int) -> int:
        """The last round whose list was carried out here."""
        state = self._states.get(partition)
        return 0 if state is None else state.committed

    def state(self, partition: int) -> State:
        return self._states.get(partition, UNKNOWN)

    def kept(self, partition: int) -> Kept | None:
        """The list that some owner is not known to have carried out."""
        return self._kept.get(partition)

    def kept_partitions(self) -> list[int]:
        return sorted(self._kept)

    def partitions(self) -> list[int]:
        """Those of which any round is known, in order."""
        return sorted(self._states)

    def agreed(self, partition: int) -> int:
        """The highest round that the copy here is as new as."""
        state = self.state(partition)
        return max((state.committed, *state.said))

    def refuses_write(self, partition: int, stamp: int) -> bool:
        """Whether an owner must refuse a mutation stamped `stamp`."""
        return stamp < self.committed(partition)

    def refuses_hint(self, partition: int, stamp: int) -> bool:
        """Whether a hint stamped `stamp` must not be stored any more."""
        return stamp < self.stamp(partition)

    # How it changes

    def take(self, partition: int, reap_round: int) -> None:
        """Stamp with at least `reap_round` from now on; it can't be said yes to any more."""
        state = self.state(partition)
        if reap_round > state.taken:
            self._set(partition, state._replace(taken=reap_round))

    def promise(self, partition: int, reap_round: int) -> bool:
        """Say yes to a round above every one taken; False when it is not."""
        state = self.state(partition)
        if reap_round <= state.taken:
            return False
        said = (*state.said, reap_round)[-SAID_MAX:]
        self._set(partition, state._replace(taken=reap_round, said=said))
        return True

    def agreed_to(self, partition: int, reap_round: int) -> bool:
        """Whether this disk said yes to the round, or has one committed that is no older."""
        return self.state(partition).agreed_to(reap_round)

    def commit(self, partition: int, kept: Kept) -> None:
        """The list of a round is carried out here, in the same batch as its deletions.

        A round that another coordinator's has overtaken changes nothing: what it would
        reap is left to a later one.
        """
        state = self.state(partition)
        if kept.reap_round <= state.committed:
            return
        self._set(
            partition,
            State(
                max(state.taken, kept.reap_round),
                kept.reap_round,
                kept.ring,
                tuple(r for r in state.said if r > kept.reap_round),
            ),
        )
        self._keep(partition, kept)

    def confirmed(self, partition: int, reap_round: int, owners: Iterable[int]) -> None:
        """These owners have carried out that round's list durably; the last one ends the list."""
        kept = self._kept.get(partition)
        if kept is None or kept.reap_round != reap_round:
            return
        done = set(owners)
        left = tuple(o for o in kept.unconfirmed if o not in done)
        if left != kept.unconfirmed:
            self._keep(partition, kept._replace(unconfirmed=left))

    def join(self, partition: int, theirs: State, first: bool) -> None:
        """A copy is about to be merged into the one here, which has nothing yet if `first`.

        What results is as new as every round that both had agreed to. Before the first
        byte of it is merged this has to be durable with it, or sooner.
        """
        mine = self.state(partition)
        newest = max(mine, theirs, key=lambda s: s.committed)
        said = {*theirs.said} if first else {*theirs.said} & {*mine.said}
        self._set(
            partition,
            State(
                max(mine.taken, theirs.taken),
                newest.committed,
                newest.ring,
                tuple(sorted(r for r in said if r > newest.committed)),
            ),
        )

    def floor(self, partition: int, committed: int, ring: RingName) -> None:
        """The copy here is empty, or all that is left: nothing older than that round is taken."""
        state = self.state(partition)
        self._set(partition, State(max(state.taken, committed), committed, ring))
        self._keep(partition, None)

    def keep(self, partition: int, kept: Kept) -> None:
        """Take over a list of the round committed here, which this copy has to carry out too."""
        if kept.reap_round == self.committed(partition):
            self._keep(partition, kept)

    # On disk: META round/PARTITION and round/PARTITION/kept

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Take up what is stored under PREFIX; raises Corrupt for what this didn't write."""
        for key, value in items:
            try:
                (partition,) = _PARTITION.unpack_from(key, len(PREFIX))
                if key.endswith(_KEPT_SUFFIX):
                    self._kept[partition] = kept_from_bytes(value)
                else:
                    self._states[partition] = state_from_bytes(value)
            except struct_error as error:
                raise Corrupt(f"what is stored of a reap round is damaged: {error}") from error

    def _set(self, partition: int, state: State) -> None:
        self._states[partition] = state
        self.persist(PREFIX + _PARTITION.pack(partition), state_to_bytes(state))

    def _keep(self, partition: int, kept: Kept | None) -> None:
        key = PREFIX + _PARTITION.pack(partition) + _KEPT_SUFFIX
        if kept is not None and kept.unconfirmed:
            self._kept[partition] = kept
            self.persist(key, kept_to_bytes(kept))
        elif self._kept.pop(partition, None) is not None:
            self.persist(key, None)


def state_to_bytes(state: State) -> bytes:
    """u64 taken | u64 committed | u64 ring epoch | 16 ring id | u8 n | n u64 said."""
    taken, committed, ring, said = state
    return _STATE.pack(taken, committed, *ring, len(said)) + b"".join(map(_ROUND.pack, said))


def state_from_bytes(data: bytes) -> State:
    """Raises Corrupt for anything but exactly one."""
    try:
        taken, committed, epoch, ring_id, count = _STATE.unpack_from(data)
        if len(data) != _STATE.size + 8 * count:
            raise Corrupt(f"a reap round's state has {len(data)} bytes for {count} promises")
        said = tuple(r for (r,) in _ROUND.iter_unpack(data[_STATE.size :]))
    except struct_error as error:
        raise Corrupt("a reap round's state ends early") from error
    return State(taken, committed, RingName(epoch, ring_id), said)


def kept_to_bytes(kept: Kept) -> bytes:
    """u64 round | u64 epoch | 16 id | u8 n | n u32 owners | entries to the end."""
    reap_round, ring, unconfirmed, entries = kept
    return b"".join(
        (
            _KEPT.pack(reap_round, *ring, len(unconfirmed)),
            *map(_NODE.pack, unconfirmed),
            entries_to_bytes(entries),
        )
    )


def kept_from_bytes(data: bytes) -> Kept:
    """Raises Corrupt for anything but exactly one."""
    try:
        reap_round, epoch, ring_id, count = _KEPT.unpack_from(data)
        at = _KEPT.size + 4 * count
        if len(data) < at:
            raise Corrupt("a kept list ends before its owners do")
        unconfirmed = tuple(n for (n,) in _NODE.iter_unpack(data[_KEPT.size : at]))
    except struct_error as error:
        raise Corrupt("a kept list ends early") from error
    return Kept(reap_round, RingName(epoch, ring_id), unconfirmed, entries_from_bytes(data[at:]))


def entries_to_bytes(entries: Iterable[Listed]) -> bytes:
    """Each u16 length | 16 leaf | digest + key."""
    return b"".join(_ENTRY.pack(len(e.skey), e.leaf) + e.skey for e in entries)


def entries_from_bytes(data: bytes) -> tuple[Listed, ...]:
    """Raises Corrupt when the last one ends early."""
    entries, at = [], 0
    while at < len(data):
        try:
            length, leaf = _ENTRY.unpack_from(data, at)
        except struct_error as error:
            raise Corrupt("a listed key ends early") from error
        at += _ENTRY.size + length
        if at > len(data) or length <= 16:
            raise Corrupt("a listed key ends early or has no key")
        entries.append(Listed(data[at - length : at], leaf))
    return tuple(entries)
