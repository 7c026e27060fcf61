"""Put quorum: one write as a state machine (P§4.5, §4.6).

Owns who gets the write, who stands in for whom, when W is reached and which
hints are left to store. The machine knows node numbers alone; it returns what
to send and never sends. Each physical node counts at most once.

Forbidden here: time (the shell says `hedge` when a reply is slow and stops the
machine at the deadline) and the network.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynamo_core.records import NOBODY


class Send(NamedTuple):
    """Write the object at `node`; as a hint for owner `hint_for` unless that is NOBODY.

    `over`: W needs it, so the byte limit of that node's hints doesn't bind it.
    """

    node: int
    hint_for: int
    over: bool = False


class PutQuorum:
    """One write: W acknowledgements of distinct nodes, then a hint for each owner missing.

    `owners` are the first N of the preference list, `others` its rest in
    order, `local` the coordinator, `healthy` says whom to try first.

    The order of trying for an owner that can't be reached: the next healthy
    node of the rest that has no part in this write yet (a stand-in, counted
    towards W), else the coordinator keeps the hint beside what it already has
    (not counted again). Where W can't be had from healthy nodes, those that only
    seem dead are tried as well: a write succeeds while any W nodes can be reached.
    """

    __slots__ = (
        "_acked",
        "_full",
        "_healthy",
        "_hinted",
        "_others",
        "_owners",
        "_pending",
        "_used",
        "local",
        "primary",
        "standin",
        "w",
    )

    def __init__(
        self,
        owners: Sequence[int],
        others: Sequence[int],
        local: int,
        w: int,
        healthy: Callable[[int], bool],
    ) -> None:
        self._owners = owners
        self._others = others
        self.local = local
        self.w = w
        self._healthy = healthy
        self._pending: dict[int, int] = {}  # node -> hint_for, not yet answered
        self._acked: set[int] = set()
        self._hinted: set[int] = set()  # owners for whom a hint is stored
        self._full: list[Send] = []  # stand-ins that had no room for a hint
        self._used: set[int] = {local}
        self.primary = 0
        self.standin = 0

    def start(self) -> list[Send]:
        """The first sends, the local one first: it mints the version the others get."""
        owners, local = self._owners, self.local
        missing = [o for o in owners if o != local and not self._healthy(o)]
        sends = []
        if local in owners:
            sends.append(Send(local, NOBODY))
            self._pending[local] = NOBODY
        else:
            # No owner could coordinate: the local copy is a hint for the first
            # one that can't be reached.
            stands_for = missing.pop(0) if missing else owners[0]
            sends.append(Send(local, stands_for))
            self._pending[local] = stands_for
        for owner in owners:
            if owner != local and owner not in missing and owner != sends[0].hint_for:
                self._pending[owner] = NOBODY
                self._used.add(owner)
                sends.append(Send(owner, NOBODY))
        for owner in missing:
            sends += self._stand_in_for(owner)
        return sends + self._last_resort(len(self._pending))

    def acked(self, node: int, hint_for: int = NOBODY) -> bool:
        """Count one durable acknowledgement; True when this one makes W."""
        if hint_for != NOBODY:
            self._hinted.add(hint_for)
            if self._pending.get(node) == hint_for:
                del self._pending[node]
        else:
            self._pending.pop(node, None)
        if node in self._acked:
            return False
        self._acked.add(node)
        if node in self._owners:
            self.primary += 1
        else:
            self.standin += 1
        return self.primary + self.standin == self.w

    def failed(self, node: int, hint_for: int = NOBODY) -> list[Send]:
        """`node` refused or vanished: who gets its part instead."""
        if self._pending.get(node) != hint_for:
            return []
        sends = self._without(node, hint_for)
        return sends + self._last_resort(self.got + len(self._pending))

    def no_room(self, node: int, hint_for: int) -> list[Send]:
        """Stand-in `node` has no room: the next one gets the hint.

        Where nobody has room and W needs it, this one is asked to keep it all the same.
        """
        if self._pending.get(node) == hint_for:
            self._full.append(Send(node, hint_for, over=True))
        return self.failed(node, hint_for)

    def _without(self, node: int, hint_for: int) -> list[Send]:
        del self._pending[node]
        owner = hint_for or node
        if owner in self._hinted or owner in self._acked or node == self.local:
            return []
        if owner in self._pending.values():  # a hedge already sent it to a stand-in
            return []
        return self._stand_in_for(owner)

    def hedge(self) -> list[Send]:
        """Replies are slow and W isn't reached: a stand-in for every owner still waited for.

        The slow owners may still answer and then count; their hints are
        delivered all the same, which changes nothing there. Said again, it asks the
        next ones: a stand-in may be silent too.
        """
        if self.reached:
            return []
        sends: list[Send] = []
        waited_for = (hint_for or n for n, hint_for in self._pending.items() if n != self.local)
        for owner in list(dict.fromkeys(waited_for)):
            sends += self._stand_in_for(owner, counted_only=True)
        # The silent ones may stay silent: they aren't counted on here.
        return sends + self._last_resort(self.got + (self.local in self._pending) + len(sends))

    def give_up_waiting(self) -> list[Send]:
        """The wait for stragglers is over: a hint for each owner that did not answer."""
        sends: list[Send] = []
        for node, hint_for in list(self._pending.items()):
            sends += self._without(node, hint_for)
        return sends

    @property
    def reached(self) -> bool:
        """Whether W distinct nodes have acknowledged."""
        return self.primary + self.standin >= self.w

    @property
    def got(self) -> int:
        """Distinct nodes that have acknowledged."""
        return self.primary + self.standin

    @property
    def settled(self) -> bool:
        """Whether nobody's answer is awaited any more."""
        return not self._pending

    def _stand_in_for(self, owner: int, counted_only: bool = False) -> list[Send]:
        for node in self._others:
            if node not in self._used and self._healthy(node):
                self._used.add(node)
                self._pending[node] = owner
                return [Send(node, owner)]
        if counted_only:
            return []
        self._hinted.add(owner)
        return [Send(self.local, owner)]

    def _last_resort(self, expected: int) -> list[Send]:
        """Sends to nodes that seem dead, where `expected` acknowledgements fall short of W.

        An owner's hint is kept elsewhere by then and delivered all the same.
        """
        sends: list[Send] = []
        owners = self._owners
        silent = next((o for o in owners if o != self.local and o not in self._acked), owners[0])
        for node in (*owners, *self._others):
            if expected + len(sends) >= self.w:
                break
            if node not in self._used:
                hint_for = NOBODY if node in owners else silent
                self._used.add(node)
                self._pending[node] = hint_for
                sends.append(Send(node, hint_for))
        while self._full and expected + len(sends) < self.w:
            send = self._full.pop(0)
            self._pending[send.node] = send.hint_for
            sends.append(send)
        return sends
