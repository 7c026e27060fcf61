"""The network of the model of handover: messages, who knows which row, and what is broken.

Messages are bound to the processes at both of their ends: what was sent by or to a process
that is gone doesn't arrive, but for requests that were on their way. `faults` names rules
to leave out.
"""

import random
from typing import Any

from tests.core.handover_world import FIRST, NODES, Node, Wish

from dynamo_core.slots import Row, Token

QUORUMS = ((2, 2),) * 6 + ((1, 3), (3, 1), (2, 3), (3, 2), (3, 3))
"""(R, W), of N = 3: one for each world."""


class Violation(Exception):
    """A property doesn't hold; the text says which."""


class Network:
    def __init__(
        self, seed: int, faults: frozenset[str] = frozenset(), trace: bool = False
    ) -> None:
        self.random, self.faults, self.trace = random.Random(seed), faults, trace
        self.seed = seed
        self.r, self.w = QUORUMS[seed % len(QUORUMS)]
        self.messages: list[tuple[Any, ...]] = []
        self.nodes = {n: Node(n, FIRST) for n in NODES}
        for m in self.nodes.values():
            m.keeps = "resumed" in faults
        self.rings = [FIRST]
        self.void: set[int] = set()
        """Nodes that some ring has given up or dropped, whoever has heard of it."""
        self.chains: dict[tuple[int, Token], Token] = {}
        self.bad: set[int] = set()
        self.next_op = 0
        self.handovers = self.claims = self.reads = self.deletions = self.commits = self.acks = 0
        self.again = self.uncounted = self.delivered = self.followed = 0
        self.order = self.losing = self.holding = 0.0
        self.held_back: list[tuple[Any, ...]] = []

    def send(self, kind: str, a: Node, b: int, *data: Any) -> None:
        if a.number == b:
            return
        self.post((kind, a.number, a.inc, b, self.nodes[b].inc, data))

    def post(self, message: tuple[Any, ...]) -> None:
        r = self.random.random()
        if message[0] in ("write", "copy", "hint") and r < self.losing:
            return
        if message[0] == "covered" and r < self.holding * 3:
            self.held_back.append(message)  # and once more, much later
        (self.held_back if self.random.random() < self.holding else self.messages).append(message)

    def say(self, kind: str, a: Node, b: int, *data: Any) -> None:
        """Send once all that is in `a`'s memory is fsynced."""
        if a.number == b:
            return
        inc = self.nodes[b].inc
        a.say(lambda: self.post((kind, a.number, a.inc, b, inc, data)))

    def deliver(self, at: int) -> None:
        kind, a, a_inc, b, b_inc, data = self.messages[at]
        node = self.nodes[b]
        self.messages.pop(at)
        if node.down:
            self.messages.append((kind, a, a_inc, b, b_inc, data))
            return
        if node.inc != b_inc or (self.nodes[a].inc != a_inc and kind not in ("write", "commit")):
            return
        if self.trace:
            print(f"  {a}->{b} {kind} {data}")
        getattr(self, "on_" + kind)(node, self.nodes[a], *data)

    def note(self, *what: Any) -> None:
        if self.trace:
            print("--", *what)

    # Rings and rows

    def publish(
        self, base: Wish, wanted: tuple[int, ...], give_up: int = 0, drained: int = 0
    ) -> Wish:
        given_up = base.given_up + (((give_up, base.epoch + 1),) if give_up else ())
        dropped = base.drained + ((drained,) if drained else ())
        ring = Wish(base.epoch + 1, self.random.getrandbits(16), wanted, given_up, dropped)
        self.published(ring)
        return ring

    def published(self, ring: Wish) -> None:
        self.rings.append(ring)
        self.void.update(ring.gone)
        self.note("ring", ring)

    def tell(self, a: Node, b: int) -> None:
        self.say("told", a, b, a.ring, a.row)

    def on_told(self, m: Node, a: Node, ring: Wish, row: Row) -> None:
        m.adopt(ring, row)

    def on_rows(self, m: Node, a: Node, row: Row) -> None:
        m.learn(row)
        self.say("known", m, a.number, m.row)

    def on_known(self, m: Node, a: Node, row: Row) -> None:
        m.apply(m.custody.known_by(a.number, row, self.w))
        m.heard.add(a.number)

    def exchange(self, m: Node, other: int, row: Row) -> None:
        """Rows differ: learn, teach; whatever was wanted is tried again later."""
        m.learn(row)
        self.say("rows", m, other, m.row)
