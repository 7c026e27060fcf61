"""Spans: what is being traced just now, before any of it goes to the SDK.

Owns one span of this node and its children, with times of a stopwatch; and which
traces wrote the versions that are about, so that whoever merges or delivers them can link
to those. Nothing here knows the SDK: a request that isn't traced has no span at all.

Forbidden here: what is traced (`tracing`).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from dynamo_core.versions import Dot
from dynamo_telemetry.contexts import SAMPLED, SpanContext

log = logging.getLogger(__name__)

WROTE: Final = 0x80
"""A flag that only nodes send each other, in a frame's context: its trace wrote the newest
version in the frame. Whoever else sends an object has only passed it on."""
CHILD_IDS: Final = 0xFF
"""The part of a span's id that tells children from their root: see `Span.child`."""
KEYS_MAX: Final = 4096
WRITERS_PER_KEY_MAX: Final = 32

Links = list[tuple[SpanContext, dict[str, Any]]]
_P = ParamSpec("_P")
_T = TypeVar("_T")
_told: Final[set[str]] = set()
"""Steps whose failure was told, so that none floods the log."""


def harmless(step: Callable[_P, _T]) -> Callable[_P, _T | None]:
    """What goes wrong in `step` is told once and costs a span, never the request it is about."""

    @wraps(step)
    def guarded(*args: _P.args, **more: _P.kwargs) -> _T | None:
        try:
            return step(*args, **more)
        except Exception as error:
            if step.__qualname__ not in _told:
                _told.add(step.__qualname__)
                log.error("tracing failed, spans are lost: %r", error, exc_info=error)
            return None

    return guarded


class Span:
    """One span that has begun; `end` sends it. Times are those of `clock`, in seconds."""

    __slots__ = (
        "_children",
        "_clock",
        "_send",
        "attributes",
        "began",
        "context",
        "ended",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "parent",
        "until",
    )

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        clock: Callable[[], float],
        send: "Callable[[Span], None]",
        *,
        kind: str = "internal",
        began: float | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.began = clock() if began is None else began
        self.until = 0.0
        self.attributes: dict[str, Any] = attributes or {}
        self.events: list[tuple[str, float, dict[str, Any]]] = []
        self.links: Links = []
        self.error: str | None = None
        self._clock = clock
        self._send = send
        self._children = 0
        self.ended = False

    def child(
        self,
        name: str,
        attributes: dict[str, Any] | None = None,
        *,
        kind: str = "internal",
        began: float | None = None,
    ) -> "Span":
        """A span below this one, which is a root of this node.

        Its id is its root's but for the last byte, so that a replica that gets the child's
        knows the root as well: what wrote a version is the whole put, not a message of it.
        """
        self._children += 1
        base = self.context.span_id & ~CHILD_IDS
        # Beyond 255 children ids of another root's form go on; only links would miss it.
        span_id = (
            base + self._children if self._children <= CHILD_IDS else base ^ (self._children << 8)
        )
        return Span(
            name,
            SpanContext(self.context.trace_id, span_id),
            self.context,
            self._clock,
            self._send,
            kind=kind,
            began=began,
            attributes=attributes,
        )

    def header(self, wrote: bool = False) -> bytes:
        """The 25 bytes under which another process goes on with this span."""
        return self.context._replace(flags=SAMPLED | (WROTE if wrote else 0)).to_bytes()

    def event(self, name: str, **attributes: Any) -> None:
        """Something happened within it, now."""
        self.events.append((name, self._clock(), attributes))

    def end(self, error: str | None = None) -> None:
        """It has ended, now, and is sent; only the first end counts."""
        if self.ended:
            return
        self.ended = True
        self.until = self._clock()
        self.error = error
        self._send(self)


def root_of(context: SpanContext) -> SpanContext:
    """The root of this node's span or of one of its children."""
    return SpanContext(context.trace_id, context.span_id & ~CHILD_IDS)


def caused_by(writers: Iterable[SpanContext]) -> Links:
    """Links to what has caused something, each once."""
    return [(writer, {"dynamo.link": "caused_by"}) for writer in dict.fromkeys(writers)]


class Writers:
    """Which traces wrote the versions of the keys written last; bounded.

    A version whose write wasn't traced, or is forgotten, has none.
    """

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, dict[Dot, SpanContext]] = OrderedDict()

    def wrote(self, digest: bytes, dot: Dot, context: SpanContext, alive: Iterable[Dot]) -> None:
        """The root `context` wrote `dot`; of the key's versions those in `alive` are left."""
        left = self._keys.pop(digest, {})
        kept = {d: left[d] for d in alive if d in left}
        kept[dot] = context
        while len(kept) > WRITERS_PER_KEY_MAX:
            del kept[next(iter(kept))]
        self._keys[digest] = kept
        if len(self._keys) > KEYS_MAX:
            self._keys.popitem(last=False)

    def of(self, digest: bytes, dots: Iterable[Dot]) -> list[SpanContext]:
        """The writers of these versions, as far as they are known."""
        known = self._keys.get(digest)
        return [known[dot] for dot in dots if dot in known] if known else []

    def __bool__(self) -> bool:
        return bool(self._keys)
