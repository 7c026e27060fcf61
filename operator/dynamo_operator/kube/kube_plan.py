"""What to do next in Kubernetes: the base plan's steps, and those that only objects have.

Owns their order, and what each of the base plan's steps means for sets, pods and claims. All
safety rules stand in pure code: here and in its neighbours (`sets_plan`, `claims_plan`,
`objects_plan`), and for rings, proof and restarts in the base plan. Forbidden: I/O, clocks, and
memory of earlier passes.

Nothing is given that could be missed: replicas are lowered by one ordinal at a time, and only
for a node that the decided ring doesn't name, which everybody in reach holds; its claim is
marked before, and goes only with that mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dynamo_operator import plan as base_plan
from dynamo_operator.giving_up import was_given_up
from dynamo_operator.kube import claims_plan, losses, names, objects_plan, sets_plan
from dynamo_operator.kube.kube_steps import (
    AnyStep,
    DeletePod,
    EvictPod,
    Halt,
    ScaleSet,
    Warn,
)
from dynamo_operator.kube.sets_plan import SetPlan
from dynamo_operator.kube.world import World
from dynamo_operator.plan import Plan
from dynamo_operator.refusals import refused
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AcceptSpec,
    Blocked,
    Refused,
    RemoveNode,
    RestartNode,
    StartNode,
)


@dataclass(frozen=True, slots=True)
class KubePlan:
    """Ordered steps towards `cluster`; see the base plan's `Plan`."""

    cluster: DynamoCluster
    steps: tuple[AnyStep, ...]
    act: bool

    @property
    def refusals(self) -> tuple[Refused, ...]:
        return tuple(step for step in self.steps if isinstance(step, Refused))

    @property
    def halts(self) -> tuple[Halt, ...]:
        """What holds the rest up until a person acts."""
        found = []
        for step in self.steps:
            if isinstance(step, Halt):
                found.append(step)
            elif isinstance(step, Blocked):
                found.append(Halt("Blocked", step.reason))
        return tuple(found)

    @property
    def warnings(self) -> tuple[Warn, ...]:
        return tuple(step for step in self.steps if isinstance(step, Warn))

    @property
    def to_do(self) -> tuple[AnyStep, ...]:
        """The steps that remain."""
        return tuple(step for step in self.steps if not isinstance(step, Refused | Warn))


def plan(cluster: DynamoCluster, world: World) -> KubePlan:
    """The steps that lead from what is seen to what the spec says."""
    observed = world.observed
    wanted = base_plan.carried_out(cluster, observed)
    refusals = refused(cluster, observed)
    if wanted.spec.paused or (observed.accepted is None and refusals):
        made = base_plan.plan(cluster, observed, world.now)
        return _told(made, made.steps)
    if world.adopts and refusals:  # what an earlier DynamoCluster was, nobody asks for now
        return _told(Plan(wanted, refusals, act=False), refusals)
    before = _before(world, wanted)
    if before:
        made = Plan(wanted, (), act=not wanted.spec.dry_run)
        return _told(made, (*refusals, *before))
    plans = sets_plan.plan_sets(world, wanted)
    observed = replace(observed, revisions=sets_plan.revisions(world, plans))
    world = replace(world, observed=observed)
    made = base_plan.plan(cluster, observed, world.now)
    if not observed.cluster_id:
        return _told(made, made.steps)
    return _told(made, _all_steps(world, made, plans))


def _before(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """What nothing can be done before: names, Secrets, and whose data the claims hold."""
    taken = objects_plan.taken(world, cluster)
    if taken:
        return taken
    if world.damaged:
        return [Halt("ContentsDamaged", reason) for reason in world.damaged]
    cluster_id, ring = world.observed.cluster_id, world.observed.ring
    foreign = [
        claim.name
        for claim in world.claims.values()
        if claim.annotations.get(names.CLUSTER_ID, cluster_id) != cluster_id or not cluster_id
    ]
    holders = [f"claim {', '.join(foreign)}"] if foreign else []
    if ring is not None and ring.cluster_id != cluster_id:
        holders.insert(0, f"ConfigMap {names.ring_map(cluster.name)} (cluster {ring.cluster_id})")
    if not holders:
        return []
    # An identity is never made anew: neither nodes that run nor their disks would know it.
    secret = f"Secret {names.identity_secret(cluster.name)}"
    has = f"is of cluster {cluster_id}" if cluster_id else "is gone"
    whose = "another one" if cluster_id else "the cluster that it named"
    return [
        Halt(
            "IdentityLost",
            f"{secret} {has}, and {' and '.join(holders)} is of {whose}: restore the Secret; or, "
            "to begin anew without the data, delete them",
        )
    ]


def _all_steps(world: World, made: Plan, plans: Sequence[SetPlan]) -> tuple[AnyStep, ...]:
    cluster = made.cluster
    steps: list[AnyStep] = list(made.refusals)
    if world.adopts and not any(isinstance(step, AcceptSpec) for step in made.steps):
        steps.append(AcceptSpec())  # even if it is the same: from now on it is this one's
    steps += objects_plan.upkeep(world, cluster)
    steps += claims_plan.upkeep(world, cluster)
    for one in plans:
        steps += one.steps
    steps += [*losses.stranded(world), *losses.losses(world, cluster), *losses.doomed(world)]
    steps += _unknown_pools(world, plans)
    steps += [
        *claims_plan.leftovers(world, cluster),
        *objects_plan.leftovers(world, cluster, steps),
    ]
    steps += [*_meant(world, made), *claims_plan.leaving(world, cluster)]
    steps += [Halt("RolloutFailed", one.failed) for one in plans if one.failed][:1]
    return tuple(_once(steps))


def _meant(world: World, made: Plan) -> Iterable[AnyStep]:
    """What each step of the base plan means here."""
    for step in made.to_do:
        match step:
            case StartNode(name):
                # Its set makes the pod by itself; what is told is why there is none yet.
                yield from _absent(world, name)
            case RestartNode(name):
                yield from _restart(world, name, step)
            case RemoveNode(name):
                yield from _remove(world, name, step)
            case _:
                yield step


def _unknown_pools(world: World, plans: Sequence[SetPlan]) -> Iterable[AnyStep]:
    """Nodes that have to be asked or drained, and can't be started: no pool says how."""
    ring = world.observed.ring
    known = {one.name for one in plans}
    asked = [node.name for node in ring.everybody] if ring else world.observed.may_know
    for name in asked:
        if names.split_pod(name)[0] not in known:
            holder = "the ring names it" if ring else "its claim may hold the ring that was lost"
            reason = f"{name} can't be started, for its pool is gone from the spec, and {holder}"
            yield Halt("PoolGone", f"{reason}: put the pool back, and remove it when all is well")


def _absent(world: World, name: str) -> Iterable[AnyStep]:
    pod = world.pods.get(name)
    if pod is not None and pod.trouble:
        yield Warn("PodTrouble", f"{name}: {pod.trouble}")


def _restart(world: World, name: str, step: RestartNode) -> Iterable[AnyStep]:
    pod = world.pods.get(name)
    if pod is None or pod.deleting:
        return  # on its way already, and nobody may wait for that who has other things to do
    doomed = losses.is_doomed(world, name)
    if doomed is not None:
        yield doomed
        return
    why = "its template has changed"
    # Whom nobody needs goes without anybody's leave; else the PodDisruptionBudget is asked, also
    # for a pod that Kubernetes doesn't hold for ready yet.
    yield EvictPod(name, pod.uid, why) if step.serving else DeletePod(name, pod.uid, why)


def _remove(world: World, name: str, step: RemoveNode) -> Iterable[AnyStep]:
    """Marks the claim, then lowers the set's replicas: of the highest ordinal only."""
    ring = world.observed.ring
    assert ring is not None, "nobody is removed before there is a ring"
    if world.named(name):
        yield step  # by a ring that is yet to be decided
        return
    given_up = was_given_up(ring, name)
    marks = [] if given_up else claims_plan.drained(world, name, ring.epoch)
    if marks:
        yield from marks
        return  # what is seen marked is let go: a mark may be lost
    stem, ordinal = names.split_pod(name)
    seen = world.sets.get(stem)
    if seen is not None and seen.replicas == ordinal + 1:
        yield ScaleSet(stem, seen.version, seen.replicas, ordinal)


def _once(steps: Iterable[AnyStep]) -> list[AnyStep]:
    """Several rules may ask for one thing; of two steps on one object the first is done."""
    found: list[AnyStep] = []
    for step in steps:
        if step not in found:
            found.append(step)
    return found


def _told(made: Plan, steps: Iterable[AnyStep]) -> KubePlan:
    return KubePlan(made.cluster, tuple(steps), made.act)
