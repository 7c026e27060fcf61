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
   Whoever records disks that are lost counts the owners that can still know.

A write that was tried at several coordinators may have several dots. Whoever
saw it under one of them has not seen the others, so it can show again beside
what replaced it; where dots and clocks are recorded that is told apart and
counted as an echo, where they aren't it is accused.
"""

from dynamo_core.history import (
    DELETE,
    REFUSED,
    TOMBSTONE,
    History,
    Operation,
    Shown,
)
from dynamo_core.history_causes import KeyHistory
from dynamo_core.history_report import Report, listed, told, who


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
        if operation.key not in keys:
            keys[operation.key] = _Key(operation.key, by_id, report, history)
        keys[operation.key].take(operation)
    for copy in history.replicas:
        if copy.key not in keys:
            keys[copy.key] = _Key(copy.key, by_id, report, history)
        keys[copy.key].copies.append(copy)
    for mint in history.mints:
        if mint.id in by_id and (mints := keys[by_id[mint.id].key].mints) is not None:
            mints.setdefault(mint.id, []).append(mint)
    for name in ("writes", "acknowledged", "refused", "unknown", "gets", "unanswered gets",
                 "floors", "stale reads", "echoes"):  # fmt: skip
        report.count(name, 0)
    if history.excused:
        report.count("excused", len(history.excused))
    for key in keys.values():
        key.judge(history.healed_at)
    for figure in history.figures:
        if figure.value > figure.most:
            report.add(
                "d", "", figure.name, f"{figure.name}: {figure.value:g}, at most {figure.most:g}"
            )
    return report


class _Key(KeyHistory):
    """Judges one key."""

    def judge(self, healed_at: float | None) -> None:
        self.learn()
        for get in self.gets:
            self.report.count("gets")
            if not get.acknowledged:
                self.report.count("unanswered gets")
                continue
            strict = healed_at is not None and get.invoked >= healed_at
            where = f"answer {get.id} to {who(get)} at {get.invoked:.3f}..{get.returned:.3f}"
            self._only_written(get.shown, get.returned, where)
            self._no_ancestors(get.shown, where)
            if get.context is not None and not self.last_write_wins:
                self._floor(get, where)
            self._gone_stays_gone(get.shown, get.invoked, where, strict, get.owners)
            if strict and not self.last_write_wins:
                self._nothing_lost(get.shown, get.invoked, where)
        if self.last_write_wins:
            self._one_answer(healed_at)
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
                self.accuse("g", write, f"it was refused, but {where} shows it")
            elif write.invoked > until:
                self.accuse("g", write, f"{where} shows it before it was written")

    def _no_ancestors(self, shown: tuple[Shown, ...], where: str) -> None:
        if len(shown) < 2:
            return
        names = {each.id for each in shown}
        for name, dot in shown:
            for write in self.successors(name):
                if write.id not in names:
                    continue
                if self.replaces(write, name, dot):
                    self.accuse(
                        "b", self.by_id.get(name), f"{where} shows it with {told(write)}",
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
            if write is None or write.op == DELETE or name in names or name in self.excused:
                continue
            if not self.justified(name, names, get.returned, strict=True):
                self.accuse(
                    "c", write, f"{where} lacks it, though its floor (the context of "
                    f"{get.context}) covers it", f"shown instead: {listed(names)}",
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
            self.accuse(
                "c", self.by_id.get(name), f"{where} shows it, though its floor (the context of "
                f"{get.context}) had seen it replaced", f"the floor carried {listed(floor)}",
            )  # fmt: skip

    def _gone_stays_gone(
        self, shown: tuple[Shown, ...], began: float, where: str, strict: bool, owners: int = 0
    ) -> None:
        for name, dot in shown:
            for write in (*self.successors(name), *self.deleted_by_store(dot)):
                if not write.acknowledged or write.returned >= began or write.id in self.excused:
                    continue
                told_exactly = self.mints is not None or not write.by_store
                if told_exactly and not self.replaces(write, name, dot):
                    self.report.count("echoes")
                    continue
                overlaps = self._overlap(write, owners)
                if not strict and not overlaps:
                    self.report.count("stale reads")
                else:
                    self.accuse(
                        "e" if strict else "h",
                        self.by_id.get(name),
                        f"{where} shows it, but it was replaced by {told(write)}",
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
                or write.id in self.excused
                or self.justified(write.id, names, began, strict=False)
            ):
                continue
            successors = list(self.successors(write.id))
            why = [f"{told(s)} had seen it, but isn't there either" for s in successors[:3]]
            self.accuse(
                "a", write, f"{where} lacks it", f"shown instead: {listed(names)}",
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
                blind = operation.by_store or self.last_write_wins
                gone = list(standing) if blind else self.saw(operation)
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
            if write.id in self.excused or self.last_write_wins:
                continue
            if self._overlap(write, get.owners):
                self.accuse(
                    "h",
                    write,
                    f"answer {get.id} to {who(get)} at {get.invoked:.3f}..{get.returned:.3f} "
                    f"lacks it, though {write.owners} of {self.n} owners had acknowledged it and "
                    f"{get.owners} answered",
                    f"shown instead: {listed(names)}",
                )

    def _one_answer(self, healed_at: float | None) -> None:
        """Where time decides, all healed answers are the same one."""
        answers = {
            tuple(sorted(g.shown))
            for g in self.gets
            if g.acknowledged and healed_at is not None and g.invoked >= healed_at
        }
        if len(answers) > 1 or any(len(shown) > 1 for shown in answers):
            told = " and ".join(sorted(listed(s.id for s in shown) for shown in answers))
            self.report.add("d", self.name, "", f"key {self.name}: answers show {told}")

    def _overlap(self, write: Operation, owners: int) -> bool:
        """Whether `owners` of the key's owners must include one that acknowledged `write`."""
        return 0 < self.n < write.owners + owners

    def _copies_equal(self) -> None:
        owners = [copy for copy in self.copies if copy.owner]
        if len({(copy.clock, copy.siblings) for copy in owners}) > 1:
            self.report.add("d", self.name, "", f"key {self.name}: owners differ", *self.stands(""))
