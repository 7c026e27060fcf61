"""The words of a plan that only Kubernetes has: what is done to objects, and how it is told.

Owns values only. Each destructive one carries what it was seen as: a uid, a resourceVersion,
or both; whoever carries it out sends them along. Forbidden: deciding and doing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dynamo_operator.steps import Step


@dataclass(frozen=True, slots=True)
class Halt:
    """Nothing after this can happen until a person acts. code: the condition's reason."""

    code: str
    reason: str

    def __str__(self) -> str:
        return f"blocked: {self.reason}"


@dataclass(frozen=True, slots=True)
class Warn:
    """Something a person should know, which holds nothing else up. code: an event's reason."""

    code: str
    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Ensure:
    """Make an object, or (version: it exists) bring its fields back to what they shall be."""

    body: Mapping[str, Any] = field(hash=False)
    version: str = ""

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    def __str__(self) -> str:
        return f"{'change' if self.version else 'create'} {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Own:
    """Set or take away the ownerReference by which an object goes with the DynamoCluster."""

    kind: str
    name: str
    uid: str
    version: str
    owned: bool
    references: tuple[Mapping[str, Any], ...] = field(hash=False)
    """All owner references that it shall have: a patch replaces the list."""

    def __str__(self) -> str:
        what = "goes with the DynamoCluster" if self.owned else "stays without the DynamoCluster"
        return f"{self.kind} {self.name} {what}"


@dataclass(frozen=True, slots=True)
class MakeToken:
    """Make the Secret with the token of admin HTTP: nodes take up another one while they run."""

    def __str__(self) -> str:
        return "create the admin token"


@dataclass(frozen=True, slots=True)
class Annotate:
    """Write annotations on an object; None takes one away."""

    kind: str
    name: str
    uid: str
    version: str
    annotations: tuple[tuple[str, str | None], ...]
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class ScaleSet:
    """Set a StatefulSet's replicas; lowered only with the proof that nobody is missed."""

    kind: ClassVar[str] = "StatefulSet"
    name: str
    version: str
    before: int
    replicas: int

    def __str__(self) -> str:
        return f"scale StatefulSet {self.name} from {self.before} to {self.replicas}"


@dataclass(frozen=True, slots=True)
class PutTemplate:
    """Change a StatefulSet's pod template; no pod is touched by that."""

    kind: ClassVar[str] = "StatefulSet"
    name: str
    version: str
    template: Mapping[str, Any] = field(hash=False)
    annotations: Mapping[str, str | None] = field(hash=False)
    what: str

    def __str__(self) -> str:
        return f"{self.what} of StatefulSet {self.name}"


@dataclass(frozen=True, slots=True)
class GrowClaim:
    """Ask for a larger volume."""

    kind: ClassVar[str] = "PersistentVolumeClaim"
    name: str
    uid: str
    version: str
    before: str
    size: str

    def __str__(self) -> str:
        return f"grow claim {self.name} from {self.before} to {self.size}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly the object that was seen."""

    kind: str
    name: str
    uid: str
    version: str
    why: str

    def __str__(self) -> str:
        return f"delete {self.kind} {self.name}: {self.why}"


@dataclass(frozen=True, slots=True)
class EvictPod:
    """Have a ready pod replaced, if the PodDisruptionBudget allows it."""

    name: str
    uid: str
    why: str

    def __str__(self) -> str:
        return f"evict {self.name}: {self.why}"


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Have a pod replaced that serves nobody. force: its Node is gone, nobody will end it."""

    name: str
    uid: str
    why: str
    force: bool = False

    def __str__(self) -> str:
        return f"{'force ' if self.force else ''}delete {self.name}: {self.why}"


@dataclass(frozen=True, slots=True)
class AwaitGone:
    """Wait for the end of a pod whose node has left and whose set is smaller already."""

    name: str

    def __str__(self) -> str:
        return f"wait until pod {self.name} has ended: its node has left"


KubeStep = (
    Halt
    | Warn
    | Ensure
    | Own
    | MakeToken
    | Annotate
    | ScaleSet
    | PutTemplate
    | GrowClaim
    | Delete
    | EvictPod
    | DeletePod
    | AwaitGone
)
AnyStep = KubeStep | Step
