"""Edits are sorted into immutable, live, rolling and scaling, by the contract's lists."""

from typing import Any

import pytest

from dynamo_operator.changes import changes
from dynamo_operator.parsing import parse

POOL = {"name": "large", "replicas": 2, "capacity": "2"}
TLS = {"security": {"tls": {"mode": "Operator"}}}
STORED = {**POOL, "storage": {"size": "20Gi"}}


def cluster(spec: Any, name: str = "cart") -> Any:
    return parse(
        {
            "apiVersion": "dynamocluster.io/v1alpha1",
            "kind": "DynamoCluster",
            "metadata": {"name": name},
            "spec": spec,
        }
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({}, {"replicas": 3}, []),
        ({"replicas": 4}, {"replicas": 5}, [("spec.replicas", "scaling")]),
        (
            {"replicas": 5},
            {"replicas": 5, "quorum": {"replication": 5}},
            [("spec.quorum.replication", "immutable")],
        ),
        ({}, {"ring": {"partitions": 512}}, [("spec.ring.partitions", "immutable")]),
        ({}, {"reconciliation": "lastWriteWins"}, [("spec.reconciliation", "immutable")]),
        ({}, {"zones": ["a"]}, [("spec.zones", "immutable")]),
        (
            {},
            {"security": {"tls": {"mode": "Operator"}}},
            [("spec.security.tls.mode", "immutable")],
        ),
        (
            {},
            {"storage": {"storageClassName": "fast"}},
            [("spec.storage.storageClassName", "immutable")],
        ),
        ({}, {"storage": {"size": "9Gi"}}, [("spec.storage.size", "immutable")]),
        ({}, {"storage": {"size": "11Gi"}}, [("spec.storage.size", "live")]),
        ({}, {"storage": {"size": "10240Mi"}}, []),
        (
            {},
            {"quorum": {"r": 1, "w": 3}},
            [("spec.quorum.r", "live"), ("spec.quorum.w", "live")],
        ),
        (
            {},
            {"tracing": {"endpoint": "http://j:4317", "sampleRatio": "1"}},
            [("spec.tracing.endpoint", "live"), ("spec.tracing.sampleRatio", "live")],
        ),
        ({}, {"limits": {"siblingsMax": 9}}, [("spec.limits.siblingsMax", "live")]),
        (
            {},
            {"updateStrategy": {"onOperatorUpgrade": "Automatic"}},
            [("spec.updateStrategy.onOperatorUpgrade", "live")],
        ),
        (
            {},
            {"paused": True, "dryRun": True},
            [("spec.paused", "live"), ("spec.dryRun", "live")],
        ),
        (
            {},
            {"storage": {"whenDeleted": "Delete", "whenScaled": "Retain"}},
            [("spec.storage.whenDeleted", "live"), ("spec.storage.whenScaled", "live")],
        ),
        ({}, {"image": "x:2"}, [("spec.image", "rolling")]),
        ({}, {"durability": "buffered"}, [("spec.durability", "rolling")]),
        ({}, {"resources": {"requests": {"cpu": 1}}}, [("spec.resources", "rolling")]),
        ({}, {"pools": [POOL]}, [("spec.pools[large]", "scaling")]),
        ({"pools": [POOL]}, {}, [("spec.pools[large]", "scaling")]),
        (
            {"pools": [POOL]},
            {"pools": [{**POOL, "replicas": 3, "capacity": "3"}]},
            [("spec.pools[large].replicas", "scaling"), ("spec.pools[large].capacity", "scaling")],
        ),
        (
            {"pools": [POOL]},
            {"pools": [{**POOL, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}]},
            [
                ("spec.pools[large].nodeSelector", "rolling"),
                ("spec.pools[large].tolerations", "rolling"),
            ],
        ),
        ({"pools": [STORED]}, {"pools": [POOL]}, [("spec.pools[large].storage", "immutable")]),
        (
            {"pools": [STORED]},
            {"pools": [{**STORED, "storage": {"size": "30Gi"}}]},
            [("spec.pools[large].storage.size", "live")],
        ),
        # A request may change what a node's capacity derives to, and with it its tokens.
        (
            {"pools": [{"name": "b", "replicas": 1}]},
            {"pools": [{"name": "b", "replicas": 1, "resources": {"requests": {"cpu": "250m"}}}]},
            [("spec.pools[b].capacity", "scaling"), ("spec.pools[b].resources", "rolling")],
        ),
    ],
)
def test_each_edit_has_its_kind(old: Any, new: Any, expected: list[tuple[str, str]]) -> None:
    found = changes(cluster(old), cluster(new))
    assert [(change.path, change.kind) for change in found] == expected
    for change in found:
        assert bool(change.refusal) == (change.kind == "immutable")


def test_another_name_is_another_cluster() -> None:
    (change,) = changes(cluster({}), cluster({}, "basket"))
    assert (change.path, change.kind) == ("metadata.name", "immutable")
    assert "can't be changed from cart to basket" in change.refusal
