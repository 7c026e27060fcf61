"""What a local cluster looks like now: the folder's records beside every node's answer.

Owns the step from files, processes and probes to `Observed`, which is all that
the plan looks at. Forbidden: changing anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dynamo_core.ring import Ring
from dynamo_operator.layout import places
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.processes import alive
from dynamo_operator.local.state import NodeRecord, State
from dynamo_operator.nodes import Nodes, Probe
from dynamo_operator.observed import Address, Observed, ObservedNode
from dynamo_operator.plan import carried_out
from dynamo_operator.proof import is_settled
from dynamo_operator.rolling import settings_hash
from dynamo_operator.spec import DynamoCluster

HOST = "127.0.0.1"
NATIVE_BELOW_HTTP = 1000
ADMIN_ABOVE_HTTP = 1000


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a cluster: what the plan needs, and what people want to see."""

    wanted: tuple[str, ...]  # the nodes of the spec
    observed: Observed
    records: Mapping[str, NodeRecord]
    probes: Mapping[str, Probe]
    ring: Ring | None
    state: State

    @property
    def settled(self) -> bool:
        """Whether every member has said that nothing is under way."""
        return self.ring is not None and is_settled(self.ring, self.observed.nodes)


def address(state: State, name: str) -> Address:
    """A node's address: its ports follow from the index it was given once."""
    http_port = state.port + state.nodes[name].index
    return Address(HOST, http_port, http_port - NATIVE_BELOW_HTTP, http_port + ADMIN_ABOVE_HTTP)


def node_names(cluster: DynamoCluster, ring: Ring | None, state: State) -> tuple[str, ...]:
    """The nodes of a spec, others that the ring names, and those that there still are."""
    wanted = [place.name for place in places(cluster)]
    named = [member.name for member in (*ring.members, *ring.leaving)] if ring else []
    return tuple(dict.fromkeys((*wanted, *named, *state.nodes)))


async def look(folder: Folder, cluster: DynamoCluster, nodes: Nodes | None) -> Sight:
    """Reads the folder and asks every running node, all at once.

    Of a cluster that is refused, no node is looked for.
    """
    state = folder.state()
    ring, accepted = folder.ring(), folder.accepted()
    identity = folder.identity()
    cluster = carried_out(cluster, Observed("", ring, accepted, {}))
    names = node_names(cluster, ring, state)
    missing = [name for name in names if name not in state.nodes]
    if missing:
        with folder.edit() as state:
            for name in missing:
                state.record(name)
    running = {name: alive(state.nodes[name].process) for name in names}
    probes = await _probe(state, [name for name in names if running[name]], nodes)
    observed = Observed(
        cluster_id=identity.cluster_id if identity else "",
        ring=ring,
        accepted=accepted,
        nodes={
            name: ObservedNode(
                name=name,
                address=address(state, name),
                running=running[name],
                held=state.nodes[name].wanted != "up",
                settings_hash=state.nodes[name].settings_hash,
                status=probes[name].status if name in probes else None,
                when_scaled=state.nodes[name].when_scaled,
            )
            for name in names
        },
        give_up=tuple(state.give_up),
        settled=folder.settled(),
        revisions=dict.fromkeys(names, settings_hash(cluster)),
    )
    wanted = tuple(place.name for place in places(cluster))
    return Sight(wanted, observed, {name: state.nodes[name] for name in names}, probes, ring, state)


async def _probe(state: State, names: Iterable[str], nodes: Nodes | None) -> dict[str, Probe]:
    # A paused process answers nobody; asking it would only cost the time to find out.
    asked = [name for name in names if state.nodes[name].wanted != "paused"]
    if nodes is None:
        return {}
    found = await asyncio.gather(*(nodes.probe(name, address(state, name)) for name in asked))
    return dict(zip(asked, found, strict=True))


def stage(sight: Sight, name: str) -> str:
    """One word for people on how far a node is."""
    node = sight.observed.nodes[name]
    record = sight.records[name]
    if not node.running:
        return (
            {"kill": "killed", "stop": "stopped"}.get(record.act, "stopped")
            if node.held
            else ("down")
        )
    if record.wanted == "paused":
        return "paused"
    if node.status is None:
        probe = sight.probes.get(name)
        return "unknown" if probe and probe.stranger else "starting"
    ring = sight.ring
    if ring and any(member.name == name for member in ring.leaving):
        return "leaving"
    if ring and ring.member_named(name) is None:
        return "joining" if name in sight.wanted else "left"
    if node.ready:
        return "ready"
    return "formatted" if not node.status.ring_epoch else node.status.state


def progress(sight: Sight) -> dict[str, str]:
    """How far each node is while a cluster comes up: one that is down will be started."""
    stages = {name: stage(sight, name) for name in sight.wanted}
    return {name: "starting" if now == "down" else now for name, now in stages.items()}
