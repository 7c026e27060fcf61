"""Spans of the client's calls, where the application has set up OpenTelemetry.

Owns what a call's span says, and the context that a request takes along. Nothing is
imported for it: an application that traces has imported OpenTelemetry's API itself, and
for one that hasn't, this is one look for a module.

Forbidden here: keys and values, and the SDK (`dynamo_telemetry.pipeline`).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from dynamo_client.errors import DynamoClientError
from dynamo_client.items import DeleteResult, Item, PutResult
from dynamo_telemetry.contexts import SpanContext

_API: Final = "opentelemetry.trace"
"""Who traces has imported it."""
_NAME: Final = "dynamo_client"


class Call:
    """A call that is under way; `span` is OpenTelemetry's, None where nobody traces."""

    __slots__ = ("span",)

    def __init__(self, span: Any = None) -> None:
        self.span = span

    def answered(self, node: str, tries: int, result: object) -> None:
        """The node at that URL did it, after so many tries."""
        if self.span is None:
            return
        url = urlsplit(node)
        said: dict[str, Any] = {"dynamo.tries": tries, "server.address": url.hostname or node}
        if url.port:
            said["server.port"] = url.port
        if isinstance(result, Item | PutResult | DeleteResult):
            said["dynamo.acks.primary"] = result.acks.primary
            said["dynamo.acks.standin"] = result.acks.standin
        if isinstance(result, Item):
            said["dynamo.siblings"] = len(result.siblings)
        self.span.set_attributes(said)


UNTRACED: Final = Call()


def traced() -> bool:
    """Whether calls may be traced at all."""
    return _API in sys.modules


@contextmanager
def call(operation: str) -> Iterator[Call]:
    """`dynamo.client.OPERATION` around a call with all its tries, where calls may be traced."""
    api: Any = sys.modules[_API]
    said = {"db.system.name": "dynamo", "db.operation.name": operation}
    with api.get_tracer(_NAME).start_as_current_span(
        f"dynamo.client.{operation}",
        kind=api.SpanKind.CLIENT,
        attributes=said,
        record_exception=False,  # its text may name what the span may not
        set_status_on_exception=False,
    ) as span:
        try:
            yield Call(span if span.is_recording() else None)
        except BaseException as error:
            kind = error.kind if isinstance(error, DynamoClientError) else type(error).__name__
            span.set_attribute("error.type", str(kind))
            span.set_status(api.Status(api.StatusCode.ERROR, type(error).__name__))
            raise


def outgoing() -> SpanContext | None:
    """The context that a request of the current call takes along."""
    api: Any = sys.modules.get(_API)
    if api is None:
        return None
    found = api.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return SpanContext(found.trace_id, found.span_id, int(found.trace_flags) & 1)
