"""Served: the spans of what this node does for another one's traced message.

Owns a span from such a message to its reply. What the message asks for, and how it is
answered, belongs to whoever handles it: he gets a caller whose reply ends the span.
"""

from typing import TYPE_CHECKING, Any, Final, cast

from dynamo_core import objects, wire
from dynamo_core.errors import Corrupt
from dynamo_core.frames import Frame
from dynamo_core.ring import position
from dynamo_core.wire import ROW_BYTES, Type
from dynamo_node.inbound import Inbound
from dynamo_node.spans import WROTE, root_of
from dynamo_node.traced import HINT, READ, WRITE, refusal
from dynamo_telemetry.contexts import SpanContext

if TYPE_CHECKING:
    from dynamo_node.node import Node

_COMPARES: Final = (Type.TREE, Type.SEGMENTS, Type.FETCH)


def served(node: "Node", caller: Inbound, frame: Frame) -> Inbound:
    """Who gets the reply to a frame with a context."""
    context, hello = SpanContext.from_bytes(frame.trace), caller.hello
    if context is None or not context.sampled or hello is None or caller.is_client:
        return caller
    try:
        asked = _asked(node, hello.number, frame, context)
    except Corrupt:  # whoever handles it says so
        return caller
    if asked is None:
        return caller
    name, said = asked
    said["dynamo.peer"] = hello.name
    return cast(Inbound, _Caller(caller, node.tracing.serving(name, context, said)))


def _asked(
    node: "Node", number: int, frame: Frame, context: SpanContext
) -> tuple[str, dict[str, Any]] | None:
    """Name and attributes of what node `number` asks for; raises Corrupt for a malformed frame."""
    said: dict[str, Any] = {}
    if frame.type == Type.WRITE:
        write = wire.unpack_write(frame.payload[ROW_BYTES:])
        said["dynamo.key_hash"] = node.tracing.key_hash(write.key)
        said["dynamo.object.bytes"] = len(write.obj)
        if write.hint_for:
            said["dynamo.hint_for"] = node.topology.host_name(write.hint_for)
        if context.flags & WROTE:
            _note_writer(node, number, write, context)
        return HINT if write.hint_for else WRITE, said
    if frame.type == Type.READ:
        key, whole = wire.unpack_read(frame.payload[ROW_BYTES:])
        said["dynamo.key_hash"] = node.tracing.key_hash(key)
        said["dynamo.read.whole"] = whole
        return READ, said
    if frame.type in _COMPARES:
        said["dynamo.question"] = Type(frame.type).name.lower()
        return "antientropy.answer", said
    return None


def _note_writer(node: "Node", number: int, write: wire.Write, context: SpanContext) -> None:
    """The coordinator minted the newest of its own versions in the object by this trace."""
    siblings = objects.from_bytes(write.obj).siblings
    its = [s for s in siblings if int.from_bytes(s.dot[0][:4], "big") == number]
    if its:
        newest = max(its, key=lambda s: (s.written_ms, s.dot[1]))
        alive = [s.dot for s in siblings]
        node.tracing.writers.wrote(position(write.key), newest.dot, root_of(context), alive)


class _Caller:
    """An `Inbound` in everything but its reply."""

    def __init__(self, caller: Inbound, span: Any) -> None:
        self._caller = caller
        self._span = span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._caller, name)

    def reply(self, request_id: int, kind: int, payload: bytes) -> None:
        if kind == Type.WRITTEN:
            self._span.event("storage.committed")
        self._span.end(refusal(kind, payload) if kind == Type.ERROR else None)
        self._caller.reply(request_id, kind, payload)
