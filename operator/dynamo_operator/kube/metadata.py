"""What stands at the top of every object: name, labels, and whose it is.

Owns the metadata that all builders share. Forbidden: what annotations mean, which is the
builders', and anything that depends on what is observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_operator.kube import names
from dynamo_operator.spec import DynamoCluster


def metadata(
    cluster: DynamoCluster,
    owner: names.Owner | None,
    name: str,
    component: str,
    pool: str | None = None,
    zone: str = "",
    *,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Metadata of an object of this cluster.

    owner: None for what shall outlive the DynamoCluster (design, section 5: identity). labels:
    further ones, for people's own selectors; they never take the place of ours.
    """
    made: dict[str, Any] = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": {**(labels or {}), **names.labels(cluster, component, pool, zone)},
    }
    if owner is not None:
        made["ownerReferences"] = [names.owner_reference(owner)]
    return made


def annotations_of(found: Mapping[str, Any]) -> Mapping[str, str]:
    """The annotations of an object or a pod template, {} without any."""
    return (found.get("metadata") or {}).get("annotations") or {}
