"""Tracing: what of this node's work is traced, and what its spans say.

Owns the decision for each request (its caller's, else a share of all by trace id, else
that it is slow or has failed, within a rate), and the way of spans to `dynamo_telemetry`.
Without an endpoint all of it is one look at `on`, and the SDK isn't even imported.

A request is slow when nobody has answered it within the time of a hedge: from then on it
is traced, whatever the share says. One that fails before has a span without children.

Forbidden here: keys and values. A key is named by a keyed hash (`key_hash`).
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from dynamo_core import objects
from dynamo_core.errors import Corrupt
from dynamo_core.outcomes import Outcome
from dynamo_core.versions import Dot
from dynamo_core.wire import Op, Operation
from dynamo_node.config import Config
from dynamo_node.outside import REAL, Outside
from dynamo_node.request_facts import FAILED, request_facts
from dynamo_node.spans import CHILD_IDS, Span, Writers, caused_by, harmless
from dynamo_node.topology import Place, Topology
from dynamo_telemetry import sampling
from dynamo_telemetry.contexts import SAMPLED, SpanContext
from dynamo_telemetry.endpoints import Tracing as Wanted

if TYPE_CHECKING:
    from dynamo_node.request import Request
    from dynamo_telemetry.pipeline import Pipeline

log = logging.getLogger(__name__)

CLOCK_STEP_S: Final = 0.01
"""How far the wall clock may go off before spans follow it."""
_NAMES: Final = {Op.GET: "dynamo.get", Op.PUT: "dynamo.put", Op.DELETE: "dynamo.delete"}


class Tracing:
    """One per incarnation. Off until `apply` says otherwise."""

    def __init__(
        self, config: Config, topology: Topology | None = None, outside: Outside = REAL
    ) -> None:
        self.on = False
        """Whether spans are sent anywhere: asked once for each request."""
        self.writers = Writers()
        self._config = config
        self._topology = topology or Topology()
        self._outside = outside
        self._loop = asyncio.get_running_loop()
        # The loop's own clock goes by milliseconds, and stands still while a callback runs.
        self._clock = outside.stopwatch
        self._pipeline: Pipeline | None = None
        self._budget = sampling.Budget()
        self._bound = 0
        self._bits = random.Random(0).getrandbits  # noqa: S311 (seeded when it is turned on)
        self._wall_s = 0.0
        self._hash_key = hashlib.blake2b(
            b"span", key=config.keyring.signing, digest_size=32
        ).digest()
        self._applying = asyncio.Lock()

    # Life

    async def apply(self, wanted: Wanted, version: str) -> None:
        """Send spans there from now on, of that share of requests.

        What can't be set up (the SDK reads an environment of its own) is told, and stays as it was.
        """
        async with self._applying:
            if self._pipeline is None and not wanted.endpoint:
                return
            try:
                await self._set_up(wanted, version)
            except Exception as error:
                log.error("spans can't be sent to %s: %r", wanted.endpoint, error, exc_info=error)
                return
            self._bound = sampling.bound(wanted.sample_ratio)
            if not wanted.endpoint:
                self.writers = Writers()
            self.on = bool(wanted.endpoint)
            log.info(
                "spans go to %s, of %g of the requests",
                wanted.endpoint or "nowhere",
                wanted.sample_ratio,
            )

    async def _set_up(self, wanted: Wanted, version: str) -> None:
        if self._pipeline is None:
            # The import takes a tenth of a second: others go on meanwhile.
            self._pipeline = await asyncio.to_thread(self._made, wanted, version)
            self._bits = random.Random(self._outside.random_bytes(32)).getrandbits  # noqa: S311
            self._wall_s = self._wall_now()
        elif wanted != self._pipeline.tracing:
            await asyncio.to_thread(self._pipeline.change, wanted)

    def _made(self, wanted: Wanted, version: str) -> "Pipeline":
        from dynamo_telemetry.pipeline import Pipeline, Service

        config = self._config
        return Pipeline(Service("dynamo-node", config.name, version, config.cluster_name), wanted)

    async def close(self) -> None:
        """Send what waits; bounded in time, whatever the collector does."""
        self.on = False
        pipeline, self._pipeline = self._pipeline, None
        try:
            left = pipeline is not None and not await asyncio.to_thread(pipeline.close)
        except Exception as error:
            log.error("the end of tracing failed: %r", error, exc_info=error)
        else:
            if left:
                log.warning("spans were left unsent at the end")

    def facts(self) -> dict[str, Any]:
        """For the admin port; counts since the start."""
        found = {"sent": 0, "failed": 0, "dropped": 0, "waiting": 0}
        if self._pipeline is not None:
            found |= {name: self._pipeline.facts()[name] for name in found}
        return {"on": self.on, **found, "beyond_rate": self._budget.refused}

    # Requests

    def begin(self, op: Op, trace: bytes, forwarded: bool = False) -> Span | None:
        """The span of a request that comes with this context; None for one that isn't traced.

        One that was `forwarded` without a context isn't: the node it came to has decided.
        """
        if trace and (parent := SpanContext.from_bytes(trace)) is not None:
            return self._root(_NAMES[op], parent, kind="server") if parent.sampled else None
        if forwarded:
            return None
        low = self._bits(64)
        if low >= self._bound:
            return None
        return self._root(_NAMES[op], None, low, kind="server")

    @harmless
    def slow(self, request: "Request") -> Span | None:
        """The span of a request that wasn't to be traced, and is slow; began with the request."""
        if not self._budget.take(self._clock()):
            return None
        return self._late(request.trace, request.began, "slow")

    @harmless
    def answered(
        self,
        request: "Request",
        operation: Operation,
        outcome: Outcome,
        place: Place,
        native: bool,
        forwarded: bool,
    ) -> None:
        """A request has its answer; its replicas may still be awaited."""
        span = request.span
        if span is None:
            now, failed = self._loop.time(), outcome.kind in FAILED
            slow_s = self._config.timing.hedge_ms / 1000
            if not (failed or now - request.began > slow_s):
                return
            if not self._budget.take(self._clock()):
                return
            # Its operation goes on untraced: a child that came now would know no beginning.
            span = self._late(request.trace, request.began, "failed" if failed else "slow")
        get = operation.op == Op.GET
        span.attributes |= {
            "dynamo.partition": place.partition,
            "dynamo.n": len(place.owners),
            "dynamo.r" if get else "dynamo.w": operation.quorum
            or (request.settings.r if get else request.settings.w),
        }
        if request.runs:
            span.attributes["dynamo.runs"] = request.runs
        if forwarded:
            span.attributes["dynamo.forwarded"] = True
        self._end(span, operation, outcome, native or forwarded)

    @harmless
    def refused(
        self, span: Span | None, operation: Operation, outcome: Outcome, trace: bytes, native: bool
    ) -> None:
        """A request was answered before anything was done for it."""
        if span is None:
            if outcome.kind not in FAILED or not self._budget.take(self._clock()):
                return
            span = self._late(trace, self._loop.time(), "failed")
        self._end(span, operation, outcome, native)

    def _late(self, trace: bytes, began: float, why: str) -> Span:
        parent = SpanContext.from_bytes(trace) if trace else None
        span = self._root("", parent, self._bits(64), kind="server", began=began)
        span.attributes["dynamo.late"] = why
        return span

    def _end(self, span: Span, operation: Operation, outcome: Outcome, native: bool) -> None:
        span.name = _NAMES[operation.op]
        span.attributes |= request_facts(self._config, operation, outcome, native)
        span.attributes["dynamo.key_hash"] = self.key_hash(operation.key)
        failed = outcome.kind in FAILED
        span.end(outcome.detail or outcome.kind.name.lower() if failed else None)

    def asking(
        self, root: Span, name: str, node: int, hint_for: int = 0, began: float | None = None
    ) -> Span:
        """A child of `root` that ends with the answer of `node`; `began`: the loop's time."""
        topology = self._topology
        began = None if began is None else self.exact(began)
        said: dict[str, Any] = {"dynamo.replica": topology.host_name(node)}
        if hint_for:
            said["dynamo.hint_for"] = topology.host_name(hint_for)
        if node == topology.number:
            return root.child(name, said, began=began)
        if (link := topology.links.get(node)) is not None:
            said["server.address"] = link.member.host
            said["server.port"] = link.member.native_port
        return root.child(name, said, kind="client", began=began)

    def name_of(self, node: int) -> str:
        """A node as spans name it."""
        return self._topology.host_name(node)

    # Who wrote what

    @harmless
    def replaces(self, span: Span, digest: bytes, dots: Iterable[Dot]) -> None:
        """The put of `span` is linked to the writes of those versions."""
        for writer in self.writers.of(digest, dots):
            if writer != span.context:
                span.links.append((writer, {"dynamo.link": "replaces"}))

    @harmless
    def wrote(self, span: Span, digest: bytes, obj: bytes, write_id: bytes) -> None:
        """The put of `span` has made `obj`."""
        siblings = objects.from_bytes(obj).siblings
        for sibling in siblings:
            if sibling.write_id == write_id:
                dots = [s.dot for s in siblings]
                self.writers.wrote(digest, sibling.dot, span.context, dots)

    def writers_of(self, digest: bytes, obj: bytes) -> list[SpanContext]:
        """The traces that wrote the versions in `obj`, as far as they are known here."""
        if not self.writers:
            return []
        try:
            dots = [sibling.dot for sibling in objects.from_bytes(obj).siblings]
        except Corrupt:
            return []
        return self.writers.of(digest, dots)

    # Work of its own

    def background(
        self,
        name: str,
        causes: Iterable[SpanContext] = (),
        *,
        anyway: bool = False,
        began: float | None = None,
    ) -> Span | None:
        """A trace of its own for background work, linked to what has caused it.

        None where it isn't traced: it is if one of its causes was, by the share, and
        `anyway` as far as the rate allows. `began`: the loop's time.
        """
        if not self.on:
            return None
        links = caused_by(causes)
        low = self._bits(64)
        if not links and low >= self._bound and not (anyway and self._budget.take(self._clock())):
            return None
        span = self._root(name, None, low, began=began)
        span.links = links
        span.attributes["dynamo.node"] = self._config.name
        return span

    def serving(self, name: str, context: SpanContext, attributes: dict[str, Any]) -> Span:
        """What another node's traced message makes this one do."""
        attributes["dynamo.node"] = self._config.name
        attributes["server.address"] = self._config.host
        attributes["server.port"] = self._config.native_port
        parent = context._replace(flags=SAMPLED)
        return self._root(name, parent, kind="server", attributes=attributes)

    def key_hash(self, key: bytes) -> str:
        """16 hex digits that name a key to whoever has the cluster's secret, and to nobody else."""
        return hashlib.blake2b(key, key=self._hash_key, digest_size=8).hexdigest()

    # Spans

    def exact(self, loop_s: float) -> float:
        """That time of the loop's on the clock of spans, to some milliseconds."""
        return loop_s + self._clock() - self._loop.time()

    def _wall_now(self) -> float:
        """What the wall clock is ahead of that of spans, in seconds."""
        return self._outside.wall_ns() / 1e9 - self._clock()

    def _root(
        self,
        name: str,
        parent: SpanContext | None,
        low: int = 0,
        *,
        kind: str = "internal",
        began: float | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> Span:
        """`low`: the lower half of the new trace's id, by which the share has decided."""
        bits = self._bits
        trace_id = parent.trace_id if parent is not None else (bits(64) << 64 | low) or 1
        context = SpanContext(trace_id, (bits(64) & ~CHILD_IDS) or CHILD_IDS + 1)
        return Span(
            name,
            context,
            parent,
            self._clock,
            self._send,
            kind=kind,
            began=None if began is None else self.exact(began),
            attributes=attributes,
        )

    @harmless
    def _send(self, span: Span) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        wall_s = self._wall_now()
        if abs(wall_s - self._wall_s) > CLOCK_STEP_S:
            self._wall_s = wall_s
        off_s = self._wall_s
        pipeline.record(
            span.name,
            span.context,
            span.parent,
            int((span.began + off_s) * 1e9),
            int((span.until + off_s) * 1e9),
            kind=span.kind,
            attributes=span.attributes,
            events=[(name, int((at + off_s) * 1e9), said) for name, at, said in span.events],
            links=span.links,
            error=span.error,
        )
