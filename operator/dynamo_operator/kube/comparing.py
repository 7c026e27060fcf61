"""Whether an object is still as it shall be, whatever the server and others have added.

Owns that comparison alone. Forbidden: knowing any kind of object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

EXACT: Final = ("selector", "podSelector", "matchLabels")
"""Maps that say whom an object is about: one key more is another object. The API server takes
them as a whole when they are applied."""


def contains(held: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is there.

    Further items don't count in lists that the server merges by a key, for an apply wouldn't
    remove them: owners by uid, ports by name. Any other list is exactly what is wanted.
    """
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(
            key in held
            and contains(held[key], value)
            and (key not in EXACT or len(held[key]) == len(value))
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        key = _key(wanted)
        if key and isinstance(held, list):
            by_key = {one.get(key): one for one in held if isinstance(one, Mapping)}
            return all(contains(by_key.get(one[key]), one) for one in wanted)
        return (
            isinstance(held, list)
            and len(held) == len(wanted)
            and all(contains(h, w) for h, w in zip(held, wanted, strict=True))
        )
    return bool(held == wanted)


def _key(items: list[Any]) -> str:
    """By what the server merges this list, "" if as a whole."""
    for key in ("uid", "name"):
        if items and all(isinstance(one, Mapping) and key in one for one in items):
            return key
    return ""
