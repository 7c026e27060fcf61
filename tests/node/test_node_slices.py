"""Slices: jobs on virtual time keep to the share, and share it fairly."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_core.admission import SHARE_MIN
from dynamo_node.slices import BITE_MAX_S, WAIT_MAX_S, Slices


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is due."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector: Any = self

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        assert timeout is not None, "everybody waits for nothing"
        if timeout > 0:
            self._now = max(self._now, heapq.nsmallest(1, self._scheduled)[0].when())
        return []

    def _process_events(self, event_list: list[object]) -> None:
        pass


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()


async def _job(slices: Slices, kind: str, bite_s: float, at_most: float = 1.0) -> None:
    while True:
        async with slices.slice(kind, at_most):
            await asyncio.sleep(bite_s)


async def _for(seconds: float, *jobs: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.get_running_loop().create_task(job) for job in jobs]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _used(slices: Slices) -> dict[str, float]:
    used: dict[str, float] = slices.facts()["used_seconds"]
    return used


@pytest.mark.parametrize("share", [SHARE_MIN, 0.1, 0.5, 0.9])
def test_a_job_takes_its_share_of_the_time(share: float) -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = share
        await _for(100.0, _job(slices, "repair", 0.004))
        assert _used(slices)["repair"] == pytest.approx(100 * share, rel=0.05)

    _run(work)


def test_kinds_share_equally_whatever_their_bites_and_numbers() -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = 0.3
        many = [_job(slices, "handoff", 0.002) for _ in range(5)]
        await _for(200.0, *many, _job(slices, "repair", 0.02), _job(slices, "reaping", 0.005))
        used = _used(slices)
        assert sum(used.values()) == pytest.approx(60, rel=0.1)
        for kind in ("handoff", "repair", "reaping"):
            assert used[kind] == pytest.approx(20, rel=0.15), used

    _run(work)


def test_who_is_alone_again_takes_all_of_the_share() -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = 0.4
        await _for(10.0, _job(slices, "repair", 0.01), _job(slices, "handoff", 0.01))
        before = _used(slices)["repair"]
        await _for(10.0, _job(slices, "repair", 0.01))
        assert before == pytest.approx(2, rel=0.1)
        assert _used(slices)["repair"] - before == pytest.approx(4, rel=0.1)

    _run(work)


def test_waits_are_bounded_and_a_peer_that_is_waited_for_is_no_work() -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = SHARE_MIN
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with slices.slice("handoff"):
            await asyncio.sleep(10.0)
        assert loop.time() - began == pytest.approx(10.0 + WAIT_MAX_S)
        assert _used(slices)["handoff"] == BITE_MAX_S

    _run(work)


def test_a_peer_that_can_spare_less_slows_its_bites() -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = 0.5
        await _for(100.0, _job(slices, "handoff", 0.004, at_most=0.1))
        assert _used(slices)["handoff"] == pytest.approx(10, rel=0.05)
        # Of two jobs the one with a busy peer keeps to what that can spare, whatever this
        # node could: its own share is not divided once more.
        slices = Slices()
        slices.admission.share = 0.5
        await _for(
            100.0, _job(slices, "handoff", 0.004, at_most=0.1), _job(slices, "repair", 0.004)
        )
        used = _used(slices)
        assert used["handoff"] == pytest.approx(10, rel=0.05)
        assert used["repair"] == pytest.approx(25, rel=0.05)

    _run(work)


def test_a_bite_that_fails_waits_and_one_that_is_cancelled_does_not() -> None:
    async def work() -> None:
        slices = Slices()
        slices.admission.share = 0.1
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ValueError, match="bite"):  # noqa: PT012
            async with slices.slice("repair"):
                await asyncio.sleep(0.01)
                raise ValueError("a bite")
        assert loop.time() - began == pytest.approx(0.1)
        task = loop.create_task(_job(slices, "repair", 0.01))
        await asyncio.sleep(0.005)
        task.cancel()
        began = loop.time()
        await asyncio.gather(task, return_exceptions=True)
        assert loop.time() == began
        await _for(10.0, _job(slices, "handoff", 0.01))
        assert _used(slices)["handoff"] == pytest.approx(1, rel=0.1), "nobody else counts"

    _run(work)


def test_the_share_is_decided_once_a_second_from_what_was_used() -> None:
    async def work() -> None:
        slices = Slices()
        runner = asyncio.get_running_loop().create_task(slices.run())
        first = slices.share
        await _for(30.0, _job(slices, "repair", 0.01))
        assert slices.share > 5 * first, "no client is disturbed"

        async def clients() -> None:
            while True:
                began = asyncio.get_running_loop().time()
                slices.admission.began(began)
                await asyncio.sleep(0.001 + 0.1 * (slices.share > 0.05))
                now = asyncio.get_running_loop().time()
                slices.admission.ended(now, now - began)
                await asyncio.sleep(0.01)

        await _for(10.0, clients(), _job(slices, "repair", 0.01))
        assert slices.share <= 0.1
        runner.cancel()

    _run(work)
