"""Gossip messages: what nodes tell each other of the members, and its bytes (P§4.8).

Owns the facts that a member tells of itself, the events of the membership's
history, and the encoding of the four messages in which two nodes compare and
exchange them. Decoders raise Corrupt for anything malformed and nothing else;
no list is longer than its frame. Numbers are LEB128 ("varint") unless a width
is given; lists of node numbers are sorted and sent as differences.

Everything here is for display and advice, never proof.
"""

from collections.abc import Iterable
from struct import Struct
from struct import error as struct_error
from typing import Final, NamedTuple

from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName

STATES: Final = ("joining", "up", "recovering", "leaving", "left")
"""What a member may say of itself; `suspect` and `down` are said by others."""
STARTED, JOINED, LEFT, DISK_LOST = "started", "joined", "left", "disk lost"
KINDS: Final = (STARTED, JOINED, LEFT, DISK_LOST)
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
GENERATION_MAX: Final = 2**48 - 1
UNREACHABLE_MAX: Final = 4096
"""Peers that one member can say it doesn't reach: more than a ring's members."""

OPEN, SAME, VERSIONS, DELTA = 1, 2, 3, 4
DIGEST_BYTES: Final = 8
CHECK_BYTES: Final = 4
NO_CHECK: Final = bytes(CHECK_BYTES)

_RING: Final = Struct(">Q16s")
_INCARNATION_BYTES: Final = 8
EVENT_BYTES: Final = 56
"""The longest that an event becomes."""


class Facts(NamedTuple):
    """What a member says of itself.

    `recovering`: partitions it can't yet believe its own disk for. `share_percent`:
    the part of its time that it can spare for others' background work.
    `unreachable`: numbers, sorted, of the peers it has no connection to. `read_only`:
    its disk takes nothing more.
    """

    state: str
    incarnation: bytes
    keys: int | None
    hints_pending: int
    ring: RingName
    recovering: int = 0
    share_percent: int = 100
    unreachable: tuple[int, ...] = ()
    read_only: bool = False


class Entry(NamedTuple):
    """Facts with their version: of two the one with the higher (generation, counter) holds."""

    number: int
    generation: int
    counter: int
    facts: Facts


class Event(NamedTuple):
    """One line of the history, named by (author, generation, counter).

    `mark`: the epoch of the ring (joined, left), else the generation. `wall_ms`
    is the author's clock, for people; nothing is ordered by it.
    """

    author: int
    generation: int
    counter: int
    kind: str
    subject: int
    mark: int
    incarnation: bytes
    wall_ms: int


class Held(NamedTuple):
    """What a node has of one number: its entry's version (0, 0: none), a check of its log."""

    generation: int
    counter: int
    check: bytes


class Delta(NamedTuple):
    """What one node gives another, and the numbers it wants entries or logs of in turn."""

    want_entries: tuple[int, ...] = ()
    want_logs: tuple[int, ...] = ()
    entries: tuple[Entry, ...] = ()
    events: tuple[Event, ...] = ()


# Writing


def _put(out: bytearray, n: int) -> None:
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)


def _put_numbers(out: bytearray, numbers: Iterable[int]) -> None:
    listed = sorted(numbers)
    _put(out, len(listed))
    previous = 0
    for number in listed:
        _put(out, number - previous)
        previous = number


def pack_open(digest: bytes) -> bytes:
    return bytes((OPEN,)) + digest


def pack_same(ring: RingName) -> bytes:
    return bytes((SAME,)) + _RING.pack(*ring)


def pack_versions(ring: RingName, items: bytes) -> bytes:
    """`items` as `pack_held` made them."""
    return bytes((VERSIONS,)) + _RING.pack(*ring) + items


def pack_held(held: Iterable[tuple[int, Held]]) -> bytes:
    """By rising number; equal bytes, equal knowledge."""
    out = bytearray()
    previous = 0
    for number, (generation, counter, check) in held:
        _put(out, number - previous)
        previous = number
        _put(out, generation)
        _put(out, counter)
        out += check
    return bytes(out)


def pack_delta(delta: Delta) -> bytes:
    out = bytearray((DELTA,))
    _put_numbers(out, delta.want_entries)
    _put_numbers(out, delta.want_logs)
    _put(out, len(delta.entries))
    for entry in delta.entries:
        pack_entry(out, entry)
    _put(out, len(delta.events))
    for event in delta.events:
        out += pack_event(event)
    return bytes(out)


def pack_entry(out: bytearray, entry: Entry) -> None:
    facts = entry.facts
    for n in (entry.number, entry.generation, entry.counter):
        _put(out, n)
    body = bytearray((STATES.index(facts.state),))
    body += facts.incarnation
    _put(body, 0 if facts.keys is None else facts.keys + 1)
    _put(body, facts.hints_pending)
    body += _RING.pack(*facts.ring)
    _put(body, facts.recovering)
    body.append(facts.share_percent)
    _put_numbers(body, facts.unreachable[:UNREACHABLE_MAX])
    body.append(facts.read_only)
    _put(out, len(body))
    out += body


def entry_bytes(entry: Entry) -> int:
    """The longest that an entry becomes."""
    return 96 + 5 * len(entry.facts.unreachable)


def pack_event(event: Event) -> bytes:
    out = bytearray()
    for n in (event.author, event.generation, event.counter, KINDS.index(event.kind)):
        _put(out, n)
    _put(out, event.subject)
    _put(out, event.mark)
    out += event.incarnation
    _put(out, event.wall_ms)
    return bytes(out)


# Reading


class _Reader:
    """Takes values off the front of a payload; raises Corrupt where it doesn't hold them."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def done(self) -> bool:
        return self.at >= len(self.data)

    def number(self, most: int) -> int:
        data, at, n, shift = self.data, self.at, 0, 0
        end = len(data)
        while at < end and shift < 70:
            byte = data[at]
            at += 1
            n |= (byte & 0x7F) << shift
            if byte < 0x80:
                if n > most:
                    raise Corrupt(f"gossip holds {n} where at most {most} is right")
                self.at = at
                return n
            shift += 7
        raise Corrupt("gossip ends within a number, or a number is too long")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise Corrupt("gossip ends early")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def count(self, least_bytes: int) -> int:
        """How many follow, each of at least so many bytes."""
        n = self.number(U32_MAX)
        if n * least_bytes > len(self.data) - self.at:
            raise Corrupt(f"gossip promises {n} items and ends before them")
        return n

    def numbers(self, most: int) -> tuple[int, ...]:
        count = self.count(1)
        if count > most:
            raise Corrupt(f"gossip lists {count} nodes; at most {most} are right")
        found, last = [], 0
        for _ in range(count):
            step = self.number(U32_MAX)
            if step == 0 or last + step > U32_MAX:
                raise Corrupt("gossip lists node numbers that don't rise")
            last += step
            found.append(last)
        return tuple(found)

    def one_of(self, names: tuple[str, ...]) -> str:
        at = self.number(U32_MAX)
        if at >= len(names):
            raise Corrupt(f"gossip names {at}, one of {len(names)} is known")
        return names[at]

    def ring(self) -> RingName:
        return RingName(*_RING.unpack(self.take(_RING.size)))


def step_of(payload: bytes) -> int:
    """OPEN, SAME, VERSIONS or DELTA."""
    if not payload or not OPEN <= payload[0] <= DELTA:
        raise Corrupt("gossip of no known kind")
    return payload[0]


def unpack_open(payload: bytes) -> bytes:
    if len(payload) != 1 + DIGEST_BYTES:
        raise Corrupt(f"a digest of {len(payload) - 1} bytes")
    return payload[1:]


def unpack_ring(payload: bytes) -> RingName:
    """The ring that the sender of a SAME or VERSIONS holds."""
    try:
        return RingName(*_RING.unpack_from(payload, 1))
    except struct_error as error:
        raise Corrupt("gossip ends before the ring's name") from error


def unpack_versions(payload: bytes) -> dict[int, Held]:
    reader = _Reader(payload, 1 + _RING.size)
    found: dict[int, Held] = {}
    last = 0
    while not reader.done:
        step = reader.number(U32_MAX)
        last += step
        if step == 0 or last > U32_MAX:
            raise Corrupt("gossip lists node numbers that don't rise")
        found[last] = Held(
            reader.number(GENERATION_MAX), reader.number(U32_MAX), reader.take(CHECK_BYTES)
        )
    return found


def unpack_delta(payload: bytes) -> Delta:
    reader = _Reader(payload, 1)
    want_entries, want_logs = reader.numbers(U32_MAX), reader.numbers(U32_MAX)
    entries = tuple(_entry(reader) for _ in range(reader.count(4)))
    events = tuple(_event(reader) for _ in range(reader.count(4)))
    if not reader.done:
        raise Corrupt("gossip goes on behind its end")
    return Delta(want_entries, want_logs, entries, events)


def _entry(reader: _Reader) -> Entry:
    number, generation = reader.number(U32_MAX), reader.number(GENERATION_MAX)
    counter = reader.number(U32_MAX)
    # Whatever a later version adds stands behind what is read here.
    body = _Reader(reader.take(reader.count(1)))
    state, incarnation = body.one_of(STATES), body.take(_INCARNATION_BYTES)
    keys = body.number(U64_MAX)
    return Entry(
        number,
        generation,
        counter,
        Facts(
            state,
            incarnation,
            keys - 1 if keys else None,
            body.number(U64_MAX),
            body.ring(),
            body.number(U32_MAX),
            min(100, body.take(1)[0]),
            body.numbers(UNREACHABLE_MAX),
            not body.done and body.take(1) != b"\x00",
        ),
    )


def _event(reader: _Reader) -> Event:
    author, generation = reader.number(U32_MAX), reader.number(GENERATION_MAX)
    counter = reader.number(U32_MAX)
    return Event(
        author,
        generation,
        counter,
        reader.one_of(KINDS),
        reader.number(U32_MAX),
        reader.number(U64_MAX),
        reader.take(_INCARNATION_BYTES),
        reader.number(U64_MAX),
    )


def unpack_event(data: bytes) -> Event:
    reader = _Reader(data)
    event = _event(reader)
    if not reader.done:
        raise Corrupt("an event goes on behind its end")
    return event
