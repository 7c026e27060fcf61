"""Clients of the model of handover, and what they must be shown (docs/decisions/0015).

An operation is carried out under one row: every request names it, every receiver compares
it. Who sends what, who stands in for whom and when W is reached is the production
`PutQuorum`'s. When another row is learned, the operation is begun anew.
"""

from dataclasses import dataclass, field

from tests.core.handover_watch import Watch
from tests.core.handover_world import ABSENT, NODES, Node, Obj, P, merge

from dynamo_core.handover import Standing
from dynamo_core.put_quorum import PutQuorum, Send
from dynamo_core.records import NOBODY
from dynamo_core.rounds import Kept
from dynamo_core.slots import Row, holders, incoming

WRITES_MAX = 60
RUNS_MAX = 4


@dataclass
class Get:
    """One run of a read. `expected` had been acknowledged by W holders when it began."""

    key: int
    digest: bytes
    owners: tuple[int, ...]
    expected: int
    reaped: dict[int, int]
    """What is reaped while a read is under way may still be shown by it."""
    runs: int
    replies: dict[int, Obj] = field(default_factory=dict)


@dataclass
class Put:
    """One run of a write."""

    key: int
    context: int
    tomb: bool
    runs: int
    digest: bytes
    machine: PutQuorum
    bit: int = 0
    obj: Obj = ABSENT
    stamp: int = 0
    moving: bool = False
    answered: bool = False
    by: list[int] = field(default_factory=list)


class Clients(Watch):
    # Writes

    def write(self, m: Node, key: int, context: int, tomb: bool = False) -> None:
        """A put (or delete) that `m` coordinates, be it a holder or not."""
        if m.number not in m.ring.gone:
            self.run_put(m, key, context, tomb)

    def run_put(
        self, m: Node, key: int, context: int, tomb: bool, runs: int = 0, before: int = 0
    ) -> None:
        """One run; `before` is the write as the run before this one minted it."""
        row, void = m.row, m.ring.gone
        if self.writes >= WRITES_MAX or not row:
            return
        owners = holders(row)
        rest = dict.fromkeys((*m.wanted, *NODES))
        machine = PutQuorum(
            owners,
            [n for n in rest if n not in owners and n not in void],
            m.number,
            self.w,
            lambda n: n == m.number or not self.nodes[n].down,
            m.counts and m.settled,
        )
        number = self.next_op
        self.next_op += 1
        op = m.ops[number] = Put(key, context, tomb, runs, m.digest, machine)
        local, *sends = machine.start()
        self.mint(m, op, local.hint_for, before)
        self.said_here(m, number, local.hint_for)
        self.send_all(m, number, sends)
        for n in incoming(row, m.wanted):
            self.say("write", m, n, -1, NOBODY, op.digest, key, op.obj, op.stamp)

    def mint(self, m: Node, op: Put, hint_for: int, before: int) -> None:
        """A write that is here from an earlier run keeps its dot, as `objects.written_before`."""
        key, context = op.key, op.context
        held = m.rec(key) if hint_for == NOBODY else m.hint(hint_for, key)
        op.stamp = m.rounds.stamp(P)
        if before & held[1] and not context & (held[1] | ~held[0]):
            op.bit, op.obj = before, held
        else:
            op.bit = 1 << self.writes
            self.writes += 1
            self.cover[op.bit] = context
            if op.tomb:
                self.tombs |= op.bit
            op.obj = (held[0] | context | op.bit, held[1] & ~context | op.bit)
        if hint_for == NOBODY:
            m.put(key, op.obj)
        else:
            op.stamp = m.put_hint(hint_for, key, op.obj, op.stamp)
        self.contexts[key] = context | op.bit
        self.note(m.number, "writes", f"{op.bit:b}", "at", key, "after", f"{context:b}", hint_for)

    def said_here(self, m: Node, number: int, hint_for: int) -> None:
        m.say(lambda: self.wrote(m, m.number, number, hint_for, True))

    def send_all(self, m: Node, number: int, sends: list[Send]) -> None:
        op = m.ops.get(number)
        if op is None or not sends:
            return
        if op.stamp < m.rounds.stamp(P):
            del m.ops[number]  # from before a promise: it isn't sent any more
            return
        for n, hint_for, _over in sends:
            if n == m.number:
                if m.rounds.refuses_hint(P, op.stamp):
                    self.send_all(m, number, op.machine.failed(n, hint_for))
                else:
                    m.put_hint(hint_for, op.key, op.obj, op.stamp)
                    self.said_here(m, number, hint_for)
            else:
                self.say("write", m, n, number, hint_for, op.digest, op.key, op.obj, op.stamp)

    def on_write(self, m: Node, a: Node, number: int, hint_for: int, digest: bytes, key: int,
                 obj: Obj, stamp: int) -> None:  # fmt: skip
        if hint_for != NOBODY:
            if self.differs(m, digest):
                self.say("other", m, a.number, number, hint_for, m.row)
            elif not m.settled or m.rounds.refuses_hint(P, stamp):
                self.say("refused_write", m, a.number, number, hint_for, not m.settled)
            else:
                m.put_hint(hint_for, key, obj, stamp)
                self.say("wrote", m, a.number, number, hint_for, True)
            return
        standing = self.standing(m, digest)
        if standing is Standing.OTHER_ROW:
            self.say("other", m, a.number, number, hint_for, m.row)
        elif not m.settled or not self.accept(m, key, obj, stamp):
            self.say("refused_write", m, a.number, number, hint_for, standing is Standing.MOVED)
        else:
            counts = standing is Standing.COUNTS or "uncounted counts" in self.faults
            self.say("wrote", m, a.number, number, hint_for, counts)

    def accept(self, m: Node, key: int, obj: Obj, stamp: int) -> bool:
        """Keep what is written to a holder, or to who is to be one; False when it can't be kept."""
        if self.stands_for_itself(m):
            if m.rounds.refuses_hint(P, stamp):
                return False
            m.put_hint(m.number, key, obj, stamp)
            return True
        takes = m.custody.takes or ("stale ring accepted" in self.faults and m.custody.seals)
        if not takes or m.rounds.refuses_write(P, stamp):
            return False
        m.take(key, obj)
        return True

    def stands_for_itself(self, m: Node) -> bool:
        """Whether it holds a slot whose copy may still be deleted unread."""
        if "half-pulled counts" in self.faults and m.custody.takes:
            return False
        return not m.custody.keeps and bool(m.custody.held or m.custody.unclaimed())

    def differs(self, m: Node, digest: bytes) -> bool:
        return digest != m.digest and "rows not compared" not in self.faults

    def standing(self, m: Node, digest: bytes) -> Standing:
        if "stale ring accepted" in self.faults and (m.custody.seals or m.counts):
            return Standing.COUNTS
        if "rows not compared" in self.faults:
            digest = m.digest
        return m.custody.standing(digest)

    def on_wrote(self, m: Node, a: Node, number: int, hint_for: int, counts: bool) -> None:
        self.wrote(m, a.number, number, hint_for, counts)

    def wrote(self, m: Node, node: int, number: int, hint_for: int, counts: bool) -> None:
        op = m.ops.get(number)
        if not isinstance(op, Put):
            return
        op.by.append(node)
        self.uncounted += not counts or hint_for == node
        if op.machine.acked(node, hint_for, counts):
            op.answered = True
            self.acknowledged(op.key, op.bit)
            self.note("acknowledged", f"{op.bit:b}", op.by, "of them count", op.machine.primary)
        if op.machine.primary >= self.w:
            self.strict[op.key] |= op.bit
        self.settle(m, number)

    def on_refused_write(self, m: Node, a: Node, number: int, hint_for: int, moving: bool) -> None:
        op = m.ops.get(number)
        if isinstance(op, Put):
            op.moving |= moving
            self.send_all(m, number, op.machine.failed(a.number, hint_for))
            self.settle(m, number)

    def settle(self, m: Node, number: int) -> None:
        op = m.ops.get(number)
        if not isinstance(op, Put) or not op.machine.settled:
            return
        if op.answered or not op.moving or not self.anew(m, number):
            m.ops.pop(number, None)

    def on_other(self, m: Node, a: Node, number: int, hint_for: int, row: Row) -> None:
        """The receiver knows another row: both learn, and all of it is begun anew."""
        self.exchange(m, a.number, row)
        op = m.ops.get(number)
        if op is None or self.anew(m, number):
            return
        if isinstance(op, Put):
            self.on_refused_write(m, a, number, hint_for, False)

    def anew(self, m: Node, number: int) -> bool:
        """Begin an operation again, by what is known then, once that is fsynced."""
        op = m.ops[number]
        if op.runs >= RUNS_MAX or (isinstance(op, Put) and op.answered):
            return False
        del m.ops[number]
        self.again += 1
        if isinstance(op, Get):
            m.say(lambda: self.read(m, op.key, op.runs + 1))
        else:
            m.say(lambda: self.run_put(m, op.key, op.context, op.tomb, op.runs + 1, op.bit))
        return True

    def hedge(self, m: Node) -> None:
        """Replies are slow: stand-ins are asked; for what is answered the wait is over."""
        for number, op in list(m.ops.items()):
            if isinstance(op, Put):
                slow = op.machine.give_up_waiting if op.answered else op.machine.hedge
                self.send_all(m, number, slow())
                self.settle(m, number)

    # Reads

    def read(self, m: Node, key: int, runs: int = 0) -> None:
        number = self.next_op
        self.next_op += 1
        m.ops[number] = Get(
            key, m.digest, holders(m.row), self.strict[key], dict(self.reaped), runs
        )
        for n in holders(m.row):
            self.say("read", m, n, number, m.digest, key)
        if m.counts and m.settled:
            self.replied(m, m.number, number, m.rec(key))

    def on_read(self, m: Node, a: Node, number: int, digest: bytes, key: int) -> None:
        standing = self.standing(m, digest)
        if standing is Standing.OTHER_ROW:
            self.say("other", m, a.number, number, NOBODY, m.row)
        elif standing is Standing.COUNTS and m.settled:
            self.send("replied", m, a.number, number, m.rec(key))

    def on_replied(self, m: Node, a: Node, number: int, obj: Obj) -> None:
        self.replied(m, a.number, number, obj)

    def replied(self, m: Node, node: int, number: int, obj: Obj) -> None:
        op = m.ops.get(number)
        if not isinstance(op, Get) or node not in op.owners:
            return
        op.replies[node] = obj
        if len(op.replies) < self.r:
            return
        whole = ABSENT
        for said in op.replies.values():
            whole = merge(whole, said)
        del m.ops[number]
        if self.r > 1 or node not in self.void:  # 0012, decision 5: what remains
            self.shown(op.key, whole, op.expected, f"a read at {[*op.replies]}", op.reaped)
        self.contexts[op.key] = whole[0]
        self.reads += 1

    # Anti-entropy

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
            mine = m.rec(key), m.rounds.stamp(P), m.committed
            self.say("copy", m, a.number, m.digest, key, *mine, False)
