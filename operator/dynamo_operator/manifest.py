"""YAML as kubectl reads it, with the line of every field.

Owns the step from text to plain values (dict, list, str, int, float, bool,
None). PyYAML's own loaders differ from the Go library behind kubectl: there
`y` is a boolean, `12:30:00` and `2024-01-01` are text, a key that stands twice
is an error. Forbidden: files, and any knowledge of the custom resource beyond
its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from dynamo_core.errors import CallerError
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spec import KIND, DynamoCluster

BYTES_MAX = 1 << 20  # what the API server would take, give or take
VALUES_MAX = 20_000  # anchors can multiply a small file; stop long before it hurts

_TRUE = {"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"}
_FALSE = {"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"}
_NULL = {"", "~", "null", "Null", "NULL"}
_INT = re.compile(
    r"(?P<sign>[-+]?)(?:0b(?P<b>[01]+)|0x(?P<x>[0-9a-fA-F]+)|0o?(?P<o>[0-7]+)|(?P<d>0|[1-9]\d*))"
)
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?")
_INTEGER_END = 2.0**63
_NAN_OR_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_TAG = "tag:yaml.org,2002:"
_UNTAGGED = "untagged"


class ManifestError(CallerError):
    """The text is not one readable DynamoCluster. Each problem is one line for people."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, and the line (from 1) of each field path in it."""

    value: Any
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A read DynamoCluster, the object it was read from, and the other kinds in the file."""

    cluster: DynamoCluster
    value: dict[str, Any]
    ignored: tuple[str, ...]


def read(text: str, source: str = "manifest") -> Manifest:
    """The one DynamoCluster in a YAML text; other kinds beside it are only named.

    Raises ManifestError with every problem found, each as `source:line: ...`.
    """
    found = []
    ignored = []
    for document in documents(text, source):
        value = document.value
        if value is None:
            continue
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind != KIND and not _looks_meant(value):
            ignored.append(kind)
        else:
            found.append(document)
    if not found:
        others = f" (it holds {', '.join(ignored)})" if ignored else " (it is empty)"
        raise ManifestError(
            (
                f"{source}: there is no {KIND} in it{others}: "
                f"it needs one document with `kind: {KIND}`",
            )
        )
    if len(found) > 1:
        where = ", ".join(str(document.lines.get("", 1)) for document in found)
        raise ManifestError(
            (
                f"{source}: there are {len(found)} {KIND} documents in it (lines {where}): "
                "give each its own file",
            )
        )
    document = found[0]
    try:
        cluster = parse(document.value)
    except SpecError as error:
        told = sorted((_line(document.lines, p.path), str(p)) for p in error.problems)
        raise ManifestError(tuple(f"{source}:{line}: {text}" for line, text in told)) from error
    return Manifest(cluster, document.value, tuple(ignored))


def documents(text: str, source: str = "manifest") -> list[Document]:
    """Every document of a YAML text. Raises ManifestError at the first that can't be read."""
    if len(text.encode("utf-8", "replace")) > BYTES_MAX:
        raise ManifestError((f"{source}: it is larger than {BYTES_MAX} bytes",))
    found = []
    try:
        for node in yaml.compose_all(text, Loader=_Loader):
            lines: dict[str, int] = {"": _line_of(node)}
            found.append(Document(_Converter(source, lines).convert(node, ""), lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        what = error.problem or error.context or "it can't be read"
        raise ManifestError((f"{source}{line}: not YAML: {what}",)) from error
    except yaml.YAMLError as error:
        raise ManifestError((f"{source}: not YAML: {error}",)) from error
    except RecursionError:
        raise ManifestError((f"{source}: it is nested too deeply",)) from None
    return found


def scalar(text: str) -> bool | int | float | str | None:
    """What an unquoted word of YAML means to kubectl."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    plain = text.replace("_", "")
    if (match := _INT.fullmatch(plain)) and text[0] != "_":
        for group, base in (("b", 2), ("x", 16), ("o", 8), ("d", 10)):
            if (digits := match[group]) is not None:
                if len(digits) > 64:  # no field is near; int() of megabytes is slow
                    return text
                return -int(digits, base) if match["sign"] == "-" else int(digits, base)
    if _NAN_OR_INF.fullmatch(text):
        return float(text.replace(".", "", 1))
    if _FLOAT.fullmatch(plain) and text[0] != "_":
        number = float(plain)
        # kubectl sends JSON, which writes 3.0 as 3; the API server takes that for an integer.
        whole = number.is_integer() and abs(number) < _INTEGER_END
        return int(number) if whole else number
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML without its own guesses at what plain words mean."""

    # The stubs call both an instance's own; PyYAML reads them from the class.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    DEFAULT_SCALAR_TAG = _UNTAGGED  # type: ignore[misc]


class _Converter:
    """Turns composed YAML nodes into values, noting lines and counting values."""

    def __init__(self, source: str, lines: dict[str, int]) -> None:
        self._source = source
        self._lines = lines
        self._values = 0
        self._open: set[int] = set()

    def convert(self, node: yaml.Node, path: str) -> Any:
        self._values += 1
        if self._values > VALUES_MAX:
            raise self._error(node, f"it holds more than {VALUES_MAX} values")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self._error(node, "an anchor contains itself")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
        finally:
            self._open.discard(id(node))
        raise self._error(node, f"a {node.tag} can't be read")

    def _sequence(self, node: yaml.SequenceNode, path: str) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            child_path = f"{path}[{index}]"
            self._lines[child_path] = _line_of(child)
            values.append(self.convert(child, child_path))
        return values

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, child in node.value:
            if key_node.value == "<<" and key_node.style is None:
                for base in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                    value = self.convert(base, path)
                    if not isinstance(value, dict):
                        raise self._error(child, "`<<` takes a mapping")
                    merged = {**value, **merged}
                continue
            key = self._key(key_node)
            if key in own:
                raise self._error(key_node, f"the field {_join(path, key)} stands here twice")
            child_path = _join(path, key)
            self._lines[child_path] = _line_of(key_node)
            own[key] = self.convert(child, child_path)
        return {**merged, **own}

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a field's name must be text")
        value = self._scalar(node)
        if isinstance(value, bool):
            raise self._error(
                node,
                f"the field name `{node.value}` is a boolean to kubectl (YAML 1.1): "
                "put it in quotes",
            )
        return value if isinstance(value, str) else str(node.value)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.tag == f"{_TAG}str" or (node.tag == _UNTAGGED and node.style is not None):
            return text
        if node.tag != _UNTAGGED:
            raise self._error(node, f"the tag {node.tag.replace(_TAG, '!!')} can't be read")
        return scalar(text)

    def _error(self, node: yaml.Node, text: str) -> ManifestError:
        return ManifestError((f"{self._source}:{_line_of(node)}: {text}",))


def _looks_meant(value: dict[str, Any]) -> bool:
    """Whether a document of another kind was meant as ours (a misspelt kind)."""
    version = value.get("apiVersion")
    return isinstance(version, str) and version.startswith("dynamocluster.io/")


def _line_of(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None else 1


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _line(lines: Mapping[str, int], path: str) -> int:
    """The line of a path, or of the nearest field above it that was written."""
    while path not in lines and path:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)
