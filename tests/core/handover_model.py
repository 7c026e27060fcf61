"""A model of handover: every schedule that rings, clients, the network and disks make of it.

Six nodes (`handover_world`), N = 3, W and R as the seed says, one partition. Each step
delivers, loses or doubles a message, lets a node do the next bit of its work, publishes a
ring from whatever one some node holds, or breaks something; all from one seed. `faults`
names rules to leave out, to see that the model catches it. At most W-1 disks are bad (lost,
or given up) at a time, until repair has spread what they held.

What must hold: a write that W holders acknowledged is in each R that would answer under one
row; one that W nodes did, stand-ins among them, is on W disks but for those lost since;
one tenure of a chain counts at a time; nobody deletes what no present holder has durably;
what was deleted and reaped is never shown again; and once faults stop, exactly the wanted
nodes hold the partition, equal, and nobody else has a copy or a hint.
"""

from itertools import combinations
from random import Random

from tests.core.handover_network import Violation
from tests.core.handover_rounds import Rounds
from tests.core.handover_world import ABSENT, FIRST, KEYS, NODES, N, Node, P, Wish, merge

from dynamo_core.slots import Token, holders
from dynamo_core.tenures import Held, Stage

LIFE = (
    ("writes", 0.8), ("move", 0.9), ("writes", 0.5), ("hurry", 0.8), ("move", 0.3), ("hurry", 0.8),
    ("delete", 0.6), ("calm", 0.7), ("round", 0.9), ("move", 0.5), ("hurry", 0.6), ("round", 0.3),
)  # fmt: skip
"""What becomes of a partition, and how often each part of it does."""


class World(Rounds):
    def __init__(
        self, seed: int, faults: frozenset[str] = frozenset(), trace: bool = False
    ) -> None:
        super().__init__(seed, faults, trace)
        self.checked: tuple[int, ...] = ()
        """What was known and done when the properties were checked last."""
        self.weigh()

    def weigh(self) -> None:
        """Each seed has its own habits."""
        r = self.random
        weights = {
            "deliver": 30, "fsync": 4, "work": 6, "write": 8, "read": 5, "delete": 1.5, "tell": 4,
            "compare": 1, "publish": 2, "crash": 3, "break": 1, "drop": 1, "double": 1,
            "pause": 1, "resume": 2, "reap": 1, "release": 4, "hedge": 3,
        }  # fmt: skip
        for name in weights:
            weights[name] *= r.choice((0.1, 1, 1, 3))
        self.names, self.weights = list(weights), list(weights.values())
        self.order = r.choice((0.0, 0.3, 1.0))
        self.giving_up = r.choice((0.0, 0.0, 0.2, 0.5))
        self.dropping = Random(f"{self.seed}/dropping")
        self.dropped = self.dropping.choice((0.3, 0.8))
        self.losing = r.choice((0.0, 0.2, 0.5))
        self.holding = r.choice((0.0, 0.03, 0.1))
        self.telling = r.choice((0.3, 0.7, 1.0))
        self.cutting = r.choice((0.0, 0.1, 0.3))
        self.turning_back = r.choice((0.0, 0.3, 0.7))
        self.chaos = r.choice((0.3, 0.5, 0.8))
        self.script: list[str] = []

    # What breaks

    def crash(self, m: Node) -> None:
        m.start()
        if "seal forgotten" in self.faults:
            for slot, seal in list(m.custody.seals.items()):
                if seal.successor and m.row[slot] == seal.token:
                    m.custody.held[slot] = Held(seal.token, Stage.COUNTS)
                    del m.custody.seals[slot]

    def lose(self, m: Node, known: Node | None = None) -> None:
        """The disk is gone; the next one is empty, and learns ring and rows from a peer first."""
        self.note(m.number, "loses its disk")
        self.bad.add(m.number)
        self.failing(m)
        known = known or self.random.choice([o for o in self.nodes.values() if o is not m])
        m.disk = {"ring": FIRST}
        m.start()
        m.adopt(known.ring, known.row)

    def may_fail(self, n: int) -> bool:
        return n in self.bad or len(self.bad) < self.w - 1

    def repaired(self) -> bool:
        """Whether all that bad disks held is everywhere again."""
        live = [o for o in self.nodes.values() if o.counts]
        row = max((o.row for o in self.nodes.values()), default=())
        holding = holders(row)
        first = self.nodes[holding[0]]
        if (
            len(live) != N
            or {o.number for o in live} != {*holding}
            or not all(
                o.durable == first.copy == o.copy and o.committed == first.committed for o in live
            )
            or not all(o.row == row == o.table.row(P) for o in self.nodes.values())
            or any(
                o.custody.seals or o.custody.pulling or "list" in o.mem for o in self.nodes.values()
            )
            or self.messages
            or self.held_back
            or not self.no_hints()
        ):
            return False
        self.bad.clear()
        return True

    # Checks after each step

    def check(self) -> None:
        changes = sum(m.changes for m in self.nodes.values()), *self.strict.values(), self.acks
        if changes == self.checked:
            return
        self.checked = changes
        groups: dict[bytes, list[Node]] = {}
        chains: set[tuple[int, Token]] = set()
        for m in self.nodes.values():
            for slot, held in m.custody.held.items():
                if held.stage is not Stage.COUNTS:
                    continue
                chain = (slot, self.chain(slot, held.token))
                if chain in chains and "keeps serving" not in self.faults:
                    raise Violation(f"slot {slot} counts at two nodes of one chain")
                chains.add(chain)
            if m.counts:
                groups.setdefault(m.digest, []).append(m)
            elif not m.keeps and not m.custody.has_copy and m.copy != (ABSENT,) * len(KEYS):
                raise Violation(f"node {m.number} has objects and no record of them")
        self.check_copies()
        for group in groups.values():
            for asked in combinations(group, self.r):
                if self.r == 1 and asked[0].number in self.void:
                    continue  # 0012, decision 5: what remains
                for key in KEYS:
                    whole = ABSENT
                    for m in asked:
                        whole = merge(whole, m.rec(key))
                    numbers = [m.number for m in asked]
                    self.shown(key, whole, self.strict[key], f"{numbers}, who would answer,")

    # Steps

    def step(self) -> None:
        """The next of a partition's life: moved, written, deleted, reaped; or something between."""
        r = self.random
        m = self.nodes[r.choice(NODES)]
        if r.random() < self.chaos:
            name = r.choices(self.names, self.weights)[0]
        else:
            if not self.script:
                self.script += [part for part, chance in LIFE if r.random() < chance]
                if not self.script:
                    return
            name = self.script.pop(0)
        if m.down and name not in ("deliver", "publish", "resume", "drop", "double"):
            return
        getattr(self, "do_" + name)(m)
        self.check()

    def do_deliver(self, m: Node) -> None:
        for _ in range(self.random.choice((1, 3, 10))):
            if self.messages:
                n = len(self.messages)
                self.deliver(self.random.randrange(n) if self.random.random() < self.order else 0)
                for m in self.nodes.values():
                    if m.pending and not m.down and self.random.random() < 0.3:
                        m.fsync()

    def do_fsync(self, m: Node) -> None:
        for m in self.nodes.values():
            if m.pending and not m.down:
                m.fsync()

    def do_work(self, m: Node) -> None:
        for m in self.nodes.values():
            if not m.down and self.random.random() < 0.6:
                self.work(m)

    def do_write(self, m: Node) -> None:
        r, key = self.random, self.random.choice(KEYS)
        able = [o for o in self.nodes.values() if (o.counts or r.random() < 0.1) and not o.down]
        if able:
            self.write(r.choice(able), key, r.choice((0, self.contexts[key])))

    def do_delete(self, m: Node) -> None:
        key = self.random.choice(KEYS)
        able = [o for o in self.nodes.values() if o.counts and not o.down]
        if able:
            self.read_now(key, able)
            self.write(self.random.choice(able), key, self.contexts[key], tomb=True)

    def read_now(self, key: int, able: list[Node]) -> None:
        """A client has read all there is, as most do before they delete."""
        whole = ABSENT
        for m in able:
            whole = merge(whole, m.rec(key))
        self.contexts[key] = whole[0]

    def do_read(self, m: Node) -> None:
        self.read(m, self.random.choice(KEYS))

    def do_tell(self, m: Node) -> None:
        self.tell(m, self.random.choice(NODES))

    def do_compare(self, m: Node) -> None:
        for m in self.nodes.values():
            if m.counts and not m.down:
                for n in holders(m.row):
                    self.compare(m, n, self.random.choice(KEYS))

    def do_publish(self, m: Node) -> None:
        """From the ring that some node holds: it may be an old one, or another's was decided."""
        base = m.ring
        void = {*base.gone}
        give_up = drained = 0
        self.repaired()
        if self.random.random() < self.giving_up and len(void) < 2:
            candidates = [n for n in NODES if n not in void and self.may_fail(n)]
            if candidates:
                give_up = self.random.choice(candidates)
                self.bad.add(give_up)
                void.add(give_up)
                if self.dropping.random() < self.dropped:  # by who takes it for drained
                    give_up, drained = 0, give_up
        able = [n for n in NODES if n not in void]
        earlier = [ring.wanted for ring in self.rings[-4:] if not void & {*ring.wanted}]
        if earlier and self.random.random() < self.turning_back:
            wanted = self.random.choice(earlier)
        elif self.random.random() < 0.5:  # one comes for one that goes
            stay = [n for n in base.wanted if n in able]
            others = [n for n in able if n not in stay]
            wanted = (*stay[: N - 1], *self.random.sample(others, N - len(stay[: N - 1])))
            wanted = tuple(self.random.sample(wanted, N))
        else:
            wanted = tuple(self.random.sample(able, N))
        ring = self.publish(base, wanted, give_up, drained)
        m.adopt(ring, m.row)

    def flow(self, share: float = 0.9) -> None:
        """Messages arrive in order, and most of what is said waits for its fsync only briefly."""
        for m in self.nodes.values():
            if m.pending and not m.down and self.random.random() < share:
                m.fsync()
        for _ in range(len(self.messages)):
            if self.messages and self.random.random() < share:
                self.deliver(0)

    def do_writes(self, m: Node) -> None:
        for _ in range(3):
            self.do_write(m)
            self.flow(0.7)

    def do_move(self, m: Node) -> None:
        """A ring, and how far it spreads."""
        self.do_publish(m)
        for n in NODES:
            if self.random.random() < self.telling:
                self.tell(m, n)
        m.fsync()
        self.flow()

    def do_hurry(self, m: Node) -> None:
        """Handover gets its time, cut off anywhere, and clients go on."""
        for _ in range(self.random.choice((2, 4, 8, 16))):
            for m in self.nodes.values():
                if not m.down:
                    self.work(m)
            if self.random.random() < 0.4:
                self.do_write(m)
            self.flow()
            if self.random.random() < self.cutting:
                self.do_crash(m)
            if self.random.random() < self.cutting:
                self.do_release(m)
            self.flow()

    def do_calm(self, m: Node) -> None:
        losing, self.losing = self.losing, 0.0
        for _ in range(3):
            for m in self.nodes.values():
                if not m.down:
                    self.work(m)
                    for n in NODES:
                        if m.counts and n in holders(m.row):
                            for key in KEYS:
                                self.compare(m, n, key)
                        self.tell(m, n)
            for _ in range(3):
                self.flow()
        self.losing = losing

    def do_round(self, m: Node) -> None:
        for m in self.nodes.values():
            if m.counts and not m.down:
                self.resend(m)
                self.reap(m)
                break
        for _ in range(self.random.choice((1, 2, 4, 6, 9))):
            self.flow()

    def do_release(self, m: Node) -> None:
        if self.held_back:
            self.messages.append(self.held_back.pop(self.random.randrange(len(self.held_back))))

    def do_crash(self, m: Node) -> None:
        busy = [o for o in self.nodes.values() if o.custody.seals or o.custody.pulling]
        m = self.random.choice([m, *busy])
        self.note(m.number, "crashes")
        self.crash(m)

    def do_break(self, m: Node) -> None:
        self.repaired()
        if self.may_fail(m.number) and m.number not in self.void:
            self.lose(m)

    def do_drop(self, m: Node) -> None:
        if self.messages:
            self.messages.pop(self.random.randrange(len(self.messages)))

    def do_double(self, m: Node) -> None:
        if self.messages:
            self.messages.append(self.random.choice(self.messages))

    def do_pause(self, m: Node) -> None:
        if sum(o.down for o in self.nodes.values()) < 2:
            m.down = True

    def do_resume(self, m: Node) -> None:
        for m in self.nodes.values():
            m.down = False

    def do_hedge(self, m: Node) -> None:
        for m in self.nodes.values():
            if not m.down and self.random.random() < 0.5:
                self.hedge(m)

    def do_reap(self, m: Node) -> None:
        for m in self.nodes.values():
            if not m.down:
                self.resend(m)
                if m.attempt is None or self.random.random() < 0.3:
                    self.reap(m)

    # Afterwards

    def heal(self, turns: int = 120) -> None:
        """No faults any more: everything that is due is done, in turns."""
        for m in self.nodes.values():
            m.down = False
        self.order = self.losing = self.holding = 0.0
        self.messages += self.held_back
        self.held_back = []
        ring = max(m.ring for m in self.nodes.values())
        for _turn in range(turns):
            for m in self.nodes.values():
                m.fsync()
                for n in NODES:
                    self.tell(m, n)
                self.work(m)
                self.hedge(m)
                self.resend(m)
                for n in holders(m.row):
                    for key in KEYS:
                        self.compare(m, n, key)
            self.drain()
            if self.settled(ring):
                return
        lines = [
            f"{m.number}: ring {m.ring} row {m.row} held {m.custody.held} seals {m.custody.seals} "
            f"pulling {m.custody.pulling} copy {m.copy} {m.state()} list {m.mem.get('list')} "
            f"hints {m.hints()}"
            for m in self.nodes.values()
        ]
        raise Violation("not settled:\n" + "\n".join(lines))

    def drain(self) -> None:
        for _ in range(20000):
            for m in self.nodes.values():
                m.fsync()
            self.check()
            if not self.messages:
                return
            self.deliver(0)
        raise Violation("messages without end")

    def settled(self, ring: Wish) -> bool:
        first = self.nodes[ring.wanted[0]]
        for m in self.nodes.values():
            if m.row != first.row or m.ring != ring or m.custody.seals or m.custody.pulling:
                return False
            if m.number in ring.wanted:
                if not m.counts or m.copy != first.copy or m.committed != first.committed:
                    return False
            elif m.custody.has_copy or m.copy != (ABSENT,) * len(KEYS):
                return False
        whole = {*holders(first.row)} == {*ring.wanted} and len(first.row) == N
        return whole and self.no_hints()

    def check_end(self) -> None:
        first = self.nodes[max(m.ring for m in self.nodes.values()).wanted[0]]
        for key in KEYS:
            self.shown(key, first.rec(key), self.acked[key], "what is left at the end")


def run(seed: int, steps: int = 250, faults: frozenset[str] = frozenset()) -> World:
    world = World(seed, faults)
    for _ in range(steps):
        world.step()
    world.heal()
    world.check_end()
    return world
