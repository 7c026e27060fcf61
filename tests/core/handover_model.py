"""A model of handover: every schedule that rings, clients, the network and disks make of it.

Six nodes (`handover_world`), N = 3, W = R = 2, one partition. Each step delivers, loses or
doubles a message, lets a node do the next bit of its work, publishes a ring from whatever
one some node holds, or breaks something; all from one seed. `faults` names rules to leave
out, to see that the model catches it. At most W-1 disks are bad (lost, or given up) at a
time, until repair has spread what they held.

What must hold: an acknowledged write is in each R holders that would answer under one row;
nobody counts twice; one tenure of a chain counts at a time; nobody deletes what no present
holder has durably; what was deleted and reaped is never shown again; and once faults stop,
exactly the wanted nodes hold the partition, equal, and nobody else has a copy.
"""

import random
from itertools import combinations
from typing import Any

from tests.core.handover_world import ABSENT, KEYS, N, NODES, P, R, W, Node, Obj, Wish, merge

from dynamo_core import recovery
from dynamo_core.handover import Answer, Do, Effect, Stage, Standing
from dynamo_core.recovery import Lack
from dynamo_core.rounds import Kept, Rounds, State
from dynamo_core.slots import Row, Tally, Token, holders, incoming, next_move

WRITES_MAX = 60
TRIES_MAX = 4
FIRST = Wish(1, 0, (1, 2, 3))


class Violation(Exception):
    """A property doesn't hold; the text says which."""


class World:
    def __init__(self, seed: int, faults: frozenset[str] = frozenset(), trace: bool = False) -> None:
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
        self.acked = {k: 0 for k in KEYS}
        self.reaped: dict[int, int] = {}  # tombstone -> key
        self.contexts = {k: 0 for k in KEYS}
        self.chains: dict[tuple[int, Token], Token] = {}
        self.bad: set[int] = set()
        self.next_op = 0
        self.handovers = self.claims = self.reads = self.deletions = self.commits = self.acks = 0
        self.weigh()

    def weigh(self) -> None:
        """Each seed has its own habits."""
        r = self.random
        weights = {
            "deliver": 30, "fsync": 4, "work": 6, "write": 8, "read": 5, "delete": 1.5, "tell": 4,
            "compare": 1, "publish": 2, "crash": 3, "break": 1, "drop": 1, "double": 1,
            "pause": 1, "resume": 2, "reap": 1, "release": 4,
        }  # fmt: skip
        for name in weights:
            weights[name] *= r.choice((0.1, 1, 1, 3))
        self.names, self.weights = list(weights), list(weights.values())
        self.order = r.choice((0.0, 0.3, 1.0))
        self.giving_up = r.choice((0.0, 0.0, 0.2, 0.5))
        self.losing = r.choice((0.0, 0.2, 0.5))
        self.holding = r.choice((0.0, 0.03, 0.1))
        self.telling = r.choice((0.3, 0.7, 1.0))
        self.cutting = r.choice((0.0, 0.1, 0.3))
        self.turning_back = r.choice((0.0, 0.3, 0.7))
        self.chaos = r.choice((0.3, 0.5, 0.8))
        self.script: list[str] = []
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
            bit, _, obj, stamp = rest
            if stamp < m.rounds.stamp(P):
                return  # from before a promise: it isn't sent any more
            to += [n for n in incoming(tally.row, m.wanted) if n not in to]
            for n in to:
                self.say("write", m, n, op, m.digest, key, obj, stamp)
        else:
            for n in to:
                self.say("read", m, n, op, m.digest, key)

    def on_write(self, m: Node, a: Node, op: int, digest: bytes, key: int, obj: Obj, stamp: int) -> None:
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
        return m.custody.standing(digest, m.wanted)

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
            self.shown(key, whole, rest[0], f"a read at {tally.counted}")
            self.contexts[key] = whole[0]
            self.reads += 1
        m.ops.pop(op)

    def read(self, m: Node, key: int) -> None:
        op = self.next_op
        self.next_op += 1
        m.ops[op] = ["read", key, Tally(m.row), self.acked[key], {}]
        self.ask(m, op)
        if m.counts:
            self.acknowledged(m, op, m.number, m.row, m.rec(key))

    def shown(self, key: int, whole: Obj, expected: int, where: str) -> None:
        if missing := self.missing(key, expected, whole):
            raise Violation(f"{where} misses {missing:b} of key {key}")
        for tomb, of in self.reaped.items():
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
        if not m.counts or committed != m.committed or m.rounds.refuses_write(P, stamp):
            return
        m.take(key, obj)
        if back and m.rec(key) != obj:
            self.say("copy", m, a.number, m.digest, key, m.rec(key), m.rounds.stamp(P), m.committed, False)

    # Successor

    def unable(self, m: Node) -> set[int]:
        return {n for n in NODES if self.nodes[n].down}

    def work(self, m: Node) -> None:
        """The next thing that is due, by what is on the disk and what others have said."""
        for to, slot, seal in m.custody.offers():
            names = seal.successor == to and m.row[slot] == seal.token
            self.say("offer", m, to, slot, seal.token, names, m.state(), m.row)
        for n in m.custody.untold():
            self.say("rows", m, n, m.row)
        for slot, held in sorted(m.custody.held.items()):
            if held.stage is Stage.CLAIMED:
                self.claim(m, slot, held.token)
        step = m.custody.next_step(m.wanted, self.unable(m))
        if step is None:
            return
        do, slot, source = step
        p = m.custody.pulling
        if do is Do.BEGIN:
            self.say("rounds", m, source.holder, slot, source, m.digest)
        elif do is Do.PULL:
            assert p is not None
            self.say("pull", m, source.holder, slot, source, m.digest, p.cursor)
        elif do is Do.SEAL:
            if m.custody.asking(slot, source):
                self.say("seal", m, source.holder, slot, source, m.digest, m.ring)
        else:
            self.start_walk(m, source.holder, slot, source)

    def on_rounds(self, m: Node, a: Node, slot: int, source: Token, digest: bytes) -> None:
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
        elif m.custody.on_pull(slot, source, True) is Answer.GIVEN:
            self.say("begin", m, a.number, slot, source, m.state())

    def on_begin(self, m: Node, a: Node, slot: int, source: Token, state: State) -> None:
        if m.custody.pulling is None and m.custody.begin(slot, source, state.committed):
            if m.copy != (ABSENT,) * len(KEYS) and not m.custody.held and "resumed" not in self.faults:
                raise Violation(f"node {m.number} begins to pull into a copy that is not empty")
            m.join_rounds(state)

    def on_pull(self, m: Node, a: Node, slot: int, source: Token, digest: bytes, cursor: bytes) -> None:
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
            return
        if m.custody.on_pull(slot, source, True) is not Answer.GIVEN:
            return
        place = cursor[0] + 1 if cursor else 0
        self.say("page", m, a.number, slot, source, place, m.rec(place), place == KEYS[-1], m.state())

    def on_page(self, m: Node, a: Node, slot: int, source: Token, place: int, obj: Obj, last: bool,
                state: State) -> None:  # fmt: skip
        if not m.custody.may_merge(slot, source, state.committed):
            self.passed(m, slot, source, state)
            return
        if place != (m.custody.pulling.cursor[0] + 1 if m.custody.pulling.cursor else 0):
            return
        m.take(place, obj)
        m.custody.pulled(slot, source, bytes((place,)), last)

    def passed(self, m: Node, slot: int, source: Token, state: State) -> None:
        if "rounds not compared" in self.faults:
            return
        effect = m.custody.round_passed(slot, source, state.committed)
        m.apply(effect)
        p = m.custody.pulling
        if p is not None and p.source == source and p.reap_round == state.committed:
            m.join_rounds(state)

    def on_seal(self, m: Node, a: Node, slot: int, source: Token, digest: bytes, ring: Wish) -> None:
        m.adopt(ring, m.row)
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
            return
        before = {**m.custody.held}
        answer = m.custody.on_seal(slot, source, a.number, True, m.wanted)
        if answer is Answer.GIVEN:
            self.note(m.number, "seals", slot, source, "to", a.number)
            if "keeps serving" in self.faults:
                m.custody.held = before
            if "deletes early" in self.faults and not m.custody.held:
                m.empty()
            self.say("sealed", m, a.number, slot, source, m.state())
        elif answer is Answer.NOT_YOU:
            self.say("refused", m, a.number, slot, source)

    def on_sealed(self, m: Node, a: Node, slot: int, source: Token, state: State) -> None:
        self.take_seal(m, slot, source, state)

    def take_seal(self, m: Node, slot: int, source: Token, state: State) -> None:
        before = m.custody.pulling
        m.apply(m.custody.sealed(slot, source, state.committed))
        p = m.custody.pulling
        if p is not None and p.source == source and (before is None or before.reap_round != p.reap_round):
            m.join_rounds(state)

    def on_refused(self, m: Node, a: Node, slot: int, source: Token) -> None:
        m.apply(m.custody.refused(slot, source))

    def start_walk(self, m: Node, other: int, slot: int, source: Token) -> None:
        """Merge what `other`'s ended copy has, key by key."""
        job = (other, self.nodes[other].inc, slot, source)
        if job not in m.walk:
            m.walk = {job: {*KEYS}}
            if "no final difference" in self.faults:
                m.walk[job] = {KEYS[2]}
        for key in sorted(m.walk[job]):
            self.say("fetch", m, other, slot, source, key)

    def on_fetch(self, m: Node, a: Node, slot: int, source: Token, key: int) -> None:
        seal = m.custody.seals.get(slot)
        if seal is not None and seal.token == source:
            self.say("fetched", m, a.number, slot, source, key, m.rec(key), m.root, m.state())

    def on_fetched(self, m: Node, a: Node, slot: int, source: Token, key: int, obj: Obj, root: bytes,
                   state: State) -> None:  # fmt: skip
        job = (a.number, a.inc, slot, source)
        left = m.walk.get(job)
        if left is None or key not in left:
            return
        pulling = m.custody.pulling
        completing = pulling is not None and (pulling.slot, pulling.source) == (slot, source)
        if completing and not m.custody.may_merge(slot, source, state.committed):
            m.walk.pop(job)
            self.passed(m, slot, source, state)
            return
        # A reply may be late: it is judged by the rounds that it was built under.
        old = not self.agreed(state, m.committed) and not {"late walk", "merged unread"} & self.faults
        if not completing and (old or not m.custody.may_cover(slot, source)):
            m.walk.pop(job)
            return
        m.take(key, obj)
        left.discard(key)
        if left:
            return
        m.walk.pop(job)
        if completing:
            m.apply(m.custody.walked(slot, source, state.committed, W))
            token = m.custody.held[slot].token if slot in m.custody.held else None
            if token is not None and token.number == source.number + 1:
                self.chains[slot, token] = self.chain(slot, source)
                self.handovers += 1
                self.note(m.number, "takes", slot, token)
            return
        self.say("covered", m, a.number, slot, source, root, m.row)

    def on_offer(self, m: Node, a: Node, slot: int, source: Token, names: bool, state: State, row: Row) -> None:
        if row != m.row:
            self.exchange(m, a.number, row)
            return
        if names:
            self.take_seal(m, slot, source, state)
        elif m.custody.may_cover(slot, source):
            if not self.agreed(state, m.committed) and "merged unread" not in self.faults:
                self.say("too_old", m, a.number, slot, source, m.row)
            else:
                self.start_walk(m, a.number, slot, source)

    def agreed(self, state: State, committed: int) -> bool:
        return committed <= state.committed or committed in state.said

    def on_covered(self, m: Node, a: Node, slot: int, source: Token, root: bytes, row: Row) -> None:
        m.learn(row)
        if "cover of another" in self.faults and slot in m.custody.seals:
            m.custody.seals.pop(slot)
            m.custody._put()
            self.let_go(m, Effect.NONE if m.custody.has_copy else Effect.EMPTY)
            return
        self.let_go(m, m.custody.on_covered(slot, source, root, m.root))

    def on_too_old(self, m: Node, a: Node, slot: int, source: Token, row: Row) -> None:
        m.learn(row)
        m.apply(m.custody.on_too_old(slot, source))

    def let_go(self, m: Node, effect: Effect) -> None:
        """A copy that was covered is deleted: what it has must be durable at a present holder."""
        if Effect.EMPTY in effect:
            self.deletions += 1
            having = [o for o in self.nodes.values() if o is not m and o.counts]
            for key in KEYS:
                have = 0
                for o in having:
                    have |= o.durable[key][0]
                if lost := self.missing(key, m.rec(key)[0] & self.acked[key], (have, 0)):
                    raise Violation(f"node {m.number} deletes {lost:b} of key {key}, which no holder has")
        m.apply(effect)

    # Claims

    def claim(self, m: Node, slot: int, token: Token) -> None:
        self.chains.setdefault((slot, token), token)
        for n in holders(m.row):
            if n != m.number:
                self.say("whole", m, n, slot, token, m.digest)
        self.judge(m, slot, token)

    def judge(self, m: Node, slot: int, token: Token) -> None:
        others: dict[int, Lack | None] = {}
        for n in holders(m.row):
            if n != m.number:
                o = self.nodes[n]
                others[n] = None if o.down else Lack.NOTHING if o.counts else Lack.EMPTY
        if "any one" in self.faults:
            if m.merged and m.custody.recovered(slot, token, m.merged, 1):
                self.claims += 1
            return
        verdict = recovery.judge(Lack.EMPTY, others, m.merged, W)
        needed = len([n for n in m.merged if n in others])
        if verdict.counts and m.custody.recovered(slot, token, m.merged, needed):
            self.claims += 1
            self.note(m.number, "counts after a claim", slot, token)

    def on_whole(self, m: Node, a: Node, slot: int, token: Token, digest: bytes) -> None:
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
        elif m.custody.held and (m.counts or all(h.stage is Stage.CLAIMED for h in m.custody.held.values())):
            self.say("all", m, a.number, slot, token, m.copy, m.state(), m.row)

    def on_all(self, m: Node, a: Node, slot: int, token: Token, copy: tuple[Obj, ...], state: State,
               row: Row) -> None:  # fmt: skip
        held = m.custody.held.get(slot)
        if held is None or held.token != token or held.stage is not Stage.CLAIMED:
            return
        m.apply(m.custody.known_by(a.number, row, W))
        if m.custody.held.get(slot) != held:
            return
        if state.committed > m.committed and not self.agreed(m.state(), state.committed) and not m.counts:
            m.empty()  # older than the round: deleted unread
            m.merged.clear()
            m.rounds.floor(P, state.committed, state.ring)
        elif not self.agreed(state, m.committed):
            return
        m.join_rounds(state)
        for key in KEYS:
            m.take(key, copy[key])
        m.merged.add(a.number)
        self.judge(m, slot, token)

    def chain(self, slot: int, token: Token) -> Token:
        return self.chains.get((slot, token), token)

    # Reaping

    def reap(self, m: Node) -> None:
        """PREPARE to every node, for one key of which only tombstones are left."""
        if not m.counts:
            return
        dead = [k for k in KEYS if m.rec(k) != ABSENT and not m.rec(k)[1] & ~self.tombs]
        if not dead:
            return
        key = self.random.choice(dead)
        obj = m.rec(key)
        number = m.rounds.stamp(P) + 1
        m.attempt = {"key": key, "obj": obj, "round": number, "ring": m.ring, "row": m.row, "yes": {},
                     "base": m.committed, "members": self.members(m)}  # fmt: skip
        self.note(m.number, "proposes round", number, "for", key)
        for n in self.members(m):
            self.say("prepare", m, n, key, obj, number, m.ring, m.row, m.committed)
        self.on_prepare(m, m, key, obj, number, m.ring, m.row, m.committed)

    def members(self, m: Node) -> list[int]:
        """Everybody who has not left: who was given up isn't asked any more."""
        void = dict(m.ring.given_up)
        return [n for n in NODES if n not in void]

    def on_prepare(self, m: Node, a: Node, key: int, obj: Obj, number: int, ring: Wish, row: Row,
                   base: int) -> None:  # fmt: skip
        owner = bool(m.custody.held)
        no = m.ring != ring or m.row != row or bool(m.custody.blocks_reaping(m.wanted))
        if "reaps while open" in self.faults:
            no = m.ring != ring
        if owner and (m.rec(key) != obj or m.committed != base or m.rounds.kept(P) is not None):
            no = True
        if no or not m.rounds.promise(P, number):
            m.rounds.take(P, number)
            if m.row != row:
                self.exchange(m, a.number, row)
            return
        if m is a:
            m.say(lambda: self.on_yes(m, m, number))
        else:
            self.say("yes", m, a.number, number)

    def on_yes(self, m: Node, a: Node, number: int) -> None:
        attempt = m.attempt
        if attempt is None or attempt["round"] != number:
            return
        attempt["yes"][a.number] = a.inc
        if len(attempt["yes"]) < len(attempt["members"]):
            return
        m.attempt = None
        if any(self.nodes[n].inc != inc or self.nodes[n].down for n, inc in attempt["yes"].items()):
            return
        if m.ring != attempt["ring"] or m.committed != attempt["base"]:
            return
        self.commits += 1
        key, obj = attempt["key"], attempt["obj"]
        owners = holders(attempt["row"])
        self.note("decided: round", number, "for", key, "by", m.number)
        for at in range(self.writes):
            if (bit := 1 << at) & obj[1]:
                self.reaped[bit] = key
        m.mem["list"] = (number, key, obj, tuple(o for o in owners if o != m.number))
        self.carry_out(m, number, key, obj)

    def carry_out(self, m: Node, number: int, key: int, obj: Obj) -> None:
        m.rounds.commit(P, Kept(number, m.state().ring, (), ()))
        if m.rec(key) == obj:
            m.put(key, ABSENT)

    def resend(self, m: Node) -> None:
        """The keeper of a list tells whoever holds a slot now, not only who did when it was made."""
        if "list" not in m.mem:
            return
        number, key, obj, _ = m.mem["list"]
        for n in holders(m.row):
            self.say("commit", m, n, number, key, obj)
        if all(
            self.nodes[n].state().committed >= number and self.nodes[n].disk == self.nodes[n].mem
            for n in holders(m.row)
        ):
            m.mem.pop("list")

    def on_commit(self, m: Node, a: Node, number: int, key: int, obj: Obj) -> None:
        if m.custody.held and m.counts and m.committed < number and m.rounds.may_commit(P, number):
            self.carry_out(m, number, key, obj)

    # What breaks

    def crash(self, m: Node) -> None:
        m.start()
        if "seal forgotten" in self.faults:
            for slot, seal in list(m.custody.seals.items()):
                if seal.successor and m.row[slot] == seal.token:
                    from dynamo_core.handover import Held

                    m.custody.held[slot] = Held(seal.token, Stage.COUNTS)
                    del m.custody.seals[slot]

    def lose(self, m: Node) -> None:
        """The disk is gone; the next one is empty, and learns ring and rows from a peer first."""
        self.note(m.number, "loses its disk")
        self.bad.add(m.number)
        known = self.random.choice([o for o in self.nodes.values() if o is not m])
        m.disk = {"ring": FIRST}
        m.start()
        m.adopt(known.ring, known.row)

    def repaired(self) -> bool:
        """Whether all that bad disks held is everywhere again."""
        live = [o for o in self.nodes.values() if o.counts]
        row = max((o.row for o in self.nodes.values()), default=())
        holding = holders(row)
        first = self.nodes[holding[0]]
        if (
            len(live) != N
            or {o.number for o in live} != {*holding}
            or not all(o.durable == first.copy == o.copy and o.committed == first.committed for o in live)
            or not all(o.row == row == o.table.row(P) for o in self.nodes.values())
            or any(o.custody.seals or o.custody.pulling or "list" in o.mem for o in self.nodes.values())
            or self.messages
            or self.held_back
        ):
            return False
        self.bad.clear()
        return True

    # Checks after each step

    def check(self) -> None:
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
        for group in groups.values():
            for asked in combinations(group, R):
                for key in KEYS:
                    whole = ABSENT
                    for m in asked:
                        whole = merge(whole, m.rec(key))
                    numbers = [m.number for m in asked]
                    self.shown(key, whole, self.acked[key], f"{numbers}, who would answer,")

    # Steps

    def step(self) -> None:
        """The next of a partition's life: moved, written, deleted, reaped; or something between."""
        r = self.random
        m = self.nodes[r.choice(NODES)]
        if r.random() < self.chaos:
            name = r.choices(self.names, self.weights)[0]
        else:
            if not self.script:
                for part, chance in (("writes", 0.8), ("move", 0.9), ("writes", 0.5), ("hurry", 0.8),
                                     ("move", 0.3), ("hurry", 0.8), ("delete", 0.6), ("calm", 0.7),
                                     ("round", 0.9), ("move", 0.5), ("hurry", 0.6), ("round", 0.3)):  # fmt: skip
                    if r.random() < chance:
                        self.script.append(part)
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
        key = self.random.choice(KEYS)
        able = [o for o in self.nodes.values() if o.counts and not o.down]
        if able:
            self.write(self.random.choice(able), key, self.random.choice((0, self.contexts[key])))

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
        void = {n for n, _ in base.given_up}
        give_up = 0
        self.repaired()
        if self.random.random() < self.giving_up and len(void) < 2:
            candidates = [n for n in NODES if n not in void and (not self.bad or n in self.bad)]
            if candidates:
                give_up = self.random.choice(candidates)
                self.bad.add(give_up)
                void.add(give_up)
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
        ring = self.publish(base, wanted, give_up)
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
        if not self.bad or (self.bad == {m.number} and m.number not in dict(m.ring.given_up)):
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
        for turn in range(turns):
            for m in self.nodes.values():
                m.fsync()
                for n in NODES:
                    self.tell(m, n)
                self.work(m)
                self.resend(m)
                for n in holders(m.row):
                    for key in KEYS:
                        self.compare(m, n, key)
            self.drain()
            if self.settled(ring):
                return
        lines = [
            f"{m.number}: ring {m.ring} row {m.row} held {m.custody.held} seals {m.custody.seals} "
            f"pulling {m.custody.pulling} copy {m.copy} {m.state()} list {m.mem.get('list')}"
            for m in self.nodes.values()
        ]
        raise Violation("not settled:\n" + "\n".join(lines))

    def drain(self) -> None:
        for _ in range(20000):
            for m in self.nodes.values():
                m.fsync()
            if not self.messages:
                return
            self.deliver(0)
            self.check()
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
        return {*holders(first.row)} == {*ring.wanted} and len(first.row) == N

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
