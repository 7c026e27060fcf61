"""Requests: each gets one answer in time, whatever the disk, the peers and the ring do."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.node.node_processes import CLUSTER_ID, SECRET

from dynamo_core import wire
from dynamo_core.errors import Corrupt
from dynamo_core.frames import NO_RING
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.ring import position
from dynamo_core.rounds import Rounds
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.config import parse
from dynamo_node.coordinator import Coordinator
from dynamo_node.topology import Place

pytestmark = pytest.mark.timeout(20)

KEY = b"key"
Reply = Callable[[int, bytes], None]


class FakeLink:
    """A peer that answers with what the test says, or not at all."""

    def __init__(self, answer: tuple[int, bytes] | None) -> None:
        self.answer = answer
        self.waiting: dict[int, Reply] = {}
        self.asked: list[int] = []

    def request(
        self, kind: int, payload: bytes, remaining_ms: int, on_reply: Reply, trace: bytes = b""
    ) -> int:
        self.asked.append(kind)
        self.waiting[len(self.asked)] = on_reply
        if self.answer is not None:
            asyncio.get_running_loop().call_soon(self.waiting.pop(len(self.asked)), *self.answer)
        return len(self.asked)

    def forget(self, request_id: int) -> None:
        self.waiting.pop(request_id, None)


class FakeTopology:
    """This is node `number`; owners are 1, 2, 3 and the rest is 4."""

    name = NO_RING

    def __init__(self, number: int, links: dict[int, FakeLink]) -> None:
        self.number = number
        self.links = links
        self.ring = cast(Any, type("Ring", (), {"replication": 3}))

    def place(self, key: bytes) -> Place:
        return Place(position(key), 0, (1, 2, 3), (4,))

    def healthy(self, number: int) -> bool:
        return True

    def host_name(self, number: int) -> str:
        return f"node {number}"


class FakeReplica:
    """Mints and reads at once, or when told: a disk of any speed."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.loaded: list[Callable[[], None]] = []
        self.kept: list[int] = []
        self.hints = self
        self.rounds = Rounds()
        self.read_only = lambda: False

    def mint(
        self, key: Any, digest: Any, hint_for: int, write: Any, minted: Any, refused: Any, done: Any
    ) -> None:
        def go() -> None:
            minted(b"object", EMPTY, 0)
            done(None)

        self.loaded.append(go)
        if not self.slow:
            go()

    def read(self, key: Any, digest: Any, owners: Any, done: Any, damaged: Any) -> None:
        damaged(Corrupt("as the test wants it"))

    def keep(self, key: Any, digest: Any, target: int, obj: bytes, stamp: Any, done: Any) -> None:
        assert obj, "a hint without an object"
        self.kept.append(target)
        done(None)


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
    assert len(answers) == 1
    assert coordinator.in_flight == 0
    return answers[0]


WRITTEN = (int(Type.WRITTEN), b"")


async def test_a_write_is_answered_in_time_however_slow_this_nodes_disk_is() -> None:
    links = {2: FakeLink(WRITTEN), 3: FakeLink(None)}
    replica = FakeReplica(slow=True)
    outcome = await _answer(_coordinator(1, links, replica), Op.PUT, timeout_ms=60)
    assert outcome.kind == Kind.UNAVAILABLE
    assert not links[2].asked, "nothing leaves before it is minted"
    replica.loaded.pop()()  # the disk is back: the write may exist, and is spread then
    async with asyncio.timeout(5):
        while replica.kept != [3]:  # noqa: ASYNC110 - the alarm's turn is polled
            await asyncio.sleep(0.002)
    assert links[2].asked == [Type.WRITE]


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
