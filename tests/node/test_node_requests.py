"""Requests: each gets one answer in time, whatever the disk, the peers and the ring do."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.node.node_processes import CLUSTER_ID, SECRET

from dynamo_core import objects, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.ring import position
from dynamo_core.rounds import Rounds
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.config import parse
from dynamo_node.coordinator import Coordinator, Request
from dynamo_node.links import LOST
from dynamo_node.refusals import ReapedError, RefusedError
from dynamo_node.topology import Place

pytestmark = pytest.mark.timeout(20)

KEY = b"key"
_SOLE = objects.to_bytes(
    objects.put(objects.ABSENT, EMPTY, objects.Sibling((b"a" * 16, 1), bytes(16), 1, "", b"v"))
)
Reply = Callable[[int, bytes], None]


class FakeLink:
    """A peer that answers with what the test says, or not at all."""

    def __init__(self, answer: tuple[int, bytes] | None) -> None:
        self.answer = answer
        self.waiting: dict[int, Reply] = {}
        self.asked: list[int] = []
        self.payloads: list[bytes] = []

    def request(
        self, kind: int, payload: bytes, remaining_ms: int, on_reply: Reply, trace: bytes = b""
    ) -> int:
        self.asked.append(kind)
        self.payloads.append(payload)
        self.waiting[len(self.asked)] = on_reply
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(self.waiting.pop(len(self.asked)), *self.answer)
        return len(self.asked)

    def forget(self, request_id: int) -> None:
        self.waiting.pop(request_id, None)


ROW = b"the row!"


class FakeTopology:
    """This is node `number`; owners are 1, 2, 3 and the rest is 4, or what the test says."""

    name = NO_RING
    leaver = False
    others: tuple[int, ...] = (4,)

    def __init__(self, number: int, links: dict[int, FakeLink]) -> None:
        self.number = number
        self.links = links
        self.ring = cast(Any, type("Ring", (), {"replication": 3}))

    def place(self, key: bytes) -> Place:
        counts = self.number in (1, 2, 3)
        return Place(position(key), 0, (1, 2, 3), self.others, (), ROW, counts)

    def digest(self, partition: int) -> bytes:
        return ROW

    def healthy(self, number: int) -> bool:
        return True

    def staying_first(self, numbers: tuple[int, ...]) -> tuple[int, ...]:
        return numbers

    def host_name(self, number: int) -> str:
        return f"node {number}"


class FakeReplica:
    """Mints and reads at once, or when told: a disk of any speed."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.refusal: DynamoError | None = None
        self.loaded: list[Callable[[], None]] = []
        self.kept: list[int] = []
        self.hints = self
        self.rounds = Rounds()
        self.read_only = lambda: False
        self.minted = b"object", EMPTY
        self.held: bytes | None = None
        self.keeps: BaseException | None = None
        self.marks: list[tuple[int, int]] = []

    def mint(
        self,
        key: Any,
        digest: Any,
        hint_for: int,
        write: Any,
        minted: Any,
        refused: Any,
        done: Any,
        wanted: Any,
        row: bytes,
    ) -> None:
        def go() -> None:
            if not wanted():
                return
            if self.refusal is not None:
                refused(self.refusal)
                return
            minted(*self.minted, self.rounds.stamp(0))
            done(None)

        self.loaded.append(go)
        if not self.slow:
            go()

    def read(self, key: Any, digest: Any, owners: Any, done: Any, damaged: Any) -> None:
        if self.held is None:
            damaged(Corrupt("as the test wants it"))
        else:
            done(self.held)

    def committed_elsewhere(self, *told: Any) -> None:
        """No hint is kept here that could be newer."""

    def take_round(self, partition: int, reap_round: int, then: Callable[[], None]) -> None:
        self.rounds.take(partition, reap_round)
        then()

    def keep(
        self,
        key: Any,
        digest: Any,
        target: int,
        obj: bytes,
        stamp: Any,
        done: Any,
        row: bytes | None = None,
    ) -> None:
        assert obj, "a hint without an object"
        if self.keeps is None:
            self.kept.append(target)
        done(self.keeps)

    def mark(self, target: int, partition: int) -> None:
        self.marks.append((target, partition))


def _coordinator(
    number: int, links: dict[int, FakeLink], replica: FakeReplica, hedge_ms: int = 20
) -> Coordinator:
    config = parse(
        {
            "cluster": {"name": "cart", "id": CLUSTER_ID},
            "keys": [{"id": 1, "secret": SECRET}],
            "node": {"name": "me"},
            "data_dir": "/nowhere",
            "timing": {"hedge_ms": hedge_ms, "straggler_ms": 20},
        }
    )
    return Coordinator(config, cast(Any, FakeTopology(number, links)), cast(Any, replica))


async def _answer(coordinator: Coordinator, op: Op, timeout_ms: int = 200) -> Outcome:
    answers: list[Outcome] = []
    coordinator.operate(Operation(op, KEY, value=b"v"), timeout_ms, answers.append)
    async with asyncio.timeout(5):
        while not answers:  # noqa: ASYNC110 - an answer is polled
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.1)  # stragglers and alarms have their turn
        while coordinator.busy:  # noqa: ASYNC110 - the last alarm is polled
            await asyncio.sleep(0.002)
    assert len(answers) == 1
    assert coordinator.in_flight == 0
    assert coordinator.writing_bytes == 0
    return answers[0]


WRITTEN = (int(Type.WRITTEN), b"")
TAKEN = (int(Type.OPERATION_REPLY), wire.pack_outcome(Outcome(Kind.WRITTEN, primary=2)))


async def test_a_write_is_answered_in_time_however_slow_this_nodes_disk_is() -> None:
    links: dict[int, FakeLink] = {}
    replica = FakeReplica(slow=True)
    coordinator = _coordinator(1, links, replica)
    outcome = await _answer(coordinator, Op.PUT, timeout_ms=60)
    assert outcome.kind == Kind.UNAVAILABLE
    links[2] = FakeLink(WRITTEN)
    replica.loaded.pop()()  # the disk is back, but its author may have written it elsewhere
    assert not links[2].asked, "what was given up isn't minted: it may have been deleted since"


async def test_a_write_that_waits_for_this_nodes_disk_is_handed_on() -> None:
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    replica = FakeReplica(slow=True)
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT)
    assert (outcome.kind, outcome.primary) == (Kind.WRITTEN, 2)
    assert links[2].asked == [Type.FORWARD]
    replica.loaded.pop()()
    assert links[2].asked == [Type.FORWARD], "two coordinators for one write are one too many"


async def test_a_write_waits_for_this_nodes_disk_where_nobody_else_is_there() -> None:
    replica = FakeReplica(slow=True)
    links: dict[int, FakeLink] = {}
    coordinator = _coordinator(1, links, replica)
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
    coordinator = _coordinator(1, links, replica)
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.PUT, KEY, value=b"v"), 1000, answers.append)
    del links[3]
    replica.loaded.pop()()
    async with asyncio.timeout(5):
        while not answers or 3 not in replica.kept:  # noqa: ASYNC110 - an answer is polled
            await asyncio.sleep(0.002)
    assert answers[0].kind == Kind.WRITTEN


async def test_a_read_whose_owners_leave_the_ring_and_whose_record_is_damaged_is_answered() -> None:
    outcome = await _answer(_coordinator(1, {2: FakeLink(None)}, FakeReplica()), Op.GET)
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
    outcome = await _answer(_coordinator(4, links, replica), Op.PUT, timeout_ms=1000)
    assert outcome.kind == Kind.WRITTEN
    assert links[2].asked[0] == Type.FORWARD


async def test_a_forward_to_a_silent_owner_leaves_nobody_waiting() -> None:
    links = {n: FakeLink(None) for n in (1, 2, 3)}
    outcome = await _answer(_coordinator(4, links, FakeReplica()), Op.PUT, timeout_ms=100)
    assert outcome.kind == Kind.UNAVAILABLE
    assert not any(link.waiting for link in links.values())


STARTING = RefusedError(Kind.OVERLOADED, "still starting")


@pytest.mark.parametrize("refusal", [STARTING, Corrupt("a damaged record")])
async def test_an_owner_that_can_not_coordinate_hands_the_write_on(refusal: DynamoError) -> None:
    replica = FakeReplica()
    replica.refusal = refusal
    no = (int(Type.OPERATION_REPLY), wire.pack_outcome(Outcome(Kind.OVERLOADED)))
    links = {2: FakeLink(no), 3: FakeLink(TAKEN)}
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT)
    assert (outcome.kind, outcome.primary) == (Kind.WRITTEN, 2)
    assert links[2].asked == links[3].asked == [Type.FORWARD]


async def test_an_owner_that_can_not_coordinate_falls_back_on_a_stand_in_then_says_why() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    coordinator = _coordinator(1, {4: FakeLink(TAKEN)}, replica)
    assert (await _answer(coordinator, Op.PUT)).kind == Kind.WRITTEN
    outcome = await _answer(_coordinator(1, {}, replica), Op.PUT)
    assert (outcome.kind, outcome.detail) == (Kind.OVERLOADED, "still starting")


async def test_what_its_author_can_mend_is_not_handed_on() -> None:
    replica = FakeReplica()
    replica.refusal = RefusedError(Kind.TOO_MANY_SIBLINGS, "read first")
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT)
    assert outcome.kind == Kind.TOO_MANY_SIBLINGS
    assert not links[2].asked


async def test_a_forwarded_write_is_not_forwarded_again() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    links = {2: FakeLink(TAKEN), 3: FakeLink(TAKEN)}
    answers: list[Outcome] = []
    put = Operation(Op.PUT, KEY, value=b"v")
    _coordinator(1, links, replica).operate(put, 100, answers.append, forwarded=True)
    assert [a.kind for a in answers] == [Kind.OVERLOADED]
    assert not links[2].asked


async def test_a_write_that_an_owner_may_have_is_never_said_to_be_unwritten() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    outcome = await _answer(_coordinator(1, {2: FakeLink(None)}, replica), Op.PUT, 60)
    assert outcome.kind == Kind.UNAVAILABLE
    assert "may or may not exist" in outcome.detail


async def test_silent_owners_leave_time_to_coordinate_here() -> None:
    links = {n: FakeLink(None) for n in (1, 2, 3)}
    replica = FakeReplica()
    coordinator = _coordinator(5, {**links, 4: FakeLink(WRITTEN)}, replica)
    outcome = await _answer(coordinator, Op.PUT, 800)
    assert (outcome.kind, outcome.standin) == (Kind.WRITTEN, 2)


async def test_a_late_no_of_one_owner_does_not_cut_short_the_next_ones_time() -> None:
    late, slow = FakeLink(None), FakeLink(None)
    coordinator = _coordinator(4, {1: late, 2: slow}, FakeReplica())
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
    coordinator = _coordinator(1, links, FakeReplica())
    coordinator.topology.others = (4, 5)  # type: ignore[attr-defined]
    outcome = await _answer(coordinator, Op.GET, 1000)
    assert (outcome.kind, outcome.standin) == (Kind.VALUES, 2)


async def test_a_delete_whose_read_took_all_its_time_writes_nothing() -> None:
    found = (int(Type.READ_REPLY), wire.pack_read_reply(wire.Found.WHOLE, 0, _SOLE))
    links = {2: FakeLink(None), 3: FakeLink(None)}
    replica = FakeReplica()
    coordinator = _coordinator(1, links, replica)
    answers: list[Outcome] = []
    coordinator.operate(Operation(Op.DELETE, KEY), 50, answers.append)
    time.sleep(0.06)  # noqa: ASYNC251 - the loop lags: both answers come after the deadline
    for link in links.values():
        link.waiting.popitem()[1](*found)
    assert [(a.kind, "nothing was deleted" in a.detail) for a in answers] == [
        (Kind.UNAVAILABLE, True)
    ]
    assert not replica.loaded, "minted for nobody"


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
    outcome = await _answer(_coordinator(1, {2: link, 3: FakeLink(None)}, replica), Op.PUT)
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
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT)
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
    outcome = await _answer(_coordinator(1, links, _minting(objects.to_bytes(BESIDE))), Op.PUT)
    assert (outcome.kind, outcome.standin) == (Kind.WRITTEN, 1)
    assert [wire.unpack_write(sent[wire.ROW_BYTES :]).over for sent in links[4].payloads] == [
        False,
        True,
        True,
    ]


async def test_whoever_is_spare_by_the_last_answer_is_asked_before_a_write_fails() -> None:
    # 4 stands for 2, which only seems dead; once that one has answered, 4 can stand for 3.
    links = {2: FakeLink(WRITTEN), 3: FakeLink((LOST, b"")), 4: FakeLink(WRITTEN)}
    coordinator = _coordinator(1, links, FakeReplica())
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
    coordinator = _coordinator(5, links, replica)
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
    outcome = await _answer(_coordinator(1, {2: link, 3: FakeLink(None)}, replica), Op.PUT)
    assert outcome.kind == Kind.WRITTEN
    assert (link.taken().obj, link.taken().reap_round) == (LATER, 5)


async def test_what_is_held_now_without_the_write_is_no_answer_to_it() -> None:
    # The copy here was too old and deleted while the write was on its way.
    replica = _minting(objects.to_bytes(BESIDE))
    replica.held = objects.to_bytes(objects.put(objects.ABSENT, EMPTY, OLD))
    link = Reaped(5, lambda: replica.rounds.promise(0, 5))
    outcome = await _answer(_coordinator(1, {2: link, 3: FakeLink(None)}, replica), Op.PUT)
    assert outcome.kind == Kind.UNAVAILABLE
    assert len(link.payloads) == 1


@pytest.mark.parametrize("error", [ReapedError(NO_RING, 5), Corrupt("a damaged hint")])
async def test_a_hint_that_can_not_be_kept_leaves_a_mark(error: DynamoError) -> None:
    replica = FakeReplica()
    replica.keeps = error
    links = {2: FakeLink(WRITTEN), 3: FakeLink((LOST, b"")), 4: FakeLink((LOST, b""))}
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT)
    assert outcome.kind == Kind.WRITTEN
    assert replica.marks == [(3, 0)]


async def test_what_waits_for_stragglers_is_bounded_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynamo_node.writes.WRITING_BYTES_MAX", 10)
    replica = FakeReplica()
    coordinator = _coordinator(1, {2: FakeLink(WRITTEN), 3: FakeLink(None)}, replica)
    coordinator.straggler_ms = 60_000
    coordinator.topology.others = ()  # type: ignore[attr-defined]
    answers: list[Outcome] = []
    for expected in ([], [3]):
        coordinator.operate(Operation(Op.PUT, KEY, value=b"v"), 1000, answers.append)
        await asyncio.sleep(0.02)
        assert replica.kept == expected, "as long as there is room it waits"
    assert [a.kind for a in answers] == [Kind.WRITTEN] * 2
    assert coordinator.writing == 1


async def test_a_stand_in_that_can_not_coordinate_hands_the_write_to_another() -> None:
    replica = FakeReplica()
    replica.refusal = STARTING
    links = {4: FakeLink(TAKEN)}  # and none to an owner
    assert (await _answer(_coordinator(5, links, replica), Op.PUT)).kind == Kind.WRITTEN
    assert links[4].asked == [Type.FORWARD]
    # Where an owner was asked before, it isn't said that nothing was written.
    silent = {2: FakeLink(None), 4: FakeLink(None)}
    outcome = await _answer(_coordinator(5, silent, replica), Op.PUT, 100)
    assert outcome.kind == Kind.UNAVAILABLE


async def test_nothing_is_begun_anew_after_its_time() -> None:
    """Slots moved, and the loop lagged meanwhile until the request's time was over."""
    coordinator = _coordinator(1, {}, FakeReplica())
    answers: list[Outcome] = []
    begun: list[int] = []
    for timeout_ms in (0, 1000):
        request = Request(coordinator.loop, KEY, timeout_ms, b"", answers.append)
        coordinator._guarded(request, lambda timeout_ms=timeout_ms: begun.append(timeout_ms))
    assert begun == [1000]
    assert [answer.kind for answer in answers] == [Kind.UNAVAILABLE]
