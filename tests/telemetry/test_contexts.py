"""Contexts of traces: the header, the 25 bytes of a frame, and the share that is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_core.frames import TRACE_BYTES
from dynamo_telemetry import sampling
from dynamo_telemetry.contexts import CONTEXT_BYTES, SpanContext, header_bytes

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_context_has_the_bytes_that_a_frame_has_room_for() -> None:
    assert CONTEXT_BYTES == TRACE_BYTES
    assert len(header_bytes(f"00-{TRACE}-{SPAN}-01")) == TRACE_BYTES


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.sampled_from([0, 1]))
def test_both_forms_say_the_same(trace_id: int, span_id: int, flags: int) -> None:
    context = SpanContext(trace_id, span_id, flags)
    assert SpanContext.from_bytes(context.to_bytes()) == context
    assert SpanContext.from_header(context.traceparent()) == context


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_an_invalid_header_is_ignored(header: str) -> None:
    assert SpanContext.from_header(header) is None
    assert header_bytes(header) == b""


def test_a_later_version_is_read_as_far_as_this_one_goes() -> None:
    context = SpanContext.from_header(f"cc-{TRACE}-{SPAN}-09-what-the-future-brings")
    assert context == SpanContext(int(TRACE, 16), int(SPAN, 16), 1)


def test_the_share_is_opentelemetrys() -> None:
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    for ratio in (0.0, 0.01, 0.5, 1.0):
        assert sampling.bound(ratio) == TraceIdRatioBased(ratio).bound


def test_what_is_late_is_kept_within_a_rate() -> None:
    budget = sampling.Budget(per_s=2, burst=3)
    assert [budget.take(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert [budget.take(10.5), budget.take(10.5)] == [True, False]
    assert [budget.take(9.0), budget.take(100.0)] == [False, True]
    assert budget.refused == 4
