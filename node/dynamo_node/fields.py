"""Fields: how settings are taken out of JSON, and how what is wrong with them is told.

Owns the reading of one object after another, field by field; every mistake names its
field, shows what it holds and says what would be right. Nothing is raised before all
of them are collected.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from dynamo_core.errors import CallerError

SECRET: Final = ("secret", "token")
"""How fields end whose values are never shown."""
_MISSING: Final = object()


def shown(value: object) -> str:
    """A value for people, cut to a length that fits a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def decoded(data: bytes) -> object:
    """A JSON value; raises CallerError, also for a field that stands in an object twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CallerError(f"{shown(twice)} stands there twice in one object")
        return found

    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CallerError(f"not valid JSON: {error}") from error


class Reader:
    """Takes fields out of a mapping and collects what is wrong with them."""

    def __init__(
        self,
        raw: object,
        prefix: str = "",
        problems: "list[str] | None" = None,
        whole: str = "the file",
    ) -> None:
        """`whole`: what `raw` is called if it is no field of anything."""
        self.problems: list[str] = [] if problems is None else problems
        self._prefix = prefix
        self.known: set[str] = set()
        self.raw: Mapping[str, Any] = {}
        if isinstance(raw, dict):
            self.raw = raw
        else:
            self.problems.append(
                f"{prefix.rstrip('.') or whole}: {shown(raw)}; an object is needed"
            )

    def _take(self, name: str, default: object) -> Any:
        self.known.add(name)
        value = self.raw.get(name, default)
        if value is _MISSING:
            self.problems.append(f"{self._prefix}{name}: missing")
        return value

    def _wrong(self, name: str, value: object, wanted: str) -> None:
        if value is _MISSING:
            return
        told = shown(value)
        if name.endswith(SECRET):
            told = "a text" if isinstance(value, str) else "no text"
        self.problems.append(f"{self._prefix}{name}: {told}; {wanted}")

    def section(self, name: str, optional: bool = False) -> "Reader":
        value = self._take(name, {} if optional else _MISSING)
        return Reader({} if value is _MISSING else value, f"{self._prefix}{name}.", self.problems)

    def text(self, name: str, default: object = _MISSING, empty: bool = False) -> str:
        value = self._take(name, default)
        if isinstance(value, str) and (value or empty):
            return value
        self._wrong(name, value, "a text is needed" if empty else "a text that isn't empty")
        return "?"

    def integer(self, name: str, low: int, high: int, default: object = _MISSING) -> int:
        value = self._take(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(name, value, f"a whole number in {low}..{high} is needed")
        return low

    def share(self, name: str, default: object = _MISSING) -> float:
        value = self._take(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        self._wrong(name, value, "a number in 0..1 is needed")
        return 0.0

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self._take(name, allowed[0])
        if value in allowed:
            return str(value)
        self._wrong(name, value, f"one of {', '.join(allowed)} is needed")
        return allowed[0]

    def hexadecimal(self, name: str, length: int) -> bytes:
        value = self._take(name, _MISSING)
        try:
            data = bytes.fromhex(value)
            if len(data) == length:
                return data
        except (TypeError, ValueError):
            pass
        self._wrong(name, value, f"{2 * length} hexadecimal digits are needed")
        return bytes(length)

    def no_others(self) -> None:
        for name in sorted(set(self.raw) - self.known):
            self.problems.append(
                f"{self._prefix}{name}: not a setting; known here: {', '.join(sorted(self.known))}"
            )
