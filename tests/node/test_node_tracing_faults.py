"""What tracing may never do: fail a request, lose what a write counts, keep a node from a start."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.node.coordinator_world import (
    KEY,
    WRITTEN,
    FakeLink,
    FakeReplica,
    answer_of,
    coordinating,
)

from dynamo_core import objects, wire
from dynamo_core.frames import Frame
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import EMPTY
from dynamo_core.wire import ROW_BYTES, Op, Operation, Type
from dynamo_node import tracing as tracing_module
from dynamo_node.coordinator import Coordinator
from dynamo_node.served import served
from dynamo_node.service import Service
from dynamo_node.spans import WROTE, Writers
from dynamo_node.tracing import Tracing
from dynamo_telemetry.contexts import SAMPLED, SpanContext
from dynamo_telemetry.endpoints import Tracing as Wanted

pytestmark = pytest.mark.timeout(20)

CONTEXT = SpanContext(7 << 64 | 9, 1 << 40)


class Recorded:
    """In the place of a pipeline: keeps names and contexts, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.spans: list[tuple[str, SpanContext]] = []

    def record(self, name: str, context: SpanContext, *rest: Any, **more: Any) -> None:
        if self.fails:
            raise RuntimeError("as the test wants it")
        self.spans.append((name, context))


class Member(FakeLink):
    """A peer with an address, which notes the contexts that it is sent."""

    def __init__(self) -> None:
        super().__init__(WRITTEN)
        self.member = SimpleNamespace(host="127.0.0.1", native_port=1)
        self.traces: list[bytes] = []

    def request(self, kind: int, payload: bytes, ms: int, on: Any, trace: bytes = b"") -> int:
        self.traces.append(trace)
        return super().request(kind, payload, ms, on, trace)


def traced(
    links: dict[int, Any], replica: FakeReplica, recorded: Recorded, ratio: int = 1
) -> Coordinator:
    coordinator = coordinating(1, links, replica)
    tracing = coordinator.tracing
    tracing.on, tracing._bound, tracing._pipeline = True, ratio << 64, cast(Any, recorded)
    return coordinator


def minting() -> FakeReplica:
    replica = FakeReplica()
    sibling = objects.Sibling((b"b" * 16, 1), b"n" * 16, 2, "", b"v")
    replica.minted = objects.to_bytes(objects.put(objects.ABSENT, EMPTY, sibling)), EMPTY
    return replica


def _breaks(*told: Any, **more: Any) -> Any:
    raise RuntimeError("as the test wants it")


@pytest.mark.parametrize("what", ["record", "key_hash", "writers"])
async def test_a_put_is_acknowledged_and_ended_whatever_breaks_in_tracing(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = traced({2: Member(), 3: Member()}, minting(), Recorded(what == "record"))
    if what == "key_hash":
        monkeypatch.setattr(Tracing, "key_hash", _breaks)
    elif what == "writers":
        monkeypatch.setattr(Writers, "wrote", _breaks)
    assert (await answer_of(coordinator, Op.PUT)).kind == Kind.WRITTEN
    assert coordinator.writing == 0


async def test_a_slow_put_is_ended_whatever_breaks_in_tracing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links: dict[int, Any] = {2: FakeLink(None), 3: FakeLink(None), 4: Member()}
    coordinator = traced(links, minting(), Recorded(True), ratio=0)
    monkeypatch.setattr(Tracing, "_late", _breaks)
    assert (await answer_of(coordinator, Op.PUT)).kind == Kind.WRITTEN
    assert coordinator.writing == 0


async def test_a_refusal_is_told_whatever_breaks_in_tracing() -> None:
    coordinator = traced({}, FakeReplica(), Recorded(True))
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, b""), 100, answers.append)
    assert [answer.kind for answer in answers] == [Kind.BAD_REQUEST]


async def test_what_was_forwarded_unsampled_is_not_sampled_anew() -> None:
    """Who asked it has decided; a context comes with what is to be traced."""
    recorded = Recorded()
    coordinator = traced({2: Member(), 3: Member()}, minting(), recorded)
    for trace, forwarded in ((b"", True), (CONTEXT.to_bytes(), True), (b"", False)):
        answers: list[Outcome] = []
        operation = Operation(Op.PUT, KEY, value=b"v")
        coordinator.operate(operation, 200, answers.append, trace, forwarded=forwarded)
        async with asyncio.timeout(5):
            while not answers or coordinator.busy:  # noqa: ASYNC110 - an answer is polled
                await asyncio.sleep(0.002)
    roots = [context for name, context in recorded.spans if name == "dynamo.put"]
    assert len(roots) == 2
    assert roots[0].trace_id == CONTEXT.trace_id


async def test_an_environment_that_the_sdk_refuses_turns_tracing_off_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that starts applies what it finds on its disk: it has to start."""
    tracing = coordinating(1, {}, FakeReplica()).tracing
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")
    with caplog.at_level(logging.ERROR, tracing_module.__name__):
        await tracing.apply(Wanted("http://127.0.0.1:4318", 1.0), "0")
    assert tracing.facts()["on"] is False
    assert "http://127.0.0.1:4318" in caplog.text
    monkeypatch.delenv("OTEL_SPAN_EVENT_COUNT_LIMIT")
    await tracing.apply(Wanted("http://127.0.0.1:4318", 1.0), "0")
    assert tracing.facts()["on"] is True
    monkeypatch.setattr(tracing._pipeline, "close", _breaks)
    await tracing.close()  # what follows it at a node's end is the marker of a clean one


def _node(tracing: Any) -> Any:
    return SimpleNamespace(
        tracing=tracing, topology=SimpleNamespace(host_name=str), handlers={}, write_id=bytes
    )


def _frame(kind: Type, payload: bytes, flags: int) -> Frame:
    trace = CONTEXT._replace(flags=flags).to_bytes()
    return Frame(kind, 1, 1, 100, 0, bytes(16), trace, payload)


async def test_a_write_that_tracing_can_not_read_is_left_to_who_judges_it() -> None:
    tracing = coordinating(1, {}, FakeReplica()).tracing
    hello = SimpleNamespace(name="peer", number=2)
    caller = cast(Any, SimpleNamespace(hello=hello, is_client=False))
    broken = bytes(ROW_BYTES) + wire.pack_write(b"k", b"no object", 0, 0, False)
    for payload in (broken, b"", bytes(ROW_BYTES)):
        frame = _frame(Type.WRITE, payload, SAMPLED | WROTE)
        assert served(_node(tracing), caller, frame) is caller


@pytest.mark.parametrize("flags", [WROTE, WROTE | SAMPLED, 0xFE])
def test_a_client_can_not_say_that_its_trace_wrote_what_a_node_sends(flags: int) -> None:
    told: list[bytes] = []

    def operate(operation: Any, ms: int, answer: Any, trace: bytes, **_: Any) -> None:
        told.append(trace)

    service = Service.__new__(Service)
    service._node = node = _node(None)
    node.coordinator = SimpleNamespace(operate=operate)
    payload = wire.pack_operation(Operation(Op.PUT, KEY, value=b"v"))
    service._operate(cast(Any, None), _frame(Type.OPERATION, payload, flags))
    assert told == [CONTEXT._replace(flags=flags & SAMPLED).to_bytes()]
