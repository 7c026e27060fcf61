"""Typed reading of untrusted JSON. Owns the checks that turn parsed JSON into values
of known type and range, and the sentences that refuse it.

Every refusal is a CallerError that names the field, shows what it holds and says what
would be right. Forbidden here: any knowledge of what a particular document means.
"""

import re
from collections.abc import Iterable
from typing import Final

from dynamo_core.errors import CallerError

U32_MAX: Final = 2**32 - 1
NAME_CHARS_MAX: Final = 253
SHOWN_CHARS_MAX: Final = 80
HEX_128: Final = re.compile(r"[0-9a-f]{32}")


def shown(value: object) -> str:
    """`value` as an error message shows it: its repr, shortened."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or an integer of too many digits
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def refuse(field: str, value: object, right: str) -> CallerError:
    """The error (to be raised by the caller) for a `field` that should have been `right`."""
    return CallerError(f"{field} is {shown(value)}; it must be {right}")


def need_int(field: str, value: object, least: int, most: int) -> int:
    """`value` as an integer in least..most; true and false are not integers."""
    if type(value) is not int or not least <= value <= most:
        raise refuse(field, value, f"an integer from {least} to {most}")
    return value


def need_hex_128(field: str, value: object) -> str:
    """`value` as 32 lower-case hexadecimal digits."""
    if not isinstance(value, str) or not HEX_128.fullmatch(value):
        raise refuse(field, value, "32 lower-case hexadecimal digits")
    return value


def need_word(field: str, value: object, *, empty: bool = False) -> str:
    """`value` as printable text without spaces, 1..253 characters (or none, if `empty`)."""
    if isinstance(value, str) and len(value) <= NAME_CHARS_MAX:
        # Printable excludes control characters and lone surrogates, which no UTF-8 holds.
        if value and value.isprintable() and not any(map(str.isspace, value)):
            return value
        if empty and not value:
            return value
    least = 0 if empty else 1
    raise refuse(
        field, value, f"text of {least} to {NAME_CHARS_MAX} printable characters without spaces"
    )


def need_match(field: str, value: object, pattern: re.Pattern[str], right: str) -> str:
    """`value` as text that matches all of `pattern`; `right` says in words what that is."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise refuse(field, value, right)
    return value


def need_list(field: str, value: object) -> list[object]:
    """`value` as a JSON array."""
    if not isinstance(value, list):
        raise refuse(field, value, "a list")
    return value


def need_object(field: str, value: object, names: Iterable[str]) -> dict[str, object]:
    """`value` as a JSON object that has exactly the fields `names`."""
    if not isinstance(value, dict):
        raise refuse(field, value, "a JSON object")
    wanted = set(names)
    missing = sorted(wanted - value.keys())
    if missing:
        raise CallerError(f"{field} lacks {', '.join(missing)}; it must have all of its fields")
    unknown = sorted(map(shown, value.keys() - wanted))
    if unknown:
        # A field that is dropped on reading would silently change what the ring's id names.
        allowed = ", ".join(sorted(wanted))
        raise CallerError(f"{field} has the unknown field {unknown[0]}; it may have only {allowed}")
    return value
