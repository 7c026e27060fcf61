"""Rounds of reaping while slots move: whom a coordinator asks, and who carries out its list."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.play import PATIENCE_S, Play, asked, played
from tests.sim.world import Machine

from dynamo_core import copies, reaping, recovery, wire
from dynamo_core.history import ACKNOWLEDGED
from dynamo_core.outcomes import Kind
from dynamo_core.reaping import Prepare
from dynamo_core.recovery import Ask
from dynamo_core.rounds import Kept, Listed
from dynamo_core.slots import row_digest
from dynamo_core.wire import Op, Type
from dynamo_node.config import Timing

FAST = replace(Timing(), reap_delay_ms=200)


def _delete(play: Play) -> None:
    play.put()
    play.ask(Op.GET)
    assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED


def _until(play: Play, condition: Callable[[], bool], why: str, most_s: float = 60.0) -> None:
    play.world.run_until(condition, most_s, lambda: f"for {why}")


def _committed(play: Play, at: Machine) -> int:
    node: Any = at.node
    committed: int = node.replica.rounds.committed(play.place.partition)
    return committed


def _keep(play: Play) -> list[str]:
    """Who keeps a list of the key's partition."""
    kept = play.place.partition
    nodes = [m for m in play.world.machines if m.node is not None]
    return [m.name for m in nodes if m.node.replica.rounds.kept(kept) is not None]


def _has_record(play: Play, at: Machine) -> bool:
    return play.place.digest + play.key in at.disk.contents()["objects"]


def _coordinator(play: Play) -> Machine:
    node: Any = play.owners[0].node
    first = node.topology.holders(play.place.partition)[0]
    return next(m for m in play.owners if m.node and m.node.topology.number == first)


def _cut_off_after_its_yes(play: Play, member: Machine) -> None:
    """No COMMIT of the round that it is going to agree to reaches `member`."""
    world, said = play.world, list[Type]()

    def sent(source: str, target: str, frame: bytes) -> None:
        if source != member.name or frame[4] not in (Type.PREPARE_REPLY, Type.PONG):
            return
        said.append(Type(frame[4]))
        # Its yes, and that it is still there when it has been asked for that: then it is decided.
        if said[-1] == Type.PONG and Type.PREPARE_REPLY in said:
            world.net.on_frame = None
            play.cut_off([member], noticed=False)

    world.net.on_frame = sent


@pytest.mark.parametrize("seed", range(2))
def test_a_leaving_member_has_to_say_yes_and_is_named_while_it_does_not(seed: int) -> None:
    with played(seed, 5, timing=FAST) as play:
        leaver = play.others[0]
        play.kill(leaver)
        rest = [m for m in play.world.machines if m is not leaver]
        assert play.post(play.ring_of(rest), *rest) == [None] * 4
        assert leaver.name in {m.name for m in play.ring().leaving}
        _delete(play)
        node: Any = _coordinator(play).node

        def blocked() -> bool:
            rows = node.reaper.report(-1, 100)["partitions"]
            return any(
                row["partition"] == play.place.partition
                and {"node": leaver.name, "reason": "is down"} in row["blocked_by"]
                for row in rows
            )

        _until(play, blocked, "the leaving member to be named")
        play.world.run_for(5.0)
        assert all(_committed(play, owner) == 0 for owner in play.owners)
        play.start(leaver)
        _until(play, lambda: all(_committed(play, o) > 0 for o in play.owners), "the round", 120.0)
        assert not any(_has_record(play, m) for m in play.world.machines)


@pytest.mark.parametrize("seed", range(3))
def test_a_round_waits_for_the_ring_of_a_newcomer_whose_write_was_deleted(seed: int) -> None:
    # A newcomer keeps a hint, and only a client knows of both sides. The ring before doesn't
    # name it, so that nobody asks it about rounds: its hint would bring the value back.
    with played(seed, 3, n=1, r=1, w=1, timing=FAST) as play:
        world, (owner,) = play.world, play.owners
        (joined,) = play.join()
        play.cut_off([joined], noticed=False)
        ring = play.ring_of(world.machines, node_3="0.01")
        play.post(ring, joined)
        world.run_for(2.0)
        written = asked(play, joined, Op.PUT)
        assert joined.node.replica.hints.in_partition(play.place.partition)
        delete = {"context": written.context, "write_id": bytes(15) + b"d", "value": b""}
        deleted = asked(play, owner, Op.DELETE, **delete)
        assert deleted.kind == Kind.WRITTEN
        world.run_for(3.0)
        blocked = owner.node.reaper.report(-1, 10)["partitions"][0]["blocked_by"]
        assert "only a later ring" in blocked[0]["reason"], blocked
        play.join_again([joined])
        _until(play, lambda: _committed(play, owner) > 0, "a round under the ring that names it")
        play.until_handed_off()
        assert not asked(play, owner, Op.GET).siblings, "a deleted value came back"


@pytest.mark.parametrize("told", ["write", "delete", "read"])
@pytest.mark.parametrize("seed", range(3))
def test_a_session_does_not_go_behind_what_a_newcomer_told_it_before_it_knew_of_rounds(
    seed: int, told: str
) -> None:
    # Seed 140004376: the newcomer's context was of no round, and one that the owner had long
    # committed passed for one in which what the context claims was reaped.
    with played(seed, 3, n=1, r=1, w=1, timing=FAST) as play:
        world, (owner,) = play.world, play.owners
        _delete(play)
        _until(play, lambda: _committed(play, owner) > 0, "a round")
        world.run_for(1.0)
        before = asked(play, owner, Op.PUT).context
        _until(play, lambda: not _keep(play), "the list to be carried out")
        (joined,) = play.join()
        ring = play.ring_of(world.machines)
        assert ring.slots[play.place.partition] == (owner.node.topology.number,)
        for source, target in ((joined, owner), (owner, joined)):
            world.block(source.name, target.name, True)
        assert play.post(ring, *world.machines) == [None] * 4
        world.run_for(5.0)  # the newcomer has seen that it doesn't reach the owner
        if told == "delete":
            more = {"context": before, "write_id": bytes(15) + b"d", "value": b""}
            token = asked(play, joined, Op.DELETE, **more).context
        else:
            token = asked(play, joined, Op.PUT, write_id=bytes(15) + b"p").context
        if told == "read":
            token = asked(play, joined, Op.GET).context
        assert token
        assert joined.node.replica.hints.in_partition(play.place.partition)
        behind = asked(play, owner, Op.GET, context=token)
        assert behind.kind == Kind.NOT_YET, behind
        play.join_again([joined])
        world.run_until(world.all_linked, PATIENCE_S)
        play.until_handed_off()
        found = asked(play, owner, Op.GET, context=token)
        assert found.kind == (Kind.ABSENT if told == "delete" else Kind.VALUES)
        # And once it is reaped its floor is met.
        committed = _committed(play, owner)
        play.ask(Op.GET)
        if told != "delete":
            play.ask(Op.DELETE, context=True)
        _until(play, lambda: _committed(play, owner) > committed, "the next round")
        _until(play, lambda: not _has_record(play, owner), "it to be reaped")
        assert asked(play, owner, Op.GET, context=token).kind == Kind.ABSENT


@pytest.mark.parametrize("seed", range(3))
def test_a_list_goes_to_whoever_holds_a_slot_by_then(seed: int) -> None:
    """An owner dies between its yes and its COMMIT; who is nominated instead carries it out."""
    with played(seed, 4, timing=FAST) as play:
        first = _coordinator(play)
        dead = [o for o in play.owners if o is not first][seed % 2]
        number = dead.node.topology.number  # type: ignore[union-attr]
        _cut_off_after_its_yes(play, dead)
        _delete(play)
        _until(play, lambda: _committed(play, first) > 0, "the round to be decided")
        assert _committed(play, dead) == 0
        play.kill(dead)
        play.world.run_for(10.0)
        assert first.name in _keep(play), "one owner has not confirmed"
        rest = [m for m in play.world.machines if m is not dead]
        assert play.post(play.ring_of(rest, give_up=(number,)), *rest) == [None] * 3
        _until(play, lambda: not _keep(play), "the list to be carried out by all", 60.0)
        assert all(_committed(play, m) > 0 for m in rest)
        assert not any(_has_record(play, m) for m in rest)
        # And rounds go on among those that are left.
        before = _committed(play, first)
        _delete(play)
        _until(play, lambda: all(_committed(play, m) > before for m in rest), "another round")


@pytest.mark.parametrize("seed", range(3))
def test_a_sealed_copy_is_left_as_it_is_and_its_successor_carries_the_list_out(seed: int) -> None:
    with played(seed, 4, timing=FAST) as play:
        partition, successor = play.place.partition, play.others[0]
        first = _coordinator(play)
        leaver = [o for o in play.owners if o is not first][seed % 2]
        _cut_off_after_its_yes(play, leaver)
        _delete(play)
        _until(play, lambda: _committed(play, first) > 0, "the round to be decided")
        number = _committed(play, first)
        play.world.run_for(20.0)  # what was on its way is lost with its connection
        # The slot of the one that has not heard of it moves, to one that can tell nobody.
        play.join_again([leaver])
        play.cut_off([leaver, successor], noticed=False)
        ring = play.ring_of([m for m in play.world.machines if m is not leaver])
        play.post(ring, leaver, successor)
        custody = leaver.node.custodies.of(partition)  # type: ignore[union-attr]
        _until(play, lambda: bool(custody.seals), "the seal", PATIENCE_S)
        play.join_again([leaver])
        play.cut_off([successor], noticed=False)
        play.world.run_for(15.0)
        assert _committed(play, leaver) < number, "what was sealed stays as it was"
        assert _has_record(play, leaver)
        assert first.name in _keep(play)
        play.post(ring, *(m for m in play.world.machines if m not in (leaver, successor)))
        play.join_again([successor])
        _until(play, lambda: not _keep(play), "the successor to carry it out", 90.0)
        assert _committed(play, successor) >= number
        _until(
            play,
            lambda: not any(_has_record(play, m) for m in play.world.machines),
            "the sealed copy to be covered",
        )


def test_a_keeper_asks_the_holders_of_now_and_waits_for_nobody_else() -> None:
    with played(0, 4) as play:
        partition = play.place.partition
        keeper, gone, stays = play.owners
        new = play.others[0]
        node: Any = keeper.node
        numbers = [m.node.topology.number for m in (keeper, gone, stays, new)]  # type: ignore[union-attr]
        me, was, other, now = numbers
        play.cut_off([keeper], noticed=False)
        rounds, entry = node.replica.rounds, Listed(play.place.digest + play.key, bytes(16))
        rounds.commit(partition, Kept(1, node.topology.name, (was,), (entry,)))
        row = node.topology.row(partition)
        handed = tuple(t.handed_to(now) if t.holder == was else t for t in row)
        node.custodies.learn(partition, handed)
        kept = rounds.kept(partition)
        assert {now} <= {*kept.unconfirmed} <= {now, other}, "it has carried it out itself"
        assert was not in kept.unconfirmed
        # The same after it has handed its own slot on: it keeps the list, and asks.
        given = tuple(t.handed_to(was) if t.holder == me else t for t in handed)
        node.custodies.learn(partition, given)
        assert {*rounds.kept(partition).unconfirmed} <= {now, other, was}
        assert me not in rounds.kept(partition).unconfirmed


@pytest.mark.parametrize("kind", [Type.PAGE, Type.KEPT, Type.PREPARE])
def test_under_another_row_nothing_is_said_but_the_row(kind: Type) -> None:
    with played(0, 4, timing=FAST) as play:
        partition = play.place.partition
        a, b = play.owners[:2]
        node: Any = a.node
        peer: Any = b.node
        row = node.topology.row(partition)
        other = row_digest((row[0].claimed(row[0].holder), *row[1:]))
        prepare = Prepare(partition, 1, node.topology.name, other)
        payload = {
            Type.PAGE: other + recovery.pack_ask(Ask(partition, b"", probe=False)),
            Type.KEPT: copies.pack_one(partition, other),
            Type.PREPARE: reaping.pack_prepare(prepare),
        }[kind]
        kind, reply = _asked(play, a, b, kind, payload)
        assert (kind, reply) == (Type.ERROR, wire.pack_other_row(partition, row))
        assert peer.replica.rounds.stamp(partition) == 0, "nothing was promised, nothing taken"


def test_kept_of_many_tells_other_rows_apart_and_both_learn() -> None:
    with played(0, 3) as play:
        a, b, c = play.owners
        node: Any = a.node
        peer: Any = b.node
        held = sorted(node.topology.owned)
        first, second = held[:2]
        # Each knows one thing that the other one doesn't.
        number = c.node.topology.number  # type: ignore[union-attr]
        for at, partition in ((node, first), (peer, second)):
            row = at.topology.row(partition)
            at.custodies.table.learn(
                partition, tuple(t.claimed(number) if t.holder == number else t for t in row)
            )
        rows = {p: node.topology.digest(p) for p in held}
        kind, reply = _asked(play, a, b, Type.KEPT, copies.pack_many(rows))
        assert kind == Type.KEPT_REPLY
        told, others = copies.unpack_holdings(reply)
        assert others == {p: peer.topology.row(p) for p in (first, second)}
        assert not told, "the others are complete"
        heard: list[int] = []

        async def then(partition: int) -> None:
            heard.append(partition)

        ended: list[bool] = []

        async def ask() -> None:
            ended.append(
                await node.reaper.copies.hearing.ask_many(peer.topology.number, held, then)
            )

        process: Any = a.process
        process.loop.call_soon(lambda: process.loop.create_task(ask()))
        _until(play, lambda: bool(ended), "an answer")
        assert ended == [True]
        assert sorted(heard) == held
        for partition in (first, second):
            assert node.topology.row(partition) == peer.topology.row(partition)


def _asked(play: Play, at: Machine, of: Machine, kind: Type, payload: bytes) -> tuple[int, bytes]:
    """One request over the link of `at` to `of`."""
    node: Any = at.node
    process: Any = at.process
    link = node.topology.links[of.node.topology.number]  # type: ignore[union-attr]
    answers: list[tuple[int, bytes]] = []

    async def ask() -> None:
        answers.append(await link.ask(kind, payload, 5.0))

    process.loop.call_soon(lambda: process.loop.create_task(ask()))
    _until(play, lambda: bool(answers), "an answer")
    return answers[0]
