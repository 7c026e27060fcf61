"""What a leaving node takes on: nothing, or the proof that it is drained would be worth nothing."""

import pytest
from tests.sim.play import played

from dynamo_core import objects, wire
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Code, Type


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
