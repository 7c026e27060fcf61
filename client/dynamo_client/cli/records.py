"""The JSON lines that `import` reads and `export` writes.

Owns their form: `{"key", "value"}`, with `key_base64` and `value_base64` where
the bytes aren't UTF-8, `content_type` where it isn't application/octet-stream,
and `siblings` in the place of `value` where there are several. Pure: bytes in,
records out.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynamo_client.errors import BadRequest, TooLarge
from dynamo_client.items import OCTET_STREAM, Item, key_bytes
from dynamo_core.errors import CallerError

_KINDS = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}


class BadRecord(CallerError):
    """A line that isn't a record; the text says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """A key with its values, each with its content type; several are siblings."""

    key: bytes
    values: tuple[tuple[bytes, str], ...]


def parse(line: bytes) -> Record:
    """One line as a record; BadRecord names the field, what it holds and what would be right."""
    try:
        document = json.loads(line)
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON that can be read: {error}") from error
    if not isinstance(document, dict):
        raise BadRecord(f'{_kind(document)} where {{"key": ..., "value": ...}} is needed')
    try:
        key = key_bytes(_bytes(document, "key"))
    except (BadRequest, TooLarge) as error:
        raise BadRecord(str(error)) from error
    if "siblings" not in document:
        return Record(key, (_value(document),))
    siblings = document["siblings"]
    if not isinstance(siblings, list) or not siblings:
        raise BadRecord(f"siblings is {_kind(siblings)}; a list with at least one is needed")
    values = []
    for sibling in siblings:
        if not isinstance(sibling, dict):
            raise BadRecord(f"a sibling is {_kind(sibling)}; an object with a value is needed")
        values.append(_value(sibling))
    return Record(key, tuple(values))


def render(item: Item) -> bytes:
    """The line of an item that holds at least one value, with its line break."""
    document: dict[str, Any] = as_text("key", item.key)
    if len(item.siblings) == 1:
        document |= _value_document(item.siblings[0].value, item.siblings[0].content_type)
    else:
        document["siblings"] = [
            _value_document(sibling.value, sibling.content_type) for sibling in item.siblings
        ]
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def as_text(name: str, data: bytes) -> dict[str, str]:
    """{name: text} if the bytes are UTF-8, else {name_base64: ...}."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data).decode()}


def _value_document(value: bytes, content_type: str) -> dict[str, str]:
    document = as_text("value", value)
    if content_type != OCTET_STREAM:
        document["content_type"] = content_type
    return document


def _value(document: Mapping[str, Any]) -> tuple[bytes, str]:
    content_type = document.get("content_type", OCTET_STREAM)
    if not isinstance(content_type, str) or not content_type.isprintable() or not content_type:
        raise BadRecord(f"content_type is {_kind(content_type)}; like text/plain is needed")
    return _bytes(document, "value"), content_type


def _bytes(document: Mapping[str, Any], name: str) -> bytes:
    coded = f"{name}_base64"
    if name in document and coded in document:
        raise BadRecord(f"both {name} and {coded} are given; one of them is needed")
    if coded in document:
        text = document[coded]
        try:
            return b64decode(text, validate=True)
        except (TypeError, ValueError) as error:
            raise BadRecord(f"{coded} is not base64 ({error})") from error
    if name not in document:
        raise BadRecord(f"no {name} (or {coded})")
    text = document[name]
    if not isinstance(text, str):
        raise BadRecord(f"{name} is {_kind(text)}; a string is needed, or {coded}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{name} can't be written as UTF-8 ({error.reason})") from error


def _kind(value: object) -> str:
    return _KINDS.get(type(value)) or f"{json.dumps(value)[:40]}"
