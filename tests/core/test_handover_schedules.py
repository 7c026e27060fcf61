"""The schedules of handover that must not lose, step by step, under the production machines."""

import pytest
from tests.core.handover_network import Violation
from tests.core.handover_play import KEY, Play, seen
from tests.core.handover_world import ABSENT, KEYS, Wish

from dynamo_core.handover import Effect, Standing
from dynamo_core.slots import Token, holders
from dynamo_core.tenures import Held, Seal, Stage


def test_schedule_5_a_coordinator_that_is_behind_is_taught_by_who_is_sealed() -> None:
    w = Play()
    first = w.put(1)
    w.cut = {3}
    w.ring((4, 2, 3), to=(1, 2, 4))
    w.until_asked(4)
    w.lost = {"sealed"}
    w.turn(4)
    old = w.nodes[1]
    assert old.custody.seals == {0: Seal(Token(1, 0, 1), 4)}
    assert old.custody.standing(old.digest) is Standing.MOVED
    # Between the seal and its tenure the successor merges, and says that it doesn't count.
    assert w.nodes[4].custody.standing(w.nodes[4].digest) is Standing.NOT_YET
    w.lost = set()
    w.turn(4, times=3)
    assert w.nodes[4].counts
    assert seen(w.nodes[4]) & first
    # Node 3 still takes node 1 for a holder: alone with it, it gets no write acknowledged.
    w.cut = {2, 4}
    assert not w.acknowledged_bits() & w.put(3)
    # Node 2 knows better and says so; the same write then counts at node 4.
    w.cut = {1}
    bit = w.put(3)
    assert w.acknowledged_bits() & bit
    assert holders(w.row(3)) == (4, 2, 3)
    assert seen(w.nodes[4]) & bit
    w.end()


def test_schedule_6_no_deletion_by_a_comparison_from_before_a_late_write() -> None:
    w = Play()
    w.put(1)
    w.ring((4, 2, 3))
    w.until_asked(4)
    root = w.nodes[1].root
    # The copies were equal when they were compared; then a write that misses the successor.
    w.cut = {4}
    late = w.put(1)
    assert w.acknowledged_bits() & late
    w.cut = set()
    w.turn(4)
    old = w.nodes[1]
    assert old.custody.on_covered(0, Token(1, 0, 1), root, old.root) is Effect.NONE
    old.learn((Token(1, 1, 4), *old.row[1:]))
    assert old.custody.on_covered(0, Token(1, 0, 1), root, old.root) is Effect.NONE
    w.turn(times=4)
    assert seen(w.nodes[4]) & late
    assert not old.custody.has_copy
    w.end()


def test_a_slot_of_who_is_in_no_ring_any_more_is_claimed_and_its_copy_covered() -> None:
    """It takes itself for a holder until it is told; nobody has an address to ask it by."""
    w = Play()
    w.ring((4, 2, 3), name=1)
    w.turn(1, 4, times=12)
    assert w.nodes[4].counts
    bit = w.put(4)
    w.cut = {4}
    w.ring((5, 2, 3), drained=4, to=(1, 2, 3, 5, 6))
    w.cut = {2, 4}
    w.turn(5, times=3)
    assert w.nodes[5].custody.unclaimed() == [0], "of two other holders, and of all, one is silent"
    w.cut = {4}
    w.turn(2, 3, 5, times=6)
    assert w.nodes[5].custody.held == {0: Held(Token(1, 3, 5), Stage.COUNTS)}
    assert seen(w.nodes[5]) & bit
    w.cut = set()
    w.end()
    assert not w.nodes[4].custody.has_copy


def test_schedule_7_of_two_rings_the_higher_wins_and_what_was_pulled_goes() -> None:
    w = Play()
    w.put(1)
    base = w.nodes[1].ring
    w.ring((4, 2, 3), base=base, name=1)
    w.turn(4, times=2)
    assert w.nodes[4].custody.pulling
    assert seen(w.nodes[4])
    w.ring((1, 5, 3), base=base, name=2)
    assert not w.nodes[4].custody.has_copy
    assert w.nodes[4].copy == (ABSENT,) * len(KEYS)
    w.turn(times=12)
    assert {*holders(w.row(1))} == {1, 5, 3}
    # The lower one comes once more: nobody takes it.
    w.take_ring(Wish(base.epoch + 1, 1, (4, 2, 3)), (1, 2, 3, 4, 5, 6))
    w.end()


def test_schedule_7_two_publishers_after_the_seal_its_successor_completes_all_the_same() -> None:
    w = Play()
    w.put(1)
    base = w.nodes[1].ring
    w.ring((4, 2, 3), base=base, name=1)
    w.until_asked(4)
    w.lost = {"sealed"}
    w.turn(4)
    w.lost = set()
    w.ring((1, 5, 3), base=base, name=2)
    assert w.nodes[4].custody.pulling, "who has asked may have been named"
    w.turn(1, 4, times=3)
    assert holders(w.row(4))[0] == 4
    w.end()
    assert {*holders(w.row(1))} == {1, 5, 3}


def test_schedule_8_a_plan_from_an_ownership_that_has_changed_moves_from_who_holds_it_now() -> None:
    w = Play()
    bit = w.put(1)
    base = w.nodes[1].ring
    w.ring((4, 2, 3), base=base)
    w.turn(times=12)
    assert w.row(2)[0] == Token(1, 1, 4)
    # Planned from the first ring: node 1 is believed to hold what node 5 shall have.
    w.take_ring(Wish(3, 0, (5, 2, 3)), (1, 2, 3, 4, 5, 6))
    # It asks node 1 first, is taught by it, and then begins.
    w.turn(5)
    assert w.nodes[5].custody.pulling is None
    assert w.row(5)[0] == Token(1, 1, 4)
    w.turn(5)
    pulling = w.nodes[5].custody.pulling
    assert pulling is not None
    assert pulling.source == Token(1, 1, 4)
    w.end()
    assert seen(w.nodes[5]) & bit
    assert w.row(1)[0] == Token(1, 2, 5)


def test_a_plan_that_is_taken_back_moves_nothing() -> None:
    w = Play()
    w.ring((4, 5, 3))
    w.turn(4, times=2)
    w.ring((2, 1, 3))  # the same nodes, in whatever order their slots were made
    w.turn(times=4)
    assert w.row(1) == (Token(1, 0, 1), Token(1, 0, 2), Token(1, 0, 3))
    assert not w.nodes[4].custody.has_copy
    w.end()


def test_schedule_10_an_abandoned_pull_is_begun_anew_and_blocks_reaping_while_it_is_there() -> None:
    w = Play()
    bit = w.put(1)
    w.ring((4, 2, 3))
    w.turn(4, times=2)
    assert seen(w.nodes[4]) & bit
    assert "half-pulled" in w.nodes[4].custody.blocks_reaping((4, 2, 3))
    assert "moves from node 1 to node 4" in w.nodes[2].custody.blocks_reaping((4, 2, 3))
    w.ring((1, 2, 3))
    assert w.nodes[4].copy == (ABSENT,) * len(KEYS)
    tomb = w.put(2, context=bit, tomb=True)
    w.round(2)
    assert w.reaped == {tomb: KEY}
    assert w.nodes[1].rec(KEY) == ABSENT
    w.ring((4, 2, 3))
    w.turn(4)
    assert w.nodes[4].custody.pulling
    assert w.nodes[4].custody.pulling.cursor == b""
    committed = w.nodes[1].committed
    assert w.nodes[4].committed == committed > 0, "nothing older is taken before the first page"
    w.end()
    assert w.nodes[4].rec(KEY) == ABSENT


def test_schedule_10_a_round_that_passes_a_half_pulled_copy_by_empties_it() -> None:
    w = Play()
    w.put(1)
    w.ring((4, 2, 3))
    w.turn(4, times=2)
    custody = w.nodes[4].custody
    before = custody.pulling
    assert before is not None
    assert not custody.may_merge(before.slot, before.source, 1)
    assert custody.round_passed(before.slot, before.source, 1) is Effect.EMPTY
    assert custody.pulling == before._replace(reap_round=1, cursor=b"", whole=False)
    # A page of before is late: it neither is merged nor lets go what came since.
    assert custody.round_passed(before.slot, before.source, 0) is Effect.NONE
    assert not custody.may_merge(before.slot, before.source, 0)
    assert custody.pulling.reap_round == 1


def test_schedule_10_a_volume_that_was_given_up_returns_too_old_and_is_deleted_unread() -> None:
    w = Play()
    bit = w.put(1)
    w.cut = {3}
    w.ring((1, 2, 4), give_up=3, to=(1, 2, 4, 5, 6))
    w.turn(1, 2, 4, times=5)
    assert w.nodes[4].counts
    tomb = w.put(2, context=bit, tomb=True)
    w.round(2)
    assert w.reaped == {tomb: KEY}
    assert seen(w.nodes[3]) & bit
    w.end()
    assert w.nodes[3].copy == (ABSENT,) * len(KEYS)


def test_a_volume_that_was_given_up_and_is_new_enough_hands_over_before_it_deletes() -> None:
    w = Play()
    w.cut = {1, 2, 4, 5, 6}
    alone = w.put(3)  # nobody else has it
    w.cut = {3}
    w.ring((1, 2, 4), give_up=3, to=(1, 2, 4, 5, 6))
    w.turn(1, 2, 4, times=5)
    w.cut = set()
    w.tell(w.nodes[1], 3)
    w.flow()
    assert w.nodes[3].custody.seals == {2: Seal(Token(1, 0, 3), 0)}
    w.end()
    assert all(seen(w.nodes[n]) & alone for n in (1, 2, 4))
    assert not w.nodes[3].custody.has_copy


def test_schedule_11_a_claim_counts_only_after_enough_copies_were_merged_under_it() -> None:
    w = Play()
    w.cut = {1}
    bit = w.put(2)  # nodes 2 and 3 have it, node 1 missed it
    assert w.acknowledged_bits() & bit
    w.cut = {2, 3}
    w.ring((1, 2, 4), give_up=3, to=(1, 4, 5, 6))
    token = Token(2, 2, 4)
    new = w.nodes[4]
    w.turn(1, 4, times=4)
    assert new.custody.unclaimed() == [2], "it has not heard of enough rows"
    # Node 2 is heard of, and then can't be reached any more.
    w.cut = {3}
    w.lost = {"all"}
    w.turn(4, times=4)
    w.cut, w.lost = {2, 3}, set()
    w.nodes[2].down = True
    w.turn(1, 4, times=4)
    assert new.merged == {1}
    assert new.custody.held == {2: Held(token, Stage.CLAIMED)}
    assert not new.custody.recovered(2, token, {1}, 2)
    assert new.custody.standing(new.digest) is Standing.NOT_YET
    w.nodes[2].down = False
    w.cut = {3}
    w.turn(1, 2, 4, times=3)
    assert new.counts
    assert seen(new) & bit
    # Whoever was merged knows of the claim: the node given up gets no write acknowledged.
    w.cut = set()
    ghost = w.nodes[3]
    assert ghost.row[2] == Token(1, 0, 3)
    late = w.put(3)
    assert not w.acknowledged_bits() & late or seen(new) & late
    w.end()


def test_whoever_was_merged_for_a_claim_shuts_out_the_node_that_was_given_up() -> None:
    for faults in (frozenset[str](), frozenset({"rows not compared"})):
        w = Play(faults)
        w.cut = {3}
        w.ring((1, 2, 4), give_up=3, to=(1, 2, 4, 5, 6))
        w.turn(1, 2, 4, times=6)
        assert w.nodes[4].counts
        w.cut = {1, 4}
        assert w.nodes[3].counts, "it has not heard of it"
        if faults:  # node 2 answers it, and nodes 1 and 4 never hear of the write
            with pytest.raises(Violation, match="misses"):
                w.put(3)
            continue
        assert not w.acknowledged_bits() & w.put(3)
        assert w.row(3)[2] == Token(2, 2, 4)
        w.end()
