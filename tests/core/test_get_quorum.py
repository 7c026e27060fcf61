"""Gets: step by step, and against a dumb model in any order of replies and failures.

The model is what each node holds, merged with plain `objects.merge`. The test plays the
network: any order, any failure, a hedge at any moment, the end of waiting at the end.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.quorum_nodes import OTHERS, OWNERS, well

from dynamo_core import objects
from dynamo_core.get_quorum import Ask, GetQuorum
from dynamo_core.objects import ABSENT, Object, Sibling
from dynamo_core.versions import EMPTY, Clock


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
    get = GetQuorum(OWNERS, OTHERS, 2, 2, well)
    assert get.start() == [Ask(2, True), Ask(1, False), Ask(3, False)]
    data = objects.to_bytes(X)
    assert get.replied(2, objects.head_of(data), data) == []
    assert not get.ready
    assert get.replied(1, objects.head_of(data), None) == []
    assert get.ready
    assert (get.answer, get.fastest, get.repairs()) == (data, 2, None)


def test_a_head_that_differs_is_fetched_and_both_are_merged() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
    _run(get, {1: X, 2: Y, 3: X})
    assert get.answer == objects.to_bytes(XY)
    found = get.repairs()
    assert found is not None
    assert found == (objects.to_bytes(XY), [1, 2, 3])


def test_several_heads_are_fetched_in_an_order_that_a_run_can_repeat() -> None:
    for nth in range(20):
        held = {node: objects.to_bytes(_object((node, b"%d" % nth))) for node in OWNERS}
        heads = {node: objects.head_of(held[node]) for node in OWNERS}
        get = GetQuorum(OWNERS, OTHERS, 1, 3, well)
        get.start()
        get.replied(1, heads[1], held[1])
        get.replied(2, heads[2], None)
        asks = get.replied(3, heads[3], None)
        assert asks == [Ask(node, True) for node in sorted((2, 3), key=lambda n: heads[n])]


def test_an_ancestor_is_not_fetched() -> None:
    """The head alone shows that nothing of it would be kept."""
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
    get.start()
    after, old = objects.to_bytes(AFTER), objects.to_bytes(X)
    assert get.replied(1, objects.head_of(after), after) == []
    assert get.replied(2, objects.head_of(old), None) == []
    assert get.answer == after
    assert get.repairs() == (after, [2])


def test_a_node_that_dies_between_head_and_object_leaves_the_count() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
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
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
    get.start()
    assert get.failed(1) == []
    assert get.replied(2, None, None) == []
    assert get.replied(3, None, None) == []
    assert get.ready
    assert get.answer is None


def test_a_floor_asks_on_until_it_is_covered() -> None:
    """Read your writes: the stand-in that took the write is asked before the answer is no."""
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well, floor=AFTER.clock)
    _run(get, {1: X, 2: X, 3: None, 4: None, 5: AFTER, 6: None})
    assert get.answer == objects.to_bytes(AFTER)
    unknown = Clock({b"?" * 16: 1})
    never = GetQuorum(OWNERS, OTHERS, 1, 2, well, floor=unknown)
    _run(never, {1: X, 2: X, 3: X, 4: None, 5: None, 6: None})
    assert never.exhausted
    assert never.below_floor


def test_the_answer_carries_the_lowest_round_of_those_it_is_built_from() -> None:
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
    get.start()
    data = objects.to_bytes(X)
    get.replied(1, objects.head_of(data), data, 7)
    get.replied(2, objects.head_of(data), None, 5)
    assert get.reap_round == 5


@pytest.mark.parametrize(
    ("replies", "context_round"),
    [
        ({1: (X, 7), 2: (X, 5)}, 5),  # all that is claimed was there under the lower one
        ({1: (X, 5), 2: (Y, 7)}, 7),
        ({1: (XY, 7), 2: (X, 5)}, 7),
        ({1: (X, 7), 2: (XY, 5)}, 5),
        ({1: (X, 5), 4: (Y, 0)}, 5),  # a stand-in: newer than all rounds up to 3
        ({1: (X, 0), 4: (Y, 0)}, 3),
        ({1: (X, 0), 2: (X, 0)}, 0),  # owners know their rounds
        ({1: (X, 5), 2: (None, 7)}, 5),
        ({1: (X, 5), 4: (None, 0)}, 5),
    ],
)
def test_a_context_is_of_the_lowest_round_under_which_all_of_it_was_there(
    replies: dict[int, tuple[Object | None, int]], context_round: int
) -> None:
    # Seed 140004376: a round committed beyond it says that owners have got all that it claims.
    get = GetQuorum(OWNERS, OTHERS, 1, 2, lambda node: node in replies)
    asks = get.start()
    while asks:
        node, _ = asks.pop(0)
        obj, reap_round = replies[node]
        whole = None if obj is None else objects.to_bytes(obj)
        head = None if whole is None else objects.head_of(whole)
        asks += get.replied(node, head, whole, reap_round)
    assert get.ready
    assert get.context_round(last_before=3) == context_round


def test_a_reply_from_before_a_round_that_another_owner_has_carried_out_is_asked_for_again() -> (
    None
):
    # Seed 5000689: together with what that one had deleted it would show a reaped value.
    whole = objects.to_bytes(_object((1, b"v")))
    head = objects.head_of(whole)
    get = GetQuorum(OWNERS, OTHERS, 1, 2, well)
    get.start()
    assert get.replied(1, head, whole, 4, 4) == []
    assert get.replied(2, None, None, 5, 5) == [], "two are awaited: the third, and nobody new"
    assert not get.ready
    assert get.failed(3) == [Ask(1, False)]
    get.replied(1, None, None, 5, 5)
    assert get.ready
    assert get.answer is None
    # One that stays behind has an old disk, and isn't asked for ever.
    get = GetQuorum(OWNERS, OTHERS, 1, 3, well)
    get.start()
    get.replied(2, None, None, 5, 5)
    get.replied(3, None, None, 5, 5)
    assert get.replied(1, head, whole, 4, 4) == [Ask(1, True)]
    assert Ask(1, True) not in get.replied(1, head, whole, 4, 4)
    assert not get.ready
