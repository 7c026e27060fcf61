"""Carrying out a plan's steps in Kubernetes, in order, until one needs another look.

Owns the writes: what each step sends, with the preconditions of what was seen, and what is told
about it as an event. A conflict means that somebody else was faster: the pass ends, and the next
one looks again. So it does at the second change of one object, which would carry a version that
is old by then; it is never left out, for what follows it may rely on it. Forbidden: deciding.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dynamo_core.contexts import SECRET_BYTES, Keyring
from dynamo_core.ring import Ring
from dynamo_operator.kube import kinds, names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.claims_plan import cannot_grow
from dynamo_operator.kube.credentials import Identity, admin_secret, identity_secret
from dynamo_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
)
from dynamo_operator.kube.kept import ACCEPTED_KEY, RING_KEY, SETTLED_KEY, SPENT_KEY
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.kube_steps import (
    Annotate,
    AnyStep,
    AwaitGone,
    Delete,
    DeletePod,
    Ensure,
    EvictPod,
    GrowClaim,
    Halt,
    MakeToken,
    Own,
    PutTemplate,
    ScaleSet,
    Warn,
)
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.kube.objects_plan import goes_along
from dynamo_operator.kube.observing import Sight
from dynamo_operator.kube.telling import Teller
from dynamo_operator.nodes import NodeBehind, NodeRefused, Nodes
from dynamo_operator.proof import is_settled
from dynamo_operator.rolling import live_json, live_settings
from dynamo_operator.spans import span
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import (
    AcceptSpec,
    AdoptRing,
    AwaitDrained,
    AwaitMoves,
    AwaitReady,
    AwaitRing,
    AwaitStatus,
    AwaitWhole,
    Blocked,
    CreateIdentity,
    DecideRing,
    PostRing,
    PutSettings,
    Refused,
    RemoveNode,
    RestartNode,
    StartNode,
)

log = logging.getLogger(__name__)

_KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in kinds.USES}
TOKEN_BYTES: Final = 24
SPENT_MAX: Final = 100
_TOLD: Final[Mapping[type, str]] = {  # the rest is upkeep
    ScaleSet: "SetScaled",
    PutTemplate: "TemplateChanged",
    GrowClaim: "ClaimGrows",
}


_TOLD_OF: Final = (
    *(Refused, Warn, Halt, Blocked, StartNode, RestartNode, RemoveNode),
    *(AwaitStatus, AwaitReady, AwaitRing, AwaitWhole, AwaitDrained, AwaitMoves, AwaitGone),
)
"""Steps of which nothing is to be done but to tell."""
STEP_TEXT_MAX: Final = 300


class _LookAgain(Exception):
    """This pass has changed that object already: what it knows of it is old."""


@dataclass(slots=True)
class Carrier:
    """Does the steps of one pass over one DynamoCluster."""

    api: Api
    teller: Teller
    nodes: Nodes | None
    value: Mapping[str, Any]
    """The DynamoCluster as it was read, without status: what AcceptSpec writes down."""
    warnings: list[Warn] = field(default_factory=list)
    """What only trying has shown."""
    waits: str = ""
    """Why something that was due wasn't done, although nothing went wrong."""
    did: Callable[[AnyStep], None] = lambda step: None
    """Is told of each step that was carried out."""
    _touched: set[tuple[str, str]] = field(default_factory=set)

    async def carry_out(self, made: KubePlan, sight: Sight) -> None:
        """Does what is due. Raises KubeError; a conflict only ends the pass."""
        try:
            await self._note_settled(made.cluster, sight)
            await self._steps(made, sight)
        except _LookAgain:
            pass
        except (Conflict, NotFound) as error:
            log.info("%s/%s: %s", made.cluster.namespace, made.cluster.name, error)

    async def _steps(self, made: KubePlan, sight: Sight) -> None:
        puts = tuple(step.node for step in made.steps if isinstance(step, PutSettings))
        for step in made.steps:
            if isinstance(step, PutSettings) and step.node != puts[0]:
                continue  # put with the first
            kind = type(step).__name__
            about = {"dynamo.step.kind": kind, "dynamo.step.target": _target(step)}
            about["dynamo.step"] = str(step)[:STEP_TEXT_MAX]
            with span(f"step.{kind}", about, expected=(_LookAgain, Conflict, NotFound)) as traced:
                goes_on = await self._step(step, puts, made, sight)
                taken = not isinstance(step, _TOLD_OF) and not self.waits
                traced.came_to("done" if taken else "told" if goes_on else "waits")
            if taken:
                self.did(step)
            if not goes_on:
                return

    async def _step(self, step: AnyStep, puts: Iterable[str], made: KubePlan, sight: Sight) -> bool:
        """Whether the next one may follow without another look."""
        match step:
            case Refused() | Warn() | Halt() | StartNode():
                pass  # told by status and events; a set starts its pods by itself
            case MakeToken():
                await self._make_token(made.cluster, sight)
            case Ensure():
                await self._ensure(made.cluster, step)
            case Own() | Annotate() | ScaleSet() | PutTemplate():
                await self._change(made.cluster, step, sight)
            case GrowClaim():
                await self._grow(made.cluster, step, sight)
            case Delete():
                await self._delete(made.cluster, step)
            case DeletePod(name, uid, why, force):
                await self._end_pod(made.cluster, name, uid, why, force)
            case AcceptSpec():
                await self._accept(made.cluster, sight)
            case PostRing(name):
                await self._post(name, sight)
            case PutSettings():
                # All at once: while they differ, nodes answer clients by different rules.
                await asyncio.gather(*(self._put(name, made, sight) for name in puts))
            case _:
                await self._last_step(step, made, sight)
                return False
        return True

    async def _last_step(self, step: AnyStep, made: KubePlan, sight: Sight) -> None:
        """One after which another look is needed, whatever comes of it."""
        match step:
            case CreateIdentity():
                await self._create_identity(made.cluster, sight)
            case EvictPod(name, uid, why):
                await self._evict(made.cluster, name, uid, why)
            case DecideRing(what, ring, problems):
                if ring is not None:
                    await self._decide(made.cluster, ring, sight)
                    self.teller.decided(what, ring, problems)
            case AdoptRing(name):
                await self._adopt(made.cluster, name, sight)

    # Objects

    async def _ensure(self, cluster: DynamoCluster, step: Ensure) -> None:
        kind = _KINDS[step.kind]
        self._first(step.kind, step.name)
        body = dict(step.body)
        if not step.version:
            await self.api.create(kind, body)
        else:
            body["metadata"] = {**body["metadata"], "resourceVersion": step.version}
            await self.api.apply(kind, body, force=True)
        if step.kind == "StatefulSet" and not step.version:
            self.teller.did("SetCreated", str(step))
        else:
            self.teller.noted(str(step))

    async def _change(
        self,
        cluster: DynamoCluster,
        step: Own | Annotate | ScaleSet | PutTemplate | GrowClaim,
        sight: Sight,
    ) -> None:
        self._first(step.kind, step.name)
        match step:
            case Own(_, _, uid, version, _, references):
                owners = [dict(one) for one in references]
                changes: Any = {"metadata": {**_seen(uid, version), "ownerReferences": owners}}
            case Annotate(_, _, uid, version, annotations, _):
                changes = {"metadata": {**_seen(uid, version), "annotations": dict(annotations)}}
            case ScaleSet(_, version, _, replicas):
                changes = {
                    "metadata": {"resourceVersion": version},
                    "spec": {"replicas": replicas},
                }
            case GrowClaim(_, uid, version, _, size):
                spec = {"resources": {"requests": {"storage": size}}}
                changes = {"metadata": _seen(uid, version), "spec": spec}
            case PutTemplate():
                changes = _template(step, sight)
        await self.api.patch(_KINDS[step.kind], cluster.namespace, step.name, changes)
        reason = _TOLD.get(type(step))
        if reason:
            self.teller.did(reason, str(step))
        else:
            self.teller.noted(str(step))

    async def _grow(self, cluster: DynamoCluster, step: GrowClaim, sight: Sight) -> None:
        """Whether a class lets volumes grow isn't seen by every role: then its refusal tells."""
        try:
            await self._change(cluster, step, sight)
        except (Forbidden, Invalid) as error:
            who = f"the server ({error})"
            self.warnings.append(cannot_grow(step.name, step.before, step.size, who))

    async def _delete(self, cluster: DynamoCluster, step: Delete) -> None:
        self._first(step.kind, step.name)
        await self.api.delete(
            _KINDS[step.kind],
            cluster.namespace,
            step.name,
            uid=step.uid,
            resource_version=step.version,
        )
        self.teller.did("Deleted", str(step))

    async def _end_pod(
        self, cluster: DynamoCluster, name: str, uid: str, why: str, force: bool
    ) -> None:
        self._first("Pod", name)
        grace = 0 if force else None
        await self.api.delete(kinds.POD, cluster.namespace, name, uid=uid, grace_s=grace)
        self.teller.did("PodDeleted", f"delete {name}: {why}")

    async def _evict(self, cluster: DynamoCluster, name: str, uid: str, why: str) -> None:
        self._first("Pod", name)
        try:
            await self.api.evict(cluster.namespace, name, uid=uid)
        except TooManyRequests as error:
            self.waits = f"{name} can't be evicted now: {error}"
            self.teller.once("RollWaits", self.waits)
        else:
            self.teller.did("PodEvicted", f"evict {name}: {why}")

    # Identity and ring

    async def _create_identity(self, cluster: DynamoCluster, sight: Sight) -> None:
        """The Secrets, made once. Whoever finds one there looks again: it may be another's."""
        owner = sight.world.owner
        owned = goes_along(cluster)
        keys = Keyring(1, {1: secrets.token_bytes(SECRET_BYTES)})
        identity = Identity(secrets.token_hex(16), keys)
        if ("Secret", names.admin_secret(cluster.name)) not in sight.world.objects:
            await self._make_token(cluster, sight)
        try:
            body = identity_secret(cluster, owner if owned else None, identity)
            await self.api.create(kinds.SECRET, body)
        except AlreadyExists:
            return
        self.teller.did("IdentityCreated", f"this is cluster {identity.cluster_id}")

    async def _make_token(self, cluster: DynamoCluster, sight: Sight) -> None:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        await self.api.create(kinds.SECRET, admin_secret(cluster, sight.world.owner, token))
        self.teller.did("TokenCreated", "the admin token is made anew")

    async def _accept(self, cluster: DynamoCluster, sight: Sight) -> None:
        if sight.ring_version:
            self._first("ConfigMap", names.ring_map(cluster.name))
            await self._keep(cluster, sight, {ACCEPTED_KEY: self._accepted()})

    def _accepted(self) -> str:
        """What is carried out from now on: this spec, unless it is refused."""
        return json.dumps(self.value, sort_keys=True)

    async def _decide(self, cluster: DynamoCluster, ring: Ring, sight: Sight) -> None:
        """Written down before anybody is told, on the very version that was read."""
        text = ring.to_bytes().decode()
        if sight.ring_version:
            self._first("ConfigMap", names.ring_map(cluster.name))
            await self._keep(cluster, sight, {RING_KEY: text, **_spent(ring, sight)})
            return
        owner = sight.world.owner if goes_along(cluster) else None
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(cluster, owner, names.ring_map(cluster.name), "ring"),
            "data": {RING_KEY: text, ACCEPTED_KEY: self._accepted()},
        }
        await self.api.create(kinds.CONFIG_MAP, body)

    async def _keep(self, cluster: DynamoCluster, sight: Sight, data: Mapping[str, str]) -> None:
        changes = {"metadata": {"resourceVersion": sight.ring_version}, "data": dict(data)}
        name = names.ring_map(cluster.name)
        await self.api.patch(kinds.CONFIG_MAP, cluster.namespace, name, changes)

    async def _note_settled(self, cluster: DynamoCluster, sight: Sight) -> None:
        """The ring to go back to when somebody changes his mind."""
        observed = sight.world.observed
        ring, known = observed.ring, observed.settled
        if ring is None or (known is not None and known.id == ring.id):
            return
        if is_settled(ring, observed.nodes):
            self._first("ConfigMap", names.ring_map(cluster.name))
            await self._keep(cluster, sight, {SETTLED_KEY: ring.to_bytes().decode()})
            self.teller.settled(ring)

    async def _adopt(self, cluster: DynamoCluster, name: str, sight: Sight) -> None:
        assert self.nodes is not None, "a plan adopts rings after the identity"
        try:
            ring = await self.nodes.ring(name, sight.addresses[name])
        except (NodeRefused, KeyError) as error:
            self.teller.once("RingLost", f"the ring can't be taken from {name}: {error}")
            return
        await self._decide(cluster, ring, sight)
        self.teller.did("RingAdopted", f"adopt the ring of epoch {ring.epoch} from {name}")

    # Nodes

    async def _post(self, name: str, sight: Sight) -> None:
        ring, at = sight.world.observed.ring, sight.addresses.get(name)
        if self.nodes is None or at is None or ring is None:
            return
        try:
            await self.nodes.post_ring(name, at, ring)
        except NodeBehind:
            pass  # its peers hold the rings between, and teach it
        except NodeRefused as error:
            self.teller.once("RingRefused", str(error))

    async def _put(self, name: str, made: KubePlan, sight: Sight) -> None:
        at, node = sight.addresses.get(name), sight.world.observed.nodes.get(name)
        if self.nodes is None or at is None:
            return
        has = node.status.settings if node is not None and node.status is not None else None
        try:
            await self.nodes.put_settings(name, at, live_json(live_settings(made.cluster, has)))
        except NodeRefused as error:
            self.teller.once("SettingsRefused", str(error))
        else:
            self.teller.did("SettingsPut", f"{name} has its new settings")

    def _first(self, kind: str, name: str) -> None:
        """Raises _LookAgain if it isn't the first change of that object in this pass."""
        if (kind, name) in self._touched:
            raise _LookAgain
        self._touched.add((kind, name))


def _target(step: AnyStep) -> str:
    """Whom or what it is about; "" if it says nothing of the kind."""
    nodes = getattr(step, "nodes", ())
    return str(getattr(step, "node", "") or getattr(step, "name", "")) or ", ".join(nodes)


def _spent(ring: Ring, sight: Sight) -> dict[str, str]:
    """The words that this ring acts on are written down with it: each is good for once."""
    before = sight.world.observed.ring
    new = [
        word
        for name, word in sight.words.items()
        if before is not None and before.node_named(name) and not ring.node_named(name)
    ]
    return {SPENT_KEY: json.dumps([*sight.spent, *new][-SPENT_MAX:])} if new else {}


def _seen(uid: str, version: str) -> dict[str, Any]:
    return {"uid": uid, "resourceVersion": version}


def _template(step: PutTemplate, sight: Sight) -> list[dict[str, Any]]:
    """Replaced as a whole: a merge would leave behind what the new one doesn't have."""
    held = dict(sight.world.sets[step.name].annotations)
    for name, value in step.annotations.items():
        if value is None:
            held.pop(name, None)
        else:
            held[name] = value
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": step.version},
        {"op": "replace", "path": "/spec/template", "value": dict(step.template)},
        {"op": "add", "path": "/metadata/annotations", "value": held},
    ]
