"""Wire: every message of the native protocol and its encoding.

Owns the message types and payloads that travel in `frames`. Decoders raise
Corrupt for anything malformed and nothing else. All integers are big-endian;
"rest" is whatever the frame still holds.
"""

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple, TypeVar

from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.objects import Sibling
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.slots import Row, pack_rows, unpack_rows
from dynamo_core.versions import Dot

PROTOCOL_VERSION: Final = 1


class Type(IntEnum):
    """What a frame carries. Below 16: handshake; 64 and above: clients may send it."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REFUSED = 5
    REPLACED = 6
    READ = 16
    READ_REPLY = 17
    WRITE = 18
    WRITTEN = 19
    PING = 20
    PONG = 21
    RING = 22
    RING_REPLY = 23
    LEASE = 24
    LEASE_REPLY = 25
    FORWARD = 26
    INSPECT = 27
    INSPECT_REPLY = 28
    FIGURES = 29
    FIGURES_REPLY = 30
    ERROR = 31
    GOSSIP = 32
    GOSSIP_REPLY = 33
    TREE = 34
    TREE_REPLY = 35
    SEGMENTS = 36
    SEGMENTS_REPLY = 37
    FETCH = 38
    FETCH_REPLY = 39
    PAGE = 40
    PAGE_REPLY = 41
    PREPARE = 42
    PREPARE_REPLY = 43
    COMMIT = 44
    COMMIT_REPLY = 45
    KEPT = 46
    KEPT_REPLY = 47
    ROWS = 48
    ROWS_REPLY = 49
    BLOCKS = 50
    BLOCKS_REPLY = 51
    PULL = 52
    PULL_REPLY = 53
    SEAL = 54
    SEAL_REPLY = 55
    OFFER = 56
    OFFER_REPLY = 57
    COVERED = 58
    COVERED_REPLY = 59
    TRANSFERS = 60
    TRANSFERS_REPLY = 61
    OPERATION = 64
    OPERATION_REPLY = 65
    CLUSTER = 66
    CLUSTER_REPLY = 67


FROM_CLIENTS: Final = frozenset({Type.OPERATION, Type.CLUSTER})
"""All that a connection of role client may send."""


class Code(IntEnum):
    """Why a request got an ERROR frame instead of its reply."""

    BAD_REQUEST = 1
    EXPIRED = 2
    OVERLOADED = 3
    STORAGE = 4
    NOT_READY = 5
    STALE_RING = 6
    NO_ROOM = 7
    """A hint beyond the byte limit; the write needs another stand-in."""
    READ_ONLY = 8
    """The disk takes nothing more."""
    REAPED = 9
    """Stamped with an older reap round than this node accepts; see `pack_reaped`."""
    OTHER_ROW = 10
    """Sender and receiver know different tokens of the partition; see `pack_other_row`."""
    MOVED = 11
    """This node holds no slot of the partition, or doesn't any more; nothing was done."""
    NOT_YET = 12
    """This node doesn't count for the partition yet: ask again."""


class Found(IntEnum):
    """What a replica holds of a key that was read."""

    WHOLE = 0
    HEAD = 1
    NOTHING = 2
    ABSTAINS = 3


class Op(IntEnum):
    """The operations of a client."""

    GET = 1
    PUT = 2
    DELETE = 3


_FOUND: Final = Struct(">BQQ")
_WRITE: Final = Struct(">QIBH")
_OPERATION: Final = Struct(">BBB16sIHB")
_REPLY: Final = Struct(">BBBBBIH")
_VALUE: Final = Struct(">16sQQBI")
_LEASE: Final = Struct(">I8sII")
_ERROR: Final = Struct(">B")
_REAPED: Final = Struct(">BQ16sQ")

ROW_BYTES: Final = 8
"""What READ, WRITE and every other question about one partition begin with: its row's name."""
UNCOUNTED: Final = b"\x01"
"""WRITTEN by a node that keeps the write durably, and doesn't count as a holder yet."""

FLAG_SYNC: Final = 1
"""In WRITE: acknowledge only what is fsynced, in `buffered` too."""
FLAG_OVER: Final = 2
"""In WRITE of a hint: W needs it, so the byte limit of hints doesn't bind it."""

_T = TypeVar("_T")


def _decoded(what: str, decode: Callable[[bytes], _T], payload: bytes) -> _T:
    try:
        return decode(payload)
    except (struct_error, ValueError, IndexError) as error:
        raise Corrupt(f"a {what} of {len(payload)} bytes is malformed: {error}") from error


# READ: u8 whole wanted | key.  READ_REPLY: u8 found | u64 reap round |
# u64 round committed | rest object or head.


def pack_read(key: bytes, whole: bool) -> bytes:
    return (b"\x01" if whole else b"\x00") + key


def unpack_read(payload: bytes) -> tuple[bytes, bool]:
    if len(payload) < 2:
        raise Corrupt("a read without a key")
    return payload[1:], payload[0] != 0


def pack_read_reply(found: Found, reap_round: int, data: bytes = b"", committed: int = 0) -> bytes:
    return _FOUND.pack(found, reap_round, committed) + data


def unpack_read_reply(payload: bytes) -> tuple[int, int, bytes, int]:
    """(found, reap round, object or head, committed reap round)."""
    try:
        found, reap_round, committed = _FOUND.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a read's reply ends early") from error
    if found > Found.ABSTAINS:
        raise Corrupt(f"a read's reply claims {found}")
    return found, reap_round, payload[_FOUND.size :], committed


# WRITE: u64 reap round | u32 hint for | u8 flags | u16 key length | key | rest object.


class Write(NamedTuple):
    """The whole object that a replica merges, or keeps as a hint for `hint_for`."""

    key: bytes
    obj: bytes
    hint_for: int
    reap_round: int
    sync: bool
    over: bool = False


def pack_write(
    key: bytes, obj: bytes, hint_for: int, reap_round: int, sync: bool, over: bool = False
) -> bytes:
    flags = (FLAG_SYNC if sync else 0) | (FLAG_OVER if over else 0)
    return _WRITE.pack(reap_round, hint_for, flags, len(key)) + key + obj


def unpack_write(payload: bytes) -> Write:
    try:
        reap_round, hint_for, flags, key_length = _WRITE.unpack_from(payload)
    except struct_error as error:
        raise Corrupt("a write ends early") from error
    at = _WRITE.size + key_length
    if not key_length or len(payload) <= at:
        raise Corrupt("a write without a key or an object")
    return Write(
        payload[_WRITE.size : at],
        payload[at:],
        hint_for,
        reap_round,
        bool(flags & FLAG_SYNC),
        bool(flags & FLAG_OVER),
    )


# OPERATION: u8 op | u8 quorum (0: default) | u8 flags | 16 write id |
# u32 token length | u16 key length | u8 type length | token | key | type | rest value.
# FORWARD has the same form and comes from a node that is no owner of the key.


class Operation(NamedTuple):
    """A client's get, put or delete; `quorum` is its r or w, 0 for the cluster's."""

    op: Op
    key: bytes
    quorum: int = 0
    write_id: bytes = bytes(16)
    context: str = ""
    content_type: str = ""
    value: bytes = b""


def pack_operation(operation: Operation) -> bytes:
    op, key, quorum, write_id, context, content_type, value = operation
    token, kind = context.encode(), content_type.encode()
    if len(key) > 0xFFFF or len(kind) > 0xFF:
        raise Corrupt("an operation's key or content type is too long for its field")
    return b"".join(
        (
            _OPERATION.pack(op, quorum, 0, write_id, len(token), len(key), len(kind)),
            token,
            key,
            kind,
            value,
        )
    )


def unpack_operation(payload: bytes) -> Operation:
    return _decoded("operation", _operation, payload)


def _operation(payload: bytes) -> Operation:
    op, quorum, _, write_id, token_n, key_n, kind_n = _OPERATION.unpack_from(payload)
    at = _OPERATION.size
    key_at = at + token_n
    kind_at = key_at + key_n
    value_at = kind_at + kind_n
    if value_at > len(payload):
        raise ValueError("it ends before its value")
    return Operation(
        Op(op),
        payload[key_at:kind_at],
        quorum,
        write_id,
        payload[at:key_at].decode(),
        payload[kind_at:value_at].decode(),
        payload[value_at:],
    )


# OPERATION_REPLY: u8 kind | u8 primary | u8 standin | u8 needed | u8 got |
# u32 token length | u16 detail length | token | detail | values, each
# 16 actor | u64 counter | u64 written_ms | u8 type length | u32 length | type | value.


def pack_outcome(outcome: Outcome) -> bytes:
    kind, context, siblings, primary, standin, needed, got, detail = outcome
    token, text = context.encode(), detail.encode()[:0xFFFF]
    parts = [
        _REPLY.pack(kind, primary, standin, needed, got, len(token), len(text)),
        token,
        text,
    ]
    for sibling in siblings:
        (actor, n), _, written_ms, content_type, value = sibling
        type_bytes = content_type.encode()
        value = value or b""
        parts += (
            _VALUE.pack(actor, n, written_ms, len(type_bytes), len(value)),
            type_bytes,
            value,
        )
    return b"".join(parts)


def unpack_outcome(payload: bytes) -> Outcome:
    return _decoded("reply", _outcome, payload)


def _outcome(payload: bytes) -> Outcome:
    kind, primary, standin, needed, got, token_n, text_n = _REPLY.unpack_from(payload)
    at = _REPLY.size
    text_at = at + token_n
    values_at = text_at + text_n
    end = len(payload)
    if values_at > end:
        raise ValueError("it ends before its values")
    siblings = []
    cursor = values_at
    while cursor < end:
        actor, n, written_ms, type_n, value_n = _VALUE.unpack_from(payload, cursor)
        type_at = cursor + _VALUE.size
        value_at = type_at + type_n
        cursor = value_at + value_n
        if cursor > end:
            raise ValueError("a value ends early")
        dot: Dot = (actor, n)
        siblings.append(
            Sibling(
                dot,
                bytes(16),
                written_ms,
                payload[type_at:value_at].decode(),
                payload[value_at:cursor],
            )
        )
    return Outcome(
        Kind(kind),
        payload[at:text_at].decode(),
        tuple(siblings),
        primary,
        standin,
        needed,
        got,
        payload[text_at:values_at].decode(errors="replace"),
    )


# LEASE: u32 node number | 8 incarnation | u32 held until | u32 wanted until.
# LEASE_REPLY: u8 granted.


class Lease(NamedTuple):
    """A node that was shut down cleanly asks to go on with its incarnation.

    Births below `held_until` were covered by the lease on its disk. A peer
    that has granted more to this incarnation knows that the disk is older than
    it claims, and refuses.
    """

    number: int
    incarnation: bytes
    held_until: int
    wanted_until: int


def pack_lease(lease: Lease) -> bytes:
    return _LEASE.pack(*lease)


def unpack_lease(payload: bytes) -> Lease:
    if len(payload) != _LEASE.size:
        raise Corrupt(f"a lease of {len(payload)} bytes")
    return Lease(*_LEASE.unpack(payload))


# ERROR: u8 code | rest text; with code REAPED: u64 ring epoch | 16 ring id | u64 round.


def pack_error(code: Code, text: str = "") -> bytes:
    return _ERROR.pack(code) + text.encode()


def unpack_error(payload: bytes) -> tuple[int, str]:
    if not payload:
        raise Corrupt("an error without a code")
    return payload[0], payload[1:].decode(errors="replace")


def pack_reaped(ring: RingName, reap_round: int) -> bytes:
    """The refusal of what is stamped older than `reap_round`.

    `ring` is the one that it was committed under; NO_RING where it was only promised.
    """
    return _REAPED.pack(Code.REAPED, ring.epoch, ring.id, reap_round)


def unpack_reaped(payload: bytes) -> tuple[RingName, int]:
    """(ring name, round) of an error of code REAPED."""
    if len(payload) != _REAPED.size:
        raise Corrupt(f"a refusal as reaped of {len(payload)} bytes")
    _, epoch, ring_id, reap_round = _REAPED.unpack(payload)
    return RingName(epoch, ring_id), reap_round


# OTHER_ROW: u8 code | u16 partition | a row, as in `slots.pack_rows`.


def pack_other_row(partition: int, row: Row) -> bytes:
    """The refusal of what names another row than the receiver knows: here is the receiver's."""
    return bytes((Code.OTHER_ROW,)) + pack_rows({partition: row})


def unpack_other_row(payload: bytes) -> tuple[int, Row]:
    """(partition, row) of an error of code OTHER_ROW; raises Corrupt."""
    rows = unpack_rows(payload[1:])
    if len(rows) != 1:
        raise Corrupt(f"a refusal with {len(rows)} rows of tokens instead of one")
    return next(iter(rows.items()))
