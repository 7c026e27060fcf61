"""Hints in the model of handover: kept for a holder, given to it or to whoever holds a slot now.

A hint goes only once a holder has what it holds, in a copy that isn't deleted unread.
"""

from tests.core.handover_clients import Clients
from tests.core.handover_world import ABSENT, Node, Obj, P

from dynamo_core.slots import holders


class Hints(Clients):
    def deliver_hints(self, m: Node) -> None:
        owners = holders(m.row)
        for (target, key), hint in m.hints():
            to = [target] if target in owners or "hint to who pulls" in self.faults else owners
            for n in to:
                if n != m.number:
                    self.say("hint", m, n, m.digest, target, key, hint.obj, hint.stamp)
                elif m.rounds.refuses_write(P, hint.stamp):
                    self.on_too_late(m, m, target, key, hint.obj, m.ring, m.committed)
                elif m.custody.keeps:
                    m.take(key, hint.obj)
                    self.has(m, n, m.digest, target, key, hint.obj)

    def on_hint(self, m: Node, a: Node, digest: bytes, target: int, key: int, obj: Obj,
                stamp: int) -> None:  # fmt: skip
        if self.differs(m, digest):
            self.exchange(m, a.number, a.row)
            return
        if not m.settled:
            return
        pulls = m.number not in holders(m.row)
        if (pulls and "hint to who pulls" not in self.faults) or self.stands_for_itself(m):
            return
        if self.accept(m, key, obj, stamp):
            self.say("has", m, a.number, digest, target, key, obj)
        elif m.rounds.refuses_write(P, stamp):
            self.say("too_late", m, a.number, target, key, obj, m.ring, m.committed)

    def on_has(self, m: Node, a: Node, digest: bytes, target: int, key: int, obj: Obj) -> None:
        self.has(m, a.number, digest, target, key, obj)

    def has(self, m: Node, node: int, digest: bytes, target: int, key: int, obj: Obj) -> None:
        """`node` has a hint's object durably, and held a slot under that row."""
        hint = m.mem.get(("hint", target, key))
        if hint is None or hint.obj != obj or digest != m.digest:
            return
        have = m.having.setdefault((target, key, obj, digest), set())
        have.add(node)
        owners = holders(m.row)
        if target in owners or "hint to who pulls" in self.faults:
            enough = target in have
        else:  # while one node holds two slots, all of them may be fewer disks than W
            whole = len(owners) == len(m.row) or "fewer holders" in self.faults
            enough = whole and {*owners} <= have
        if enough:
            m.forget_hint(target, key)
            self.delivered += 1

    def on_too_late(self, m: Node, a: Node, target: int, key: int, obj: Obj, ring: object,
                    committed: int) -> None:  # fmt: skip
        """A round needs every member's yes, said while it keeps no hint: this one is newer."""
        hint = m.mem.get(("hint", target, key))
        if hint is None or hint.obj != obj or hint.stamp >= committed:
            return
        asked = m.ring >= ring and m.number not in m.ring.gone
        if hint.inc == m.inc and (asked or "given up, not asked" in self.faults):
            m.keep(("hint", target, key), hint._replace(stamp=committed))
        elif asked or m.number in m.ring.gone:
            m.forget_hint(target, key)
            if m.number in self.void:
                self.gone(obj[0])

    def spread(self, m: Node) -> bool:
        """Whether what is kept here as hints is at W-1 other holders too, who are asked else.

        Else a node that covers a copy would have two of W copies, on one disk.
        """
        if "covers beside hints" in self.faults:
            return True
        others = [n for n in holders(m.row) if n != m.number]
        needed = min(self.w, len(m.row)) - 1
        whole = True
        for (target, key), hint in m.hints():
            have = m.having.get((target, key, hint.obj, m.digest), set())
            if len([n for n in others if n in have]) < needed:
                whole = False
                for n in others:
                    self.say("hint", m, n, m.digest, target, key, hint.obj, hint.stamp)
        return whole

    def no_hints(self) -> bool:
        return not any(hint.obj != ABSENT for m in self.nodes.values() for _, hint in m.hints())
