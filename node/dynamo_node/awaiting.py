"""Awaiting: what answers through a callback, as something a coroutine can wait for.

Owns its two forms: `told` for those that only say how it went, `given` for
those that give a value or an error. Both begin at once; whoever waits may be
cancelled, and nobody has to wait: the answer then goes nowhere. What the hot
path does is still done without them.
"""

import asyncio
from collections.abc import Callable
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
