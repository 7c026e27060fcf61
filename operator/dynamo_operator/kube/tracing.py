"""One trace for each operation on a cluster: from the edit that began it until nothing is left.

Owns which operation a pass belongs to, which passes are worth their spans, and the root span,
which is sent once, when the operation is over (decision 0021). Forbidden: deciding anything
about a cluster by it, secrets, and the SDK.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from dynamo_operator.kube.names import Owner
from dynamo_operator.kube.operations import Operation, edited_ns, read_operation, told_ns
from dynamo_operator.spans import Recording, Span, new_id, span
from dynamo_operator.steps import uncounted
from dynamo_telemetry import sampling
from dynamo_telemetry.contexts import SAMPLED, SpanContext

log = logging.getLogger(__name__)

STEPS_TOLD_MAX: Final = 20
TEXT_MAX: Final = 300
VAGUE: Final = ("", "Wait", "Update")
"""Kinds of work that give way to a more telling one of the same operation."""
_AWAITS: Final = "step.Await"


class Sender(Protocol):
    """What sends spans that have ended: `dynamo_telemetry.pipeline.Pipeline`."""

    def record(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        *,
        kind: str = ...,
        attributes: Mapping[str, Any] | None = ...,
        links: Sequence[tuple[SpanContext, Mapping[str, Any]]] = ...,
        error: str | None = ...,
    ) -> None: ...


@dataclass(slots=True)
class PassTracing:
    """One pass, as far as it is told to tracing. Does nothing without an operation."""

    operation: Operation | None = None
    began_ns: int = 0
    reconcile: Span | None = None
    fresh: bool = False
    is_planned: bool = False
    goes_on: bool = True
    """Whether something is left to do, as far as is known."""
    outcome: str = ""
    news: bool = False
    reported: bool = False
    failure: str = ""

    def planned(
        self,
        kind: str,
        steps: Sequence[str],
        outcome: str,
        before: Mapping[str, Any],
        epoch: int | None,
    ) -> None:
        """What is to be done: no steps if nothing is, or may be. outcome: the pass in a word.

        before: the last status. epoch: of the decided ring.
        """
        if self.operation is None or self.reconcile is None:
            return
        self.is_planned, self.goes_on, self.outcome = True, bool(steps), outcome
        if steps and self.operation.kind in VAGUE:
            self.operation = replace(self.operation, kind=kind)
        step = str((before.get("operation") or {}).get("step", ""))
        # The status cuts it off, and says behind it what stands still.
        self.news = bool(steps) and not uncounted(step).startswith(uncounted(steps[0][:TEXT_MAX]))
        told = self.reconcile.attributes
        told["dynamo.outcome"] = outcome
        told["dynamo.plan.steps"] = len(steps)
        told["dynamo.plan"] = [one[:TEXT_MAX] for one in steps[:STEPS_TOLD_MAX]]
        if epoch is not None:
            told["dynamo.ring.epoch"] = epoch

    def noted(self, status: dict[str, Any]) -> dict[str, Any]:
        """The status with what the next pass has to know."""
        shown = status.get("operation")
        if self.operation is None or shown is None:
            return status
        return {**status, "operation": {**shown, "trace": self.operation.note()}}


@dataclass(frozen=True, slots=True)
class Traced:
    """Where spans of operations go, and the share of operations that are traced, in 0..1."""

    sender: Sender | None = None
    ratio: float = 1.0

    def cluster(self, owner: Owner) -> ClusterTracing:
        """For the passes over one cluster."""
        return ClusterTracing(owner, self.sender, self.ratio)


@dataclass(slots=True)
class ClusterTracing:
    """The operations on one DynamoCluster, one after another.

    sender: None sends nothing. ratio: the share of operations that are traced, in 0..1. What
    is remembered here is as new as the status, or newer where that couldn't be written.
    """

    owner: Owner
    sender: Sender | None = None
    ratio: float = 1.0
    clock_ns: Callable[[], int] = time.time_ns
    _open: Operation | None = None
    _over: dict[int, tuple[Operation, str, int]] = field(default_factory=dict)
    """Ended, by their root's id, and still in the status: with the outcome, and when."""
    _failure: str = ""
    _epoch: int | None = None
    _waits: Span | None = None
    """The step with which passes end at present, as the first of them saw it; its parent is the
    operation's root."""

    @contextmanager
    def a_pass(self, found: Mapping[str, Any]) -> Iterator[PassTracing]:
        """found: the DynamoCluster as it was read."""
        if self.sender is None:
            yield PassTracing()
            return
        began_ns = self.clock_ns()
        generation = int(found["metadata"].get("generation", 1))
        known = self._open or read_operation(found.get("status") or {})
        if known is not None and known.generation != generation:
            self._over[known.context.span_id] = known, "superseded", began_ns
        goes_on = known is not None and known.generation == generation
        operation = known if known and goes_on else self._new(found, generation, began_ns)
        one = PassTracing(operation, began_ns, fresh=not goes_on)
        recording = Recording(operation.context, clock_ns=self.clock_ns)
        try:
            with recording.going(), span("reconcile", self._attributes(generation)) as reconcile:
                one.reconcile = reconcile
                if known is not None and not goes_on:
                    why = {"dynamo.link": "the operation that this edit ended"}
                    reconcile.links.append((known.context, why))
                yield one
        except Exception as error:
            one.failure = f"{type(error).__name__}: {uncounted(str(error))}"
            raise
        finally:
            self._close(one, recording)

    def gone(self, found: Mapping[str, Any] | None) -> None:
        """The DynamoCluster is deleted, or is about to be: its operation ends with it."""
        known = self._open or read_operation((found or {}).get("status") or {})
        if self.sender is not None and known is not None:
            self._over[known.context.span_id] = known, "deleted", self.clock_ns()
            self._open = None
            self._send_roots()

    def _new(self, found: Mapping[str, Any], generation: int, now_ns: int) -> Operation:
        started_ns = now_ns
        if generation != (found.get("status") or {}).get("observedGeneration"):
            started_ns = min(now_ns, edited_ns(found["metadata"], generation) or now_ns)
        trace_id = new_id(16)
        kept = trace_id & sampling.LOW < sampling.bound(self.ratio)
        context = SpanContext(trace_id, new_id(8), SAMPLED if kept else 0)
        return Operation(context, told_ns(started_ns), generation)

    def _close(self, one: PassTracing, recording: Recording) -> None:
        operation = one.operation
        assert operation is not None, "it is recorded"
        if one.reconcile is not None:
            self._epoch = one.reconcile.attributes.get("dynamo.ring.epoch", self._epoch)
        over = one.is_planned and not one.goes_on
        idle = over and one.fresh and not one.failure
        news = one.news or (over and one.reported) or (one.fresh and one.is_planned)
        failed = bool(one.failure) and one.failure != self._failure
        self._failure = one.failure
        if one.is_planned:
            self._note_waiting(one.began_ns, recording)
        if not idle and (recording.changed or news or failed):
            self._send(recording)
        if over and one.reported:
            self._open = None
            if not idle:
                self._over[operation.context.span_id] = operation, one.outcome, self.clock_ns()
        elif not idle:
            self._open = operation
        if one.reported:
            self._send_roots()

    def _send(self, recording: Recording) -> None:
        if self.sender is None or not recording.parent.sampled:
            return
        if recording.left_out and recording.ended:
            recording.ended[-1].attributes["dynamo.spans_left_out"] = recording.left_out
        for one in recording.ended:
            self._record(
                one.name,
                one.context,
                one.parent,
                one.start_ns,
                one.end_ns,
                kind=one.kind,
                attributes=one.attributes,
                links=one.links,
                error=one.error,
            )

    def _record(self, *told: Any, **more: Any) -> None:
        """What goes wrong here costs a span, never a pass."""
        assert self.sender is not None, "something is recorded"
        try:
            self.sender.record(*told, **more)
        except Exception as error:
            log.error("%s: a span is lost: %r", self.owner.name, error)

    def _note_waiting(self, began_ns: int, recording: Recording) -> None:
        """Many passes may end with one step that waits: one span says how long that was."""
        steps = [one for one in recording.ended if one.name.startswith("step.")]
        last = steps[-1] if steps and steps[-1].name.startswith(_AWAITS) else None
        before = self._waits
        if before is not None and last is not None and _same(before, last):
            return
        self._waits = replace(last, parent=recording.parent) if last is not None else None
        if before is None or self.sender is None or not before.context.sampled:
            return
        self._record(
            before.name.replace(_AWAITS, "wait."),
            before.context._replace(span_id=new_id(8)),
            before.parent,
            before.start_ns,
            began_ns,
            attributes=before.attributes,
        )

    def _send_roots(self) -> None:
        """Of operations that stand in the status no more: so none is sent twice."""
        over, self._over = self._over, {}
        for operation, outcome, ended_ns in over.values():
            if self.sender is None or not operation.context.sampled:
                continue
            told = self._attributes(operation.generation)
            told |= {"dynamo.operation.kind": operation.kind, "dynamo.outcome": outcome}
            if self._epoch is not None:
                told["dynamo.ring.epoch"] = self._epoch
            self._record(
                f"operation.{operation.kind or 'Wait'}",
                operation.context,
                None,
                operation.started_ns,
                ended_ns,
                attributes=told,
            )

    def _attributes(self, generation: int) -> dict[str, Any]:
        return {
            "k8s.namespace.name": self.owner.namespace,
            "dynamo.cluster": self.owner.name,
            "dynamo.generation": generation,
        }


def _same(one: Span, other: Span) -> bool:
    """Whether two passes wait for one thing, however far it is, in one operation."""
    texts = [uncounted(str(each.attributes.get("dynamo.step", ""))) for each in (one, other)]
    return texts[0] == texts[1] and one.context.trace_id == other.context.trace_id
