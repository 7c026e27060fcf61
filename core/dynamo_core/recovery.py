"""Recovery: when a partition that a node lost may be believed again (design: recovering).

Owns the rule and the messages with which a copy is pulled. A copy counts after
it has merged every reachable holder of the partition and at least N-W+1 that
count: any write that was acknowledged with W copies is in one of those. If the
ring has fewer of them, and somebody still has something, all holders together
are all there is: what they can't have is named as a possible loss. If all
copies were empty, only a person can say that nothing is missing.

Forbidden here: the network and the disk.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt

_ASK: Final = Struct(">HB")
_PAGE: Final = Struct(">BBQ")
_ENTRY: Final = Struct(">HI")


class Lack(IntEnum):
    """Why a partition doesn't count at a node; the higher one is the worse."""

    NOTHING = 0
    """It counts."""
    UNCLEAN = 1
    """Unsynced writes may be gone; the rest is there."""
    EMPTY = 2
    """The disk was empty or foreign: only what was accepted since is there."""


class Verdict(NamedTuple):
    """What follows for a recovering partition: `counts` now, or `waits_for` says what for."""

    counts: bool
    possible_loss: bool = False
    waits_for: str = ""


def judge(
    mine: Lack,
    others: Mapping[int, Lack | None],
    merged: set[int],
    w: int,
    doubtful: Collection[int] = (),
) -> Verdict:
    """Whether a copy that lacks `mine` counts after merging the holders in `merged`.

    `others` has every other owner by node number: what it lacks, None for one that
    can't be reached. `doubtful` are those that count although too few complete
    copies were left: who needs them inherits the doubt. `w` is the cluster's W.
    """
    needed = len(others) + 1 - w + 1
    complete = {o for o, lack in others.items() if lack == Lack.NOTHING}
    reachable = {o for o, lack in others.items() if lack is not None}
    if not reachable <= merged:
        return Verdict(False, waits_for="the copies of owners that can be reached")
    if len(complete) >= needed:
        return Verdict(True, possible_loss=len(complete.difference(doubtful)) < needed)
    if len(reachable) < len(others):
        return Verdict(False, waits_for="owners that can't be reached")
    if mine != Lack.EMPTY or any(lack != Lack.EMPTY for lack in others.values()):
        return Verdict(True, possible_loss=True)
    return Verdict(False, waits_for="accept-loss: every owner's disk was empty")


# PAGE: u16 partition | u8 flags | rest the place (digest and key) after which to go on.
# PAGE_REPLY: u8 lack | u8 flags (1: the last, 2: a possible loss) | u64 reap round | entries, each
# u16 key length | u32 object length | key | object.


class Ask(NamedTuple):
    """A page of a partition's objects; `probe` asks only how the holder stands."""

    partition: int
    after: bytes
    probe: bool


class Page(NamedTuple):
    """Objects in the order of their places; `reap_round` is what the holder has carried out."""

    lack: Lack
    last: bool
    reap_round: int
    entries: Sequence[tuple[bytes, bytes]]
    """(key, encoded object)."""
    possible_loss: bool = False


def pack_ask(ask: Ask) -> bytes:
    return _ASK.pack(ask.partition, ask.probe) + ask.after


def unpack_ask(payload: bytes) -> Ask:
    try:
        partition, probe = _ASK.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a request for a page ends early") from error
    return Ask(partition, payload[_ASK.size :], bool(probe))


def pack_page(page: Page) -> bytes:
    parts = [_PAGE.pack(page.lack, page.last | page.possible_loss << 1, page.reap_round)]
    for key, obj in page.entries:
        parts += (_ENTRY.pack(len(key), len(obj)), key, obj)
    return b"".join(parts)


def unpack_page(payload: bytes) -> Page:
    try:
        lack, flags, reap_round = _PAGE.unpack_from(payload)
        entries, at = [], _PAGE.size
        while at < len(payload):
            key_n, obj_n = _ENTRY.unpack_from(payload, at)
            key_at = at + _ENTRY.size
            at = key_at + key_n + obj_n
            if not key_n or at > len(payload):
                raise ValueError("an entry ends early")
            entries.append((payload[key_at : key_at + key_n], payload[key_at + key_n : at]))
        return Page(Lack(lack), bool(flags & 1), reap_round, entries, bool(flags & 2))
    except (struct_error, ValueError) as error:
        raise Corrupt(f"a page of {len(payload)} bytes is malformed: {error}") from error
