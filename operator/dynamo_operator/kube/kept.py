"""What the operator has written down, and what a person has written for it, read back.

Owns the keys of ConfigMap `NAME-ring`, what is wrong with contents that can't be read, and whose
word is waited for when the ring is lost. Pure. Forbidden: looking, and making anything up that
can't be read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from dynamo_core.errors import CallerError
from dynamo_core.ring import Ring
from dynamo_operator.kube import names
from dynamo_operator.kube.credentials import DamagedSecret, Identity, read_identity, read_token
from dynamo_operator.kube.world import ClaimSeen, Object
from dynamo_operator.layout import places
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spec import DynamoCluster

RING_KEY: Final = "ring.json"
SETTLED_KEY: Final = "settled.json"
ACCEPTED_KEY: Final = "accepted.json"
SPENT_KEY: Final = "given-up.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """Contents of the ConfigMap. version: "" if there is none, or it can't be read."""

    version: str = ""
    ring: Ring | None = None
    settled: Ring | None = None
    accepted: DynamoCluster | None = None
    accepted_by: str = ""  # the uid of the DynamoCluster whose spec that was
    spent: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def read_kept(cluster: DynamoCluster | names.Owner, found: Object | None) -> Kept:
    """Of what stands there; nothing if that can't be read."""
    if found is None:
        return Kept()
    data = found.get("data") or {}
    at = f"ConfigMap {cluster.namespace}/{names.ring_map(cluster.name)}"
    key, advice = RING_KEY, ", or delete it as a whole, and the nodes are asked"
    try:
        ring = Ring.from_bytes(data[key].encode()) if key in data else None
        key, advice = SETTLED_KEY, f", or take {SETTLED_KEY} away"
        settled = Ring.from_bytes(data[key].encode()) if key in data else None
        key, advice = SPENT_KEY, ""
        spent = tuple(str(word) for word in json.loads(data.get(key, "[]")))
        key = ACCEPTED_KEY
        value = json.loads(data[key]) if key in data else None
        accepted = parse(value) if value is not None else None
    except (CallerError, SpecError, ValueError, TypeError) as error:
        return Kept(damaged=(f"{at}: {key}: {error}: put back what it held{advice}",))
    by = str(value["metadata"].get("uid", "")) if value is not None else ""
    return Kept(found["metadata"]["resourceVersion"], ring, settled, accepted, by, spent)


def read_secrets(
    cluster: DynamoCluster, objects: Mapping[tuple[str, str], Object]
) -> tuple[Identity | None, str, tuple[str, ...]]:
    """Identity and admin token, and what is wrong with either."""
    damaged = []
    identity, token = None, ""
    found = objects.get(("Secret", names.identity_secret(cluster.name)))
    if found is not None:
        try:
            identity = read_identity(found, cluster)
        except DamagedSecret as error:
            damaged.append(str(error))
    found = objects.get(("Secret", names.admin_secret(cluster.name)))
    if found is not None:
        try:
            token = read_token(found)
        except DamagedSecret as error:
            damaged.append(str(error))
    return identity, token, tuple(damaged)


def given_up(
    cluster: DynamoCluster, incarnations: Mapping[str, str], spent: Collection[str]
) -> dict[str, str]:
    """The nodes that a person has given up, and in what words: POD@INCARNATION, by commas.

    The incarnation says which life of that node was meant: the word is no longer about one
    that has come back since. Nor is one that was acted on: that life, which was only cut off,
    may have become a member again.
    """
    found = {}
    for one in dict(cluster.annotations).get(names.GIVE_UP, "").split(","):
        word = one.strip()
        pod, _, incarnation = word.partition("@")
        if incarnation and incarnations.get(pod) == incarnation and word not in spent:
            found[pod] = word
    return found


def may_know(
    cluster: DynamoCluster, claims: Mapping[str, ClaimSeen], cluster_id: str
) -> tuple[str, ...]:
    """Whose disk may hold the ring that was lost, besides the wanted ones': whoever has a volume
    of this cluster that isn't known to have been left behind."""
    wanted = {place.name for place in places(cluster)}
    return tuple(
        sorted(
            claim.pod
            for claim in claims.values()
            if claim.bound
            and not claim.deleting
            and names.DRAINED_EPOCH not in claim.annotations
            and claim.annotations.get(names.CLUSTER_ID, cluster_id) == cluster_id
            and claim.pod not in wanted
        )
    )
