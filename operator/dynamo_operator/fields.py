"""Reading untyped values into typed ones, collecting every mistake.

Owns how a mistake is told: the field's path, what it holds, what would be
right. Forbidden: knowledge of the custom resource; `spec` says which fields
there are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from dynamo_operator import quantities

_MISSING: Any = object()
_BOOLEANS = "y, n, yes, no, on and off are booleans in YAML 1.1"


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


class Fields:
    """The fields of one object. Take each known one, then call `done`.

    A field that is null counts as left out, as the API server does it for
    fields that have a default.
    """

    def __init__(self, problems: Problems, path: str, value: object) -> None:
        self.problems = problems
        self.path = path
        self._known: set[str] = set()
        self._values: dict[str, Any] = {}
        self._broken = not isinstance(value, dict | None)  # told once, not for each field
        if isinstance(value, dict):
            self._values = value
        elif value is not None:
            problems.add(path, f"is {shown(value)} ({type_name(value)}): it must be an object")

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def wrong(self, name: str, text: str) -> None:
        self.problems.add(self.at(name), text)

    def missing(self, name: str, text: str) -> None:
        if not self._broken:
            self.wrong(name, f"is missing: {text}")

    def done(self) -> None:
        """Reports what was given and not taken, with the nearest name that exists."""
        for name in self._values:
            if name not in self._known:
                self.wrong(str(name), f"is no known field: {_nearest(str(name), self._known)}")

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        value = self._take(name)
        if value is _MISSING:
            if required:
                self.missing(name, "it must be given")
            return default
        if not isinstance(value, str):
            self._wrong_type(name, value, "a string")
            return default
        return value

    def choice(self, name: str, default: str, options: Collection[str]) -> str:
        value = self.text(name, default)
        if value not in options:
            hint = difflib.get_close_matches(value.lower(), [o.lower() for o in options], n=1)
            meant = [o for o in options if hint and o.lower() == hint[0]]
            more = f" (did you mean {meant[0]}?)" if meant else ""
            self.wrong(name, f"is {shown(value)}: it must be one of {', '.join(options)}{more}")
            return default
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self._take(name)
        if value is _MISSING:
            return default
        if not isinstance(value, bool):
            self._wrong_type(name, value, "true or false")
            return default
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self._take(name)
        if value is _MISSING:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong_type(name, value, "an integer")
            return default
        if not low <= value <= high:
            self.wrong(name, f"is {value}: it must be between {low} and {high}")
            return default
        return value

    def decimal(
        self, name: str, default: str, check: Callable[[Fraction], bool], right: str
    ) -> str:
        """A decimal written as a string; `right` says which ones are."""
        value = self._take(name)
        if value is _MISSING:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.wrong(
                name, f'is {value} (a number): decimals are strings here, write "{value}" in quotes'
            )
            return default
        if not isinstance(value, str):
            self._wrong_type(name, value, f"a string with {right}")
            return default
        try:
            good = check(quantities.decimal(value))
        except ValueError:
            good = False
        if not good:
            self.wrong(name, f"is {shown(value)}: it must be {right}")
            return default
        return value

    def quantity(self, name: str, default: str, *, positive: bool = False) -> str:
        """A Kubernetes quantity, as text; integers are taken as kubectl takes them."""
        value = self._take(name)
        if value is _MISSING:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            self._wrong_type(name, value, 'a quantity in quotes, such as "500m" or "10Gi"')
            return default
        try:
            amount = quantities.quantity(value)
        except ValueError:
            self.wrong(
                name,
                f"is {shown(value)}: it must be a Kubernetes quantity, such as 500m, 2, 512Mi or "
                "10Gi (Ki, Mi, Gi, Ti are powers of 1024, k, M, G, T of 1000)",
            )
            return default
        if amount < 0 or (positive and amount == 0):
            self.wrong(
                name, f"is {shown(value)}: it must be {'above' if positive else 'at least'} 0"
            )
            return default
        return value

    def fields(self, name: str) -> Fields:
        """The object in a field; empty if it was left out."""
        value = self._take(name)
        return Fields(self.problems, self.at(name), None if value is _MISSING else value)

    def items(self, name: str) -> Iterator[tuple[str, Any]]:
        """(path, value) of each item of a list; none if it was left out."""
        value = self._take(name)
        if value is _MISSING:
            return
        if not isinstance(value, list):
            self._wrong_type(name, value, "a list")
            return
        for index, item in enumerate(value):
            yield f"{self.at(name)}[{index}]", item

    def texts(self, name: str) -> tuple[tuple[str, str], ...]:
        """A map of strings to strings, sorted."""
        inner = self.fields(name)
        return tuple((key, inner.text(key)) for key in sorted(inner.names()))

    def quantity_map(self, name: str, defaults: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """A map of names to quantities over defaults, sorted."""
        inner = self.fields(name)
        names = sorted({*inner.names(), *defaults})
        return tuple((key, inner.quantity(key, defaults.get(key, "0"))) for key in names)

    def names(self) -> list[str]:
        return [str(name) for name in self._values]

    def ignore(self, *names: str) -> None:
        """Fields that are known and not ours to read."""
        self._known.update(names)

    def _take(self, name: str) -> Any:
        self._known.add(name)
        value = self._values.get(name)
        return _MISSING if value is None else value

    def _wrong_type(self, name: str, value: object, right: str) -> None:
        more = ""
        if isinstance(value, bool) and "string" in right:
            more = f" ({_BOOLEANS}: put it in quotes)"
        elif isinstance(value, str) and right == "an integer" and value.strip("+-").isdigit():
            more = f" (write {value} without quotes)"
        elif isinstance(value, int | float) and right == "a string":
            more = f' (write "{value}" in quotes)'
        self.wrong(name, f"is {shown(value)} ({type_name(value)}): it must be {right}{more}")


def text_item(problems: Problems, path: str, value: object) -> str | None:
    """One item of a list of strings, or None after reporting that it is none."""
    if isinstance(value, str):
        return value
    more = ""
    if isinstance(value, bool):
        more = f" ({_BOOLEANS}: choose another name)"
    elif isinstance(value, int | float):
        more = f' (write "{value}" in quotes)'
    problems.add(path, f"is {shown(value)} ({type_name(value)}): it must be a string{more}")
    return None


def _nearest(name: str, known: Collection[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    if close:
        return f"did you mean {lower[close[0]]}?"
    return f"known are {', '.join(sorted(known))}" if known else "there are none here"
