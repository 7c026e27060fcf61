"""Loop: virtual time, and one event loop for each simulated process.

Owns the order in which everything happens: a heap of timers and a queue of what
is due now, shared by all processes, so that a run follows from its seed alone.
`NodeLoop` is what a process sees as its asyncio loop. A dead loop drops what is
queued and ignores what comes; a stalled one keeps it until it goes on, as a
process does that was stopped or is stuck in a long callback.

Time is counted in ticks of 2**-20 s, so that sums with a loop's own offset are
exact: a timer never fires before its time by a rounding.
"""

import asyncio
import contextvars
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from heapq import heappop, heappush
from math import ceil
from typing import Any, Final

TICKS_PER_S: Final = 1 << 20
STEPS_PER_INSTANT_MAX: Final = 200_000
"""Callbacks at one instant of virtual time beyond which a run counts as stuck."""

_set_running_loop = asyncio._set_running_loop


class SimFailure(Exception):
    """The run has shown a bug: what is wrong, in words."""


class Handle:
    """One callback to come; what asyncio calls Handle and TimerHandle."""

    __slots__ = ("_when", "args", "callback", "context", "is_timer", "loop")

    def __init__(
        self,
        loop: "NodeLoop | None",
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float = 0.0,
        is_timer: bool = False,
    ) -> None:
        self.loop = loop
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.is_timer = is_timer
        self._when = when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class Scheduler:
    """The one clock and the one queue of a simulated world."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.failures: list[str] = []
        self._ticks = 0
        self._sequence = 0
        self._timers: list[tuple[int, int, Handle]] = []
        self._ready: deque[Handle] = deque()

    def soon(
        self,
        loop: "NodeLoop | None",
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Queue a callback behind everything that is due now; `loop` None is the world's own."""
        handle = Handle(loop, callback, args, context)
        self._ready.append(handle)
        return handle

    def at(
        self,
        when: float,
        loop: "NodeLoop | None",
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
        is_timer: bool = False,
    ) -> Handle:
        """Call back at virtual time `when`, in seconds, at the earliest."""
        handle = Handle(loop, callback, args, context, when, is_timer)
        ticks = ceil(when * TICKS_PER_S)
        if ticks < self._ticks:
            ticks = self._ticks
        self._sequence = sequence = self._sequence + 1
        heappush(self._timers, (ticks, sequence, handle))
        return handle

    def again(self, handles: list[Handle]) -> None:
        """Queue handles that a stalled loop has kept."""
        self._ready.extend(handles)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Run until virtual time `until`, until `done()`, or until a bug has shown."""
        ready, timers = self._ready, self._timers
        limit = ceil(until * TICKS_PER_S)
        current: NodeLoop | None = None
        _set_running_loop(None)
        try:
            while not self.failures:
                left = STEPS_PER_INSTANT_MAX
                while ready:
                    handle = ready.popleft()
                    callback = handle.callback
                    if callback is None:
                        continue
                    loop = handle.loop
                    if loop is not None:
                        if loop.dead:
                            continue
                        if loop.stalled:
                            loop.backlog.append(handle)
                            continue
                    if loop is not current:
                        _set_running_loop(loop)
                        current = loop
                    left -= 1
                    if not left:
                        raise SimFailure(f"stuck at {self.now:.6f} s; last was {callback!r}")
                    try:
                        # Without a context of its own it is no task's: nothing here keeps
                        # anything in context variables, so that copies would only cost.
                        if handle.context is None:
                            callback(*handle.args)
                        else:
                            handle.context.run(callback, *handle.args)
                    except SimFailure:
                        raise
                    except Exception as error:
                        if loop is None:
                            raise
                        loop.failed(f"callback {callback!r}", error)
                self.steps += STEPS_PER_INSTANT_MAX - left
                if done():
                    return
                if not timers or timers[0][0] > limit:
                    self._ticks = max(self._ticks, limit)
                    self.now = self._ticks / TICKS_PER_S
                    return
                due = timers[0][0]
                self._ticks = due
                self.now = due / TICKS_PER_S
                while timers and timers[0][0] == due:
                    ready.append(heappop(timers)[2])
        finally:
            _set_running_loop(None)

    def drop_all(self) -> None:
        """Forget everything that is queued: the run is over."""
        self._timers.clear()
        self._ready.clear()


class SimTask(asyncio.Task):  # type: ignore[type-arg]
    """A task whose hash is its number: sets of tasks then have the same order in each run."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class NodeLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process, from its start to its end.

    `offset` is the loop's own zero: two machines' monotonic clocks have nothing
    in common.
    """

    def __init__(self, scheduler: Scheduler, name: str, offset: int = 0) -> None:
        self.scheduler = scheduler
        self.name = name
        self.dead = False
        self.stalled = False
        self.went_on_at = 0.0
        """When it last went on after it had been stalled, in the world's time."""
        self.backlog: list[Handle] = []
        self.connect: Callable[..., Coroutine[Any, Any, Any]] | None = None
        """How this process reaches others; given by the network."""
        self._offset = offset
        self._tasks: dict[int, SimTask] = {}
        self._task_count = 0

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.scheduler.now + self._offset

    def call_soon(self, callback, *args, context=None):  # type: ignore[no-untyped-def]
        return self.scheduler.soon(self, callback, args, context)

    call_soon_threadsafe = call_soon

    def call_later(self, delay, callback, *args, context=None):  # type: ignore[no-untyped-def]
        when = self.scheduler.now + max(0.0, delay)
        return self.scheduler.at(when, self, callback, *args, context=context, is_timer=True)

    def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def]
        return self.scheduler.at(
            when - self._offset, self, callback, *args, context=context, is_timer=True
        )

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):  # type: ignore[no-untyped-def]
        self._task_count += 1
        number = self._task_count
        # The number is needed by the hash, which the constructor asks for.
        task = SimTask.__new__(SimTask)
        task.number = number
        task.__init__(coro, loop=self, name=name or f"{self.name}-{number}", context=context)
        self._tasks[number] = task
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: SimTask) -> None:
        self._tasks.pop(task.number, None)

    async def create_connection(self, protocol_factory, host=None, port=None, **_):  # type: ignore[no-untyped-def,override]
        assert self.connect is not None, f"{self.name} has no network"
        return await self.connect(self, protocol_factory, host, port)

    def run_in_executor(self, executor, func, *args):  # type: ignore[no-untyped-def,override]
        raise SimFailure(f"{self.name} wants a thread for {func!r}: only storage may have threads")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.failed(str(context.get("message")), context.get("exception"))

    # What the world does to a process

    def failed(self, what: str, error: BaseException | None) -> None:
        """An exception that nobody caught: a bug of the node's code."""
        shown = "" if error is None else "".join(traceback.format_exception(error))
        self.scheduler.failures.append(f"{self.name}: {what}\n{shown}")

    def kill(self) -> None:
        """The process is gone: nothing of it runs ever again."""
        self.dead = True
        self.stalled = False
        self.backlog.clear()

    def close_tasks(self) -> None:
        """The run is over: unwind what was cut off, while nothing can come of it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what was never begun
            # What cleans up behind itself may begin tasks. Without a loop that runs they would
            # be those of the thread's own, which keeps them, and all of this world, for ever.
            _set_running_loop(self)
            try:
                while self._tasks:
                    _, task = self._tasks.popitem()
                    with suppress(BaseException):
                        task.get_coro().close()  # type: ignore[union-attr]
            finally:
                _set_running_loop(None)

    def stall(self) -> None:
        """Nothing of it runs until `go_on`."""
        self.stalled = True

    def go_on(self, timers_first: bool) -> None:
        """Run what has gathered; real loops promise no order of timers and what was read."""
        if self.dead or not self.stalled:
            return
        self.stalled = False
        self.went_on_at = self.scheduler.now
        backlog, self.backlog = self.backlog, []
        if timers_first:
            backlog.sort(key=lambda handle: not handle.is_timer)  # stable: streams stay in order
        self.scheduler.again(backlog)
