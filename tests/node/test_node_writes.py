"""Writes: under which round a copy is sent, who is asked to stand in, and what is kept."""

import asyncio
from collections.abc import Callable
from typing import Any

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
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.links import LOST
from dynamo_node.refusals import ReapedError

pytestmark = pytest.mark.timeout(20)


OLD = objects.Sibling((b"a" * 16, 1), b"o" * 16, 1, "", b"old")
NEW = objects.Sibling((b"b" * 16, 1), b"n" * 16, 2, "", b"new")
BESIDE = objects.put(objects.put(objects.ABSENT, EMPTY, OLD), EMPTY, NEW)
LATER = objects.to_bytes(objects.put(BESIDE, BESIDE.clock, NEW._replace(dot=(b"b" * 16, 2))))


class Reaped(FakeLink):
    """A peer that refuses what is stamped below `reap_round`; `while_asked` is called first."""

    def __init__(self, reap_round: int, while_asked: Callable[[], Any] = lambda: None) -> None:
        super().__init__(WRITTEN)
        self.reap_round = reap_round
        self.while_asked = while_asked

    def request(self, kind: int, payload: bytes, *rest: Any) -> int:
        self.while_asked()
        old = wire.unpack_write(payload[wire.ROW_BYTES :]).reap_round < self.reap_round
        no = int(Type.ERROR), wire.pack_reaped(NO_RING, self.reap_round)
        self.answer = no if old else WRITTEN
        return super().request(kind, payload, *rest)

    def taken(self) -> wire.Write:
        assert len(self.payloads) == 2, "refused once, then taken"
        return wire.unpack_write(self.payloads[-1][wire.ROW_BYTES :])


def _minting(obj: bytes) -> FakeReplica:
    replica = FakeReplica()
    replica.minted = obj, EMPTY.with_dot(NEW.dot)
    return replica


async def test_an_owner_that_has_reaped_gets_the_write_alone() -> None:
    # What stands beside it here may have been reaped there.
    replica = _minting(objects.to_bytes(BESIDE))
    link = Reaped(5)
    outcome = await answer_of(coordinating(1, {2: link, 3: FakeLink(None)}, replica), Op.PUT)
    assert outcome.kind == Kind.WRITTEN
    sent = link.taken()
    assert objects.from_bytes(sent.obj) == objects.put(objects.ABSENT, EMPTY, NEW)
    assert sent.reap_round == 5
    assert replica.rounds.stamp(0) == 0, "the rest of this node's copy is of no later round"


async def test_a_round_that_a_stand_in_has_promised_is_taken_before_anything_carries_it() -> None:
    replica = _minting(objects.to_bytes(BESIDE))
    stand_in = Reaped(5, lambda: stamps.append(replica.rounds.stamp(0)))
    stamps: list[int] = []
    links = {2: FakeLink((int(Type.ERROR), wire.pack_error(wire.Code.READ_ONLY))), 4: stand_in}
    outcome = await answer_of(coordinating(1, links, replica), Op.PUT)
    assert (outcome.kind, outcome.standin) == (Kind.WRITTEN, 1)
    assert stamps == [0, 5]
    assert (stand_in.taken().hint_for, stand_in.taken().reap_round) == (2, 5)


async def test_what_w_needs_stays_over_the_limit_when_it_is_sent_under_another_round() -> None:
    class Full(Reaped):
        def request(self, kind: int, payload: bytes, *rest: Any) -> int:
            if wire.unpack_write(payload[wire.ROW_BYTES :]).over:
                return super().request(kind, payload, *rest)
            self.answer = int(Type.ERROR), wire.pack_error(wire.Code.NO_ROOM)
            return FakeLink.request(self, kind, payload, *rest)

    links = {2: FakeLink((LOST, b"")), 3: FakeLink((LOST, b"")), 4: Full(5)}
    outcome = await answer_of(coordinating(1, links, _minting(objects.to_bytes(BESIDE))), Op.PUT)
    assert (outcome.kind, outcome.standin) == (Kind.WRITTEN, 1)
    assert [wire.unpack_write(sent[wire.ROW_BYTES :]).over for sent in links[4].payloads] == [
        False,
        True,
        True,
    ]


async def test_whoever_is_spare_by_the_last_answer_is_asked_before_a_write_fails() -> None:
    # 4 stands for 2, which only seems dead; once that one has answered, 4 can stand for 3.
    links = {2: FakeLink(WRITTEN), 3: FakeLink((LOST, b"")), 4: FakeLink(WRITTEN)}
    coordinator = coordinating(1, links, FakeReplica())
    coordinator.topology.healthy = lambda number: number != 2  # type: ignore[method-assign]
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, KEY, quorum=3, value=b"v"), 200, answers.append)
    await asyncio.sleep(0.1)
    assert [(a.kind, a.primary, a.standin) for a in answers] == [(Kind.WRITTEN, 2, 1)]
    sent = [wire.unpack_write(payload[wire.ROW_BYTES :]) for payload in links[4].payloads]
    assert [write.hint_for for write in sent] == [2, 3]


@pytest.mark.parametrize("kept", [None, Corrupt("a damaged hint")])
async def test_a_write_waits_for_the_hint_by_which_its_coordinator_counts(
    kept: BaseException | None,
) -> None:
    later: list[Callable[[], None]] = []

    class Slow(FakeReplica):
        def keep(self, *args: Any, **row: Any) -> None:
            later.append(lambda: args[-1](kept))

    # It is no owner, stands for 1, which answers as well, and so has to stand for 3.
    links = {1: FakeLink(WRITTEN), 2: FakeLink(WRITTEN), 3: FakeLink((LOST, b""))}
    replica = Slow()
    coordinator = coordinating(5, links, replica)
    coordinator.topology.others = ()  # type: ignore[attr-defined]
    coordinator.topology.healthy = lambda number: number != 1  # type: ignore[method-assign]
    answers: list[Outcome] = []
    request = Operation(Op.PUT, KEY, quorum=3, value=b"v")
    coordinator.operate(request, 1000, answers.append)
    await asyncio.sleep(0.1)
    assert (len(links[1].asked), answers) == (1, [])
    later.pop()()
    await asyncio.sleep(0.01)
    assert [a.kind for a in answers] == [Kind.UNAVAILABLE if kept else Kind.WRITTEN]
    assert not coordinator.busy
    assert replica.marks == ([(3, 0)] if kept else [])


async def test_a_write_that_a_yes_has_overtaken_is_rebuilt_from_what_is_held_now() -> None:
    replica = _minting(objects.to_bytes(BESIDE))
    replica.held = LATER
    link = Reaped(5, lambda: replica.rounds.promise(0, 5))
    outcome = await answer_of(coordinating(1, {2: link, 3: FakeLink(None)}, replica), Op.PUT)
    assert outcome.kind == Kind.WRITTEN
    assert (link.taken().obj, link.taken().reap_round) == (LATER, 5)


async def test_what_is_held_now_without_the_write_is_no_answer_to_it() -> None:
    # The copy here was too old and deleted while the write was on its way.
    replica = _minting(objects.to_bytes(BESIDE))
    replica.held = objects.to_bytes(objects.put(objects.ABSENT, EMPTY, OLD))
    link = Reaped(5, lambda: replica.rounds.promise(0, 5))
    coordinator = coordinating(1, {2: link, 3: FakeLink(None)}, replica)
    outcome = await answer_of(coordinator, Op.PUT, timeout_ms=200)
    assert outcome.kind == Kind.UNAVAILABLE
    assert len(link.payloads) == 1


@pytest.mark.parametrize("error", [ReapedError(NO_RING, 5), Corrupt("a damaged hint")])
async def test_a_hint_that_can_not_be_kept_leaves_a_mark(error: DynamoError) -> None:
    replica = FakeReplica()
    replica.keeps = error
    links = {2: FakeLink(WRITTEN), 3: FakeLink((LOST, b"")), 4: FakeLink((LOST, b""))}
    outcome = await answer_of(coordinating(1, links, replica), Op.PUT)
    assert outcome.kind == Kind.WRITTEN
    assert replica.marks == [(3, 0)]


async def test_what_waits_for_stragglers_is_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynamo_node.writes.WRITING_BYTES_MAX", 10)
    replica = FakeReplica()
    coordinator = coordinating(1, {2: FakeLink(WRITTEN), 3: FakeLink(None)}, replica)
    coordinator.straggler_ms = 60_000
    coordinator.topology.others = ()  # type: ignore[attr-defined]
    answers: list[Outcome] = []
    for expected in ([], [3]):
        coordinator.operate(Operation(Op.PUT, KEY, value=b"v"), 1000, answers.append)
        await asyncio.sleep(0.02)
        assert replica.kept == expected, "as long as there is room it waits"
    assert [a.kind for a in answers] == [Kind.WRITTEN] * 2
    assert coordinator.writing == 1
