"""Membership: what one node knows of all members, as a state machine (P§4.8).

Owns how two nodes reconcile: versions decide, never wall time. Each member
alone writes its entry and its log, under a generation that rises at every
start and above whatever others have seen of it, so that a disk that was lost
or rolled back doesn't argue with its own past for long.

Two nodes compare a digest first; where it differs one sends the versions it
has and the other answers with what is newer and asks for what is older. When
nothing changes a round costs the digest and its "same".

Forbidden here: randomness, clocks and links (whom to ask is passed in), and
any use of what is known as proof.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from dynamo_core import gossip_messages as messages
from dynamo_core.errors import Corrupt
from dynamo_core.frames import RingName
from dynamo_core.gossip_messages import (
    DISK_LOST,
    GENERATION_MAX,
    JOINED,
    LEFT,
    NO_CHECK,
    STARTED,
    U32_MAX,
    Delta,
    Entry,
    Event,
    Facts,
    Held,
)

LOG_EVENTS_MAX: Final = {STARTED: 7, JOINED: 2, LEFT: 4, DISK_LOST: 3}
"""Events kept of each author by kind, the newest: who was started often has joined once."""
DEPARTED_MAX: Final = 64
"""Authors that are no members any more whose logs are kept, those of the highest numbers."""
ENTRIES_MAX: Final = 512
"""Entries, and logs, in one message; the rest follows in the next round."""
DELTA_BYTES_MAX: Final = 256 << 10
"""What one message gives, roughly: in a torn cluster each entry names everybody else."""
FIGURES_S: Final = 10.0
"""Counts of keys and hints are told no more often: they change with every write."""
_SALT_BITS: Final = 16


def next_generation(seen: int, salt: int) -> int:
    """A generation above `seen`.

    `salt` is any number below 2**16: two lives of a node that both lost their
    disks would otherwise count alike and not notice each other.
    """
    return min(((seen >> _SALT_BITS) + 1) << _SALT_BITS | salt, GENERATION_MAX)


def pick(numbers: Iterable[int], random: bytes) -> int | None:
    """One of `numbers`, chosen by 8 random bytes; None if there is none."""
    listed = sorted(numbers)
    return listed[int.from_bytes(random, "big") % len(listed)] if listed else None


class Membership:
    """One node's knowledge; `generation` is this start's, already raised and on disk."""

    def __init__(self, generation: int, log: Iterable[Event] = ()) -> None:
        self.number = 0
        self.generation = generation
        self._counter = 0
        self._members: frozenset[int] = frozenset()
        self._entries: dict[int, Entry] = {}
        self._logs: dict[int, dict[tuple[int, int], Event]] = {}
        self._checks: dict[int, bytes] = {}
        self._own_events: list[Event] = []
        self._figures_said: float | None = None
        self._items: bytes | None = None
        self.kept: list[Event] = []
        """Events that are new here and belong on disk; whoever writes them empties this."""
        self.dropped: list[Event] = []
        """Events that are to leave the disk; likewise."""
        self._merge(log)
        self.kept.clear()

    # What this node says

    def ring(self, number: int, members: Iterable[int]) -> None:
        """A ring is in force: only its members have entries, and this node is `number`."""
        if number != self.number:
            self._entries.pop(self.number, None)
            self._own_events.clear()
            self.number = number
        self._members = frozenset(members)
        for gone in [n for n in self._entries if n not in self._members]:
            del self._entries[gone]
        self._prune()
        self._items = None

    def say(self, facts: Facts, now: float) -> bool:
        """What this node says of itself from now on; False if others needn't hear it yet."""
        held = self._entries.get(self.number)
        if held is not None:
            old = held.facts
            if old == facts:
                return False
            figures = old._replace(
                keys=facts.keys,
                hints_pending=facts.hints_pending,
                recovering=facts.recovering,
                share_percent=facts.share_percent,
            )
            calm = (
                figures == facts
                and (old.keys is None) == (facts.keys is None)
                and bool(old.hints_pending) == bool(facts.hints_pending)
                and bool(old.recovering) == bool(facts.recovering)
                # Others work for it at the pace that it told: less is news, more can wait.
                and 2 * facts.share_percent > old.share_percent
            )
            if calm and self._figures_said is not None and now < self._figures_said + FIGURES_S:
                return False
        self._figures_said = now
        self._say(facts)
        return True

    def enter(self, kind: str, subject: int, mark: int, incarnation: bytes, wall_ms: int) -> None:
        """Enter an event into this node's log, unless one of that subject and mark stands there."""
        for event in self._logs.get(self.number, {}).values():
            if (event.kind, event.subject, event.mark) == (kind, subject, mark):
                return
        self._counter = min(self._counter + 1, U32_MAX)
        event = Event(
            self.number,
            self.generation,
            self._counter,
            kind,
            subject,
            mark,
            incarnation,
            wall_ms,
        )
        self._own_events.append(event)
        del self._own_events[: -sum(LOG_EVENTS_MAX.values())]
        self._merge((event,))

    def _say(self, facts: Facts) -> None:
        self._counter = min(self._counter + 1, U32_MAX)
        self._entries[self.number] = Entry(self.number, self.generation, self._counter, facts)
        self._items = None

    # What it knows

    def facts(self, number: int) -> Facts | None:
        """What that member said of itself last, as far as it got here."""
        entry = self._entries.get(number)
        return None if entry is None else entry.facts

    def events(self) -> list[Event]:
        """The history: by author, then in the order in which that author entered it."""
        return [
            event
            for author in sorted(self._logs)
            for _, event in sorted(self._logs[author].items())
        ]

    @property
    def digest(self) -> bytes:
        """Equal digests, equal knowledge."""
        return blake2b(self._held_items(), digest_size=messages.DIGEST_BYTES).digest()

    # Rounds: open -> answer -> follow -> answer -> conclude

    def open(self) -> bytes:
        """What to say first to the peer of this round."""
        return messages.pack_open(self.digest)

    def tell(self) -> bytes:
        """This node's own entry alone, unasked; `answer` takes it like any other."""
        held = self._entries.get(self.number)
        return messages.pack_delta(Delta(entries=() if held is None else (held,)))

    def answer(self, payload: bytes, ring: RingName) -> bytes:
        """The reply to a peer's message; `ring` is the one in force here. Raises Corrupt."""
        step = messages.step_of(payload)
        if step == messages.OPEN:
            if messages.unpack_open(payload) == self.digest:
                return messages.pack_same(ring)
            return messages.pack_versions(ring, self._held_items())
        if step != messages.DELTA:
            raise Corrupt("an answer where a question was due")
        delta = messages.unpack_delta(payload)
        self._take(delta)
        return messages.pack_delta(self._give(delta.want_entries, delta.want_logs))

    def follow(self, reply: bytes) -> tuple[RingName, bytes | None]:
        """The peer's ring, and what to say next, None when both know the same. Raises Corrupt."""
        step = messages.step_of(reply)
        if step not in (messages.SAME, messages.VERSIONS):
            raise Corrupt("gossip was answered out of turn")
        ring = messages.unpack_ring(reply)
        if step == messages.SAME:
            return ring, None
        theirs = messages.unpack_versions(reply)
        mine = self._held()
        nothing = Held(0, 0, NO_CHECK)
        newer, older, logs = [], [], []
        for number in sorted(mine.keys() | theirs.keys()):
            here, there = mine.get(number, nothing), theirs.get(number, nothing)
            if number == self.number and there[:2] > here[:2]:
                self._raise_above(there.generation)
                newer.append(number)
            elif here[:2] > there[:2]:
                newer.append(number)
            elif here[:2] < there[:2] and number in self._members:
                older.append(number)
            if here.check != there.check:
                logs.append(number)
        logs = logs[:ENTRIES_MAX]
        given = self._give(newer, logs)
        delta = given._replace(want_entries=tuple(older[:ENTRIES_MAX]), want_logs=tuple(logs))
        return ring, messages.pack_delta(delta)

    def conclude(self, reply: bytes) -> None:
        """Take what the peer gave at the end of a round. Raises Corrupt."""
        if messages.step_of(reply) != messages.DELTA:
            raise Corrupt("gossip was answered out of turn")
        self._take(messages.unpack_delta(reply))

    # Within

    def _held(self) -> dict[int, Held]:
        held = {}
        for number in sorted(self._entries.keys() | self._logs.keys()):
            entry = self._entries.get(number)
            generation, counter = (entry.generation, entry.counter) if entry else (0, 0)
            held[number] = Held(generation, counter, self._checks.get(number, NO_CHECK))
        return held

    def _held_items(self) -> bytes:
        if self._items is None:
            self._items = messages.pack_held(self._held().items())
        return self._items

    def _give(self, entries: Iterable[int], logs: Iterable[int]) -> Delta:
        """What is asked for, as far as one message goes; the next round asks for the rest."""
        room = DELTA_BYTES_MAX
        found: list[Entry] = []
        for entry in (self._entries[n] for n in entries if n in self._entries):
            if room <= 0 or len(found) == ENTRIES_MAX:
                break
            found.append(entry)
            room -= messages.entry_bytes(entry)
        events: list[Event] = []
        for author in logs:
            if room <= 0:
                break
            log = self._logs.get(author, {}).values()
            events += log
            room -= messages.EVENT_BYTES * len(log)
        return Delta(entries=tuple(found), events=tuple(events))

    def _take(self, delta: Delta) -> None:
        for entry in delta.entries:
            number = entry.number
            held = self._entries.get(number)
            if number == self.number:
                if held is not None and entry[1:3] > held[1:3]:
                    self._raise_above(entry.generation)
            elif number in self._members and (held is None or entry[1:3] > held[1:3]):
                self._entries[number] = entry
                self._items = None
        mine = [e for e in delta.events if e.author == self.number]
        self._merge(delta.events)
        if any((e.generation, e.counter) > (self.generation, self._counter) for e in mine):
            self._raise_above(max(e.generation for e in mine))

    def _raise_above(self, seen: int) -> None:
        """Others know this node under `seen`, from a life that its disk has forgotten."""
        salt = self.generation & ((1 << _SALT_BITS) - 1)
        raised = next_generation(seen, salt)
        if raised <= seen:
            return  # nothing is above; what others show of this node stays as it is
        self.generation, self._counter = raised, 0
        again, self._own_events = self._own_events, []
        own = self._logs.get(self.number, {})
        for event in again:
            if own.pop((event.generation, event.counter), None) is not None:
                self.dropped.append(event)
        for event in again:
            mark = raised if event.mark == event.generation else event.mark
            self.enter(event.kind, event.subject, mark, event.incarnation, event.wall_ms)
        held = self._entries.get(self.number)
        if held is not None:
            self._say(held.facts)

    def _merge(self, events: Iterable[Event]) -> None:
        touched = set()
        for event in events:
            log = self._logs.setdefault(event.author, {})
            version = (event.generation, event.counter)
            if version not in log:
                log[version] = event
                self.kept.append(event)
                touched.add(event.author)
        for author in sorted(touched):
            self._trim(author)
        if touched:
            self._prune()
            self._items = None

    def _trim(self, author: int) -> None:
        log = self._logs[author]
        for kind, most in LOG_EVENTS_MAX.items():
            for version in sorted(v for v, event in log.items() if event.kind == kind)[:-most]:
                self.dropped.append(log.pop(version))
        named = repr(sorted(log)).encode()
        self._checks[author] = blake2b(named, digest_size=messages.CHECK_BYTES).digest()

    def _prune(self) -> None:
        if not self._members:
            return  # before the first ring nobody has departed
        departed = sorted(n for n in self._logs if n not in self._members)
        for author in departed[:-DEPARTED_MAX]:
            self.dropped += self._logs.pop(author).values()
            self._checks.pop(author, None)


# Who is there


def unseen(down: Iterable[int], witnesses: Iterable[Facts]) -> set[int]:
    """Of those that this node has no connection to, the ones that no witness has one to either.

    Witnesses are what the members said that this node reaches itself. With none
    of them nobody is seen.
    """
    nobody = set(down)
    for witness in witnesses:
        if not nobody:
            break
        nobody.intersection_update(witness.unreachable)
    return nobody


def shown_state(link: str, said: str | None, seen: bool) -> str:
    """The contract's state of a member, for display.

    link: `up`, `suspect` or `down` as this node sees it. said: the member's own
    word, None if it never came. seen: whether another node reaches it.
    """
    if link == "down":
        return "suspect" if seen else "down"
    return said if link == "up" and said is not None else link
