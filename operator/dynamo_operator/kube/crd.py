"""The CustomResourceDefinition, made from the description of the fields.

Owns the step from described fields to a structural schema, and what stands around it:
names, sub-resources, printer columns. `python -m dynamo_operator.kube.crd` prints what
crds/dynamoclusters.yaml holds (`make crd`). Forbidden: fields, bounds and defaults
(`description`, `crd_status`), rules (`crd_rules`), the API server.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import yaml

from dynamo_operator.description import SPEC
from dynamo_operator.field_types import (
    QUANTITY_CHARACTERS_MAX,
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
from dynamo_operator.kube.cel import Rule
from dynamo_operator.kube.crd_rules import RULES
from dynamo_operator.kube.crd_status import STATUS
from dynamo_operator.kube.field_rules import rules_of, rules_of_quantities
from dynamo_operator.kube.names import GROUP, PLURAL, VERSION
from dynamo_operator.spec import KIND

_RULES: Final = "x-kubernetes-validations"
_DECIMAL_CHARACTERS_MAX: Final = 22  # 12 digits, a point, 9 digits
_HEADER: Final = "# Generated from the description of the fields; `make crd` makes it anew.\n"
_COLUMNS: Final = (
    ("Nodes", "integer", ".status.nodesTotal", "Nodes of all pools"),
    ("Ready", "integer", ".status.nodesReady", "Nodes that are ready, of all pools"),
    (
        "Available",
        "string",
        '.status.conditions[?(@.type=="Available")].status',
        "Whether keys can be read and written",
    ),
    ("Epoch", "integer", ".status.ring.epoch", "Number of the ring"),
    ("Operation", "string", ".status.operation.kind", "What is being done"),
    ("Age", "date", ".metadata.creationTimestamp", "Since when it exists"),
)


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as the API server takes it."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": about}
        for name, kind, path, about in _COLUMNS
    ]
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": {"status": {}, "scale": scale},
        "schema": {"openAPIV3Schema": _top()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["dyn"],
            },
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "versions": [version],
        },
    }


def text() -> str:
    """The CustomResourceDefinition as YAML, as crds/dynamoclusters.yaml holds it."""
    return _HEADER + yaml.dump(crd(), Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors, which the same list standing twice would make."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _top() -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "description": "A key-value store that is always writable, after Amazon's Dynamo.",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _schema(SPEC, "spec", False),
            "status": _schema(STATUS, "status", False),
        },
    }
    return _ruled(schema, RULES[""])


def _schema(kind: FieldType, path: str, in_pool: bool) -> dict[str, Any]:
    """A field's schema, with its rules, and those of what it holds."""
    schema = _shape(kind, path, in_pool)
    if kind.about:
        schema = {"description": kind.about, **schema}
    default = default_of(kind)
    if default is not None and not path.startswith("status"):
        schema["default"] = default
    return _ruled(schema, [*rules_of(kind, in_pool=in_pool), *RULES.get(path, [])])


def _shape(kind: FieldType, path: str, in_pool: bool) -> dict[str, Any]:
    match kind:
        case Text():
            return _string(kind.characters_max)
        case Word():
            return _string(kind.characters_max)
        case Decimal():
            return _string(_DECIMAL_CHARACTERS_MAX)
        case Choice():
            return {"type": "string", "enum": list(kind.options)}
        case Boolean():
            return {"type": "boolean"}
        case Integer():
            bounds = {"minimum": kind.low, "maximum": kind.high}
            given = {name: bound for name, bound in bounds.items() if bound is not None}
            return {"type": "integer", "format": "int64", **given}
        case PowerOfTwo():
            return {"type": "integer", "format": "int32"}
        case Quantity():
            either = [{"type": "integer"}, {"type": "string"}]
            most = {"maxLength": QUANTITY_CHARACTERS_MAX}
            return {"x-kubernetes-int-or-string": True, "anyOf": either, **most}
        case Time():
            return {"type": "string", "format": "date-time"}
        case Texts():
            return {"type": "array", "items": {"type": "string"}}
        case TextMap():
            value = Text(
                "", characters_max=kind.characters_max, pattern=kind.pattern, right=kind.right
            )
            values = _schema(value, f"{path}{{}}", in_pool)
            return {
                "type": "object",
                "maxProperties": kind.values_max,
                "additionalProperties": values,
            }
        case Words():
            return {
                "type": "array",
                "maxItems": kind.items_max,
                "x-kubernetes-list-type": "atomic",
                "items": _schema(kind.item, f"{path}[]", in_pool),
            }
        case Group() | Inherited():
            schema = _object(kind.fields, path, in_pool)
            return _ruled(schema, rules_of_quantities(kind.fields, in_pool=in_pool))
        case Items():
            return _list(kind, path)
    raise AssertionError(f"{path}: {kind} has no schema")


def _object(fields: Mapping[str, FieldType], path: str, in_pool: bool) -> dict[str, Any]:
    required = [name for name, kind in fields.items() if getattr(kind, "required", False)]
    properties = {name: _schema(kind, f"{path}.{name}", in_pool) for name, kind in fields.items()}
    needs = {"required": required} if required else {}
    return {"type": "object", **needs, "properties": properties}


def _list(kind: Items, path: str) -> dict[str, Any]:
    item = _ruled(_object(kind.fields, f"{path}[]", True), RULES.get(f"{path}[]", []))
    schema: dict[str, Any] = {"type": "array"}
    if kind.items_max:
        schema["maxItems"] = kind.items_max
    schema["x-kubernetes-list-type"] = "map" if kind.key else "atomic"
    if kind.key:
        schema["x-kubernetes-list-map-keys"] = [kind.key]
    return {**schema, "items": item}


def _string(characters_max: int) -> dict[str, Any]:
    return {"type": "string", **({"maxLength": characters_max} if characters_max else {})}


def _ruled(schema: dict[str, Any], rules: list[Rule]) -> dict[str, Any]:
    """A schema with rules beside those that it has."""
    had = schema.get(_RULES, [])
    more = {_RULES: [*had, *(rule.schema() for rule in rules)]} if rules or had else {}
    return {**{name: part for name, part in schema.items() if name != _RULES}, **more}


if __name__ == "__main__":
    sys.stdout.write(text())
