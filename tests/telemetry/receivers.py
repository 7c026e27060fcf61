"""Real receivers of OTLP for tests: gRPC and HTTP, on free ports, and the spans that came."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True)
class Span:
    """One span as it came; ids are hex, times nanoseconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start_ns: int
    end_ns: int
    error: bool
    message: str
    service: str
    instance: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: dict[str, dict[str, Any]]
    links: list[tuple[str, str]]
    """(trace id, span id) of each."""


@dataclass
class Received:
    """All spans that one receiver has got."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Any) -> None:
        with self._lock:
            self.requests += 1
            for group in request.resource_spans:
                resource = _facts(group.resource.attributes)
                for scope in group.scope_spans:
                    self.spans.extend(_span(span, resource) for span in scope.spans)

    def named(self, name: str, **attributes: Any) -> list[Span]:
        """Spans of that name with those attributes (`_` for `.`)."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [
            span
            for span in list(self.spans)
            if span.name == name and wanted.items() <= span.attributes.items()
        ]

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def children(self, parent: Span) -> list[Span]:
        return sorted(
            (span for span in self.trace(parent.trace_id) if span.parent_id == parent.span_id),
            key=lambda span: (span.name, span.start_ns),
        )


def _facts(attributes: Any) -> dict[str, Any]:
    return {a.key: _value(a.value) for a in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        KINDS.get(span.kind, "?"),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        span.status.message,
        resource.get("service.name", ""),
        resource.get("service.instance.id", ""),
        _facts(span.attributes),
        resource,
        {event.name: _facts(event.attributes) for event in span.events},
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


@contextmanager
def grpc_receiver(port: int = 0) -> Iterator[Received]:
    """A collector that speaks OTLP over gRPC."""
    received = Received()

    class Servicer(services.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC's name)
            received.add(request)
            return messages.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    received.endpoint = f"grpc://127.0.0.1:{port}"
    server.start()
    try:
        yield received
    finally:
        server.stop(0.1).wait()


@contextmanager
def http_receiver() -> Iterator[Received]:
    """A collector that speaks OTLP over HTTP."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.add(messages.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
