"""An event loop whose clock jumps to whatever is due next: hours pass in no time.

For code that waits by the loop's clock alone and touches no socket.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoWaiting(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("everything waits for ever")
        if timeout > 0:
            self._jump(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_NoWaiting(self._pass))

    def time(self) -> float:
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds


def virtually(main: Coroutine[Any, Any, T]) -> T:
    """Runs it to its end, and cancels what is left."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
