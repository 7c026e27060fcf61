"""Traced: the spans of what one operation asks of whom, if its request is traced.

Owns one span for each replica that an operation awaits, from the message to the answer.
For a request that isn't traced, which nearly all aren't, each of these is one look at a
field. One that is slow becomes a traced request while it is under way: what is still
awaited then is known, and only that has made it slow.
"""

from typing import TYPE_CHECKING, Final

from dynamo_core import wire
from dynamo_core.errors import Corrupt
from dynamo_core.wire import Code
from dynamo_node.links import LOST, Link
from dynamo_node.spans import Span

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator
    from dynamo_node.request import Request

READ: Final = "replica.read"
WRITE: Final = "replica.write"
HINT: Final = "hint.store"
"""What is asked of a replica, as spans name it."""

_NONE: Final[dict[int, Span]] = {}


class Traced:
    """What `InFlight` does about spans."""

    __slots__ = ("_asked", "_coordinator", "_here", "_request", "_spans")

    def __init__(self, coordinator: "Coordinator", request: "Request") -> None:
        self._coordinator = coordinator
        self._request = request
        self._asked: dict[int, tuple[Link, int]] = {}  # node -> where its reply is awaited
        self._here = False
        """Whether this node's own part is awaited."""
        self._spans = _NONE
        """Node -> what is awaited of it."""

    def _traced(self, name: str, node: int, hint_for: int = 0) -> bytes:
        """The context for a message to `node`: of a span that begins with it, if it is traced."""
        request = self._request
        if request.span is None:
            return request.trace
        return self._begin(request.span, name, node, hint_for).header(wrote=name != READ)

    def _begin(
        self, root: Span, name: str, node: int, hint_for: int, began: float | None = None
    ) -> Span:
        span = self._coordinator.tracing.asking(root, name, node, hint_for, began)
        if self._spans is _NONE:
            self._spans = {}
        elif node in self._spans:
            self._spans[node].end("it was asked for something else")
        self._spans[node] = span
        return span

    def _ended(self, node: int, error: str | None = None) -> None:
        """What was awaited of `node` has come, or won't."""
        if (span := self._spans.pop(node, None)) is not None:
            span.end(error)

    def _let_go(self) -> None:
        """Nothing is awaited any more."""
        for span in self._spans.values():
            span.end("it wasn't awaited any longer")
        self._spans = _NONE

    def _is_slow(self, name: str) -> bool:
        """Nobody is answered yet: whether it is traced from now on, as far as the rate allows."""
        request, coordinator = self._request, self._coordinator
        if request.span is not None or not coordinator.tracing.on:
            return False
        request.span = root = coordinator.tracing.slow(request)
        if root is None:
            return False
        awaited = [*self._asked, coordinator.topology.number] if self._here else [*self._asked]
        for node in awaited:
            self._begin(root, name, node, 0, request.began)
        return True


def stored(span: Span, error: BaseException | None) -> None:
    """What this node stores itself is durable, or isn't stored."""
    if error is None:
        span.event("storage.committed")
    span.end(None if error is None else str(error))


def refusal(kind: int, payload: bytes) -> str:
    """What a span says of an answer that isn't the one which was wanted."""
    if kind == LOST:
        return "it can't be reached"
    if kind != wire.Type.ERROR:
        return f"it answers with a frame of type {kind}"
    try:
        code, text = payload[0], ""
        if code not in (Code.REAPED, Code.OTHER_ROW):
            code, text = wire.unpack_error(payload)
        name = Code(code).name.lower().replace("_", " ")
    except (Corrupt, ValueError, IndexError):
        return "it refuses"
    return f"{name}: {text}" if text else name
