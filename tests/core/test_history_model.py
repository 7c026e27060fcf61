"""The checker against a dumb store that keeps its promises: it is never accused.

The store is a handful of replicas, each a dictionary of versions, where a
version remembers the set of all versions before it. Reads ask some replicas,
so they may be old; writes reach some, so their outcome may be unknown; some
are tried twice. In the end all replicas are merged. Spoiled on purpose, the
same store is accused.
"""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core.history import (
    ACKNOWLEDGED,
    REFUSED,
    TOMBSTONE,
    UNKNOWN,
    History,
    Operation,
    ReplicaCopy,
    Shown,
    from_lines,
)
from dynamo_core.history_check import check
from dynamo_core.history_report import Report
from dynamo_core.versions import Clock, Dot

REPLICAS = 3
Known = frozenset[Dot]
Held = tuple[frozenset[Dot], Known]  # the dots carried, and all that are claimed


class Model:
    """One key. `spoil` names a mistake; "" is a good store."""

    def __init__(self, rng: Random, clocks: bool, spoil: str = "") -> None:
        self.rng = rng
        self.clocks = clocks
        self.spoil = spoil
        self.history = History()
        self.replicas: list[Held] = [(frozenset(), frozenset())] * REPLICAS
        self.value: dict[Dot, str] = {}  # "" is a tombstone
        self.counters: dict[bytes, int] = {}
        self.now = 0.0
        self.answers: list[tuple[str, Known]] = []

    def tick(self) -> float:
        self.now += 0.5
        return self.now

    def merged(self, one: Held, other: Held) -> Held:
        kept = {d for d in one[0] if d in other[0] or d not in other[1]}
        kept |= {d for d in other[0] if d in one[0] or d not in one[1]}
        if self.spoil == "one sibling only" and len(kept) > 1:
            kept = {max(kept)}
        return frozenset(kept), one[1] | other[1]

    def mint(self, at: int, seen: Known, value: str) -> Dot:
        # A new actor for each write, as a node that always forgets would take: single dots.
        actor = (len(self.value) + 1).to_bytes(16, "big")
        dot = (actor, 1)
        self.value[dot] = value
        kept, known = self.replicas[at]
        if self.spoil == "covers all":
            seen = seen | known
        gone = {self.value[d] for d in kept & seen} - {""}
        left = {d for d in kept - seen if self.value[d] not in gone}
        self.replicas[at] = frozenset(left | {dot}), known | seen | {dot}
        return dot

    def spread(self, at: int, to: int) -> None:
        self.replicas[to] = self.merged(self.replicas[to], self.replicas[at])

    def write(self, op: str) -> None:
        rng = self.rng
        name = f"w{len(self.history.operations)}"
        context, seen = (
            rng.choice(self.answers) if self.answers and rng.random() < 0.7 else ("", frozenset())
        )
        invoked = self.tick()
        if rng.random() < 0.05:
            self.record(name, op, invoked, REFUSED, context, None)
            return
        tries = 2 if rng.random() < 0.15 else 1
        reached = 0
        for _ in range(tries):
            at = rng.randrange(REPLICAS)
            dot = self.mint(at, seen, "" if op == "delete" else name)
            others = [to for to in range(REPLICAS) if to != at and rng.random() < 0.5]
            for to in others:
                self.spread(at, to)
            reached = 1 + len(others)
        if reached >= 2 or self.spoil == "acknowledged too early":
            if self.spoil == "acknowledged too early" and reached == 1 and rng.random() < 0.5:
                kept, known = self.replicas[at]
                self.replicas[at] = kept - {dot}, known - {dot}
            known = seen | {dot}
            self.record(name, op, invoked, ACKNOWLEDGED, context, known)
        else:
            self.record(name, op, invoked, UNKNOWN, context, None)

    def read(self, floor: bool) -> None:
        rng = self.rng
        invoked = self.tick()
        name = f"g{len(self.history.operations)}"
        context, wanted = rng.choice(self.answers) if floor and self.answers else ("", frozenset())
        answer: Held = (frozenset(), frozenset())
        for at in rng.sample(range(REPLICAS), rng.randint(1, 2)):
            answer = self.merged(answer, self.replicas[at])
        if not wanted <= answer[1] and self.spoil != "no floor":
            self.record(name, "get", invoked, REFUSED, context, None)
            return
        self.record(name, "get", invoked, ACKNOWLEDGED, context, answer[1], answer[0])

    def record(
        self, name: str, op: str, invoked: float, outcome: str, context: str,
        known: Known | None, shown: frozenset[Dot] = frozenset(),
    ) -> None:  # fmt: skip
        by_value = {self.value[dot]: dot for dot in sorted(shown) if self.value[dot]}
        self.history.operations.append(
            Operation(
                id=name, op=op, client="c", key="k", invoked=invoked, returned=self.tick(),
                outcome=outcome, context=context or None,
                shown=tuple(Shown(v, d if self.clocks else None) for v, d in by_value.items()),
                clock=Clock({}, known) if known is not None and self.clocks else None,
            )
        )  # fmt: skip
        if known is not None:
            self.answers = [*self.answers[-5:], (name, known)]

    def heal(self) -> None:
        for _ in range(2):
            for at in range(REPLICAS):
                for to in range(REPLICAS):
                    self.spread(at, to)
        if self.spoil == "resurrects" and self.value:
            back = min(self.value)
            if self.value[back]:
                self.replicas = [(k | {back}, known) for k, known in self.replicas]
        self.history.healed_at = self.tick()
        for _ in range(2):
            self.read(floor=False)
        for at, (kept, known) in enumerate(self.replicas):
            siblings = tuple(Shown(self.value[d] or TOMBSTONE, d) for d in sorted(kept))
            clock = Clock({}, known) if self.clocks else None
            self.history.replicas.append(
                ReplicaCopy(node=f"n{at}", key="k", siblings=siblings, clock=clock)
            )


def _run(seed: int, clocks: bool, steps: int, spoil: str = "") -> Report:
    rng = Random(seed)
    model = Model(rng, clocks, spoil)
    for _ in range(steps):
        choice = rng.random()
        if choice < 0.5:
            model.write("put")
        elif choice < 0.6:
            model.write("delete")
        elif choice < 0.9:
            model.read(floor=rng.random() < 0.5)
        else:
            model.spread(rng.randrange(REPLICAS), rng.randrange(REPLICAS))
    model.heal()
    return check(from_lines(model.history.lines()))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_a_good_store_is_never_accused(seed: int, steps: int) -> None:
    report = _run(seed, True, steps)
    assert report.ok, "\n".join(map(str, report.violations))


@pytest.mark.parametrize(
    "spoil", ["one sibling only", "covers all", "acknowledged too early", "no floor", "resurrects"]
)
def test_a_spoiled_store_is_accused(spoil: str) -> None:
    accused = sum(not _run(seed, True, 30, spoil).ok for seed in range(60))
    assert accused >= 6, accused
