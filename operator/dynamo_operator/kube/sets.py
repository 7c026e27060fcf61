"""The StatefulSet of one pool in one zone, and the pod template in it.

Owns the set, its claims' template, and the hash by which a pod template is
pinned. Forbidden: deciding when a template is made anew, and with whose image.
What is there is kept word for word until the spec's part of it changes,
whichever version of the operator looks at it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import annotations_of, metadata
from dynamo_operator.kube.pods import pod_spec
from dynamo_operator.quantities import quantity
from dynamo_operator.spec import DynamoCluster, Pairs, Pool

REVISIONS_KEPT: Final = 5
_RULES: Final[dict[str, Any]] = {
    # The operator restarts pods, when all partitions keep their quorum.
    "updateStrategy": {"type": "OnDelete"},
    # A plain `kubectl scale` of the set would otherwise delete what isn't drained.
    "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
}


def spec_hash(cluster: DynamoCluster, pool: Pool, zone: str, image: str) -> str:
    """Names the part of the spec that a template is made of: 16 hex.

    image: the one that pods run, given by the spec or pinned; never an operator's new default.

    The value is for ever: another one for the same spec restarts every node of every cluster when
    its operator is upgraded. So the inputs are the spec's, not what is made of them; quantities
    count by their value; and a field that a later version adds goes in only where it isn't at its
    default. Left out is all that needs no restart: replicas, storage, r, w, limits.
    """
    inputs = {
        "image": image,
        "zone": zone,
        "durability": cluster.spec.durability,
        "reconciliation": cluster.spec.reconciliation,
        "requests": _amounts(pool.resources.requests),
        "limits": _amounts(pool.resources.limits),
        "nodeSelector": dict(pool.node_selector),
        "tolerations": sorted(
            _canonical([one.key, one.operator, one.value, one.effect, one.toleration_seconds])
            for one in pool.tolerations
        ),
    }
    text = _canonical({name: value for name, value in inputs.items() if value})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def template(
    cluster: DynamoCluster,
    pool: Pool,
    zone: str,
    *,
    image: str,
    release: names.Release,
    config_name: str,
) -> dict[str, Any]:
    """A pod template made now, by this release.

    image: see `spec_hash`; it is the caller's to take the spec's, the pinned, or the release's.
    Where the spec gives none, the one that is taken is noted: it stays, whichever operator comes.
    config_name: the ConfigMap with node.json (`configuration.config_name`).
    """
    pinned = {} if cluster.spec.image else {names.PINNED_IMAGE: image}
    return {
        "metadata": {
            "labels": names.labels(cluster, "node", pool.name, zone),
            "annotations": {
                names.BUILT_BY: release.version,
                names.SPEC_HASH: spec_hash(cluster, pool, zone, image),
                **pinned,
            },
        },
        "spec": pod_spec(cluster, pool, zone, image=image, config_name=config_name),
    }


def pinned_by(template: Mapping[str, Any]) -> dict[str, str]:
    """The annotations by which a template is pinned, and the set around it; "" where missing."""
    found = annotations_of(template)
    return {name: found.get(name, "") for name in (names.BUILT_BY, names.SPEC_HASH)}


def stateful_set(
    cluster: DynamoCluster,
    owner: names.Owner,
    pool: Pool,
    zone: str,
    *,
    replicas: int,
    template: dict[str, Any],
    cluster_id: str,
) -> dict[str, Any]:
    """The set of a pool in a zone ("" without zones), to be created.

    Of a set that exists only `replicas`, `template` and the annotations that repeat the
    template's may change. The rest is fixed, the size of claims too, which is changed on the
    claims. cluster_id: on each claim from its birth, so that it is known whose data it is.
    """
    name = names.set_name(cluster.name, pool.name, zone)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            **metadata(cluster, owner, name, "node", pool.name, zone),
            "annotations": pinned_by(template),
        },
        "spec": {
            "replicas": replicas,
            "serviceName": names.nodes_service(cluster.name),
            "selector": {"matchLabels": names.selector(cluster.name, pool.name, zone)},
            # No node waits for another one's start; in order, one that can't start would
            # keep away those that could help it.
            "podManagementPolicy": "Parallel",
            **_RULES,
            "revisionHistoryLimit": REVISIONS_KEPT,
            "template": template,
            "volumeClaimTemplates": [_claim(cluster, pool, zone, cluster_id)],
        },
    }


def unchanging(cluster: DynamoCluster, owner: names.Owner, pool: Pool, zone: str) -> dict[str, Any]:
    """What of a set is brought back when somebody changes it."""
    name = names.set_name(cluster.name, pool.name, zone)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(cluster, owner, name, "node", pool.name, zone),
        "spec": dict(_RULES),
    }


def _claim(cluster: DynamoCluster, pool: Pool, zone: str, cluster_id: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": pool.storage.size}},
    }
    if pool.storage.storage_class_name is not None:  # "" says something too: no class
        spec["storageClassName"] = pool.storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.VOLUME,
            "labels": names.labels(cluster, "node", pool.name, zone),
            "annotations": {names.CLUSTER_ID: cluster_id},
        },
        "spec": spec,
    }


def _amounts(pairs: Pairs) -> dict[str, str]:
    return {name: str(quantity(text)) for name, text in pairs}


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
