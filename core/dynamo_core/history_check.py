"""The history checker: whether a store kept what it promises (see docs/verify.md).

Owns the judgement of a `History`; the simulator, `dynamo verify` and the chaos
tests all use this one. It knows nothing of how the store works: it knows, of
every write, what its author had seen. Forbidden here: excuses.

The promises, by their letters:

a  An acknowledged write is in every answer and every owner's copy after
   healing, or a write or delete whose author had seen it has replaced it.
b  No answer shows a value together with one whose author had seen it.
c  An answer that was asked with a context as its floor covers that context:
   what the session had been shown or had written is there, or replaced by
   something that is; what it had seen replaced isn't.
d  What was measured after healing is within its bound, and owners' copies are
   equal.
e  After healing, no value shows that an acknowledged write or delete has
   replaced. Before that it may: with stand-ins R + W > N doesn't hold, so an
   answer may be old while something is broken (but see h). Those are counted.
f  A dot names one write, and a write's context claims what was sent and that
   one dot.
g  Only what was written shows: nothing refused, nothing from nowhere.
h  A write that so many owners acknowledged, and a later read that so many
   owners answered, that they have one in common: the answer is no older than
   the write. So a 404, which needs R owners, never hides what W owners took.

A write that was tried at several coordinators may have several dots. Whoever
saw it under one of them has not seen the others, so it can show again beside
what replaced it; where dots and clocks are recorded that is told apart and
counted as an echo, where they aren't it is accused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dynamo_core.history import (
    DELETE,
    GET,
    REFUSED,
    TOMBSTONE,
    UNKNOWN,
    History,
    Operation,
    ReplicaCopy,
    Shown,
)
from dynamo_core.versions import EMPTY, Clock, Dot, dot_text

VIOLATIONS_MAX: Final = 100
"""Violations that are told in full; the rest are counted."""
NEW_DOTS_MAX: Final = 16

PROMISES: Final = {
    "a": "an acknowledged write was lost",
    "b": "a value shows together with one that replaced it",
    "c": "a session went back",
    "d": "replicas did not become equal",
    "e": "a replaced or deleted value came back",
    "f": "a dot was issued twice, or a context claims too much",
    "g": "a value shows that was not written",
    "h": "an answer is older than what its own owners had acknowledged",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: its letter, the key, the write's id, and the story by lines."""

    promise: str
    key: str
    write: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"({self.promise}) {PROMISES[self.promise]}", *self.lines])


@dataclass(slots=True)
class Report:
    """The judgement. `unchecked`: keys with writes of which nothing was seen after healing."""

    violations: list[Violation] = field(default_factory=list)
    more: int = 0
    unchecked: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def accused(self) -> list[str]:
        """The keys of all violations, sorted."""
        return sorted({v.key for v in self.violations if v.key})

    def add(self, promise: str, key: str, write: str, *lines: str) -> None:
        if any(v.promise == promise and v.write == write and v.key == key for v in self.violations):
            self.more += 1
        elif len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(promise, key, write, lines))
        else:
            self.more += 1

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


def check(history: History) -> Report:
    """Judge a history; the same history gives the same report."""
    report = Report()
    operations = sorted(history.operations, key=lambda o: (o.invoked, o.returned, o.id))
    by_id: dict[str, Operation] = {}
    for operation in operations:
        if operation.id in by_id or operation.id == TOMBSTONE:
            report.add("f", operation.key, operation.id, f"two operations are {operation.id!r}")
        by_id[operation.id] = operation
    keys: dict[str, _Key] = {}
    for operation in operations:
        keys.setdefault(operation.key, _Key(operation.key, by_id, report, history.n)).take(
            operation
        )
    for copy in history.replicas:
        keys.setdefault(copy.key, _Key(copy.key, by_id, report, history.n)).copies.append(copy)
    for name in ("writes", "acknowledged", "refused", "unknown", "gets", "unanswered gets",
                 "floors", "stale reads", "echoes"):  # fmt: skip
        report.count(name, 0)
    for key in keys.values():
        key.judge(history.healed_at)
    for figure in history.figures:
        if figure.value > figure.most:
            report.add(
                "d", "", figure.name, f"{figure.name}: {figure.value:g}, at most {figure.most:g}"
            )
    return report


class _Key:
    """Everything that happened to one key."""

    def __init__(self, name: str, by_id: dict[str, Operation], report: Report, n: int) -> None:
        self.name = name
        self.n = n
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

    def judge(self, healed_at: float | None) -> None:
        self._learn()
        for get in self.gets:
            self.report.count("gets")
            if not get.acknowledged:
                self.report.count("unanswered gets")
                continue
            strict = healed_at is not None and get.invoked >= healed_at
            where = f"answer {get.id} to {_who(get)} at {get.invoked:.3f}..{get.returned:.3f}"
            self._only_written(get.shown, get.returned, where)
            self._no_ancestors(get.shown, where)
            if get.context is not None:
                self._floor(get, where)
            self._gone_stays_gone(get.shown, get.invoked, where, strict, get.owners)
            if strict:
                self._nothing_lost(get.shown, get.invoked, where)
        self._stale()
        end = max((o.returned for o in (*self.writes, *self.gets)), default=0.0) + 1
        for copy in self.copies:
            if not copy.owner:
                continue
            where = f"the copy of {copy.node} at the end"
            live = tuple(s for s in copy.siblings if s.id != TOMBSTONE)
            self._only_written(live, end, where)
            self._no_ancestors(live, where)
            self._gone_stays_gone(live, end, where, True)
            self._nothing_lost(live, end, where)
        self._copies_equal()
        answered = any(
            g.acknowledged and healed_at is not None and g.invoked >= healed_at for g in self.gets
        )
        if self.writes and not answered and not any(c.owner for c in self.copies):
            self.report.unchecked.append(self.name)

    # What is known

    def _learn(self) -> None:
        for write in self.writes:
            self.report.count("writes")
            self.report.count(write.outcome)
            if write.outcome == REFUSED:
                continue
            if write.by_store:
                self.reads_itself.append(write)
            for seen in self.saw(write):
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
        new = _new_dots(write.clock, sent)
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
        self._accuse("f", write, said)

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
            f"key {self.name}: the dot {dot_text(dot)} is {_named(known[0])} by {known[1]} "
            f"and {_named(mine)} by {where}",
            *self._stands(mine),
        )  # fmt: skip

    # Whether one write replaces another

    def replaces(self, write: Operation, name: str, dot: Dot | None) -> bool:
        """Whether the author of `write` had seen the value `name`, under `dot` if that is known."""
        clock = self.sent_clock(write)
        dots = self.dots.get(name) if dot is None else {dot}
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
                if write.acknowledged and not strict:
                    return True
                waiting.append(write.id)
            for write in self.reads_itself:
                if write.invoked <= until and self._may_have_read(write, gone):
                    return True
        return False

    def _may_have_read(self, delete: Operation, name: str) -> bool:
        write = self.by_id.get(name)
        if write is None or delete.id == name or write.invoked > delete.returned:
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

    def _deleted_by_store(self, dot: Dot | None) -> list[Operation]:
        if dot is None:
            return []
        return [w for w in self.reads_itself if w.clock is not None and w.clock.covers(dot)]

    # The promises

    def _only_written(self, shown: tuple[Shown, ...], until: float, where: str) -> None:
        for name, _ in shown:
            write = self.by_id.get(name)
            if write is None or write.key != self.name or not write.is_write:
                self.report.add(
                    "g", self.name, name,
                    f"key {self.name}: {where} shows {name!r}, which nobody wrote there",
                )  # fmt: skip
            elif write.outcome == REFUSED:
                self._accuse("g", write, f"it was refused, but {where} shows it")
            elif write.invoked > until:
                self._accuse("g", write, f"{where} shows it before it was written")

    def _no_ancestors(self, shown: tuple[Shown, ...], where: str) -> None:
        if len(shown) < 2:
            return
        names = {each.id for each in shown}
        for name, dot in shown:
            for write in self.successors(name):
                if write.id not in names:
                    continue
                if self.replaces(write, name, dot):
                    self._accuse(
                        "b", self.by_id.get(name), f"{where} shows it with {_told(write)}",
                        "whose author had seen it",
                    )  # fmt: skip
                else:
                    self.report.count("echoes")

    def _floor(self, get: Operation, where: str) -> None:
        self.report.count("floors")
        floor = self.saw(get)
        source = self.by_id.get(get.context) if isinstance(get.context, str) else None
        names = {each.id for each in get.shown}
        for name in floor:
            write = self.by_id.get(name)
            if write is None or write.op == DELETE or name in names:
                continue
            if not self.justified(name, names, get.returned, strict=True):
                self._accuse(
                    "c", write, f"{where} lacks it, though its floor (the context of "
                    f"{get.context}) covers it", f"shown instead: {_list(names)}",
                )  # fmt: skip
        clock = source.clock if source is not None else None
        for name, dot in get.shown:
            if name in floor:
                continue
            if clock is not None and dot is not None:
                if not clock.covers(dot):
                    continue
            elif not any(write.id in floor for write in self.successors(name)):
                continue
            self._accuse(
                "c", self.by_id.get(name), f"{where} shows it, though its floor (the context of "
                f"{get.context}) had seen it replaced", f"the floor carried {_list(floor)}",
            )  # fmt: skip

    def _gone_stays_gone(
        self, shown: tuple[Shown, ...], began: float, where: str, strict: bool, owners: int = 0
    ) -> None:
        for name, dot in shown:
            for write in (*self.successors(name), *self._deleted_by_store(dot)):
                if not write.acknowledged or write.returned >= began:
                    continue
                if not write.by_store and not self.replaces(write, name, dot):
                    self.report.count("echoes")
                    continue
                overlaps = self._overlap(write, owners)
                if not strict and not overlaps:
                    self.report.count("stale reads")
                else:
                    self._accuse(
                        "e" if strict else "h",
                        self.by_id.get(name),
                        f"{where} shows it, but it was replaced by {_told(write)}",
                        "whose author had seen it",
                    )
                break

    def _nothing_lost(self, shown: tuple[Shown, ...], began: float, where: str) -> None:
        names = {each.id for each in shown}
        for write in self.writes:
            if (
                write.op == DELETE
                or not write.acknowledged
                or write.returned >= began
                or write.id in names
                or self.justified(write.id, names, began, strict=False)
            ):
                continue
            successors = list(self.successors(write.id))
            why = [f"{_told(s)} had seen it, but isn't there either" for s in successors[:3]]
            self._accuse(
                "a", write, f"{where} lacks it", f"shown instead: {_list(names)}",
                *(why or ["no write whose author had seen it replaced it"]),
            )  # fmt: skip

    def _stale(self) -> None:
        """Count answers that lacked what had been acknowledged before they were asked."""
        events = [(w.returned, 0, w) for w in self.writes if w.acknowledged and w.op != DELETE]
        events += [(w.invoked, 1, w) for w in self.writes if w.outcome != REFUSED]
        events += [(g.invoked, 2, g) for g in self.gets if g.acknowledged]
        standing: dict[str, Operation] = {}
        replaced: set[str] = set()
        for _, what, operation in sorted(events, key=lambda e: (e[0], e[1], e[2].id)):
            if what == 0:
                if operation.id not in replaced:
                    standing[operation.id] = operation
            elif what == 1:
                gone = list(standing) if operation.by_store else self.saw(operation)
                replaced.update(gone)
                for name in gone:
                    standing.pop(name, None)
            else:
                self._behind(operation, standing)

    def _behind(self, get: Operation, standing: dict[str, Operation]) -> None:
        """Count or accuse an answer without a write that stood when it was asked for."""
        names = {each.id for each in get.shown}
        missing = [
            write
            for name, write in standing.items()
            if name not in names and not self.justified(name, names, get.returned, strict=False)
        ]
        if missing:
            self.report.count("stale reads")
        for write in missing:
            if self._overlap(write, get.owners):
                self._accuse(
                    "h",
                    write,
                    f"answer {get.id} to {_who(get)} at {get.invoked:.3f}..{get.returned:.3f} "
                    f"lacks it, though {write.owners} of {self.n} owners had acknowledged it and "
                    f"{get.owners} answered",
                    f"shown instead: {_list(names)}",
                )

    def _overlap(self, write: Operation, owners: int) -> bool:
        """Whether `owners` of the key's owners must include one that acknowledged `write`."""
        return 0 < self.n < write.owners + owners

    def _copies_equal(self) -> None:
        owners = [copy for copy in self.copies if copy.owner]
        if len({(copy.clock, copy.siblings) for copy in owners}) > 1:
            self.report.add(
                "d", self.name, "", f"key {self.name}: owners differ", *self._stands("")
            )

    # Telling

    def _accuse(self, promise: str, write: Operation | None, *lines: str) -> None:
        if write is None:  # told already: nobody wrote it
            return
        self.report.add(promise, self.name, write.id, _told(write), *lines, *self._stands(write.id))

    def _stands(self, name: str) -> list[str]:
        """Where each replica stands, for the end of a story."""
        lines = []
        for copy in sorted(self.copies, key=lambda c: c.node):
            held = [
                _named(s.id) + (f" at {dot_text(s.dot)}" if s.dot else "") for s in copy.siblings
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


def _new_dots(answer: Clock, sent: Clock) -> list[Dot]:
    """Dots that `answer` claims and `sent` doesn't, the first few."""
    found: list[Dot] = []
    for actor, n in sorted(answer.vector.items()):
        first = max(sent.vector.get(actor, 0) + 1, n - NEW_DOTS_MAX)
        found += [(actor, i) for i in range(first, n + 1) if not sent.covers((actor, i))]
    found += [dot for dot in sorted(answer.dots) if not sent.covers(dot)]
    return found[:NEW_DOTS_MAX]


def _who(operation: Operation) -> str:
    session = f" (session {operation.session})" if operation.session else ""
    return f"{operation.client}{session}"


def _told(write: Operation) -> str:
    outcome = " with unknown outcome" if write.outcome == UNKNOWN else ""
    return (
        f"{write.op} {write.id} of key {write.key} by {_who(write)}, "
        f"{write.invoked:.3f}..{write.returned:.3f}{outcome}"
    )


def _named(name: str) -> str:
    return name or "a tombstone"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
