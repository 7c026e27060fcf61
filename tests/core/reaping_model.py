"""A model of reaping: every schedule that clients, the network and disks can make of it.

Five members (`reaping_world`), the first three own the partition, W = R = 2, and
one key. Each step delivers, loses or doubles a message, lets a member do the next
bit of its work, or breaks something; all from one seed. `faults` names rules to
leave out, to see that the model catches it; `bad_max` is how many disks may be lost
or go back in time before repair has spread what they held.

What must hold: a value that was deleted and reaped is never shown again by a
quorum; an acknowledged write that nobody superseded is at every owner in the end,
unless every good disk that had it was lost; and once faults stop, all owners count,
are equal, and tombstones go.
"""

import random
from functools import partial
from typing import Any

from tests.core.reaping_world import (
    ABSENT,
    MEMBERS,
    OWNERS,
    RING,
    Member,
    Obj,
    P,
    R,
    W,
    candidate,
    leaf,
    merge,
)  # fmt: skip

from dynamo_core import copies, recovery, returning
from dynamo_core.copies import Holding
from dynamo_core.reaping import Answer, Attempt, Circumstances, Prepare, refusal
from dynamo_core.recovery import Lack
from dynamo_core.returning import Step
from dynamo_core.rounds import Kept

WRITES_MAX = 40


class Violation(Exception):
    """A property doesn't hold; the text says which."""


def _put(held: Obj, context: int, bit: int) -> Obj:
    return held[0] | context | bit, held[1] & ~context | bit


class World:
    def __init__(self, seed: int, faults: frozenset[str] = frozenset(), bad_max: int = 1) -> None:
        self.random, self.faults, self.bad_max = random.Random(seed), faults, bad_max
        self.members = {n: Member(n) for n in MEMBERS}
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
        self.commits = self.deletions = self.rolls = self.losses = 0

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

        if ("yes from memory" in self.faults and kind == "answer") or ("confirm from memory" in self.faults and kind == "confirm"):
            tell()
        else:
            self.members[a].say(tell)

    def deliver(self, at: int) -> None:
        kind, a, a_inc, b, b_inc, data = self.messages.pop(at)
        member = self.members[b]
        if member.inc != b_inc:
            if "old bytes" not in self.faults or kind != "write":
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
                stand_in = r.choice([n for n in MEMBERS if n not in OWNERS and n != number])
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
                obj, stamp = m.shows(), max(m.stamp(), named if "rebuilt whole" in self.faults else 0)
                if not obj[0] & bit and "rebuilt without" not in self.faults:
                    return
            op[:2] = [obj, stamp]
        if obj != ABSENT:
            self.send("write", m.number, to, target, obj, stamp, bit)

    def do_late(self, m: Member) -> None:
        """A coordinator turns to another node, long after it minted."""
        for m in self.members.values():
            for bit in list(m.ops)[-2:]:
                to = self.random.choice([n for n in MEMBERS if n != m.number])
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
        self.say("handoff", m.number, a.number, obj, m.rounds.committed(P) if refused else 0)

    def on_handoff(self, m: Member, a: Member, a_inc: int, obj: Obj, named: int) -> None:
        held, stamp, start = m.hints().get(a.number, (ABSENT, 0, 0))
        if held == ABSENT or held != obj:
            return
        if named and start == m.inc and m.rounds.agreed(P) <= stamp:
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
            n = self.random.choice([n for n in MEMBERS if n not in OWNERS])
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

    # Anti-entropy

    def compare(self, a: int, b: int) -> None:
        x, y = self.members[a], self.members[b]
        if x.lack == Lack.NOTHING and y.lack == Lack.NOTHING:
            self.send("fetch", a, b, x.rec, x.state().committed)

    def on_fetch(self, m: Member, a: Member, a_inc: int, theirs: Obj, committed: int) -> None:
        if m.lack != Lack.NOTHING:
            return
        if committed != m.rounds.committed(P):
            self.ask_rounds(m, a.number)
        reaped = m.is_reaped() and "copies reaped" not in self.faults
        self.say("fetched", m.number, a.number, theirs, m.rec, m.stamp(), reaped,
                 m.rounds.committed(P))  # fmt: skip

    def on_fetched(self, m: Member, a: Member, a_inc: int, asked: Obj, theirs: Obj, stamp: int,
                   reaped: bool, committed: int) -> None:  # fmt: skip
        if committed != m.rounds.committed(P):
            self.ask_rounds(m, a.number)
        if m.lack != Lack.NOTHING:
            return
        if reaped or (m.is_reaped() and "copies reaped" not in self.faults):
            return
        if theirs != m.rec:
            if m.rounds.refuses_write(P, stamp) and "older writes" not in self.faults:
                return
            m.rec = merge(m.rec, theirs)
        if m.rec != theirs:
            self.send("write", m.number, a.number, 0, m.rec, m.stamp(), 0)
        elif a.number in m.marks() and m.rec == asked:
            m.clear(a.number)

    def clear_marks(self, m: Member) -> None:
        """A stand-in: once it keeps no hint, its target must agree with all owners."""
        if m.hints():
            return
        for target in m.marks():
            group = [self.members[o] for o in OWNERS]
            if target in OWNERS and all(o.counts and o.rec == o.disk.get("rec", ABSENT) == group[0].rec
                                        for o in group):  # fmt: skip
                m.clear(target)

    # Rounds

    def propose(self, m: Member) -> None:
        if m.attempt is not None or not m.counts or m.rounds.kept(P) is not None:
            return
        if m.rec == ABSENT or m.rec[1] & ~self.tombs:
            return
        base = m.rounds.committed(P)
        prepare = Prepare(P, m.stamp() + 1, RING, (candidate(m.rec),))
        m.attempt = [Attempt(prepare, MEMBERS, OWNERS), set(), m.rec[1], base]
        m.attempt[0].answered(m.number, self.answer(m, prepare, base))
        m.fsync()
        for n in MEMBERS:
            if n != m.number:
                self.send("prepare", m.number, n, prepare, base)

    def answer(self, m: Member, prepare: Prepare, base: int) -> Answer:
        hints, marks = len(m.hints()), m.marks()
        if "with hints" in self.faults:
            hints = 0
        if "with marks" in self.faults:
            marks = []
        counts = not m.owner or m.lack == Lack.NOTHING
        sure = m.sure or "unsure yes" in self.faults
        reason = refusal(m.rounds, prepare, Circumstances(RING, hints, marks, counts, sure))
        if not reason and m.owner and base != m.rounds.committed(P) and "any base" not in self.faults:
            reason = f"is at round {m.rounds.committed(P)}"
        if reason:
            if m.sure or "takes unsure" in self.faults:
                m.rounds.take(P, prepare.reap_round)
            return Answer(False, m.stamp(), (), reason)
        m.rounds.promise(P, prepare.reap_round)
        same = m.owner and (leaf(m.rec) == prepare.candidates[0].leaf or "any leaf" in self.faults)
        return Answer(True, prepare.reap_round, (0,) if same else ())

    def on_prepare(self, m: Member, a: Member, a_inc: int, prepare: Prepare, base: int) -> None:
        answer = self.answer(m, prepare, base)
        if m.owner and base > m.rounds.committed(P):
            self.ask_rounds(m, a.number)
        self.say("answer", m.number, a.number, prepare, answer, m.rounds.committed(P))

    def on_answer(self, m: Member, a: Member, a_inc: int, prepare: Prepare, answer: Answer,
                  committed: int) -> None:  # fmt: skip
        if a.owner and committed > m.rounds.committed(P):
            self.ask_rounds(m, a.number)
        if m.attempt is None or m.attempt[0].prepare != prepare:
            return
        attempt = m.attempt[0]
        attempt.answered(a.number, answer)
        if "without a yes" in self.faults and len(attempt._answers) >= 4:
            for n in MEMBERS:
                attempt._answers.setdefault(n, Answer(True, 0, (0,)))
            attempt.blockers.clear()
        if attempt.blockers:
            self.give_up(m)
        elif attempt.agreed:
            if "no confirmation" in self.faults:
                self.decide(m)
                return
            for n in MEMBERS:
                if n != m.number:  # over the link that gave the yes
                    self.send("alive", m.number, n, prepare)
            m.attempt[1] = {m.number}

    def on_alive(self, m: Member, a: Member, a_inc: int, prepare: Prepare) -> None:
        self.send("lives", m.number, a.number, prepare)

    def on_lives(self, m: Member, a: Member, a_inc: int, prepare: Prepare) -> None:
        if m.attempt is None or m.attempt[0].prepare != prepare or not m.attempt[0].agreed:
            return
        if a_inc != a.inc:
            pass  # it answered and died since: its yes outlives that on disk
        m.attempt[1].add(a.number)
        if len(m.attempt[1]) == len(MEMBERS):
            self.decide(m)

    def decide(self, m: Member) -> None:
        attempt = m.attempt[0]
        self.give_up(m)
        kept = attempt.decision()
        if not kept.entries:
            return
        m.rounds.commit(P, kept)
        self.commits += 1
        self.carry_out(m)
        m.fsync()

    def give_up(self, m: Member) -> None:
        m.rounds.take(P, m.attempt[0].highest)
        m.attempt = None

    def carry_out(self, m: Member) -> None:
        before = m.rec
        if m.carry_out():
            for at in range(self.writes):
                if (bit := 1 << at) & before[1]:
                    self.reaped.setdefault(bit, m.rounds.committed(P))

    def resend(self, m: Member) -> None:
        self.carry_out(m)
        kept = m.rounds.kept(P)
        if kept is None:
            return
        if "list dropped" in self.faults:
            m.rounds.confirmed(P, kept.reap_round, OWNERS)
        for n in kept.unconfirmed:
            if n != m.number:
                self.say("commit", m.number, n, kept)

    def on_commit(self, m: Member, a: Member, a_inc: int, kept: Any) -> None:
        known = kept.reap_round <= m.rounds.committed(P) or m.rounds.may_commit(P, kept.reap_round)
        if not known and "any round" not in self.faults:
            self.ask_rounds(m, a.number)
            return
        if m.rounds.committed(P) < kept.reap_round:
            unconfirmed = tuple(sorted({*kept.unconfirmed, m.number}))
            m.rounds.commit(P, kept._replace(unconfirmed=unconfirmed))
        mine = m.rounds.kept(P)
        if mine is not None and mine.reap_round == kept.reap_round:
            m.rounds.confirmed(P, kept.reap_round, {*mine.unconfirmed} - {*kept.unconfirmed, m.number})
        if "not idempotent" in self.faults:
            m.rec = ABSENT
        self.carry_out(m)
        self.say("confirm", m.number, a.number, kept.reap_round)

    def on_confirm(self, m: Member, a: Member, a_inc: int, reap_round: int) -> None:
        m.rounds.confirmed(P, reap_round, (a.number,))

    # Returning and recovering

    def ask_rounds(self, m: Member, other: int) -> None:
        self.send("ask", m.number, other)

    def on_ask(self, m: Member, a: Member, a_inc: int) -> None:
        self.say("told", m.number, a.number, m.holding(), m.rounds.kept(P))

    def on_told(self, m: Member, a: Member, a_inc: int, told: Holding, kept: Any) -> None:
        if not m.owner:
            m.rounds.take(P, told.state.committed)
            m.told[a.number] = (told, kept, a_inc)
            return
        m.told[a.number] = (told, kept, a_inc)
        self.consider(m)

    def consider(self, m: Member) -> None:
        """What follows from what the other owners have told."""
        heard = {o: told for o, (told, _, _) in m.told.items()}
        others = [o for o in OWNERS if o != m.number]
        if m.sure and max(t.state.committed for t in heard.values()) <= m.rounds.committed(P):
            return
        reachable = [o for o, (_, _, inc) in m.told.items() if self.members[o].inc == inc]
        step, number, ring = returning.judge(m.holding(), others, heard, reachable, W)
        if "old disks count" in self.faults and step not in (Step.CATCH_UP, Step.TAKE_FLOOR):
            step = Step.SURE
        if step == Step.CATCH_UP:
            lists = [k for _, k, _ in m.told.values() if k is not None and k.reap_round == number]
            kept = lists[0] if lists else Kept(number, ring, (), ())
            m.rounds.commit(P, kept._replace(unconfirmed=tuple(sorted({*kept.unconfirmed, m.number}))))
            self.carry_out(m)
            self.consider(m)
        elif step == Step.TAKE_FLOOR:
            if "late floor" in self.faults:
                return
            m.rounds.floor(P, number, ring)
        elif step == Step.EMPTY:
            self.deletions += 1
            m.empty(number)
            m.sure = True
            m.merged = {}
        elif step == Step.TAKE_OVER:
            m.rounds.floor(P, number, ring)
            m.mem["loss"] = True
            m.sure = True
        elif step == Step.SURE:
            if number:
                m.rounds.take(P, number)
            m.sure = True

    def work(self, m: Member) -> None:
        """What an owner does about its copy: ask, pull, judge."""
        others = [o for o in OWNERS if o != m.number]
        if not m.owner:
            if not m.told:
                self.ask_rounds(m, self.random.choice(others))
            return
        if m.lack == Lack.NOTHING:
            if not m.sure:
                self.ask_rounds(m, self.random.choice(others))
            return
        o = self.random.choice(others)
        if o not in m.told or self.random.random() < 0.2:
            self.ask_rounds(m, o)
        else:
            self.send("pull", m.number, o)
        self.judge(m)

    def too_old(self, m: Member) -> list[int]:
        heard = {o: told for o, (told, _, _) in m.told.items()}
        return copies.too_old(heard, m.rounds.committed(P))

    def on_pull(self, m: Member, a: Member, a_inc: int) -> None:
        lack = m.lack if m.sure else max(m.lack, Lack.UNCLEAN)
        self.say("page", m.number, a.number, m.rec, m.rounds.agreed(P), lack)

    def on_page(self, m: Member, a: Member, a_inc: int, obj: Obj, stamp: int, lack: Lack) -> None:
        if m.lack == Lack.NOTHING or a.number not in m.told or a.number in self.too_old(m):
            return
        told, _, inc = m.told[a.number]
        if inc != a_inc:  # its rounds were told by an earlier process
            m.told.pop(a.number)
            return
        if not told.fresh:
            m.rounds.join(P, told.state, m.holding().fresh)
            m.mem["merged"] = True
        if m.rounds.refuses_write(P, stamp) and "older writes" not in self.faults:
            return
        m.rec = merge(m.rec, obj)
        m.merged[a.number] = (a_inc, lack)

    def judge(self, m: Member) -> None:
        old = self.too_old(m)
        stands = {o: Lack.EMPTY if o in old else (m.merged[o][1] if o in m.merged else None)
                  for o in OWNERS if o != m.number}  # fmt: skip
        # Whoever isn't merged is taken for unreachable: any of them may be.
        verdict = recovery.judge(m.lack, stands, {*m.merged, *old}, W)
        if not verdict.counts:
            return
        for o, (_, kept, _) in m.told.items():
            if o in m.merged and kept is not None:
                m.rounds.keep(P, kept._replace(unconfirmed=tuple(sorted({*kept.unconfirmed, m.number}))))
        m.lack = Lack.NOTHING
        m.sure = True
        m.mem.pop("merged", None)
        if verdict.possible_loss:
            m.mem["loss"] = True
        m.told, m.merged = {}, {}
        m.fsync()

    # What breaks

    def crash(self, m: Member) -> None:
        m.start()

    def lose(self, m: Member) -> None:
        """The disk is gone; a new one is empty."""
        self.losses += 1
        self.goes_bad(m, {"lack": Lack.EMPTY} if m.owner else {})
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
            if had & bit or (reaped is not None and reaped <= knew):
                if not seen & bit and (reaped is None or reaped > floor):
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
            "marks": 2, "propose": 2, "resend": 2, "work": 3, "snapshot": 3, "release": 5, "late": 2,
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
            for name in self.random.sample(("repair", "late", "hand", "release", "read", "resend"), 2):
                getattr(self, "do_" + name)(m)

    def heal(self, turns: int = 60) -> None:
        """No faults any more: everything that is due is done, in turns."""
        self.holding = 0.0
        self.messages += self.held
        self.held = []
        for turn in range(turns):
            for m in self.members.values():
                m.fsync()
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


def run(seed: int, steps: int = 80, faults: frozenset[str] = frozenset(), bad_max: int = 1) -> World:
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
