"""What the operator counts and measures of itself, for Prometheus.

Owns names, labels and buckets (docs/operator.md). A registry of its own, so that a process may
have several operators. Forbidden: anything that a decision needs, and labels without a bound
other than the clusters that there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "dynamo_operator"
BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STATUSES: Final = ("True", "False", "Unknown")


@dataclass(slots=True)
class Pass:
    """How a pass comes out. outcome: `failed` unless somebody says another."""

    outcome: str = "failed"


class Measures:
    """Of one operator process."""

    def __init__(self, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self.registry = CollectorRegistry()
        self._clock_s = clock_s
        self._conditions: dict[tuple[str, str], dict[str, str]] = {}
        self._duration = Histogram(
            "reconcile_duration_seconds",
            "How long a pass over one cluster took: look, plan, act, report.",
            namespace=PREFIX,
            registry=self.registry,
            buckets=BUCKETS_S,
        )
        self._passes = self._counter("passes", "Passes over clusters.", "outcome")
        self._errors = self._counter("errors", "What went wrong in passes.", "kind")
        self._steps = self._counter("steps", "Steps of plans that were taken.", "kind")
        self._spans = self._gauge(
            "spans", "Spans since the start, by what became of them.", "state"
        )
        self._clusters = self._gauge("clusters", "DynamoClusters that are looked after.")
        self._condition = self._gauge(
            "cluster_condition",
            "1 for what each condition of a cluster is.",
            "namespace",
            "cluster",
            "condition",
            "status",
        )
        self._leading = self._gauge("leading", "1 while this process acts, 0 while it stands by.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    @contextmanager
    def a_pass(self) -> Iterator[Pass]:
        """Measured to its end, however it ends."""
        one, began_s = Pass(), self._clock_s()
        try:
            yield one
        except Exception as error:
            self.failed(error)
            raise
        finally:
            self._duration.observe(self._clock_s() - began_s)
            self._passes.labels(one.outcome).inc()

    def failed(self, error: Exception) -> None:
        """Something went wrong; most of it is mended by the next pass."""
        self._errors.labels(type(error).__name__).inc()

    def did(self, step: object) -> None:
        """A step of a plan was carried out."""
        self._steps.labels(type(step).__name__).inc()

    def leads(self, leading: bool) -> None:
        """Whether this process acts."""
        self._leading.set(leading)

    def stands(self, namespace: str, cluster: str, status: Mapping[str, Any]) -> None:
        """How a cluster is, by its status."""
        now = {str(c["type"]): str(c["status"]) for c in status.get("conditions") or []}
        before = self._conditions.get((namespace, cluster), {})
        for kind in before.keys() - now.keys():
            self._drop(namespace, cluster, kind)
        for kind, is_so in now.items():
            if before.get(kind) != is_so:
                for one in STATUSES:
                    self._condition.labels(namespace, cluster, kind, one).set(one == is_so)
        self._conditions[namespace, cluster] = now
        self._clusters.set(len(self._conditions))

    def gone(self, namespace: str, cluster: str) -> None:
        """A cluster isn't looked after any more."""
        for kind in self._conditions.pop((namespace, cluster), {}):
            self._drop(namespace, cluster, kind)
        self._clusters.set(len(self._conditions))

    def spans(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Where the numbers of spans come from."""
        for state in ("sent", "failed", "dropped", "waiting"):
            self._spans.labels(state).set_function(partial(_number, facts, state))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _drop(self, namespace: str, cluster: str, kind: str) -> None:
        for one in STATUSES:
            self._condition.remove(namespace, cluster, kind, one)


def _number(facts: Callable[[], Mapping[str, Any]], name: str) -> float:
    return float(facts()[name])
