"""Put quorum: one write as a state machine (P§4.5, §4.6).

Owns who gets the write, who stands in for whom, when W is reached and which
hints are left to store. The machine knows node numbers alone; it returns what
to send and never sends. Each physical node counts at most once, and so does
each owner: itself and whoever keeps its hint are one copy as soon as that is
delivered.

Forbidden here: time (the shell says `hedge` when a reply is slow and stops the
machine at the deadline) and the network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
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
    """One write: W acknowledgements of distinct nodes for distinct owners, then a hint for
    each owner missing.

    `owners` are the first N of the preference list, `others` its rest in
    order, `local` the coordinator, `healthy` says whom to try first.

    The order of trying for an owner that can't be reached: the next healthy
    node of the rest that has no part in this write yet (a stand-in, counted
    towards W), else the coordinator keeps the hint beside what it already has
    (not counted again). Where W can't be had from healthy nodes, those that only
    seem dead are tried as well: a write succeeds while any W nodes can be reached,
    if `hedge` is said whenever nothing is awaited any more.
    """

    __slots__ = (
        "_full",
        "_healthy",
        "_hinted",
        "_home",
        "_homing",
        "_others",
        "_owners",
        "_pending",
        "_primary",
        "_stood",
        "_tried",
        "_used",
        "_weak",
        "local",
        "w",
    )

    def __init__(
        self,
        owners: Sequence[int],
        others: Sequence[int],
        local: int,
        w: int,
        healthy: Callable[[int], bool],
        counts: bool = True,
    ) -> None:
        """`counts`: whether the coordinator, if it is an owner, is one already: it may have
        lost its disk, and keeps what it mints as a hint for itself until it is one again."""
        self._owners = owners
        self._others = others
        self.local = local
        self.w = w
        self._healthy = healthy
        self._pending: dict[int, int] = {}  # node -> hint_for, not yet answered
        self._primary: set[int] = set()  # owners that have it
        self._stood: dict[int, int] = {}  # stand-in -> the owner whose hint it has
        self._hinted: set[int] = set()  # owners for whom a hint is stored, or on its way
        self._home: set[int] = set()  # of these, who have it at the coordinator, durably
        self._homing: set[int] = set()  # who will have, if the coordinator stands in itself
        self._full: list[int] = []  # stand-ins that had no room for a hint
        self._used: set[int] = {local}
        self._weak: set[int] = set() if counts else {local}  # owners that don't count as such
        self._tried: set[Send] = set()  # what others than owners were asked for

    def start(self) -> list[Send]:
        """The first sends, the local one first: it mints the version the others get."""
        owners, local = self._owners, self.local
        missing = [o for o in owners if o != local and not self._healthy(o)]
        sends = []
        stands_for = NOBODY
        if local in owners:
            sends.append(Send(local, local if local in self._weak else NOBODY))
        else:
            # No owner could coordinate: the local copy is a hint for the first
            # one that can't be reached.
            stands_for = missing.pop(0) if missing else owners[0]
            sends.append(Send(local, stands_for))
        self._pending[local] = stands_for
        for owner in owners:
            if owner != local and owner not in missing and owner != stands_for:
                self._pending[owner] = NOBODY
                self._used.add(owner)
                sends.append(Send(owner, NOBODY))
        for owner in missing:
            sends += self._stand_in_for(owner)
        return sends + self._last_resort({**self._acked(), **self._pending})

    def acked(self, node: int, hint_for: int = NOBODY, counts: bool = True) -> bool:
        """Count one durable acknowledgement; True when this one makes W.

        An owner that `counts` not, or that keeps it as a hint for itself, has it durably all
        the same: it is counted towards W, as a stand-in for itself.
        """
        if hint_for == node or (hint_for == NOBODY and not counts):
            self._weak.add(node)
            hint_for = NOBODY
        if hint_for != NOBODY:
            self._hinted.add(hint_for)
            if node == self.local:
                self._homing.discard(hint_for)
            if self._pending.get(node) == hint_for:
                del self._pending[node]
        else:
            self._pending.pop(node, None)
        before = self.reached
        if hint_for == NOBODY:
            self._primary.add(node)
        elif node not in self._owners:
            if node == self.local:
                self._home.add(hint_for)
            others = (o for n, o in self._stood.items() if n not in (node, self.local))
            if self._stood.get(node) in (None, *self._primary, *others):
                self._stood[node] = hint_for
        return self.reached and not before

    def failed(self, node: int, hint_for: int = NOBODY) -> list[Send]:
        """`node` refused or vanished: who gets its part instead."""
        hint_for = NOBODY if hint_for == node else hint_for
        sends: list[Send] = []
        if self._pending.get(node) == hint_for:
            sends = self._without(node, hint_for)
        elif node == self.local and hint_for in self._homing:
            self._homing.discard(hint_for)
        else:
            return sends
        return sends + self._last_resort({**self._acked(), **self._pending})

    def no_room(self, node: int, hint_for: int) -> list[Send]:
        """Stand-in `node` has no room: the next one gets the hint.

        Where nobody has room and W needs it, this one is asked to keep it all the same.
        """
        if self._pending.get(node) == hint_for and node not in self._full:
            self._full.append(node)
        return self.failed(node, hint_for)

    def _without(self, node: int, hint_for: int) -> list[Send]:
        del self._pending[node]
        owner = hint_for or node
        if owner in self._hinted or owner in self._primary:
            return []
        if owner in self._pending.values():  # a hedge already sent it to a stand-in
            return []
        # What this node itself can't keep it can't keep as a hint either.
        return self._stand_in_for(owner, counted_only=self.local in (node, owner))

    def hedge(self) -> list[Send]:
        """Replies are slow and W isn't reached: a stand-in for every owner still waited for.

        The slow owners may still answer and then count; their hints are
        delivered all the same, which changes nothing there. Said again, it asks the
        next ones: a stand-in may be silent too, or spare by now.
        """
        if self.reached:
            return []
        sends: list[Send] = []
        waited_for = (hint_for or n for n, hint_for in self._pending.items() if n != self.local)
        for owner in list(dict.fromkeys(waited_for)):
            sends += self._stand_in_for(owner, counted_only=True)
        # The silent ones may stay silent: they aren't counted on here.
        parts = {**self._acked(), **{send.node: send.hint_for for send in sends}}
        if self.local in self._pending:
            parts[self.local] = self._pending[self.local]
        return sends + self._last_resort(parts)

    def give_up_waiting(self) -> list[Send]:
        """The wait for stragglers is over: a hint for each owner that did not answer."""
        sends: list[Send] = []
        for node, hint_for in list(self._pending.items()):
            sends += self._without(node, hint_for)
        return sends

    @property
    def primary(self) -> int:
        """Owners that have acknowledged and count."""
        return len(self._primary - self._weak)

    @property
    def standin(self) -> int:
        """Stand-ins that have, for owners that haven't."""
        return self.got - self.primary

    @property
    def reached(self) -> bool:
        """Whether W distinct nodes have acknowledged, for as many owners."""
        return self.got >= self.w

    @property
    def got(self) -> int:
        """Distinct nodes that have acknowledged, each for another owner."""
        if not self._stood:
            return len(self._primary)
        return self._copies(self._acked(), self._home)

    @property
    def settled(self) -> bool:
        """Whether nobody's answer is awaited any more, nor a hint at home that may count."""
        return not self._pending and not self._homing

    def _acked(self) -> dict[int, int]:
        return {**dict.fromkeys(self._primary, NOBODY), **self._stood}

    def _copies(self, parts: Mapping[int, int], home: Set[int]) -> int:
        """How many copies for different owners `parts` make, node -> owner that it stands for.

        A coordinator that is no owner keeps all hints that nobody else takes; with those
        in `home` it stands for one whose owner has nothing else.
        """
        local = self.local
        owners = {o or n for n, o in parts.items() if n != local or not o}
        count = len(owners)
        if parts.get(local) and not {parts[local], *home} <= owners:
            count += 1
        return count

    def _stand_in_for(self, owner: int, counted_only: bool = False) -> list[Send]:
        for node in self._others:
            if node not in self._used and self._healthy(node):
                send = Send(node, owner)
                self._used.add(node)
                self._tried.add(send)
                self._pending[node] = owner
                return [send]
        if counted_only:
            return []
        return [self._at_home(owner)]

    def _at_home(self, owner: int) -> Send:
        self._hinted.add(owner)
        if self.local not in self._owners:
            self._homing.add(owner)
        return Send(self.local, owner)

    def _last_resort(self, parts: dict[int, int]) -> list[Send]:
        """Sends to nodes that seem dead, where `parts` make too few copies for W.

        An owner's hint is kept elsewhere by then and delivered all the same. A spare
        stand-in stands for another owner too, and so does a coordinator that is no owner;
        so an owner is tried as well of whom only its stand-in counts. For each owner a
        stand-in is asked once, however it fails, else one that is cut off would fail for
        ever. A limit is passed when there is nothing else to try.
        """
        sends: list[Send] = []
        owners, local = self._owners, self.local
        copies = self._copies(parts, self._home | self._homing)
        if copies >= self.w:
            return sends

        def take(asks: Iterable[Send]) -> bool:
            """The first of `asks` that makes one copy more; whether they are enough then."""
            nonlocal copies
            home = self._home | self._homing
            for send in asks:
                more = self._copies({**parts, send.node: send.hint_for}, home)
                if more > copies and send not in self._tried:
                    copies = more
                    ask(send)
                    break
            return copies >= self.w

        def ask(send: Send) -> None:
            self._used.add(send.node)
            self._tried.add(send)
            parts[send.node] = self._pending[send.node] = send.hint_for
            sends.append(send)

        unused = [n for n in (*owners, *self._others) if n not in self._used]
        spare = self._spare()
        for node in (*unused, *spare):
            if take(Send(node, NOBODY if node in owners else owner) for owner in owners):
                return sends
        if parts.get(local):
            home = self._home | self._homing
            for owner in owners:
                if owner not in self._hinted and self._copies(parts, home | {owner}) > copies:
                    return [*sends, self._at_home(owner)]
        for owner in owners:
            if owner not in self._used and len(sends) < self.w - copies:
                ask(Send(owner, NOBODY))
        full = [n for n in self._full if n in spare or n not in self._stood]
        for node in [] if sends else full:
            overs = (Send(node, owner, over=True) for owner in owners)
            if not self._awaited(node) and take(overs):
                break
        return sends

    def _spare(self) -> list[int]:
        """Stand-ins whose owner has answered after all, or has another one."""
        spare, covered = [], set(self._primary)
        for node, owner in self._stood.items():
            if node != self.local:  # which may have to stand for another one itself
                if owner in covered and not self._awaited(node):
                    spare.append(node)
                covered.add(owner)
        return spare

    def _awaited(self, node: int) -> bool:
        """Whether what `node` was asked for last is still of use, and not answered."""
        return node in self._pending and self._pending[node] not in self._primary
