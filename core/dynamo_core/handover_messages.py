"""Handover's messages: what both sides of a slot tell each other, and its bytes.

Owns PULL, SEAL, OFFER and COVERED with their encodings; ROWS is `slots.pack_rows`.
Decoders raise Corrupt for anything malformed and nothing else. Each message names the
slot and the tenure that it is about: what was said of another one is never taken for it.

Forbidden here: what follows from a message (`handover`).
"""

from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.copies import Holding, pack_kept_reply, unpack_kept_reply
from dynamo_core.errors import Corrupt
from dynamo_core.handover import Answer
from dynamo_core.merkle import HASH_BYTES, SEGMENTS
from dynamo_core.rounds import (
    Kept,
    State,
    kept_from_bytes,
    kept_to_bytes,
    state_from_bytes,
    state_to_bytes,
)
from dynamo_core.slots import SLOTS_MAX, Row, Token, row_from_bytes, row_to_bytes

CHECKSUM_BYTES: Final = 8
ROOT_BYTES: Final = 16

_ABOUT: Final = Struct(">HBQII8s")
_GIVEN: Final = Struct(">BH")


class About(NamedTuple):
    """What each message begins with: one tenure of one slot, and the sender's row."""

    partition: int
    slot: int
    source: Token
    digest: bytes
    """Names the row that the sender knows; whoever knows another answers with that first."""


def _pack_about(about: About) -> bytes:
    return _ABOUT.pack(about.partition, about.slot, *about.source, about.digest)


def _unpack_about(what: str, payload: bytes) -> tuple[About, bytes]:
    try:
        partition, slot, epoch, number, holder, digest = _ABOUT.unpack_from(payload)
    except struct_error as error:
        raise Corrupt(f"{what} of {len(payload)} bytes ends early") from error
    if slot >= SLOTS_MAX:
        raise Corrupt(f"{what} is about slot {slot}; there are {SLOTS_MAX} at most")
    return About(partition, slot, Token(epoch, number, holder), digest), payload[_ABOUT.size :]


# PULL: about | u8 what | rest.
# BEGIN:  nothing                         -> nothing
# PAGE:   the place after which to go on  -> a page (`recovery.pack_page`)
# TREE:   nothing                         -> SEGMENTS segments of 16 | a kept list, or nothing
# LEAVES: as SEGMENTS                     -> as SEGMENTS_REPLY, both in `exchange`
# FETCH:  as FETCH                        -> as FETCH_REPLY
# PULL_REPLY: u8 answer; with GIVEN 8 checksum | u8 1 for a possible loss | u16 length | state |
# what is written above, else a row.


class What(IntEnum):
    """What a PULL asks of the holder's copy."""

    BEGIN = 0
    """How it stands; nothing of it yet."""
    PAGE = 1
    TREE = 2
    LEAVES = 3
    FETCH = 4


class Pull(NamedTuple):
    """One question about a copy that is being handed over, or has been sealed."""

    about: About
    what: What
    rest: bytes


class Given(NamedTuple):
    """An answer, and by what it is to be judged: the rounds of the copy before it was read."""

    state: State
    possible_loss: bool
    body: bytes


def pack_pull(pull: Pull) -> bytes:
    return _pack_about(pull.about) + bytes((pull.what,)) + pull.rest


def unpack_pull(payload: bytes) -> Pull:
    about, rest = _unpack_about("a PULL", payload)
    try:
        return Pull(about, What(rest[0]), rest[1:])
    except (IndexError, ValueError) as error:
        raise Corrupt("a PULL asks for nothing that is known") from error


def pack_given(given: Given) -> bytes:
    state = state_to_bytes(given.state)
    data = _GIVEN.pack(given.possible_loss, len(state)) + state + given.body
    return bytes((Answer.GIVEN.value,)) + _checksum(data) + data


def pack_denied(answer: Answer, row: Row) -> bytes:
    """Any answer but GIVEN, to PULL or SEAL; it says what the holder knows."""
    return bytes((answer.value,)) + row_to_bytes(row)


def unpack_pull_reply(payload: bytes) -> tuple[Answer, Given | None, Row]:
    """What was asked for with GIVEN, else the row."""
    answer = _answer("a PULL", payload)
    if answer is not Answer.GIVEN:
        return answer, None, row_from_bytes(payload[1:])
    data = payload[1 + CHECKSUM_BYTES :]
    if _checksum(data) != payload[1 : 1 + CHECKSUM_BYTES]:
        raise Corrupt(f"an answer of {len(data)} bytes to a PULL doesn't have its checksum")
    if len(data) < _GIVEN.size or data[0] > 1:
        raise Corrupt("an answer to a PULL ends early")
    loss, length = _GIVEN.unpack_from(data)
    end = _GIVEN.size + length
    return answer, Given(state_from_bytes(data[_GIVEN.size : end]), loss == 1, data[end:]), ()


def pack_tree(segments: bytes, kept: Kept | None) -> bytes:
    """The body to TREE: all segments, and what has to be carried out on the copy yet."""
    return segments + (b"" if kept is None else kept_to_bytes(kept))


def unpack_tree(body: bytes) -> tuple[bytes, Kept | None]:
    size = SEGMENTS * HASH_BYTES
    if len(body) < size:
        raise Corrupt(f"the tree of a copy has {len(body)} bytes, not {size}")
    return body[:size], kept_from_bytes(body[size:]) if len(body) > size else None


# SEAL: about.  SEAL_REPLY: u8 answer; with GIVEN an end, else a row.
# An end: 16 root | rest as in a reply to KEPT for one partition.


class End(NamedTuple):
    """A copy whose tenure has ended: its tree's root, its rounds, and the list it keeps."""

    root: bytes
    holding: Holding
    kept: Kept | None
    """Handed over with the copy: its successor carries it out, and confirms it."""


def pack_seal(about: About) -> bytes:
    return _pack_about(about)


def unpack_seal(payload: bytes) -> About:
    return _alone("a SEAL", payload)


def pack_sealed(end: End) -> bytes:
    return bytes((Answer.GIVEN.value,)) + _pack_end(end)


def unpack_seal_reply(payload: bytes) -> tuple[Answer, End | None, Row]:
    """The end with GIVEN, else the row."""
    answer = _answer("a SEAL", payload)
    if answer is not Answer.GIVEN:
        return answer, None, row_from_bytes(payload[1:])
    return answer, _unpack_end(payload[1:]), ()


# OFFER: about | u8 1 if the seal names the receiver | an end.
# OFFER_REPLY: u8 taken | a row.


class Offer(NamedTuple):
    """A tenure has ended here, and its copy waits to be covered; said again until it is."""

    about: About
    names_you: bool
    end: End


def pack_offer(offer: Offer) -> bytes:
    flag = b"\x01" if offer.names_you else b"\x00"
    return _pack_about(offer.about) + flag + _pack_end(offer.end)


def unpack_offer(payload: bytes) -> Offer:
    about, rest = _unpack_about("an OFFER", payload)
    if not rest or rest[0] > 1:
        raise Corrupt("an OFFER doesn't say whether its seal names the receiver")
    return Offer(about, rest[0] == 1, _unpack_end(rest[1:]))


def pack_offer_reply(taken: bool, row: Row) -> bytes:
    return (b"\x01" if taken else b"\x00") + row_to_bytes(row)


def unpack_offer_reply(payload: bytes) -> tuple[bool, Row]:
    """(whether the receiver takes the copy in, what it knows)."""
    if not payload or payload[0] > 1:
        raise Corrupt("an answer to an OFFER is neither yes nor no")
    return payload[0] == 1, row_from_bytes(payload[1:])


# COVERED: about | u8 1 if the copy is too old to be merged | 16 root | a row.  Its reply is empty.


class Covered(NamedTuple):
    """Everything in the copy of that root is durable at the sender, which holds the slot.

    Or, if `too_old`, the copy is from before a round that is committed, and no root is given.
    """

    about: About
    too_old: bool
    root: bytes
    row: Row


def pack_covered(covered: Covered) -> bytes:
    about, too_old, root, row = covered
    return b"".join((_pack_about(about), bytes((too_old,)), root, row_to_bytes(row)))


def unpack_covered(payload: bytes) -> Covered:
    about, rest = _unpack_about("a COVERED", payload)
    end = 1 + ROOT_BYTES
    if len(rest) < end or rest[0] > 1:
        raise Corrupt("a COVERED ends before its root, or is neither covered nor too old")
    return Covered(about, rest[0] == 1, rest[1:end], row_from_bytes(rest[end:]))


# ROWS and ROWS_REPLY: `slots.pack_rows`; the reply has what the receiver knows, durably, of the
# same partitions.


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def _answer(what: str, payload: bytes) -> Answer:
    if not payload:
        raise Corrupt(f"an answer to {what} is empty")
    try:
        return Answer(payload[0])
    except ValueError as error:
        raise Corrupt(f"an answer to {what} claims {payload[0]}") from error


def _alone(what: str, payload: bytes) -> About:
    about, rest = _unpack_about(what, payload)
    if rest:
        raise Corrupt(f"{what} is followed by {len(rest)} bytes")
    return about


def _pack_end(end: End) -> bytes:
    return end.root + pack_kept_reply(end.holding, end.kept)


def _unpack_end(data: bytes) -> End:
    if len(data) < ROOT_BYTES:
        raise Corrupt("an ended copy's root ends early")
    return End(data[:ROOT_BYTES], *unpack_kept_reply(data[ROOT_BYTES:]))
