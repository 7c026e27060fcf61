"""Config files: from the files and the name on the command line to one Config.

Owns reading them and putting them together. What one file says, another can't say
otherwise or again: which of the two was meant would be a guess. So secrets, the part
that is the same for all nodes and the name of this one can each come from a place of
their own.

Forbidden here: what a setting means; see `config`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from dynamo_core.errors import CallerError
from dynamo_node.config import Config, parse
from dynamo_node.fields import decoded, shown

NAME_OPTION: Final = "--name"


def load(paths: Sequence[Path], name: str | None = None) -> Config:
    """The configuration in all these files together; raises CallerError with every mistake.

    name: the node's, None to take it from a file. Sections are merged field by field;
    lists and texts are one field each.
    """
    files: list[tuple[str, dict[str, Any]]] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append((str(path), _read(path)))
        except CallerError as error:
            problems.append(f"{path}: {error}")
    if name is not None:
        if not name or "$(" in name:
            # Kubernetes leaves a variable that it doesn't know as it stands.
            problems.append(f"{NAME_OPTION}: {shown(name)}; the node's name is needed")
        files = [(file, _named(value, file, name, problems)) for file, value in files]
        files.append((NAME_OPTION, {"node": {"name": name}}))
    merged: dict[str, Any] = {}
    told_by: dict[str, str] = {}
    for file, value in files:
        _merge(merged, value, file, "", told_by, problems)
    if problems:
        raise CallerError("; ".join(problems))
    try:
        return parse(merged)
    except CallerError as error:
        raise CallerError(f"{', '.join(map(str, paths))}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CallerError(str(error.strerror or error)) from error
    value = decoded(data)
    if not isinstance(value, dict):
        raise CallerError(f"the file: {shown(value)}; an object is needed")
    return value


def _named(value: dict[str, Any], path: str, name: str, problems: list[str]) -> dict[str, Any]:
    """A file without the node's name, if that is the one on the command line."""
    node = value.get("node")
    if not isinstance(node, dict) or "name" not in node:
        return value
    if node["name"] != name:
        problems.append(
            f"node.name: {shown(node['name'])} in {path}, but {NAME_OPTION} is {shown(name)}"
        )
    return {**value, "node": {k: v for k, v in node.items() if k != "name"}}


def _merge(
    into: dict[str, Any],
    value: dict[str, Any],
    path: str,
    prefix: str,
    told_by: dict[str, str],
    problems: list[str],
) -> None:
    """Put one file's fields, or those of a section of it, to what others have said."""
    for name, said in value.items():
        field = f"{prefix}{name}"
        if name not in into:
            into[name] = {} if isinstance(said, dict) else said
            told_by[field] = path
        elif not (isinstance(said, dict) and isinstance(into[name], dict)):
            problems.append(f"{field}: both {told_by[field]} and {path} say it; leave it in one")
            continue
        if isinstance(said, dict):
            _merge(into[name], said, path, f"{field}.", told_by, problems)
