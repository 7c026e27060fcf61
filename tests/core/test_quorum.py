"""Quorum: both machines against a dumb model, in any order of replies and failures.

The model of a put is a set of nodes that acknowledged and a set of owners for
whom a hint is kept; that of a get is what each node holds, merged with plain
`objects.merge`. Both play the network: any order, any failure, a hedge at any
moment, the end of waiting at the end.
"""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_core import objects
from dynamo_core.get_quorum import Ask, GetQuorum
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.put_quorum import PutQuorum, Send
from dynamo_core.records import NOBODY
from dynamo_core.versions import EMPTY, Clock

OWNERS = (1, 2, 3)
OTHERS = (4, 5, 6)


def _well(node: int) -> bool:
    return True


# Put


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


def test_w_is_reached_by_the_second_of_two() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1)
    assert put.acked(3)
    assert not put.acked(2)
    assert (put.primary, put.standin, put.settled) == (3, 0, True)


def test_an_owner_that_does_not_count_yet_stands_in_for_itself() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well)
    put.start()
    assert not put.acked(2, counts=False)
    assert (put.primary, put.standin) == (0, 1)
    assert put.acked(1)
    assert (put.primary, put.standin) == (1, 1)
    assert not put.acked(2), "what it said once was no holder's word"
    assert (put.primary, put.standin) == (1, 1)
    assert not put.acked(3)
    assert (put.primary, put.standin, put.settled) == (2, 1, True)


def test_a_coordinator_that_does_not_count_keeps_the_write_as_a_hint_for_itself() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well, counts=False)
    assert put.start() == [Send(1, 1), Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1, 1)
    assert put.acked(2)
    assert (put.primary, put.standin) == (1, 1)
    # Where its own hint can't be kept, somebody stands in for it like for any other owner.
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well, counts=False)
    put.start()
    assert put.failed(1, 1) == [Send(4, 1)]
    assert not put.acked(2, counts=False)
    assert put.acked(4, 1)
    assert (put.primary, put.standin) == (0, 2)


def test_an_owner_that_does_not_count_and_its_stand_in_are_one_copy() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well)
    put.start()
    assert put.hedge() == [Send(4, 2), Send(5, 3)]
    assert not put.acked(2, counts=False)
    assert not put.acked(4, 2), "delivered, both are on one disk"
    assert (put.primary, put.standin) == (0, 1)
    assert put.acked(5, 3)
    assert (put.primary, put.standin) == (0, 2)


def test_the_hint_of_a_stand_in_counts_for_its_owner_alone_whatever_it_holds_itself() -> None:
    put = PutQuorum((1, 2), (3,), 1, 2, _well)
    put.start()
    put.hedge()
    assert not put.acked(3, 2, counts=False)
    assert not put.acked(2), "the stand-in's hint is for this very owner"
    assert put.got == 1
    assert put.acked(1)


def test_a_dead_owner_is_stood_in_for_and_that_counts_towards_w() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 3, lambda node: node not in (3, 4))
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(5, 3)]
    assert not put.acked(1)
    assert not put.acked(2)
    assert put.acked(5, 3)
    assert (put.primary, put.standin) == (2, 1)


def test_a_stand_in_that_fails_hands_on_to_the_next_and_at_last_to_the_coordinator() -> None:
    put = PutQuorum(OWNERS, (4, 5), 1, 2, _well)
    put.start()
    assert put.failed(3) == [Send(4, 3)]
    assert put.failed(4, 3) == [Send(5, 3)]
    assert put.failed(5, 3) == [Send(1, 3)]
    assert put.failed(5, 3) == [], "a failure that comes twice changes nothing"
    assert not put.acked(1)
    assert put.got == 1, "a hint beside the coordinator's own copy is no second node"
    assert put.acked(2)


def test_a_slow_owner_is_hedged_once_and_counts_once_with_its_stand_in() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 3, _well)
    put.start()
    put.acked(1)
    put.acked(2)
    assert put.hedge() == [Send(4, 3)]
    assert put.failed(3) == [], "its hint is on its way already"
    assert put.acked(4, 3)
    assert not put.acked(3), "late, but welcome"
    assert (put.primary, put.standin) == (3, 0)
    assert put.hedge() == [], "W is reached: nothing to hedge"


def test_nodes_that_only_seem_dead_are_tried_where_w_needs_them() -> None:
    put = PutQuorum(OWNERS, (4,), 1, 3, lambda node: False)
    hints = [Send(1, 2), Send(1, 3)]
    assert put.start() == [Send(1, NOBODY), *hints, Send(2, NOBODY), Send(3, NOBODY)]
    assert not put.acked(1)
    assert put.failed(2) == [Send(4, 2)], "the next one; its owner's hint is kept already"
    assert not put.acked(3)
    assert put.acked(4, 2)
    assert (put.primary, put.standin, put.settled) == (2, 1, True)


def test_a_silent_node_is_no_reason_to_spare_one_that_only_seems_dead() -> None:
    put = PutQuorum(OWNERS, (), 1, 2, lambda node: node == 2)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(1, 3)]
    assert not put.acked(1)
    assert put.hedge() == [Send(3, NOBODY)]
    assert put.give_up_waiting() == [Send(1, 2)], "and at the end nobody new is tried"


def test_a_coordinator_that_is_no_owner_keeps_its_copy_as_a_hint() -> None:
    put = PutQuorum(OWNERS, OTHERS, 5, 2, lambda node: node != 2)
    assert put.start() == [Send(5, 2), Send(1, NOBODY), Send(3, NOBODY)]
    assert not put.acked(5, 2)
    assert put.acked(1)
    assert (put.primary, put.standin) == (1, 1)


# Get


def _object(*writes: tuple[int, bytes | None], seen: Object = ABSENT) -> Object:
    """`seen`, read and then written by each (actor, value) in turn, blind of one another."""
    result = seen
    for actor, value in writes:
        sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, actor, "", value)
        result = objects.put(result, seen.clock, sibling)
    return result


def _dict_reply(machine: GetQuorum, asks: list[Ask], held: dict[int, Object | None]) -> list[Ask]:
    more: list[Ask] = []
    for node, full in asks:
        obj = held[node]
        data = None if obj is None else objects.to_bytes(obj)
        head = None if data is None else objects.head_of(data)
        more += machine.replied(node, head, data if full else None)
    return more


def _run(machine: GetQuorum, held: dict[int, Object | None]) -> None:
    asks = machine.start()
    while asks:
        asks = _dict_reply(machine, asks, held)


X = _object((1, b"x"))
Y = _object((2, b"y"))
XY = objects.merge(X, Y)
AFTER = _object((3, b"z"), seen=XY)
GONE = _object((4, None), seen=X)


@st.composite
def _families(draw: st.DrawFn) -> list[Object | None]:
    """Up to five versions of one key: blind, descending, merged, tombstones; and nothing."""
    versions: list[Object] = []
    for actor in range(1, 1 + draw(st.integers(1, 4))):
        base = ABSENT
        for earlier in draw(
            st.lists(st.sampled_from(versions), max_size=2) if versions else st.just([])
        ):
            base = objects.merge(base, earlier)
        value = None if draw(st.integers(0, 3)) == 0 else bytes([actor])
        versions.append(_object((actor, value), seen=base if draw(st.booleans()) else ABSENT))
    return [None, *versions, objects.merge(versions[0], versions[-1])]


@settings(max_examples=300)
@given(_families(), st.data())
def test_a_get_against_the_model(family: list[Object | None], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 4), label="n")
    nodes = data.draw(st.permutations(range(1, n + 1 + data.draw(st.integers(0, 3)))))
    owners, others = nodes[:n], nodes[n:]
    local = data.draw(st.sampled_from(nodes), label="local")
    r = data.draw(st.integers(1, n), label="r")
    held = {node: data.draw(st.sampled_from(family), label=f"at {node}") for node in nodes}
    sick = set(data.draw(st.lists(st.sampled_from(nodes), max_size=2), label="sick")) - {local}
    dead = set(data.draw(st.lists(st.sampled_from(nodes), max_size=3), label="dead"))
    floor = EMPTY
    if data.draw(st.booleans(), label="floor"):
        seen = data.draw(st.sampled_from(family))
        floor = EMPTY if seen is None else seen.clock
    machine = GetQuorum(owners, others, local, r, lambda node: node not in sick, floor)

    heard: dict[int, Object | None] = {}
    asked_whole: set[int] = set()
    waiting: list[Ask] = []

    def send(asks: list[Ask]) -> None:
        for ask in asks:
            again = [a for a in waiting if a.node == ask.node]
            assert not again, "a node is asked again before it answered"
            assert not (ask.node in heard and not ask.full), "a head is asked for twice"
            assert ask.node not in asked_whole, "an object is asked for twice"
            if ask.full:
                asked_whole.add(ask.node)
            waiting.append(ask)

    send(machine.start())
    at_answer: dict[int, Object | None] = {}
    while waiting:
        if data.draw(st.integers(0, 4)) == 0:
            send(machine.hedge())
        node, full = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
        was_ready = machine.ready
        if node in dead:
            heard.pop(node, None)
            asks = machine.failed(node)
        else:
            obj = heard[node] = held[node]
            encoded = None if obj is None else objects.to_bytes(obj)
            head = None if encoded is None else objects.head_of(encoded)
            asks = machine.replied(node, head, encoded if full else None)
        send(asks)
        if machine.ready and not was_ready:
            at_answer = dict(heard)

    assert machine.settled
    assert machine.exhausted == (not machine.ready)
    able_owners = [node for node in owners if node not in dead]
    reachable = [*able_owners, *(o for o in others if o not in dead and o not in sick)]
    if not machine.ready:
        everything = ABSENT
        for node in reachable:
            everything = objects.merge(everything, held[node] or ABSENT)
        short = len(able_owners) < r
        assert short or not everything.clock.descends(floor), "R owners could answer, and did not"
        return
    expected = ABSENT
    for obj in at_answer.values():
        expected = objects.merge(expected, obj or ABSENT)
    answer = ABSENT if machine.answer is None else objects.from_bytes(machine.answer)
    assert answer == expected, "the answer is what everybody who counts holds, merged"
    assert answer.clock.descends(floor)
    if objects.shown(answer):
        assert len(at_answer) >= r
    else:
        assert len([node for node in at_answer if node in owners]) >= r, "absence needs R owners"
    repairs = machine.repairs()
    if repairs is not None:
        whole, stale = repairs
        for node in stale:
            assert node in owners
            assert objects.merge(heard[node] or ABSENT, objects.from_bytes(whole)) == (
                objects.from_bytes(whole)
            )
            assert heard[node] != objects.from_bytes(whole), "an equal replica is left in peace"


def test_the_nearest_sends_the_object_the_others_heads() -> None:
    get = GetQuorum(OWNERS, OTHERS, 2, 2, _well)
    assert get.start() == [Ask(2, True), Ask(1, False), Ask(3, False)]
    data = objects.to_bytes(X)
    assert get.replied(2, objects.head_of(data), data) == []
    assert not get.ready
    assert get.replied(1, objects.head_of(data), None) == []
    assert get.ready
    assert (get.answer, get.fastest, get.repairs()) == (data, 2, None)


def test_a_head_that_differs_is_fetched_and_both_are_merged() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    _run(get, {1: X, 2: Y, 3: X})
    assert get.answer == objects.to_bytes(XY)
    found = get.repairs()
    assert found is not None
    assert found == (objects.to_bytes(XY), [1, 2, 3])


def test_several_heads_are_fetched_in_an_order_that_a_run_can_repeat() -> None:
    for nth in range(20):
        held = {node: objects.to_bytes(_object((node, b"%d" % nth))) for node in OWNERS}
        heads = {node: objects.head_of(held[node]) for node in OWNERS}
        get = GetQuorum(OWNERS, OTHERS, 1, 3, _well)
        get.start()
        get.replied(1, heads[1], held[1])
        get.replied(2, heads[2], None)
        asks = get.replied(3, heads[3], None)
        assert asks == [Ask(node, True) for node in sorted((2, 3), key=lambda n: heads[n])]


def test_an_ancestor_is_not_fetched() -> None:
    """The head alone shows that nothing of it would be kept."""
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    get.start()
    after, old = objects.to_bytes(AFTER), objects.to_bytes(X)
    assert get.replied(1, objects.head_of(after), after) == []
    assert get.replied(2, objects.head_of(old), None) == []
    assert get.answer == after
    assert get.repairs() == (after, [2])


def test_a_node_that_dies_between_head_and_object_leaves_the_count() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    get.start()
    x, y = objects.to_bytes(X), objects.to_bytes(Y)
    get.replied(1, objects.head_of(x), x)
    assert get.replied(2, objects.head_of(y), None) == [Ask(2, True)]
    assert get.failed(2) == []
    assert not get.ready
    assert get.replied(3, objects.head_of(x), None) == []
    assert get.answer == x


@pytest.mark.parametrize("held", [None, GONE])
def test_absence_is_not_said_by_stand_ins(held: Object | None) -> None:
    """A client cut off with two empty stand-ins asks for an existing key."""
    get = GetQuorum(OWNERS, OTHERS, 4, 2, lambda node: node in (4, 5))
    asks = get.start()
    here = {4: held, 5: None, 6: None}
    while asks:
        more: list[Ask] = []
        for ask in asks:
            if ask.node in OWNERS:
                more += get.failed(ask.node)
            else:
                more += _dict_reply(get, [ask], here)
        asks = more
    assert get.exhausted
    assert get.got == 0, "empty replies of others don't count towards R"


def test_a_tombstone_needs_r_owners_a_value_does_not() -> None:
    held: dict[int, Object | None] = {1: GONE, 2: GONE, 3: None, 4: None}
    get = GetQuorum(OWNERS, OTHERS, 1, 2, lambda node: node != 2)
    _run(get, held)
    assert get.ready
    assert get.primary == 2
    assert get.answer == objects.to_bytes(GONE)
    with_value = GetQuorum(OWNERS, OTHERS, 4, 2, lambda node: node in (1, 4))
    _run(with_value, {1: X, 4: None})
    assert with_value.answer == objects.to_bytes(X)
    assert (with_value.primary, with_value.standin) == (1, 1)


def test_a_stand_ins_tombstone_over_an_owners_value_asks_for_more_owners() -> None:
    """Merged there is no value, so the stand-in doesn't count, whatever the owner still holds."""
    get = GetQuorum(OWNERS, OTHERS, 2, 2, lambda node: node != 1)
    assert get.start() == [Ask(2, True), Ask(3, False)]
    x, gone = objects.to_bytes(X), objects.to_bytes(GONE)
    assert get.replied(3, objects.head_of(x), None) == []
    assert get.failed(2) == [Ask(4, True)]
    more = get.replied(4, objects.head_of(gone), gone)
    assert more == [Ask(5, False)]
    assert get.got == 1
    assert get.replied(5, None, None) == [Ask(6, False)]
    assert get.replied(6, None, None) == [Ask(1, False)], "the owner that only seems dead"
    get.replied(1, None, None)
    assert (get.ready, get.answer) == (True, gone)


def test_recovering_owners_abstain_and_others_are_asked() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    get.start()
    assert get.failed(1) == []
    assert get.replied(2, None, None) == []
    assert get.replied(3, None, None) == []
    assert get.ready
    assert get.answer is None


def test_a_floor_asks_on_until_it_is_covered() -> None:
    """Read your writes: the stand-in that took the write is asked before the answer is no."""
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well, floor=AFTER.clock)
    _run(get, {1: X, 2: X, 3: None, 4: None, 5: AFTER, 6: None})
    assert get.answer == objects.to_bytes(AFTER)
    unknown = Clock({b"?" * 16: 1})
    never = GetQuorum(OWNERS, OTHERS, 1, 2, _well, floor=unknown)
    _run(never, {1: X, 2: X, 3: X, 4: None, 5: None, 6: None})
    assert never.exhausted
    assert never.below_floor


def test_the_answer_carries_the_lowest_round_of_those_it_is_built_from() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    get.start()
    data = objects.to_bytes(X)
    get.replied(1, objects.head_of(data), data, 7)
    get.replied(2, objects.head_of(data), None, 5)
    assert get.reap_round == 5


def test_schedule_17_full_hint_stores_refuse_no_write_that_needs_them() -> None:
    # Owners 2 and 3 are down; stand-ins 4 and 5 have no room for their hints.
    put = PutQuorum((1, 2, 3), (4, 5), 1, 2, lambda node: node not in (2, 3))
    assert put.start() == [Send(1, NOBODY), Send(4, 2), Send(5, 3)]
    assert not put.acked(1)
    # Nobody is left who could: the hint stays at home, and the other one may still be taken.
    assert put.no_room(4, 2) == [Send(1, 2)]
    over = put.no_room(5, 3)
    assert over == [Send(1, 3), Send(2, NOBODY)], "a node that only seems dead is tried first"
    assert put.failed(2) == [Send(3, NOBODY)]
    assert put.failed(3) == [Send(4, 2, over=True)]
    assert put.acked(4, 2)
    assert (put.primary, put.standin) == (1, 1)


def test_room_is_not_forced_where_w_is_reached_without_it() -> None:
    put = PutQuorum((1, 2, 3), (4,), 1, 2, lambda node: node != 3)
    assert put.start() == [Send(1, NOBODY), Send(2, NOBODY), Send(4, 3)]
    assert not put.acked(1)
    assert put.acked(2)
    assert put.no_room(4, 3) == [Send(1, 3)]
    assert put.settled


def test_an_owner_and_its_stand_in_are_one_copy() -> None:
    # Seed 2007949: the hint went to an owner that had the write already, and its disk was lost.
    put = PutQuorum((1, 2), (3,), 1, 2, _well)
    put.start()
    assert put.hedge() == [Send(3, 2)]
    assert put.failed(1) == [], "nobody is left to stand for it"
    assert not put.acked(2)
    assert not put.acked(3, 2), "delivered, both are one"
    assert (put.primary, put.standin, put.reached) == (1, 0, False)
    # A stand-in whose owner has answered stands for another one too.
    put = PutQuorum((1, 2), (3,), 1, 2, _well)
    put.start()
    put.hedge()
    put.acked(2)
    put.acked(3, 2)
    assert put.failed(1) == [Send(3, 1)]
    assert put.acked(3, 1)


def test_a_stand_in_that_can_not_be_reached_again_is_not_asked_for_ever() -> None:
    # Seed 10002306: its link had gone, so each try failed at once and led to the next.
    put = PutQuorum((1, 2, 3), (4,), 1, 3, _well)
    put.start()
    put.acked(1)
    assert put.hedge() == [Send(4, 2)]
    put.acked(4, 2)
    put.acked(2)
    assert put.failed(3) == [Send(1, 3), Send(4, 3)], "kept at home, and by whom W needs"
    assert put.failed(4, 3) == []
    assert put.settled


def test_a_stand_in_without_room_for_a_second_hint_is_asked_to_keep_it_all_the_same() -> None:
    put = PutQuorum((1, 2, 3), (4,), 1, 3, _well)
    put.start()
    put.acked(1)
    put.hedge()
    put.acked(4, 2)
    put.acked(2)
    assert put.failed(3) == [Send(1, 3), Send(4, 3)]
    assert put.no_room(4, 3) == [Send(4, 3, over=True)]
    assert put.no_room(4, 3) == [], "nobody answers so, and it would go on for ever"
    assert put.settled


def test_a_silent_stand_in_is_not_asked_again_at_each_hedge() -> None:
    put = PutQuorum((1, 2, 3), (4,), 1, 3, _well)
    put.start()
    put.acked(1)
    put.hedge()
    put.acked(4, 2)
    put.acked(2)
    assert put.hedge() == [Send(4, 3)]
    assert put.hedge() == []
    assert put.acked(4, 3)


def test_a_stand_in_takes_the_part_of_the_coordinator_whose_disk_fails() -> None:
    put = PutQuorum(OWNERS, OTHERS, 1, 2, _well)
    put.start()
    assert put.failed(1) == [Send(4, 1)]
    assert not put.acked(4, 1)
    assert put.acked(3)


def test_a_reply_from_before_a_round_that_another_owner_has_carried_out_is_asked_for_again() -> (
    None
):
    # Seed 5000689: together with what that one had deleted it would show a reaped value.
    whole = objects.to_bytes(_object((1, b"v")))
    head = objects.head_of(whole)
    get = GetQuorum(OWNERS, OTHERS, 1, 2, _well)
    get.start()
    assert get.replied(1, head, whole, 4, 4) == []
    assert get.replied(2, None, None, 5, 5) == [], "two are awaited: the third, and nobody new"
    assert not get.ready
    assert get.failed(3) == [Ask(1, False)]
    get.replied(1, None, None, 5, 5)
    assert get.ready
    assert get.answer is None
    # One that stays behind has an old disk, and isn't asked for ever.
    get = GetQuorum(OWNERS, OTHERS, 1, 3, _well)
    get.start()
    get.replied(2, None, None, 5, 5)
    get.replied(3, None, None, 5, 5)
    assert get.replied(1, head, whole, 4, 4) == [Ask(1, True)]
    assert Ask(1, True) not in get.replied(1, head, whole, 4, 4)
    assert not get.ready
