"""The CEL rules between fields of the CustomResourceDefinition.

Owns what `rules` and `changes` check of several fields, in the language of the API server and
in the same words, by the path of what holds the fields. Forbidden: bounds and defaults of its
own (`description`), rules of one field (`field_rules`), the schema around (`crd`).
"""

from __future__ import annotations

from typing import Final

from dynamo_operator.changes import GROWS, KEPT
from dynamo_operator.field_types import NAME_PATTERN, NAME_RIGHT, QUANTITY_MAX
from dynamo_operator.kube.cel import Rule, at_least, escaped, has, inherited, nothing, said, under
from dynamo_operator.kube.field_rules import FIXED
from dynamo_operator.pool_description import JOINED_NAME_CHARACTERS_MAX, RESOURCE_NAMES
from dynamo_operator.spec import DEFAULT_POOL

_NODES = "(self.replicas + self.pools.map(p, p.replicas).sum())"
_QUORUM_RIGHT = "it must be between 1 and spec.quorum.replication"


def _quorum() -> list[Rule]:
    return [
        Rule(
            f"self.{name} <= self.replication",
            _QUORUM_RIGHT,
            said(f"is %d: {_QUORUM_RIGHT}, which is %d", f"self.{name}", "self.replication"),
            f".{name}",
        )
        for name in ("r", "w")
    ]


def _nodes() -> Rule:
    remedy = ": raise the replicas or lower the replication (with r and w)"
    fewer = " node(s) of all pools together are fewer than spec.quorum.replication"
    return Rule(
        f"{_NODES} >= self.quorum.replication",
        f"the{fewer}{remedy}",
        said(f"%d{fewer}, which is %d{remedy}", _NODES, "self.quorum.replication"),
        ".replicas",
    )


def _limits() -> Rule:
    return Rule(
        "self.objectBytesMax >= self.valueBytesMax",
        "it must be at least spec.limits.valueBytesMax",
        said(
            "is %d: it must be at least spec.limits.valueBytesMax, which is %d",
            *("self.objectBytesMax", "self.valueBytesMax"),
        ),
        ".objectBytesMax",
    )


def _names() -> list[Rule]:
    """Of metadata.name: what it is made of, and room for pool and zone beside it."""
    most = JOINED_NAME_CHARACTERS_MAX
    cluster, default = "size(self.metadata.name)", len(DEFAULT_POOL)
    long = (
        f"name, pool and zone joined by - must have at most {most} characters, since they name "
        "StatefulSets: shorten one of them"
    )
    fits = (
        f"{cluster} + {default + 1} <= {most} && "
        f"self.spec.zones.all(z, {cluster} + size(z) + {default + 2} <= {most}) && "
        f"self.spec.pools.all(p, {cluster} + size(p.name) + 1 <= {most} && "
        f"self.spec.zones.all(z, {cluster} + size(p.name) + size(z) + 2 <= {most}))"
    )
    return [
        Rule(
            f"self.metadata.name.matches(r'^(?:{NAME_PATTERN})$')",
            f"metadata.name: {NAME_RIGHT}",
            said(f'metadata.name is "%s": {NAME_RIGHT}', "self.metadata.name"),
        ),
        Rule(fits, long),
    ]


def _joined() -> Rule:
    """Two pools and zones that make one name: a-b and c, a and b-c."""
    same = "self.zones.all(a, self.zones.all(b, q.name.substring({}) + '-' + b != a))"
    pairs = same.format("size(p.name) + 1")
    default = same.format(len(DEFAULT_POOL) + 1)
    return Rule(
        f"self.pools.all(q, (!q.name.startsWith('{DEFAULT_POOL}-') || {default}) && "
        f"self.pools.all(p, !q.name.startsWith(p.name + '-') || {pairs}))",
        "a pool with one zone makes the name of another pool with another zone: choose another",
        at=".pools",
    )


def _requests() -> list[Rule]:
    """Limits are at least the requests, the spec's and what a pool makes of them."""
    message = "a limit must be at least the request of the same resource"
    of_spec, of_pool = [], []
    for name in RESOURCE_NAMES:
        field = escaped(name)
        limit, request = f"self.limits.{field}", f"self.requests.{field}"
        of_spec.append(
            Rule(
                f"!has({limit}) || !has({request}) || {at_least(limit, request)}",
                message,
                said("is %s: it must be at least the request, which is %s", limit, request),
                f".limits{under(name)}",
            )
        )
        limit = inherited("p", "self", "resources", "limits", field, none=f"'{QUANTITY_MAX}'")
        request = inherited("p", "self", "resources", "requests", field, none="'0'")
        of_pool.append(at_least(limit, request))
    pools = "self.pools.all(p, !has(p.resources) || " + " && ".join(of_pool) + ")"
    return [*of_spec, Rule(pools, f"{message}, with what the pool takes over", at=".pools")]


def _capacity() -> Rule:
    """No request of 0 makes a node's capacity 0."""
    checks = []
    for name in ("cpu", "memory"):
        own, base = f"p.resources.requests.{name}", f"self.resources.requests.{name}"
        checks.append(f"(!has({own}) || {nothing(base)} || !{nothing(own)})")
    given = has("p", "resources", "requests")
    return Rule(
        f"self.pools.all(p, has(p.capacity) || !({given}) || ({' && '.join(checks)}))",
        "a pool's capacity can't be derived from a request of 0: give it a capacity, such as "
        '"2" for twice the tokens of a node of the default pool',
        at=".pools",
    )


def _volumes() -> list[Rule]:
    """A pool's volumes, however they are given, keep their class and don't shrink."""
    same, grown = (
        f"self.pools.all(p, !has(p.storage) || oldSelf.pools.all(o, o.name != p.name || {check}))"
        for check in (
            inherited("p", "self", "storage", "storageClassName", none="' '")
            + " == "
            + inherited("o", "oldSelf", "storage", "storageClassName", none="' '"),
            at_least(
                inherited("p", "self", "storage", "size", none="'0'"),
                inherited("o", "oldSelf", "storage", "size", none="'0'"),
            ),
        )
    )
    fixed = f"a pool's storageClassName {FIXED}"
    return [Rule(same, fixed, at=".pools"), Rule(grown, f"a pool's {GROWS}", at=".pools")]


def _storage_class() -> Rule:
    name = "storageClassName"
    return Rule(
        f"has(self.{name}) == has(oldSelf.{name}) && "
        f"(!has(self.{name}) || self.{name} == oldSelf.{name})",
        FIXED,
        at=f".{name}",
    )


_TOLERATION: Final = [
    Rule(
        "self.operator != 'Exists' || self.value == ''",
        "must be left out when the operator is Exists",
        at=".value",
    ),
    Rule(
        "self.operator == 'Exists' || self.key != ''",
        "is empty: that takes the operator Exists",
        at=".key",
    ),
    Rule(
        "!has(self.tolerationSeconds) || self.effect == 'NoExecute'",
        "takes the effect NoExecute",
        at=".tolerationSeconds",
    ),
]
_resource_rules = _requests()

# By the path of what holds the fields; [] is each item of a list.
RULES: Final[dict[str, list[Rule]]] = {
    "": _names(),
    "spec": [_nodes(), _joined(), _resource_rules[-1], _capacity(), *_volumes()],
    "spec.quorum": _quorum(),
    "spec.limits": [_limits()],
    "spec.resources": _resource_rules[:-1],
    "spec.storage": [_storage_class()],
    "spec.pools[]": [
        Rule("!has(oldSelf.storage) || has(self.storage)", KEPT, at=".storage"),
    ],
    "spec.pools[].tolerations[]": _TOLERATION,
}
