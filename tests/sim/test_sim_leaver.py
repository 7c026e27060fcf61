"""What a leaving node takes on: nothing, or the proof that it is drained would be worth nothing."""

import pytest
from tests.sim.play import asked, played

from dynamo_core import objects, wire
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Code, Op, Type


@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_no_hint_of_a_coordinator_that_does_not_know_yet(seed: int) -> None:
    with played(seed, 5) as play:
        owner, other, leaver = play.owners[0], play.owners[1], play.stand_ins[0]
        assert owner.node is not None
        assert other.node is not None
        assert leaver.node is not None
        assert owner.process is not None
        play.put()
        ring = play.ring_of([m for m in play.world.machines if m is not leaver])
        assert play.post(ring, leaver) == [None]
        sibling = Sibling((b"a" * 16, 1), b"a" * 16, 0, "", b"v")
        obj = objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))
        target = other.node.topology.number
        place = owner.node.topology.place(play.key)
        hint = place.row + wire.pack_write(play.key, obj, target, 0, False)
        link = owner.node.topology.links[leaver.node.topology.number]
        replies: list[tuple[int, bytes]] = []
        owner.process.loop.call_soon(
            lambda: link.request(
                Type.WRITE, hint, 1000, lambda kind, reply: replies.append((kind, reply)), b""
            )
        )
        play.world.run_until(lambda: bool(replies), 10.0)
        assert replies[0][0] == Type.ERROR
        assert wire.unpack_error(replies[0][1])[0] == Code.STALE_RING
        assert not leaver.node.replica.hints.pending()
        # It learned the ring by that, and writes go on without the leaver as a stand-in.
        play.world.run_until(lambda: owner.node.topology.ring.epoch == ring.epoch, 10.0)
        play.kill(other)
        play.put()
        assert not leaver.node.replica.hints.pending()


@pytest.mark.parametrize("seed", range(2))
def test_what_is_handed_to_who_has_left_and_was_drained_is_claimed(seed: int) -> None:
    """Seed 130002357: a disk from before a ring met a volume that had left by it, and handed
    a slot over. Nobody could be asked for it, for the number of its holder was in no ring."""
    with played(seed, 5, r=2, w=2) as play:
        leaver = play.owners[0]
        assert leaver.node is not None
        number = leaver.node.topology.number
        play.put()
        stay = [m for m in play.world.machines if m is not leaver]
        leaving = play.ring_of(stay)
        assert play.post(leaving, stay[0], leaver) == [None, None]
        play.until_settled()
        after = play.ring_of(stay, drained=(number,))
        assert play.post(after, stay[0]) == [None]
        play.until_settled()
        play.kill(leaver)
        partition, told = play.place.partition, stay[1]
        assert told.node is not None
        assert told.process is not None
        row = told.node.topology.row(partition)
        given = (row[0].handed_to(number), *row[1:])
        custodies = told.node.custodies
        told.process.loop.call_soon(lambda: custodies.learn(partition, given))
        play.world.run_until(lambda: custodies.table.row(partition)[0] >= given[0], 5.0)
        play.world.run_until(lambda: not play.unsettled(), 60.0, play.unsettled)
        assert custodies.table.row(partition)[0] == given[0].claimed(row[0].holder)
        found = asked(play, stay[0], Op.GET)
        assert [sibling.value for sibling in found.siblings]
