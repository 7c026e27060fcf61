"""Background spans: traces of what a node does on its own account.

Owns one trace for each repair after a read, hint that is delivered, round of anti-entropy
and partition that moves. Each is a trace of its own, since it may come long after what
has caused it; it is linked to the writes it is about, as far as those were traced and
are remembered here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from dynamo_core import wire
from dynamo_core.records import DIGEST_BYTES
from dynamo_node.progress import Progress
from dynamo_node.spans import Span, caused_by
from dynamo_node.storage import Done
from dynamo_node.traced import WRITE, refusal, stored
from dynamo_node.tracing import Tracing
from dynamo_telemetry.contexts import SpanContext

if TYPE_CHECKING:
    from dynamo_node.node import Node
    from dynamo_node.request import Request

ROUND_OUTCOMES: Final = ("equal", "repaired", "differs")
"""How a comparison ends that nothing was wrong with."""
Ask = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""Ask a node something, with the context of a trace."""


class RepairSpans:
    """The trace of one read's repairs, if it is traced: its own, linked to the read and to
    what wrote the versions that are passed on."""

    def __init__(self, tracing: Tracing, request: "Request", digest: bytes, obj: bytes) -> None:
        self._tracing = tracing
        self._left = 0
        self._span: Span | None = None
        if tracing.on:
            read = [request.span.context] if request.span is not None else []
            self._span = tracing.background(
                "read_repair", [*read, *tracing.writers_of(digest, obj)]
            )
        if self._span is not None:
            self._span.attributes["dynamo.key_hash"] = tracing.key_hash(request.key)

    def asked(self, node: int) -> tuple[bytes, Done]:
        """The context for the message to `node`, and what is called with how it went."""
        root = self._span
        if root is None:
            return b"", _nobody_is_told
        span = self._tracing.asking(root, WRITE, node)
        self._left += 1

        def done(error: BaseException | None) -> None:
            if span.ended:
                return
            stored(span, error)
            self._left -= 1
            if not self._left:
                root.end()

        return span.header(), done


class DeliverySpans:
    """The trace of one hint's delivery, if it is traced: its own, linked to what wrote it."""

    def __init__(self, tracing: Tracing, place: bytes, obj: bytes) -> None:
        """`place`: of the hint, its target, digest and key."""
        digest, key = place[4 : 4 + DIGEST_BYTES], place[4 + DIGEST_BYTES :]
        self._tracing = tracing
        self._span = tracing.background("hint.deliver", tracing.writers_of(digest, obj))
        if self._span is not None:
            self._span.attributes |= {
                "dynamo.key_hash": tracing.key_hash(key),
                "dynamo.hint_for": tracing.name_of(int.from_bytes(place[:4], "big")),
                "dynamo.object.bytes": len(obj),
            }

    async def given(self, node: int, ask: Ask) -> tuple[int, bytes]:
        """`ask` a node with the context of a span that its answer ends."""
        if self._span is None:
            return await ask(b"")
        span = self._tracing.asking(self._span, WRITE, node)
        kind, reply = await ask(span.header())
        span.end(None if kind == wire.Type.WRITTEN else refusal(kind, reply))
        return kind, reply

    def end(self, kind: int, reply: bytes) -> None:
        """How it went, for all who were to have it."""
        if self._span is not None:
            self._span.end(None if kind == wire.Type.WRITTEN else refusal(kind, reply))


def _nobody_is_told(error: BaseException | None) -> None:
    """A repair that isn't traced."""


class RoundSpan:
    """The trace of one comparison with a peer: one of the share, or one that has repaired."""

    def __init__(self, tracing: Tracing, peer: str, partitions: int) -> None:
        self._tracing = tracing
        self._began = asyncio.get_running_loop().time()
        self._said = {"dynamo.peer": peer, "dynamo.partitions": partitions}
        self._span = tracing.background("antientropy.round")
        self.header = b"" if self._span is None else self._span.header()
        """The context for what is asked of the peer."""

    def end(
        self, outcome: str, sent: int, received: int, size: int, writers: list[SpanContext]
    ) -> None:
        """How it went: keys either way, bytes, and what wrote those keys' versions."""
        span = self._span
        if span is None and (sent or received):
            span = self._tracing.background(
                "antientropy.round", writers, anyway=True, began=self._began
            )
        elif span is not None:
            span.links = caused_by(writers)
        if span is None:
            return
        span.attributes |= {
            **self._said,
            "dynamo.outcome": outcome,
            "dynamo.keys.sent": sent,
            "dynamo.keys.received": received,
            "dynamo.bytes": size,
        }
        span.end(None if outcome in ROUND_OUTCOMES else outcome)


def transferred(node: "Node", progress: Progress) -> None:
    """The trace of a partition that has come here and counts now, as far as the rate allows."""
    span = node.tracing.background("partition.transfer", anyway=True, began=progress.began)
    if span is None:
        return
    source = node.tracing.name_of(progress.source)
    span.attributes |= {
        "dynamo.partition": progress.partition,
        "dynamo.peer": source,
        "dynamo.bytes": progress.bytes,
        "dynamo.epoch": node.topology.name.epoch,
    }
    if progress.sealed_at:
        sealed = node.tracing.exact(progress.sealed_at)
        seal = span.child("partition.seal", {"dynamo.peer": source}, began=sealed)
        seal.end()
    span.end()
