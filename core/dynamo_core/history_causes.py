"""What is known of one key's history: who had seen what, which write has which dot.

Owns causality as clients saw it, and the telling of a broken promise of the key.
Forbidden here: the promises (`history_check`).
"""

from collections.abc import Iterable
from typing import Final

from dynamo_core.history import (
    DELETE,
    GET,
    REFUSED,
    TOMBSTONE,
    History,
    Mint,
    Operation,
    ReplicaCopy,
)
from dynamo_core.history_report import Report, named, told
from dynamo_core.versions import EMPTY, Clock, Dot, dot_text

NEW_DOTS_MAX: Final = 16
LATE_S: Final = 60.0
"""How long after its author gave up a delete that reads for itself may still be carried out."""


class KeyHistory:
    """Everything that happened to one key."""

    def __init__(
        self, name: str, by_id: dict[str, Operation], report: Report, history: History
    ) -> None:
        self.name = name
        self.n = history.n
        self.excused = history.excused
        self.last_write_wins = history.last_write_wins
        self.mints: dict[str, list[Mint]] | None = {} if history.mints else None
        """Every dot that the key's writes got, by write; None where nobody knows."""
        self.by_id = by_id
        self.report = report
        self.writes: list[Operation] = []
        self.gets: list[Operation] = []
        self.copies: list[ReplicaCopy] = []
        self.replacing: dict[str, list[Operation]] = {}  # id -> writes whose authors saw it
        self.reads_itself: list[Operation] = []  # deletes that saw what nobody recorded
        self.dots: dict[str, set[Dot]] = {}
        self.named: dict[Dot, tuple[str, str]] = {}  # dot -> (write, who said so)
        self.seen_somewhere: set[str] = set()

    def take(self, operation: Operation) -> None:
        (self.gets if operation.op == GET else self.writes).append(operation)

    def learn(self) -> None:
        for name, mints in (self.mints or {}).items():
            write, tombstone = self.by_id[name], self.by_id[name].op == DELETE
            for mint in mints:
                self._name(mint.dot, TOMBSTONE if tombstone else name, "its mint", write)
                self.dots.setdefault(name, set()).add(mint.dot)
        for write in self.writes:
            self.report.count("writes")
            self.report.count(write.outcome)
            if write.outcome == REFUSED:
                continue
            if write.by_store and self.mints is None:
                self.reads_itself.append(write)
            for seen in self._replaced_by(write):
                self.replacing.setdefault(seen, []).append(write)
        for get in self.gets:
            for shown in get.shown if get.acknowledged else ():
                self.seen_somewhere.add(shown.id)
                self._name(shown.dot, shown.id, f"answer {get.id}")
        for copy in self.copies:
            for shown in copy.siblings:
                self.seen_somewhere.add(shown.id)
                self._name(shown.dot, shown.id, f"the copy of {copy.node}")
        for write in self.writes:
            if write.acknowledged and write.clock is not None and not write.by_store:
                self._own_dot(write)

    def _replaced_by(self, write: Operation) -> list[str]:
        """The writes that an author had seen, or that the store saw for it."""
        names = [*self.saw(write)]
        if self.mints is None or not (write.by_store or self.last_write_wins):
            return names
        # What the clock covers wasn't all shown: time hid it, or the store read it itself.
        sent = self.sent_clock(write)
        clocks = [m.clock for m in self.mints.get(write.id, ())] if write.by_store else [sent]
        names += [
            name
            for name, dots in self.dots.items()
            if name not in names
            and name != write.id
            and any(clock.covers(dot) for clock in clocks if clock is not None for dot in dots)
        ]
        return names

    def saw(self, operation: Operation) -> tuple[str, ...]:
        """The values that the context of an operation carried; what those replaced isn't listed."""
        context = operation.context
        if context is None:
            return ()
        if isinstance(context, tuple):
            return context
        source = self.by_id.get(context)
        if source is None:
            return ()
        if source.op == GET:
            return tuple(shown.id for shown in source.shown)
        return (source.id,)

    def sent_clock(self, operation: Operation) -> Clock | None:
        """The clock of the context that was sent, if it was recorded; EMPTY if none was sent."""
        if not operation.context:
            return None if operation.by_store else EMPTY
        source = self.by_id.get(operation.context) if isinstance(operation.context, str) else None
        return None if source is None else source.clock

    def _own_dot(self, write: Operation) -> None:
        sent = self.sent_clock(write)
        if sent is None or write.clock is None:
            return
        new = new_dots(write.clock, sent)
        if len(new) == 1:
            self._name(new[0], TOMBSTONE if write.op == DELETE else write.id, "its context", write)
            self.dots.setdefault(write.id, set()).add(new[0])
            return
        if not new:
            said = "its context claims no dot beyond the one sent: its dot had been issued before"
        else:
            said = "its context claims more than what was sent and its own dot: " + ", ".join(
                dot_text(dot) for dot in new
            )
        self.accuse("f", write, said)

    def _name(self, dot: Dot | None, name: str, where: str, by: Operation | None = None) -> None:
        if dot is None:
            return
        if name:
            self.dots.setdefault(name, set()).add(dot)
        # A tombstone that a replica shows doesn't say whose it is; two deletes do.
        known = self.named.setdefault(dot, (by.id if by else name, where))
        mine = by.id if by else name
        if known[0] == mine:
            return
        for one, other in ((known[0], mine), (mine, known[0])):
            if one == TOMBSTONE and other in self.by_id and self.by_id[other].op == DELETE:
                self.named[dot] = (other, where)
                return
        self.report.add(
            "f", self.name, mine,
            f"key {self.name}: the dot {dot_text(dot)} is {named(known[0])} by {known[1]} "
            f"and {named(mine)} by {where}",
            *self.stands(mine),
        )  # fmt: skip

    # Whether one write replaces another

    def replaces(self, write: Operation, name: str, dot: Dot | None) -> bool:
        """Whether the author of `write` had seen the value `name`, under `dot` if that is known."""
        dots = self.dots.get(name) if dot is None else {dot}
        if write.by_store and self.mints is not None:
            # Which of its mints was acknowledged isn't known: all of them must have replaced it.
            mints = self.mints.get(write.id, ())
            return all(mint.clock.covers(each) for mint in mints for each in dots or ())
        clock = self.sent_clock(write)
        if clock is not None and dots:
            return all(clock.covers(each) for each in dots)
        return True

    def successors(self, name: str) -> Iterable[Operation]:
        """Every write that descends from `name`, each once, nearest first."""
        found: dict[str, Operation] = {}
        waiting = [name]
        while waiting:
            for write in self.replacing.get(waiting.pop(0), ()):
                if write.id not in found and write.id != name:
                    found[write.id] = write
                    waiting.append(write.id)
                    yield write

    def justified(self, name: str, shown: set[str], until: float, strict: bool) -> bool:
        """Whether `name` may be missing where `shown` is shown, asked until `until`.

        `strict`: only what is shown, or a delete, excuses; else an acknowledged
        successor does too, because it is looked for itself.
        """
        done: set[str] = set()
        waiting = [name]
        while waiting:
            gone = waiting.pop()
            for write in self.replacing.get(gone, ()):
                if write.id in done or write.invoked > until:
                    continue
                done.add(write.id)
                if write.op == DELETE or write.id in shown:
                    return True
                if write.acknowledged and not strict and write.id not in self.excused:
                    return True
                waiting.append(write.id)
            for write in self.reads_itself:
                if write.invoked <= until and self._may_have_read(write, gone):
                    return True
        return False

    def _may_have_read(self, delete: Operation, name: str) -> bool:
        write = self.by_id.get(name)
        if write is None or delete.id == name:
            return False
        if not delete.acknowledged:
            # Its author has given it up; a node that stood still carries it out as it wakes,
            # and reads then what there is to be deleted.
            return write.invoked <= delete.returned + LATE_S
        if write.invoked > delete.returned:
            return False
        dots = self.dots.get(name)
        if delete.clock is None or not dots:
            return True
        if any(delete.clock.covers(dot) for dot in dots):
            return True
        # It may have read the write under the dot of a try that nobody was told of;
        # that is one of the dots it covers, if there is one beside its own.
        covered = sum(delete.clock.vector.values()) + len(delete.clock.dots)
        return covered - sum(map(delete.clock.covers, self.named)) > 1

    def deleted_by_store(self, dot: Dot | None) -> list[Operation]:
        if dot is None:
            return []
        return [w for w in self.reads_itself if w.clock is not None and w.clock.covers(dot)]

    # Telling

    def accuse(self, promise: str, write: Operation | None, *lines: str) -> None:
        if write is None:  # told already: nobody wrote it
            return
        self.report.add(promise, self.name, write.id, told(write), *lines, *self.stands(write.id))

    def stands(self, name: str) -> list[str]:
        """Where each replica stands, for the end of a story."""
        lines = []
        for copy in sorted(self.copies, key=lambda c: c.node):
            held = [
                named(s.id) + (f" at {dot_text(s.dot)}" if s.dot else "") for s in copy.siblings
            ]
            has = (
                ""
                if not name
                else ("has it; " if name in {s.id for s in copy.siblings} else "lacks it; ")
            )
            claims = [
                d for d in sorted(self.dots.get(name, ())) if copy.clock and copy.clock.covers(d)
            ]
            claimed = f"; its clock claims {', '.join(map(dot_text, claims))}" if claims else ""
            role = "" if copy.owner else " (no owner)"
            lines.append(f"  {copy.node}{role}: {has}holds {', '.join(held) or 'nothing'}{claimed}")
        return lines


def new_dots(answer: Clock, sent: Clock) -> list[Dot]:
    """Dots that `answer` claims and `sent` doesn't, the first few."""
    found: list[Dot] = []
    for actor, n in sorted(answer.vector.items()):
        first = max(sent.vector.get(actor, 0) + 1, n - NEW_DOTS_MAX)
        found += [(actor, i) for i in range(first, n + 1) if not sent.covers((actor, i))]
    found += [dot for dot in sorted(answer.dots) if not sent.covers(dot)]
    return found[:NEW_DOTS_MAX]
