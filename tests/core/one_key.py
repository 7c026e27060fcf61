"""One key on a few nodes: production code at every step, a dumb model beside it.

Owns the steps that can happen to a key (writes at owners and stand-ins, reads,
sessions, lost and repeated messages, hints, forgotten and pulled records, power
cuts, restarts, volumes rolled back) and the checks after each. The model never
looks at a dot: every attempt to write is a bit, a copy is two sets of bits
(known, and kept of those), and every attempt remembers the set of writes that
its author had seen. Forbidden here: storage, sockets and real time.

The methods that begin with `plan_` are where a test plants a bug, to prove
that the checks can fail.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from random import Random

from dynamo_core import objects
from dynamo_core.actors import Minter
from dynamo_core.contexts import Keyring
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock, Dot, dot_text

KEY = b"cart:7"
LEASE = 4
RECORD = 0
"""The place of a node's own record; any other place is the node a hint is for."""


class Violation(AssertionError):
    """An invariant is broken; `kind` names it, the text has the steps so far."""

    def __init__(self, kind: str, detail: str, steps: list[str]) -> None:
        super().__init__("\n".join([f"{kind}: {detail}", *steps]))
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Copy:
    """One stored object: production bytes, the model's two sets, the local mark."""

    data: bytes
    known: int
    kept: int
    mark: Dot | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client carries: the token, the attempts it claims, the writes truly seen."""

    token: str | None = None
    known: int = 0
    groups: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One dot of a write; attempts of one write share a group."""

    dot: Dot
    group: int
    seen: Seen
    write_id: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Message:
    to: int
    place: int
    copy: Copy
    hint_from: int = 0


Store = dict[int, Copy]


@dataclass(slots=True)
class Node:
    """`stores[0]` is synced, later ones are the tail that a power cut may take."""

    minter: Minter
    stores: list[Store] = field(default_factory=lambda: [{}])
    snapshot: tuple[Store, bytes, int] | None = None

    @property
    def live(self) -> Store:
        return self.stores[-1]

    def set(self, place: int, copy: Copy | None) -> None:
        store = dict(self.live)
        if copy is None:
            store.pop(place, None)
        else:
            store[place] = copy
        self.stores.append(store)

    def sync(self) -> None:
        del self.stores[:-1]


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class World:
    """`only` restricts the kinds of violation that count, to see one check at work."""

    def __init__(self, rng: Random, nodes: int, only: frozenset[str] | None = None) -> None:
        self.rng = rng
        self.only = only
        self.keyring = Keyring(1, {1: b"k" * 32})
        self.attempts: list[Attempt] = []
        self.groups = 0
        self.retried: set[int] = set()
        self.issued: dict[Dot, int] = {}
        self.messages: list[Message] = []
        self.steps: list[str] = []
        self.produced: list[bytes] = []
        self.checked: set[Copy] = set()
        self.nodes = {
            number: Node(Minter(number, rng.randbytes(8))) for number in range(1, nodes + 1)
        }

    # Where a test plants a bug.

    def plan_mark(self, number: int, place: int, copy: Copy | None) -> Dot | None:
        return copy.mark if copy else None

    def plan_dot(self, minter: Minter, mark: Dot | None) -> Dot:
        return minter.next_dot(mark)

    def plan_put(self, held: Object, context: Clock, sibling: Sibling) -> Object:
        return objects.put(held, context, sibling)

    def plan_merge(self, held: bytes | None, incoming: bytes) -> bytes:
        return objects.merge_bytes(held, incoming)

    def plan_put_context(self, sent: Clock, dot: Dot, stored: bytes) -> Clock:
        return sent.with_dot(dot)

    def plan_incarnation(self, node: Node, why: str) -> bytes:
        return self.rng.randbytes(8)

    # Steps.

    def write(
        self, number: int, place: int, seen: Seen, *, delete: bool = False, retry: int | None = None
    ) -> tuple[int, Seen]:
        """A put or delete minted in `place` of a node; gives the attempt and its context.

        `retry` repeats an earlier attempt: same write id, value and context.
        """
        node = self.nodes[number]
        copy = node.live.get(place)
        bit = 1 << len(self.attempts)
        if retry is None:
            group, self.groups = self.groups, self.groups + 1
            # Ids come from clients, so now and then one is used for another value.
            reused = self.attempts and not delete and self.rng.random() < 0.05
            write_id = self.attempts[-1].write_id if reused else group.to_bytes(16, "big")
            value = None if delete else b"%d" % group
        else:
            first = self.attempts[retry]
            self.retried.add(first.group)
            group, seen, write_id, value = first.group, first.seen, first.write_id, first.value
        if node.minter.births_left() == 0:
            node.minter.extended(node.minter.lease_end + LEASE)
        dot = self.plan_dot(node.minter, self.plan_mark(number, place, copy))
        self.step(
            f"{number} writes {value!r} at {place} as {dot_text(dot)}, known {seen.known:b}"
            + (f", again {retry}" if retry is not None else "")
        )
        self.expect(dot not in self.issued, "dot twice", dot_text(dot))
        held = objects.from_bytes(copy.data) if copy else ABSENT
        before = (dot[0], dot[1] - 1)
        self.expect(
            dot[1] == 1 or held.clock.covers(before), "broken actor", f"{dot_text(before)} unknown"
        )
        self.issued[dot] = len(self.attempts)
        self.attempts.append(Attempt(dot, group, seen, write_id, value))
        context = self.keyring.open(KEY, seen.token).clock if seen.token else EMPTY
        stamp = len(self.attempts) - 1  # says which attempt a sibling is; no code may order by it
        made = self.plan_put(held, context, Sibling(dot, write_id, stamp, "text/plain", value))
        known, kept = (copy.known, copy.kept) if copy else (0, 0)
        gone = {self.attempts[i].group for i in bits(kept & seen.known)}
        kept = sum(1 << i for i in bits(kept) if self.attempts[i].group not in gone)
        made_copy = Copy(objects.to_bytes(made), known | seen.known | bit, kept | bit, dot)
        self.store(number, place, made_copy)
        after = self.plan_put_context(context, dot, made_copy.data)
        token = self.keyring.seal(KEY, after.to_bytes())
        return stamp, Seen(token, seen.known | bit, seen.groups | 1 << group)

    def get(self, places: list[tuple[int, int]]) -> Seen:
        """What a reader learns from the merged answers of some (node, place)."""
        answer: Copy | None = None
        for number, place in places:
            copy = self.nodes[number].live.get(place)
            if copy:
                answer = self.merged(answer, copy)
        if answer is None:
            return Seen()
        held = objects.from_bytes(answer.data)
        visible = objects.shown(held)
        live = {self.attempts[s.written_ms].group for s in held.siblings if s.value is not None}
        self.expect(
            sorted(self.attempts[s.written_ms].group for s in visible) == sorted(live),
            "shown",
            "a live write is shown not exactly once",
        )
        groups = 0
        for sibling in held.siblings:
            attempt = self.attempts[sibling.written_ms]
            groups |= attempt.seen.groups | 1 << attempt.group
        for i in bits(answer.known):
            self.expect(groups >> self.attempts[i].group & 1, "context", f"claims unseen {i}")
        token = self.keyring.seal(KEY, objects.clock_bytes_of(answer.data))
        return Seen(token, answer.known, groups)

    def send(self, number: int, place: int, to: int, to_place: int) -> None:
        """The whole object leaves for another node, whatever becomes of it."""
        copy = self.nodes[number].live.get(place)
        if copy and number != to:
            hint_from = number if place == to and to_place == RECORD else 0
            self.messages.append(Message(to, to_place, replace(copy, mark=None), hint_from))
            self.step(f"{number} sends {place} to {to} at {to_place}")

    def deliver(self, index: int, *, again: bool = False) -> None:
        """A message arrives; a delivered hint is acknowledged once fsynced, then forgotten."""
        message = self.messages[index] if again else self.messages.pop(index)
        self.receive(message.to, message.place, message.copy)
        if message.hint_from:
            self.sync(message.to)
            hint = self.nodes[message.hint_from].live.get(message.to)
            if hint and hint.data == message.copy.data:
                self.forget(message.hint_from, message.to)

    def pull(self, number: int, source: int) -> None:
        copy = self.nodes[source].live.get(RECORD)
        if copy and number != source:
            self.receive(number, RECORD, copy)

    def receive(self, number: int, place: int, incoming: Copy) -> None:
        held = self.nodes[number].live.get(place)
        copy = replace(self.merged(held, incoming), mark=held.mark if held else None)
        self.step(f"{number} merges {incoming.kept:b} at {place}")
        self.store(number, place, copy)

    def forget(self, number: int, place: int) -> None:
        self.step(f"{number} forgets {place}")
        self.nodes[number].set(place, None)

    def sync(self, number: int) -> None:
        self.step(f"{number} syncs")
        self.nodes[number].sync()

    def restart(self, number: int, why: str, survives: int = -1) -> None:
        """`clean`, `kill`, `power cut` (up to `survives` of the tail stays) or `roll back`."""
        node = self.nodes[number]
        self.step(f"{number} restarts: {why} {survives}")
        incarnation, lease_end = node.minter.incarnation, node.minter.lease_end
        if why == "power cut":
            node.stores = [node.stores[min(survives, len(node.stores) - 1)]]
        elif why == "roll back" and node.snapshot:
            store, incarnation, lease_end = node.snapshot
            node.stores = [store]
        node.sync()
        if why != "clean":
            node.minter.incarnation = incarnation
            incarnation = self.plan_incarnation(node, why)
        node.minter = Minter(number, incarnation, lease_end, lease_end)

    def take_snapshot(self, number: int) -> None:
        node = self.nodes[number]
        self.step(f"{number} is snapshot")
        node.snapshot = (node.stores[0], node.minter.incarnation, node.minter.lease_end)

    # Checks.

    def settle(self) -> bytes | None:
        """Merge all that the nodes hold, in two orders, and check what remains."""
        places = [(n, p) for n, node in self.nodes.items() for p in node.live]
        final: Copy | None = None
        for _ in range(2):
            self.rng.shuffle(places)
            other = final
            final = None
            for number, place in places:
                final = self.merged(final, self.nodes[number].live[place])
            if other and final:
                self.expect(other.data == final.data, "diverged", "order of merges shows")
        if final is None:
            return None
        self.check(final)
        carried = {s.written_ms for s in objects.from_bytes(final.data).siblings}
        groups = {self.attempts[i].group for i in carried}
        seen = self.seen_by(final.known)
        for i in bits(final.known):
            group = self.attempts[i].group
            self.expect(group in groups or seen >> group & 1, "lost at the end", f"write {group}")
        for number, place in places:
            last = self.merged(self.nodes[number].live[place], final)
            self.expect(last.data == final.data, "diverged", f"{number} differs at the end")
        return final.data

    def check(self, copy: Copy) -> None:
        """Everything that must hold of any object anywhere."""
        if copy in self.checked:
            return
        held = objects.from_bytes(copy.data)
        carried = 0
        for sibling in held.siblings:
            carried |= 1 << sibling.written_ms
        known, kept = copy.known, copy.kept
        self.expect(not kept & ~carried, "lost", f"{kept & ~carried:b} of {kept:b}")
        self.expect(not carried & ~kept, "risen", f"{carried & ~kept:b} beside {kept:b}")
        covers, claimed = held.clock.covers, 0
        for i, attempt in enumerate(self.attempts):
            if covers(attempt.dot):
                claimed |= 1 << i
        size = sum(held.clock.vector.values()) + len(held.clock.dots)
        self.expect(
            claimed == known and size == known.bit_count(),
            "false claim",
            f"{held.clock} claims {size} dots, {claimed:b}, but knows {known:b}",
        )
        # The same once more from the authors' side, without the rules of put and merge.
        seen = self.seen_by(known)
        for i in bits(known):
            group = self.attempts[i].group
            if not carried >> i & 1:
                self.expect(seen >> group & 1, "dropped unseen", f"attempt {i}")
            elif group not in self.retried:  # else a late attempt may reappear
                self.expect(not seen >> group & 1, "ancestor", f"attempt {i}")
        self.checked.add(copy)

    def seen_by(self, known: int) -> int:
        seen = 0
        for i in bits(known):
            seen |= self.attempts[i].seen.groups
        return seen

    def merged(self, held: Copy | None, incoming: Copy) -> Copy:
        data = self.plan_merge(held.data if held else None, incoming.data)
        if held is None:
            return Copy(data, incoming.known, incoming.kept)
        both = held.kept & incoming.kept
        kept = both | held.kept & ~incoming.known | incoming.kept & ~held.known
        return Copy(data, held.known | incoming.known, kept)

    def store(self, number: int, place: int, copy: Copy) -> None:
        self.nodes[number].set(place, copy)
        self.produced.append(copy.data)
        self.check(copy)

    def step(self, text: str) -> None:
        self.steps.append(text)

    def expect(self, holds: object, kind: str, detail: str) -> None:
        if not holds and (self.only is None or kind in self.only):
            raise Violation(kind, detail, self.steps)
