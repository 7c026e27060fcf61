"""Whose an object is: this DynamoCluster's, an earlier one's of its name, or somebody else's.

Owns that judgement, by controller, name and labels. A label alone makes nothing ours: people
copy labels, and so do the tools that restore a backup. Pure. Forbidden: what follows from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dynamo_operator.kube import names

Object = Mapping[str, Any]


def controller(found: Object) -> Mapping[str, Any] | None:
    """The owner that looks after it; None if nobody does."""
    for reference in references(found):
        if reference.get("controller"):
            return reference
    return None


def references(found: Object) -> tuple[Mapping[str, Any], ...]:
    return tuple(found["metadata"].get("ownerReferences") or ())


def controlled_by(found: Object, uids: Collection[str]) -> bool:
    held = controller(found)
    return held is not None and held.get("uid") in uids


def earlier(held: Sequence[Mapping[str, Any]], owner: names.Owner) -> bool:
    """Whether one of these owners was a DynamoCluster of this name: what it owns goes with it."""
    return any(
        one.get("kind") == "DynamoCluster"
        and one.get("name") == owner.name
        and one.get("uid") != owner.uid
        for one in held
    )


def labelled(found: Object, cluster: str) -> bool:
    return label(found, names.CLUSTER_LABEL) == cluster


def label(found: Object, name: str) -> str:
    return str((found["metadata"].get("labels") or {}).get(name, ""))


def pod_of(found: Object, cluster: str, sets: Collection[str]) -> bool:
    """Whether this is a pod of one of these sets (uids), or one that its set takes over again.

    Without a controller it is such a one if its name says so: somebody has deleted the set and
    left its pods.
    """
    if not _fits(found, found["metadata"]["name"], cluster):
        return False
    return controller(found) is None or controlled_by(found, sets)


def claim_of(found: Object, cluster: str) -> bool:
    """Whether this is the claim of a pod of this cluster: nobody controls a claim."""
    return _fits(found, names.pod_of_claim(found["metadata"]["name"]), cluster)


def _fits(found: Object, pod: str, cluster: str) -> bool:
    """Whether the labels are those of a pod of that name."""
    try:
        stem, _ = names.split_pod(pod)
    except ValueError:
        return False
    pool, zone = label(found, names.POOL_LABEL), label(found, names.ZONE_LABEL)
    fits = names.set_name(cluster, pool, zone) == stem if pool else stem.startswith(f"{cluster}-")
    return labelled(found, cluster) and fits


def owned(
    held: Sequence[Mapping[str, Any]], owner: names.Owner, *, wanted: bool, controls: bool
) -> tuple[Mapping[str, Any], ...] | None:
    """Owner references with or without this DynamoCluster; None if they are so already.

    Those of others stay. controls: of a claim it is one owner among others.
    """
    rest = tuple(one for one in held if one.get("uid") != owner.uid)
    if wanted is (len(rest) < len(held)):
        return None
    return (*rest, {**names.owner_reference(owner), "controller": controls}) if wanted else rest
