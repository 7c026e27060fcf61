"""What the members of the model of reaping do: anti-entropy, rounds, returning, recovering.

The rules are the production ones; the shell around them follows the node's.
"""

from typing import Any

from tests.core.reaping_clients import Clients
from tests.core.reaping_world import (
    ABSENT,
    OWNERS,
    Member,
    Obj,
    P,
    W,
    candidate,
    leaf,
    merge,
    name,
)  # fmt: skip

from dynamo_core import copies, recovery, returning
from dynamo_core.copies import Holding
from dynamo_core.reaping import Answer, Attempt, Circumstances, Prepare, refusal
from dynamo_core.recovery import Lack
from dynamo_core.returning import Step
from dynamo_core.rounds import Kept, next_round


class Rules(Clients):
    """Members that compare, agree and recover."""

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
            fsynced = all(o.counts and o.rec == o.disk.get("rec", ABSENT) for o in group)
            if fsynced and len({o.rec for o in group}) == 1:
                m.clear(target)

    # Rounds

    def propose(self, m: Member) -> None:
        if m.attempt is not None or not m.counts or m.rounds.kept(P) is not None:
            return
        if m.rec == ABSENT or m.rec[1] & ~self.tombs:
            return
        if self.early(m):
            return
        number = next_round(m.stamp(), name(m.ring))
        if not number:
            return
        prepare = Prepare(P, number, name(m.ring), bytes(8), (candidate(m.rec),))
        m.attempt = [Attempt(prepare, self.everybody(m), OWNERS), set(), {}]
        m.attempt[0].answered(m.number, self.answer(m, prepare))
        m.fsync()
        for n in self.everybody(m):
            if n != m.number:
                self.send("prepare", m.number, n, prepare)

    def early(self, m: Member) -> bool:
        """Whether what `m` has knows of a write of a node that its ring doesn't name yet."""
        if "unknown authors" in self.faults:
            return False
        return any(
            self.newcomers.get(author, 1) > m.ring
            for bit, author in self.author.items()
            if m.rec[0] & bit
        )

    def answer(self, m: Member, prepare: Prepare) -> Answer:
        hints, marks = len(m.hints()), m.marks()
        if "with hints" in self.faults:
            hints = 0
        if "with marks" in self.faults:
            marks = []
        counts = not m.owner or m.lack == Lack.NOTHING
        sure = m.sure or "unsure yes" in self.faults
        reason = refusal(m.rounds, prepare, Circumstances(name(m.ring), hints, marks, counts, sure))
        if reason:
            if m.sure or "takes unsure" in self.faults:
                m.rounds.take(P, prepare.reap_round)
            return Answer(False, m.stamp(), (), reason)
        m.rounds.promise(P, prepare.reap_round)
        same = m.owner and (leaf(m.rec) == prepare.candidates[0].leaf or "any leaf" in self.faults)
        return Answer(True, prepare.reap_round, (0,) if same else ())

    def on_prepare(self, m: Member, a: Member, a_inc: int, prepare: Prepare) -> None:
        answer = self.answer(m, prepare)
        self.say("answer", m.number, a.number, prepare, answer, m.rounds.committed(P))

    def on_answer(self, m: Member, a: Member, a_inc: int, prepare: Prepare, answer: Answer,
                  committed: int) -> None:  # fmt: skip
        if a.owner and committed > m.rounds.committed(P):
            self.ask_rounds(m, a.number)
        if m.attempt is None or m.attempt[0].prepare != prepare:
            return
        attempt = m.attempt[0]
        attempt.answered(a.number, answer)
        m.attempt[2][a.number] = a_inc
        if "without a yes" in self.faults and len(attempt._answers) >= 4:
            for n in attempt.members:
                attempt._answers.setdefault(n, Answer(True, 0, (0,)))
            attempt.blockers.clear()
        if attempt.blockers:
            self.give_up(m)
        elif attempt.agreed:
            if "no confirmation" in self.faults:
                self.decide(m)
                return
            for n in attempt.members:
                if n != m.number:  # over the link that gave the yes
                    self.send("alive", m.number, n, prepare)
            m.attempt[1] = {m.number}

    def on_alive(self, m: Member, a: Member, a_inc: int, prepare: Prepare) -> None:
        self.send("lives", m.number, a.number, prepare)

    def on_lives(self, m: Member, a: Member, a_inc: int, prepare: Prepare) -> None:
        if m.attempt is None or m.attempt[0].prepare != prepare or not m.attempt[0].agreed:
            return
        if m.attempt[2][a.number] == a_inc:  # the process that gave the yes
            m.attempt[1].add(a.number)
        if len(m.attempt[1]) == len(m.attempt[0].members):
            self.decide(m)

    def decide(self, m: Member) -> None:
        attempt = m.attempt[0]
        self.give_up(m)
        kept = attempt.decision()
        if not kept.entries or attempt.prepare.ring != name(m.ring):
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
        known = m.rounds.agreed_to(P, kept.reap_round)
        if not known and "any round" not in self.faults:
            self.ask_rounds(m, a.number)
            return
        if m.rounds.committed(P) < kept.reap_round:
            unconfirmed = tuple(sorted({*kept.unconfirmed, m.number}))
            m.rounds.commit(P, kept._replace(unconfirmed=unconfirmed))
        mine = m.rounds.kept(P)
        if mine is not None and mine.reap_round == kept.reap_round:
            m.rounds.confirmed(
                P, kept.reap_round, {*mine.unconfirmed} - {*kept.unconfirmed, m.number}
            )
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
            m.rounds.commit(
                P, kept._replace(unconfirmed=tuple(sorted({*kept.unconfirmed, m.number})))
            )
            self.carry_out(m)
            self.consider(m)
        elif step == Step.TAKE_FLOOR:
            if "late floor" in self.faults:
                return
            m.rounds.floor(P, number, ring)
        elif step == Step.EMPTY:
            self.deletions += 1
            m.empty(number, ring)
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
        old = copies.too_old({**heard, m.number: m.holding()})
        return [o for o in old if o != m.number]

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
                m.rounds.keep(
                    P, kept._replace(unconfirmed=tuple(sorted({*kept.unconfirmed, m.number})))
                )
        m.lack = Lack.NOTHING
        m.sure = True
        m.mem.pop("merged", None)
        if verdict.possible_loss:
            m.mem["loss"] = True
        m.told, m.merged = {}, {}
        m.fsync()
