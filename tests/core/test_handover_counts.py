"""What counts while slots move (docs/decisions/0015): schedules that must not lose a copy.

Each is played with the rule and without it, where the model can leave it out.
"""

from collections.abc import Callable

import pytest
from tests.core.handover_network import Violation
from tests.core.handover_play import KEY, QUORUM_1_3, QUORUM_2_2, QUORUM_3_1, Play, seen
from tests.core.handover_world import ABSENT, KEYS

from dynamo_core.handover import Standing
from dynamo_core.slots import Token, holders
from dynamo_core.tenures import Held, Seal, Stage


def _half_pulled(w: Play) -> None:
    """Node 4 pulls, has asked for a seal, and is nominated for another slot."""
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.lost = {"seal"}
    w.turn(4)
    w.lost = set()
    w.ring((1, 4, 3), give_up=2)
    w.cut = {1}
    bit = w.put(3)
    assert w.acknowledged_bits() & bit, "node 4 stands in for itself"
    assert not w.strict[KEY] & bit
    w.cut = set()
    w.turn(4)
    assert w.nodes[4].custody.pulling is None, "no seal names it: what was pulled is let go"
    w.end()


def _claimed(w: Play) -> None:
    """Node 4 has claimed a slot; before it has merged anything another node is nominated."""
    gone = w.put(1)
    w.put(1, context=gone, tomb=True)
    w.round(1)
    w.new_disk(4, told_by=5)
    base = w.nodes[1].ring
    w.cut = {5}
    w.ring((1, 2, 4), give_up=3, to=(1, 2, 4, 6))
    w.cut = {3, 5}
    w.lost = {"all"}
    w.turn(4, times=3)
    new = w.nodes[4]
    assert new.custody.held == {2: Held(Token(2, 2, 4), Stage.CLAIMED)}
    assert new.committed == 0, "it has heard of no round yet"
    assert new.custody.standing(new.digest) is Standing.NOT_YET
    bit = w.put_without(6, down=1, cut={2, 3, 5})
    assert w.acknowledged_bits() & bit
    # Another publisher knows of no nomination, and gives node 3 up once more.
    w.cut, w.lost = {1, 2, 3, 4}, set()
    w.ring((1, 2, 5), base=w.ring((1, 2, 3), base=base, name=1, to=()), give_up=3, to=(5,))
    w.cut = {1, 3}
    w.tell(w.nodes[5], 2)
    w.tell(w.nodes[5], 4)
    w.flow()
    assert new.custody.seals == {2: Seal(Token(2, 2, 4), 0)}
    w.cut = {3}
    w.tell(w.nodes[5], 1)
    w.turn(1, 2, 5, times=6)
    assert w.nodes[5].counts
    w.turn(4, times=4)
    w.end()


def _pulls(w: Play) -> None:
    """A hint for node 1, which has handed its slot on and then pulls it back for a while."""
    bit = w.put_without(2, down=1, cut={3})
    assert w.acknowledged_bits() & bit
    assert w.nodes[4].hint(1, KEY)[0] & bit
    w.ring((5, 2, 3))
    w.turn(1, 5, times=8)
    assert not w.nodes[1].custody.has_copy
    w.ring((1, 2, 3))
    w.turn(1, times=2)
    assert w.nodes[1].custody.pulling
    w.turn(4, times=2)
    w.ring((5, 2, 3))
    assert w.nodes[1].copy == (ABSENT,) * len(KEYS)
    w.turn(4)
    assert all(seen(w.nodes[n]) & bit for n in (5, 2, 3)), "the holders of now have it"
    w.end()


def _beside_hints(w: Play) -> None:
    """Who stands in for node 1 takes over node 2's slot, and would be two copies on one disk."""
    bit = w.put_without(2, down=1, cut={3})
    assert w.acknowledged_bits() & bit
    w.nodes[1].down, w.cut = True, {1}
    w.ring((1, 4, 3))
    w.turn(2, 4, times=12)
    assert w.nodes[4].counts
    assert not w.nodes[2].custody.has_copy, "node 1 being down holds nobody up"
    assert seen(w.nodes[3]) & bit
    assert w.nodes[4].hint(1, KEY)[0] & bit, "it is still to be delivered"
    w.end()


def _twice(w: Play) -> None:
    """All who hold a slot now are fewer disks than had the write: one node holds two slots."""
    w.nodes[2].down, w.cut = True, {2}
    bit = w.put_without(3, down=1, cut={2})
    w.nodes[2].down, w.cut = False, set()
    assert w.acknowledged_bits() & bit
    assert w.nodes[4].hint(1, KEY)[0] & w.nodes[5].hint(2, KEY)[0] & bit
    w.ring((6, 2, 3))
    w.until_asked(6)
    w.lost = {"sealed", "offer"}
    w.turn(6)
    w.ring((1, 6, 3), give_up=2)
    w.lost = set()
    for _ in range(6):
        w.turn(3, 6)
    assert [token.holder for token in w.row(6)] == [6, 6, 3]
    assert w.nodes[6].counts
    w.turn(4, 5, times=3)
    w.end()
    assert {*holders(w.row(3))} == {1, 6, 3}


def _not_asked(w: Play) -> None:
    """A node was given up with a hint that it took in its present start."""
    bit = w.put_without(2, down=1, cut={3})
    assert w.nodes[4].hint(1, KEY)[0] & bit
    w.cut = {4}
    w.ring((1, 2, 3), give_up=4, to=(1, 2, 3, 5, 6))
    for n in (1, 3):
        w.compare(w.nodes[2], n, KEY)
    w.flow()
    tomb = w.put(2, context=bit, tomb=True)
    w.round(2)
    assert w.reaped == {tomb: KEY}
    w.cut = set()
    w.deliver_hints(w.nodes[4])
    w.flow()
    w.deliver_hints(w.nodes[4])
    w.flow()
    assert all(w.nodes[n].rec(KEY) == ABSENT for n in (1, 2, 3))
    w.end()


@pytest.mark.parametrize(
    ("schedule", "fault", "what", "quorum"),
    [
        (_half_pulled, "half-pulled counts", "too few disks", QUORUM_2_2),
        (_claimed, "half-pulled counts", "too few disks", QUORUM_2_2),
        (_pulls, "hint to who pulls", "too few disks", QUORUM_2_2),
        (_beside_hints, "covers beside hints", "too few disks", QUORUM_2_2),
        (_twice, "fewer holders", "too few disks", QUORUM_1_3),
        (_not_asked, "given up, not asked", "is back", QUORUM_2_2),
    ],
)
def test_a_copy_that_counted_towards_w_goes_nowhere(
    schedule: Callable[[Play], None], fault: str, what: str, quorum: int
) -> None:
    schedule(Play(seed=quorum))
    with pytest.raises(Violation, match=what):
        schedule(Play(frozenset({fault}), quorum))


def test_what_was_acknowledged_under_one_row_counts_although_a_slot_has_moved_meanwhile() -> None:
    """The seal's copy has what its holder acknowledged before; so the others' word comes late."""
    w = Play(seed=QUORUM_1_3)
    w.late = {"wrote"}
    bit = w.put(3)
    assert not w.acknowledged_bits() & bit
    w.late, late = set(), w.held_back
    w.held_back = []
    w.ring((4, 2, 3))
    w.turn(1, 4, times=12)
    assert w.nodes[4].counts
    assert holders(w.row(3)) == (4, 2, 3)
    assert not w.nodes[1].custody.has_copy
    w.held_back = late
    w.arrive()
    assert w.strict[KEY] & bit
    assert seen(w.nodes[4]) & bit
    w.end()


def test_an_operation_is_begun_anew_under_what_was_learned_and_keeps_its_dot() -> None:
    w = Play()
    w.cut = {3}
    w.ring((4, 2, 3), to=(1, 2, 4, 5, 6))
    w.turn(1, 4, times=8)
    assert w.nodes[4].counts
    w.cut = set()
    bit = w.put(3)
    assert w.again == 1
    assert w.strict[KEY] & bit, "the same dot: node 3 had minted it in the run before"
    assert w.writes == 1
    w.end()


def test_a_successor_that_nobody_knows_of_counts_for_nobody_even_where_w_is_one() -> None:
    """Its predecessor's next disk would claim the slot, and never hear of it."""
    w = Play(seed=QUORUM_3_1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    w.cut = {2, 3, 5, 6}
    w.turn(1, 4, times=4)
    assert w.nodes[4].custody.held[0].stage is Stage.TAKEN
    bit = w.put(4)
    assert w.acknowledged_bits() & bit, "always writable: it stands in for itself"
    assert not w.strict[KEY] & bit
    w.cut = {4}
    w.new_disk(1, told_by=2)
    w.turn(1, 2, 3, times=8)
    assert w.nodes[1].counts
    w.read(w.nodes[2], KEY)
    w.flow()
    assert w.reads == 1
    w.end()
    assert seen(w.nodes[4]) & bit
