"""Metrics: `GET /metrics`, what this node counts and knows in Prometheus's form.

Owns names, labels and help of every metric (docs/operating.md has the same as a table),
and the one use of `prometheus_client`. Nothing is kept here but which targets had hints:
a scrape reads `counters` and the rooms that hold the facts. No label ever holds a key or
a client; members' names are the only ones that grow, with the cluster.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from dynamo_node import __version__, disk_health
from dynamo_node.availability import Availability, availability
from dynamo_node.cluster_view import member_states, ring_imbalance
from dynamo_node.counters import OPS, OUTCOMES, Histogram

if TYPE_CHECKING:
    from dynamo_node.node import Node

NO_STORE: Final = "failed"
NODE_STATES: Final = ("waiting", "recovering", "up", "leaving", "left", NO_STORE)
MEMBER_STATES: Final = ("joining", "up", "suspect", "down", "recovering", "leaving", "left")
BACKGROUND: Final = ("handoff", "reaping", "recovery", "repair", "transfer")
"""Kinds of background work; each is there from the start, or its first seconds are no increase."""
DISK_STATES: Final = (disk_health.OK, disk_health.FULL, disk_health.FAILED)


class Connections(NamedTuple):
    """How many others have open to this node."""

    http: int = 0
    native_client: int = 0
    native_node: int = 0


class Page:
    """The answers to `GET /metrics` from one registry, in the form that is asked for."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._registry.register(_Build())
        ProcessCollector(registry=self._registry)

    def response(self, request: web.BaseRequest) -> web.Response:
        """Text, or OpenMetrics with exemplars where `Accept` prefers that."""
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except TypeError:  # a version that isn't one
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


class NodeMetrics:
    """Of a node with a store, whatever state it is in; `connections` belong to the ports."""

    def __init__(self, node: "Node", connections: Callable[[], Connections]) -> None:
        self._collector = _OfNode(node, connections)
        self._page = Page(self._collector)

    async def response(self, request: web.BaseRequest) -> web.Response:
        await self._collector.look()
        return self._page.response(request)


class _Build(Collector):
    def collect(self) -> Iterator[Metric]:
        value = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("dynamo_build", "What runs here; the value is always 1.", value)


class NoStore(Collector):
    """Of a process whose disk has failed: it says so, and little else is known."""

    def collect(self) -> Iterator[Metric]:
        yield _node_state(NO_STORE)
        yield _gauge("dynamo_ready", "Whether this node may serve.", 0)
        yield _disk_state(disk_health.FAILED)


class _OfNode(Collector):
    def __init__(self, node: "Node", connections: Callable[[], Connections]) -> None:
        self._node = node
        self._connections = connections
        self._available = Availability()
        self._looking: asyncio.Task[None] | None = None
        self._targets: set[str] = set()
        """Members that hints were kept for: at none left they show 0, and don't vanish."""

    async def look(self) -> None:
        """What takes more than a moment, before `collect`; once for all who ask meanwhile."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        # Whoever goes away meanwhile doesn't end it for the others.
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        self._available = await availability(self._node)

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._hints()
        yield from self._repairs()
        yield from self._ring()
        yield from self._recovery()
        yield from self._transfers()
        yield from self._storage()
        yield from self._process()

    def _requests(self) -> Iterator[Metric]:
        counters, coordinator = self._node.counters, self._node.coordinator
        requests = CounterMetricFamily(
            "dynamo_requests", "Clients' requests answered, at the node they came to.",
            labels=("op", "outcome"),
        )  # fmt: skip
        took = HistogramMetricFamily(
            "dynamo_request_duration_seconds",
            "From the whole request to its answer, of requests not refused at once.",
            labels=("op",),
        )
        for op, name in OPS.items():
            for kind, outcome in OUTCOMES.items():
                requests.add_metric((name, outcome), counters.requests[op][kind])
            _add(took, (name,), counters.durations[op])
        yield requests
        yield took
        siblings = HistogramMetricFamily(
            "dynamo_siblings",
            "Values that a get showed of a key; what a put left beside each other in its record.",
            labels=("op",),
        )
        _add(siblings, ("get",), counters.shown)
        _add(siblings, ("put",), counters.written)
        yield siblings
        yield _gauge("dynamo_requests_in_flight", "Operations not answered yet.",
                     coordinator.in_flight)  # fmt: skip
        yield _gauge("dynamo_request_bytes_in_flight", "Bytes of values that these bring.",
                     coordinator.bytes_in_flight)  # fmt: skip
        yield _gauge("dynamo_writes_unsettled",
                     "Writes that some owner still lacks and no hint waits for, answered or not.",
                     coordinator.writing)  # fmt: skip
        yield _labelled("dynamo_connections", "Connections that others have open to this node.",
                        "kind", self._connections()._asdict().items())  # fmt: skip

    def _hints(self) -> Iterator[Metric]:
        node = self._node
        hints, names = node.replica.hints, node.topology.host_name
        pending = {names(number): count for number, count in hints.pending().items()}
        ring = node.topology.ring
        self._targets &= {m.name for m in ring.everybody} if ring else set()
        self._targets |= pending.keys()
        yield _labelled(
            "dynamo_hints_pending", "Hints and marks kept here for another node.", "target",
            ((name, pending.get(name, 0)) for name in sorted(self._targets)),
        )  # fmt: skip
        yield _counter("dynamo_hints_delivered", "Hints that their target has fsynced.",
                       node.handoff.delivered)  # fmt: skip
        yield _gauge("dynamo_hints_bytes", "Bytes of hints kept here.", hints.bytes)
        yield _gauge("dynamo_hints_limit_bytes", "Bytes beyond which hints beyond W become marks.",
                     hints.bytes_max)  # fmt: skip

    def _repairs(self) -> Iterator[Metric]:
        node, antientropy = self._node, self._node.antientropy
        yield _counter("dynamo_read_repairs", "Replicas that a read found stale and sent newer.",
                       node.counters.read_repairs)  # fmt: skip
        yield _counter("dynamo_antientropy_rounds", "Comparisons with a peer that were ended.",
                       antientropy.rounds_total)  # fmt: skip
        yield _counter("dynamo_antientropy_repaired_keys", "Keys that these sent or received.",
                       antientropy.repaired_keys_total)  # fmt: skip
        yield _gauge("dynamo_background_share", "Part of the time background work may take.",
                     node.slices.share)  # fmt: skip
        yield _labelled(
            "dynamo_background_seconds", "Time that background work has taken.", "kind",
            (dict.fromkeys(BACKGROUND, 0.0) | node.slices.facts()["used_seconds"]).items(),
            CounterMetricFamily,
        )  # fmt: skip

    def _ring(self) -> Iterator[Metric]:
        node, ring, available = self._node, self._node.topology.ring, self._available
        states = member_states(node)
        yield _node_state(node.state)
        yield _gauge("dynamo_ready", "Whether this node may serve.", node.ready)
        yield _labelled("dynamo_members", "Members by state, as seen from here.", "state",
                        ((state, states[state]) for state in MEMBER_STATES))  # fmt: skip
        yield _gauge("dynamo_ring_epoch", "Epoch of the ring held here, 0 for none.",
                     0 if ring is None else ring.epoch)  # fmt: skip
        yield _gauge("dynamo_ring_imbalance_ratio",
                     "Largest deviation of a member's share from its capacity, relative to that.",
                     0 if ring is None else ring_imbalance(ring))  # fmt: skip
        yield _gauge("dynamo_partitions_held", "Partitions of which this node holds a slot.",
                     len(node.topology.owned))  # fmt: skip
        yield _labelled(
            "dynamo_partitions_below_quorum",
            "Partitions with too few nodes for R or W, as seen from here.", "op",
            (("get", available.below_get), ("put", available.below_put)),
        )  # fmt: skip
        yield _gauge("dynamo_partitions_degraded",
                     "Partitions with fewer than N owners that can be read, as seen from here.",
                     available.degraded)  # fmt: skip

    def _recovery(self) -> Iterator[Metric]:
        node, since = self._node, self._node.recovery.since
        now = asyncio.get_running_loop().time()
        yield _gauge("dynamo_partitions_recovering",
                     "Partitions of this node for which it abstains from reads.",
                     len(node.recovery.lacking()))  # fmt: skip
        yield _gauge("dynamo_recovering_seconds", "How long this node recovers, 0 if it doesn't.",
                     0 if since is None else now - since)  # fmt: skip
        yield _gauge("dynamo_partitions_possible_loss",
                     "Partitions that count again without enough complete copies.",
                     len(node.standing.possible_losses))  # fmt: skip

    def _transfers(self) -> Iterator[Metric]:
        ages = self._node.transfers.ages_s()
        yield _counter("dynamo_transfer_bytes", "Bytes of partitions taken over from others.",
                       self._node.transfers.totals.bytes)  # fmt: skip
        yield _labelled("dynamo_transfers", "Partitions on their way to this node.", "state",
                        ((state, len(found)) for state, found in ages.items()))  # fmt: skip
        yield _labelled(
            "dynamo_transfer_oldest_seconds", "How long the oldest of them is in its state.",
            "state", ((state, max(found, default=0.0)) for state, found in ages.items()),
        )  # fmt: skip

    def _storage(self) -> Iterator[Metric]:
        node, health = self._node, self._node.disk_health
        keys = node.replica.key_count
        if keys is not None:  # they are still being counted
            yield _gauge("dynamo_keys", "Keys with a record here, tombstones too.", keys)
        yield _gauge("dynamo_stored_bytes", "About what the objects take on disk and in memory.",
                     node.disk.store.stored_bytes())  # fmt: skip
        yield _disk_state(health.state)
        if health.free_bytes is not None:
            yield _gauge("dynamo_disk_free_bytes", "Free space of the data folder's file system.",
                         health.free_bytes)  # fmt: skip
        with suppress(OSError):  # it grows while the node runs
            size_bytes = node.outside.size_bytes(node.config)
            yield _gauge("dynamo_disk_size_bytes", "Size of that file system.", size_bytes)
        yield _gauge("dynamo_disk_reserve_bytes", "Free space below which the node is read-only.",
                     health.reserve_bytes)  # fmt: skip
        commits = HistogramMetricFamily(
            "dynamo_storage_commit_duration_seconds",
            "What a group of writes waits for: fsync of the log, or the write if buffered.",
            labels=(),
        )
        _add(commits, (), node.counters.commits)
        yield commits
        yield _counter("dynamo_storage_stalls",
                       "Batches that RocksDB put off because it is behind with compactions.",
                       node.disk.store.stalls)  # fmt: skip

    def _process(self) -> Iterator[Metric]:
        lag = HistogramMetricFamily(
            "dynamo_event_loop_lag_seconds",
            "How late the event loop comes to what is due, looked at ten times a second.",
            labels=(),
        )
        _add(lag, (), self._node.counters.loop_lag)
        yield lag


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value)


def _labelled(
    name: str,
    text: str,
    label: str,
    values: Iterable[tuple[str, float]],
    family: type[CounterMetricFamily] | type[GaugeMetricFamily] = GaugeMetricFamily,
) -> Metric:
    metric = family(name, text, labels=(label,))
    for which, value in values:
        metric.add_metric((which,), value)
    return metric


def _node_state(state: str) -> Metric:
    ones = ((each, each == state) for each in NODE_STATES)
    return _labelled("dynamo_node_state", "1 for the state that this node is in.", "state", ones)


def _disk_state(state: str) -> Metric:
    ones = ((each, each == state) for each in DISK_STATES)
    return _labelled("dynamo_disk_state", "1 for the state of this node's disk.", "state", ones)


def _add(metric: HistogramMetricFamily, labels: tuple[str, ...], counted: Histogram) -> None:
    bounds = [*map(floatToGoString, counted.bounds), "+Inf"]
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = list(
        zip(bounds, accumulate(counted.buckets), strict=True)
    )
    for at, (trace_id, value, wall_ms) in counted.exemplars.items():
        exemplar = Exemplar({"trace_id": trace_id}, value, wall_ms / 1000)
        buckets[at] = (*buckets[at][:2], exemplar)
    metric.add_metric(labels, buckets, counted.total)
