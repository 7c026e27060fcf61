"""Slots: who holds a partition now, as tokens that only ever rise (design: handover).

Owns the token of a slot and its order, a partition's row of tokens, and what a row and
the newest ring's wish mean together (who hands over to whom, one at a time). A ring says
who shall hold a partition, never who holds it; a row says who does. Rows are joined token
by token, so whoever has heard of all of them knows the same, in whatever order it came.

Forbidden here: rings as a whole (`slot_table`), and by what right a token may be
raised (`handover`).
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple, TypeAlias

from dynamo_core.errors import Corrupt

SLOTS_MAX: Final = 16
DIGEST_BYTES: Final = 8

_COUNT: Final = Struct(">B")
_PARTITION: Final = Struct(">H")
TOKEN: Final = Struct(">QII")


class Token(NamedTuple):
    """One tenure of one slot; of two the greater stands.

    `epoch` is that of the last ring that overrode the slot, `number` counts the
    handovers since, `holder` is a node number. A successor with a seal takes
    `number` + 1, one without `number` + 2 (`claimed`).
    """

    epoch: int
    number: int
    holder: int

    def handed_to(self, successor: int) -> "Token":
        """The tenure of the one that this one's seal names."""
        return Token(self.epoch, self.number + 1, successor)

    def claimed(self, claimant: int) -> "Token":
        """The tenure that somebody takes without a seal: its holder, having no record of this
        one, or whoever comes after a holder that is in no ring any more.

        Two steps up: the disk that is lost may have named a successor, whose tenure has to
        stand below this.
        """
        return Token(self.epoch, self.number + 2, claimant)


Row: TypeAlias = tuple[Token, ...]
"""The tokens of one partition's slots. A slot that isn't there yet is lower than any token."""


class Move(NamedTuple):
    """A slot whose holder, by `source`, is not wanted any more, and who is instead."""

    slot: int
    source: Token
    target: int


def join(a: Row, b: Row) -> Row:
    """What both together know: the greater token of each slot."""
    if len(a) < len(b):
        a, b = b, a
    return (*map(max, a, b), *a[len(b) :])


def holders(row: Row) -> tuple[int, ...]:
    """Distinct nodes that hold a slot, in the order of slots."""
    return tuple(dict.fromkeys(token.holder for token in row))


def moves(row: Row, wanted: Sequence[int]) -> tuple[Move, ...]:
    """What has to be handed over so that exactly the nodes `wanted` hold a slot each.

    Whoever is wanted and holds a slot keeps it, whichever it is: a plan that is taken back
    moves nothing. The others are paired with those that come, in order; a pair that has
    been carried out doesn't change the others. A node's second slot is one to hand over.
    """
    settled: set[int] = set()
    leaving = []
    for slot, token in enumerate(row):
        if token.holder in wanted and token.holder not in settled:
            settled.add(token.holder)
        else:
            leaving.append(slot)
    coming = [node for node in wanted if node not in settled]
    return tuple(Move(s, row[s], node) for s, node in zip(leaving, coming, strict=False))


def next_move(row: Row, wanted: Sequence[int], unable: Collection[int]) -> Move | None:
    """The one that may go on now. Holders that are down or recovering hold up nobody else."""
    return next((m for m in moves(row, wanted) if m.source.holder not in unable), None)


def incoming(row: Row, wanted: Sequence[int]) -> tuple[int, ...]:
    """Nodes that get every write as well, without counting, because a slot moves to them."""
    return tuple(move.target for move in moves(row, wanted))


def override(row: Row, given_up: Mapping[int, int], wanted: Sequence[int]) -> Row:
    """The row once tokens of nodes that were given up are void.

    `given_up`: node number -> epoch of the ring that gave it up. Whoever is wanted for
    such a slot is nominated: it counts after a claim, see `Token.claimed`. What stands for
    a slot that was never heard of (epoch 0) stays below every token that really is: whoever
    has it knows neither who holds the slot nor which one of the ring's row it is.
    """
    if not any(token.holder in given_up for token in row):
        return row
    targets = {move.slot: move.target for move in moves(row, wanted)}
    return tuple(
        (
            Token(given_up[token.holder], 0, targets[slot])
            if token.epoch
            else Token(0, token.number + 1, targets[slot])
        )
        if given_up.get(token.holder, 0) > token.epoch and slot in targets
        else token
        for slot, token in enumerate(row)
    )


def needed_to_claim(row: Row, r: int, w: int) -> int:
    """How many other holders must be heard before a claim, then know it and be merged.

    With so many, whoever held the slot before finds neither W for a write nor, from R = 2
    on, R for a read. Where the row has fewer that count, `recovery.judge` says what follows.
    """
    n = len(holders(row))
    return min(n - 1, max(n - w + 1, n - r + 1))


# A row: u8 n | n tokens, each u64 epoch | u32 number | u32 holder.
# Rows: each u16 partition | a row; partitions ascending.


def row_to_bytes(row: Row) -> bytes:
    return _COUNT.pack(len(row)) + b"".join(TOKEN.pack(*token) for token in row)


def row_from_bytes(data: bytes) -> Row:
    """Raises Corrupt for anything but exactly one row."""
    row, at = row_at(data, 0)
    if at != len(data):
        raise Corrupt(f"a row of tokens is followed by {len(data) - at} bytes")
    return row


def row_at(data: bytes, at: int) -> tuple[Row, int]:
    """The row that begins at `at`, and where it ends; raises Corrupt."""
    if at >= len(data) or data[at] > SLOTS_MAX:
        raise Corrupt(f"a row of tokens is missing, or has more than {SLOTS_MAX} slots")
    end = at + 1 + data[at] * TOKEN.size
    if end > len(data):
        raise Corrupt(f"a row of {data[at]} tokens ends early")
    return tuple(Token(*each) for each in TOKEN.iter_unpack(data[at + 1 : end])), end


def row_digest(row: Row) -> bytes:
    """8 bytes that name a row in each request about its partition."""
    return blake2b(row_to_bytes(row), digest_size=DIGEST_BYTES).digest()


def pack_rows(rows: Mapping[int, Row]) -> bytes:
    return b"".join(_PARTITION.pack(p) + row_to_bytes(rows[p]) for p in sorted(rows))


def unpack_rows(payload: bytes) -> dict[int, Row]:
    """By partition; raises Corrupt."""
    rows: dict[int, Row] = {}
    at, before = 0, -1
    try:
        while at < len(payload):
            (partition,) = _PARTITION.unpack_from(payload, at)
            if partition <= before:
                raise Corrupt(f"rows of tokens: partition {partition} comes after {before}")
            rows[partition], at = row_at(payload, at + _PARTITION.size)
            before = partition
    except struct_error as error:
        raise Corrupt("rows of tokens end early") from error
    return rows
