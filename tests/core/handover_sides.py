"""Both sides of a handover, claims and rounds, as the model's nodes carry them out.

Everything a node decides is the production `Custody`'s; here it is put into messages, as a
node's shell has to: what is said is said after an fsync, an answer to another row is the
row, and what arrives is judged by the rounds that it was built under.
"""

from tests.core.handover_hints import Hints
from tests.core.handover_network import Violation
from tests.core.handover_world import ABSENT, KEYS, NODES, Node, Obj, P, Wish

from dynamo_core import recovery
from dynamo_core.handover import Answer, Do, Effect
from dynamo_core.recovery import Lack
from dynamo_core.rounds import State
from dynamo_core.slots import Row, Token, holders, needed_to_claim
from dynamo_core.tenures import Stage


class Sides(Hints):
    # Successor

    def unable(self, m: Node) -> set[int]:
        return {n for n in NODES if self.nodes[n].down}

    def work(self, m: Node) -> None:
        """The next thing that is due, by what is on the disk and what others have said."""
        self.deliver_hints(m)
        for to, slot, seal in m.custody.offers():
            names = seal.successor == to and m.row[slot] == seal.token
            self.say("offer", m, to, slot, seal.token, names, m.state(), m.row)
        if m.custody.unclaimed():
            needed = needed_to_claim(m.row, self.r, self.w)
            asked, orphans = {*holders(m.row)}, m.table.orphans(P, m.number)
            if orphans:
                asked = {member.number for member in m.ring.everybody}
                needed = 0 if asked <= m.heard | {m.number} else max(1, needed)
            for n in sorted(asked):
                self.say("rows", m, n, m.row)
            needed = 0 if "one row" in self.faults else needed
            effect = m.custody.claim(m.heard, needed)
            self.followed += bool(effect and orphans)
            m.apply(effect)
        for n in m.custody.untold():
            self.say("rows", m, n, m.row)
        for slot, held in sorted(m.custody.held.items()):
            if held.stage is Stage.CLAIMED:
                self.claim(m, slot, held.token)
        step = m.custody.next_step(m.wanted, self.unable(m))
        if step is None or step.source.holder in m.ring.drained:
            return  # nobody has that one's address any more
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
        if m.custody.pulling is None and not self.agreed(m.state(), state.committed):
            for old, seal in list(m.custody.seals.items()):
                self.too_old(m, old, seal.token)
        if m.custody.pulling is None and m.custody.begin(slot, source, state.committed):
            if (
                m.copy != (ABSENT,) * len(KEYS)
                and not m.custody.held
                and not m.custody.seals
                and "resumed" not in self.faults
            ):
                raise Violation(f"node {m.number} begins to pull into a copy that is not empty")
            m.join_rounds(state)

    def on_pull(
        self, m: Node, a: Node, slot: int, source: Token, digest: bytes, cursor: bytes
    ) -> None:
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
            return
        if m.custody.on_pull(slot, source, True) is not Answer.GIVEN:
            return
        place = cursor[0] + 1 if cursor else 0
        self.say(
            "page", m, a.number, slot, source, place, m.rec(place), place == KEYS[-1], m.state()
        )

    def on_page(self, m: Node, a: Node, slot: int, source: Token, place: int, obj: Obj, last: bool,
                state: State) -> None:  # fmt: skip
        if not self.fits(m, slot, source, state):
            self.passed(m, slot, source, state)
            return
        if place != (m.custody.pulling.cursor[0] + 1 if m.custody.pulling.cursor else 0):
            return
        m.take(place, obj)
        m.custody.pulled(slot, source, bytes((place,)), last)

    def fits(self, m: Node, slot: int, source: Token, state: State) -> bool:
        p = m.custody.pulling
        if "rounds not compared" in self.faults:
            return p is not None and (p.slot, p.source) == (slot, source)
        return m.custody.may_merge(slot, source, state.committed)

    def passed(self, m: Node, slot: int, source: Token, state: State) -> None:
        effect = m.custody.round_passed(slot, source, state.committed)
        m.apply(effect)
        p = m.custody.pulling
        if p is not None and p.source == source and p.reap_round == state.committed:
            m.join_rounds(state)

    def on_seal(
        self, m: Node, a: Node, slot: int, source: Token, digest: bytes, ring: Wish
    ) -> None:
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
        if (
            p is not None
            and p.source == source
            and (before is None or before.reap_round != p.reap_round)
        ):
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

    def on_fetched(self, m: Node, a: Node, slot: int, source: Token, key: int, obj: Obj,
                   root: bytes, state: State) -> None:  # fmt: skip
        job = (a.number, a.inc, slot, source)
        left = m.walk.get(job)
        if left is None or key not in left:
            return
        pulling = m.custody.pulling
        completing = pulling is not None and (pulling.slot, pulling.source) == (slot, source)
        if completing and not self.fits(m, slot, source, state):
            m.walk.pop(job)
            self.passed(m, slot, source, state)
            return
        # A reply may be late: it is judged by the rounds that it was built under.
        old = (
            not self.agreed(state, m.committed) and not {"late walk", "merged unread"} & self.faults
        )
        if not completing and (old or not m.custody.may_cover(slot, source)):
            m.walk.pop(job)
            return
        m.take(key, obj)
        left.discard(key)
        if left:
            return
        m.walk.pop(job)
        if completing:
            same = pulling.reap_round if "rounds not compared" in self.faults else state.committed
            m.apply(m.custody.walked(slot, source, same, self.w))
            token = m.custody.held[slot].token if slot in m.custody.held else None
            if token is not None and token.number == source.number + 1:
                self.chains[slot, token] = self.chain(slot, source)
                self.handovers += 1
                self.note(m.number, "takes", slot, token)
            return
        self.say("covered", m, a.number, slot, source, root, m.row)

    def on_offer(
        self, m: Node, a: Node, slot: int, source: Token, names: bool, state: State, row: Row
    ) -> None:
        if row != m.row:
            self.exchange(m, a.number, row)
            return
        if names:
            self.take_seal(m, slot, source, state)
        elif m.custody.may_cover(slot, source):
            if not self.agreed(state, m.committed) and "merged unread" not in self.faults:
                self.say("too_old", m, a.number, slot, source, m.row)
            elif self.spread(m):
                self.start_walk(m, a.number, slot, source)

    def agreed(self, state: State, committed: int) -> bool:
        return committed <= state.committed or committed in state.said

    def on_covered(self, m: Node, a: Node, slot: int, source: Token, root: bytes, row: Row) -> None:
        m.learn(row)
        if "cover of another" in self.faults and m.custody.seals:
            m.custody.seals.clear()
            m.custody._put()
            self.let_go(m, Effect.NONE if m.custody.has_copy else Effect.EMPTY)
            return
        self.let_go(m, m.custody.on_covered(slot, source, root, m.root))

    def on_too_old(self, m: Node, a: Node, slot: int, source: Token, row: Row) -> None:
        m.learn(row)
        self.too_old(m, slot, source)

    def too_old(self, m: Node, slot: int, token: Token) -> None:
        effect = m.custody.on_too_old(slot, token)
        if Effect.EMPTY in effect and m.number in self.void:
            self.failing(m)  # rounds are committed without who was given up
        m.apply(effect)

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
                    raise Violation(
                        f"node {m.number} deletes {lost:b} of key {key}, which no holder has"
                    )
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
        verdict = recovery.judge(Lack.EMPTY, others, m.merged, self.w)
        needed = needed_to_claim(m.row, self.r, self.w)
        if verdict.counts and m.custody.recovered(slot, token, m.merged, needed):
            self.claims += 1
            self.note(m.number, "counts after a claim", slot, token)

    def on_whole(self, m: Node, a: Node, slot: int, token: Token, digest: bytes) -> None:
        if digest != m.digest:
            self.exchange(m, a.number, a.row)
        elif m.custody.held and (
            m.counts or all(h.stage is Stage.CLAIMED for h in m.custody.held.values())
        ):
            self.say("all", m, a.number, slot, token, m.copy, m.state(), m.row)

    def on_all(self, m: Node, a: Node, slot: int, token: Token, copy: tuple[Obj, ...], state: State,
               row: Row) -> None:  # fmt: skip
        held = m.custody.held.get(slot)
        if held is None or held.token != token or held.stage is not Stage.CLAIMED:
            return
        m.apply(m.custody.known_by(a.number, row, self.w))
        if m.custody.held.get(slot) != held:
            return
        if (
            state.committed > m.committed
            and not self.agreed(m.state(), state.committed)
            and not m.counts
        ):
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
