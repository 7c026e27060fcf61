"""Edits of a DynamoCluster that are accepted or refused: one table for all who judge them.

`dynamo local` and the operator go by `changes`, the API server by the transition rules of the
CustomResourceDefinition.
"""

from dataclasses import dataclass
from typing import Any

from tests.operator.manifest_cases import pool, requesting


@dataclass(frozen=True, slots=True)
class Edit:
    """told: a piece of what is said, by both, "" if the edit is accepted."""

    before: Any
    after: Any
    told: str = ""


LARGE = pool(capacity="2")

EDITS = (
    Edit({}, {}),
    Edit({}, {"replicas": 3, "storage": {"size": "10240Mi"}}),
    Edit({"replicas": 4}, {"replicas": 5}),
    Edit({"replicas": 5}, {"replicas": 3}),
    Edit({"replicas": 5}, {"replicas": 2}, "fewer than spec.quorum.replication, which is 3"),
    Edit(
        {"replicas": 5},
        {"replicas": 5, "quorum": {"replication": 5}},
        "can't be changed from 3 to 5: it is fixed",
    ),
    Edit(
        {},
        {"ring": {"partitions": 512}},
        "can't be changed from 256 to 512: it is fixed for the life of a cluster",
    ),
    Edit(
        {}, {"reconciliation": "lastWriteWins"}, "can't be changed from siblings to lastWriteWins"
    ),
    Edit({}, {"zones": ["a"]}, "it is fixed for the life of a cluster"),
    Edit({"zones": ["a", "b"]}, {"zones": ["b", "a"]}, "it is fixed for the life of a cluster"),
    Edit({"zones": ["a"]}, {}, "it is fixed for the life of a cluster"),
    Edit(
        {},
        {"security": {"tls": {"mode": "Operator"}}},
        "can't be changed from Disabled to Operator",
    ),
    Edit({}, {"storage": {"storageClassName": "fast"}}, "it is fixed for the life of a cluster"),
    Edit({"storage": {"storageClassName": "fast"}}, {}, "it is fixed for the life of a cluster"),
    Edit(
        {"storage": {"storageClassName": "fast"}},
        {"storage": {"storageClassName": ""}},
        "it is fixed",
    ),
    Edit(
        {}, {"storage": {"size": "9Gi"}}, "can't be changed from 10Gi to 9Gi: storage may only grow"
    ),
    Edit(
        {}, {"storage": {"size": 10737418239}}, "storage may only grow, since a volume can't shrink"
    ),
    Edit({}, {"storage": {"size": 10737418240}}),
    Edit({"storage": {"size": 5 << 30}}, {"storage": {"size": "5368709120001m"}}),
    Edit({}, {"storage": {"size": "11Gi", "whenDeleted": "Delete", "whenScaled": "Retain"}}),
    Edit({}, {"quorum": {"r": 1, "w": 3}}),
    Edit(
        {},
        {
            "tracing": {"endpoint": "http://j:4317", "sampleRatio": "1"},
            "limits": {"siblingsMax": 9},
        },
    ),
    Edit(
        {}, {"updateStrategy": {"onOperatorUpgrade": "Automatic"}, "paused": True, "dryRun": True}
    ),
    Edit({}, {"image": "x:2", "durability": "buffered", **requesting(cpu=1)}),
    Edit({}, {"security": {"clientAuth": {"mode": "Token"}}}),
    Edit({}, {"pools": [LARGE]}),
    Edit({"pools": [LARGE]}, {}),
    Edit({"pools": [LARGE]}, {"pools": [pool(replicas=3, capacity="3", nodeSelector={"a": "b"})]}),
    Edit(
        {"pools": [pool(storage={"size": "20Gi"})]},
        {"pools": [pool()]},
        "a pool's storage, once given, can't be removed",
    ),
    Edit({"pools": [pool(storage={"size": "20Gi"})]}, {}),
    Edit({"pools": [pool()]}, {"pools": [pool(storage={})]}),
    Edit({"pools": [pool()]}, {"pools": [pool(storage={"size": "20Gi"})]}),
    Edit({"pools": [pool()]}, {"pools": [pool(storage={"size": "5Gi"})]}, "storage may only grow"),
    Edit({"pools": [pool(storage={"size": "20Gi"})]}, {"pools": [pool(storage={"size": "30Gi"})]}),
    Edit(
        {"pools": [pool(storage={"size": "20Gi"})]},
        {"pools": [pool(storage={})]},
        "storage may only grow",
    ),
    Edit(
        {"pools": [pool("a"), pool(storage={"size": 5 << 30})]},
        {"pools": [pool(storage={"size": 4 << 30}), pool("a")]},
        "storage may only grow",
    ),
    Edit(
        {"pools": [pool()]},
        {"pools": [pool(storage={"storageClassName": "fast"})]},
        "it is fixed for the life of a cluster",
    ),
    Edit(
        {"pools": [pool()], "storage": {"storageClassName": "fast"}},
        {
            "pools": [pool(storage={"storageClassName": "fast"})],
            "storage": {"storageClassName": "fast"},
        },
    ),
    Edit(
        {"pools": [pool(storage={"storageClassName": "fast"})]},
        {"pools": [pool(storage={"storageClassName": "slow"})]},
        "it is fixed for the life of a cluster",
    ),
    Edit(
        {"pools": [pool("a", storage={"size": 9 << 30})]},
        {"pools": [pool("b", storage={"size": 5 << 30})]},
    ),
)
