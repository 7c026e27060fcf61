"""Clients of the model of reaping: writes, hints, reads and read repair, and what is true of them.

A message is bound to the processes at both of its ends, as one on a connection is.
"""

import random
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from tests.core.reaping_world import (
    ABSENT,
    MEMBERS,
    OWNERS,
    Member,
    Obj,
    P,
    R,
    W,
    merge,
)  # fmt: skip

WRITES_MAX = 40
NOBODY: Final[Mapping[int, int]] = {}


class Violation(Exception):
    """A property doesn't hold; the text says which."""


def _put(held: Obj, context: int, bit: int) -> Obj:
    return held[0] | context | bit, held[1] & ~context | bit


class Clients:
    """The members, the messages between them, and the truth of what was written."""

    def __init__(
        self,
        seed: int,
        faults: frozenset[str] = frozenset(),
        bad_max: int = 1,
        newcomers: Mapping[int, int] = NOBODY,
    ) -> None:
        self.random, self.faults, self.bad_max = random.Random(seed), faults, bad_max
        self.newcomers = newcomers
        """Member -> the epoch of the first ring that names it."""
        self.decided = 1
        """The epoch of the highest ring; whoever publishes it knows that one for ever."""
        self.members = {n: Member(n) for n in (*MEMBERS, *newcomers)}
        self.author: dict[int, int] = {}  # write -> the member that minted it
        self.now = 0
        self.messages: list[tuple[Any, ...]] = []
        self.held: list[tuple[Any, ...]] = []
        # The truth
        self.writes = 0
        self.tombs = 0
        self.cover: dict[int, int] = {}  # write -> the writes its author had seen
        self.acks: dict[int, set[int]] = {}
        self.acked = 0
        self.excused = 0  # writes whose every good holder was lost
        self.reaped: dict[int, int] = {}  # tombstone -> the round it was reaped in
        self.contexts = [0]
        self.bad: set[int] = set()
        self.weigh()
        self.commits = self.deletions = self.rolls = self.losses = self.later = 0

    # Rings

    def everybody(self, m: Member) -> list[int]:
        """Whom the ring that `m` holds names."""
        return [*MEMBERS, *(n for n, epoch in self.newcomers.items() if epoch <= m.ring)]

    def asides(self, m: Member) -> list[int]:
        return [n for n in self.everybody(m) if n not in OWNERS]

    def tell(self, m: Member) -> None:
        """All whom its ring names hold it too, or a higher one."""
        for n in self.everybody(m):
            self.members[n].ring = max(m.ring, self.members[n].ring)

    # Messages: a message is bound to the processes at both of its ends

    def send(self, kind: str, a: int, b: int, *data: Any) -> None:
        self.post((kind, a, self.members[a].inc, b, self.members[b].inc, data))

    def post(self, message: tuple[Any, ...]) -> None:
        held = self.random.random() < self.holding
        (self.held if held else self.messages).append(message)

    def say(self, kind: str, a: int, b: int, *data: Any) -> None:
        """Send once all that is in `a`'s memory is fsynced."""
        inc = self.members[b].inc

        def tell() -> None:
            self.post((kind, a, self.members[a].inc, b, inc, data))

        mutes = {"yes from memory": "answer", "confirm from memory": "confirm"}
        if any(kind == mutes.get(fault) for fault in self.faults):
            tell()
        else:
            self.members[a].say(tell)

    def deliver(self, at: int) -> None:
        kind, a, a_inc, b, b_inc, data = self.messages.pop(at)
        member = self.members[b]
        if member.inc != b_inc and not ("old bytes" in self.faults and kind == "write"):
            return
        getattr(self, "on_" + kind)(member, self.members[a], a_inc, *data)

    # Clients

    def write(self, number: int, context: int, tomb: bool) -> None:
        """A put or delete whose author had seen `context`, coordinated by member `number`."""
        m = self.members[number]
        if self.writes >= WRITES_MAX:
            return
        bit = 1 << self.writes
        self.writes += 1
        self.cover[bit] = context
        self.author[bit] = number
        self.acks[bit] = set()
        if tomb:
            self.tombs |= bit
        r = self.random
        down = r.choice(OWNERS) if not m.owner or r.random() < self.hinting else 0
        if m.owner:
            m.rec = obj = _put(m.rec, context, bit)
            stamp = m.stamp()
        else:
            held = m.hints().get(down, (ABSENT, 0, 0))[0]
            m.hint(down, _put(held, context, bit), m.stamp())
            obj, stamp, _ = m.hints()[down]
        m.say(partial(self.ack, bit, number))
        alone = (context | bit, bit)
        m.ops[bit] = [obj, stamp, m.rounds.agreed(P), alone, 3]
        for o in OWNERS:
            if o == number or (o == down and not m.owner):
                continue
            if o != down:
                self.send_write(m, bit, o, 0)
            elif r.random() < self.marking:
                m.mark(o)
            else:
                stand_in = r.choice([n for n in self.asides(m) if n != number])
                self.send_write(m, bit, stand_in, o)
        self.contexts.append(context | bit)

    def send_write(self, m: Member, bit: int, to: int, target: int, named: int = 0) -> None:
        """Send a write that this member coordinates, rebuilt where a round was promised since."""
        op = m.ops.get(bit)
        if op is None:
            return
        obj, stamp, agreed, alone, _ = op
        if "bytes of before" in self.faults:
            self.send("write", m.number, to, target, obj, stamp, bit)
            return
        if named or stamp < m.stamp():
            if m.rounds.agreed(P) <= agreed and "rebuilt whole" not in self.faults:
                obj, stamp = alone, max(named, stamp, m.stamp())
            else:
                obj, stamp = (
                    m.shows(),
                    max(m.stamp(), named if "rebuilt whole" in self.faults else 0),
                )
                if not obj[0] & bit and "rebuilt without" not in self.faults:
                    return
            op[:2] = [obj, stamp]
        if obj != ABSENT:
            self.send("write", m.number, to, target, obj, stamp, bit)

    def do_late(self, m: Member) -> None:
        """A coordinator turns to another node, long after it minted."""
        for m in self.members.values():
            for bit in list(m.ops)[-2:]:
                to = self.random.choice([n for n in self.everybody(m) if n != m.number])
                target = 0 if to in OWNERS else self.random.choice(OWNERS)
                self.send_write(m, bit, to, target)

    def ack(self, bit: int, number: int) -> None:
        acks = self.acks[bit]
        acks.add(number)
        if len(acks) >= W:
            self.acked |= bit

    def on_write(
        self, m: Member, a: Member, a_inc: int, target: int, obj: Obj, stamp: int, bit: int
    ) -> None:
        if not m.ring:
            return
        if target and target != m.number:
            if m.rounds.refuses_hint(P, stamp) and "older hints" not in self.faults:
                self.send("refused", m.number, a.number, target, bit, m.stamp())
                return
            m.hint(target, obj, stamp)
        elif m.owner:
            if m.rounds.refuses_write(P, stamp) and "older writes" not in self.faults:
                self.send("refused", m.number, a.number, target, bit, m.rounds.committed(P))
                return
            m.rec = merge(m.rec, obj)
        if bit:
            m.say(partial(self.ack, bit, m.number))

    def on_refused(
        self, m: Member, a: Member, a_inc: int, target: int, bit: int, named: int
    ) -> None:
        """Take a stand-in's round, durably, so as to say no to it; then send what is of it."""
        op = m.ops.get(bit)
        if op is None or not op[4]:
            return
        op[4] -= 1
        if "takes unsure" in self.faults or (target and m.sure):
            m.rounds.take(P, named)
        m.say(partial(self.send_write, m, bit, a.number, target, named))

    def hand_off(self, m: Member) -> None:
        for target, (obj, stamp, _) in m.hints().items():
            self.send("handed", m.number, target, obj, stamp)

    def on_handed(self, m: Member, a: Member, a_inc: int, obj: Obj, stamp: int) -> None:
        refused = m.rounds.refuses_write(P, stamp) and "older writes" not in self.faults
        if not refused:
            m.rec = merge(m.rec, obj)
        committed = m.rounds.committed(P) if refused else 0
        self.say("handoff", m.number, a.number, obj, committed, m.state().ring.epoch)

    def on_handoff(self, m: Member, a: Member, a_inc: int, obj: Obj, named: int, of: int) -> None:
        held, stamp, start = m.hints().get(a.number, (ABSENT, 0, 0))
        if held == ABSENT or held != obj:
            return
        ring = m.mem.get(("of ring", a.number), 0)
        later = ring > of or (ring >= of and "the round's own ring" in self.faults)
        if named and (later or (start == m.inc and m.rounds.agreed(P) <= stamp)):
            self.later += start != m.inc
            m.mem["hint", a.number] = (held, named, start)  # taken on this disk: newer than that
            return
        if named:
            m.mark(a.number)
        m.drop_hint(a.number)

    def read(self, by: int) -> None:
        """A quorum read: R owners that count, and perhaps a stand-in."""
        able = [n for n in OWNERS if self.members[n].counts]
        if len(able) < R:
            return
        asked = self.random.sample(able, R)
        answers = [(n, self.members[n].shows(), self.members[n].stamp()) for n in asked]
        if self.random.random() < 0.3:
            n = self.random.choice(self.asides(self.members[by]))
            if (obj := self.members[n].shows()) != ABSENT:
                answers.append((n, obj, self.members[n].stamp()))
        whole: Obj = ABSENT
        for _, obj, _ in answers:
            whole = merge(whole, obj)
        if len(self.bad) < W:  # with more, nobody need know until a good one is heard
            self.shown(whole, f"read of {asked}")
        self.contexts.append(whole[0])
        lowest = min(stamp for _, _, stamp in answers)
        stale = [n for n, obj, _ in answers if n in OWNERS and obj != whole]
        if stale and whole != ABSENT:
            self.members[by].gathered.append((whole, lowest, stale))

    def repair(self, m: Member) -> None:
        """Read repair, as late as can be."""
        whole, lowest, stale = m.gathered.pop(0)
        if lowest < m.stamp() and "late repairs" not in self.faults:
            return
        for n in stale:
            if n != m.number:
                self.send("write", m.number, n, 0, whole, lowest, 0)

    def shown(self, obj: Obj, where: str) -> None:
        for tomb in self.reaped:
            if tomb & self.excused:
                continue
            if back := obj[1] & self.cover[tomb] & ~self.tombs:
                raise Violation(f"{where}: {back:#b} shows again, reaped with {tomb:#b}")
