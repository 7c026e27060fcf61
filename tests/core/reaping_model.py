"""A model of reaping: one partition, one key, members that crash and lose disks.

Every member runs the production `Rounds`, `refusal` and `Attempt`; the model adds
only what the node's shell does: a disk that forgets what wasn't fsynced, messages
that come late or never, owners that merge and stand-ins that keep hints. The
key's versions are plain numbers: a replica holds the highest it has seen, OLD below
TOMB. `faults` names rules to leave out, to see that the model catches it.
"""

import random
from copy import deepcopy
from typing import Any

from dynamo_core.frames import RingName
from dynamo_core.reaping import Answer, Attempt, Circumstances, Prepare, refusal
from dynamo_core.rounds import Kept, Listed, Rounds

OLD, TOMB = 1, 2
P, RING = 0, RingName(1, b"r" * 16)
KEY = b"d" * 16 + b"key"


class Member:
    def __init__(self, number: int, owner: bool) -> None:
        self.number, self.owner = number, owner
        self.rounds, self.record, self.hint = Rounds(), 0, None
        self.recovering = False
        self.disk: tuple[Any, ...] = ()
        self.fsync()

    def fsync(self) -> None:
        self.disk = deepcopy(
            (self.rounds._states, self.rounds._kept, self.record, self.hint, self.recovering)
        )

    def restart(self) -> None:
        states, kept, record, hint, recovering = deepcopy(self.disk)
        self.rounds = Rounds()
        self.rounds._states, self.rounds._kept = states, kept
        self.record, self.hint, self.recovering = record, hint, recovering

    def shows(self) -> int:
        return self.record if self.owner else self.hint[0] if self.hint else 0

    def leaf(self) -> bytes:
        return self.record.to_bytes(16, "big")


class World:
    """Three owners (1..3) and two others; `step` does one random thing."""

    def __init__(self, seed: int, faults: frozenset[str] = frozenset()) -> None:
        self.random, self.faults = random.Random(seed), faults
        self.members = {n: Member(n, n <= 3) for n in range(1, 6)}
        self.owners = (1, 2, 3)
        self.messages: list[tuple[Any, ...]] = []
        self.attempt: Attempt | None = None
        self.coordinator: Member | None = None
        self.epoch = dict.fromkeys(self.members, 0)
        self.epochs: dict[int, int] = {}
        self.disk_lost = 0
        self.reaped = False
        self.resurrected = False
        # OLD is everywhere it may be; the tombstone is on its way.
        for n in self.owners:
            self.members[n].record = OLD
            self.members[n].fsync()
        self.members[1].record = TOMB
        self.members[1].fsync()

    # What members do

    def write(self, sender: Member, to: int, hint_for: int, version: int, stamp: int) -> None:
        self.messages.append(("write", sender.number, to, self.epoch[to], hint_for, version, stamp))

    def spread(self) -> None:
        """Any member sends what it has now, to an owner or to a stand-in."""
        sender = self.members[self.random.randint(1, 5)]
        version, stamp = sender.shows(), sender.rounds.stamp(P)
        if not version or sender.recovering:
            return
        if self.random.random() < 0.5:
            self.write(sender, self.random.choice(self.owners), 0, version, stamp)
        else:
            stand_in, owner = self.random.choice((4, 5)), self.random.choice(self.owners)
            if stand_in != sender.number:
                self.write(sender, stand_in, owner, version, stamp)

    def hand_off(self) -> None:
        holder = self.members[self.random.choice((4, 5))]
        if holder.hint is None:
            return
        version, stamp, target = holder.hint
        owner = self.members[target]
        if owner.rounds.refuses_write(P, stamp):
            holder.hint = None
        else:
            self.merge(owner, version)
            owner.fsync()
            holder.hint = None
        holder.fsync()

    def merge(self, owner: Member, version: int) -> None:
        owner.record = max(owner.record, version)
        if self.reaped and owner.record == OLD and not owner.recovering:
            self.resurrected = True

    def deliver(self, at: int) -> None:
        kind, sender, to, epoch, *rest = self.messages.pop(at)
        member = self.members[to]
        if epoch != self.epoch[to] and kind == "write" and "old bytes" not in self.faults:
            return  # the connection went with the process it led to
        if kind == "write":
            hint_for, version, stamp = rest
            if not hint_for:
                if not member.rounds.refuses_write(P, stamp):
                    self.merge(member, version)  # `buffered`: a power cut may undo it
            elif "older hints" in self.faults or not member.rounds.refuses_hint(P, stamp):
                held = member.hint or (0, stamp, hint_for)
                member.hint = (max(held[0], version), min(held[1], stamp), held[2])
            else:
                self.refused(self.members[sender], to, hint_for, member.rounds.stamp(P))
        elif kind == "prepare":
            (prepare,) = rest
            answer = self.answer(member, prepare)
            self.messages.append(
                ("answer", to, sender, self.epoch[sender], prepare, answer, self.epoch[to])
            )
        elif kind == "answer":
            prepare, answer, epoch = rest
            self.answered(sender, prepare, answer, epoch)
        elif kind == "commit":
            (kept,) = rest
            self.obey(member, kept)

    def refused(self, sender: Member, to: int, hint_for: int, named: int) -> None:
        sender.rounds.take(P, named)
        sender.fsync()
        if sender.shows():
            self.write(sender, to, hint_for, sender.shows(), sender.rounds.stamp(P))

    def answer(self, member: Member, prepare: Prepare) -> Answer:
        hints = int(member.hint is not None)
        here = Circumstances(RING, hints, (), not (member.owner and member.recovering))
        reason = refusal(member.rounds, prepare, here)
        if reason:
            member.rounds.take(P, prepare.reap_round)
            return Answer(False, member.rounds.stamp(P), (), reason)
        member.rounds.promise(P, prepare.reap_round)
        holds = (0,) if member.owner and member.leaf() == prepare.candidates[0].leaf else ()
        if "yes from memory" not in self.faults:
            member.fsync()
        return Answer(True, prepare.reap_round, holds)

    def propose(self) -> None:
        first = self.members[1]
        if first.record != TOMB or self.attempt is not None or first.recovering:
            return
        prepare = Prepare(P, first.rounds.stamp(P) + 1, RING, (Listed(KEY, first.leaf()),))
        self.coordinator = first
        self.attempt = Attempt(prepare, tuple(self.members), self.owners)
        self.epochs = dict(self.epoch)
        self.attempt.answered(1, self.answer(first, prepare))
        for n in self.members:
            if n != 1:
                self.messages.append(("prepare", 1, n, self.epoch[n], prepare))

    def answered(self, sender: int, prepare: Prepare, answer: Answer, epoch: int) -> None:
        attempt = self.attempt
        if attempt is None or attempt.prepare != prepare:
            return
        attempt.answered(sender, answer)
        agreed = attempt.agreed
        if "without a yes" in self.faults and len(attempt._answers) >= 4:
            attempt._answers = {n: Answer(True, 0, (0,)) for n in self.members}
            agreed = True
        if attempt.blockers and not agreed:
            self.give_up()
        elif agreed:
            same = "other disks" in self.faults or self.epochs == self.epoch
            kept = attempt.decision()
            first = self.members[1]
            self.give_up()
            if same and kept.entries:
                first.rounds.commit(P, kept)
                self.carry_out(first)

    def give_up(self) -> None:
        if self.attempt is not None:
            self.members[1].rounds.take(P, self.attempt.highest)
        self.attempt = None

    def carry_out(self, owner: Member) -> None:
        kept = owner.rounds.kept(P)
        if kept is None or owner.number not in kept.unconfirmed:
            return
        if kept.entries and kept.entries[0].leaf == owner.leaf():
            owner.record = 0
            self.reaped = True
        owner.rounds.confirmed(P, kept.reap_round, (owner.number,))
        owner.fsync()

    def obey(self, owner: Member, kept: Kept) -> None:
        rounds = owner.rounds
        if owner.recovering:
            return
        if rounds.committed(P) < kept.reap_round:
            if not rounds.may_commit(P, kept.reap_round):
                self.lose_disk(owner.number, wiped=True)
                return
            unconfirmed = tuple(sorted({*kept.unconfirmed, owner.number}))
            rounds.commit(P, kept._replace(unconfirmed=unconfirmed))
        self.carry_out(owner)

    def resend(self) -> None:
        for n in self.owners:
            kept = self.members[n].rounds.kept(P)
            if kept is None:
                continue
            self.carry_out(self.members[n])
            if "list dropped" in self.faults:
                self.members[n].rounds.confirmed(P, kept.reap_round, self.owners)
            for other in kept.unconfirmed:
                if other == n:
                    continue
                done = self.members[other].rounds
                waits = done.kept(P)
                if done.committed(P) >= kept.reap_round and not (
                    waits and other in waits.unconfirmed
                ):
                    self.members[n].rounds.confirmed(P, kept.reap_round, (other,))
                else:
                    self.messages.append(("commit", n, other, self.epoch[other], kept))
            self.members[n].fsync()

    # Faults

    def crash(self, number: int) -> None:
        self.members[number].restart()
        self.epoch[number] += 1
        if number == 1:
            self.attempt = None

    def lose_disk(self, number: int, wiped: bool = False) -> None:
        """An owner's disk is gone, or was too old and is deleted unread."""
        member = self.members[number]
        if any(self.members[o].recovering for o in self.owners if o != number):
            return
        member.record = 0
        if wiped:
            member.rounds.forget_promises(P)
        else:
            member.rounds = Rounds()
            self.epoch[number] += 1
            self.attempt = None if number == 1 else self.attempt
        member.recovering = True
        member.fsync()

    def recover(self) -> None:
        for n in self.owners:
            member = self.members[n]
            if not member.recovering:
                continue
            others = [self.members[o] for o in self.owners if o != n]
            told = [o.rounds.state(P) for o in others]
            lists = [kept for o in others if (kept := o.rounds.kept(P)) is not None]
            newest = max(lists, key=lambda k: k.reap_round, default=None)
            if newest is not None:
                newest = newest._replace(unconfirmed=tuple(sorted({*newest.unconfirmed, n})))
            floor = max(state.committed for state in told)
            member.record = max([member.record, *(o.record for o in others
                                 if o.rounds.committed(P) == floor
                                 or floor in o.rounds.state(P).said)])  # fmt: skip
            member.rounds.adopt(P, [s for s in told if s.taken] or told, newest)
            member.recovering = False
            member.fsync()
            self.carry_out(member)

    def step(self, faulty: bool = True, propose: bool = True) -> None:
        pick = self.random.random()
        if self.messages and pick < 0.45:
            self.deliver(self.random.randrange(len(self.messages)))
        elif pick < 0.55:
            self.spread()
        elif pick < 0.65:
            self.hand_off()
        elif pick < 0.75 and propose:
            self.propose()
        elif pick < 0.82:
            self.resend()
        elif pick < 0.86:
            self.recover()
        elif faulty and pick < 0.90:
            self.crash(self.random.randint(1, 5))
        elif faulty and pick < 0.92 and self.messages:
            self.messages.pop(self.random.randrange(len(self.messages)))
            if self.random.random() < 0.5:
                self.give_up()
        elif faulty and pick < 0.93 and self.disk_lost < 2:
            self.disk_lost += 1
            self.lose_disk(self.random.choice(self.owners))
        elif not faulty and pick < 0.95 and self.attempt is not None and not self.messages:
            self.give_up()
