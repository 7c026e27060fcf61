"""In flight: what a read and a write that a node coordinates have in common.

Owns that a request is answered once, that an operation ends once, that nobody is
left waiting at a link afterwards. What is asked of whom, and when, belongs to `reads`
and `writes`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dynamo_core.outcomes import Outcome
from dynamo_core.wire import Code
from dynamo_node.topology import Place
from dynamo_node.traced import Traced

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator
    from dynamo_node.request import Request


RUNS_MAX: Final = 40
"""How often a request is carried out anew because slots moved meanwhile."""
PAUSE_FIRST_S: Final = 0.005
PAUSE_MAX_S: Final = 0.1

_OTHER_ROW: Final = bytes((Code.OTHER_ROW,))
_MOVING: Final = (bytes((Code.MOVED,)), bytes((Code.NOT_YET,)))


class InFlight(Traced):
    """One operation until nobody's reply to it is awaited any more.

    All that counts in it was said under one row of tokens. When another one is learned
    before it is answered, or too few answer because a slot is just being handed over, it
    ends and is carried out `anew`: a write under the same write id.
    """

    __slots__ = (
        "_anew",
        "_answered",
        "_finished",
        "_moving",
        "_place",
        "_waits_for_stragglers",
    )

    def __init__(
        self,
        coordinator: "Coordinator",
        request: "Request",
        place: Place,
        anew: Callable[[], None],
    ) -> None:
        super().__init__(coordinator, request)
        self._place = place
        self._anew = anew
        self._moving = False
        self._answered = False
        self._finished = False
        self._waits_for_stragglers = False

    def _answer(self, outcome: Outcome) -> None:
        if not self._answered:
            self._answered = True
            self._request.answer(outcome)

    def _is_moving(self, payload: bytes) -> bool:
        """Whether an error says that a slot is just being handed over."""
        if payload[:1] not in _MOVING:
            return False
        self._moving = True
        return True

    def _other_row(self, node: int, payload: bytes, ended: Callable[[], None]) -> bool:
        """Whether an error says that `node` knows other tokens; then both learn.

        The operation is carried out anew after that, or `ended` is called if it has been
        answered meanwhile.
        """
        if payload[:1] != _OTHER_ROW:
            return False

        def level() -> None:
            if self._answered and not self._finished:
                ended()
            elif not self._finished:
                self._again()

        self._coordinator.on_other_row(node, payload, level)
        return True

    def _again(self) -> bool:
        """Carry the operation out anew, at once; False when it is too late for that."""
        request = self._request
        if self._answered or request.runs >= RUNS_MAX or not request.remaining_ms():
            return False
        request.runs += 1
        self._finish()
        self._coordinator.loop.call_soon(self._anew)
        return True

    def _again_soon(self) -> bool:
        """The same in a moment, for when too few could answer because a slot moves."""
        request, coordinator = self._request, self._coordinator
        if self._answered or not self._moving or request.runs >= RUNS_MAX:
            return False
        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 1.3**request.runs)
        if request.remaining_s() <= pause_s:
            return False
        request.runs += 1
        self._finish()
        coordinator.alarms.at(coordinator.loop.time() + pause_s, self._anew)
        return True

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
        if self._spans:
            self._let_go()
        self._finishing()

    def _finishing(self) -> None:
        """The last thing done, once: let go of the bytes of objects.

        An alarm may hold on to this for as long as the request might have taken.
        """
        raise NotImplementedError
