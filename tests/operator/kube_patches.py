"""How an emulated API server changes an object: merge patch, server-side apply, owners.

Pure functions on plain dicts. Lists that the real server merges by a key are known
by their name here; any other list is replaced as a whole.
"""

import json
import marshal
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Path = tuple[Any, ...]
Owners = dict[tuple[str, str], set[Path]]  # (manager, "Apply" or "Update") to fields

LIST_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "nodes": ("name",),
    "pools": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "imagePullSecrets": ("name",),
}
PORT_KEYS = (("containerPort", "protocol"), ("port", "protocol"))
SETS = ("finalizers",)
ATOMIC = ("selector", "podSelector", "namespaceSelector", "nodeSelector")  # taken as a whole
NOT_OWNED = {
    ("apiVersion",),
    ("kind",),
    ("metadata", "name"),
    ("metadata", "namespace"),
    ("metadata", "uid"),
    ("metadata", "resourceVersion"),
    ("metadata", "generation"),
    ("metadata", "creationTimestamp"),
    ("metadata", "deletionTimestamp"),
    ("metadata", "deletionGracePeriodSeconds"),
}


def copied(value: Any) -> Any:
    """A deep copy of plain values; several times faster than what works for all of them."""
    return marshal.loads(marshal.dumps(value))


def merged(value: Any, changes: Any) -> Any:
    """RFC 7386."""
    if not isinstance(changes, dict):
        return copied(changes)
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in changes.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), change)
    return result


def leaves(value: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field that somebody can own, with its value."""
    if isinstance(value, dict) and value and not (at and at[-1] in ATOMIC):
        for key, child in value.items():
            yield from leaves(child, (*at, key))
        return
    keys = _keys(at, value)
    if keys is not None:
        for item in value:
            yield from leaves(item, (*at, _key_of(item, keys)))
    elif at and at[-1] in SETS and isinstance(value, list):
        for item in value:
            yield (*at, ("=", item)), item
    elif at not in NOT_OWNED:
        yield at, value


def look(value: Any, path: Path) -> Any:
    """The value of a field; None if it isn't there."""
    for step in path:
        if isinstance(step, tuple):
            value = _item(value, step)
        else:
            value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            return None
    return value


def applied(
    live: Object, owners: Owners, manager: str, config: Object, force: bool
) -> tuple[Object, Owners, list[tuple[str, Path]]]:
    """(the new object, its owners, conflicts: manager and field). With conflicts nothing holds."""
    mine = (manager, "Apply")
    wanted = dict(leaves(config))
    conflicts = [
        (other[0], path)
        for other, fields in owners.items()
        for path, value in wanted.items()
        if other != mine and path in fields and look(live, path) != value
    ]
    if conflicts and not force:
        return live, owners, conflicts
    taken = {path for _, path in conflicts}
    kept = {other: fields - taken for other, fields in owners.items() if other != mine}
    result = copied(live)
    for path, value in wanted.items():
        _put(result, path, copied(value))
    gone = owners.get(mine, set()) - wanted.keys()
    for path in sorted(gone, key=_is_key):  # the key of an item last: it is found by that
        if not any(path in fields for fields in kept.values()):
            _drop(result, path)
    return result, {**kept, mine: set(wanted)}, []


def updated(old: Object, new: Object, owners: Owners, manager: str) -> Owners:
    """The owners after a write that isn't an apply: who changes a field owns it alone."""
    before, after = dict(leaves(old)), dict(leaves(new))
    changed = {path for path, value in after.items() if before.get(path, _NOTHING) != value}
    gone = before.keys() - after.keys()
    result = {other: fields - changed - gone for other, fields in owners.items()}
    mine = (manager, "Update")
    result[mine] = result.get(mine, set()) | changed
    return {other: fields for other, fields in result.items() if fields}


_NOTHING = object()


def _keys(at: Path, value: Any) -> tuple[str, ...] | None:
    if not at or not isinstance(value, list) or not value:
        return None
    if at[-1] == "ports":
        return next((keys for keys in PORT_KEYS if keys[0] in value[0]), None)
    keys = LIST_KEYS.get(at[-1])
    return keys if keys and all(isinstance(item, dict) for item in value) else None


def _key_of(item: Object, keys: tuple[str, ...]) -> Path:
    defaults = {"protocol": "TCP"}
    return ("k", *((key, json.dumps(item.get(key, defaults.get(key)))) for key in keys))


def _item(value: Any, step: Path) -> Any:
    if not isinstance(value, list):
        return None
    if step[0] == "=":
        return step[1] if step[1] in value else None
    keys = tuple(key for key, _ in step[1:])
    return next((item for item in value if _key_of(item, keys) == step), None)


def _put(value: Any, path: Path, leaf: Any) -> None:
    for here, step in enumerate(path[:-1]):
        following = path[here + 1]
        if isinstance(step, tuple):
            item = _item(value, step)
            if item is None:
                item = {key: json.loads(text) for key, text in step[1:]}
                value.append(item)
            value = item
        else:
            if not isinstance(value.get(step), list if isinstance(following, tuple) else dict):
                value[step] = [] if isinstance(following, tuple) else {}
            value = value[step]
    last = path[-1]
    if isinstance(last, tuple):
        if last[0] == "=" and last[1] not in value:
            value.append(last[1])
    else:
        value[last] = leaf


def _drop(root: Any, path: Path) -> None:
    """Takes a field away, and what is empty then."""
    if _is_key(path):  # it goes with its item, when nothing else is left of that
        if _only_keys(look(root, path[:-1]), path[-2]):
            _drop(root, path[:-1])
        return
    parent, step = look(root, path[:-1]) if len(path) > 1 else root, path[-1]
    if parent is None:
        return
    if isinstance(step, tuple):
        item = _item(parent, step)
        if item is not None:
            parent.remove(item)
    else:
        parent.pop(step, None)
    if len(path) > 1 and not parent:
        _drop(root, path[:-1])


def _is_key(path: Path) -> bool:
    """Whether a field is the key of an item of a list, by which it is found."""
    return len(path) > 1 and isinstance(path[-2], tuple) and path[-1] in dict(path[-2][1:])


def _only_keys(item: Any, step: Any) -> bool:
    """An item of a list of which nothing but its key is left."""
    return (
        isinstance(step, tuple)
        and isinstance(item, dict)
        and set(item) <= {key for key, _ in step[1:]}
    )
