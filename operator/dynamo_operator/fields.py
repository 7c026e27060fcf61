"""Reading untyped values into typed ones, collecting every mistake.

Owns what is wrong with one field, by what is known of it, and the words for it.
Forbidden: knowledge of the custom resource; `description` says which fields there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from dynamo_operator import quantities
from dynamo_operator.field_types import (
    QUANTITY_CHARACTERS_MAX,
    QUANTITY_MAX,
    QUANTITY_RIGHT,
    Boolean,
    Choice,
    Decimal,
    FieldType,
    Group,
    Inherited,
    Integer,
    Items,
    PowerOfTwo,
    Quantity,
    Text,
    TextMap,
    Word,
    Words,
)
from dynamo_operator.problems import Problems, shown, type_name

_MISSING: Any = object()
_Kind = TypeVar("_Kind")
_BOOLEANS = "y, n, yes, no, on and off are booleans in YAML 1.1"


class Fields:
    """The fields of one object, read by what is known of them.

    known: the fields there are; any other one is a mistake. A field that is null
    counts as left out, as the API server does it. `otherwise` is taken for a field
    that is left out, in place of its own default.
    """

    def __init__(
        self, problems: Problems, path: str, value: object, known: Mapping[str, FieldType]
    ) -> None:
        self.problems = problems
        self.path = path
        self._known = known
        self._values: dict[str, Any] = {}
        self._broken = not isinstance(value, dict | None)  # told once, not for each field
        if isinstance(value, dict):
            self._values = value
        elif value is not None:
            problems.add(path, f"is {shown(value)} ({type_name(value)}): it must be an object")
        for name in self._values:
            if name not in known:
                self.wrong(str(name), f"is no known field: {_nearest(str(name), known)}")

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def wrong(self, name: str, text: str) -> None:
        self.problems.add(self.at(name), text)

    def text(self, name: str) -> str:
        kind = self._kind(name, Text)
        value = self._text(name, kind.required)
        default = kind.default or ""
        if value is None:
            return default
        right = "" if re.fullmatch(kind.pattern or ".*", value, re.DOTALL) else kind.right
        return value if self._fits(name, value, kind.characters_max, right) else default

    def word(self, name: str) -> str:
        """A part of names. What makes it one is checked in `rules`."""
        kind = self._kind(name, Word)
        value = self._text(name, kind.required)
        if value is None or not self._fits(name, value, kind.characters_max, ""):
            return ""
        return value

    def choice(self, name: str, otherwise: str | None = None) -> str:
        kind = self._kind(name, Choice)
        default = otherwise or kind.default or ""
        value = self._text(name, False)
        if value is None:
            return default
        options = kind.options
        if value not in options:
            hint = difflib.get_close_matches(value.lower(), [o.lower() for o in options], n=1)
            meant = [o for o in options if hint and o.lower() == hint[0]]
            more = f" (did you mean {meant[0]}?)" if meant and meant[0] else ""
            listed = ", ".join(option or '""' for option in options)
            self.wrong(name, f"is {shown(value)}: it must be one of {listed}{more}")
            return default
        return value

    def boolean(self, name: str) -> bool:
        default = bool(self._kind(name, Boolean).default)
        value = self._take(name)
        if value is _MISSING:
            return default
        if not isinstance(value, bool):
            self._wrong_type(name, value, "true or false")
            return default
        return value

    def integer(self, name: str) -> int | None:
        """None if it was left out and has no default."""
        kind = self._kind(name, Integer)
        value = self._integer(name)
        if value is None:
            if kind.required and not self.has(name):
                self._missing(name, "it must be given")
            return kind.default
        low, high = kind.low, kind.high
        if (low is not None and value < low) or (high is not None and value > high):
            self.wrong(name, f"is {value}: it must be between {low} and {high}")
            return kind.default
        return value

    def number(self, name: str) -> int:
        """An integer that has a default, or is required."""
        return self.integer(name) or 0

    def power_of_two(self, name: str) -> int:
        kind = self._kind(name, PowerOfTwo)
        value = self._integer(name)
        if value is None or value in kind.values:
            return kind.default if value is None else value
        near = [power for power in kind.values if value / 2 < power < value * 2]
        hint = " or ".join(map(str, near or [kind.low if value < kind.low else kind.high]))
        self.wrong(
            name,
            f"is {value}: it must be a power of two between {kind.low} and {kind.high}, "
            f"such as {hint}",
        )
        return kind.default

    def decimal(self, name: str) -> str:
        """A decimal written as a string."""
        kind = self._kind(name, Decimal)
        default = kind.default or ""
        value = self._take(name)
        if value is _MISSING:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.wrong(
                name, f'is {value} (a number): decimals are strings here, write "{value}" in quotes'
            )
            return default
        if not isinstance(value, str):
            self._wrong_type(name, value, f"a string with {kind.right}")
            return default
        if not re.fullmatch(kind.pattern, value) or (kind.positive and not value.strip("0.")):
            self.wrong(name, f"is {shown(value)}: it must be {kind.right}")
            return default
        return value

    def quantity(self, name: str, otherwise: str | None = None) -> str:
        """A Kubernetes quantity, as text; integers are taken as kubectl takes them.

        "" if it was left out and has no default.
        """
        kind = self._kind(name, Quantity)
        default = otherwise or kind.default or ""
        value = self._take(name)
        if value is _MISSING:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            self._wrong_type(name, value, 'a quantity in quotes, such as "500m" or "10Gi"')
            return default
        if not self._fits(name, value, QUANTITY_CHARACTERS_MAX, ""):
            return default
        try:
            amount = quantities.quantity(value)
        except ValueError:
            self.wrong(name, f"is {shown(value)}: {QUANTITY_RIGHT}")
            return default
        if amount < 0 or (kind.positive and amount == 0):
            low = "above" if kind.positive else "at least"
            self.wrong(name, f"is {shown(value)}: it must be {low} 0")
            return default
        if amount > quantities.quantity(QUANTITY_MAX):
            self.wrong(name, f"is {shown(value)}: it must be at most {QUANTITY_MAX}")
            return default
        return value

    def fields(self, name: str) -> Fields:
        """The object in a field; empty if it was left out."""
        kind = self._known[name]
        assert isinstance(kind, Group | Inherited)
        value = self._take(name)
        return Fields(
            self.problems, self.at(name), None if value is _MISSING else value, kind.fields
        )

    def items(self, name: str) -> list[Fields]:
        """The objects of a list; none if it was left out."""
        kind = self._kind(name, Items)
        return [
            Fields(self.problems, path, {} if item is None else item, kind.fields)
            for path, item in self._list(name, kind.items_max)
        ]

    def words(self, name: str) -> list[str]:
        """The words of a list. One that is no text keeps its place as "", so that paths go on
        naming the right one."""
        kind = self._kind(name, Words)
        found = []
        for path, item in self._list(name, kind.items_max):
            text = _text_item(self.problems, path, item)
            if text is not None and len(text) > kind.item.characters_max:
                self.problems.add(path, _too_long(text, kind.item.characters_max))
                text = None
            found.append(text or "")
        return found

    def texts(self, name: str) -> tuple[tuple[str, str], ...]:
        """A map of strings to strings, sorted."""
        kind = self._kind(name, TextMap)
        value = self._take(name)
        if value is _MISSING:
            return ()
        one = Text("", characters_max=kind.characters_max, pattern=kind.pattern, right=kind.right)
        given = {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else {}
        inner = Fields(
            self.problems,
            self.at(name),
            given if isinstance(value, dict) else value,
            dict.fromkeys(given, one),
        )
        for key in given:
            if kind.key_pattern and not re.fullmatch(kind.key_pattern, key):
                self.wrong(name, f"has the key {shown(key)}: it must be {kind.key_right}")
        if kind.values_max and len(given) > kind.values_max:
            self.wrong(name, f"has {len(given)} entries: it must have at most {kind.values_max}")
        return tuple((key, inner.text(key)) for key in sorted(given))

    def _kind(self, name: str, kind: type[_Kind]) -> _Kind:
        known = self._known[name]
        assert isinstance(known, kind)  # `parsing` reads each field as what it is described
        return known

    def _take(self, name: str) -> Any:
        value = self._values.get(name)
        return _MISSING if value is None else value

    def _text(self, name: str, required: bool) -> str | None:
        value = self._take(name)
        if value is _MISSING:
            if required:
                self._missing(name, "it must be given")
            return None
        if not isinstance(value, str):
            self._wrong_type(name, value, "a string")
            return None
        return value

    def _integer(self, name: str) -> int | None:
        value = self._take(name)
        if value is _MISSING:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong_type(name, value, "an integer")
            return None
        return value

    def _list(self, name: str, items_max: int) -> list[tuple[str, Any]]:
        value = self._take(name)
        if value is _MISSING:
            return []
        if not isinstance(value, list):
            self._wrong_type(name, value, "a list")
            return []
        if len(value) > items_max:
            self.wrong(name, f"has {len(value)} items: it must have at most {items_max}")
        return [(f"{self.at(name)}[{index}]", item) for index, item in enumerate(value)]

    def _fits(self, name: str, value: str, characters_max: int, right: str) -> bool:
        """Whether a text is short enough and, unless `right` says what would be, of its pattern."""
        if characters_max and len(value) > characters_max:
            self.wrong(name, _too_long(value, characters_max))
        elif right:
            self.wrong(name, f"is {shown(value)}: it must be {right}")
        else:
            return True
        return False

    def _missing(self, name: str, text: str) -> None:
        if not self._broken:
            self.wrong(name, f"is missing: {text}")

    def _wrong_type(self, name: str, value: object, right: str) -> None:
        more = ""
        if isinstance(value, bool) and "string" in right:
            more = f" ({_BOOLEANS}: put it in quotes)"
        elif isinstance(value, str) and right == "an integer" and value.strip("+-").isdigit():
            more = f" (write {value} without quotes)"
        elif isinstance(value, int | float) and right == "a string":
            more = f' (write "{value}" in quotes)'
        self.wrong(name, f"is {shown(value)} ({type_name(value)}): it must be {right}{more}")


def _text_item(problems: Problems, path: str, value: object) -> str | None:
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


def _too_long(text: str, characters_max: int) -> str:
    return f"is too long ({len(text)} characters): at most {characters_max} fit"


def _nearest(name: str, known: Collection[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    if close:
        return f"did you mean {lower[close[0]]}?"
    return f"known are {', '.join(sorted(known))}" if known else "there are none here"
