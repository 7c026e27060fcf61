"""The tables of docs/reference.md, made from the description of the fields.

Owns how a field's type, default and range are written for people. `python -m
dynamo_operator.kube.reference FILE` puts the tables between the marks of FILE
(`make crd`). Forbidden: fields and their words (`description`, `crd_status`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dynamo_operator.description import SPEC
from dynamo_operator.field_types import (
    QUANTITY_MAX,
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
    Texts,
    Time,
    Word,
    Words,
    default_of,
)
from dynamo_operator.kube.crd_status import STATUS

_MARKED: Final = re.compile(r"(<!-- table of (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def rows(kind: FieldType, path: str) -> Iterator[tuple[str, FieldType]]:
    """Every field below one, with its path; an item of a list is written []."""
    fields: Mapping[str, FieldType] = {}
    if isinstance(kind, Group | Inherited | Items):
        fields = kind.fields
    inner = f"{path}[]" if isinstance(kind, Items) else path
    for name, child in fields.items():
        yield f"{inner}.{name}", child
        yield from rows(child, f"{inner}.{name}")


def spec_table() -> str:
    """A row for each field of the spec."""
    lines = [
        "| Field | Type and range | Default | An edit is | What it does |",
        "|---|---|---|---|---|",
    ]
    for path, kind in rows(SPEC, "spec"):
        cells = (f"`{path}`", _type(kind), _default(kind), _edit(kind), kind.about)
        lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def status_table() -> str:
    """A row for each field of the status."""
    lines = ["| Field | Type | What it says |", "|---|---|---|"]
    lines += [_row(f"`{path}`", _type(kind), kind.about) for path, kind in rows(STATUS, "status")]
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """A text with the tables between its marks made anew."""
    tables = {"spec": spec_table, "status": status_table}
    return _MARKED.sub(lambda found: found[1] + tables[found[2]]() + found[3], text)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _edit(kind: FieldType) -> str:
    edit: str = getattr(kind, "edit", "")
    return f"{edit}, upwards" if isinstance(kind, Quantity) and kind.grows else edit


def _default(kind: FieldType) -> str:
    if isinstance(kind, Group):
        return ""
    if isinstance(kind, Inherited):
        return "the spec's"
    if getattr(kind, "required", False):
        return "required"
    default = default_of(kind)
    if default is None:
        return ""
    return f"`{default if isinstance(default, str) and default else json.dumps(default)}`"


def _type(kind: FieldType) -> str:
    match kind:
        case Group() | Inherited():
            return "object"
        case Items():
            of = f"list by `{kind.key}`" if kind.key else "list"
            return f"{of}, at most {kind.items_max}" if kind.items_max else of
        case Words():
            return f"list of names, at most {kind.items_max}; each as a pool's name"
        case Texts():
            return "list of strings"
        case TextMap():
            return f"labels, at most {kind.values_max}"
        case Word():
            return (
                f"a-z, 0-9, -; begins with a letter, doesn't end with -; at most "
                f"{kind.characters_max} characters; no boolean of YAML 1.1"
            )
        case Choice():
            return " or ".join(f"`{option}`" if option else "empty" for option in kind.options)
        case Integer():
            return "integer" if kind.low is None else f"integer, {kind.low} to {kind.high}"
        case PowerOfTwo():
            return f"power of two, {kind.low} to {kind.high}"
        case Quantity():
            return f"quantity, {'above' if kind.positive else 'from'} 0, at most {QUANTITY_MAX}"
        case Decimal():
            return kind.right
        case Boolean():
            return "`true` or `false`"
        case Time():
            return "time"
        case Text():
            return kind.right or "string"
    raise AssertionError(f"{kind} has no name")


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(filled(file.read_text()))
