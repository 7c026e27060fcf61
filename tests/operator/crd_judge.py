"""What the API server says of a DynamoCluster by its CustomResourceDefinition, without one.

It drops nulls and fills in defaults as the API server does, checks the schema, and evaluates
the CEL rules with the runtime that Google maintains. What test_crd_apiserver.py sends to a real
API server is judged here too, so that both are known to say the same. What it can't tell is
what a rule costs, and whether its types fit before it runs.
"""

import copy
import functools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jsonschema
from cel_expr_python import cel
from cel_expr_python.ext import ext_strings

from dynamo_operator.kube.crd import crd
from dynamo_operator.quantities import quantity

Schema = dict[str, Any]
SCHEMA: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
_RULES = "x-kubernetes-validations"
_SUBDOMAIN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_BLOCKING = ("must be of type", "supported values", "Required", "Too long", "Duplicate", "at most")


def walked(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walked(inner, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from walked(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walked(schema["additionalProperties"], f"{path}{{}}")


FIELDS = dict(walked(SCHEMA))  # by path; [] is an item of a list, {} a value of a map


def judged(value: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    """Every reason to refuse it, or the edit from `before`; none if it is accepted."""
    told = [f'unknown field "{path}"' for path in unknown(value, SCHEMA, "")]
    if not re.fullmatch(_SUBDOMAIN, value["metadata"]["name"]):
        told.append("metadata.name: a lowercase RFC 1123 subdomain must consist of ...")
    given = defaulted(value)
    told += list(shape_errors(given, SCHEMA, ""))
    told += list(duplicates(given, SCHEMA, ""))
    if any(word in line for line in told for word in _BLOCKING):
        return told
    old = None if before is None else defaulted(before)
    return told + list(broken_rules(given, old, SCHEMA, ""))


def defaulted(value: dict[str, Any]) -> dict[str, Any]:
    """What the API server stores and gives back."""
    given: dict[str, Any] = copy.deepcopy(value)
    _prune(given, SCHEMA, top=True)
    _fill(given, SCHEMA)
    return given


def unknown(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown(item, schema.get("items", {}), f"{path}[{index}]")
    if not isinstance(value, dict) or schema.get("type") != "object" or not _known(schema):
        return
    for name, inner in value.items():
        at = f"{path}.{name}" if path else name
        of = _known(schema).get(name, schema.get("additionalProperties"))
        if of is None:
            yield at
        elif path or name in ("spec", "status"):
            yield from unknown(inner, of, at)


def _known(schema: Schema) -> Schema:
    return schema.get("properties", {}) or ({"": {}} if "additionalProperties" in schema else {})


def _prune(value: Any, schema: Schema, top: bool = False) -> None:
    """Drops what is unknown, and nulls that no default replaces."""
    if isinstance(value, list):
        for item in value:
            _prune(item, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    for name in list(value):
        of = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
        if top and name == "metadata":
            continue
        if of is None or (value[name] is None and "default" not in of):
            del value[name]
        else:
            _prune(value[name], of)


def _fill(value: Any, schema: Schema) -> None:
    if isinstance(value, list):
        for item in value:
            _fill(item, schema.get("items", {}))
    if not isinstance(value, dict):
        return
    for name, of in schema.get("properties", {}).items():
        if value.get(name) is None and "default" in of:
            value[name] = copy.deepcopy(of["default"])
        if name in value:
            _fill(value[name], of)


def shape_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    words = {
        "type": "must be of type {0}",
        "anyOf": "must be of type integer or string",
        "enum": "supported values: {1}",
        "minimum": "should be greater than or equal to {0}",
        "maximum": "should be less than or equal to {0}",
        "required": "Required value",
        "maxLength": "Too long: may not be more than {0}",
        "maxItems": "must have at most {0} items",
        "maxProperties": "must have at most {0} properties",
    }
    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
        at = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path
        ).lstrip(".")
        if error.validator == "required":
            at += "." + error.message.split("'")[1]
        options = error.validator_value if isinstance(error.validator_value, list) else []
        listed = ", ".join(f'"{option}"' for option in options)
        yield f"{at}: {words[str(error.validator)].format(error.validator_value, listed)}"


def duplicates(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, of in schema.get("properties", {}).items():
            if name in value:
                yield from duplicates(value[name], of, f"{path}.{name}")
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "map":
        keys = [
            [item.get(key) for key in schema["x-kubernetes-list-map-keys"]]
            for item in value
            if isinstance(item, dict)
        ]
        if any(key in keys[:index] for index, key in enumerate(keys)):
            yield f"{path}: Duplicate value"


def broken_rules(value: Any, old: Any, schema: Schema, path: str) -> Iterator[str]:
    """The rules that don't hold, of a value and of all that it holds; `old` is None if new."""
    for rule in schema.get(_RULES, []):
        edit = "oldSelf" in rule["rule"]
        if edit and old is None:
            continue
        data = {"self": escaped(value), **({"oldSelf": escaped(old)} if edit else {})}
        if evaluated(rule["rule"], data) is not True:
            message = rule["message"]
            if "messageExpression" in rule:
                message = evaluated(rule["messageExpression"], data)
            yield f"{path}{rule.get('fieldPath', '')}: {message}"
    if isinstance(value, dict):
        for name, inner in value.items():
            of = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if of is not None:
                was = old.get(name) if isinstance(old, dict) else None
                yield from broken_rules(inner, was, of, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            was = _counterpart(item, old, schema)
            yield from broken_rules(item, was, schema["items"], f"{path}[{index}]")


def _counterpart(item: Any, old: Any, schema: Schema) -> Any:
    """The item of an old list that has the same key; only lists with keys have one."""
    keys = schema.get("x-kubernetes-list-map-keys", [])
    for other in old if keys and isinstance(old, list) else []:
        if all(other.get(key) == item.get(key) for key in keys):
            return other
    return None


def escaped(value: Any) -> Any:
    """A value with the names of fields as rules write them."""
    if isinstance(value, dict):
        return {name.replace("-", "__dash__"): escaped(inner) for name, inner in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value


def evaluated(expression: str, data: dict[str, Any]) -> Any:
    result = compiled(expression).eval(data=data)
    if result.type() == cel.Type.ERROR:
        raise AssertionError(f"{expression}: {result.value()}")
    return result.plain_value()


@functools.cache
def compiled(expression: str) -> cel.Expression:
    return _environment().compile(expression)


def _is_quantity(text: str) -> bool:
    try:
        quantity(text)
    except ValueError:
        return False
    return True


def _amount(text: str) -> dict[str, str]:
    return {"amount": str(quantity(text))}


def _compare(one: Any, other: Any) -> int:
    a, b = Fraction(one["amount"]), Fraction(other["amount"])
    return (a > b) - (a < b)


def _plus(one: Any, more: int) -> dict[str, str]:
    return {"amount": str(Fraction(one["amount"]) + more)}


@functools.cache
def _environment() -> cel.Env:
    """CEL with those functions of Kubernetes that our rules use."""
    kinds, dyn = cel.Type, cel.Type.DYN
    functions = [
        ("isQuantity", kinds.BOOL, [kinds.STRING], False, _is_quantity),
        ("quantity", dyn, [kinds.STRING], False, _amount),
        ("compareTo", kinds.INT, [dyn, dyn], True, _compare),
        ("add", dyn, [dyn, kinds.INT], True, _plus),
        ("sum", kinds.INT, [dyn], True, sum),
    ]
    extension = cel.CelExtension(
        "kubernetes",
        [
            cel.FunctionDecl(name, [cel.Overload(f"{name}_here", gives, takes, member, act)])
            for name, gives, takes, member, act in functions
        ],
    )
    return cel.NewEnv(
        variables={"self": dyn, "oldSelf": dyn}, extensions=[extension, ext_strings.ExtStrings()]
    )
