"""Spans before they are sent: ids of children, and who wrote which version, bounded."""

from dynamo_core.versions import Dot
from dynamo_node import spans
from dynamo_node.spans import WROTE, Span, Writers, root_of
from dynamo_telemetry.contexts import SpanContext


def context(n: int) -> SpanContext:
    return SpanContext(1 << 100, n << 8)


def digest(n: int) -> bytes:
    return n.to_bytes(16, "big")


A: Dot = (b"a" * 16, 1)
B: Dot = (b"b" * 16, 1)
C: Dot = (b"c" * 16, 1)


def test_a_replica_finds_the_root_in_what_a_child_sends() -> None:
    sent: list[Span] = []
    root = Span("dynamo.put", context(7), None, lambda: 1.0, sent.append)
    children = [root.child("replica.write") for _ in range(300)]
    assert len({child.context.span_id for child in [root, *children]}) == 301
    for child in children[:255]:
        found = SpanContext.from_bytes(child.header(wrote=True))
        assert found is not None
        assert found.flags & WROTE
        assert found.sampled
        assert root_of(found) == root.context
    children[0].end()
    children[0].end("again")
    assert [(span.name, span.error) for span in sent] == [("replica.write", None)]


def test_writers_are_known_by_key_and_version() -> None:
    writers = Writers()
    writers.wrote(digest(1), A, context(1), [A])
    writers.wrote(digest(1), B, context(2), [A, B])
    assert writers.of(digest(1), [A, B, C]) == [context(1), context(2)]
    assert writers.of(digest(2), [A]) == []
    writers.wrote(digest(1), C, context(3), [C])  # which has replaced both
    assert writers.of(digest(1), [A, B, C]) == [context(3)]


def test_writers_are_bounded_by_keys_and_versions() -> None:
    writers = Writers()
    dots = [(b"a" * 16, n + 1) for n in range(100)]
    for n, dot in enumerate(dots):
        writers.wrote(digest(0), dot, context(n + 1), dots)
    assert len(writers.of(digest(0), dots)) == spans.WRITERS_PER_KEY_MAX
    assert writers.of(digest(0), [dots[-1]]) == [context(100)]
    for n in range(1, spans.KEYS_MAX + 1):
        writers.wrote(digest(n), A, context(n), [A])
    assert writers.of(digest(0), dots) == []
    assert writers.of(digest(1), [A]) == [context(1)]
