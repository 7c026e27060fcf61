"""Get quorum: one read as a state machine (P§4.5, §5).

Owns who is asked, when it is enough, what is answered and which replicas to
bring up to date afterwards. The machine knows node numbers and encoded objects;
it returns what to ask and never asks. Each physical node counts at most once.

Forbidden here: time (the shell says `hedge` when a reply is slow and stops the
machine at the deadline) and the network.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynamo_core import objects
from dynamo_core.records import NOBODY
from dynamo_core.versions import EMPTY, Clock


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
    and stand-ins are asked. Where the owners have committed a reap round beyond
    `floor_round`, that of the context, answers of N-W+1 owners meet it.

    `ready` says that `answer` stands: an encoded object, or None for a key
    that nobody knows. `exhausted` says that it will never be ready.
    """

    __slots__ = (
        "_again",
        "_asked",
        "_committed",
        "_floor",
        "_floor_owners",
        "_floor_round",
        "_full",
        "_heads",
        "_healthy",
        "_others",
        "_owners",
        "_pending",
        "_stamps",
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
        floor_round: int = 0,
        w: int = 1,
    ) -> None:
        self._owners = owners
        self._others = others
        self.local = local
        self.r = r
        self._healthy = healthy
        self._floor = floor
        self._floor_round = floor_round
        # One of so many owners has whatever W of them acknowledged.
        self._floor_owners = max(r, len(owners) - w + 1)
        self._committed = 0
        self._heads: dict[int, bytes | None] = {}  # node -> head, None for an empty reply
        self._full: dict[bytes, bytes] = {}  # head -> whole object
        self._stamps: dict[int, int] = {}  # node -> the round of its reply
        self._asked: set[int] = set()
        self._again: set[int] = set()
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
        self,
        node: int,
        head: bytes | None,
        whole: bytes | None,
        reap_round: int = 0,
        committed: int = 0,
    ) -> list[Ask]:
        """A reply: no `head` when it was empty, no `whole` where only the head was sent."""
        heads = self._heads
        self._pending.discard(node)
        if not heads or reap_round < self.reap_round:
            # What is built from several answers carries the lowest of their rounds.
            self.reap_round = reap_round
        if node in self._owners and committed > self._committed:
            self._committed = committed
            self._drop_older()
        if head is not None and reap_round < self._committed:
            self._ask_again(node)  # what it shows may have been reaped
            return [] if self.ready else self._decide()
        self._stamps[node] = reap_round
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

    def _drop_older(self) -> None:
        """Replies from before a round that another owner has carried out since: as if not given.

        Without what that one has deleted they would bring it back.
        """
        if self.ready:
            return
        for node, head in list(self._heads.items()):
            if head is not None and self._stamps[node] < self._committed:
                del self._heads[node]
                if node in self._owners:
                    self.primary -= 1
                self._ask_again(node)

    def _ask_again(self, node: int) -> None:
        """Once: a disk that is older than the round stays so."""
        if node not in self._again:
            self._again.add(node)
            self._asked.discard(node)

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

    def context_round(self, last_before: int) -> int:
        """The round that a context for `answer` carries, when it is ready.

        A round committed beyond it has to say that owners have got all that the context
        claims, or nobody shows it any more. Of what several replies claim, the lowest of
        their rounds says so; what one alone claims takes that one's. Stand-ins may not have
        heard of rounds: what they keep is newer than all up to `last_before`, those of
        earlier rings.
        """
        if self.answer is None:
            return self.reap_round
        stamps = {self._stamps[node] for node in self._heads}
        if len(stamps) == 1 and self.primary == len(self._heads):
            return stamps.pop()
        clocks: dict[int, Clock] = {}
        for node, head in self._heads.items():
            if head is not None:
                stamp = self._stamps[node]
                if node not in self._owners and stamp < last_before:
                    stamp = last_before
                clock = objects.clock_of(head)
                clocks[stamp] = clocks[stamp].join(clock) if stamp in clocks else clock
        claimed, there = objects.clock_of(self.answer), EMPTY
        for stamp in sorted(clocks):
            there = there.join(clocks[stamp])
            if there.descends(claimed):
                return stamp
        return max(clocks)

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
            if self.below_floor and self._committed > self._floor_round:
                # What the floor claims may have been reaped: then nobody shows it any more.
                self.below_floor = self.primary < self._floor_owners
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
            for h in sorted(heads)  # asked for in an order that a run can repeat
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
