"""Pod templates: which one a set shall have, what is pinned with it, and how one is changed.

Owns the pinning. The template that is there stays word for word, whichever operator looks at it,
until the spec's part of it changes or somebody asks for this operator's own; the default image
and the configuration stay with it. Forbidden: replicas, pods, and when a roll has failed
(`sets_plan`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dynamo_operator.kube import configuration, names, sets
from dynamo_operator.kube.kube_steps import AnyStep, Ensure, Halt, PutTemplate
from dynamo_operator.kube.metadata import annotations_of
from dynamo_operator.kube.world import PodSeen, SetSeen, World, revision
from dynamo_operator.spec import DynamoCluster, Pool


def outdated(world: World, cluster: DynamoCluster) -> tuple[str, ...]:
    """The sets whose template isn't what this operator would make."""
    known = names.set_names(cluster)
    return tuple(
        one.name for one in world.sets.values() if one.name in known and _stale(world, cluster, one)
    )


def wanted_template(
    world: World, cluster: DynamoCluster, pool: Pool, zone: str, seen: SetSeen
) -> Mapping[str, Any]:
    """The one that is there, word for word, unless the spec's part of it or the release changes."""
    release = world.surroundings.release
    update = _update(world, cluster, seen)
    pinned = seen.pinned_image or pinned_image(world)
    image = cluster.spec.image or (release.image if update or not pinned else pinned)
    known = annotations_of(seen.template)
    if not update and known.get(names.SPEC_HASH) == sets.spec_hash(cluster, pool, zone, image):
        return seen.template
    return sets.template(
        cluster,
        pool,
        zone,
        image=image,
        release=release,
        config_name=configuration.config_name(cluster, pool),
    )


def pinned_image(world: World) -> str:
    """The default image that this cluster's pods are made with, "" if none are: one for all of
    its sets, also for one that was deleted and whose pods go on."""
    found = [one.pinned_image for one in world.sets.values()]
    found += [one.pinned_image for one in world.pods.values()]
    return next((image for image in found if image), "")


def _stale(world: World, cluster: DynamoCluster, seen: SetSeen) -> bool:
    """Whether another operator built the template, or it runs another one's default image."""
    release = world.surroundings.release
    other = not cluster.spec.image and seen.pinned_image not in ("", release.image)
    return other or _built_by(seen.template) != release.version


def _update(world: World, cluster: DynamoCluster, seen: SetSeen) -> bool:
    """Whether this operator's own template is asked for, and isn't there yet.

    By itself no operator goes back: an older one may not know what newer nodes have written.
    """
    if not _stale(world, cluster, seen):
        return False
    version = world.surroundings.release.version
    asked = dict(cluster.annotations).get(names.UPDATE, "") == version
    automatic = cluster.spec.on_operator_upgrade == "Automatic"
    return asked or (automatic and _number(version) >= _number(_built_by(seen.template)))


def _number(version: str) -> tuple[int, ...]:
    """What a version is compared by: its leading numbers."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def failed_before(world: World, cluster: DynamoCluster, seen: SetSeen, wanted: str) -> bool:
    """Whether this template was put back already. Another operator makes another one of the
    same spec: that is tried only when somebody asks for it."""
    failed = seen.annotations.get(names.FAILED, "")
    if wanted == failed or not failed:
        return bool(failed)
    same = wanted.split(".")[0] == failed.split(".")[0]
    return same and not _update(world, cluster, seen)


def told_failed(name: str, why: str) -> str:
    return (
        f"{why}: the pod template before is put back. Change the spec to something else, or to "
        f"have the same tried again: kubectl annotate statefulset {name} {names.FAILED}-"
    )


def put(world: World, seen: SetSeen, template: Mapping[str, Any]) -> PutTemplate:
    """The way back is kept with it, if pods of the present template are known to be good."""
    proven = any(pod.ready and pod.revision == seen.revision for pod in pods_of(world, seen))
    previous = json.dumps(seen.template, sort_keys=True) if proven else None
    if not proven and names.PREVIOUS in seen.annotations:
        previous = seen.annotations[names.PREVIOUS]
    annotations: dict[str, str | None] = {
        **sets.pinned_by(template),
        names.PREVIOUS: previous,
        names.FAILED: None,
        names.FAILED_WHY: None,
    }
    return PutTemplate(seen.name, seen.version, template, annotations, "change the pod template")


def back(seen: SetSeen, template: Mapping[str, Any], why: str) -> PutTemplate:
    """The last good template again. why: what was wrong with this one, "" if it wasn't tried."""
    annotations: dict[str, str | None] = {
        **sets.pinned_by(template),
        names.PREVIOUS: None,
        names.FAILED: seen.revision if why else None,
        names.FAILED_WHY: why or None,
    }
    what = "put back the last good pod template"
    return PutTemplate(seen.name, seen.version, template, annotations, what)


def configuration_of(
    world: World,
    cluster: DynamoCluster,
    pool: Pool,
    seen: SetSeen | None,
    template: Mapping[str, Any],
) -> list[AnyStep]:
    """The ConfigMap that a template names, if it is missing and can be made.

    If the spec has changed live since the template was made, the present configuration takes
    its place under the same revision: nodes are told that already. One that another operator
    has made can't be made here.
    """
    held = config_of(template)
    if ("ConfigMap", held) in world.objects:
        return []
    wanted = configuration.config_name(cluster, pool)
    fresh = Ensure(configuration.config_map(cluster, world.owner, pool))
    if held == wanted:
        return [fresh]
    if seen is not None and _built_by(template) == world.surroundings.release.version:
        named = json.loads(json.dumps(template).replace(f'"{held}"', f'"{wanted}"'))
        what = f"name ConfigMap {wanted} instead of {held}, which is gone, in the pod template"
        return [fresh, PutTemplate(seen.name, seen.version, named, {}, what)]
    return [
        Halt(
            "ConfigurationLost",
            f"ConfigMap {held}, which pods are made with, is gone, and another operator made it: "
            f"change the spec's part of the pod template, or annotate the DynamoCluster "
            f"{names.UPDATE}={world.surroundings.release.version} to have it made anew",
        )
    ]


def config_of(template: Mapping[str, Any]) -> str:
    """The ConfigMap with node.json that a template mounts, "" if none."""
    for volume in (template.get("spec") or {}).get("volumes") or []:
        if "configMap" in volume:
            return str(volume["configMap"].get("name", ""))
    return ""


def revision_of(template: Mapping[str, Any]) -> str:
    return revision(annotations_of(template))


def _built_by(template: Mapping[str, Any]) -> str:
    return annotations_of(template).get(names.BUILT_BY, "")


def pods_of(world: World, seen: SetSeen) -> list[PodSeen]:
    return [pod for pod in world.pods.values() if set_of(pod) == seen.name]


def set_of(pod: PodSeen) -> str:
    return names.split_pod(pod.name)[0]
