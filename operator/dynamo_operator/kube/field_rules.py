"""The CEL rules of one field, by its type.

Owns what `fields` checks of a field beyond its shape, that what is immutable stays, and that
what may only grow does. Forbidden: rules between fields (`crd_rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dynamo_operator.changes import COPY, GROWS
from dynamo_operator.field_types import (
    BOOLEAN_WRONG,
    BOOLEANS,
    NAME_PATTERN,
    NAME_RIGHT,
    QUANTITY_MAX,
    QUANTITY_RIGHT,
    Decimal,
    FieldType,
    PowerOfTwo,
    Quantity,
    Text,
    Word,
    Words,
    default_of,
)
from dynamo_operator.kube.cel import Rule, amount, at_least, escaped, matches, said, sound, under

FIXED: Final = f"can't be changed: it is fixed for the life of a cluster; {COPY}"
_CHANGED: Final = said(
    f"can't be changed from %s to %s: it is fixed for the life of a cluster; {COPY}",
    "oldSelf",
    "self",
)


def rules_of(kind: FieldType, *, in_pool: bool) -> list[Rule]:
    """The rules of one field. in_pool: it is a pool's, and may be left out where the spec's has
    a default, so that edits of it are compared in the rules of the spec."""
    found = []
    match kind:
        case Text() if kind.pattern:
            found.append(_valued(matches(kind.pattern), f"it must be {kind.right}"))
        case Word():
            found += _word(kind)
        case Decimal():
            more = " && self.matches('[1-9]')" if kind.positive else ""
            found.append(_valued(matches(kind.pattern) + more, f"it must be {kind.right}"))
        case PowerOfTwo():
            values = ", ".join(map(str, kind.values))
            right = f"it must be a power of two between {kind.low} and {kind.high}"
            found.append(Rule(f"self in [{values}]", right, said(f"is %d: {right}", "self")))
        case Words():
            distinct = "self.all(a, self.exists_one(b, a == b))"
            found.append(Rule(distinct, "name each zone once"))
        case _:
            pass
    immutable = getattr(kind, "edit", "") == "immutable" and default_of(kind) is not None
    if immutable and not in_pool:
        found.append(Rule("self == oldSelf", FIXED, "" if isinstance(kind, Words) else _CHANGED))
    return found


def rules_of_quantities(fields: Mapping[str, FieldType], *, in_pool: bool) -> list[Rule]:
    """The rules of the quantities that an object holds. They stand with the object: Kubernetes
    1.30 takes a field that may be an integer for a string of any length, and an item of a list
    that stands in the rule for a short one, but not if the field is all that the rule sees."""
    found = []
    for name, kind in fields.items():
        if isinstance(kind, Quantity):
            found += _quantity(name, kind, in_pool)
    return found


def _word(kind: Word) -> list[Rule]:
    words = ", ".join(f"'{word}'" for word in BOOLEANS)
    found = [
        _valued(f"!(self in [{words}])", BOOLEAN_WRONG),
        _valued(matches(NAME_PATTERN), NAME_RIGHT),
    ]
    if kind.reserved:
        message = f"that name is reserved for {kind.reserved_for}, choose another"
        found.append(_valued(f"self != '{kind.reserved}'", message))
    return found


def _valued(rule: str, message: str) -> Rule:
    """A rule about one text, whose message tells it: Kubernetes 1.30 doesn't of itself."""
    return Rule(rule, message, said(f'is "%s": {message}', "self"))


def _quantity(name: str, kind: Quantity, in_pool: bool) -> list[Rule]:
    field = f"self.{escaped(name)}"
    least, above = ("above", ">") if kind.positive else ("at least", ">=")
    low = f"{amount('q')}.compareTo(quantity('0')) {above} 0"
    high = f"{amount('q')}.compareTo(quantity('{QUANTITY_MAX}')) <= 0"
    at = under(name)
    found = [
        Rule(
            f"!has({field}) || [{field}].all(q, {check})",
            right,
            said(f'is "%s": {right}', field),
            at,
        )
        for check, right in (
            (sound("q"), QUANTITY_RIGHT),
            (f"!{sound('q')} || {low}", f"it must be {least} 0"),
            (f"!{sound('q')} || {high}", f"it must be at most {QUANTITY_MAX}"),
        )
    ]
    if kind.grows and not in_pool:
        old = f"oldSelf.{escaped(name)}"
        shrunk = said(f"can't be changed from %s to %s: {GROWS}", old, field)
        found.append(Rule(at_least(field, old), GROWS, shrunk, at))
    return found
