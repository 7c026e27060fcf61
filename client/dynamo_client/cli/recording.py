"""What of an answer goes into a history: whose values it shows, and how far its clock reaches.

Owns reading items, contexts and the documents of replicas as parts of a history's records,
and who of its clients only reads it all back. Pure. Forbidden here: asking anybody, and
judging (`dynamo_core.history_check`).
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

from dynamo_client.errors import UnexpectedAnswer
from dynamo_client.items import Item
from dynamo_core.contexts import peek
from dynamo_core.errors import CallerError
from dynamo_core.history import TOMBSTONE, ReplicaCopy, Shown, dot_of
from dynamo_core.versions import Clock, Dot

READER: Final = "reader"
"""Clients of this name and a number read everything back in the end; all others are the load."""


def id_of(value: bytes) -> str:
    """The id of the write that wrote `value`."""
    return value.partition(b" ")[0][:80].decode("utf-8", "backslashreplace")


def shown_in(item: Item) -> tuple[Shown, ...]:
    """The values of an answer, by the ids of their writes."""
    return tuple(Shown(id_of(each.value) or "?", _dot(each.dot)) for each in item.siblings)


def _dot(text: str | None) -> Dot | None:
    try:
        return None if text is None else dot_of(text)
    except ValueError:
        return None  # another kind of store


def clock_in(token: str | None) -> Clock | None:
    """The clock in a context, if there is one that can be read."""
    if token is None:
        return None
    try:
        return peek(token)
    except CallerError:
        return None  # another kind of store: its contexts are opaque


def copy_in(name: str, key: str, document: Mapping[str, Any]) -> ReplicaCopy:
    """What node `name` holds of `key`, as its admin port tells it; else UnexpectedAnswer."""
    try:
        clock = document["clock"]
        vector = dict(dot_of(f"{actor}:{n}") for actor, n in clock["vector"].items())
        siblings = tuple(
            Shown(
                TOMBSTONE if sibling["tombstone"] else id_of(b64decode(sibling["value"])) or "?",
                dot_of(sibling["dot"]),
            )
            for sibling in document["siblings"]
        )
        return ReplicaCopy(
            node=name,
            key=key,
            siblings=siblings,
            clock=Clock(vector, [dot_of(dot) for dot in clock["dots"]]),
            owner=bool(document["owner"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswer(f"{name}: its copy of {key} can't be read ({error})") from error
