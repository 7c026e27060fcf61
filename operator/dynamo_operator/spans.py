"""Spans of what the operator does: a tree for each pass, sent or forgotten as a whole.

Owns the tree while it grows, and which span is the present one. Whoever does something says
`with span("node.post_ring", ...)`; outside of a pass that is recorded it costs next to nothing.
Whether a pass was worth its spans is known when it ends, so nothing leaves before. Forbidden:
the SDK, secrets, and anything that a decision needs.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from dynamo_telemetry.contexts import SpanContext

SPANS_MAX: Final = 1000
"""Of one pass; what is beyond is counted."""
TEXT_MAX: Final = 500

Attributes = Mapping[str, Any]


@dataclass(slots=True)
class Span:
    """Something that was done, from start to end in nanoseconds since the epoch.

    kind: internal or client. error: what became of one that failed. links: other spans that it
    has to do with, and how.
    """

    name: str
    context: SpanContext
    parent: SpanContext | None
    kind: str
    start_ns: int
    end_ns: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    links: list[tuple[SpanContext, Attributes]] = field(default_factory=list)

    def came_to(self, outcome: str) -> None:
        """What came of it, in a word or a few."""
        self.attributes["dynamo.outcome"] = outcome

    def fail(self, kind: str, error: str) -> None:
        """kind: in one word, for tools."""
        self.attributes["error.type"] = kind
        self.error = error[:TEXT_MAX]


_NOBODYS: Final = SpanContext(0, 0, 0)


class Recording:
    """The spans of one pass, children of `parent`."""

    def __init__(self, parent: SpanContext, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.parent = parent
        self.ended: list[Span] = []
        self.left_out = 0
        self.changed = False
        """Whether anything was changed: an object, or what a node holds."""
        self._clock_ns = clock_ns
        self._begun = 0

    @contextmanager
    def going(self) -> Iterator[None]:
        """From here on, and in tasks that are begun in here, `span` belongs to this pass."""
        token = _now.set((self, None))
        try:
            yield
        finally:
            _now.reset(token)

    def begin(self, name: str, parent: Span | None, kind: str, attributes: Attributes) -> Span:
        above = parent.context if parent is not None else self.parent
        context = SpanContext(above.trace_id, new_id(8), above.flags)
        return Span(name, context, above, kind, self._clock_ns(), attributes=dict(attributes))

    def end(self, span: Span) -> None:
        span.end_ns = self._clock_ns()
        if len(self.ended) < SPANS_MAX:
            self.ended.append(span)
        else:
            self.left_out += 1


_now: ContextVar[tuple[Recording, Span | None] | None] = ContextVar("spans", default=None)


@contextmanager
def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: str = "internal",
    changes: bool = False,
    expected: tuple[type[Exception], ...] = (),
) -> Iterator[Span]:
    """A child of the present span, with what is done inside.

    changes: if all goes well, something has been changed by it. expected: exceptions that are no
    error, only an outcome. Any other one is told in the span and goes on.
    """
    now = _now.get()
    if now is None:
        yield Span(name, _NOBODYS, None, kind, 0)
        return
    recording, parent = now
    one = recording.begin(name, parent, kind, attributes or {})
    token = _now.set((recording, one))
    try:
        yield one
        recording.changed = recording.changed or changes
    except asyncio.CancelledError:
        one.came_to("cancelled")
        raise
    except Exception as error:
        what = type(error).__name__.lstrip("_")
        if isinstance(error, expected):
            one.came_to(what)
        else:
            one.fail(what, str(error) or what)
        raise
    finally:
        _now.reset(token)
        recording.end(one)


def present() -> SpanContext | None:
    """The span that belongs to what is being done, if its trace is kept."""
    now = _now.get()
    if now is None:
        return None
    recording, one = now
    context = one.context if one is not None else recording.parent
    return context if context.sampled else None


def headers() -> dict[str, str]:
    """What a request carries, so that whoever answers can join the trace (W3C Trace Context)."""
    now = _now.get()
    if now is None or now[1] is None:
        return {}
    return {"traceparent": now[1].context.traceparent()}


def new_id(size_bytes: int) -> int:
    """A random id: 16 bytes for a trace, 8 for a span; never 0."""
    return secrets.randbits(8 * size_bytes) or 1
