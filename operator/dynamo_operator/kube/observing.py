"""One look at a cluster: its objects in Kubernetes, and what each of its nodes says.

Owns the step from API objects and probes to `World` and `Facts`. What can't be read is told as
unknown, never as absent: a list that fails ends the pass, a kind that the role doesn't let see
is None. Forbidden: changing anything, and judging what is seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dynamo_core.ring import Ring
from dynamo_operator.kube import kinds, names, objects_plan
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.belonging import claim_of, controlled_by, pod_of
from dynamo_operator.kube.errors import Forbidden, NotFound
from dynamo_operator.kube.facts import Facts, Transfer
from dynamo_operator.kube.kept import given_up, may_know, read_kept, read_secrets
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.kube.seeing import (
    claim_seen,
    host_seen,
    pod_seen,
    reach,
    set_seen,
    transfer,
)
from dynamo_operator.kube.world import (
    HostSeen,
    Object,
    PodSeen,
    SetSeen,
    Surroundings,
    World,
)
from dynamo_operator.layout import places, pool_named
from dynamo_operator.nodes import Nodes, Probe
from dynamo_operator.observed import Address, Observed, ObservedNode
from dynamo_operator.plan import carried_out
from dynamo_operator.spec import DynamoCluster

_PARTS: Final = (
    kinds.SERVICE,
    kinds.SERVICE_ACCOUNT,
    kinds.CONFIG_MAP,
    kinds.SECRET,
    kinds.BUDGET,
    kinds.NETWORK_POLICY,
    kinds.SERVICE_MONITOR,
)
_KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in kinds.USES}


def now() -> str:
    """ISO 8601, UTC, in seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Network:
    """Where the operator reaches nodes, and where nodes shall reach each other."""

    def member(self, cluster: DynamoCluster, pod: str) -> Address:
        """What a ring says of a node: its DNS name, for its address changes with each pod."""
        host = names.pod_host(pod, cluster.name, cluster.namespace)
        return Address(host, names.HTTP_PORT, names.NATIVE_PORT, names.ADMIN_PORT)

    def probe(self, pod: Object) -> Address | None:
        """Where this very pod answers now; None before it has an address."""
        ip = str((pod.get("status") or {}).get("podIP") or "")
        host = f"[{ip}]" if ":" in ip else ip
        return Address(host, names.HTTP_PORT, names.NATIVE_PORT, names.ADMIN_PORT) if ip else None


@dataclass(frozen=True, slots=True)
class Sight:
    """One look. addresses: where nodes answer at this moment. ring_version: of the ConfigMap
    with the ring, "" if there is none. words: by node, the word by which a person gives it up;
    spent: those that were acted on, each of them once."""

    world: World
    facts: Facts
    addresses: Mapping[str, Address]
    ring_version: str
    words: Mapping[str, str]
    spent: tuple[str, ...]


@dataclass(slots=True)
class Observer:
    """Looks at one DynamoCluster again and again; keeps its door to the nodes between looks."""

    api: Api
    surroundings: Surroundings
    network: Network
    nodes: Nodes | None = None
    _identity: tuple[str, str] | None = None

    async def close(self) -> None:
        if self.nodes is not None:
            await self.nodes.close()

    async def look(
        self, cluster: DynamoCluster, owner: names.Owner, before: Mapping[str, Any]
    ) -> Sight:
        """All of it. before: the last status. Raises KubeError when something can't be read."""
        labels = {names.CLUSTER_LABEL: cluster.name}
        namespace = cluster.namespace
        sets, pods, claims = await asyncio.gather(
            *(
                self.api.list_all(kind, namespace, labels)
                for kind in (kinds.STATEFUL_SET, kinds.POD, kinds.CLAIM)
            )
        )
        objects = await self._objects(cluster, labels, sets)
        identity, token, damaged = read_secrets(cluster, objects)
        kept = read_kept(cluster, objects.get(("ConfigMap", names.ring_map(cluster.name))))
        damaged += kept.damaged
        cluster_id = identity.cluster_id if identity else ""
        # While the Secret is gone nodes are asked all the same: what they say is still told.
        await self._connect(cluster_id or (kept.ring.cluster_id if kept.ring else ""), token)
        bare = Observed("", kept.ring, kept.accepted, {})
        wanted = carried_out(cluster, bare)
        seen_sets = {
            one["metadata"]["name"]: set_seen(one)
            for one in sets
            if controlled_by(one, (owner.uid,))
        }
        uids = [one.uid for one in seen_sets.values()]
        by_name: dict[str, Object] = {
            pod["metadata"]["name"]: pod for pod in pods if pod_of(pod, cluster.name, uids)
        }
        own_claims: dict[str, Object] = {
            one["metadata"]["name"]: one for one in claims if claim_of(one, cluster.name)
        }
        await self._strangers(wanted, uids, by_name, own_claims, objects)
        hosts, volumes, growing, unseen = await self._surroundings(own_claims.values())
        seen_pods = {name: pod_seen(pod, hosts) for name, pod in by_name.items()}
        seen_claims = {name: claim_seen(one) for name, one in own_claims.items()}
        asked = () if kept.ring else may_know(wanted, seen_claims, cluster_id)
        known = _node_names(wanted, kept.ring, seen_sets, seen_pods, asked)
        addresses = {
            name: at for name, pod in by_name.items() if (at := self.network.probe(pod)) is not None
        }
        probes = await self._probe({n: a for n, a in addresses.items() if n in known})
        nodes = {
            name: self._node(wanted, name, seen_pods.get(name), seen_sets, probes.get(name))
            for name in known
        }
        incarnations = _incarnations(before, probes)
        words = given_up(cluster, incarnations, kept.spent)
        members = [kept.ring.node_named(name) for name in words] if kept.ring else []
        observed = Observed(
            cluster_id=cluster_id,
            ring=kept.ring,
            accepted=kept.accepted,
            nodes=nodes,
            give_up=tuple(member.number for member in members if member is not None),
            settled=kept.settled,
            may_know=asked,
            unheard=() if kept.ring else tuple(words),
        )
        world = World(
            cluster=wanted,
            owner=owner,
            observed=observed,
            sets=seen_sets,
            pods=seen_pods,
            claims=seen_claims,
            objects=objects,
            surroundings=self.surroundings,
            now=now(),
            volumes=volumes,
            hosts=hosts,
            growing=growing,
            adopts=kept.accepted is not None and kept.accepted_by not in ("", owner.uid),
            damaged=tuple(damaged),
        )
        hints = {name: probe.hints_pending for name, probe in probes.items()}
        transfers = await self._transfers(addresses, probes)
        facts = Facts(incarnations, hints, transfers, unseen)
        return Sight(world, facts, addresses, kept.version, words, kept.spent)

    async def accepted(self, owner: names.Owner) -> DynamoCluster | None:
        """The spec of this DynamoCluster that was last carried out; None if none is known."""
        name = names.ring_map(owner.name)
        found = await self.api.get(kinds.CONFIG_MAP, owner.namespace, name)
        kept = read_kept(owner, found)
        return kept.accepted if kept.accepted_by in ("", owner.uid) else None

    async def _objects(
        self, cluster: DynamoCluster, labels: Mapping[str, str], sets: Iterable[Object]
    ) -> dict[tuple[str, str], Object]:
        """What carries this cluster's label (sets is that already), and what stands under its
        names without it."""
        found = {(kinds.STATEFUL_SET.name, one["metadata"]["name"]): one for one in sets}
        lists = await asyncio.gather(
            *(self._listed(kind, cluster.namespace, labels) for kind in _PARTS)
        )
        for kind, listed in zip(_PARTS, lists, strict=True):
            found |= {(kind.name, one["metadata"]["name"]): one for one in listed}
        monitored = self.surroundings.monitors is not None
        needed = objects_plan.needed(cluster, monitored=monitored)
        missing = [(_KINDS[kind], name) for kind, name in needed if (kind, name) not in found]
        held = await asyncio.gather(
            *(self.api.get(kind, cluster.namespace, name) for kind, name in missing)
        )
        for (kind, name), one in zip(missing, held, strict=True):
            if one is not None:
                found[kind.name, name] = one
        return found

    async def _listed(self, kind: Kind, namespace: str, labels: Mapping[str, str]) -> list[Object]:
        try:
            return list(await self.api.list_all(kind, namespace, labels))
        except NotFound:  # a kind that isn't installed here
            return []

    async def _strangers(
        self,
        cluster: DynamoCluster,
        sets: Collection[str],
        pods: dict[str, Object],
        claims: dict[str, Object],
        objects: dict[tuple[str, str], Object],
    ) -> None:
        """What stands where nodes of the spec have no pod or claim yet: theirs, made since the
        lists were read, or somebody else's."""
        wanted = [place.name for place in places(cluster)]
        asked = [(kinds.POD, name) for name in wanted if name not in pods]
        asked += [
            (kinds.CLAIM, claim) for claim in map(names.claim_name, wanted) if claim not in claims
        ]
        found = await asyncio.gather(
            *(self.api.get(kind, cluster.namespace, name) for kind, name in asked)
        )
        for (kind, name), one in zip(asked, found, strict=True):
            if one is None:
                continue
            if kind is kinds.POD and pod_of(one, cluster.name, sets):
                pods[name] = one
            elif kind is kinds.CLAIM and claim_of(one, cluster.name):
                claims[name] = one
            elif not (kind is kinds.POD and one["metadata"].get("deletionTimestamp")):
                objects[kind.name, name] = one

    async def _surroundings(
        self, claims: Iterable[Object]
    ) -> tuple[
        dict[str, HostSeen] | None,
        dict[str, tuple[str, ...] | None] | None,
        dict[str, bool] | None,
        tuple[str, ...],
    ]:
        """Nodes, this cluster's volumes, and classes; each None if the role can't see it."""
        unseen = []
        hosts = volumes = growing = None
        try:
            hosts = {
                one["metadata"]["name"]: host_seen(one)
                for one in await self.api.list_all(kinds.NODE)
            }
        except Forbidden:
            unseen.append("Nodes")
        wanted = [(one.get("spec") or {}).get("volumeName") for one in claims]
        try:
            found = await asyncio.gather(
                *(self.api.get(kinds.VOLUME, None, name) for name in wanted if name)
            )
            volumes = {one["metadata"]["name"]: reach(one) for one in found if one is not None}
        except Forbidden:
            unseen.append("PersistentVolumes")
        try:
            growing = {
                one["metadata"]["name"]: one.get("allowVolumeExpansion") is True
                for one in await self.api.list_all(kinds.STORAGE_CLASS)
            }
        except Forbidden:
            unseen.append("StorageClasses")
        return hosts, volumes, growing, tuple(unseen)

    async def _connect(self, cluster_id: str, token: str) -> None:
        """The door to the nodes, anew when their id or the token is another one."""
        if not cluster_id:
            return
        now = cluster_id, token
        if now != self._identity:
            if self.nodes is not None:
                await self.nodes.close()
            self.nodes, self._identity = Nodes(*now), now

    async def _probe(self, addresses: Mapping[str, Address]) -> dict[str, Probe]:
        if self.nodes is None:
            return {}
        found = await asyncio.gather(*(self.nodes.probe(n, a) for n, a in addresses.items()))
        return dict(zip(addresses, found, strict=True))

    async def _transfers(
        self, addresses: Mapping[str, Address], probes: Mapping[str, Probe]
    ) -> list[Transfer]:
        """From those nodes that are receiving something."""
        if self.nodes is None:
            return []
        asked = [
            name
            for name, probe in probes.items()
            if probe.status and probe.status.handover and probe.status.handover.pulling
        ]
        found = await asyncio.gather(*(self.nodes.transfers(n, addresses[n]) for n in asked))
        return [transfer(one) for listed in found for one in listed]

    def _node(
        self,
        cluster: DynamoCluster,
        name: str,
        pod: PodSeen | None,
        sets: Mapping[str, SetSeen],
        probe: Probe | None,
    ) -> ObservedNode:
        pool = pool_named(cluster, name)
        seen = sets.get(names.split_pod(name)[0])
        last = seen.annotations.get(names.WHEN_SCALED, "Retain") if seen else "Retain"
        there = pod is not None and not pod.deleting
        status = probe.status if probe else None
        # Two that ask it by different ways and hear nothing, or no: that isn't mere silence.
        mute = pod is not None and pod.unready and status is None
        return ObservedNode(
            name=name,
            address=self.network.member(cluster, name),
            running=there and pod is not None and pod.running,
            held=False,
            settings_hash=pod.revision if pod else "",
            status=status,
            when_scaled=pool.storage.when_scaled if pool else last,
            failing=mute or (pod is not None and pod.failing),
        )


def _incarnations(before: Mapping[str, Any], probes: Mapping[str, Probe]) -> dict[str, str]:
    """Each node's present incarnation, or the last one that was told."""
    found = {
        str(one.get("name")): str(one.get("incarnation", "")) for one in before.get("nodes") or []
    }
    for name, probe in probes.items():
        if probe.status is not None:
            found[name] = probe.status.incarnation
    return found


# Objects


def _node_names(
    cluster: DynamoCluster,
    ring: Ring | None,
    sets: Mapping[str, SetSeen],
    pods: Mapping[str, PodSeen],
    asked: Iterable[str],
) -> tuple[str, ...]:
    """Whom the spec wants, whom the ring names, whoever else has a pod or will get one, and who
    is asked for a ring that was lost."""
    found = [place.name for place in places(cluster)]
    found += [member.name for member in ring.everybody] if ring else []
    for one in sets.values():
        found += [f"{one.name}-{ordinal}" for ordinal in range(one.replicas)]
    found += [name for name in pods if names.split_pod(name)[0] in sets]
    found += asked
    return tuple(dict.fromkeys(found))
