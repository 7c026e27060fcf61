"""What is known of a field of the custom resource: its type, default, bounds and meaning.

Owns the vocabulary in which `description` lists the fields, and the patterns that
several of them share. The reader (`fields`), the CustomResourceDefinition and the
reference are all made from it. Patterns are of the whole text and keep to what
Python's re and RE2 read alike: no look-ahead, no backslash classes. Forbidden: any
single field, reading values, I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Edit = Literal["", "immutable", "live", "rolling", "scaling"]  # what an edit of a field means

NAME_PATTERN: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
NAME_RIGHT: Final = (
    "it must start with a lower-case letter, hold only a-z, 0-9 and -, and not end with -"
)
BOOLEANS: Final = ("y", "n", "yes", "no", "on", "off", "true", "false")  # to YAML 1.1
BOOLEAN_WRONG: Final = "YAML 1.1 reads that as a boolean, choose another name"
DECIMAL_PATTERN: Final = "[0-9]{1,12}([.][0-9]{1,9})?"  # what a ring can hold as a capacity
SHARE_PATTERN: Final = "0{1,12}([.][0-9]{1,9})?|0{0,11}1([.]0{1,9})?"
QUANTITY_RIGHT: Final = (
    "it must be a Kubernetes quantity, such as 500m, 2, 512Mi or 10Gi (Ki, Mi, Gi, Ti are powers "
    "of 1024, k, M, G, T of 1000)"
)
QUANTITY_CHARACTERS_MAX: Final = 30
QUANTITY_MAX: Final = "1Pi"  # more is a slip; and Kubernetes cuts off what is beyond 8Ei


@dataclass(frozen=True, slots=True)
class Text:
    """A string. right: which texts match the pattern, for people; "" without a pattern."""

    about: str
    edit: Edit = ""
    default: str | None = None
    required: bool = False
    characters_max: int = 0  # 0 is no bound
    pattern: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """A string that becomes a part of names: NAME_PATTERN, and no boolean of YAML 1.1."""

    about: str
    characters_max: int
    required: bool = False
    reserved: str = ""
    reserved_for: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    about: str
    edit: Edit
    default: str | None
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Boolean:
    about: str
    edit: Edit = ""
    default: bool | None = None


@dataclass(frozen=True, slots=True)
class Integer:
    """low and high are both allowed; None is no bound."""

    about: str
    edit: Edit = ""
    default: int | None = None
    low: int | None = None
    high: int | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    about: str
    edit: Edit
    default: int
    low: int
    high: int

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(1 << bit for bit in range(32) if self.low <= 1 << bit <= self.high)


@dataclass(frozen=True, slots=True)
class Decimal:
    """A number written as a string. right: which ones match, for people."""

    about: str
    edit: Edit
    default: str | None
    pattern: str
    right: str
    positive: bool = False


@dataclass(frozen=True, slots=True)
class Quantity:
    """A Kubernetes quantity, a string or an integer, from 0 (above 0 if positive)."""

    about: str
    edit: Edit
    default: str | None = None
    positive: bool = False
    grows: bool = False  # an edit may only make it larger


@dataclass(frozen=True, slots=True)
class Time:
    """RFC 3339, written by the operator."""

    about: str


@dataclass(frozen=True, slots=True)
class TextMap:
    """Strings by name. key_*: of the names, which a CEL rule can't check at a fair cost."""

    about: str
    edit: Edit = ""
    values_max: int = 0
    characters_max: int = 0
    pattern: str = ""
    right: str = ""
    key_pattern: str = ""
    key_right: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A list of distinct words, in an order that matters; empty if left out."""

    about: str
    edit: Edit
    item: Word
    items_max: int


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of strings, written by the operator."""

    about: str


@dataclass(frozen=True, slots=True)
class Group:
    """An object with known fields. Its default is put together from theirs."""

    about: str
    fields: Mapping[str, FieldType]

    def default(self) -> dict[str, Any]:
        """The defaults of its fields, written out; a field without one is left out."""
        found = {name: default_of(inner) for name, inner in self.fields.items()}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Inherited:
    """An object of a pool: what is left out is taken from the spec's of the same name."""

    about: str
    fields: Mapping[str, FieldType]


@dataclass(frozen=True, slots=True)
class Items:
    """A list of objects. key: the field that tells them apart, "" if their place does.
    listed: it is an empty list, rather than absent, if left out."""

    about: str
    edit: Edit
    fields: Mapping[str, FieldType]
    key: str = ""
    items_max: int = 0
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Opaque:
    """A field that is known and not ours to read."""

    about: str = field(default="")


FieldType = (
    Text
    | Word
    | Choice
    | Boolean
    | Integer
    | PowerOfTwo
    | Decimal
    | Quantity
    | Time
    | TextMap
    | Words
    | Texts
    | Group
    | Inherited
    | Items
    | Opaque
)


def default_of(kind: FieldType) -> Any:
    """What the API server fills in for a field that is left out; None is nothing."""
    match kind:
        case Group():
            return kind.default()
        case Words():
            return []
        case Items():
            return [] if kind.listed else None
        case Text() | Choice() | Boolean() | Integer() | PowerOfTwo() | Decimal() | Quantity():
            return kind.default
    return None
