"""The history checker: hand-made histories that must be caught, and others that must not."""

import json
from collections.abc import Callable

import pytest

from dynamo_core.errors import CallerError
from dynamo_core.history import (
    ACKNOWLEDGED,
    REFUSED,
    UNKNOWN,
    Figure,
    History,
    Operation,
    ReplicaCopy,
    Shown,
    from_lines,
)
from dynamo_core.history_check import check
from dynamo_core.history_report import VIOLATIONS_MAX, Report
from dynamo_core.versions import Clock, Dot

A, B = b"\0\0\0\1" + b"a" * 12, b"\0\0\0\2" + b"b" * 12
HEALED = 1000.0
Context = str | tuple[str, ...] | None


class Story:
    """A history told step by step; each operation takes one second after the last."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 0.0

    def _add(self, name: str, op: str, **more: object) -> "Story":
        fields = {"client": "c1", "key": "k", "outcome": ACKNOWLEDGED} | more
        fields.setdefault("invoked", self.now + 0.25)
        fields.setdefault("returned", self.now + 0.75)
        self.now += 1
        self.history.operations.append(Operation(id=name, op=op, **fields))  # type: ignore[arg-type]
        return self

    def put(self, name: str, context: Context = None, **more: object) -> "Story":
        return self._add(name, "put", context=context, **more)

    def delete(self, name: str, context: Context = None, **more: object) -> "Story":
        more.setdefault("by_store", context is None)
        return self._add(name, "delete", context=context, **more)

    def get(
        self, name: str, *shown: str | Shown, context: Context = None, **more: object
    ) -> "Story":
        found = tuple(each if isinstance(each, Shown) else Shown(each) for each in shown)
        return self._add(name, "get", shown=found, context=context, **more)

    def of(self, n: int) -> "Story":
        self.history.n = n
        return self

    def heal(self) -> "Story":
        self.history.healed_at = self.now
        return self

    def copy(self, node: str, *siblings: Shown, clock: Clock | None = None, owner: bool = True,
             key: str = "k") -> "Story":  # fmt: skip
        self.history.replicas.append(
            ReplicaCopy(node=node, key=key, siblings=siblings, clock=clock, owner=owner)
        )
        return self

    def check(self) -> Report:
        stored = from_lines(self.history.lines())
        assert stored == self.history
        return check(stored)


def clock(*dots: Dot) -> Clock:
    return Clock({}, dots)


CAUGHT: dict[str, tuple[str, str, Callable[[Story], Story]]] = {
    "lost": ("a", "w1", lambda s: s.put("w1").heal().get("g1")),
    "lost beside another": ("a", "w1", lambda s: s.put("w1").put("w2").heal().get("g1", "w2")),
    "lost on one owner": (
        "a", "w1",
        lambda s: s.put("w1").heal().get("g1", "w1").copy("n0", Shown("w1")).copy("n1"),
    ),
    "replaced only by what was refused": (
        "a", "w1",
        lambda s: s.put("w1").put("w2", ("w1",), outcome=REFUSED).heal().get("g1"),
    ),
    "replaced only by what never appeared": (
        "a", "w1",
        lambda s: s.put("w1").put("w2", ("w1",), outcome=UNKNOWN).heal().get("g1"),
    ),
    "replaced by one that had not seen it": (
        "a", "w2",
        lambda s: s.put("w1").get("g1", "w1").put("w2").put("w3", "g1").heal().get("g2", "w3"),
    ),
    "deleted by one that had not seen it": (
        "a", "w2",
        lambda s: s.put("w1").put("w2").delete("d1", ("w1",)).heal().get("g2"),
    ),
    "a put's own context covered more": (
        "a", "x",
        lambda s: s.put("x").put("y1").put("y2", "y1").heal().get("g", "y2"),
    ),
    "a delete that the store read for, before the write": (
        "a", "w1", lambda s: s.delete("d1").put("w1").heal().get("g1"),
    ),
    "a delete that the store read for, whose clock tells": (
        "a", "w1",
        lambda s: s.put("w1", clock=clock((A, 1))).delete("d1", clock=clock((B, 1)))
        .heal().get("g1"),
    ),
    "an ancestor beside": (
        "b", "w1",
        lambda s: s.put("w1").put("w2", ("w1",)).get("g1", "w1", "w2"),
    ),
    "a distant ancestor beside": (
        "b", "w1",
        lambda s: s.put("w1").put("w2", "w1").put("w3", "w2").get("g1", "w1", "w3"),
    ),
    "an ancestor beside in a copy": (
        "b", "w1",
        lambda s: s.put("w1").put("w2", ("w1",)).heal().copy("n0", Shown("w1"), Shown("w2")),
    ),
    "own write not read": ("c", "w1", lambda s: s.put("w1").get("g1", context="w1")),
    "what was read is gone": (
        "c", "w1", lambda s: s.put("w1").get("g1", "w1").get("g2", context="g1"),
    ),
    "one sibling of a read is gone": (
        "c", "w2",
        lambda s: s.put("w1").put("w2").get("g1", "w1", "w2").get("g2", "w1", context="g1"),
    ),
    "back to what was replaced": (
        "c", "w1",
        lambda s: s.put("w1").put("w2", "w1").get("g1", "w2").get("g2", "w1", "w2", context="g1"),
    ),
    "back behind the own delete": (
        "c", "w1",
        lambda s: s.put("w1").get("g1", "w1").delete("d1", "g1").get("g2", "w1", context="d1"),
    ),
    "back, told by clocks alone": (
        "c", "w1",
        lambda s: s.put("w1").get("g1", clock=clock((A, 1)))
        .get("g2", Shown("w1", (A, 1)), context="g1"),
    ),
    "deleted and back": (
        "e", "w1", lambda s: s.put("w1").delete("d1", ("w1",)).heal().get("g1", "w1"),
    ),
    "replaced and back": (
        "e", "w1", lambda s: s.put("w1").put("w2", ("w1",)).heal().get("g1", "w1"),
    ),
    "replaced by one of unknown outcome that was replaced": (
        "e", "w1",
        lambda s: s.put("w1").put("w2", "w1", outcome=UNKNOWN).put("w3", ("w2",))
        .heal().get("g1", "w1"),
    ),
    "deleted and back in a copy": (
        "e", "w1",
        lambda s: s.put("w1").delete("d1", ("w1",)).heal().get("g1")
        .copy("n0", Shown("")).copy("n1", Shown("w1")),
    ),
    "deleted by what the store read and back": (
        "e", "w1",
        lambda s: s.put("w1").delete("d1", clock=clock((A, 1), (B, 1))).heal()
        .get("g1", Shown("w1", (A, 1))),
    ),
    "a dot of two values": (
        "f", "w2",
        lambda s: s.put("w1").put("w2").get("g1", Shown("w1", (A, 1)))
        .get("g2", Shown("w2", (A, 1))),
    ),
    "a dot of a value and a delete": (
        "f", "d1",
        lambda s: s.put("w1").get("g1", Shown("w1", (A, 1)))
        .delete("d1", (), clock=clock((A, 1))).heal().get("g2", "w1"),
    ),
    "a dot of a value and a tombstone": (
        "f", "",
        lambda s: s.put("w1").get("g1", Shown("w1", (A, 1))).heal().get("g2", "w1")
        .copy("n0", Shown("w1"), Shown("", (A, 1))),
    ),
    "a dot told by two answers to puts": (
        "f", "w2",
        lambda s: s.put("w1", clock=clock((A, 1))).put("w2", clock=clock((A, 1)))
        .heal().get("g1", "w1", "w2"),
    ),
    "a put's context that claims the stored clock": (
        "f", "w2",
        lambda s: s.put("w1", clock=clock((A, 1))).put("w2", clock=clock((A, 1), (A, 2)))
        .heal().get("g1", "w1", "w2"),
    ),
    "a dot that its author had already seen": (
        "f", "w2",
        lambda s: s.put("w1", clock=clock((A, 1))).put("w2", "w1", clock=clock((A, 1)))
        .heal().get("g1", "w2"),
    ),
    "never written": ("g", "w9", lambda s: s.put("w1").get("g1", "w1", "w9")),
    "of another key": (
        "g", "w2", lambda s: s.put("w1").put("w2", key="other").get("g1", "w1", "w2"),
    ),
    "refused and there": (
        "g", "w1", lambda s: s.put("w1", outcome=REFUSED).get("g1", "w1"),
    ),
    "shown before it was written": ("g", "w1", lambda s: s.get("g1", "w1").put("w1")),
    "absent, though owners of it answered": (
        "h", "w1", lambda s: s.of(3).put("w1", owners=2).get("g1", owners=2),
    ),
    "old, though owners of the new answered": (
        "h", "w1",
        lambda s: s.of(3).put("w1").delete("d1", ("w1",), owners=2).get("g1", "w1", owners=2),
    ),
    "copies that differ": (
        "d", "",
        lambda s: s.put("w1").heal().get("g1", "w1").copy("n0", Shown("w1"), clock=clock((A, 1)))
        .copy("n1", Shown("w1"), clock=clock((A, 1), (B, 1))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAUGHT)
def test_each_of_these_is_caught(name: str) -> None:
    promise, write, tell = CAUGHT[name]
    report = tell(Story()).check()
    assert (promise, write) in {(v.promise, v.write) for v in report.violations}, report
    assert not report.ok


RIGHT: dict[str, Callable[[Story], Story]] = {
    "nothing": lambda s: s.heal(),
    "there": lambda s: s.put("w1").heal().get("g1", "w1").copy("n0", Shown("w1")),
    "replaced": lambda s: s.put("w1").put("w2", ("w1",)).heal().get("g1", "w2"),
    "deleted": lambda s: s.put("w1").delete("d1", ("w1",)).heal().get("g1"),
    "deleted by the store's read": lambda s: s.put("w1").delete("d1").heal().get("g1"),
    "deleted with unknown outcome, either way": lambda s: (
        s.put("w1").delete("d1", ("w1",), outcome=UNKNOWN).heal().get("g1").get("g2", "w1")
    ),
    "unknown and there": lambda s: s.put("w1", outcome=UNKNOWN).heal().get("g1", "w1"),
    "unknown and not there": lambda s: s.put("w1", outcome=UNKNOWN).heal().get("g1"),
    "refused and not there": lambda s: s.put("w1", outcome=REFUSED).heal().get("g1"),
    "replaced by an unknown one that shows": lambda s: (
        s.put("w1").put("w2", ("w1",), outcome=UNKNOWN).heal().get("g1", "w2")
    ),
    "replaced by an unknown one that was replaced": lambda s: (
        s.put("w1").put("w2", "w1", outcome=UNKNOWN).put("w3", ("w2",)).heal().get("g1", "w3")
    ),
    "siblings": lambda s: s.put("w1").put("w2").heal().get("g1", "w1", "w2"),
    "recreated": lambda s: (
        s.put("w1").get("g1", "w1").delete("d1", "g1").put("w2", "d1").heal()
        .get("g2", "w2", context="d1")
    ),
    "recreated on a 404 with a context": lambda s: (
        s.put("w1").delete("d1", ("w1",)).get("g1").put("w2", "g1").heal().get("g2", "w2")
    ),
    "a session that moves on": lambda s: (
        s.put("w1").get("g1", "w1", context="w1").put("w2", "g1", client="c2")
        .get("g2", "w2", context="g1").get("g3", "w2", context="w2")
    ),
    "a floor met by a delete": lambda s: (
        s.put("w1").delete("d1", ("w1",), client="c2").get("g1", context="w1")
    ),
    "old while something is broken": lambda s: (
        s.put("w1").put("w2", ("w1",)).get("g1", "w1").get("g2").heal().get("g3", "w2")
    ),
    "a write that was tried twice shows again": lambda s: (
        s.put("w1", clock=clock((A, 1))).get("g1", Shown("w1", (A, 1)), clock=clock((A, 1)))
        .delete("d1", "g1", clock=clock((A, 1), (A, 2)))
        .heal().get("g2", Shown("w1", (B, 1)))
    ),
    "concurrent with what replaces it": lambda s: (
        s.put("w1").put("w2", ("w1",), invoked=1, returned=9).heal()
        .get("g1", "w1", invoked=5, returned=6)
    ),
    "absent, asked of owners that need not have it": lambda s: (
        s.of(3).put("w1", owners=1).get("g1", owners=2).get("g2", "w1", owners=2)
    ),
    "a write during the last reads": lambda s: (
        s.heal().get("g1", invoked=1.0, returned=3).put("w1", invoked=0.5, returned=2)
    ),
    "a former owner's copy": lambda s: (
        s.put("w1").heal().get("g1", "w1").copy("n0", Shown("w1")).copy("n9", owner=False)
    ),
    "a tombstone of a known delete": lambda s: (
        s.put("w1", clock=clock((A, 1))).delete("d1", "w1", clock=clock((A, 1), (A, 2))).heal()
        .get("g1").copy("n0", Shown("", (A, 2))).copy("n1", Shown("", (A, 2)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_none_of_these_is_accused(name: str) -> None:
    report = RIGHT[name](Story()).check()
    assert report.ok, "\n".join(map(str, report.violations))


def test_what_cannot_be_known_is_said() -> None:
    report = Story().put("w1").check()
    assert report.ok
    assert report.unchecked == ["k"]
    assert Story().put("w1").get("g1", "w1").check().unchecked == ["k"]
    assert not Story().put("w1").heal().get("g1", "w1").check().unchecked


def test_counts() -> None:
    story = Story().put("w1").get("g1").put("w2", ("w1",), outcome=UNKNOWN)
    story.put("w3", outcome=REFUSED).get("g2", "w1").get("g3", outcome=REFUSED).get(
        "g4", "w1", context="w1"
    )
    counts = story.check().counts
    assert counts == {
        "writes": 3, "acknowledged": 1, "unknown": 1, "refused": 1, "gets": 4,
        "unanswered gets": 1, "floors": 1, "stale reads": 1, "echoes": 0,
    }  # fmt: skip


def test_a_story_can_be_followed() -> None:
    story = Story().put("w1", client="c7", session="c7.2", clock=clock((A, 1)))
    story.put("w2", outcome=UNKNOWN, context=("w1",)).heal().get("g1")
    story.copy("n0", clock=clock((A, 1))).copy("n1", Shown("w1", (A, 1)), clock=clock((A, 1)))
    text = str(story.check().violations[0])
    for part in (
        "an acknowledged write was lost",
        "put w1 of key k by c7 (session c7.2), 0.250..0.750",
        "answer g1",
        "put w2 of key k by c1, 1.250..1.750 with unknown outcome had seen it",
        "n0: lacks it; holds nothing; its clock claims 1.6161616161616161.1633771873:1",
        "n1: has it; holds w1",
    ):
        assert part in text, text


def test_what_failed_is_stored() -> None:
    put = Operation(
        id="w1", op="put", client="c0", key="k", invoked=0, returned=1, outcome=UNKNOWN, failed=2
    )
    history = History(operations=[put])
    assert from_lines(history.lines()) == history


def test_figures_are_bounds() -> None:
    history = History(figures=[Figure(name="repairs while idle", value=3, most=0)])
    report = check(from_lines(history.lines()))
    assert [v.promise for v in report.violations] == ["d"]
    assert "repairs while idle: 3, at most 0" in str(report.violations[0])


def test_violations_are_bounded() -> None:
    story = Story()
    for number in range(VIOLATIONS_MAX + 7):
        story.put(f"w{number}")
    report = story.heal().get("g1").check()
    assert len(report.violations) == VIOLATIONS_MAX
    assert report.more == 7


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 1"),
        ("[]", "line 1"),
        ('{"record": "mark", "what": "lunch", "at": 1}', "record is 'mark'"),
        ('{"record": "operation", "op": "increment", "outcome": "unknown"}', "op is 'increment'"),
        ('{"record": "operation", "op": "put", "outcome": "unknown"}', "'id' is missing"),
        ('{"record": "replica", "node": "n", "key": "k", "siblings": [["w", "1:1"]]}', "no dot"),
    ],
)
def test_what_is_no_history_is_refused(line: str, why: str) -> None:
    with pytest.raises(CallerError, match="line 1 is no record") as error:
        from_lines([line])
    assert why in str(error.value)


def test_a_damaged_record_is_refused_field_by_field() -> None:
    whole = json.loads(next(iter(Story().put("w1", clock=clock((A, 1))).history.lines())))
    for name, wrong in (("clock", "00"), ("clock", "zz"), ("context", 7), ("invoked", "soon"),
                        ("key", ""), ("client", None), ("outcome", "ok")):  # fmt: skip
        with pytest.raises(CallerError):
            from_lines([json.dumps(whole | {name: wrong})])


@pytest.mark.parametrize(("outcome", "pause_s", "accused"), [
    (UNKNOWN, 0, False), (UNKNOWN, 50, False), (UNKNOWN, 70, True), (ACKNOWLEDGED, 0, True),
])  # fmt: skip
def test_a_delete_that_was_given_up_may_still_read_what_came_later(
    outcome: str, pause_s: float, accused: bool
) -> None:
    # A node that had been paused carried it out as it woke, over a write of meanwhile.
    story = Story().of(3).delete("d", outcome=outcome, clock=clock((B, 1)))
    story.now += pause_s
    story.put("w", owners=2, clock=clock((A, 1))).get("g", owners=2)
    assert {v.promise for v in story.check().violations} == ({"h"} if accused else set())
