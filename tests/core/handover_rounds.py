"""Reaping beside handover: one round at a time, by the production `Rounds` and `Custody`.

Whose copy stands in the way says no; the list goes to whoever holds a slot when it is told.
"""

from tests.core.handover_sides import Sides
from tests.core.handover_world import ABSENT, KEYS, Node, Obj, P, Wish

from dynamo_core.rounds import Kept, next_round
from dynamo_core.slots import Row, holders


class Rounds(Sides):
    def reap(self, m: Node) -> None:
        """PREPARE to every node, for one key of which only tombstones are left."""
        if not m.counts:
            return
        dead = [k for k in KEYS if m.rec(k) != ABSENT and not m.rec(k)[1] & ~self.tombs]
        if not dead:
            return
        key = self.random.choice(dead)
        obj = m.rec(key)
        number = next_round(m.rounds.stamp(P), m.ring.name)
        if not number:
            return
        m.attempt = {
            "key": key, "obj": obj, "round": number, "ring": m.ring, "row": m.row, "yes": {},
            "base": m.committed, "members": self.members(m),
        }  # fmt: skip
        self.note(m.number, "proposes round", number, "for", key)
        for n in self.members(m):
            self.say("prepare", m, n, key, obj, number, m.ring, m.row, m.committed)
        self.on_prepare(m, m, key, obj, number, m.ring, m.row, m.committed)

    def members(self, m: Node) -> list[int]:
        """Everybody who has not left: who was given up or drained isn't asked any more."""
        return [member.number for member in m.ring.everybody]

    def on_prepare(self, m: Node, a: Node, key: int, obj: Obj, number: int, ring: Wish, row: Row,
                   base: int) -> None:  # fmt: skip
        owner = bool(m.custody.held)
        no = m.ring != ring or m.row != row or bool(m.custody.blocks_reaping(m.wanted))
        no = no or bool(m.hints())
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
        m.keep("list", (number, key, obj, tuple(o for o in owners if o != m.number)))
        self.carry_out(m, number, key, obj)

    def carry_out(self, m: Node, number: int, key: int, obj: Obj) -> None:
        m.rounds.commit(P, Kept(number, m.state().ring, (), ()))
        if m.rec(key) == obj:
            m.put(key, ABSENT)

    def resend(self, m: Node) -> None:
        """The keeper of a list tells whoever holds a slot now, whoever did when it was made."""
        if "list" not in m.mem:
            return
        number, key, obj, _ = m.mem["list"]
        for n in holders(m.row):
            self.say("commit", m, n, number, key, obj)
        if all(
            o.state().committed >= number and o.synced == o.changes
            for o in map(self.nodes.__getitem__, holders(m.row))
        ):
            m.keep("list", None)

    def on_commit(self, m: Node, a: Node, number: int, key: int, obj: Obj) -> None:
        if m.custody.held and m.counts and m.committed < number and m.rounds.agreed_to(P, number):
            self.carry_out(m, number, key, obj)
