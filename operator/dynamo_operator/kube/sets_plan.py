"""StatefulSets: how many pods each has at least, and from which template they are made.

Owns when a template is changed, and the way back from one whose first pod doesn't become ready
(`templates` says which one it shall be). Only new pods are made from it; the plan replaces the
others one by one. Forbidden: lowering replicas (`kube_plan` does, with the proof), and touching
pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dynamo_operator.kube import configuration, names, sets, templates
from dynamo_operator.kube.comparing import contains
from dynamo_operator.kube.kube_steps import (
    Annotate,
    AnyStep,
    Delete,
    Ensure,
    ScaleSet,
)
from dynamo_operator.kube.world import PodSeen, SetSeen, World
from dynamo_operator.layout import places
from dynamo_operator.spec import DynamoCluster, Pool

KIND = "StatefulSet"


@dataclass(frozen=True, slots=True)
class SetPlan:
    """One set as it shall be. steps: what leads there; they touch no pod that runs.

    revision: of the template that its pods shall have. failed: why the template that is wanted
    isn't used, "" normally.
    """

    name: str
    steps: tuple[AnyStep, ...]
    revision: str
    failed: str = ""


def plan_sets(world: World, cluster: DynamoCluster) -> tuple[SetPlan, ...]:
    """Every set of the spec, and those that are left of pools which are gone from it.

    A template that has failed in one set holds up the new ones of all others: what was to be
    rolled together was written together.
    """
    zones = cluster.spec.zones or ("",)
    pairs = [(pool, zone) for pool in cluster.spec.pools for zone in zones]
    found = [_wanted(world, cluster, pool, zone) for pool, zone in pairs]
    if any(one.failed for one in found):
        found = [
            one if one.failed else _wanted(world, cluster, pool, zone, hold=True)
            for one, (pool, zone) in zip(found, pairs, strict=True)
        ]
    known = {one.name for one in found}
    return (*found, *(_left(world, one) for one in world.sets.values() if one.name not in known))


def revisions(world: World, plans: Iterable[SetPlan]) -> dict[str, str]:
    """What each pod should have been made from; while a roll has failed, no pod that serves is
    touched."""
    plans = list(plans)
    by_set = {one.name: one.revision for one in plans}
    failed = any(one.failed for one in plans)
    found = {}
    for pod in world.pods.values():
        wanted = by_set.get(names.split_pod(pod.name)[0], pod.revision)
        found[pod.name] = pod.revision if failed and pod.ready else wanted
    return found


def _wanted(
    world: World, cluster: DynamoCluster, pool: Pool, zone: str, *, hold: bool = False
) -> SetPlan:
    """One set of the spec. hold: its template isn't changed now, and an unproven one goes back."""
    name = names.set_name(cluster.name, pool.name, zone)
    seen = world.sets.get(name)
    floor = _floor(world, cluster, name)
    if seen is None:
        return _new(world, cluster, pool, zone, floor)
    steps: list[AnyStep] = []
    if seen.replicas < floor:
        steps.append(ScaleSet(name, seen.version, seen.replicas, floor))
    steps += _fixed(world, cluster, pool, zone, seen)
    if seen.annotations.get(names.WHEN_SCALED) != pool.storage.when_scaled:
        told = ((names.WHEN_SCALED, pool.storage.when_scaled),)
        what = f"note whenScaled {pool.storage.when_scaled} on StatefulSet {name}"
        steps.append(Annotate(KIND, name, seen.uid, seen.version, told, what))
    template = templates.wanted_template(world, cluster, pool, zone, seen)
    wanted = templates.revision_of(template)
    if wanted == seen.revision:
        return _proven_or_back(world, cluster, pool, seen, steps, hold)
    if templates.failed_before(world, cluster, seen, wanted):
        why = seen.annotations.get(names.FAILED_WHY) or f"pods of {name} did not become ready"
        return SetPlan(name, tuple(steps), seen.revision, templates.told_failed(name, why))
    if hold:
        return SetPlan(name, tuple(steps), seen.revision)
    steps += templates.configuration_of(world, cluster, pool, seen, template)
    steps.append(templates.put(world, seen, template))
    return SetPlan(name, tuple(steps), wanted)


def _fixed(
    world: World, cluster: DynamoCluster, pool: Pool, zone: str, seen: SetSeen
) -> list[AnyStep]:
    """Brings back what keeps Kubernetes from replacing pods and deleting claims by itself."""
    held = world.objects.get((KIND, seen.name))
    body = sets.unchanging(cluster, world.owner, pool, zone)
    if held is None or contains(held, body):
        return []
    return [Ensure(body, seen.version)]


def _new(world: World, cluster: DynamoCluster, pool: Pool, zone: str, replicas: int) -> SetPlan:
    release = world.surroundings.release
    template = sets.template(
        cluster,
        pool,
        zone,
        image=cluster.spec.image or templates.pinned_image(world) or release.image,
        release=release,
        config_name=configuration.config_name(cluster, pool),
    )
    body = sets.stateful_set(
        cluster,
        world.owner,
        pool,
        zone,
        replicas=replicas,
        template=template,
        cluster_id=world.observed.cluster_id,
    )
    body["metadata"]["annotations"][names.WHEN_SCALED] = pool.storage.when_scaled
    steps = (*templates.configuration_of(world, cluster, pool, None, template), Ensure(body))
    name = body["metadata"]["name"]
    return SetPlan(name, steps if replicas else (), templates.revision_of(template))


def _left(world: World, seen: SetSeen) -> SetPlan:
    """The set of a pool that is gone from the spec: kept until nothing of it is left.

    It says what becomes of claims, so those that are to go keep it too.
    """
    used = seen.replicas or any(templates.set_of(pod) == seen.name for pod in world.pods.values())
    if seen.annotations.get(names.WHEN_SCALED) == "Delete":
        used = used or any(
            names.split_pod(claim.pod)[0] == seen.name
            and names.DRAINED_EPOCH in claim.annotations
            and not claim.deleting
            for claim in world.claims.values()
        )
    steps: tuple[AnyStep, ...] = ()
    if not used:
        why = "its pool is gone from the spec, and it has no pods"
        steps = (Delete(KIND, seen.name, seen.uid, seen.version, why),)
    return SetPlan(seen.name, steps, seen.revision)


def _floor(world: World, cluster: DynamoCluster, name: str) -> int:
    """So many pods as the spec wants here or the ring names; fewer need a proof.

    Without a ring, so many as may know the one that was lost.
    """
    ring = world.observed.ring
    known = [place.name for place in places(cluster)]
    known += [node.name for node in ring.everybody] if ring else world.observed.may_know
    ordinals = [ordinal for stem, ordinal in map(names.split_pod, known) if stem == name]
    return max(ordinals, default=-1) + 1


# Templates


def _proven_or_back(
    world: World,
    cluster: DynamoCluster,
    pool: Pool,
    seen: SetSeen,
    steps: list[AnyStep],
    hold: bool,
) -> SetPlan:
    """A template with a way back: forgotten when a pod of it is ready, taken when none becomes."""
    previous = seen.annotations.get(names.PREVIOUS)
    pods = [pod for pod in templates.pods_of(world, seen) if pod.revision == seen.revision]
    proven = any(pod.ready for pod in pods)
    late = [p for p in pods if _age_s(p, world.now) > world.surroundings.ready_within_s]
    if previous is not None and not proven and (late or hold):
        why = _why_back(world, late[0]) if late else ""
        template = json.loads(previous)
        steps.append(templates.back(seen, template, why))
        failed = templates.told_failed(seen.name, why) if why else ""
        return SetPlan(seen.name, tuple(steps), templates.revision_of(template), failed)
    steps += templates.configuration_of(world, cluster, pool, seen, seen.template)
    if previous is not None and proven:
        gone = ((names.PREVIOUS, None),)
        what = f"StatefulSet {seen.name}: a pod of its new template is ready"
        steps.append(Annotate(KIND, seen.name, seen.uid, seen.version, gone, what))
    return SetPlan(seen.name, tuple(steps), seen.revision)


def _why_back(world: World, late: PodSeen) -> str:
    trouble = f" ({late.trouble})" if late.trouble else ""
    within_s = world.surroundings.ready_within_s
    return f"{late.name} did not become ready within {within_s:.0f} s{trouble}"


def _age_s(pod: PodSeen, now: str) -> float:
    return (datetime.fromisoformat(now) - datetime.fromisoformat(pod.created_at)).total_seconds()
