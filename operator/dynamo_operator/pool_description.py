"""The fields of a pool of nodes: what the spec says of its own nodes, and of each further pool.

Owns names, types, defaults, bounds and meanings of resources, storage, and the rest of a pool,
like `description`, which takes them up. Forbidden: code beyond values.
"""

from __future__ import annotations

from typing import Final

from dynamo_operator.field_types import (
    DECIMAL_PATTERN,
    Choice,
    Decimal,
    FieldType,
    Inherited,
    Integer,
    Items,
    Quantity,
    Text,
    TextMap,
    Word,
)
from dynamo_operator.spec import DEFAULT_POOL, NODES_MAX

JOINED_NAME_CHARACTERS_MAX: Final = 52  # leaves room for "-ORDINAL" in a label of 63
_POOL_CHARACTERS_MAX: Final = JOINED_NAME_CHARACTERS_MAX - len("c-")  # beside the shortest name
ZONE_CHARACTERS_MAX: Final = _POOL_CHARACTERS_MAX - len(f"{DEFAULT_POOL}-")
_LABEL: Final = "([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_LABEL_RIGHT: Final = (
    "at most 63 of letters, digits, -, _ and ., with a letter or digit first and last, or empty"
)
_KEY: Final = (
    "([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_KEY_RIGHT: Final = "a label's name, such as disk or example.com/disk"
RESOURCE_NAMES: Final = ("cpu", "ephemeral-storage", "memory")


def amounts(cpu: str | None, memory: str | None, what: str) -> dict[str, FieldType]:
    """Amounts of resources, with their defaults."""
    return {
        "cpu": Quantity(f"CPU {what}, in cores: 2 or 500m.", "rolling", cpu),
        "memory": Quantity(f"Memory {what}, in bytes: 512Mi.", "rolling", memory),
        "ephemeral-storage": Quantity(
            f"Disk of the machine {what}, apart from the volume.", "rolling"
        ),
    }


def storage(size: str | None, deleted: str | None, scaled: str | None) -> dict[str, FieldType]:
    """A node's volume, with its defaults."""
    return {
        "size": Quantity(
            "Size of each node's volume. It may only grow; volumes are resized online.",
            "live",
            size,
            positive=True,
            grows=True,
        ),
        "storageClassName": Text(
            "StorageClass of the volumes. Left out, it is the Kubernetes cluster's default; "
            '"" is volumes made by hand.',
            "immutable",
            characters_max=253,
        ),
        "whenDeleted": Choice(
            "What becomes of the volumes when the DynamoCluster is deleted. Retained ones are "
            "taken up again by a new DynamoCluster of the same name.",
            "live",
            deleted,
            ("Retain", "Delete"),
        ),
        "whenScaled": Choice(
            "What becomes of the volume of a node that has left, once it is proven that nothing "
            "on it is missing elsewhere.",
            "live",
            scaled,
            ("Retain", "Delete"),
        ),
    }


TOLERATION: Final[dict[str, FieldType]] = {
    "key": Text(
        "Key of the taint; empty, with the operator Exists, is any.",
        "rolling",
        "",
        characters_max=317,
        pattern=f"({_KEY})?",
        right=f"{_KEY_RIGHT}, or empty",
    ),
    "operator": Choice("How key and value match.", "rolling", "Equal", ("Equal", "Exists")),
    "value": Text(
        "Value of the taint, with the operator Equal.",
        "rolling",
        "",
        characters_max=63,
        pattern=_LABEL,
        right=_LABEL_RIGHT,
    ),
    "effect": Choice(
        "Effect of the taint; empty is any.",
        "rolling",
        "",
        ("", "NoSchedule", "PreferNoSchedule", "NoExecute"),
    ),
    "tolerationSeconds": Integer(
        "How long a NoExecute taint is tolerated; left out, for ever.",
        "rolling",
        low=0,
        high=1 << 31,
    ),
}

POOL: Final[dict[str, FieldType]] = {
    "name": Word(
        "Name of the pool, part of its nodes' names. Another name is another pool.",
        _POOL_CHARACTERS_MAX,
        required=True,
        reserved=DEFAULT_POOL,
        reserved_for="the nodes of spec.replicas",
    ),
    "replicas": Integer(
        "Nodes of this pool. A pool of 0 nodes is drained and kept.",
        "scaling",
        low=0,
        high=NODES_MAX,
        required=True,
    ),
    "capacity": Decimal(
        "Tokens of each node, relative to a node of the default pool. Left out, it follows the "
        "scarcest of cpu, memory and storage, each relative to the default pool's.",
        "scaling",
        None,
        DECIMAL_PATTERN,
        'a decimal above 0, such as "2"',
        positive=True,
    ),
    "resources": Inherited(
        "Resources of each node. What is left out is spec.resources'.",
        {
            "requests": Inherited("What is set aside.", amounts(None, None, "set aside")),
            "limits": Inherited("What is never exceeded.", amounts(None, None, "at most")),
        },
    ),
    "storage": Inherited(
        "Volume of each node. What is left out is spec.storage's. Once given, it can't be removed.",
        storage(None, None, None),
    ),
    "nodeSelector": TextMap(
        "Labels that machines must have to run nodes of this pool.",
        "rolling",
        values_max=16,
        characters_max=63,
        pattern=_LABEL,
        right=_LABEL_RIGHT,
        key_pattern=_KEY,
        key_right=_KEY_RIGHT,
    ),
    "tolerations": Items(
        "Taints of machines that nodes of this pool tolerate.",
        "rolling",
        TOLERATION,
        items_max=16,
        listed=False,
    ),
}
