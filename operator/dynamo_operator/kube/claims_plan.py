"""Volumes: whose claims are, how large they are, and when they go.

Owns every rule about PersistentVolumeClaims (design, section 5) but those of lost volumes
(`losses`). A claim is deleted only with the mark that nothing on it is missed, while nobody
wants or names its node, and its pod is gone for good. Forbidden: lowering replicas.
"""

from __future__ import annotations

from dynamo_operator.kube import names
from dynamo_operator.kube.belonging import owned
from dynamo_operator.kube.kube_steps import (
    Annotate,
    AnyStep,
    AwaitGone,
    Delete,
    GrowClaim,
    Own,
    Warn,
)
from dynamo_operator.kube.world import ClaimSeen, World
from dynamo_operator.layout import places, pool_named
from dynamo_operator.quantities import quantity
from dynamo_operator.spec import DynamoCluster

KIND = "PersistentVolumeClaim"


def upkeep(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Marks, owners and sizes of claims; none of it touches data.

    A claim whose pool is gone from the spec keeps the owners that this pool gave it last.
    """
    wanted = {place.name for place in places(cluster)}
    steps: list[AnyStep] = []
    for claim in world.claims.values():
        if claim.deleting:
            continue
        pool = pool_named(cluster, claim.pod)
        used = claim.pod in wanted or world.named(claim.pod)
        if used and names.DRAINED_EPOCH in claim.annotations:
            # Before the ring names it: whoever joins with this volume may soon be the only one.
            gone = ((names.DRAINED_EPOCH, None),)
            what = f"claim {claim.name} is used again"
            steps.append(Annotate(KIND, claim.name, claim.uid, claim.version, gone, what))
        if pool is not None:
            goes = pool.storage.when_deleted == "Delete"
            others = owned(claim.references, world.owner, wanted=goes, controls=False)
            if others is not None:
                steps.append(Own(KIND, claim.name, claim.uid, claim.version, goes, others))
        if pool is not None and used:
            steps += _growth(world, claim, pool.storage.size)
    return steps


def _growth(world: World, claim: ClaimSeen, size: str) -> list[AnyStep]:
    """A volume that is smaller than the spec says. One that isn't bound yet can't be changed."""
    if not claim.bound or quantity(claim.wanted or "0") >= quantity(size):
        return []
    if world.growing is not None and not world.growing.get(claim.storage_class, False):
        return [cannot_grow(claim.name, claim.wanted, size, f"class {claim.storage_class!r}")]
    return [GrowClaim(claim.name, claim.uid, claim.version, claim.wanted, size)]


def cannot_grow(claim: str, has: str, size: str, who: str) -> Warn:
    """What is told when a volume stays smaller than the spec says. who: doesn't let it grow."""
    return Warn(
        "VolumeCannotGrow",
        f"claim {claim} has {has} and shall have {size}, and {who} doesn't let it grow: the store "
        "goes on with what it has. For larger volumes use a pool of a class that can grow",
    )


def drained(world: World, node: str, epoch: int) -> list[AnyStep]:
    """The mark on the claim of a node that is proven to hold nothing that others lack."""
    claim = world.claims.get(names.claim_name(node))
    if claim is None or claim.deleting or names.DRAINED_EPOCH in claim.annotations:
        return []
    mark = ((names.DRAINED_EPOCH, str(epoch)),)
    what = f"note on claim {claim.name} that its data is on other nodes, by ring {epoch}"
    return [Annotate(KIND, claim.name, claim.uid, claim.version, mark, what)]


def leftovers(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Claims that are not missed and that nobody wants to keep.

    Without a ring nobody knows who is missed. A pod that its set would make again is not gone.
    """
    if world.observed.ring is None:
        return []
    return [
        Delete(KIND, claim.name, claim.uid, claim.version, "its data is on other nodes")
        for claim in world.claims.values()
        if names.DRAINED_EPOCH in claim.annotations
        and not claim.deleting
        and _unused(world, cluster, claim.pod)
        and claim.pod not in world.pods
        and _when_scaled(world, cluster, claim) == "Delete"
    ]


def leaving(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Pods that end because their sets were lowered: until then not all is as the spec says."""
    if world.observed.ring is None:
        return []
    return [AwaitGone(pod) for pod in world.pods if _unused(world, cluster, pod)]


def _unused(world: World, cluster: DynamoCluster, pod: str) -> bool:
    """Whether spec and ring name it no more, and no set would make it again."""
    wanted = any(place.name == pod for place in places(cluster))
    return not wanted and not world.named(pod) and not _made_again(world, pod)


def _made_again(world: World, pod: str) -> bool:
    stem, ordinal = names.split_pod(pod)
    seen = world.sets.get(stem)
    return seen is not None and seen.replicas > ordinal


def _when_scaled(world: World, cluster: DynamoCluster, claim: ClaimSeen) -> str:
    """What its pool says, or said last; Retain if nobody knows."""
    pool = pool_named(cluster, claim.pod)
    if pool is not None:
        return pool.storage.when_scaled
    seen = world.sets.get(names.split_pod(claim.pod)[0])
    return seen.annotations.get(names.WHEN_SCALED, "Retain") if seen else "Retain"
