"""The table of tasks, by virtual time: one life after another for each cluster."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace

import pytest
from tests.operator.virtual_time import virtually

from dynamo_operator.kube.tasks import GONE_MAX, Seen, Tasks

CART = Seen("shop", "cart", "u1", 1)
AGAIN = replace(CART, uid="u2")
OTHER = Seen("shop", "other", "u3", 1)


@dataclass
class Life:
    """A reconciler that notes what happens, and does what a test wants of a pass."""

    log: list[str] = field(default_factory=list)
    passing: Callable[[str], Coroutine[None, None, None]] | None = None
    ending: Callable[[str], Coroutine[None, None, None]] | None = None

    async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
        self.log.append(f"start {uid}")
        try:
            while True:
                woken.clear()
                self.log.append(f"pass {uid}")
                if self.passing is not None:
                    await self.passing(uid)
                await woken.wait()
        finally:
            if self.ending is not None:
                await self.ending(uid)
            self.log.append(f"end {uid}")

    def passes(self, uid: str = "u1") -> int:
        return self.log.count(f"pass {uid}")


def played(play: Callable[[Tasks, Life], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        life = Life()
        tasks = Tasks(life, resync_s=15)
        try:
            await play(tasks, life)
        finally:
            life.ending = None
            await tasks.close()

    virtually(main())


async def soon() -> None:
    await asyncio.sleep(0.001)


def test_a_life() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        tasks.wake("shop", "cart")
        await soon()
        tasks.wake("shop", "unknown")
        tasks.tell(replace(CART, generation=2))
        await soon()
        tasks.tell_gone("shop", "cart", "u1")
        await soon()
        assert life.log == ["start u1", "pass u1", "pass u1", "pass u1", "end u1"]
        assert tasks.uids() == frozenset()

    played(play)


def test_what_a_pass_itself_has_written_wakes_nothing() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        tasks.tell(CART)  # its status has changed
        await soon()
        assert life.passes() == 1
        tasks.tell(replace(CART, annotations=(("dynamocluster.io/give-up", "x"),)))
        await soon()
        assert life.passes() == 2

    played(play)


def test_many_wakes_are_one_pass() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        for _ in range(100):
            tasks.wake("shop", "cart")
        await soon()
        assert life.passes() == 2

    played(play)


def test_a_resync_comes_by_itself() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await asyncio.sleep(15 * 100)
        assert 99 <= life.passes() <= 102
        assert tasks.hanging() == []

    played(play)


def test_one_after_the_other_acts_for_a_name() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        async def slowly(uid: str) -> None:
            await asyncio.sleep(5)

        life.ending = slowly
        tasks.tell(CART)
        await soon()
        tasks.tell(AGAIN)  # the deletion was never told
        await asyncio.sleep(1)
        tasks.tell_gone("shop", "cart", "u2")  # before it could begin
        third = replace(CART, uid="u9")
        tasks.tell(third)
        await asyncio.sleep(1)
        assert life.log == ["start u1", "pass u1"]
        await asyncio.sleep(5)
        assert life.log == ["start u1", "pass u1", "end u1", "start u9", "pass u9"]

    played(play)


def test_what_is_gone_does_not_come_back_by_a_late_event() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        tasks.tell(AGAIN)
        tasks.tell(replace(CART, generation=7))  # out of order
        tasks.tell_gone("shop", "cart", "u1")
        await soon()
        assert tasks.uids() == {"u2"}
        tasks.audit([CART], frozenset())
        assert tasks.uids() == {"u2"}

    played(play)


def test_what_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        tasks.tell(replace(CART, deleting=True))
        await soon()
        assert life.log[-1] == "end u1"
        tasks.tell(replace(OTHER, deleting=True))
        await soon()
        assert tasks.uids() == frozenset()

    played(play)


def test_a_pass_that_finds_its_object_gone_ends_its_task() -> None:
    async def main() -> None:
        class Gone:
            async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
                await asyncio.sleep(1)

        tasks = Tasks(Gone(), resync_s=15)
        tasks.tell(CART)
        await asyncio.sleep(2)
        assert tasks.uids() == frozenset()
        tasks.audit([CART], frozenset())  # a list from before
        assert tasks.uids() == frozenset()
        await tasks.close()

    virtually(main())


def test_failures_are_tried_again_ever_later_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        async def fail(uid: str) -> None:
            if uid == "u1":
                raise RuntimeError("something new")

        life.passing = fail
        tasks.tell(CART)
        tasks.tell(OTHER)
        await asyncio.sleep(1 + 2 + 4 + 8 + 16 + 32 + 0.5)
        assert life.passes("u1") == 7
        await asyncio.sleep(3600)
        assert 60 <= life.passes("u1") <= 70  # once a minute
        assert life.passes("u3") > 200
        assert tasks.hanging() == []  # a restart of the process would not help
        assert "shop/cart: something new; again in 60 s" in caplog.text
        before = life.passes("u1")
        tasks.tell(replace(CART, generation=2))  # an edit may be the cure: at once
        await soon()
        assert life.passes("u1") == before + 1
        life.passing = None
        await asyncio.sleep(20)
        assert life.passes("u1") > before + 1

    played(play)


def test_events_do_not_cut_a_backoff_short() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        async def fail(_: str) -> None:
            raise RuntimeError("no")

        life.passing = fail
        tasks.tell(CART)
        for _ in range(1000):
            tasks.wake("shop", "cart")
            await asyncio.sleep(0.1)
        assert life.passes() <= 8

    played(play)


def test_a_pass_that_hangs_is_told() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        async def hang(_: str) -> None:
            await asyncio.sleep(10_000)

        tasks.tell(OTHER)
        await soon()
        life.passing = hang
        tasks.tell(CART)
        await asyncio.sleep(60)
        assert tasks.hanging() == []
        await asyncio.sleep(40)
        assert [line.rpartition(" for ")[0] for line in tasks.hanging()] == [
            "no pass over shop/other",
            "no pass over shop/cart",
        ]

    played(play)


def test_a_list_is_compared_with_what_the_watch_has_told() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        await soon()
        # Told of after the list was asked for: no list from before ends it.
        before = tasks.uids()
        tasks.tell(OTHER)
        tasks.audit([CART], before)
        assert tasks.uids() == {"u1", "u3"}
        # Not in a list that was asked for later: gone, whether or not that was told.
        tasks.audit([CART], tasks.uids())
        assert tasks.uids() == {"u1"}
        # Only in the list: it is looked after, and so is an edit.
        late = Seen("shop", "late", "u5", 1)
        tasks.audit([CART, late], tasks.uids())
        await soon()
        assert life.passes("u5") == 1
        tasks.audit([replace(CART, generation=2), late], tasks.uids())
        await soon()
        assert life.passes("u1") == 2

    played(play)


def test_a_watch_that_is_dead_is_told() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        tasks.tell(CART)
        edited = replace(CART, generation=2)
        for _ in range(6):
            tasks.audit([edited], tasks.uids())
            await asyncio.sleep(11)
        assert tasks.hanging() == ["the watch doesn't tell of shop/cart"]
        tasks.tell(edited)
        assert tasks.hanging() == []
        tasks.audit([edited], tasks.uids())
        await asyncio.sleep(100)
        assert tasks.hanging() == []

    played(play)


def test_closing_ends_all_and_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        async def never(uid: str) -> None:
            if uid == "u1":
                await asyncio.sleep(1000)

        life.ending = never
        tasks.tell(CART)
        tasks.tell(OTHER)
        await soon()
        at = asyncio.get_running_loop().time()
        await tasks.close()
        assert asyncio.get_running_loop().time() - at == pytest.approx(10)
        assert "cluster shop/cart doesn't end" in caplog.text
        assert "end u3" in life.log
        tasks.tell(replace(CART, uid="u9"))
        assert tasks.uids() == frozenset()

    played(play)


def test_the_memory_of_what_is_gone_is_bounded() -> None:
    async def play(tasks: Tasks, life: Life) -> None:
        for n in range(GONE_MAX + 10):
            tasks.tell_gone("shop", "cart", f"gone-{n}")
        tasks.tell(replace(CART, uid="gone-0"))
        tasks.tell(replace(OTHER, uid=f"gone-{GONE_MAX}"))
        assert tasks.uids() == {"gone-0"}

    played(play)
