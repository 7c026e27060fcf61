"""Anti-entropy: how two replicas find what differs between them (P§4.7).

Owns the message TREE and both sides' part in it: `find` and `narrow` walk from
one hash over everything shared to the segments that differ and stay so,
`answer` is the peer's side. The asking side is written as generators: each
yields the payload of a TREE request and is sent the reply's, or yields PAUSE
and goes on when the pause is over. What happens to the keys of a segment that
differs is `exchange`.

Who shares what follows from the tokens of each partition, and those change while
partitions move: so every partition is compared under its own row, which is hashed
together with what is in it. One that both sides know another row of is told apart
and left out; all the others are compared whatever moves (docs/decisions/0016). A side
says "no difference" only about what it has made durable before it answered; that, and
waiting, is the caller's.

Forbidden here: where trees are kept, and who is compared when.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from enum import IntEnum, IntFlag
from hashlib import blake2b
from struct import Struct, pack
from struct import error as struct_error
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from dynamo_core.errors import Corrupt
from dynamo_core.merkle import FANOUT, HASH_BYTES, INNER_NODES, NODE_BYTES

RANGES_MAX: Final = 256
"""Ranges of partitions in one TREE request, 9 KiB."""
NODES_MAX: Final = 64
"""Inner nodes in one TREE request, 16 KiB."""
SPLIT: Final = 16
"""Parts into which a range of partitions that differs is cut."""
PAUSE: Final = None

_RANGE: Final = Struct(">HH8sQ16s")
_ROUND: Final = Struct(">Q")
_ROUND_OF: Final = Struct(">HQ")
_INNER: Final = Struct(f">H8s{NODE_BYTES}s")
_SEGMENTS: Final = Struct(f">H8sB{NODE_BYTES}s")
_NODE: Final = Struct(">BH")
_AGREED: Final = Struct(">H8s")
_NO_ROW: Final = bytes(8)


class What(IntEnum):
    """What a TREE request asks about."""

    RANGES = 0
    INNER = 1
    SEGMENTS = 2
    AGREED = 3
    """Whether the asked owner now agrees with all the others about a partition."""


class Flag(IntFlag):
    """The peer's answer about one range of partitions; none: it holds the same, durably."""

    DIFFERS = 1
    RECOVERING = 2
    """It can't claim anything about any of them; together with DIFFERS, of a single one."""
    ROUND = 4
    """Of a single partition: its committed reap round is another; u64 follows."""
    OTHER_ROW = 8
    """Of a single partition, alone: other tokens of it are known there."""


class Trees(Protocol):
    """The hash trees of one side, with the row and the committed reap round of each.

    `row` names the tokens of a partition in 8 bytes, and `rows` those of several, joined;
    none for a partition that there isn't.
    `takes` says whether the copy may still change: a sealed one stays as it is, and where
    nothing has been claimed yet there is nothing to compare.
    """

    def row(self, partition: int) -> bytes: ...
    def rows(self, partitions: Sequence[int]) -> bytes: ...
    def takes(self, partition: int) -> bool: ...
    def root(self, partition: int) -> bytes: ...
    def inner(self, partition: int) -> bytes: ...
    def segments(self, partition: int, node: int) -> bytes: ...
    def committed(self, partition: int) -> int: ...
    def counts(self, partition: int) -> bool: ...


class Found(NamedTuple):
    """What became of each partition, in order; `recovering` may differ, too."""

    equal: list[int]
    differing: list[int]
    recovering: list[int]
    rounds: list[tuple[int, int]]
    """(partition, the peer's committed round): nothing of these is compared further."""
    moved: list[int]
    """Other tokens of these are known to the peer: nothing was compared."""


class Narrowed(NamedTuple):
    """Segments that differ and stay so, by partition; one that isn't named is equal."""

    segments: dict[int, list[int]]
    moved: set[int]
    """Partitions of which the peer knows other tokens by now: not compared to the end."""


Walk: TypeAlias = Generator[bytes | None, bytes, Found]
Narrowing: TypeAlias = Generator[bytes | None, bytes, Narrowed]

# TREE: u8 what | entries. TREE_REPLY: one item per entry. The row and the round in a RANGES
# entry are those of a single partition; of several they are in the hash alone.
# RANGES: u16 first | u16 last | 8 row | u64 round | 16 hash  -> u8 flags [| u64 round]
# INNER: u16 partition | 8 row | 256 inner hashes             -> u8 same row | u16 bitmap
# SEGMENTS: u16 partition | 8 row | u8 node | 256 segments    -> u8 same row | u16 bitmap
# AGREED: u16 partition | 8 row                               -> u8 agreed
# A bitmap has the bits of those that differ.


def _hash(trees: Trees, partitions: Sequence[int]) -> bytes:
    # All partitions of a comparison are hashed in one go: half a microsecond each.
    # Their numbers too: the two sides may share other ones, with the same rows and contents.
    numbers = pack(f">{len(partitions)}H", *partitions)
    rounds = [_ROUND_OF.pack(p, c) for p in partitions if (c := trees.committed(p))]
    joined = b"".join([numbers, trees.rows(partitions), *map(trees.root, partitions), *rounds])
    return blake2b(joined, digest_size=HASH_BYTES).digest()


def find(trees: Trees, shared: Sequence[int]) -> Walk:
    """Compare all `shared` partitions, which are in order, from one hash downwards."""
    found = Found([], [], [], [], [])
    ranges = [(0, len(shared))] if shared else []
    while ranges:
        asked, ranges = ranges[:RANGES_MAX], ranges[RANGES_MAX:]
        parts = [bytes((What.RANGES,))]
        for low, high in asked:
            first, last = shared[low], shared[high - 1]
            alone = first == last
            row, committed = (trees.row(first), trees.committed(first)) if alone else (_NO_ROW, 0)
            hashed = _hash(trees, shared[low:high])
            parts.append(_RANGE.pack(first, last, row, committed, hashed))
        reply = yield b"".join(parts)
        assert reply is not None
        for (low, high), (flags, round_there) in zip(asked, _flags(reply, len(asked)), strict=True):
            if not flags:
                found.equal.extend(shared[low:high])
            elif flags == Flag.RECOVERING:
                found.recovering.extend(shared[low:high])
            elif high - low > 1:
                step = -(-(high - low) // SPLIT)
                ranges += [(at, min(at + step, high)) for at in range(low, high, step)]
            elif flags & Flag.OTHER_ROW:
                found.moved.append(shared[low])
            elif flags & Flag.ROUND:
                found.rounds.append((shared[low], round_there))
            else:
                found.differing.append(shared[low])
                if flags & Flag.RECOVERING:
                    found.recovering.append(shared[low])
    for part in (found.equal, found.differing, found.recovering, found.moved):
        part.sort()
    return found


def narrow(trees: Trees, partitions: Sequence[int]) -> Narrowing:
    """Segments of each of `partitions` that differ, and still do after a pause."""
    nodes = []
    moved: set[int] = set()
    for at in range(0, len(partitions), NODES_MAX):
        asked = partitions[at : at + NODES_MAX]
        parts = [_INNER.pack(p, trees.row(p), trees.inner(p)) for p in asked]
        reply = yield bytes((What.INNER,)) + b"".join(parts)
        for partition, (same, bits) in zip(asked, _bitmaps(reply, len(asked)), strict=True):
            if not same:
                moved.add(partition)
            nodes += [(partition, node) for node in _ones(bits)]
    differing = yield from _segments(trees, nodes, moved)
    if differing:
        yield PAUSE
        still = sorted({(p, s // FANOUT) for p, s in differing if p not in moved})
        differing &= yield from _segments(trees, still, moved)
    segments: dict[int, list[int]] = {}
    for partition, segment in sorted(differing):
        if partition not in moved:
            segments.setdefault(partition, []).append(segment)
    return Narrowed(segments, moved)


def _segments(
    trees: Trees, nodes: Sequence[tuple[int, int]], moved: set[int]
) -> Generator[bytes | None, bytes, set[tuple[int, int]]]:
    """(partition, segment) of all that differ; `moved` learns which aren't compared."""
    differing: set[tuple[int, int]] = set()
    for at in range(0, len(nodes), NODES_MAX):
        asked = nodes[at : at + NODES_MAX]
        parts = [
            _SEGMENTS.pack(p, trees.row(p), node, trees.segments(p, node)) for p, node in asked
        ]
        reply = yield bytes((What.SEGMENTS,)) + b"".join(parts)
        for (partition, node), (same, bits) in zip(asked, _bitmaps(reply, len(asked)), strict=True):
            if not same:
                moved.add(partition)
            differing |= {(partition, node * FANOUT + child) for child in _ones(bits)}
    return differing


def runs(segments: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours joined: (first, last + 1) of each run in an ordered list."""
    found: list[tuple[int, int]] = []
    for segment in segments:
        if found and found[-1][1] == segment:
            found[-1] = (found[-1][0], segment + 1)
        else:
            found.append((segment, segment + 1))
    return found


def what_is_asked(payload: bytes) -> What:
    """What a TREE request is about."""
    try:
        return What(payload[0])
    except (IndexError, ValueError) as error:
        raise Corrupt("a question about hash trees of no known kind") from error


def answer(trees: Trees, shared: Sequence[int], payload: bytes) -> bytes:
    """The reply to a TREE request of a peer that has `shared` in common with this side."""
    what = what_is_asked(payload)
    if what == What.RANGES:
        return _answer_ranges(trees, shared, payload)
    form = _INNER if what == What.INNER else _SEGMENTS
    nodes = []
    for partition, row, *node, theirs in _entries(form, payload, NODES_MAX):
        if node and node[0] >= INNER_NODES:
            raise Corrupt(f"a question about node {node[0]} of a hash tree")
        if trees.row(partition) != row or not trees.takes(partition):
            nodes.append(_NODE.pack(0, 0))
            continue
        mine = trees.segments(partition, node[0]) if node else trees.inner(partition)
        nodes.append(_NODE.pack(1, _unequal(mine, theirs)))
    return b"".join(nodes)


def _answer_ranges(trees: Trees, shared: Sequence[int], payload: bytes) -> bytes:
    parts = []
    for first, last, row, round_there, hashed in _entries(_RANGE, payload, RANGES_MAX):
        partitions = shared[bisect_left(shared, first) : bisect_right(shared, last)]
        if first == last:
            parts.append(_answer_single(trees, partitions, row, round_there, hashed))
            continue
        flags = 0 if _hash(trees, partitions) == hashed else Flag.DIFFERS
        if not flags and (counting := sum(map(trees.counts, partitions))) < len(partitions):
            # Where none counts there is nothing to be found further down.
            flags = Flag.DIFFERS if counting else Flag.RECOVERING
        parts.append(bytes((flags,)))
    return b"".join(parts)


def _answer_single(
    trees: Trees, shared: Sequence[int], row: bytes, round_there: int, hashed: bytes
) -> bytes:
    """About one partition, which `shared` has unless this side doesn't share it."""
    if not shared or trees.row(shared[0]) != row:
        return bytes((Flag.OTHER_ROW,))
    partition = shared[0]
    if not trees.takes(partition):
        return bytes((Flag.RECOVERING,))
    flags = 0 if _hash(trees, shared) == hashed else Flag.DIFFERS
    if not trees.counts(partition):
        flags |= Flag.RECOVERING
    if (mine := trees.committed(partition)) != round_there:
        return bytes((flags | Flag.ROUND,)) + _ROUND.pack(mine)
    return bytes((flags,))


def asked_rounds(payload: bytes) -> list[tuple[int, int]]:
    """(partition, the asker's committed round) of the single partitions in a RANGES request."""
    entries = _entries(_RANGE, payload, RANGES_MAX)
    return [(first, theirs) for first, last, _, theirs, _ in entries if first == last]


def pack_agreed(partition: int, row: bytes) -> bytes:
    return bytes((What.AGREED,)) + _AGREED.pack(partition, row)


def unpack_agreed(payload: bytes) -> tuple[int, bytes]:
    """(partition, row) that an AGREED request is about."""
    if len(payload) != 1 + _AGREED.size:
        raise Corrupt(f"a question about agreement of {len(payload)} bytes")
    partition, row = _AGREED.unpack_from(payload, 1)
    return partition, row


def _entries(form: Struct, payload: bytes, most: int) -> list[tuple[Any, ...]]:
    body = payload[1:]
    if not body or len(body) % form.size or len(body) > most * form.size:
        raise Corrupt(f"a question about hash trees of {len(payload)} bytes is malformed")
    return list(form.iter_unpack(body))


def _flags(reply: bytes, count: int) -> list[tuple[int, int]]:
    found, at = [], 0
    try:
        for _ in range(count):
            flags, round_there = reply[at], 0
            at += 1
            if flags & Flag.ROUND:
                round_there = _ROUND.unpack_from(reply, at)[0]
                at += _ROUND.size
            found.append((flags, round_there))
    except (IndexError, struct_error) as error:
        raise Corrupt(f"an answer about {count} ranges of {len(reply)} bytes ends early") from error
    if at != len(reply):
        raise Corrupt(f"an answer about {count} ranges has {len(reply) - at} bytes too many")
    return found


def _bitmaps(reply: bytes, count: int) -> list[tuple[int, int]]:
    """(whether it was compared under the same row, bitmap) of each."""
    if len(reply) != count * _NODE.size:
        raise Corrupt(f"an answer about {count} nodes has {len(reply)} bytes")
    return list(_NODE.iter_unpack(reply))


def _unequal(mine: bytes, theirs: bytes) -> int:
    """Bit i is set where the i-th of FANOUT hashes differs."""
    bits = 0
    for at in range(0, NODE_BYTES, HASH_BYTES):
        if mine[at : at + HASH_BYTES] != theirs[at : at + HASH_BYTES]:
            bits |= 1 << (at // HASH_BYTES)
    return bits


def _ones(bits: int) -> list[int]:
    return [child for child in range(FANOUT) if bits >> child & 1]
