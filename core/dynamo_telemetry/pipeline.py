"""Pipeline: the one door to OpenTelemetry's SDK, from a span that has ended to the collector.

Owns the resource, the bounded queue, the exporter and its change while the process runs.
Whatever a collector does, refusing, hanging or answering nonsense, spans are dropped and
counted; nobody waits for it, and `close` is bounded in time.

Importing this imports the SDK. The exporter of a protocol is imported when an endpoint first
asks for it.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.trace import SpanContext as ApiSpanContext
from opentelemetry.util.types import Attributes

from dynamo_telemetry import sampling
from dynamo_telemetry.contexts import SpanContext
from dynamo_telemetry.endpoints import Tracing, target

log = logging.getLogger(__name__)

QUEUE_SPANS_MAX: Final = 4096
BATCH_SPANS_MAX: Final = 512
DELAY_MS: Final = 1000
EXPORT_TIMEOUT_S: Final = 5.0
CLOSE_S: Final = 2.0
ATTRIBUTES_MAX: Final = 64
TEXT_MAX: Final = 1024
LINKS_MAX: Final = 128

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}


@dataclass(frozen=True, slots=True)
class Service:
    """Who sends the spans: `dynamo-node`, `dynamo-client` or `dynamo-operator`, which one of
    them, and for which cluster ("" for none)."""

    name: str
    instance: str
    version: str
    cluster: str = ""

    def resource(self) -> Resource:
        said = {
            "service.name": self.name,
            "service.namespace": self.cluster,
            "service.instance.id": self.instance,
            "service.version": self.version,
            "dynamo.cluster": self.cluster,
        }
        return Resource.create({name: text for name, text in said.items() if text})


class Pipeline:
    """One per process and service. May be used from one thread, and from the SDK's own.

    Raises CallerError for an endpoint that can't be understood, here and in `change`.
    """

    def __init__(self, service: Service, tracing: Tracing) -> None:
        # It would tell of every batch that fails; `_Switch` tells when that begins and ends.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._switch = _Switch()
        self._ratio = _Ratio()
        self._scope = InstrumentationScope(service.name, service.version)
        self._resource = service.resource()
        self._processor = _Bounded(self._switch)
        self._provider = SdkTracerProvider(
            sampler=ParentBased(self._ratio),
            resource=self._resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(
                max_span_attributes=ATTRIBUTES_MAX,
                max_span_attribute_length=TEXT_MAX,
                max_links=LINKS_MAX,
            ),
        )
        self._provider.add_span_processor(self._processor)
        self._closed = False
        self.tracing = Tracing()
        self.change(tracing)

    @property
    def provider(self) -> SdkTracerProvider:
        """For libraries that bring spans of their own (parent-based, by the share)."""
        return self._provider

    @property
    def tracer(self) -> Tracer:
        """For code that opens and closes spans by itself: the operator, the command line."""
        return self._provider.get_tracer(self._scope.name, self._scope.version)

    def change(self, tracing: Tracing) -> None:
        """Another endpoint or share, from now on; what waits goes to the new endpoint."""
        if tracing.endpoint != self.tracing.endpoint:
            self._switch.to(tracing.endpoint)
        self._ratio.set(tracing.sample_ratio)
        self.tracing = tracing

    def record(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        *,
        kind: str = "internal",
        attributes: Mapping[str, Any] | None = None,
        events: Sequence[tuple[str, int, Mapping[str, Any]]] = (),
        links: Sequence[tuple[SpanContext, Mapping[str, Any]]] = (),
        error: str | None = None,
    ) -> None:
        """Send a span that has ended, whatever the share; its ids are the caller's.

        Times are nanoseconds since the epoch. `kind`: internal, server or client. `error`
        is the description of one that failed.
        """
        self._processor.on_end(
            ReadableSpan(
                name=name,
                context=_api(context),
                parent=None if parent is None else _api(parent, remote=kind == "server"),
                resource=self._resource,
                attributes=attributes,
                events=[Event(what, dict(facts), at_ns) for what, at_ns, facts in events],
                links=[Link(_api(to, remote=True), facts) for to, facts in links[:LINKS_MAX]],
                kind=_KINDS[kind],
                instrumentation_scope=self._scope,
                status=Status(StatusCode.UNSET)
                if error is None
                else Status(StatusCode.ERROR, error[:TEXT_MAX]),
                start_time=start_ns,
                end_time=max(start_ns, end_ns),
            )
        )

    def facts(self) -> dict[str, Any]:
        """Spans since the start: sent, dropped (the queue was full), failed (so was sending)."""
        switch, processor = self._switch, self._processor
        return {
            "endpoint": self.tracing.endpoint,
            "sample_ratio": self.tracing.sample_ratio,
            "sent": switch.sent,
            "failed": switch.failed,
            "dropped": processor.dropped,
            "waiting": processor.waiting,
        }

    def close(self, timeout_s: float = CLOSE_S) -> bool:
        """Send what waits, for at most so long; whether all of it has left. Blocks."""
        if self._closed:
            return True
        self._closed = True
        # In a thread that nobody waits for longer: the SDK's own patience is half a minute.
        ended = threading.Thread(target=self._provider.shutdown, name="spans-end", daemon=True)
        ended.start()
        ended.join(timeout_s)
        return not ended.is_alive()


class _Ratio(Sampler):
    """The SDK's TraceIdRatioBased with a share that may change."""

    def __init__(self) -> None:
        self._bound = 0
        self._ratio = 0.0

    def set(self, ratio: float) -> None:
        self._ratio, self._bound = ratio, sampling.bound(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        kept = trace_id & sampling.LOW < self._bound
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if kept else Decision.DROP, attributes, trace_state
        )

    def get_description(self) -> str:
        return f"Ratio{{{self._ratio}}}"


class _Bounded(SpanProcessor):
    """The SDK's batches behind a bound of our own, since it doesn't tell what it drops."""

    def __init__(self, exporter: "_Switch") -> None:
        self._exporter = exporter
        self._taken = 0
        self.dropped = 0
        self._batches = BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE_SPANS_MAX + BATCH_SPANS_MAX,
            schedule_delay_millis=DELAY_MS,
            max_export_batch_size=BATCH_SPANS_MAX,
        )

    @property
    def waiting(self) -> int:
        return self._taken - self._exporter.sent - self._exporter.failed

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Only what has ended is sent."""

    def on_end(self, span: ReadableSpan) -> None:
        if self.waiting >= QUEUE_SPANS_MAX:
            self.dropped += 1
            return
        if span.context is not None and span.context.trace_flags.sampled:
            self._taken += 1
            self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._batches.force_flush(timeout_millis)


class _Switch(SpanExporter):
    """The exporter of the endpoint in force. Called from the SDK's thread."""

    def __init__(self) -> None:
        self._exporter: SpanExporter | None = None
        self._endpoint = ""
        self._failing = False
        self.sent = 0
        self.failed = 0

    def to(self, endpoint: str) -> None:
        exporter = _exporter(endpoint) if endpoint else None
        old, self._exporter = self._exporter, exporter
        self._endpoint, self._failing = endpoint, False
        if old is not None:  # a batch may be on its way by it
            threading.Thread(target=old.shutdown, name="spans-old", daemon=True).start()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        exporter, endpoint = self._exporter, self._endpoint
        result = SpanExportResult.FAILURE
        reason = "the collector refused them or can't be reached"
        try:
            if exporter is not None:
                result = exporter.export(spans)
        except Exception as error:  # an exporter's fault harms nobody
            reason = repr(error)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            if self._failing:
                self._failing = False
                log.info("spans reach %s again", endpoint)
            return result
        self.failed += len(spans)
        if exporter is not None and not self._failing and endpoint == self._endpoint:
            self._failing = True
            log.warning("spans can't be sent to %s, they are dropped: %s", endpoint, reason)
        return result

    def shutdown(self) -> None:
        if self._exporter is not None:
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _exporter(endpoint: str) -> SpanExporter:
    found = target(endpoint)
    if found.grpc:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(found.url, insecure=not found.secure, timeout=EXPORT_TIMEOUT_S)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter(found.url, timeout=EXPORT_TIMEOUT_S)


def _api(context: SpanContext, remote: bool = False) -> ApiSpanContext:
    return ApiSpanContext(context.trace_id, context.span_id, remote, _SAMPLED)
