"""Awaiting: what answers through a callback, as something a coroutine can wait for.

Owns its forms: `told` for those that only say how it went, `all_told` for many of them,
`given` for those that give a value or an error. All begin at once; whoever waits may be
cancelled, and nobody has to wait: the answer then goes nowhere. What the hot
path does is still done without them.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from dynamo_node.storage import Done

T = TypeVar("T")


def given(
    start: Callable[[Callable[[T], None], Callable[[BaseException], None]], None],
) -> "asyncio.Future[T]":
    """Call `start(done, failed)`; the future ends with what one of them is called with."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(value: T) -> None:
        if not future.done():
            future.set_result(value)

    def failed(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)
            future.exception()  # counts as retrieved: the loop needn't hear of it

    start(done, failed)
    return future


def told(start: Callable[[Done], None]) -> "asyncio.Future[None]":
    """Call `start(done)`; the future ends as `done` is told, with its error if any."""

    def begin(done: Callable[[None], None], failed: Callable[[BaseException], None]) -> None:
        start(lambda error: done(None) if error is None else failed(error))

    return given(begin)


def all_told(starts: Iterable[Callable[[Done], None]]) -> "asyncio.Future[None]":
    """Call each `start(done)`; the future ends once all are told, with the first error if any.

    A quarter less work than a future for each.
    """
    left = 1  # this call itself: nobody ends it before all have begun
    trouble: BaseException | None = None

    def begin(done: Callable[[None], None], failed: Callable[[BaseException], None]) -> None:
        def one(error: BaseException | None) -> None:
            nonlocal left, trouble
            left -= 1
            trouble = trouble or error
            if not left:
                done(None) if trouble is None else failed(trouble)

        nonlocal left
        for start in starts:
            left += 1
            start(one)
        one(None)

    return given(begin)
