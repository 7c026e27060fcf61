"""What is remembered of an operation between passes: its note in the status, and its beginning.

Owns the form of `status.operation.trace` (decision 0021), and where the time of an edit is
found. Pure. Forbidden: clocks, and anything that a decision needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dynamo_telemetry.contexts import SpanContext

KIND_MAX: Final = 40
_MICROSECOND_NS: Final = 1000
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Operation:
    """What is being done. context: of its root span, which is sent at the end.

    started_ns: since the epoch, whole microseconds. generation: of the spec.
    """

    context: SpanContext
    started_ns: int
    generation: int
    kind: str = ""

    def note(self) -> dict[str, Any]:
        """As it stands in the status, so that the next operator goes on with it."""
        return {
            "traceparent": self.context.traceparent(),
            "startedAt": _told_time(self.started_ns),
            "generation": self.generation,
            "kind": self.kind,
        }


def read_operation(status: Mapping[str, Any]) -> Operation | None:
    """What the status says of a trace; None if nothing, or nothing that can be read."""
    try:
        note = status["operation"]["trace"]
        context = SpanContext.from_header(str(note["traceparent"]))
        started_ns = _read_time(note["startedAt"])
        generation, kind = int(note["generation"]), str(note.get("kind", ""))[:KIND_MAX]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if context is None or started_ns <= 0:
        return None
    return Operation(context, started_ns, generation, kind)


def edited_ns(metadata: Mapping[str, Any], generation: int) -> int | None:
    """When somebody last wrote what isn't status, by the API server's clock, in its seconds.

    None if it isn't known: what `kubectl scale` writes has no time, and may be the last.
    """
    fields = metadata.get("managedFields") or []
    times = [one.get("time") for one in fields if one.get("subresource") != "status"]
    if generation == 1:
        times = [metadata.get("creationTimestamp")]
    elif None in times:
        return None
    found = []
    for told in times:
        try:
            found.append(_read_time(told))
        except (TypeError, ValueError, OverflowError):
            continue
    return max(found, default=None)


def told_ns(at_ns: int) -> int:
    """That time as exactly as a note has it."""
    return at_ns - at_ns % _MICROSECOND_NS


def _told_time(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, _SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // _MICROSECOND_NS)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _read_time(told: object) -> int:
    """Nanoseconds since the epoch. Raises TypeError, ValueError."""
    if not isinstance(told, str):
        raise TypeError("no time")
    moment = datetime.fromisoformat(told)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    whole = moment.replace(microsecond=0).timestamp()
    return int(whole) * _SECOND_NS + moment.microsecond * _MICROSECOND_NS
