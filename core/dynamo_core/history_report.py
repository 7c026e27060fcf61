"""What a judgement of a history says, and how a broken promise is told.

Owns the promises' names, `Violation`, `Report` and the words for operations.
Forbidden here: judging (`history_check`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dynamo_core.history import UNKNOWN, Operation

VIOLATIONS_MAX: Final = 100
"""Violations that are told in full; the rest are counted."""

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


def who(operation: Operation) -> str:
    session = f" (session {operation.session})" if operation.session else ""
    return f"{operation.client}{session}"


def told(write: Operation) -> str:
    outcome = " with unknown outcome" if write.outcome == UNKNOWN else ""
    return (
        f"{write.op} {write.id} of key {write.key} by {who(write)}, "
        f"{write.invoked:.3f}..{write.returned:.3f}{outcome}"
    )


def named(name: str) -> str:
    return name or "a tombstone"


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
