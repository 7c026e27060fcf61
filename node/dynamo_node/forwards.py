"""Forwards: a write handed to a node that can coordinate it (P§4.5).

Owns who is asked next, how long each has, and what is said when nobody could.
Who may be asked, and coordinating here, belong to `coordinator`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import wire
from dynamo_core.errors import Corrupt
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Operation
from dynamo_node.links import Link
from dynamo_node.spans import Span
from dynamo_node.topology import Place
from dynamo_node.traced import refusal

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator
    from dynamo_node.request import Request

PATIENCE_S: Final = 1.0
"""How long a node may be silent before the next one is asked, or half of what is left."""


class Forward:
    """A write handed to one node after another, until one answers for it.

    All tries carry the same write id, so that a write which reached two
    coordinators shows once. Where none of `nodes` can, `coordinate_here` is what
    is left; a node that can't has `unable` to say instead.
    """

    def __init__(
        self,
        coordinator: "Coordinator",
        operation: Operation,
        request: "Request",
        nodes: Sequence[int],
        coordinate_here: "Callable[[Request, Place], None] | None",
        unable: Outcome | None,
    ) -> None:
        self._coordinator = coordinator
        self._request = request
        self._nodes = deque(nodes)
        self._coordinate_here = coordinate_here
        self._unable = unable
        self._payload = wire.pack_operation(operation)
        self._asked: list[tuple[Link, int]] = []
        self._spans: dict[int, Span] = {}
        self._answered = False
        self._best: Outcome | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next()

    def _next(self) -> None:
        coordinator, request = self._coordinator, self._request
        if self._timer is not None:
            self._timer.cancel()
        remaining_ms = request.remaining_ms()
        while self._nodes and remaining_ms:
            number = self._nodes.popleft()
            link = coordinator.topology.links.get(number)
            # Looked at only now: those asked before may have taken a while to be given up.
            if link is None or not coordinator.topology.healthy(number):
                continue
            replied = partial(self._replied, number, len(self._asked))
            trace = request.trace
            if request.span is not None:
                span = coordinator.tracing.asking(request.span, "forward", number)
                self._spans[number], trace = span, span.header()
            request_id = link.request(
                wire.Type.FORWARD, self._payload, remaining_ms, replied, trace
            )
            self._asked.append((link, request_id))
            patience = min(PATIENCE_S, request.remaining_s() / 2)
            self._timer = coordinator.loop.call_later(patience, self._next)
            return
        self._last_resort()

    def _replied(self, number: int, place: int, kind: int, payload: bytes) -> None:
        if self._answered:
            return
        if (span := self._spans.pop(number, None)) is not None:
            span.end(None if kind == wire.Type.OPERATION_REPLY else refusal(kind, payload))
        if kind == wire.Type.OPERATION_REPLY:
            try:
                outcome = wire.unpack_outcome(payload)
            except Corrupt:
                outcome = None
            if outcome is not None and outcome.kind not in (Kind.OVERLOADED, Kind.UNAVAILABLE):
                self._answer(outcome if len(self._asked) == 1 else outcome.unsure())
                return
            self._best = outcome or self._best
        else:
            self._coordinator.reply_was_no(number, kind, payload, self._request)
        if place == len(self._asked) - 1:  # else somebody else is being waited for
            self._next()

    def _last_resort(self) -> None:
        """Nobody could: be the stand-in that coordinates, or say what was heard."""
        if self._answered:
            return
        here = self._coordinate_here
        if here is not None and self._request.remaining_ms():
            # What an owner that had too little said isn't the end: this node may reach more.
            if self._asked:
                self._request.may_exist()
            self._finish()
            here(self._request, self._coordinator.topology.place(self._request.key))
            return
        if not self._asked and self._unable is not None:
            self._answer(self._unable)
            return
        detail = (
            "no node that could coordinate the write answered in time; "
            "it may or may not exist: read the key before you write again"
        )
        self._answer(self._best or Outcome(Kind.UNAVAILABLE, needed=1, detail=detail))

    def _answer(self, outcome: Outcome) -> None:
        self._finish()
        self._request.answer(outcome)

    def _finish(self) -> None:
        self._answered = True
        if self._timer is not None:
            self._timer.cancel()
        # Else an owner that never answers would count as silent for ever.
        for link, request_id in self._asked:
            link.forget(request_id)
        self._asked.clear()
        for span in self._spans.values():
            span.end("it wasn't awaited any longer")
