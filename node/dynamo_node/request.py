"""Request: what an operation needs to know of who asked, and what is traced of it."""

import asyncio
from collections.abc import Callable
from typing import Any

from dynamo_core.outcomes import Outcome
from dynamo_node.config import Settings
from dynamo_node.logs import on_behalf_of
from dynamo_node.spans import Span

Answer = Callable[[Outcome], None]


class Request:
    """What an operation needs to know of its request; times are the loop's.

    settings: those in force when it began, which stay its own to its end. trace: the context
    that came with it, which goes on with its messages unless `span` does.
    """

    __slots__ = (
        "_loop",
        "_may_exist",
        "answer",
        "began",
        "deadline",
        "key",
        "runs",
        "settings",
        "span",
        "trace",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        key: bytes,
        timeout_ms: int,
        trace: bytes,
        answer: Answer,
        settings: Settings,
    ) -> None:
        self._loop = loop
        self.settings = settings
        self.key = key
        self.began = loop.time()
        self.deadline = self.began + timeout_ms / 1000
        self.trace = trace
        self.answer = answer
        self._may_exist = False
        self.runs = 0
        """How often it was carried out anew because slots moved."""
        self.span: Span | None = None
        """What is traced of it; None for nearly all."""

    def may_exist(self) -> None:
        """The write has left this node or is on its disk: what refuses it later is no refusal."""
        if not self._may_exist:
            self._may_exist, answer = True, self.answer
            self.answer = lambda outcome: answer(outcome.unsure())

    def remaining_s(self) -> float:
        return max(0.0, self.deadline - self._loop.time())

    def remaining_ms(self) -> int:
        left = int((self.deadline - self._loop.time()) * 1000)
        return left if left > 0 else 0

    @property
    def for_log(self) -> dict[str, Any]:
        """What names its trace in a line of the log: logging's `extra`."""
        return on_behalf_of(self.trace if self.span is None else self.span.header())
