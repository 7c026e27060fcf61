"""Handover's messages: what both sides of a slot tell each other, and its bytes.

Owns PULL, SEAL, OFFER and COVERED with their encodings; ROWS is `slots.pack_rows`.
Decoders raise Corrupt for anything malformed and nothing else. Each message names the
slot and the tenure that it is about: what was said of another one is never taken for it.

Forbidden here: what follows from a message (`handover`).
"""

from hashlib import blake2b
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.copies import Holding, pack_kept_reply, unpack_kept_reply
from dynamo_core.errors import Corrupt
from dynamo_core.handover import Answer
from dynamo_core.recovery import Page, pack_page, unpack_page
from dynamo_core.rounds import Kept
from dynamo_core.slots import SLOTS_MAX, Row, Token, row_from_bytes, row_to_bytes

CHECKSUM_BYTES: Final = 8
ROOT_BYTES: Final = 16

_ABOUT: Final = Struct(">HBQII8s")


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


# PULL: about | rest the place after which to go on.
# PULL_REPLY: u8 answer; with GIVEN 8 checksum | a page (`recovery.pack_page`), with ROW a row.


def pack_pull(about: About, cursor: bytes) -> bytes:
    return _pack_about(about) + cursor


def unpack_pull(payload: bytes) -> tuple[About, bytes]:
    """(about, cursor)."""
    return _unpack_about("a PULL", payload)


def pack_given(page: Page) -> bytes:
    data = pack_page(page)
    return bytes((Answer.GIVEN.value,)) + _checksum(data) + data


def pack_denied(answer: Answer, row: Row) -> bytes:
    """Any answer but GIVEN, to PULL or SEAL; it says what the holder knows."""
    return bytes((answer.value,)) + row_to_bytes(row)


def unpack_pull_reply(payload: bytes) -> tuple[Answer, Page | None, Row]:
    """A page with GIVEN, else the row."""
    answer = _answer("a PULL", payload)
    if answer is not Answer.GIVEN:
        return answer, None, row_from_bytes(payload[1:])
    data = payload[1 + CHECKSUM_BYTES :]
    if _checksum(data) != payload[1 : 1 + CHECKSUM_BYTES]:
        raise Corrupt(f"a page of {len(data)} bytes doesn't have its checksum")
    return answer, unpack_page(data), ()


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
