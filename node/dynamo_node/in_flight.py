"""In flight: what a read and a write that a node coordinates have in common.

Owns that a request is answered once, that an operation ends once, and that
nobody is left waiting at a link afterwards. What is asked of whom, and when,
belongs to `reads` and `writes`.
"""

from typing import TYPE_CHECKING

from dynamo_core.outcomes import Outcome
from dynamo_node.links import Link
from dynamo_node.topology import Place

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator, Request


class InFlight:
    """One operation until nobody's reply to it is awaited any more."""

    __slots__ = (
        "_answered",
        "_asked",
        "_coordinator",
        "_finished",
        "_place",
        "_request",
        "_waits_for_stragglers",
    )

    def __init__(self, coordinator: "Coordinator", request: "Request", place: Place) -> None:
        self._coordinator = coordinator
        self._request = request
        self._place = place
        self._asked: dict[int, tuple[Link, int]] = {}  # node -> where its reply is awaited
        self._answered = False
        self._finished = False
        self._waits_for_stragglers = False

    def _answer(self, outcome: Outcome) -> None:
        if not self._answered:
            self._answered = True
            self._request.answer(outcome)

    def _next_hedge(self) -> float:
        """When to ask more nodes once more: after as long again as it has taken so far.

        Who was asked in place of a silent node may be silent too.
        """
        request, now = self._request, self._coordinator.loop.time()
        return min(request.deadline, now + max(self._coordinator.hedge_s, now - request.began))

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        for link, request_id in self._asked.values():
            link.forget(request_id)
        self._asked.clear()
        self._finishing()

    def _finishing(self) -> None:
        """The last thing done, once: let go of the bytes of objects.

        An alarm may hold on to this for as long as the request might have taken.
        """
        raise NotImplementedError
