"""What simulated runs have shown, each as small as it could be made (docs/simulator.md)."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.play import PATIENCE_S, Play, asked, played
from tests.sim.world import Machine

from dynamo_core.contexts import Keyring
from dynamo_core.frames import NO_RING
from dynamo_core.handshake import Identity
from dynamo_core.history import REFUSED, UNKNOWN
from dynamo_core.history_check import check
from dynamo_core.outcomes import Kind
from dynamo_core.ring import Member
from dynamo_core.wire import Op, Operation, Type
from dynamo_node.config import Limits, Timing
from dynamo_node.links import Link


def _asked(play: Play, at: Machine, name: bytes) -> Any:
    """The outcome of one blind put at one node, asked once."""
    outcomes: list[Any] = []
    node, process = at.node, at.process
    assert node is not None
    assert process is not None
    asked = Operation(Op.PUT, play.key, write_id=bytes(15) + name, value=name)
    process.loop.call_soon(lambda: node.coordinator.operate(asked, 2000, outcomes.append))
    play.world.run_until(lambda: bool(outcomes), 30.0)
    return outcomes[0]


async def test_a_question_is_cancelled_even_as_its_reply_comes() -> None:
    # Seed 20032: a store failed while a reply came in, and the node never ended.
    me = Identity(b"c" * 16, "me", 1, b"incarn-1", Keyring(1, {1: b"k" * 32}))
    member = Member(2, "peer", "", "1", "127.0.0.1", 1, 1, 1, "0" * 32)
    link = Link(member, lambda: me, lambda: NO_RING, 1.0)
    asking = asyncio.ensure_future(link.ask(Type.PING, b"", 5.0))
    await asyncio.sleep(0)  # asked: without a connection the reply LOST comes next
    await asyncio.sleep(0)  # and has come, in the tick of this very step
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("seed", range(3))
def test_who_is_told_that_nothing_was_written_finds_nothing(seed: int) -> None:
    # Seed 200158: an owner took the write and was cut off, the next one refused it.
    with played(seed, 4, limits=replace(Limits(), siblings_max=2)) as play:
        first, second, third = play.owners
        stand_in = play.others[0]
        play.put()
        play.world.run_for(2.0)
        for other in (second, third):
            play.world.block(first.name, other.name, True)
            play.world.block(other.name, first.name, True)
        play.world.block(first.name, stand_in.name, True)
        assert _asked(play, second, b"y").kind == Kind.WRITTEN
        outcome = _asked(play, stand_in, b"x")
        assert outcome.kind == Kind.UNAVAILABLE, outcome
        play.world.run_for(1.0)
        assert first.node is not None
        assert play.world.losses.minted[int.from_bytes(bytes(15) + b"x", "big")]


@pytest.mark.parametrize("seed", range(3))
def test_a_refusal_of_one_of_two_requests_denies_nothing_of_the_other(seed: int) -> None:
    # Seed 180001651: a FORWARD came twice, as only the simulator's frame faults have it. There
    # was one sibling too many for the first of them, and room again for the second.
    with played(seed, 4, limits=replace(Limits(), siblings_max=1)) as play:
        play.put()
        for owner in play.owners:
            play.world.net.link(play.others[0].name, owner.name).double = 1.0
        play.clients.at = play.others[0]
        play.clients.call(Op.PUT, play.key, 1, None)
        play.world.run_until(lambda: not play.clients.unfinished, PATIENCE_S)
        assert play.clients.history.operations[-1].outcome == UNKNOWN
        play.clients.at = play.owners[0]
        play.clients.call(Op.PUT, play.key, 2, None)
        play.world.run_until(lambda: not play.clients.unfinished, PATIENCE_S)
        assert play.clients.history.operations[-1].outcome == REFUSED


@pytest.mark.parametrize("seed", range(3))
def test_who_is_refused_after_a_slot_has_moved_is_not_told_that_nothing_was_written(
    seed: int,
) -> None:
    # Seed 80003067: an owner minted the write, learned that it was none any more, and began anew.
    with played(seed, 4, limits=replace(Limits(), siblings_max=2)) as play:
        world, partition = play.world, play.place.partition
        first, second, third = play.owners
        heir = play.others[0]
        play.put()
        world.run_for(2.0)
        number, after = first.node.topology.number, heir.node.topology.number
        row = tuple(
            token.handed_to(after) if token.holder == number else token
            for token in first.node.topology.row(partition)
        )
        for other in (second, third, heir):
            for source, target in ((first, other), (other, first)):
                world.block(source.name, target.name, True)
        assert _asked(play, second, b"y").kind == Kind.WRITTEN
        for machine in (second, third, heir):
            machine.process.loop.call_soon(machine.node.custodies.learn, partition, row)
        world.run_for(0.1)
        asked, outcomes = Operation(Op.PUT, play.key, write_id=bytes(15) + b"x", value=b"x"), []
        node = first.node
        first.process.loop.call_soon(lambda: node.coordinator.operate(asked, 2000, outcomes.append))
        world.run_for(0.02)
        play.join_again([first])
        world.run_until(lambda: bool(outcomes), 30.0)
        assert world.losses.minted[int.from_bytes(bytes(15) + b"x", "big")]
        assert outcomes[0].kind == Kind.UNAVAILABLE, outcomes


@pytest.mark.parametrize("seed", range(3))
def test_an_incarnation_that_ended_in_mid_handshake_is_not_taken_for_the_living_one(
    seed: int,
) -> None:
    # Seed 200862: its peer stood still, and answered the dead one's call after the next one's.
    with played(seed, 3) as play:
        world, (one, peer, _) = play.world, play.world.machines
        for _ in range(3):
            world.stall(peer, 6.0)
            play.kill(one)
            world.start(one)
            world.run_for(1.0)
            one.disk.temper.fails_next_write = True
            play.put()
            world.run_for(12.0)
            world.run_until(world.all_linked, 10.0)


@pytest.mark.parametrize("nodes", [3, 4, 5])
def test_a_living_incarnation_that_one_peer_takes_for_replaced_links_to_all(nodes: int) -> None:
    # Seeds 80005819 and 80005685: the call of one that had ended came late. Of three nodes one
    # was never refused by few enough.
    with played(nodes, nodes) as play:
        world, (one, peer, *_) = play.world, play.world.machines
        number, node = one.node.topology.number, peer.node
        peer.process.loop.call_soon(lambda: node.incarnations.called(number, one.name, b"the dead"))
        world.run_for(0.1)
        one.process.loop.call_soon(one.node.topology.links[node.topology.number].reconnect)
        world.run_for(0.1)
        world.run_until(world.all_linked, 10.0)
        assert asked(play, one, Op.PUT).kind == Kind.WRITTEN


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_rolled_back_to_an_incarnation_that_one_peer_alone_takes_for_replaced_links_to_all(
    seed: int,
) -> None:
    # Seed 10005967: most peers had not heard of the one that followed, and let it go on.
    with played(seed, 5) as play:
        world, (back, peer, *others) = play.world, play.world.machines
        world.stop(back)
        world.run_until(lambda: back.process is None, 10.0)
        snapshot = back.disk.snapshot()
        play.kill(*others)
        play.start(back)
        world.run_until(lambda: back.node.topology.links[peer.node.topology.number].up, 10.0)
        play.kill(back)
        back.disk.roll_back(snapshot)
        world.start(back)
        play.start(*others)
        world.run_until(world.all_linked, 30.0)
        assert asked(play, back, Op.PUT).kind == Kind.WRITTEN


@pytest.mark.parametrize("seed", range(3))
def test_an_owner_that_lost_its_disk_is_not_asked_for_what_it_alone_of_the_owners_had(
    seed: int,
) -> None:
    # Seeds 10003404, 10010384: W was reached with stand-ins, who were away when it recovered.
    with played(seed, 5, r=3) as play:
        owners, others, world = play.owners, play.stand_ins, play.world
        play.kill(owners[1], owners[2])
        world.run_until(lambda: not owners[0].node.topology.healthy(play.place.owners[1]), 10.0)
        world.run_until(lambda: not owners[0].node.topology.healthy(play.place.owners[2]), 10.0)
        play.put()
        world.run_for(3.0)
        play.kill(owners[0], *others)
        owners[0].disk.wipe()
        play.start(*owners)
        counts = owners[0].node.standing.counts
        world.run_until(lambda: counts(play.place.partition), 30.0)
        assert not play.ask(Op.GET).shown
        play.start(*others)
        play.until_handed_off()
        assert play.ask(Op.GET).shown, "it is where its hints were"
        play.clients.record_mints()
        report = check(play.clients.history)
        assert not report.violations, report


def _reaped(play: Play, beyond: int = 0) -> int:
    """Delete what the key has, until its holder has committed a round for that; which one."""
    (owner,), partition = play.owners, play.place.partition
    rounds = owner.node.replica.rounds
    play.ask(Op.GET)
    play.ask(Op.DELETE, context=True)
    play.world.run_until(lambda: rounds.committed(partition) > beyond, PATIENCE_S)
    play.world.run_for(1.0)
    return rounds.committed(partition)


@pytest.mark.parametrize("rolled_back", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_that_met_no_owner_keeps_what_it_took_over_its_restart(
    seed: int, rolled_back: bool
) -> None:
    # Seed 90000172: a round had been committed before it was a member, and passed for one that
    # its disk had forgotten.
    timing = replace(Timing(), reap_delay_ms=200)
    with played(seed, 3, n=1, r=1, w=1, timing=timing) as play:
        world, (owner,) = play.world, play.owners
        play.put()
        committed = _reaped(play)
        play.kill(owner)
        (joined,) = play.join()
        ring = play.ring_of(world.machines, node_3="0.01")
        assert ring.node_named(joined.name).number not in ring.slots[play.place.partition]
        play.post(ring, *play.others, joined)
        world.run_until(lambda: joined.node.ready, PATIENCE_S)
        play.kill(*play.others)  # which have told it who holds what
        assert asked(play, joined, Op.PUT).kind == Kind.WRITTEN
        assert joined.node.replica.hints.in_partition(play.place.partition)
        play.kill(joined)
        snapshot = joined.disk.snapshot()
        play.start(joined, owner, *play.others)
        play.until_handed_off()
        assert asked(play, joined, Op.GET).siblings, "its disk was whole all the time"
        if rolled_back:
            _reaped(play, committed)
            play.kill(joined)
            joined.disk.roll_back(snapshot)
            play.start(joined)
            world.run_for(1.0)
            play.until_handed_off()
            assert not asked(play, owner, Op.GET).siblings, "a deleted value came back"
