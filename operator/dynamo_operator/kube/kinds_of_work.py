"""What is going on, in one word: the operation's kind, and the reason of Progressing.

Owns these words. Forbidden: deciding what is done.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.kube_steps import (
    AnyStep,
    AwaitGone,
    Delete,
    DeletePod,
    Ensure,
    EvictPod,
    PutTemplate,
    ScaleSet,
)
from dynamo_operator.steps import (
    AwaitDrained,
    AwaitMoves,
    AwaitWhole,
    CreateIdentity,
    DecideRing,
    RestartNode,
)

_ROLL = (RestartNode, EvictPod, PutTemplate, AwaitWhole)


def kind_of_work(made: KubePlan) -> str:
    """Create, ScaleDown, ScaleUp, Move, Roll, Replace, Update or Wait."""
    steps = made.to_do
    if _any(steps, CreateIdentity) or _first_ring(steps):
        return "Create"
    if _any(steps, AwaitDrained) or _lowers(steps) or _rings(steps, " leaves", " has left"):
        return "ScaleDown"
    if _rings(steps, " joins", " stays after all") or _any(steps, ScaleSet):
        return "ScaleUp"
    if _any(steps, AwaitGone) or _goes_with_its_node(steps):
        return "ScaleDown"
    if _any(steps, AwaitMoves, DecideRing):
        return "Move"
    if _any(steps, *_ROLL):
        return "Roll"
    if _any(steps, DeletePod):
        return "Replace"
    return "Update" if _any(steps, Ensure) else "Wait"


def outcome_of(made: KubePlan) -> str:
    """What a pass comes to: paused, dryRun, blocked, working, refused or settled."""
    if made.cluster.spec.paused:
        return "paused"
    if made.to_do and not made.act:
        return "dryRun"
    if made.to_do:
        return "blocked" if made.halts else "working"
    return "refused" if made.refusals else "settled"


def _any(steps: Sequence[AnyStep], *kinds: type) -> bool:
    return any(isinstance(step, kinds) for step in steps)


def _first_ring(steps: Sequence[AnyStep]) -> bool:
    return any(isinstance(s, DecideRing) and s.what.startswith("the first ring") for s in steps)


def _rings(steps: Sequence[AnyStep], *acts: str) -> bool:
    """Whether a ring of such acts is decided, in the words of `rings`."""
    texts = [step.what for step in steps if isinstance(step, DecideRing)]
    return any(act in text for text in texts for act in acts)


def _goes_with_its_node(steps: Sequence[AnyStep]) -> bool:
    kind = "PersistentVolumeClaim"
    return any(isinstance(step, Delete) and step.kind == kind for step in steps)


def _lowers(steps: Sequence[AnyStep]) -> bool:
    return any(isinstance(s, ScaleSet) and s.replicas < s.before for s in steps)
