"""The fields of a DynamoCluster: the one table of defaults, bounds and meanings.

Owns, with `pool_description`, every field's name, type, default, bounds, choices, kind of edit,
and the words that explain it (`kubectl explain`, docs/reference.md). `parsing` reads by it, the
CustomResourceDefinition and the reference are made from it. What concerns several fields stands
in `rules`, and as CEL in `kube.crd_rules`. Forbidden: code beyond values.
"""

from __future__ import annotations

from typing import Final

from dynamo_core.ring_checks import PARTITIONS_MAX, PARTITIONS_MIN, REPLICATION_MAX
from dynamo_operator.field_types import (
    SHARE_PATTERN,
    Boolean,
    Choice,
    Decimal,
    FieldType,
    Group,
    Integer,
    Items,
    Opaque,
    PowerOfTwo,
    Text,
    TextMap,
    Word,
    Words,
)
from dynamo_operator.pool_description import POOL, ZONE_CHARACTERS_MAX, amounts, storage
from dynamo_operator.spec import NODES_MAX

_ZONES_MAX: Final = 16
_POOLS_MAX: Final = 16
_URL: Final = (
    "((https?|grpcs?)://([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\])"
    "(:[0-9]{1,5})?(/[!-~]*)?)?"
)

SPEC: Final = Group(
    "What is wanted. Every field has a default.",
    {
        "replicas": Integer(
            "Nodes of the default pool. `kubectl scale` and autoscalers edit it. The nodes of all "
            "pools together are at least quorum.replication.",
            "scaling",
            3,
            0,
            NODES_MAX,
        ),
        "quorum": Group(
            "N, R and W of the Dynamo paper (section 4.5): 1 <= r, w <= replication.",
            {
                "replication": Integer(
                    "Nodes that hold each key (N).", "immutable", 3, 1, REPLICATION_MAX
                ),
                "r": Integer(
                    "Replicas that a read waits for. With r + w above replication a read meets "
                    "every acknowledged write at one of them, unless stand-ins took it for owners "
                    "that were away.",
                    "live",
                    2,
                    1,
                    REPLICATION_MAX,
                ),
                "w": Integer(
                    "Durable copies that a write waits for.", "live", 2, 1, REPLICATION_MAX
                ),
            },
        ),
        "ring": Group(
            "How keys are spread over nodes.",
            {
                "partitions": PowerOfTwo(
                    "Equal parts of the key space (Q of the paper's strategy 3). Choose many "
                    "times the number of nodes there will ever be.",
                    "immutable",
                    256,
                    PARTITIONS_MIN,
                    PARTITIONS_MAX,
                )
            },
        ),
        "reconciliation": Choice(
            "siblings: concurrent writes are kept side by side until a client merges them. "
            "lastWriteWins: the one with the latest clock is shown.",
            "immutable",
            "siblings",
            ("siblings", "lastWriteWins"),
        ),
        "durability": Choice(
            "sync: a write is fsynced before it is acknowledged. buffered: it survives a crash "
            "of the process, not a power cut.",
            "rolling",
            "sync",
            ("sync", "buffered"),
        ),
        "image": Text(
            "Image of the nodes. Empty is the operator's own default, pinned when first used.",
            "rolling",
            "",
            characters_max=512,
            pattern="[!-~]*",
            right="an image such as registry.example/dynamo-node:1.0, without spaces, or empty",
        ),
        "resources": Group(
            "Resources of each node.",
            {
                "requests": Group("What is set aside.", amounts("500m", "512Mi", "set aside")),
                "limits": Group(
                    "What is never exceeded; none if left out.", amounts(None, None, "at most")
                ),
            },
        ),
        "storage": Group("The volume of each node.", storage("10Gi", "Retain", "Delete")),
        "zones": Words(
            "Zones to spread over, by their topology.kubernetes.io/zone: a StatefulSet for each "
            "pool and zone, replicas of a key in distinct ones. Empty: zones are ignored.",
            "immutable",
            Word("Name of a zone.", ZONE_CHARACTERS_MAX),
            _ZONES_MAX,
        ),
        "pools": Items(
            "Further nodes of another size or place, each pool with its own StatefulSets. A pool "
            "that is removed is drained first.",
            "scaling",
            POOL,
            key="name",
            items_max=_POOLS_MAX,
        ),
        "security": Group(
            "Who may talk to the nodes.",
            {
                "tls": Group(
                    "TLS of clients and between nodes.",
                    {
                        "mode": Choice(
                            "Disabled: none. Operator: by an authority of its own. CertManager: "
                            "by cert-manager.",
                            "immutable",
                            "Disabled",
                            ("Disabled", "Operator", "CertManager"),
                        )
                    },
                ),
                "clientAuth": Group(
                    "How clients show who they are.",
                    {
                        "mode": Choice(
                            "None: not at all. Token: by a bearer token.",
                            "rolling",
                            "None",
                            ("None", "Token"),
                        )
                    },
                ),
            },
        ),
        "tracing": Group(
            "Spans of requests and of background work.",
            {
                "endpoint": Text(
                    "OTLP endpoint that spans are sent to; empty is none. By gRPC at port 4317 or "
                    "with the scheme grpc, by HTTP at port 4318 or with the path /v1/traces.",
                    "live",
                    "",
                    characters_max=512,
                    pattern=_URL,
                    right="a URL such as http://jaeger-collector:4317, or empty",
                ),
                "sampleRatio": Decimal(
                    "Share of requests that is traced; what is slow or fails is beyond it.",
                    "live",
                    "0.01",
                    SHARE_PATTERN,
                    'a decimal between "0" and "1"',
                ),
            },
        ),
        "limits": Group(
            "What a request may bring and a key may hold.",
            {
                "valueBytesMax": Integer(
                    "Bytes of one value; more is answered with 413.", "live", 1 << 20, 1, 32 << 20
                ),
                "siblingsMax": Integer(
                    "Concurrent values of one key; more is answered with 409.",
                    "live",
                    100,
                    1,
                    10_000,
                ),
                "objectBytesMax": Integer(
                    "Bytes of one key with all its siblings, at least valueBytesMax.",
                    "live",
                    8 << 20,
                    1,
                    48 << 20,
                ),
            },
        ),
        "updateStrategy": Group(
            "When running nodes are changed without an edit.",
            {
                "onOperatorUpgrade": Choice(
                    "Manual: a new operator restarts nothing until it is told to. Automatic: it "
                    "rolls the nodes, one at a time.",
                    "live",
                    "Manual",
                    ("Manual", "Automatic"),
                )
            },
        ),
        "paused": Boolean("Observe and report, change nothing.", "live", False),
        "dryRun": Boolean("Write the next steps into status.plan, act on none.", "live", False),
    },
)

METADATA: Final[dict[str, FieldType]] = {
    "name": Text("Name of the cluster.", required=True),
    "namespace": Text("Namespace of the cluster.", default="default"),
    "annotations": TextMap("Notes; some are a person's word to the operator."),
    "labels": TextMap("Labels, for people."),
    # Written by the API server; `kubectl get -o yaml` hands them back.
    **dict.fromkeys(
        (
            *("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields"),
            *("ownerReferences", "finalizers", "selfLink", "generateName"),
            *("deletionTimestamp", "deletionGracePeriodSeconds"),
        ),
        Opaque(),
    ),
}

TOP: Final[dict[str, FieldType]] = {
    "apiVersion": Text("Group and version.", required=True),
    "kind": Text("Kind.", required=True),
    "metadata": Group("Who it is.", METADATA),
    "spec": SPEC,
    "status": Opaque("Written by the operator."),
}
