"""Puts against a dumb model, in any order of replies and failures.

The model is a set of nodes that acknowledged and a set of owners for whom a hint is
kept. The test plays the network: any order, any failure, a hedge at any moment, the end
of waiting at the end.
"""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core.put_quorum import PutQuorum, Send
from dynamo_core.records import NOBODY


@dataclass
class PutModel:
    """Who answered for whom; copies are counted by trying every way to pair nodes and owners."""

    machine: PutQuorum
    acks: dict[int, set[int]] = field(default_factory=dict)  # node -> owners it has it for
    hinted: set[int] = field(default_factory=set)
    waiting: list[Send] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    sent: set[Send] = field(default_factory=set)
    uncounted: set[int] = field(default_factory=set)
    reached: int = 0
    broken: bool = False
    """Whether the coordinator's own write failed: then it keeps no hints either."""

    def send(self, sends: list[Send]) -> None:
        for send in sends:
            if send.node == send.hint_for:
                assert not self.asked, "only a coordinator that doesn't count is sent its own hint"
                assert send.node == self.machine.local in self.machine._weak
            if send.node == self.machine.local and self.asked:
                if self.broken:
                    self.send(self.machine.failed(send.node, send.hint_for))
                else:
                    self.ack(send)  # beside what is here
                continue
            assert send not in self.sent, "nobody else is asked twice for the same"
            self.sent.add(send)
            if send.over:
                assert send.node in self.full, "it said that it has no room"
                assert self.copies() < self.machine.w, "a limit is passed only for W"
            elif send.node in self.asked:
                others = (owners for n, owners in self.acks.items() if n != send.node)
                assert self.acks[send.node] <= set().union(*others), "it is spare, or asked twice"
            self.asked.append(send.node)
            self.waiting.append(send)

    def ack(self, send: Send, counts: bool = True) -> None:
        """`counts` not: an owner's own copy, or its hint for itself, which is durable as well."""
        if send.hint_for == send.node or (not send.hint_for and not counts):
            self.uncounted.add(send.node)
        elif send.hint_for and send.node in self.machine._owners:
            self.hinted.add(send.hint_for)  # an owner counts for itself alone
            assert not self.machine.acked(send.node, send.hint_for)
            return
        self.acks.setdefault(send.node, set()).add(send.hint_for or send.node)
        if send.hint_for:
            self.hinted.add(send.hint_for)
        if self.machine.acked(send.node, send.hint_for, counts):
            self.reached += 1
            assert self.copies() == self.machine.w, "W is reached at W copies, not before or after"

    def copies(self) -> int:
        """The most pairs of different nodes and different owners; an owner stands for itself."""
        own = {n for n, owners in self.acks.items() if n in owners}
        rest = [owners - own for n, owners in self.acks.items() if n not in own]

        def most(left: list[set[int]], taken: frozenset[int]) -> int:
            if not left:
                return 0
            first, *others = left
            ways = [most(others, taken)]
            ways += [1 + most(others, taken | {o}) for o in first - taken]
            return max(ways)

        return len(own) + most(rest, frozenset())

    def check(self) -> None:
        machine = self.machine
        assert machine.got == self.copies() == machine.primary + machine.standin
        assert machine.primary == len({*self.acks} & {*machine._owners} - self.uncounted)
        assert machine.reached == (self.copies() >= machine.w)
        assert self.reached == int(machine.reached)


@st.composite
def _puts(draw: st.DrawFn) -> tuple[PutQuorum, set[int]]:
    n = draw(st.integers(1, 5))
    nodes = draw(st.permutations(range(1, n + 1 + draw(st.integers(0, 5)))))
    sick = set(draw(st.lists(st.sampled_from(nodes), max_size=len(nodes))))
    local = draw(st.sampled_from(nodes))
    w = draw(st.integers(1, n))
    well = sick - {local}
    counts = draw(st.booleans())
    machine = PutQuorum(nodes[:n], nodes[n:], local, w, lambda node: node not in well, counts)
    return machine, well


@settings(max_examples=300)
@given(_puts(), st.data())
def test_a_put_counts_each_node_once_and_leaves_no_owner_without(
    put: tuple[PutQuorum, set[int]], data: st.DataObject
) -> None:
    machine, _ = put
    owners = set(machine._owners)
    model = PutModel(machine)
    model.send(machine.start())
    assert model.asked[0] == machine.local, "the local node mints, so it comes first"
    for _ in range(40):
        model.check()
        if not model.waiting:
            break
        steps = ["ack", "ack", "uncounted", "fail", "full", "hedge", "again"]
        step = data.draw(st.sampled_from(steps))
        if step == "hedge":
            model.send(machine.hedge())
            continue
        if step == "again" and model.acks:
            node = data.draw(st.sampled_from(sorted(model.acks)))
            owner = data.draw(st.sampled_from(sorted(model.acks[node])))
            again = machine.acked(node, NOBODY if owner == node else owner)
            assert not again, "an acknowledgement that came twice counts once"
            continue
        send = model.waiting.pop(data.draw(st.integers(0, len(model.waiting) - 1)))
        if step == "fail":
            model.broken |= send.node == machine.local
            model.send(machine.failed(send.node, send.hint_for))
        elif step == "full" and send.hint_for and send.node != machine.local and not send.over:
            model.full.append(send.node)
            model.send(machine.no_room(send.node, send.hint_for))
        else:
            # A stand-in counts for its owner, whether it holds a slot itself or not.
            model.ack(send, counts=step != "uncounted")
    for _ in range(len(machine._others) + 2):  # the silent ones are given up
        model.send(machine.give_up_waiting())
        model.check()
    assert machine.settled
    assert model.broken or {*model.acks} | model.hinted >= owners - (
        {machine.local} - {*model.acks}
    )


def test_a_put_succeeds_wherever_w_nodes_can_be_reached() -> None:
    for seed in range(4000):
        _played(Random(seed))


def _played(rng: Random) -> None:
    """Some nodes are dead, seem dead or have no room; some of the dead say nothing at all."""

    def some(share: float) -> set[int]:
        return {node for node in nodes if node != local and rng.random() < share}

    n = rng.randint(1, 5)
    nodes = rng.sample(range(1, 11), n + rng.randint(0, 5))
    local = rng.choice(nodes)
    sick, dead, silent, full = some(0.3), some(0.4), some(0.3), some(0.3)
    put = PutQuorum(nodes[:n], nodes[n:], local, rng.randint(1, n), lambda node: node not in sick)
    waiting = put.start()
    for _ in range(200):
        if not waiting or rng.random() < 0.15:
            waiting += (more := put.hedge())
            if not more and not waiting:
                break
        if not waiting:
            continue
        node, hint_for, over = waiting.pop(rng.randrange(len(waiting)))
        if node not in dead and (over or not hint_for or node not in full):
            put.acked(node, hint_for)
        elif node not in dead:
            waiting += put.no_room(node, hint_for)
        elif node not in silent:
            waiting += put.failed(node, hint_for)
    assert not waiting, "it ends"
    assert put.settled or dead & silent
    assert put.reached or len(nodes) - len(dead) < put.w


@given(_puts())
def test_a_put_starts_with_healthy_owners_and_one_stand_in_for_each_sick_one(
    put: tuple[PutQuorum, set[int]],
) -> None:
    machine, sick = put
    owners, others, local = list(machine._owners), list(machine._others), machine.local
    sends = machine.start()
    asked = [s.node for s in sends if s.node != local]
    well = {s.node for s in sends} - sick
    if sick & set(asked):
        assert len({s.node for s in sends}) == machine.w, "no more of them than W needs"
        assert len(well) < machine.w, "a node that looks dead is not waited for"
        assert well >= set(owners + others) - sick - {local}, "the healthy ones come first"
        sends = [s for s in sends if s.node not in sick]
    served = {s.hint_for or s.node for s in sends}
    assert sends[0].hint_for != local or local in machine._weak
    assert served == set(owners), "every owner gets the write or somebody keeps it for him"
    stand_ins = [s.node for s in sends if s.hint_for and s.node != local]
    healthy = [o for o in others if o not in sick and o != local]
    assert stand_ins == healthy[: len(stand_ins)], "stand-ins in the order of the preference list"
    if any(s.node == local and s.hint_for for s in sends[1:]):
        assert len(stand_ins) == len(healthy), "a hint beside the local copy only as a last resort"
