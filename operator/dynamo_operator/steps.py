"""The words in which a plan speaks: the steps to take, and how they are told to people.

Owns values only. Forbidden: deciding (`plan`) and doing (`local`, and later the
Kubernetes side).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from dynamo_core.ring import Ring


@dataclass(frozen=True, slots=True)
class Refused:
    """An edit that is not carried out. The cluster stays as it was."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field} {self.reason}"


@dataclass(frozen=True, slots=True)
class AcceptSpec:
    """Record the spec as the one that is carried out from now on."""

    def __str__(self) -> str:
        return "accept the spec"


@dataclass(frozen=True, slots=True)
class CreateIdentity:
    """Make the cluster's id and key, once for its life."""

    def __str__(self) -> str:
        return "create the cluster's identity"


@dataclass(frozen=True, slots=True)
class StartNode:
    """Start a node that is not running."""

    node: str

    def __str__(self) -> str:
        return f"start {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitStatus:
    """Look again until these nodes say who they are."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"wait for the status of {', '.join(self.nodes)}"


@dataclass(frozen=True, slots=True)
class AdoptRing:
    """The decided ring is lost: take the highest that a node reports back from it."""

    node: str
    epoch: int
    ring_id: str

    def __str__(self) -> str:
        return f"adopt the ring of epoch {self.epoch} from {self.node}"


@dataclass(frozen=True, slots=True)
class DecideRing:
    """Write the next ring down before anybody is told. ring is None while it can't be known.

    what: the ring in words ("the next ring: cart-default-3 joins").
    """

    what: str
    ring: Ring | None
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"decide {self.what}"


@dataclass(frozen=True, slots=True)
class PostRing:
    """Hand the decided ring to a node."""

    node: str

    def __str__(self) -> str:
        return f"post the ring to {self.node}"


@dataclass(frozen=True, slots=True)
class AwaitRing:
    """Look again until these nodes hold the decided ring."""

    nodes: tuple[str, ...]
    epoch: int

    def __str__(self) -> str:
        return f"wait until {', '.join(self.nodes)} holds the ring of epoch {self.epoch}"


@dataclass(frozen=True, slots=True)
class AwaitDrained:
    """Look again until it is proven that a leaving node holds nothing that others lack.

    partitions, hints: what it says it still has, None if it doesn't say. holders: who still
    knows of slots or seals of it, slots: how many. unknown: who can't be asked, or holds
    another ring.
    """

    node: str
    partitions: int | None = None
    hints: int | None = None
    holders: tuple[str, ...] = ()
    slots: int = 0
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.slots and self.node in self.unknown:
            text = f"wait until {self.node} has handed over {self.slots} slot(s)"
        elif self.partitions or self.hints:
            hints = f" and {self.hints} hint(s)" if self.hints else ""
            text = f"wait until {self.node} has handed over {self.partitions} partition(s){hints}"
        elif self.holders:
            text = f"wait until {', '.join(self.holders)} knows that {self.node} holds nothing"
        else:
            text = f"wait until {self.node} has handed over what it holds"
        if self.unknown:
            text += f"; waiting for word from {', '.join(self.unknown)}"
        return text


@dataclass(frozen=True, slots=True)
class AwaitMoves:
    """Look again until the members hold the slots that the ring gives them.

    receivers: who pulls at this moment. sealed: handed-over copies that their old holders
    keep until the new ones have been compared with them.
    """

    slots: int
    sealed: int = 0
    receivers: tuple[str, ...] = ()

    def __str__(self) -> str:
        to = f" to {', '.join(self.receivers)}" if self.receivers else ""
        if self.slots or not self.sealed:
            return f"wait until {self.slots} slot(s) have moved{to}"
        return f"wait until {self.sealed} handed-over copies have been compared and deleted"


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """End a node that the ring doesn't name any more; its data goes or stays."""

    node: str
    keep_data: bool

    def __str__(self) -> str:
        return f"stop {self.node} and {'keep' if self.keep_data else 'delete'} its data"


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Look again until these nodes are ready."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"wait until {', '.join(self.nodes)} is ready"


@dataclass(frozen=True, slots=True)
class AwaitWhole:
    """Look again until every other member can do without the node that is restarted next.

    waits: who isn't so far, and why, as clauses.
    """

    node: str
    waits: tuple[str, ...]

    def __str__(self) -> str:
        return f"wait with the restart of {self.node}: {', '.join(self.waits)}"


@dataclass(frozen=True, slots=True)
class PutSettings:
    """Tell a running node the live settings of the spec; the order among nodes is no matter."""

    node: str

    def __str__(self) -> str:
        return f"put the settings to {self.node}"


@dataclass(frozen=True, slots=True)
class RestartNode:
    """Stop a node gracefully and start it with the present settings.

    serving: whether clients lose it meanwhile. One that serves nobody needs nobody's leave.
    """

    node: str
    serving: bool = True

    def __str__(self) -> str:
        return f"restart {self.node} with its new settings"


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing after this can happen until a person acts."""

    reason: str

    def __str__(self) -> str:
        return f"blocked: {self.reason}"


Step = (
    Refused
    | AcceptSpec
    | CreateIdentity
    | StartNode
    | AwaitStatus
    | AdoptRing
    | DecideRing
    | PostRing
    | AwaitRing
    | AwaitDrained
    | AwaitMoves
    | RemoveNode
    | AwaitReady
    | AwaitWhole
    | PutSettings
    | RestartNode
    | Blocked
)


_ALIKE: dict[type, str] = {
    StartNode: "start",
    PostRing: "post the ring to",
    PutSettings: "put the settings to",
}


def told(steps: Iterable[Step]) -> list[str]:
    """Steps for people, one line each; the same done to one node after another is one line."""
    lines: list[str] = []
    for kind, group in groupby(steps, type):
        if kind in _ALIKE:
            nodes = [s.node for s in group if isinstance(s, StartNode | PostRing | PutSettings)]
            lines.append(f"{_ALIKE[kind]} {', '.join(nodes)}")
        else:
            lines += map(str, group)
    return lines


def uncounted(line: str) -> str:
    """A told step without its counts: equal for two that differ in how far they are."""
    return re.sub(r"(?<![-\w])\d+", "", line)
