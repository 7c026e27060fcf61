"""The model of versions: one key, random histories, nothing unseen is ever dropped.

Two drivers share `one_key.World`: plain seeded random histories (fast, many;
DYNAMO_MODEL_HISTORIES raises their number) and a hypothesis state machine
(slower, but it shrinks a failure to few steps). Planted bugs prove that the
checks can fail.
"""

import os
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.core.one_key import RECORD, Copy, Node, Seen, Violation, World
from tests.core.one_key_histories import random_history

from dynamo_core import objects
from dynamo_core.actors import Minter, actor_bytes
from dynamo_core.objects import Object, Sibling
from dynamo_core.versions import Clock, Dot

HISTORIES = int(os.environ.get("DYNAMO_MODEL_HISTORIES", "3000"))
LOST_ONLY = frozenset({"lost at the end"})


def run(seed: int, world: Callable[..., World] = World, only: frozenset[str] | None = None) -> None:
    """One history; nodes, length and every step come from `seed`."""
    rng = Random(seed)
    random_history(world(rng, rng.randint(3, 5), only), rng.randint(10, 60))


@pytest.mark.timeout(120 + HISTORIES // 20)
def test_random_histories_drop_nothing_unseen() -> None:
    for seed in range(HISTORIES):
        try:
            run(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}", pytrace=False)


# Planted bugs. Each is one rule of the design left out.


class MarkOutlivesRecord(World):
    """A node goes on with its actor though the record in which it minted is gone."""

    def plan_mark(self, number: int, place: int, copy: Copy | None) -> Dot | None:
        mine = [d for d in self.issued if d[0][4:12] == self.nodes[number].minter.incarnation]
        return mine[-1] if mine else None


class PlainVector(World):
    """No single dots: the highest counter of an actor claims all below it."""

    def plan_put(self, held: Object, context: Clock, sibling: Sibling) -> Object:
        made = objects.put(held, context, sibling)
        return Object(self.flat(made.clock), made.siblings)

    def plan_put_context(self, sent: Clock, dot: Dot, stored: bytes) -> Clock:
        return self.flat(super().plan_put_context(sent, dot, stored))

    @staticmethod
    def flat(clock: Clock) -> Clock:
        vector = dict(clock.vector)
        for actor, n in clock.dots:
            vector[actor] = max(n, vector.get(actor, 0))
        return Clock(vector)


class PlainVectorContext(PlainVector):
    """Only contexts lose their single dots: a PUT's then claims what was not shown."""

    def plan_put(self, held: Object, context: Clock, sibling: Sibling) -> Object:
        return objects.put(held, context, sibling)


class MarkOutlivesRecordPlainVector(MarkOutlivesRecord, PlainVector):
    """Schedule 1 as it was lost: actor without birth, clock without single dots."""


class NodeWideCounter(PlainVector):
    """One counter per node for all keys in a plain vector; other keys move it on, too."""

    def plan_dot(self, minter: Minter, mark: Dot | None) -> Dot:
        minter.next_birth += 1
        minter.lease_end = max(minter.lease_end, minter.next_birth)
        return actor_bytes(minter.number, minter.incarnation, 1), minter.next_birth

    def expect(self, holds: object, kind: str, detail: str) -> None:
        if kind not in {"broken actor", "false claim"}:  # it is wrong about these by nature
            super().expect(holds, kind, detail)


class CounterStartsOver(World):
    """The mark is lost with the record, but the actor is kept: counters start at 1 again."""

    def plan_dot(self, minter: Minter, mark: Dot | None) -> Dot:
        if mark and mark[0][4:12] == minter.incarnation:
            return mark[0], mark[1] + 1
        return actor_bytes(minter.number, minter.incarnation, 1), 1


class SameIncarnation(World):
    """The incarnation goes on after a start that was not clean."""

    why = "power cut"

    def plan_incarnation(self, node: Node, why: str) -> bytes:
        return node.minter.incarnation if why == self.why else super().plan_incarnation(node, why)


class SameIncarnationAfterRollBack(SameIncarnation):
    """A volume's snapshot is taken for the state of a clean shutdown; no peer is asked."""

    why = "roll back"


class StoredClockAsContext(World):
    """A PUT answers the clock it stored: siblings that the client never saw are claimed."""

    def plan_put_context(self, sent: Clock, dot: Dot, stored: bytes) -> Clock:
        return objects.clock_of(stored)


class LoneSiblings(World):
    """A replica takes one sibling of what arrives, but the whole clock."""

    def plan_merge(self, held: bytes | None, incoming: bytes) -> bytes:
        clock, siblings = objects.from_bytes(incoming)
        return super().plan_merge(held, objects.to_bytes(Object(clock, siblings[:1])))


class TakesAll(World):
    """Merge as a union of siblings: nothing is lost, but what was superseded comes back."""

    def plan_merge(self, held: bytes | None, incoming: bytes) -> bytes:
        if held is None:
            return incoming
        a, b = objects.from_bytes(held), objects.from_bytes(incoming)
        siblings = sorted({*a.siblings, *b.siblings}, key=lambda s: s.dot)
        return objects.to_bytes(Object(a.clock.join(b.clock), tuple(siblings)))


def first_caught(
    world: Callable[..., World], bound: int, only: frozenset[str] | None = None
) -> tuple[int, str]:
    """The number of histories until a planted bug shows, and as what."""
    for seed in range(bound):
        try:
            run(seed, world, only)
        except Violation as violation:
            return seed + 1, violation.kind
    pytest.fail(f"{world.__name__} was not caught in {bound} histories")


@pytest.mark.parametrize(
    ("world", "kinds"),
    [
        (MarkOutlivesRecord, {"broken actor"}),
        (MarkOutlivesRecordPlainVector, {"broken actor", "false claim"}),
        (PlainVectorContext, {"lost", "false claim"}),
        (NodeWideCounter, {"lost", "dropped unseen", "context"}),
        (CounterStartsOver, {"dot twice"}),
        (SameIncarnation, {"dot twice"}),
        (SameIncarnationAfterRollBack, {"dot twice"}),
        (StoredClockAsContext, {"lost", "false claim"}),
        (LoneSiblings, {"lost", "context"}),
        (TakesAll, {"risen"}),
    ],
)
def test_planted_bug_is_caught(world: Callable[..., World], kinds: set[str]) -> None:
    histories, kind = first_caught(world, 300)
    assert kind in kinds, f"caught after {histories} as {kind}"


@pytest.mark.parametrize(
    "world",
    [
        MarkOutlivesRecordPlainVector,
        PlainVectorContext,
        NodeWideCounter,
        CounterStartsOver,
        SameIncarnation,
        SameIncarnationAfterRollBack,
        StoredClockAsContext,
        LoneSiblings,
    ],
)
def test_planted_bug_loses_a_value_at_the_end(world: Callable[..., World]) -> None:
    """Caught also by the last check alone: a value gone that no later author had seen."""
    histories, kind = first_caught(world, 3000, LOST_ONLY)
    assert kind == "lost at the end", histories


class Machine(RuleBasedStateMachine):
    """The same steps, drawn by hypothesis so that a failure shrinks."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Random(7), 4)
        self.sessions = [Seen(), Seen()]

    node = st.integers(1, 4)
    place = st.sampled_from([RECORD, RECORD, 1, 2, 3, 4])
    session = st.integers(0, 1)

    @rule(number=node, place=place, who=session, delete=st.booleans())
    def write_with_session(self, number: int, place: int, who: int, delete: bool) -> None:
        place = RECORD if place == number else place
        _, self.sessions[who] = self.world.write(number, place, self.sessions[who], delete=delete)

    @rule(number=node, place=place, who=session)
    def write_blind(self, number: int, place: int, who: int) -> None:
        place = RECORD if place == number else place
        _, self.sessions[who] = self.world.write(number, place, Seen())

    @precondition(lambda self: self.world.attempts)
    @rule(number=node, data=st.data())
    def retry(self, number: int, data: st.DataObject) -> None:
        attempt = data.draw(st.integers(0, len(self.world.attempts) - 1))
        self.world.write(number, RECORD, Seen(), retry=attempt)

    @rule(who=session, asked=st.lists(st.tuples(node, place), min_size=1, max_size=4))
    def get(self, who: int, asked: list[tuple[int, int]]) -> None:
        self.sessions[who] = self.world.get(asked)

    @rule(number=node, place=place, to=node, at=place)
    def send(self, number: int, place: int, to: int, at: int) -> None:
        self.world.send(number, place, to, RECORD if at == to else at)

    @precondition(lambda self: self.world.messages)
    @rule(data=st.data(), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        index = data.draw(st.integers(0, len(self.world.messages) - 1))
        self.world.deliver(index, again=again)

    @rule(number=node, place=place)
    def forget(self, number: int, place: int) -> None:
        self.world.forget(number, place)

    @rule(number=node, source=node)
    def pull(self, number: int, source: int) -> None:
        self.world.pull(number, source)

    @rule(number=node)
    def sync(self, number: int) -> None:
        self.world.sync(number)

    @rule(number=node, survives=st.integers(0, 3))
    def power_cut(self, number: int, survives: int) -> None:
        self.world.restart(number, "power cut", survives)

    @rule(number=node, why=st.sampled_from(["clean", "kill"]))
    def restart(self, number: int, why: str) -> None:
        self.world.restart(number, why)

    @rule(number=node)
    def take_snapshot(self, number: int) -> None:
        self.world.take_snapshot(number)

    @precondition(lambda self: any(n.snapshot for n in self.world.nodes.values()))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        numbers = [n for n, node in self.world.nodes.items() if node.snapshot]
        self.world.restart(data.draw(st.sampled_from(numbers)), "roll back")

    @invariant()
    def merges_without_loss(self) -> None:
        self.world.settle()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
