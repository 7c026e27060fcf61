"""The checks of a DynamoCluster that look at more than one field's shape.

Owns what stands in the CustomResourceDefinition as CEL rules too, with messages that say what to
do. Each rule asks first whether its fields are known to be wrong already.
Forbidden: comparing with the present cluster or with an earlier spec.
"""

from __future__ import annotations

import re

from dynamo_operator.field_types import BOOLEAN_WRONG, BOOLEANS, NAME_PATTERN, NAME_RIGHT
from dynamo_operator.pool_description import JOINED_NAME_CHARACTERS_MAX
from dynamo_operator.problems import Problems, shown
from dynamo_operator.quantities import quantity
from dynamo_operator.spec import ClusterSpec, Pool


def check(problems: Problems, name: str, spec: ClusterSpec) -> None:
    """Adds every broken rule to problems."""
    if problems.clean("metadata.name") and not re.fullmatch(NAME_PATTERN, name):
        problems.add("metadata.name", f"is {shown(name)}: {NAME_RIGHT}")
    _check_quorum(problems, spec)
    _check_zones(problems, spec.zones)
    for index, pool in enumerate(spec.pools):
        _check_pool(problems, "spec" if index == 0 else f"spec.pools[{index - 1}]", pool)
    _check_pool_names(problems, spec)
    _check_joined_names(problems, name, spec)
    _check_rest(problems, spec)


def _check_quorum(problems: Problems, spec: ClusterSpec) -> None:
    quorum = spec.quorum
    if problems.clean("spec.quorum.replication"):
        for field, value in (("r", quorum.r), ("w", quorum.w)):
            path = f"spec.quorum.{field}"
            if problems.clean(path) and value > quorum.replication:
                default = " (the default)" if value == 2 else ""
                problems.add(
                    path,
                    f"is {value}{default}: it must be between 1 and "
                    f"spec.quorum.replication, which is {quorum.replication}",
                )
        if problems.clean("spec.replicas", "spec.pools") and spec.nodes_total < quorum.replication:
            pools = " of all pools together" if len(spec.pools) > 1 else ""
            problems.add(
                "spec.replicas",
                f"is {spec.default_pool.replicas}, and {spec.nodes_total} node(s){pools} are fewer "
                f"than spec.quorum.replication, which is {quorum.replication}: "
                "raise the replicas or lower the replication (with r and w)",
            )


def _check_zones(problems: Problems, zones: tuple[str, ...]) -> None:
    for index, zone in enumerate(zones):
        path = f"spec.zones[{index}]"
        if not problems.clean(path):
            continue
        _check_word(problems, path, zone)
        if zone in zones[:index]:
            problems.add(path, f"is {shown(zone)}, which stands there already: name each zone once")


def _check_word(problems: Problems, path: str, word: str) -> None:
    if word in BOOLEANS:
        problems.add(path, f"is {shown(word)}: {BOOLEAN_WRONG}")
    elif not re.fullmatch(NAME_PATTERN, word):
        problems.add(path, f"is {shown(word)}: {NAME_RIGHT}")


def _check_pool(problems: Problems, path: str, pool: Pool) -> None:
    requests = dict(pool.resources.requests)
    for name, limit in pool.resources.limits:
        at = f"{path}.resources.limits.{name}"
        wrong = not problems.clean(at, f"{path}.resources.requests.{name}")
        if not wrong and name in requests and quantity(limit) < quantity(requests[name]):
            problems.add(
                at, f"is {limit}: it must be at least the request, which is {requests[name]}"
            )
    for index, toleration in enumerate(pool.tolerations):
        at = f"{path}.tolerations[{index}]"
        if toleration.operator == "Exists" and toleration.value:
            problems.add(f"{at}.value", "must be left out when the operator is Exists")
        if toleration.operator == "Equal" and not toleration.key and problems.clean(at):
            problems.add(f"{at}.key", "is empty: that takes the operator Exists")
        if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
            problems.add(f"{at}.tolerationSeconds", "takes the effect NoExecute")


def _check_pool_names(problems: Problems, spec: ClusterSpec) -> None:
    seen: set[str] = set()
    for index, pool in enumerate(spec.pools[1:]):
        path = f"spec.pools[{index}].name"
        if not problems.clean(path):
            continue
        if pool.name == spec.default_pool.name:
            problems.add(
                path,
                f'is "{pool.name}": that name is reserved for the nodes of spec.replicas, '
                "choose another",
            )
        else:
            _check_word(problems, path, pool.name)
        if pool.name in seen:
            problems.add(path, f"is {shown(pool.name)}, which another pool has already")
        seen.add(pool.name)


def _check_joined_names(problems: Problems, name: str, spec: ClusterSpec) -> None:
    """Name, pool and zone name a StatefulSet: they must fit and be one of a kind."""
    if not problems.clean("metadata.name", "spec.zones", "spec.pools"):
        return
    taken: dict[str, str] = {}
    for index, pool in enumerate(spec.pools):
        path = "metadata.name" if index == 0 else f"spec.pools[{index - 1}].name"
        for zone in spec.zones or ("",):
            joined = "-".join(part for part in (name, pool.name, zone) if part)
            if len(joined) > JOINED_NAME_CHARACTERS_MAX:
                problems.add(
                    path,
                    f"is too long: with pool and zone it makes {joined} ({len(joined)} characters),"
                    f" and at most {JOINED_NAME_CHARACTERS_MAX} fit",
                )
                break
            if joined in taken:
                problems.add(
                    path,
                    f"makes the name {joined} with zone {shown(zone)}, as {taken[joined]} does: "
                    "choose another",
                )
                break
            taken[joined] = f'pool "{pool.name}"' + (f' with zone "{zone}"' if zone else "")


def _check_rest(problems: Problems, spec: ClusterSpec) -> None:
    limits = spec.limits
    if (
        problems.clean("spec.limits.valueBytesMax", "spec.limits.objectBytesMax")
        and limits.object_bytes_max < limits.value_bytes_max
    ):
        problems.add(
            "spec.limits.objectBytesMax",
            f"is {limits.object_bytes_max}: it must be at least spec.limits.valueBytesMax, "
            f"which is {limits.value_bytes_max}",
        )
