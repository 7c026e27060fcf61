"""New settings for nodes that run: told at once, or by one restart after another.

Owns the part of a node's configuration that the spec decides: what of it is told to
running nodes, what takes a restart, the name of the latter (a hash), and when a node may
be restarted. Forbidden: who is a member.

The rule of restarts. Who is known to serve nobody is restarted at once: clients lose
nothing, and the new settings may be what heals it. Who serves waits until every other
member, leaving ones too, runs, is ready, isn't recovering, holds the decided ring, keeps
nothing that a third node lacks, and has no seal under way; then each partition has all
its copies, and keeps a quorum without the one that restarts. So never two at a time, and
never one that the last restart still depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dynamo_core.ring import Ring
from dynamo_operator.observed import LiveSettings, Observed, ObservedNode
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AwaitReady,
    AwaitWhole,
    Blocked,
    PutSettings,
    RestartNode,
    Step,
)
from dynamo_telemetry.endpoints import Tracing


def settings(cluster: DynamoCluster) -> dict[str, Any]:
    """The part of a node's configuration that the spec decides."""
    live = live_settings(cluster)
    if live.tracing == Tracing():  # as a node has it anyway: an older image, too, starts with it
        live = replace(live, tracing=None)
    return {**_rolling(cluster), **live_json(live)}


def settings_hash(cluster: DynamoCluster) -> str:
    """Names those settings that take a restart: 16 hex."""
    text = json.dumps(_rolling(cluster), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rolling(cluster: DynamoCluster) -> dict[str, Any]:
    return {
        "reconciliation": cluster.spec.reconciliation,
        "durability": cluster.spec.durability,
    }


# Told while they run


def live_settings(cluster: DynamoCluster, has: LiveSettings | None = None) -> LiveSettings:
    """What nodes are told without a restart.

    has: what is in force at one of them; where it knows nothing of tracing, it would refuse all
    for that.
    """
    spec, tracing = cluster.spec, None
    if has is None or has.tracing is not None:
        tracing = Tracing(spec.tracing.endpoint, float(spec.tracing.sample_ratio))
    return LiveSettings(spec.quorum.r, spec.quorum.w, spec.limits, tracing)


def live_json(wanted: LiveSettings) -> dict[str, Any]:
    """The same as nodes take it, in their configuration and at `PUT /admin/settings`."""
    limits, tracing = wanted.limits, wanted.tracing
    told: dict[str, Any] = {
        "quorum": {"r": wanted.r, "w": wanted.w},
        "limits": {
            "valueBytesMax": limits.value_bytes_max,
            "siblingsMax": limits.siblings_max,
            "objectBytesMax": limits.object_bytes_max,
        },
    }
    if tracing is not None:
        told["tracing"] = {"endpoint": tracing.endpoint, "sampleRatio": tracing.sample_ratio}
    return told


def puts(cluster: DynamoCluster, nodes: Iterable[ObservedNode]) -> list[PutSettings]:
    """For every node that says that other live settings are in force there."""
    told = [(node.name, node.status.settings) for node in nodes if node.status is not None]
    return [
        PutSettings(name)
        for name, has in told
        if has is not None and has != live_settings(cluster, has)
    ]


# Restarts


def is_old(node: ObservedNode, observed: Observed) -> bool:
    """Whether a node runs, or fails to run, with another revision than it should."""
    wanted = observed.revisions.get(node.name, node.settings_hash)
    return (node.running or node.failing) and node.settings_hash != wanted


def at_once(nodes: Iterable[ObservedNode], observed: Observed, ring: Ring | None) -> list[Step]:
    """Restarts that cost nobody anything: of nodes that serve nobody or hold nothing yet."""
    return [
        RestartNode(node.name, serving=False)
        for node in nodes
        if is_old(node, observed)
        and (node.serves_nobody or (ring is not None and not _named(ring, node.name)))
    ]


def in_turn(nodes: Sequence[ObservedNode], observed: Observed, ring: Ring) -> list[Step]:
    """Restarts of members that may be serving, one at a time, each when nobody needs it."""
    old = [node for node in nodes if is_old(node, observed) and not node.serves_nobody]
    if not old:
        return []
    names = [member.name for member in ring.everybody]
    held = [n for n in names if n in observed.nodes and observed.nodes[n].held]
    if held:
        return [Blocked(f"new settings wait until {', '.join(held)} is started again")]
    waits = {node.name: in_the_way(ring, observed.nodes, node.name) for node in old}
    # Whoever may go goes first; if nobody may, what is told is what the first one waits for.
    old.sort(key=lambda node: bool(waits[node.name]))
    first = old[0].name
    steps: list[Step] = [AwaitWhole(first, waits[first])] if waits[first] else []
    for node in old:
        steps += [RestartNode(node.name), AwaitReady((node.name,))]
    return steps


def in_the_way(ring: Ring, nodes: Mapping[str, ObservedNode], candidate: str) -> tuple[str, ...]:
    """Why this member can't be restarted now, one clause for each node; () if it can.

    Of the candidate itself only what it keeps for others counts. What others keep for the
    candidate doesn't: they have it, and it lacks it either way.
    """
    found = []
    for member in ring.everybody:
        node = nodes.get(member.name)
        reason = "" if member.name == candidate else _not_whole(ring, node)
        reason = reason or _still_needed(node, candidate)
        if reason:
            found.append(f"{member.name} {reason}")
    return tuple(found)


def _not_whole(ring: Ring, node: ObservedNode | None) -> str:
    if node is None or not node.running:
        return "is down"
    status = node.status
    if status is None or node.failing:
        return "doesn't answer"
    if not status.ready:
        return "is not ready"
    if node.recovering:
        return "is recovering"
    if (status.ring_epoch, status.ring_id) != (ring.epoch, ring.id):
        return f"has yet to take the ring of epoch {ring.epoch}"
    return ""


def _still_needed(node: ObservedNode | None, candidate: str) -> str:
    status = node.status if node is not None else None
    if status is None:
        return ""
    hints = sum(count for target, count in status.hints_for.items() if target != candidate)
    if hints:
        return f"keeps {hints} hint(s) that others lack"
    seals = sum(status.handover.sealed_to.values()) if status.handover else 0
    return f"hands over {seals} slot(s)" if seals else ""


def _named(ring: Ring, name: str) -> bool:
    return any(member.name == name for member in ring.everybody)
