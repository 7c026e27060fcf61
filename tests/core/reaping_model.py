"""A model of reaping: every schedule that clients, the network and disks can make of it.

Five members (`reaping_world`), the first three own the partition, W = R = 2, and
one key; `reaping_newcomers` lets more of them come. Each step delivers, loses or
doubles a message, lets a member do the next bit of its work, or breaks something;
all from one seed. `faults` names rules to leave out, to see that the model catches
it; `bad_max` is how many disks may be lost or go back in time before repair has
spread what they held.

What must hold: a value that was deleted and reaped is never shown again by a
quorum; an acknowledged write that nobody superseded is at every owner in the end,
unless every good disk that had it was lost; and once faults stop, all owners count,
are equal, and tombstones go.
"""

from typing import Any

from tests.core.reaping_clients import Violation
from tests.core.reaping_rules import Rules
from tests.core.reaping_world import (
    ABSENT,
    MEMBERS,
    OWNERS,
    Member,
    Obj,
    P,
)  # fmt: skip

from dynamo_core.recovery import Lack

__all__ = ["Violation", "World", "run", "schedule"]


class World(Rules):
    """What breaks, when, and what must hold all the same."""

    # What breaks

    def crash(self, m: Member) -> None:
        m.start()

    def lose(self, m: Member) -> None:
        """The disk is gone; a new one is empty, and has been told a ring that names its node."""
        self.losses += 1
        rings = [o.ring for o in self.members.values() if o.ring and m.number in self.everybody(o)]
        disk = {"ring": self.random.choice(rings) if self.newcomers else 1}
        self.goes_bad(m, {**disk, "lack": Lack.EMPTY} if m.owner else disk)
        m.snapshots.clear()

    def roll_back(self, m: Member) -> None:
        """The disk is what it was at some earlier moment."""
        if m.snapshots:
            self.rolls += 1
            self.goes_bad(m, dict(self.random.choice(m.snapshots)))

    def goes_bad(self, m: Member, disk: dict[Any, Any]) -> None:
        """What no good disk has any more is excused: it may be lost, or come back."""
        had, knew = 0, m.disk_committed() if m.owner else -1
        for obj in m.holds():
            had |= obj[0]
        m.disk = disk
        m.start()
        self.bad.add(m.number)
        good = [o for n, o in self.members.items() if n not in self.bad]
        seen = 0
        for o in good:
            for obj in o.holds():
                seen |= obj[0]
        floor = max((o.disk_committed() for o in good if o.owner), default=-1)
        for at in range(self.writes):
            bit = 1 << at
            reaped = self.reaped.get(bit)
            was_here = had & bit or (reaped is not None and reaped <= knew)
            if was_here and not seen & bit and (reaped is None or reaped > floor):
                self.excused |= bit

    def repaired(self) -> bool:
        """Whether what bad disks held is everywhere again."""
        first = self.members[OWNERS[0]]
        if all(m.counts and m.rec == first.rec == m.disk.get("rec", ABSENT)
               and m.state().committed == first.state().committed
               for m in map(self.members.get, OWNERS) if m) and not any(
            m.hints() or m.stamp() < first.state().committed for m in self.members.values()
        ):  # fmt: skip
            self.bad.clear()
            return True
        return False

    # Steps

    def weigh(self) -> None:
        """Each seed has its own habits: what all of them do at once, none does often enough."""
        r = self.random
        weights = {
            "flow": 10, "fsync": 2, "write": 3, "read": 4, "repair": 3, "hand": 3, "compare": 4,
            "marks": 2, "propose": 2, "resend": 2, "work": 3, "snapshot": 3, "release": 5,
            "late": 2,
            "crash": 3, "drop": 1, "double": 1, "break": 5,
        }  # fmt: skip
        for name in weights:
            weights[name] *= r.choice((0.1, 1, 1, 3))
        self.names, self.weights = list(weights), list(weights.values())
        self.hinting = r.choice((0.0, 0.1, 0.4))
        self.marking = r.choice((0.0, 0.0, 0.3))
        self.second = r.choice((0.0, 0.0, 0.4))
        self.losing = r.choice((0.0, 0.3, 0.7))
        self.holding = r.choice((0.0, 0.03, 0.1, 0.2))
        self.handing = r.choice((0.3, 0.9))
        self.chaos = r.choice((0.2, 0.4, 0.6))
        self.script: list[str] = []

    def step(self) -> None:
        """The next of a key's life: written, read, deleted, reaped; or something in between."""
        self.now += 1
        r = self.random
        m = self.members[r.choice(MEMBERS)]
        if r.random() < self.chaos:
            getattr(self, "do_" + r.choices(self.names, self.weights)[0])(m)
            return
        if not self.script:
            for name, chance in (("write", 0.9), ("calm", 0.7), ("snapshot", 0.5), ("read", 0.5),
                                 ("delete", 1), ("calm", 0.7), ("snapshot", 0.3), ("calm", 0.7),
                                 ("round", 1), ("snapshot", 0.3), ("calm", 0.5),
                                 ("round", 0.5), ("round", 0.3)):  # fmt: skip
                if r.random() < chance:
                    self.script.append(name)
        getattr(self, "do_" + self.script.pop(0))(m)

    def do_flow(self, m: Member) -> None:
        """Messages arrive in order, and most of what is said waits for its fsync only briefly."""
        for _ in range(self.random.choice((3, 10, 30))):
            for m in self.members.values():
                if m.pending and self.random.random() < 0.5:
                    m.fsync()
            if self.messages:
                self.deliver(0)

    def do_release(self, m: Member) -> None:
        if self.held:
            self.messages.append(self.held.pop(self.random.randrange(len(self.held))))

    def do_fsync(self, m: Member) -> None:
        m.fsync()

    def client(self, m: Member) -> int:
        if m.owner or self.random.random() < self.hinting:
            return m.number
        return self.random.choice(OWNERS)

    def do_write(self, m: Member) -> None:
        self.write(self.client(m), self.random.choice((0, self.contexts[-1])), tomb=False)

    def do_delete(self, m: Member) -> None:
        self.read(m.number)
        self.write(self.client(m), self.contexts[-1], tomb=True)

    def do_read(self, m: Member) -> None:
        self.read(m.number)

    def do_repair(self, m: Member) -> None:
        for m in self.members.values():
            if m.gathered:
                self.repair(m)
                return

    def do_hand(self, m: Member) -> None:
        for m in self.members.values():
            if self.random.random() < self.handing:
                self.hand_off(m)

    def do_compare(self, m: Member) -> None:
        for _ in range(self.random.choice((1, 3))):
            self.compare(*self.random.sample(OWNERS, 2))

    def do_marks(self, m: Member) -> None:
        for m in self.members.values():
            self.clear_marks(m)

    def do_propose(self, m: Member) -> None:
        first = self.members[2 if self.random.random() < self.second else 1]
        if first.attempt is not None and self.random.random() < 0.1:
            self.give_up(first)
        self.propose(first)

    def do_round(self, m: Member) -> None:
        """A round, cut off anywhere, or broken in its midst."""
        self.do_propose(m)
        steps = self.random.choice((5, 10, 16, 24, 40, 60))
        breaks = self.random.randrange(steps) if self.random.random() < self.chaos else -1
        for at in range(steps):
            if at == breaks:
                self.do_break(m)
            self.hurry()

    def hurry(self) -> None:
        for m in self.members.values():
            if m.pending and self.random.random() < 0.9:
                m.fsync()
        if self.messages:
            self.deliver(0)

    def do_calm(self, m: Member) -> None:
        """Background work gets its time, but for what is held."""
        self.do_hand(m)
        for n in MEMBERS:
            self.work(self.members[n])
        self.do_compare(m)
        for _ in range(80):
            self.hurry()

    def do_resend(self, m: Member) -> None:
        for n in OWNERS:
            self.resend(self.members[n])

    def do_work(self, m: Member) -> None:
        for n in MEMBERS:
            self.work(self.members[n])

    def do_snapshot(self, m: Member) -> None:
        for m in self.members.values():
            if self.random.random() < 0.6:
                m.snapshot()

    def do_crash(self, m: Member) -> None:
        self.crash(m)

    def do_drop(self, m: Member) -> None:
        if self.messages:
            self.messages.pop(self.random.randrange(len(self.messages)))

    def do_double(self, m: Member) -> None:
        if self.messages:
            self.messages.append(self.random.choice(self.messages))

    def do_break(self, m: Member) -> None:
        """A disk is lost or goes back in time; what was under way meets what came after it."""
        if self.random.random() < 0.7:
            m = self.members[self.random.choice(OWNERS)]
        self.repaired()
        if len(self.bad) < self.bad_max or m.number in self.bad:
            (self.lose if self.random.random() < self.losing else self.roll_back)(m)
            for name in self.random.sample(
                ("repair", "late", "hand", "release", "read", "resend"), 2
            ):
                getattr(self, "do_" + name)(m)

    def heal(self, turns: int = 60) -> None:
        """No faults any more: everything that is due is done, in turns."""
        self.members[OWNERS[0]].ring = self.decided
        self.holding = 0.0
        self.messages += self.held
        self.held = []
        for turn in range(turns):
            for m in self.members.values():
                m.fsync()
                if m.ring:
                    self.tell(m)
                self.hand_off(m)
                self.clear_marks(m)
                self.resend(m)
                if m.owner:
                    for o in OWNERS:
                        if o != m.number:
                            self.ask_rounds(m, o)
                            if m.lack != Lack.NOTHING:
                                self.send("pull", m.number, o)
                            else:
                                self.compare(m.number, o)
                    if m.lack != Lack.NOTHING:
                        self.judge(m)
            self.drain()
            if turn % 4 == 3:
                for o in OWNERS:
                    if self.members[o].attempt is not None:
                        self.give_up(self.members[o])
                self.propose(self.members[1])
                self.drain()
            if self.settled():
                return
        self.stuck()

    def drain(self) -> None:
        for _ in range(3000):
            if not self.messages:
                for m in self.members.values():
                    m.fsync()
                if not self.messages:
                    return
            self.deliver(0)
        raise Violation("messages without end")

    def settled(self) -> bool:
        group = [self.members[n] for n in OWNERS]
        rec = group[0].rec
        return (
            all(m.counts and m.rec == rec and m.rounds.kept(P) is None for m in group)
            and len({m.state().committed for m in group}) == 1
            and not any(m.hints() or m.marks() for m in self.members.values())
            and not (rec != ABSENT and not rec[1] & ~self.tombs)
        )

    def stuck(self) -> None:
        lines = [
            f"{n}: rec {m.rec} {m.state()} kept {m.rounds.kept(P)} lack {m.lack} sure {m.sure} "
            f"hints {m.hints()} marks {m.marks()} told {m.told} merged {m.merged}"
            for n, m in self.members.items()
        ]
        raise Violation("not settled:\n" + "\n".join(lines))

    def check_end(self) -> None:
        rec = self.members[OWNERS[0]].rec
        self.shown(rec, "at the end")
        covered = 0
        for bit in self.cover:
            covered |= self.cover[bit]
        for at in range(self.writes):
            bit = 1 << at
            if not self.acked & bit or self.excused & bit:
                continue
            if not bit & (covered | self.tombs) and not rec[1] & bit:
                raise Violation(f"acknowledged write {bit:#b} is lost")
            if back := rec[1] & self.cover[bit]:
                raise Violation(f"{back:#b} lives although {bit:#b} had seen it")


def run(
    seed: int, steps: int = 80, faults: frozenset[str] = frozenset(), bad_max: int = 1
) -> World:
    """A history at random: keys live, and everything else happens."""
    world = World(seed, faults, bad_max)
    for _ in range(steps):
        world.step()
    world.heal()
    world.check_end()
    return world


def schedule(seed: int, faults: frozenset[str] = frozenset()) -> World:
    """One value written, deleted and reaped; one thing of before kept back, one disk broken.

    The small scope in which most rules have their schedule: what is kept back, where it
    goes, what breaks, and when each happens, is drawn from the seed.
    """
    world = World(seed, faults, 1)
    r = world.random
    world.holding = world.marking = 0.0
    world.hinting, world.handing = 0.0, 1.0
    members = [world.members[n] for n in MEMBERS]

    def calm(turns: int) -> None:
        for _ in range(turns):
            world.do_calm(members[0])

    def snapshot() -> None:
        for m in members:
            m.fsync()
            m.snapshot()

    calm(3)
    snapshot()
    what, target = r.choice(("repair", "late", "hint", "message", "aside")), r.choice(OWNERS)
    by = world.members[r.choice([n for n in MEMBERS if n != target])]
    world.write(r.choice(OWNERS) if what != "late" or by.owner else by.number, 0, tomb=False)
    value = world.contexts[-1]
    if r.random() < 0.8:
        calm(3)
        snapshot()
    aside = world.members[r.choice([n for n in MEMBERS if n not in OWNERS])]
    obj: Obj = (value, value)
    if what == "repair":
        by.gathered.append((obj, by.stamp(), [target]))
    kept_back: list[tuple[Any, ...]] = []
    if what in ("message", "aside"):
        to, hint_for = (target, 0) if what == "message" else (aside.number, target)
        if to != by.number:
            data = (hint_for, obj, by.stamp(), 0)
            kept_back.append(("write", by.number, by.inc, to, world.members[to].inc, data))
    if what == "hint" and r.random() < 0.7:
        aside.hint(target, obj, aside.stamp())
    world.write(r.choice(OWNERS), value, tomb=True)
    for _ in range(2):
        world.do_compare(members[0])
        for _ in range(60):
            world.hurry()
    if what == "hint" and not aside.hints():
        aside.hint(target, obj, aside.stamp())  # it had been away
    snapshot()
    for turn in range(2):
        breaks, frees = r.randrange(60), r.randrange(80)
        broken = turn or r.random() < 0.1
        for at in range(80):
            if at == 0:
                world.propose(members[0])
            if at == 40 and r.random() < 0.5:
                snapshot()
            if at == breaks and not broken:
                broken = True
                m = world.members[r.choice(OWNERS) if r.random() < 0.8 else r.choice(MEMBERS)]
                how = r.random()
                (world.crash if how < 0.2 else world.lose if how < 0.5 else world.roll_back)(m)
                if r.random() < 0.6:
                    frees = at + r.randrange(4)
            if at == frees:
                world.messages += kept_back
                kept_back = []
                if by.gathered:
                    world.repair(by)
                if what == "late":
                    for bit in by.ops:
                        world.send_write(by, bit, target, 0)
                world.hand_off(aside)
            if r.random() < 0.1:
                world.do_work(members[0])
            if r.random() < 0.1:
                world.do_resend(members[0])
            if r.random() < 0.1:
                world.read(r.choice(MEMBERS))
            if r.random() < 0.8:
                world.hurry()
        if r.random() < 0.5:
            calm(2)
    world.heal()
    world.check_end()
    return world
