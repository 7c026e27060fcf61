"""A coordinator alone: its peers, its ring and its disk answer what a test says, or nothing."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tests.node.node_processes import CLUSTER_ID, SECRET

from dynamo_core import wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.frames import NO_RING
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.ring import position
from dynamo_core.rounds import Rounds
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.config import parse
from dynamo_node.coordinator import Coordinator
from dynamo_node.topology import Place

KEY = b"key"
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
        replaces: Any = None,
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


def coordinating(
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


async def answer_of(coordinator: Coordinator, op: Op, timeout_ms: int = 4000) -> Outcome:
    """`timeout_ms` is real: far more than a busy machine needs, unless a test waits for its end."""
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
