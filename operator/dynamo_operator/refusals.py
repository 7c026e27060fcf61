"""Which fields of a spec can't be carried out, and why.

Owns the comparison with what this version can do, with the spec that was last
accepted, and with the decided ring. Forbidden: steps, and what nodes say.
"""

from __future__ import annotations

from dynamo_core.ring import Ring
from dynamo_operator.changes import changes
from dynamo_operator.observed import Observed
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import Refused
from dynamo_telemetry.endpoints import trouble


def refused(cluster: DynamoCluster, observed: Observed) -> tuple[Refused, ...]:
    """Every field of the spec that can't be carried out, with the reason."""
    found: dict[str, str] = dict(_not_yet(cluster))
    if observed.accepted is not None:
        for change in changes(observed.accepted, cluster):
            if change.refusal:
                found[change.path] = change.refusal
    if observed.ring is not None:
        for path, reason in _against_ring(cluster, observed.ring):
            found.setdefault(path, reason)
    return tuple(Refused(path, reason) for path, reason in found.items())


def _not_yet(cluster: DynamoCluster) -> list[tuple[str, str]]:
    spec = cluster.spec
    found = []
    if spec.security.tls_mode != "Disabled":
        reason = f"is {spec.security.tls_mode}: this version has no TLS yet, it must be Disabled"
        found.append(("spec.security.tls.mode", reason))
    if spec.security.client_auth_mode != "None":
        mode = spec.security.client_auth_mode
        reason = f"is {mode}: this version doesn't ask clients for tokens yet, it must be None"
        found.append(("spec.security.clientAuth.mode", reason))
    if wrong := trouble(spec.tracing.endpoint):
        found.append(("spec.tracing.endpoint", f"is {spec.tracing.endpoint}: {wrong}"))
    return found


def _against_ring(cluster: DynamoCluster, ring: Ring) -> list[tuple[str, str]]:
    """Where the spec and the decided ring differ in what is fixed: it also holds when the
    accepted spec is not known."""
    spec = cluster.spec
    found = []
    if ring.cluster_name != cluster.name:
        reason = f"is {cluster.name}, and the ring is of the cluster {ring.cluster_name}"
        found.append(("metadata.name", reason))
        return found
    for path, wanted, held in (
        ("spec.quorum.replication", spec.quorum.replication, ring.replication),
        ("spec.ring.partitions", spec.partitions, ring.partitions),
    ):
        if wanted != held:
            found.append((path, f"is {wanted}, and the ring has {held}: it can't be changed"))
    strange = sorted({member.zone for member in ring.members} - set(spec.zones or ("",)))
    if strange:
        held_zones = ", ".join(strange) if any(strange) else "no zones"
        wanted_zones = ", ".join(spec.zones) or "none"
        reason = f"is {wanted_zones}, and the ring has {held_zones}: it can't be changed"
        found.append(("spec.zones", reason))
    return found
