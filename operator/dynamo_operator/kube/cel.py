"""Pieces of CEL rules, and how a rule is told.

Owns what is peculiar to CEL in the API server from Kubernetes 1.30 on: quantities, fields
that may be absent, messages made from values, and what is dear in its cost budget: a field
that may be an integer counts as the longest string of a request, unless `[field].all(q, ...)`
gives it a name first; string() makes it dear again. Forbidden: which rules there are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of x-kubernetes-validations. told: a message made from values, in CEL.

    at: the field that the message is about, below the one that the rule stands in.
    """

    rule: str
    message: str
    told: str = ""
    at: str = ""

    def schema(self) -> dict[str, Any]:
        found = {"rule": self.rule, "message": self.message}
        if self.told:
            found["messageExpression"] = self.told
        if self.at:
            found["fieldPath"] = self.at
        return found


def said(words: str, *values: str) -> str:
    """A message with %s or %d for each value. `format` costs a fixed amount; with `+` a number
    counts as the longest string of a request."""
    return f"{json.dumps(words)}.format([{', '.join(values)}])"


def matches(pattern: str) -> str:
    """Whether the whole of a text is of a pattern."""
    assert "'" not in pattern
    return f"self.matches(r'^(?:{pattern})$')"


def escaped(name: str) -> str:
    """A field's name as rules write it."""
    return name.replace("-", "__dash__")


def under(name: str) -> str:
    """A field's name as a path that a message is about."""
    return f"['{name}']" if "-" in name else f".{name}"


def has(holder: str, *path: str) -> str:
    """Whether a holder has a field, each step of the way there."""
    steps = [".".join((holder, *path[: i + 1])) for i in range(len(path))]
    return " && ".join(f"has({step})" for step in steps)


def inherited(pool: str, spec: str, *path: str, none: str) -> str:
    """A pool's value, or else the spec's, or else `none`."""
    tail = ".".join(path)
    return f"({has(pool, *path)} ? {pool}.{tail} : has({spec}.{tail}) ? {spec}.{tail} : {none})"


def sound(field: str) -> str:
    """Whether a field is a quantity at all; a rule of its own says so if not."""
    return f"(type({field}) == int || isQuantity({field}))"


def amount(field: str) -> str:
    """A quantity's value, given that it is sound."""
    return f"(type({field}) == int ? quantity('0').add({field}) : quantity({field}))"


def at_least(larger: str, smaller: str) -> str:
    """Whether a quantity is at least another one, or one of them is none."""
    more = f"{amount('a')}.compareTo({amount('b')}) >= 0"
    bad = f"!{sound('a')} || !{sound('b')}"
    return f"[{larger}].all(a, [{smaller}].all(b, {bad} || {more}))"


def nothing(field: str) -> str:
    """Whether a quantity is 0."""
    return f"[{field}].all(q, {sound('q')} && {amount('q')}.compareTo(quantity('0')) == 0)"
