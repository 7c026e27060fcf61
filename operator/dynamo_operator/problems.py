"""How a mistake is told: the field's path, what it holds, and what would be right.

Owns the list of mistakes, and the words for a value and its type. Forbidden: finding
mistakes (`fields`, `rules`, `changes`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in one field."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path or 'the document'} {self.text}"


@dataclass(slots=True)
class Problems:
    """The mistakes found so far."""

    found: list[Problem] = field(default_factory=list)

    def add(self, path: str, text: str) -> None:
        self.found.append(Problem(path, text))

    def clean(self, *paths: str) -> bool:
        """Whether none of these fields, nor what they are in or hold, is known to be wrong.

        Checks across fields ask this first, so that one mistake is told once.
        """
        return not any(
            _within(problem.path, path) or _within(path, problem.path)
            for problem in self.found
            for path in paths
        )


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def shown(value: object) -> str:
    """A value as a manifest would hold it, with its type where that is the mistake."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def type_name(value: object) -> str:
    """What people call the type of a value."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    names |= {dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)
