"""The objects around the nodes: made when missing, brought back when changed, never taken over.

Owns the list of them, and the rule of ownership: an object whose controller isn't this
DynamoCluster is never written to. Those that outlive a DynamoCluster (identity, ring, claims)
have no controller and are adopted by the next one of that name. Forbidden: sets and claims.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dynamo_operator.kube import configuration, names
from dynamo_operator.kube.accounts import service_account
from dynamo_operator.kube.belonging import (
    controlled_by,
    controller,
    earlier,
    labelled,
    owned,
    references,
)
from dynamo_operator.kube.comparing import contains
from dynamo_operator.kube.disruption import disruption_budget
from dynamo_operator.kube.kube_steps import (
    AnyStep,
    Delete,
    Ensure,
    Halt,
    MakeToken,
    Own,
    PutTemplate,
)
from dynamo_operator.kube.monitoring import service_monitor
from dynamo_operator.kube.network import network_policy
from dynamo_operator.kube.services import client_service, nodes_service
from dynamo_operator.kube.templates import config_of
from dynamo_operator.kube.world import Object, World
from dynamo_operator.proof import is_settled
from dynamo_operator.spec import DynamoCluster

STRANGERS: Final = ("Pod", "PersistentVolumeClaim")
"""Kinds whose own ones stand elsewhere in `World`: among its objects are those of others."""


def needed(cluster: DynamoCluster, *, monitored: bool) -> tuple[tuple[str, str], ...]:
    """Kind and name of every object that this cluster makes, pods and claims apart."""
    name = cluster.name
    configs = {configuration.config_name(cluster, pool) for pool in cluster.spec.pools}
    monitor = [("ServiceMonitor", names.service_monitor(name))] if monitored else []
    return (
        ("Service", names.nodes_service(name)),
        ("Service", names.client_service(name)),
        ("ServiceAccount", names.service_account(name)),
        ("ConfigMap", names.ring_map(name)),
        ("Secret", names.identity_secret(name)),
        ("Secret", names.admin_secret(name)),
        ("PodDisruptionBudget", names.disruption_budget(name)),
        ("NetworkPolicy", names.network_policy(name)),
        *monitor,
        *(("ConfigMap", config) for config in sorted(configs)),
        *(("StatefulSet", one) for one in names.set_names(cluster)),
    )


def taken(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Names that something else has: nothing is done then."""
    steps: list[AnyStep] = []
    going: list[str] = []
    lasting = {names.identity_secret(cluster.name), names.ring_map(cluster.name)}
    ours = needed(cluster, monitored=world.surroundings.monitors is not None)
    for (kind, name), found in sorted(world.objects.items()):
        if (kind, name) not in ours and kind not in STRANGERS:
            continue
        if kind not in STRANGERS and controlled_by(found, (world.owner.uid,)):
            continue
        if earlier(references(found), world.owner):
            going.append(f"{kind} {name}")
        elif controller(found) or name not in lasting or not labelled(found, cluster.name):
            steps.append(Halt("NameTaken", _whose(world, kind, found)))
    claims = world.claims.values()
    going += [f"claim {one.name}" for one in claims if earlier(one.references, world.owner)]
    if going:
        text = f"an earlier DynamoCluster {cluster.name} is still being deleted: {', '.join(going)}"
        steps.append(Halt("NameTaken", text))
    return steps


def _whose(world: World, kind: str, found: Object) -> str:
    name, held = found["metadata"]["name"], controller(found)
    if held is not None:
        return f"{kind} {name} belongs to {held.get('kind')} {held.get('name')}"
    return (
        f"{kind} {name} exists and is nobody's: delete or rename it, or give the "
        f"DynamoCluster another name than {world.owner.name}"
    )


def upkeep(world: World, cluster: DynamoCluster) -> list[AnyStep]:
    """Objects that lack or differ, and owners that don't fit `whenDeleted`."""
    steps: list[AnyStep] = []
    for body in _wanted(world, cluster):
        held = world.objects.get((body["kind"], body["metadata"]["name"]))
        if held is None:
            steps.append(Ensure(body))
        elif not contains(held, body):
            steps.append(Ensure(body, held["metadata"]["resourceVersion"]))
    if ("Secret", names.admin_secret(cluster.name)) not in world.objects:
        steps.append(MakeToken())
    goes = goes_along(cluster)
    for kind, name in (
        ("Secret", names.identity_secret(cluster.name)),
        ("ConfigMap", names.ring_map(cluster.name)),
    ):
        held = world.objects.get((kind, name))
        if held is None:
            continue
        others = owned(references(held), world.owner, wanted=goes, controls=True)
        if others is not None:
            at = held["metadata"]
            steps.append(Own(kind, name, at["uid"], at["resourceVersion"], goes, others))
    return steps


def goes_along(cluster: DynamoCluster) -> bool:
    """Whether identity and ring go with the DynamoCluster: not while any volume stays, which
    would be of no use without them."""
    return all(pool.storage.when_deleted == "Delete" for pool in cluster.spec.pools)


def _wanted(world: World, cluster: DynamoCluster) -> list[dict[str, Any]]:
    around, owner = world.surroundings, world.owner
    found = [
        service_account(cluster, owner),
        nodes_service(cluster, owner),
        client_service(cluster, owner),
        network_policy(
            cluster,
            owner,
            operator_namespace=around.namespace,
            operator_labels=around.labels,
            extra_admin_peers=around.peers,
        ),
        disruption_budget(cluster, owner, steady=steady(world)),
    ]
    if around.monitors is not None:
        found.append(service_monitor(cluster, owner, labels=around.monitors))
    return found


def steady(world: World) -> bool:
    """Whether one node may be away: nobody recovers, and nothing is under way."""
    ring, nodes = world.observed.ring, world.observed.nodes
    if ring is None or not is_settled(ring, nodes):
        return False
    return not any(nodes[m.name].recovering for m in ring.members if m.name in nodes)


def leftovers(world: World, cluster: DynamoCluster, planned: Iterable[AnyStep]) -> list[AnyStep]:
    """Configurations that no template and no pod uses any more, and a monitor nobody asks for.

    planned: the steps that come before; what their templates name is used too.
    """
    used = {config_of(one.template) for one in world.sets.values()}
    used |= {config_of(step.template) for step in planned if isinstance(step, PutTemplate)}
    used |= {
        config_of(step.body["spec"]["template"])
        for step in planned
        if isinstance(step, Ensure) and "template" in (step.body.get("spec") or {})
    }
    used |= {_kept(one.annotations) for one in world.sets.values()}
    used |= {pod.config for pod in world.pods.values()}
    used |= {name for _, name in needed(cluster, monitored=False)}
    steps: list[AnyStep] = []
    for (kind, name), found in sorted(world.objects.items()):
        config = kind == "ConfigMap" and name.startswith(f"{cluster.name}-config-")
        old = config and world.sets and name not in used
        monitor = (kind, name) == ("ServiceMonitor", names.service_monitor(cluster.name))
        unasked = monitor and world.surroundings.monitors is None
        if (old or unasked) and controlled_by(found, (world.owner.uid,)):
            at = found["metadata"]
            steps.append(Delete(kind, name, at["uid"], at["resourceVersion"], "nobody uses it"))
    return steps


def _kept(annotations: Mapping[str, str]) -> str:
    """The configuration of a template to go back to, "" if there is none."""
    text = annotations.get(names.PREVIOUS, "")
    return config_of(json.loads(text)) if text else ""
