"""A node that holds two slots of one partition."""

import pytest
from tests.sim import handover_plays
from tests.sim.play import PATIENCE_S, played

from dynamo_core.slots import Token
from dynamo_core.tenures import Held, Stage

watched = handover_plays.watched


@pytest.mark.parametrize("others_up", [True, False])
def test_a_slot_that_was_taken_is_told_without_haste_beside_one_that_counts(
    others_up: bool,
) -> None:
    # Seed 80006935: as the other slot counted, nobody was waited for, again and again; and of
    # nobody else who held a slot it took no word.
    with played(0, 3, n=2, r=1, w=1) as play:
        world, partition = play.world, play.place.partition
        one, other = play.owners
        play.put()
        world.run_for(1.0)
        node, number = one.node, one.node.topology.number
        custody = node.custodies.of(partition)
        (slot,) = custody.held
        assert custody.counts
        if not others_up:
            play.kill(other)

        def both() -> None:
            row = custody.row
            if others_up:  # this node has claimed the other one's slot as well
                row = tuple(Token(t.epoch, t.number + 2, number) for t in row)
                node.custodies.learn(partition, row)
                custody.held.update({s: Held(t, Stage.COUNTS) for s, t in enumerate(row)})
            custody.held[slot] = Held(custody.row[slot], Stage.TAKEN)
            more = next(s for s in range(len(row)) if s != slot)
            custody.held[more] = Held(custody.row[more], Stage.COUNTS)
            node.pulling._open.add(partition)
            node.pulling.wake()

        one.process.loop.call_soon(both)
        world.run_for(5.0)
        if others_up:
            stages = {held.stage for held in custody.held.values()}
            assert stages == {Stage.COUNTS}, "nobody else has to know"
        else:
            assert custody.held[slot].stage is Stage.TAKEN
            world.start(other)
            world.run_until(lambda: custody.held[slot].stage is Stage.COUNTS, PATIENCE_S)
