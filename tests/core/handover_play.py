"""The model of handover without chance: one schedule, step by step."""

from tests.core.handover_model import World
from tests.core.handover_world import KEYS, Node, Wish

from dynamo_core.slots import Row
from dynamo_core.tenures import Asked

KEY = KEYS[0]

QUORUM_2_2 = 0
QUORUM_1_3 = 6
QUORUM_3_1 = 7
"""Seeds of worlds with these R and W."""


class Play(World):
    """Messages arrive in order, except those of a node that is cut off, and of a lost kind."""

    def __init__(self, faults: frozenset[str] = frozenset(), seed: int = QUORUM_2_2) -> None:
        super().__init__(seed, faults)
        self.losing = self.holding = 0.0
        self.cut: set[int] = set()
        self.lost: set[str] = set()
        self.late: set[str] = set()
        """Kinds of messages that arrive with `arrive`."""

    def post(self, message: tuple[object, ...]) -> None:
        kind, a, _, b, *_ = message
        if kind in self.late:
            self.held_back.append(message)
        elif kind not in self.lost and not {a, b} & self.cut:
            self.messages.append(message)

    def arrive(self) -> None:
        """What is late arrives."""
        self.late = set()
        self.messages += self.held_back
        self.held_back = []
        self.flow()

    def flow(self) -> None:
        self.drain()

    def ring(self, wanted: tuple[int, ...], *, base: Wish | None = None, name: int = 0,
             give_up: int = 0, drained: int = 0,
             to: tuple[int, ...] = (1, 2, 3, 4, 5, 6)) -> Wish:  # fmt: skip
        base = base or max(m.ring for m in self.nodes.values())
        given_up = base.given_up + (((give_up, base.epoch + 1),) if give_up else ())
        dropped = base.drained + ((drained,) if drained else ())
        ring = Wish(base.epoch + 1, name, wanted, given_up, dropped)
        self.published(ring)
        self.take_ring(ring, to)
        return ring

    def take_ring(self, ring: Wish, to: tuple[int, ...]) -> None:
        for n in to:
            self.nodes[n].adopt(ring, ())
        self.flow()

    def turn(self, *numbers: int, times: int = 1) -> None:
        for _ in range(times):
            for n in numbers or tuple(self.nodes):
                self.work(self.nodes[n])
            self.flow()

    def until_asked(self, n: int) -> None:
        """Node n has pulled all pages; the next it does is to ask for the seal."""
        for _ in range(len(KEYS) + 3):
            if self.nodes[n].custody.pulling and self.nodes[n].custody.pulling.whole:
                break
            self.turn(n)
        pulling = self.nodes[n].custody.pulling
        assert pulling is not None
        assert pulling.whole
        assert pulling.asked is Asked.NO

    def put(self, n: int, key: int = KEY, context: int = 0, tomb: bool = False) -> int:
        """A write by coordinator n; its bit."""
        bit = 1 << self.writes
        self.write(self.nodes[n], key, context, tomb)
        self.flow()
        return bit

    def put_without(self, n: int, down: int, cut: set[int], key: int = KEY) -> int:
        """A write by n while node `down` is known to be down and others are cut off."""
        before = self.cut
        self.nodes[down].down, self.cut = True, cut | {down}
        bit = self.put(n, key)
        self.nodes[down].down, self.cut = False, before
        return bit

    def new_disk(self, n: int, told_by: int) -> None:
        known = self.nodes[told_by]
        self.lose(self.nodes[n], known)
        self.flow()

    def round(self, n: int) -> None:
        """Node n agrees on a round; who knows an older row says no once, and is taught."""
        for _ in range(2):
            self.reap(self.nodes[n])
            self.flow()
        self.resend(self.nodes[n])
        self.flow()

    def acknowledged_bits(self, key: int = KEY) -> int:
        return self.acked[key]

    def row(self, n: int) -> Row:
        return self.nodes[n].row

    def end(self) -> None:
        self.cut, self.lost = set(), set()
        self.heal()
        self.check_end()


def seen(m: Node, key: int = KEY) -> int:
    return m.rec(key)[0]
