"""The pipeline against real receivers: both protocols, changes, and collectors that are dead."""

import socket
import time
from collections.abc import Callable

import pytest
from tests.telemetry.receivers import grpc_receiver, http_receiver

from dynamo_core.errors import CallerError
from dynamo_telemetry import pipeline as pipeline_module
from dynamo_telemetry.contexts import SpanContext
from dynamo_telemetry.endpoints import Tracing
from dynamo_telemetry.pipeline import Pipeline, Service

SERVICE = Service("dynamo-node", "node-1", "0", "carts")
WRITER = SpanContext(7, 8)


def until(done: Callable[[], object], patience_s: float = 20.0) -> None:
    ends = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)


def record(pipeline: Pipeline, name: str = "dynamo.put", span_id: int = 2) -> None:
    pipeline.record(
        name,
        SpanContext(1 << 100, span_id),
        SpanContext(1 << 100, 99),
        1_000,
        2_000,
        kind="server",
        attributes={"dynamo.w": 2},
        events=[("storage.committed", 1_500, {"n": 1})],
        links=[(WRITER, {"dynamo.dot": "x"})],
        error="too few",
    )


@pytest.mark.parametrize("receiver", [grpc_receiver, http_receiver])
def test_a_span_arrives_as_it_was_recorded(receiver: Callable[..., object]) -> None:
    with receiver() as received:  # type: ignore[attr-defined]
        pipeline = Pipeline(SERVICE, Tracing(received.endpoint, 0.0))
        record(pipeline)
        assert pipeline.close(20)
        (span,) = received.spans
    assert (span.name, span.kind, span.error, span.message) == (
        "dynamo.put",
        "server",
        True,
        "too few",
    )
    assert (span.trace_id, span.span_id) == (f"{1 << 100:032x}", f"{2:016x}")
    assert span.parent_id == f"{99:016x}"
    assert (span.start_ns, span.end_ns) == (1_000, 2_000)
    assert span.attributes == {"dynamo.w": 2}
    assert span.events == {"storage.committed": {"n": 1}}
    assert span.links == [(f"{7:032x}", f"{8:016x}")]
    assert (span.service, span.instance) == ("dynamo-node", "node-1")
    assert span.resource["dynamo.cluster"] == "carts"
    assert pipeline.facts()["sent"] == 1


def test_the_tracer_keeps_the_share_and_the_parents_decision() -> None:
    with grpc_receiver() as received:
        pipeline = Pipeline(SERVICE, Tracing(received.endpoint, 0.0))
        with pipeline.tracer.start_as_current_span("left out"):
            pipeline.change(Tracing(received.endpoint, 1.0))
            with pipeline.tracer.start_as_current_span("child of what is left out"):
                pass
        with pipeline.tracer.start_as_current_span("kept"):
            pipeline.change(Tracing(received.endpoint, 0.0))
            with pipeline.tracer.start_as_current_span("child"):
                pass
        assert pipeline.close(20)
    assert sorted(span.name for span in received.spans) == ["child", "kept"]


def test_another_endpoint_gets_what_comes_after() -> None:
    with grpc_receiver() as first, http_receiver() as second:
        pipeline = Pipeline(SERVICE, Tracing(first.endpoint))
        record(pipeline, "before")
        until(lambda: first.spans)
        pipeline.change(Tracing(second.endpoint))
        record(pipeline, "after")
        until(lambda: second.spans)
        with pytest.raises(CallerError, match="scheme"):
            pipeline.change(Tracing("nowhere"))
        assert pipeline.facts()["endpoint"] == second.endpoint
        pipeline.change(Tracing(""))
        record(pipeline, "nowhere")
        pipeline.close(20)
    assert [span.name for span in first.spans] == ["before"]
    assert [span.name for span in second.spans] == ["after"]


def test_a_dead_collector_costs_its_spans_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "EXPORT_TIMEOUT_S", 0.3)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))  # bound, but nobody listens: refused
        pipeline = Pipeline(SERVICE, Tracing(f"grpc://127.0.0.1:{port.getsockname()[1]}"))
        for _ in range(3):
            record(pipeline)
        until(lambda: pipeline.facts()["failed"] == 3)
    with grpc_receiver() as received:
        pipeline.change(Tracing(received.endpoint))
        record(pipeline)
        until(lambda: received.spans)
    assert pipeline.close(20)
    lines = [line for line in caplog.messages if "spans can't be sent" in line]
    assert len(lines) == 1


def test_a_hanging_collector_fills_a_bounded_queue_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline_module, "QUEUE_SPANS_MAX", 600)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and never answers
        pipeline = Pipeline(
            SERVICE, Tracing(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
        )
        for _ in range(1000):
            record(pipeline)
        facts = pipeline.facts()
        assert facts["dropped"] == 400
        assert facts["waiting"] == 600
        assert not pipeline.close(0.05)
