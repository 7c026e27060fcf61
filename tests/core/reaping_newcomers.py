"""Members that come later, in the model of reaping: hints that no round was asked about.

Rings are numbered; each names all members of the one before, and perhaps a newcomer. Who
holds a lower one hears of it late. A newcomer's hints lie about while what they hold is
deleted, its node is started again, and its disk is lost or goes back in time.
"""

from collections.abc import Mapping
from typing import Final

from tests.core.reaping_model import World
from tests.core.reaping_world import MEMBERS, OWNERS

NEWCOMERS: Final[Mapping[int, int]] = {6: 2, 7: 3}


class Newcomers(World):
    """What may happen, one thing after another; `run` draws which."""

    def __init__(self, seed: int, faults: frozenset[str], bad_max: int) -> None:
        super().__init__(seed, faults, bad_max, NEWCOMERS)
        r = self.random
        self.holding = self.marking = self.hinting = 0.0
        self.handing = r.choice((0.3, 1.0))
        self.telling = r.choice((0.1, 0.3, 1.0))
        self.hands_all_the_time = r.random() < 0.4

    def newcomer(self) -> int:
        """One who takes part by now, if there is one; else another one who owns nothing."""
        others = [n for n, m in self.members.items() if m.ring and n not in OWNERS]
        return self.random.choice([n for n in others if n not in MEMBERS] or others)

    def work_for(self, turns: int) -> None:
        if self.hands_all_the_time:
            self.do_hand(self.members[1])
        self.do_work(self.members[1])
        self.do_compare(self.members[1])
        for _ in range(turns):
            self.hurry()

    def ring(self) -> None:
        """Another ring is decided, and one node hears of it, often one that it names first."""
        if self.decided <= max(NEWCOMERS.values()):
            self.decided += 1
            named = [n for n in self.members if NEWCOMERS.get(n, 1) <= self.decided]
            first = [n for n in named if n in NEWCOMERS and self.random.random() < 0.5]
            self.members[self.random.choice(first or named)].ring = self.decided

    def told(self) -> None:
        for m in self.members.values():
            if m.ring and self.random.random() < self.telling:
                self.tell(m)

    def hint(self) -> None:
        """A newcomer mints; often nothing of it arrives, and it keeps what it has minted."""
        number = self.newcomer()
        self.write(number, self.random.choice((0, self.contexts[-1])), tomb=False)
        if self.random.random() < 0.5:
            self.members[number].fsync()
            self.messages = [m for m in self.messages if m[1] != number]

    def write_here(self) -> None:
        self.hinting = self.random.choice((0.0, 0.0, 0.5))  # whether somebody keeps a hint
        self.write(self.random.choice(OWNERS), self.random.choice((0, self.contexts[-1])), False)
        self.hinting = 0.0

    def delete(self) -> None:
        self.write(self.random.choice(OWNERS), self.random.choice(self.contexts[-2:]), tomb=True)
        if self.random.random() < 0.7:
            self.work_for(60)

    def round(self) -> None:
        self.propose(self.members[self.random.choice((1, 1, 2))])
        for _ in range(self.random.choice((20, 60))):
            self.hurry()

    def hands(self) -> None:
        self.do_hand(self.members[1])
        self.work_for(30)

    def snapshots(self) -> None:
        for m in self.members.values():
            if self.random.random() < 0.7:
                m.fsync()
                m.snapshot()

    def crashes(self) -> None:
        self.crash(self.members[self.newcomer()])

    def breaks(self) -> None:
        m = self.members[self.newcomer()]
        self.repaired()
        if len(self.bad) < self.bad_max or m.number in self.bad:
            (self.lose if self.random.random() < 0.4 else self.roll_back)(m)

    def lists(self) -> None:
        self.do_resend(self.members[1])
        self.work_for(30)

    def works(self) -> None:
        self.work_for(60)


LIFE: Final = (
    ("write_here", 0.7), ("works", 1), ("delete", 0.7), ("round", 0.7), ("lists", 0.7),
    ("ring", 0.9), ("told", 0.4), ("hint", 0.9), ("snapshots", 0.7), ("told", 0.3),
    ("hands", 0.5), ("delete", 0.9), ("works", 0.9), ("told", 0.3), ("round", 0.9), ("works", 0.7),
    ("lists", 0.9), ("told", 0.5), ("crashes", 0.3), ("breaks", 0.4), ("hands", 0.8),
)  # fmt: skip
"""What becomes of a newcomer's hint, and how often each part of it does."""


def run(seed: int, faults: frozenset[str] = frozenset(), bad_max: int = 1) -> Newcomers:
    world = Newcomers(seed, faults, bad_max)
    r = world.random
    chaos = r.choice((0.0, 0.1, 0.3))
    for _ in range(2):
        for name, chance in LIFE:
            if r.random() < chance:
                getattr(world, name)()
            while r.random() < chaos:
                getattr(world, r.choice(LIFE)[0])()
    world.heal()
    world.check_end()
    return world
