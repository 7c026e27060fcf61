"""Lost volumes and pods that nobody can end: what proves it, and what follows.

Owns the proof (design, section 5): a claim that is Lost, a volume that is gone, or one that only
Nodes could use which don't exist any more. NotReady, unreachable and Terminating prove nothing,
however long they last, and what can't be seen proves nothing either. Whoever answers has its
disk. A claim that is gone needs no proof: its set makes another one together with the pod.
Forbidden: giving a node up, which is a person's.
"""

from __future__ import annotations

from dynamo_operator.kube import names
from dynamo_operator.kube.kube_steps import AnyStep, Delete, DeletePod, Halt, Warn
from dynamo_operator.kube.world import ClaimSeen, PodSeen, World
from dynamo_operator.layout import places
from dynamo_operator.spec import DynamoCluster

KIND = "PersistentVolumeClaim"


def losses(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Has the node of a lost volume begin with an empty one.

    Members one at a time, and only while all others are whole: it is rebuilt under its number
    from them, and should a proof be wrong for many volumes at once, it isn't acted on. Whom the
    ring doesn't name holds nothing, and is in nobody's way.
    """
    ring = world.observed.ring
    known = [member.name for member in ring.everybody] if ring else []
    steps: list[AnyStep] = []
    turn = True
    for name in dict.fromkeys([*known, *(place.name for place in places(cluster))]):
        why = lost(world, name)
        if not why:
            continue
        waits = _not_whole(world, name) if name in known or ring is None else []
        if waits:
            steps.append(_waits(world, name, why, waits))
        elif turn:
            turn = name not in known
            steps += _replace(world, name, why)
    return steps


def lost(world: World, node: str) -> str:
    """What proves that a node's volume is lost, as a clause; "" if nothing does."""
    pod, claim = world.pods.get(node), world.claims.get(names.claim_name(node))
    if claim is None or (pod is not None and pod.ready) or answers(world, node):
        return ""
    return _proof(world, claim)


def _proof(world: World, claim: ClaimSeen) -> str:
    """What is said of a volume by everything but its node."""
    if claim.phase == "Lost":
        return f"claim {claim.name} is Lost"
    if not claim.bound or world.volumes is None:
        return ""
    if claim.volume not in world.volumes:
        return f"volume {claim.volume} of claim {claim.name} is gone"
    hosts = world.volumes[claim.volume]
    if hosts and world.hosts is not None and not any(host in world.hosts for host in hosts):
        return f"volume {claim.volume} was on Node {', '.join(hosts)}, which is gone"
    return ""


def answers(world: World, name: str) -> bool:
    node = world.observed.nodes.get(name)
    return node is not None and node.status is not None


def _not_whole(world: World, but: str) -> list[str]:
    """Who else can't be rebuilt from now, leaving members too: they may have the only copy."""
    ring, nodes = world.observed.ring, world.observed.nodes
    if ring is None:
        return [name for name in nodes if name != but and not answers(world, name)]
    found = []
    for member in ring.everybody:
        node = nodes.get(member.name)
        if member.name != but and not (node is not None and node.whole):
            found.append(member.name)
    return found


def _waits(world: World, node: str, why: str, waits: list[str]) -> AnyStep:
    """A second loss is a person's: nobody else may come back."""
    others = ", ".join(waits)
    if not any(lost(world, name) for name in waits):
        return Warn("VolumeLost", f"{why}; {node} gets a new one when {others} is whole again")
    claim = names.claim_name(node)
    return Halt(
        "VolumesLost",
        f"{why}, and {others} is not whole: what only they held is lost. To have {node} begin with "
        f"an empty volume all the same: kubectl delete pvc/{claim} pod/{node}",
    )


def _replace(world: World, node: str, why: str) -> list[AnyStep]:
    claim, pod = world.claims[names.claim_name(node)], world.pods.get(node)
    steps: list[AnyStep] = [Warn("VolumeLost", f"{why}: {node} begins with a new one")]
    if not claim.deleting:
        steps.append(Delete(KIND, claim.name, claim.uid, claim.version, why))
    if pod is None:
        return steps
    force = host_is_gone(world, pod)
    if force or not pod.deleting:
        steps.append(DeletePod(pod.name, pod.uid, "it begins with a new volume", force))
    else:
        text = (
            f"{why}: {node} begins with a new one as soon as its pod has ended. If the machine of "
            f"Node {pod.host} is off for good, delete the Node, or taint it "
            "node.kubernetes.io/out-of-service"
        )
        steps = [Warn("VolumeLost", text), *steps[1:]]
    return steps


def host_is_gone(world: World, pod: PodSeen) -> bool:
    """Whether nobody is left who could end this pod: the only reason for force."""
    if world.hosts is None or not pod.host:
        return False
    host = world.hosts.get(pod.host)
    return host is None or host.out_of_service


def stranded(world: World) -> list[AnyStep]:
    """Pods of Nodes that are gone, or that a person took out of service: they bar their names."""
    return [
        DeletePod(pod.name, pod.uid, f"its Node {pod.host} is gone", force=True)
        for pod in world.pods.values()
        if host_is_gone(world, pod)
    ]


def doomed(world: World) -> list[AnyStep]:
    """Claims and volumes that went from under a pod that runs: nobody can take that back."""
    steps: list[AnyStep] = []
    for claim in world.claims.values():
        if claim.pod not in world.pods or lost(world, claim.pod):
            continue
        fate = (
            f"{claim.pod} keeps its data until its pod ends, and then begins with an empty volume"
        )
        if claim.deleting:
            text = f"claim {claim.name} was deleted by somebody: {fate}"
            steps.append(Warn("ClaimDeleted", text))
        elif why := _proof(world, claim):
            steps.append(Warn("VolumeLost", f"{why}: {fate}"))
    return steps


def is_doomed(world: World, node: str) -> Warn | None:
    """Why the pod of a node must not be ended now, though it may serve nobody; None if it may.

    Its data would go with it while others aren't whole.
    """
    claim = world.claims.get(names.claim_name(node))
    if claim is None or not world.named(node):
        return None
    if claim.deleting:
        code, why = "ClaimDeleted", "its claim was deleted"
    elif lost(world, node):  # nothing is held by this pod any more
        return None
    else:
        code, why = "VolumeLost", _proof(world, claim)
    waits = _not_whole(world, node) if why else []
    if not waits:
        return None
    return Warn(code, f"{node} isn't restarted, for {why} and {', '.join(waits)} is not whole")
