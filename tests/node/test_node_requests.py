"""Requests: each gets one answer in time, whatever the disk, the peers and the ring do."""

import asyncio
import time
from typing import Any

import pytest
from tests.node.coordinator_world import (
    KEY,
    TAKEN,
    WRITTEN,
    FakeLink,
    FakeReplica,
    answer_of,
    coordinating,
)

from dynamo_core import objects, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.config import Limits, Settings
from dynamo_node.refusals import RefusedError
from dynamo_node.request import Request

pytestmark = pytest.mark.timeout(20)

_SOLE = objects.to_bytes(
    objects.put(objects.ABSENT, EMPTY, objects.Sibling((b"a" * 16, 1), bytes(16), 1, "", b"v"))
)


async def test_a_write_is_answered_in_time_however_slow_this_nodes_disk_is() -> None:
    links: dict[int, FakeLink] = {}
    replica = FakeReplica(slow=True)
    coordinator = coordinating(1, links, replica)
    outcome = await answer_of(coordinator, Op.PUT, timeout_ms=60)
    assert outcome.kind == Kind.UNAVAILABLE
    links[2] = FakeLink(WRITTEN)
    replica.loaded.pop()()  # the disk is back, but its author may have written it elsewhere
    assert not links[2].asked, "what was given up isn't minted: it may have been deleted since"


async def test_a_write_that_waits_for_this_nodes_disk_is_handed_on() -> None:
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    replica = FakeReplica(slow=True)
    outcome = await answer_of(coordinating(1, links, replica), Op.PUT)
    assert (outcome.kind, outcome.primary) == (Kind.WRITTEN, 2)
    assert links[2].asked == [Type.FORWARD]
    replica.loaded.pop()()
    assert links[2].asked == [Type.FORWARD], "two coordinators for one write are one too many"


async def test_a_write_waits_for_this_nodes_disk_where_nobody_else_is_there() -> None:
    replica = FakeReplica(slow=True)
    links: dict[int, FakeLink] = {}
    coordinator = coordinating(1, links, replica)
    coordinator.topology.healthy = lambda number: False  # type: ignore[method-assign]
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, KEY, quorum=1, value=b"v"), 2000, answers.append)
    await asyncio.sleep(0.1)
    assert not answers
    replica.loaded.pop()()
    assert [a.kind for a in answers] == [Kind.WRITTEN]


async def test_a_write_whose_owner_leaves_the_ring_meanwhile_is_written() -> None:
    replica = FakeReplica(slow=True)
    links = {2: FakeLink(WRITTEN), 3: FakeLink(WRITTEN)}
    coordinator = coordinating(1, links, replica)
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, KEY, value=b"v"), 1000, answers.append)
    del links[3]
    replica.loaded.pop()()
    async with asyncio.timeout(5):
        while not answers or 3 not in replica.kept:  # noqa: ASYNC110 - an answer is polled
            await asyncio.sleep(0.002)
    assert answers[0].kind == Kind.WRITTEN


async def test_a_read_whose_owners_leave_the_ring_and_whose_record_is_damaged_is_answered() -> None:
    coordinator = coordinating(1, {2: FakeLink(None)}, FakeReplica())
    outcome = await answer_of(coordinator, Op.GET, timeout_ms=200)
    assert outcome.kind == Kind.UNAVAILABLE
    assert outcome.got == 0


@pytest.mark.parametrize("kind", [Kind.OVERLOADED, Kind.UNAVAILABLE])
async def test_a_forward_that_no_owner_takes_is_coordinated_here(kind: Kind) -> None:
    no = (int(Type.OPERATION_REPLY), wire.pack_outcome(Outcome(kind)))
    replica = FakeReplica()

    class Starting(FakeLink):
        """An owner that can't mint yet, but is as good a replica as any."""

        def request(self, kind: int, payload: bytes, *rest: Any) -> int:
            self.answer = no if kind == Type.FORWARD else WRITTEN
            return super().request(kind, payload, *rest)

    links: dict[int, FakeLink] = {n: Starting(None) for n in (2, 3)}  # 1 has left
    outcome = await answer_of(coordinating(4, links, replica), Op.PUT, timeout_ms=1000)
    assert outcome.kind == Kind.WRITTEN
    assert links[2].asked[0] == Type.FORWARD


async def test_a_forward_to_a_silent_owner_leaves_nobody_waiting() -> None:
    links = {n: FakeLink(None) for n in (1, 2, 3)}
    outcome = await answer_of(coordinating(4, links, FakeReplica()), Op.PUT, timeout_ms=100)
    assert outcome.kind == Kind.UNAVAILABLE
    assert not any(link.waiting for link in links.values())


STARTING = RefusedError(Kind.OVERLOADED, "still starting")


@pytest.mark.parametrize("refusal", [STARTING, Corrupt("a damaged record")])
async def test_an_owner_that_can_not_coordinate_hands_the_write_on(refusal: DynamoError) -> None:
    replica = FakeReplica()
    replica.refusal = refusal
    no = (int(Type.OPERATION_REPLY), wire.pack_outcome(Outcome(Kind.OVERLOADED)))
    links = {2: FakeLink(no), 3: FakeLink(TAKEN)}
    outcome = await answer_of(coordinating(1, links, replica), Op.PUT)
    assert (outcome.kind, outcome.primary) == (Kind.WRITTEN, 2)
    assert links[2].asked == links[3].asked == [Type.FORWARD]


async def test_an_owner_that_can_not_coordinate_falls_back_on_a_stand_in_then_says_why() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    coordinator = coordinating(1, {4: FakeLink(TAKEN)}, replica)
    assert (await answer_of(coordinator, Op.PUT)).kind == Kind.WRITTEN
    outcome = await answer_of(coordinating(1, {}, replica), Op.PUT)
    assert (outcome.kind, outcome.detail) == (Kind.OVERLOADED, "still starting")


async def test_what_its_author_can_mend_is_not_handed_on() -> None:
    replica = FakeReplica()
    replica.refusal = RefusedError(Kind.TOO_MANY_SIBLINGS, "read first")
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    outcome = await answer_of(coordinating(1, links, replica), Op.PUT)
    assert outcome.kind == Kind.TOO_MANY_SIBLINGS
    assert not links[2].asked


async def test_a_forwarded_write_is_not_forwarded_again() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    answers: list[Outcome] = []
    put = Operation(Op.PUT, KEY, value=b"v")
    coordinating(1, links, replica).operate(put, 100, answers.append, forwarded=True)
    assert [a.kind for a in answers] == [Kind.OVERLOADED]
    assert not links[2].asked


async def test_a_write_that_an_owner_may_have_is_never_said_to_be_unwritten() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    outcome = await answer_of(coordinating(1, {2: FakeLink(None)}, replica), Op.PUT, 60)
    assert outcome.kind == Kind.UNAVAILABLE
    assert "may or may not exist" in outcome.detail


async def test_silent_owners_leave_time_to_coordinate_here() -> None:
    links = {n: FakeLink(None) for n in (1, 2, 3)}
    replica = FakeReplica()
    coordinator = coordinating(5, {**links, 4: FakeLink(WRITTEN)}, replica)
    outcome = await answer_of(coordinator, Op.PUT, 800)
    assert (outcome.kind, outcome.standin) == (Kind.WRITTEN, 2)


async def test_a_late_no_of_one_owner_does_not_cut_short_the_next_ones_time() -> None:
    late, slow = FakeLink(None), FakeLink(None)
    coordinator = coordinating(4, {1: late, 2: slow}, FakeReplica())
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, KEY, value=b"v"), 1000, answers.append)
    async with asyncio.timeout(5):
        while not slow.asked:  # noqa: ASYNC110 - the timer's turn is polled
            await asyncio.sleep(0.002)
    no = wire.pack_outcome(Outcome(Kind.UNAVAILABLE))
    late.waiting.pop(1)(int(Type.OPERATION_REPLY), no)
    slow.waiting.pop(1)(*TAKEN)
    assert [a.kind for a in answers] == [Kind.WRITTEN]


async def test_a_read_asks_one_stand_in_after_another_while_owners_are_silent() -> None:
    found = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.WHOLE, 0, _SOLE))
    empty = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.NOTHING, 0))
    links = {2: FakeLink(None), 3: FakeLink(None), 4: FakeLink(empty), 5: FakeLink(found)}
    coordinator = coordinating(1, links, FakeReplica())
    coordinator.topology.others = (4, 5)  # type: ignore[attr-defined]
    outcome = await answer_of(coordinator, Op.GET, 1000)
    assert (outcome.kind, outcome.standin) == (Kind.VALUES, 2)


async def test_a_delete_whose_read_took_all_its_time_writes_nothing() -> None:
    found = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.WHOLE, 0, _SOLE))
    links = {2: FakeLink(None), 3: FakeLink(None)}
    replica = FakeReplica()
    coordinator = coordinating(1, links, replica)
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.DELETE, KEY), 50, answers.append)
    time.sleep(0.06)  # noqa: ASYNC251 - the loop lags: both answers come after the deadline
    for link in links.values():
        link.waiting.popitem()[1](*found)
    await asyncio.sleep(0)  # in which it would be read that the caller has gone
    assert [(a.kind, "nothing was deleted" in a.detail) for a in answers] == [
        (Kind.UNAVAILABLE, True)
    ]
    assert not replica.loaded, "minted for nobody"


async def test_nothing_is_deleted_for_a_caller_that_has_gone() -> None:
    """Its connection may have ended while its request waited to be read."""
    found = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.WHOLE, 0, _SOLE))
    links = {2: FakeLink(None), 3: FakeLink(None)}
    replica = FakeReplica()
    coordinator = coordinating(1, links, replica)
    answers: list[Outcome] = []
    gone = False
    coordinator.operate(Operation(Op.DELETE, KEY), 2000, answers.append, gone=lambda: gone)
    for link in links.values():
        link.waiting.popitem()[1](*found)
    gone = True  # in the turn in which the last answer came
    await asyncio.sleep(0)
    assert [(a.kind, "has gone; nothing was deleted" in a.detail) for a in answers] == [
        (Kind.UNAVAILABLE, True)
    ]
    assert not replica.loaded, "minted for nobody"


async def test_a_stand_in_that_can_not_coordinate_hands_the_write_to_another() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    links = {4: FakeLink(TAKEN)}  # and none to an owner
    assert (await answer_of(coordinating(5, links, replica), Op.PUT)).kind == Kind.WRITTEN
    assert links[4].asked == [Type.FORWARD]
    # Where an owner was asked before, it isn't said that nothing was written.
    silent = {2: FakeLink(None), 4: FakeLink(None)}
    outcome = await answer_of(coordinating(5, silent, replica), Op.PUT, 100)
    assert outcome.kind == Kind.UNAVAILABLE


async def test_nothing_is_begun_anew_after_its_time() -> None:
    """Slots moved, and the loop lagged meanwhile until the request's time was over."""
    coordinator = coordinating(1, {}, FakeReplica())
    answers: list[Outcome] = []
    begun: list[int] = []
    for timeout_ms in (0, 1000):
        request = Request(
            coordinator.loop, KEY, timeout_ms, b"", answers.append, coordinator.settings()
        )
        coordinator._guarded(request, lambda timeout_ms=timeout_ms: begun.append(timeout_ms))
    assert begun == [1000]
    assert [answer.kind for answer in answers] == [Kind.UNAVAILABLE]


async def test_a_request_keeps_the_settings_that_it_began_with() -> None:
    """A delete that reads first: what it writes after a change still needs the W of before."""
    found = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.WHOLE, 0, _SOLE))
    links = {2: FakeLink(None), 3: FakeLink(None)}
    coordinator = coordinating(1, links, FakeReplica())
    coordinator.settings = lambda: Settings(2, 1)
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.DELETE, KEY), 2000, answers.append, forwarded=True)
    coordinator.settings = lambda: Settings(2, 3, Limits(value_bytes_max=1))
    for link in links.values():
        link.waiting.popitem()[1](*found)
    await asyncio.sleep(0)  # in which it would be read that the caller has gone
    assert [a.kind for a in answers] == [Kind.WRITTEN], "one replica was enough when it began"
    coordinator.operate(Operation(Op.PUT, KEY, value=b"long"), 2000, answers.append)
    assert answers[1].kind == Kind.TOO_LARGE
