"""Clients and the network of the model of handover, and what clients must be shown.

Messages are bound to the processes at both of their ends. Coordinators go by the row that
they know, which may be an old one; what is acknowledged is counted by the production
`Tally`. `faults` names rules to leave out.
"""

import random
from typing import Any

from tests.core.handover_world import ABSENT, FIRST, KEYS, NODES, Node, Obj, P, R, W, Wish, merge

from dynamo_core.handover import Standing
from dynamo_core.rounds import Kept
from dynamo_core.slots import Row, Tally, Token, holders, incoming

WRITES_MAX = 60
TRIES_MAX = 4


class Violation(Exception):
    """A property doesn't hold; the text says which."""


class Clients:
    def __init__(
        self, seed: int, faults: frozenset[str] = frozenset(), trace: bool = False
    ) -> None:
        self.random, self.faults, self.trace = random.Random(seed), faults, trace
        self.seed = seed
        self.messages: list[tuple[Any, ...]] = []
        self.nodes = {n: Node(n, FIRST) for n in NODES}
        for m in self.nodes.values():
            m.keeps = "resumed" in faults
        self.rings = [FIRST]
        self.writes = 0
        self.key_of: dict[int, int] = {}
        self.cover: dict[int, int] = {}
        self.tombs = 0
        self.acked = dict.fromkeys(KEYS, 0)
        self.reaped: dict[int, int] = {}  # tombstone -> key
        self.contexts = dict.fromkeys(KEYS, 0)
        self.chains: dict[tuple[int, Token], Token] = {}
        self.bad: set[int] = set()
        self.next_op = 0
        self.handovers = self.claims = self.reads = self.deletions = self.commits = self.acks = 0
        self.order = self.losing = self.holding = 0.0
        self.held_back: list[tuple[Any, ...]] = []

    # Messages: bound to the processes at both of their ends

    def send(self, kind: str, a: Node, b: int, *data: Any) -> None:
        if a.number == b:
            return
        self.post((kind, a.number, a.inc, b, self.nodes[b].inc, data))

    def post(self, message: tuple[Any, ...]) -> None:
        r = self.random.random()
        if message[0] in ("write", "copy") and r < self.losing:
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

    def publish(self, base: Wish, wanted: tuple[int, ...], give_up: int = 0) -> Wish:
        given_up = base.given_up + (((give_up, base.epoch + 1),) if give_up else ())
        ring = Wish(base.epoch + 1, self.random.getrandbits(16), wanted, given_up)
        self.rings.append(ring)
        self.note("ring", ring)
        return ring

    def tell(self, a: Node, b: int) -> None:
        self.say("told", a, b, a.ring, a.row)

    def on_told(self, m: Node, a: Node, ring: Wish, row: Row) -> None:
        m.adopt(ring, row)

    def on_rows(self, m: Node, a: Node, row: Row) -> None:
        m.learn(row)
        self.say("known", m, a.number, m.row)

    def on_known(self, m: Node, a: Node, row: Row) -> None:
        m.apply(m.custody.known_by(a.number, row, W))
        m.heard.add(a.number)

    def exchange(self, m: Node, other: int, row: Row) -> None:
        """Rows differ: learn, teach; whatever was wanted is tried again later."""
        m.learn(row)
        self.say("rows", m, other, m.row)

    # Clients

    def write(self, m: Node, key: int, context: int, tomb: bool = False) -> None:
        if self.writes >= WRITES_MAX or not m.counts:
            return
        bit = 1 << self.writes
        self.writes += 1
        self.key_of[bit], self.cover[bit] = key, context
        if tomb:
            self.tombs |= bit
        held = m.rec(key)
        m.put(key, (held[0] | context | bit, held[1] & ~context | bit))
        self.contexts[key] = context | bit
        op = self.next_op
        self.next_op += 1
        m.ops[op] = ["write", key, Tally(m.row), bit, 0, m.rec(key), m.rounds.stamp(P)]
        row = m.row
        m.say(lambda: self.acknowledged(m, op, m.number, row))
        self.ask(m, op)
        self.note(m.number, "writes", f"{bit:b}", "at", key, "after", f"{context:b}")

    def ask(self, m: Node, op: int) -> None:
        """To everybody who doesn't count yet, and to incoming nodes besides."""
        kind, key, tally, *rest = m.ops[op]
        done = set() if "count slot twice" in self.faults else {*tally.counted}
        to = [n for n in holders(tally.row) if n not in done]
        if kind == "write":
            _bit, _, obj, stamp = rest
            if stamp < m.rounds.stamp(P):
                return  # from before a promise: it isn't sent any more
            to += [n for n in incoming(tally.row, m.wanted) if n not in to]
            for n in to:
                self.say("write", m, n, op, m.digest, key, obj, stamp)
        else:
            for n in to:
                self.say("read", m, n, op, m.digest, key)

    def on_write(
        self, m: Node, a: Node, op: int, digest: bytes, key: int, obj: Obj, stamp: int
    ) -> None:
        standing = self.standing(m, digest)
        if standing is Standing.OTHER_ROW:
            self.say("other", m, a.number, op, m.row)
            return
        if standing is Standing.MOVED or m.rounds.refuses_write(P, stamp):
            return
        m.take(key, obj)
        if standing is Standing.COUNTS or ("count slot twice" in self.faults):
            self.say("ack", m, a.number, op, ABSENT)

    def standing(self, m: Node, digest: bytes) -> Standing:
        if "stale ring accepted" in self.faults and (m.custody.seals or m.counts):
            return Standing.COUNTS
        if "rows not compared" in self.faults:
            digest = m.digest
        return m.custody.standing(digest)

    def on_other(self, m: Node, a: Node, op: int, row: Row) -> None:
        if op not in m.ops:
            self.exchange(m, a.number, row)
            return
        self.exchange(m, a.number, row)
        m.ops[op][2].learned(m.row)
        if m.ops[op][0] == "write":
            m.ops[op][4] += 1
            if m.ops[op][4] > TRIES_MAX:
                m.ops.pop(op)
                return
        self.ask(m, op)

    def on_read(self, m: Node, a: Node, op: int, digest: bytes, key: int) -> None:
        standing = self.standing(m, digest)
        if standing is Standing.OTHER_ROW:
            self.say("other", m, a.number, op, m.row)
        elif standing is Standing.COUNTS:
            self.send("ack", m, a.number, op, m.rec(key))

    def on_ack(self, m: Node, a: Node, op: int, obj: Obj) -> None:
        found = m.ops.get(op)
        if found is not None:
            self.acknowledged(m, op, a.number, found[2].row, obj)

    def acknowledged(self, m: Node, op: int, node: int, row: Row, obj: Obj = ABSENT) -> None:
        if op not in m.ops:
            return
        kind, key, tally, *rest = m.ops[op]
        if row == tally.row or node != m.number:
            tally.acked(node)
        if kind == "read":
            rest[1][node] = obj
        counted = len(tally.counted)
        if "count slot twice" in self.faults:
            counted = len(tally._acked)
        if counted < (W if kind == "write" else R):
            return
        if kind == "write":
            self.acked[key] |= rest[0]
            self.acks += 1
            self.note("acknowledged", f"{rest[0]:b}", tally.counted)
        else:
            whole = ABSENT
            for n in tally.counted:
                whole = merge(whole, rest[1].get(n, ABSENT))
            self.shown(key, whole, rest[0], f"a read at {tally.counted}", rest[2])
            self.contexts[key] = whole[0]
            self.reads += 1
        m.ops.pop(op)

    def read(self, m: Node, key: int) -> None:
        op = self.next_op
        self.next_op += 1
        # What is reaped while a read is under way may still be shown by it.
        m.ops[op] = ["read", key, Tally(m.row), self.acked[key], {}, dict(self.reaped)]
        self.ask(m, op)
        if m.counts:
            self.acknowledged(m, op, m.number, m.row, m.rec(key))

    def shown(
        self, key: int, whole: Obj, expected: int, where: str, reaped: dict[int, int] | None = None
    ) -> None:
        if missing := self.missing(key, expected, whole):
            raise Violation(f"{where} misses {missing:b} of key {key}")
        for tomb, of in (self.reaped if reaped is None else reaped).items():
            if of == key and (back := whole[1] & self.cover[tomb] & ~self.tombs):
                raise Violation(f"{where}: {back:b} of key {key} is back, reaped with {tomb:b}")

    def missing(self, key: int, expected: int, whole: Obj) -> int:
        """Acknowledged writes that are neither shown nor superseded nor reaped."""
        lost = expected & ~whole[0]
        for tomb in self.reaped:
            lost &= ~(tomb | self.cover[tomb])
        return lost

    def compare(self, a: Node, b: int, key: int) -> None:
        """Anti-entropy's copy of one key, both ways."""
        if a.counts:
            self.say("copy", a, b, a.digest, key, a.rec(key), a.rounds.stamp(P), a.committed, True)

    def on_copy(self, m: Node, a: Node, digest: bytes, key: int, obj: Obj, stamp: int,
                committed: int, back: bool) -> None:  # fmt: skip
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
            return
        if m.counts and committed > m.committed and m.rounds.agreed_to(P, committed):
            m.rounds.commit(P, Kept(committed, m.state().ring, (), ()))  # `returning`'s CATCH_UP
        if not m.counts or committed != m.committed or m.rounds.refuses_write(P, stamp):
            return
        m.take(key, obj)
        if back and m.rec(key) != obj:
            self.say(
                "copy",
                m,
                a.number,
                m.digest,
                key,
                m.rec(key),
                m.rounds.stamp(P),
                m.committed,
                False,
            )
