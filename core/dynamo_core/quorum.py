"""Quorum: get and put as state machines (P§4.5, §4.6).

Owns who is asked, when it is enough, what is answered and what is left to do
afterwards. The machines know node numbers and encoded objects; they return
what to send and never send. Each physical node counts at most once.

Forbidden here: time (the shell says `hedge` when a reply is slow and stops the
machine at the deadline) and the network.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dynamo_core import objects
from dynamo_core.versions import EMPTY, Clock

NOBODY: Final = 0
"""`hint_for` of a write that is meant for the node itself; node numbers start at 1."""


class Send(NamedTuple):
    """Write the object at `node`; as a hint for owner `hint_for` unless that is NOBODY."""

    node: int
    hint_for: int


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

    def _without(self, node: int, hint_for: int) -> list[Send]:
        del self._pending[node]
        owner = hint_for or node
        if owner in self._hinted or owner in self._acked or node == self.local:
            return []
        if owner in self._pending.values():  # a hedge already sent it to a stand-in
            return []
        return self._stand_in_for(owner)

    def hedge(self) -> list[Send]:
        """Replies are slow and W isn't reached: stand-ins for every owner still silent.

        The slow owners may still answer and then count; their hints are
        delivered all the same, which changes nothing there.
        """
        if self.reached:
            return []
        sends: list[Send] = []
        for node, hint_for in list(self._pending.items()):
            if node != self.local:
                sends += self._stand_in_for(hint_for or node, counted_only=True)
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
        return sends


class Ask(NamedTuple):
    """Read at `node`: the whole object if `full`, else its head alone."""

    node: int
    full: bool


class GetQuorum:
    """One read: R replies of distinct nodes, merged; then the replicas to repair.

    Absence is said only by owners that are not recovering: without a live
    value only their replies count. An empty reply of anyone else counts
    towards R only in an answer that carries a value. `floor` is a clock that
    the answer has to cover (read your writes); until it does, more replicas
    and stand-ins are asked.

    `ready` says that `answer` stands: an encoded object, or None for a key
    that nobody knows. `exhausted` says that it will never be ready.
    """

    __slots__ = (
        "_asked",
        "_floor",
        "_full",
        "_heads",
        "_healthy",
        "_others",
        "_owners",
        "_pending",
        "_superseded",
        "answer",
        "below_floor",
        "fastest",
        "local",
        "primary",
        "r",
        "ready",
        "reap_round",
    )

    def __init__(
        self,
        owners: Sequence[int],
        others: Sequence[int],
        local: int,
        r: int,
        healthy: Callable[[int], bool],
        floor: Clock = EMPTY,
    ) -> None:
        self._owners = owners
        self._others = others
        self.local = local
        self.r = r
        self._healthy = healthy
        self._floor = floor
        self._heads: dict[int, bytes | None] = {}  # node -> head, None for an empty reply
        self._full: dict[bytes, bytes] = {}  # head -> whole object
        self._asked: set[int] = set()
        self._pending: set[int] = set()
        self._superseded = False  # all live values heard of are, by a tombstone
        self.primary = 0
        """Owners among the nodes that replied."""
        self.ready = False
        self.below_floor = False
        self.answer: bytes | None = None
        self.fastest = NOBODY
        self.reap_round = 0

    def start(self) -> list[Ask]:
        """Ask every healthy owner: the nearest for the whole object, the rest for heads."""
        local = self.local
        nodes = [o for o in self._owners if o == local or self._healthy(o)]
        if nodes and nodes[0] != local and local in nodes:
            nodes.remove(local)
            nodes.insert(0, local)
        asks = [self._ask(node, index == 0) for index, node in enumerate(nodes)]
        while len(asks) < self.r and (more := self._ask_another()):
            asks += more
        return asks

    def replied(
        self, node: int, head: bytes | None, whole: bytes | None, reap_round: int = 0
    ) -> list[Ask]:
        """A reply: no `head` when it was empty, no `whole` where only the head was sent."""
        heads = self._heads
        self._pending.discard(node)
        if not heads or reap_round < self.reap_round:
            # What is built from several answers carries the lowest of their rounds.
            self.reap_round = reap_round
        if node in self._owners and node not in heads:
            if self.fastest == NOBODY:
                self.fastest = node
            self.primary += 1
        heads[node] = head
        if whole is not None and head is not None:
            self._full[head] = whole
        if self.ready:
            return []
        if self.primary >= self.r and not self._floor:
            distinct = set(heads.values())
            if len(distinct) == 1 and (head is None or head in self._full):
                # Owners agree: nothing to merge, nothing to fetch.
                self.answer = None if head is None else self._full[head]
                self.ready = True
                return []
        return self._decide()

    def failed(self, node: int) -> list[Ask]:
        """`node` refused, vanished or abstains (recovering): it doesn't count."""
        self._pending.discard(node)
        if self.ready:
            return []
        # A node that gave its head but not its object leaves the count again.
        if self._heads.pop(node, self) is not self and node in self._owners:
            self.primary -= 1
        return self._decide()

    def hedge(self) -> list[Ask]:
        """Replies are slow: ask one node more, for the whole object if none came yet."""
        return [] if self.ready else self._ask_another()

    @property
    def standin(self) -> int:
        """Others among the nodes that replied."""
        return len(self._heads) - self.primary

    @property
    def got(self) -> int:
        """Replies that count towards R as far as is known."""
        if self._superseded or self.primary == len(self._heads):
            return self.primary
        if any(h is not None and objects.has_value(h) for h in self._heads.values()):
            return len(self._heads)
        return self.primary

    @property
    def settled(self) -> bool:
        """Whether nobody's reply is awaited any more."""
        return not self._pending

    @property
    def exhausted(self) -> bool:
        """Whether no reply can make this ready any more."""
        return not self.ready and not self._pending

    def repairs(self) -> tuple[bytes, list[int]] | None:
        """After the answer: what all replies merge to, and the owners that lack it (P§5).

        None when nobody lacks anything, or when a straggler's head shows
        something that was not read whole: anti-entropy's work then.
        """
        distinct = set(self._heads.values())
        if len(distinct) < 2:
            return None
        heads = {h for h in distinct if h is not None}
        if self._unread(heads):
            return None
        whole = self._merged(heads)
        head = objects.head_of(whole)
        stale = [n for n, h in self._heads.items() if h != head and n in self._owners]
        return (whole, stale) if stale else None

    def release(self) -> None:
        """Let go of the objects; the machine only ignores what still comes."""
        self._full.clear()
        self._heads.clear()
        self.answer = None

    def _decide(self) -> list[Ask]:
        if len(self._heads) >= self.r:
            heads = {h for h in self._heads.values() if h is not None}
            unread = self._unread(heads)
            if unread:
                return self._fetch(unread)
            whole = self._merged(heads) if heads else None
            self._superseded = whole is not None and not objects.has_value(whole)
            if self._may_answer(whole):
                self.answer = whole
                self.ready = True
                return []
        # Still short: replace whoever will not answer or can't know.
        expected = self.got + len(self._pending)
        if expected < self.r or (self.below_floor and not self._pending):
            return self._ask_another()
        return []

    def _may_answer(self, whole: bytes | None) -> bool:
        if self.primary < self.r and not (whole is not None and objects.has_value(whole)):
            return False
        if self._floor:
            clock = EMPTY if whole is None else objects.clock_of(whole)
            self.below_floor = not clock.descends(self._floor)
            return not self.below_floor
        return True

    def _unread(self, heads: set[bytes]) -> list[bytes]:
        """Heads whose objects are needed for the merge and not here yet."""
        full = self._full
        if heads <= full.keys():
            return []
        if len(heads) == 1:
            return list(heads)
        clocks = {h: objects.clock_of(h) for h in heads}
        return [
            h
            for h in heads
            if h not in full
            and not any(
                other in full and objects.replaces(other, clocks[other], h, clocks[h])
                for other in heads
            )
        ]

    def _merged(self, heads: set[bytes]) -> bytes:
        whole: bytes | None = None
        if len(heads) == 1:
            return self._full[next(iter(heads))]
        for head in heads:
            held = self._full.get(head)
            if held is not None:
                whole = objects.merge_bytes(whole, held)
        assert whole is not None
        return whole

    def _fetch(self, unread: list[bytes]) -> list[Ask]:
        asks = []
        for head in unread:
            holders = [n for n, h in self._heads.items() if h == head]
            if not any(n in self._pending for n in holders):
                asks.append(self._ask(holders[0], True))
        return asks

    def _ask(self, node: int, full: bool) -> Ask:
        self._asked.add(node)
        self._pending.add(node)
        return Ask(node, full)

    def _ask_another(self) -> list[Ask]:
        # The whole object is wanted as long as no node sent one.
        full = not self._full
        for node in (*self._owners, *self._others):
            if node not in self._asked and self._healthy(node):
                return [self._ask(node, full)]
        for node in self._owners:  # the last resort: one that only seems dead
            if node not in self._asked:
                return [self._ask(node, full)]
        return []
