"""Leadership: at most one acts at any moment, and somebody soon does."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.operator.kube_fixtures import QUICK, until
from tests.operator.kube_patches import merged
from tests.operator.kube_world import KubeWorld
from tests.operator.virtual_time import virtually

from dynamo_operator.kube.errors import AlreadyExists, Conflict, Forbidden, NotFound, Unreachable
from dynamo_operator.kube.kinds import LEASE, Kind
from dynamo_operator.kube.lease import Lease, LeaseLost, Terms

Object = dict[str, Any]
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Server:
    """One Lease, with versions."""

    def __init__(self) -> None:
        self.record: Object | None = None
        self.version = 0

    def store(self, record: Object) -> Object:
        self.version += 1
        metadata = {**record["metadata"], "resourceVersion": str(self.version)}
        self.record = {**record, "metadata": metadata}
        return self.record

    @property
    def spec(self) -> Object:
        assert self.record is not None
        spec: Object = self.record["spec"]
        return spec


class Line:
    """A contender's way to the server, which may be cut, slow, or lose answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut = False
        self.hangs = False
        self.loses_answers = False
        self.refuses = False
        self.delay_s: Callable[[], float] = lambda: 0.0

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        await self._travel()
        return self.server.record

    async def create(self, kind: Kind, body: Object) -> Object:
        await self._travel()
        if self.server.record is not None:
            raise AlreadyExists("it is there")
        return await self._back(self.server.store(body))

    async def patch(self, kind: Kind, namespace: str | None, name: str, changes: Object) -> Object:
        assert kind == LEASE
        await self._travel()
        record = self.server.record
        if record is None:
            raise NotFound("no lease")
        if changes["metadata"]["resourceVersion"] != record["metadata"]["resourceVersion"]:
            raise Conflict("another version")
        return await self._back(self.server.store(merged(record, changes)))

    async def _travel(self) -> None:
        if self.hangs:
            await asyncio.sleep(10_000)
        await asyncio.sleep(self.delay_s())
        if self.cut:
            raise Unreachable("cut")
        if self.refuses:
            raise Forbidden("no role")

    async def _back(self, answer: Object) -> Object:
        if self.loses_answers:
            raise Unreachable("the answer is lost")
        await asyncio.sleep(self.delay_s())
        return answer


def contender(line: Line, identity: str, wall: Callable[[], datetime] | None = None) -> Lease:
    return Lease(line, "ns", "dynamo-operator", identity, wall=wall or (lambda: NOON))


def now() -> float:
    return asyncio.get_running_loop().time()


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_the_first_one_leads_and_writes_down_who_it_is() -> None:
    async def play() -> None:
        server = Server()
        one = contender(Line(server), "one")
        assert not one.holds()
        await one.acquire()
        assert one.holds()
        assert server.spec == {
            "holderIdentity": "one",
            "leaseDurationSeconds": 15,
            "renewTime": "2026-11-21T12:00:00.000000Z",
            "acquireTime": "2026-11-21T12:00:00.000000Z",
            "leaseTransitions": 0,
        }

    virtually(play())


def test_it_leads_on() -> None:
    async def play() -> None:
        server = Server()
        one, two = contender(Line(server), "one"), contender(Line(server), "two")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        waiting = asyncio.create_task(two.acquire())
        for _ in range(900):
            await asyncio.sleep(1)
            assert one.holds()
            assert not waiting.done()
        assert 200 < server.version < 240  # a renewal each 4 s, and no other write
        await cancelled(keeping)
        await cancelled(waiting)

    virtually(play())


def test_a_clean_end_hands_over_within_a_retry() -> None:
    async def play() -> None:
        server = Server()
        one, two = contender(Line(server), "one"), contender(Line(server), "two")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        waiting = asyncio.create_task(two.acquire())
        await asyncio.sleep(30)
        await cancelled(keeping)
        await one.release()
        assert not one.holds()
        assert server.spec["holderIdentity"] == ""
        at = now()
        await waiting
        assert now() - at <= 2
        assert two.holds()
        assert server.spec["leaseTransitions"] == 1

    virtually(play())


def test_a_dead_leader_is_replaced_when_its_record_has_not_changed_for_its_duration() -> None:
    async def play() -> None:
        server = Server()
        one, two = contender(Line(server), "one"), contender(Line(server), "two")
        await one.acquire()
        waiting = asyncio.create_task(two.acquire())
        at = now()
        await waiting
        assert 15 <= now() - at <= 17.5

    virtually(play())


@pytest.mark.parametrize("trouble", ["cut", "hangs"])
def test_who_cannot_renew_ends_before_another_begins(trouble: str) -> None:
    async def play() -> None:
        server = Server()
        line = Line(server)
        one, two = contender(line, "one"), contender(Line(server), "two")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        waiting = asyncio.create_task(two.acquire())
        await asyncio.sleep(60)
        setattr(line, trouble, True)
        at = now()
        with pytest.raises(LeaseLost, match=r"lease ns/dynamo-operator lost: it was not renewed"):
            await keeping
        assert now() - at <= 10
        assert not one.holds()
        assert not waiting.done()
        await waiting
        assert 11 <= now() - at <= 17.5  # the last renewal was up to 4 s before

    virtually(play())


def test_a_short_trouble_is_got_over() -> None:
    async def play() -> None:
        line = Line(Server())
        one = contender(line, "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        for trouble in ("cut", "hangs", "loses_answers"):
            await asyncio.sleep(30)
            setattr(line, trouble, True)
            await asyncio.sleep(5)
            setattr(line, trouble, False)
            await asyncio.sleep(30)
            assert one.holds()
            assert not keeping.done()
        await cancelled(keeping)

    virtually(play())


def test_a_note_by_a_person_in_the_record_is_no_loss() -> None:
    async def play() -> None:
        server = Server()
        one = contender(Line(server), "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        assert server.record is not None
        server.store(merged(server.record, {"metadata": {"annotations": {"a": "b"}}}))
        await asyncio.sleep(30)
        assert one.holds()
        assert server.record["metadata"]["annotations"] == {"a": "b"}
        await cancelled(keeping)

    virtually(play())


@pytest.mark.parametrize("loss", ["another holds it", "deleted", "forbidden"])
def test_a_lease_that_is_lost_is_lost_at_the_next_renewal(loss: str) -> None:
    async def play() -> None:
        server = Server()
        line = Line(server)
        one = contender(line, "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        await asyncio.sleep(10)
        assert server.record is not None
        if loss == "deleted":
            server.record = None
        elif loss == "forbidden":
            line.refuses = True
        else:
            server.store(merged(server.record, {"spec": {"holderIdentity": "thief"}}))
        at = now()
        with pytest.raises(LeaseLost) as raised:
            await keeping
        assert now() - at <= 4
        assert not one.holds()
        assert {"another holds it": "thief", "deleted": "no lease", "forbidden": "no role"}[
            loss
        ] in str(raised.value)

    virtually(play())


def test_nobodys_wall_clock_matters() -> None:
    async def play() -> None:
        server = Server()
        ages = timedelta(days=4000)
        ahead = contender(Line(server), "ahead", lambda: NOON + ages)
        behind = contender(Line(server), "behind", lambda: NOON - ages)
        await behind.acquire()
        keeping = asyncio.create_task(behind.keep())
        waiting = asyncio.create_task(ahead.acquire())
        await asyncio.sleep(300)
        assert behind.holds()
        assert not waiting.done()
        await cancelled(keeping)
        at = now()
        await waiting
        assert now() - at >= 11

    virtually(play())


def test_trouble_while_standing_by_is_waited_out() -> None:
    async def play() -> None:
        line = Line(Server())
        line.cut = True
        waiting = asyncio.create_task(contender(line, "one").acquire())
        await asyncio.sleep(100)
        line.cut, line.refuses = False, True
        await asyncio.sleep(100)
        line.refuses = False
        at = now()
        await waiting
        assert now() - at <= 2

    virtually(play())


def test_terms_that_could_let_two_act_are_refused() -> None:
    with pytest.raises(ValueError, match="duration"):
        Terms(duration_s=10, renew_deadline_s=10.0)


@pytest.mark.parametrize("seed", range(5))
def test_never_two_at_a_time_whatever_happens_to_the_lines(seed: int) -> None:
    """Three processes that die, are restarted, are cut off, slow, and lose answers."""

    async def play() -> None:
        dice = random.Random(seed)
        server = Server()
        lines = [Line(server) for _ in range(3)]
        holding: list[Lease | None] = [None] * 3
        lives = 0

        async def process(place: int) -> None:
            nonlocal lives
            while True:
                lives += 1
                lease = contender(lines[place], f"{place}-{lives}")
                holding[place] = lease
                try:
                    await lease.acquire()
                    keeping = asyncio.create_task(lease.keep())
                    try:
                        async with asyncio.timeout(dice.uniform(1, 200)):
                            await keeping
                    except TimeoutError:
                        if dice.random() < 0.5:
                            await lease.release()
                except LeaseLost:
                    pass
                holding[place] = None  # the process is gone: it can't act
                await asyncio.sleep(dice.uniform(0, 5))

        async def nemesis() -> None:
            while True:
                await asyncio.sleep(dice.uniform(0, 20))
                line = dice.choice(lines)
                for trouble in ("cut", "hangs", "loses_answers"):
                    setattr(line, trouble, dice.random() < 0.25)
                slow = dice.choice([0.0, 0.5, 3.0])
                line.delay_s = lambda slow=slow: dice.uniform(0, slow)  # type: ignore[misc]

        tasks = [asyncio.create_task(process(place)) for place in range(3)]
        tasks.append(asyncio.create_task(nemesis()))
        led = 0
        for _ in range(2000):
            await asyncio.sleep(0.5)
            leading = sum(lease is not None and lease.holds() for lease in holding)
            assert leading <= 1
            led += leading
        assert led > 300
        for task in tasks:
            await cancelled(task)

    virtually(play())


async def test_two_contenders_over_http() -> None:
    def over(world: KubeWorld, identity: str) -> Lease:
        wall: Callable[[], datetime] = lambda: datetime.now(UTC)  # noqa: E731
        return Lease(world.api(), "ns", "dynamo-operator", identity, wall=wall, terms=QUICK)

    async with KubeWorld().serving() as world, asyncio.timeout(30):
        world.grant()
        one, two = over(world, "one"), over(world, "two")
        await one.acquire()
        waiting: Awaitable[None] = asyncio.create_task(two.acquire())
        await one.release()
        await waiting
        assert two.holds()
        # Two is gone without a word, and its lease is a short one.
        world.edit(LEASE, "ns", "dynamo-operator", {"spec": {"leaseDurationSeconds": 1}})
        three = over(world, "three")
        at = now()
        await three.acquire()
        assert now() - at >= 1
        lease = world.find(LEASE, "ns", "dynamo-operator")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == "three"
        assert lease["spec"]["leaseTransitions"] == 2
        with pytest.raises(LeaseLost, match="three holds it"):
            await two.keep()
        world.fail("patch", LEASE, code=503, reason="ServiceUnavailable", times=2)
        keeping = asyncio.create_task(three.keep())
        await until(lambda: [each.code for each in world.asked[-1:]] == [200])
        assert three.holds()
        await cancelled(keeping)
