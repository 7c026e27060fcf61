"""What a leaving node takes on: nothing, or the proof that it is drained would be worth nothing.
And what becomes of a slot that such a node is given all the same (docs/decisions/0014, 5)."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from tests.sim.play import Play, asked, played
from tests.sim.world import Machine

from dynamo_core import objects, wire
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.slots import Row
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Code, Op, Type
from dynamo_node.admin import AdminDoor
from dynamo_node.admin_token import AdminToken
from dynamo_node.claims import Claims
from dynamo_node.problems import ProblemError


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


def _dropped(play: Play, *leavers: Machine) -> list[int]:
    """The numbers of these, which have left, were drained and are in no ring any more."""
    numbers = [m.node.topology.number for m in leavers if m.node is not None]
    stay = [m for m in play.world.machines if m not in leavers]
    leaving = play.ring_of(stay)
    assert play.post(leaving, stay[0], *leavers) == [None] * (1 + len(leavers))
    play.until_settled()
    after = play.ring_of(stay, drained=tuple(numbers))
    assert play.post(after, stay[0]) == [None]
    play.until_settled()
    play.kill(*leavers)
    return numbers


def _machines(play: Play) -> dict[int, Machine]:
    return {m.node.topology.number: m for m in play.world.machines if m.node is not None}


def _learned(play: Play, at: Machine, row: Row) -> None:
    """`at` learns a row of the key's partition; nobody has told it."""
    node, partition, process = at.node, play.place.partition, at.process
    assert node is not None
    assert process is not None
    process.loop.call_soon(lambda: node.custodies.learn(partition, row))
    play.world.run_until(lambda: node.topology.row(partition) >= row, 5.0)


def _given_to(numbers: list[int], row: Row) -> Row:
    """The row as somebody knows it who has handed its first slots to these."""
    given = [row[at].handed_to(number) for at, number in enumerate(numbers)]
    return (*given, *row[len(given) :])


def _accept_loss(play: Play, at: Machine) -> tuple[int, str]:
    """What the admin door of `at` says when the loss of the key's partition is accepted there."""
    assert at.node is not None
    assert at.process is not None
    door, loop = AdminDoor(at.node, AdminToken(at.config)), at.process.loop
    answers: list[tuple[int, str]] = []

    async def post() -> None:
        match = {"partition": str(play.place.partition)}
        try:
            answer = await door._accept_loss(make_mocked_request("POST", "/", match_info=match))
            answers.append((answer.status, ""))
        except ProblemError as error:
            answers.append((error.status, error.detail))

    loop.call_soon(lambda: loop.create_task(post()))
    play.world.run_until(lambda: bool(answers), 5.0)
    return answers[0]


@pytest.mark.parametrize("seed", range(2))
def test_what_is_handed_to_who_has_left_and_was_drained_is_claimed(seed: int) -> None:
    """Seed 130002357: a disk from before a ring met a volume that had left by it, and handed
    a slot over. Nobody could be asked for it, for the number of its holder was in no ring."""
    with played(seed, 5, r=2, w=2) as play:
        play.put()
        numbers = _dropped(play, play.owners[0])
        partition, told = play.place.partition, play.others[0]
        assert told.node is not None
        row = told.node.topology.row(partition)
        given = _given_to(numbers, row)
        _learned(play, told, given)
        play.world.run_until(lambda: not play.unsettled(), 60.0, play.unsettled)
        assert told.node.topology.row(partition)[0] == given[0].claimed(row[0].holder)
        assert asked(play, told, Op.GET).siblings


def test_slots_of_two_such_nodes_are_claimed_once_all_have_told() -> None:
    """Of the row's holders one is left to be heard: too few, if all others were silent."""
    with played(0, 6, r=2, w=2) as play:
        play.put()
        numbers = _dropped(play, *play.owners[:2])
        partition, told = play.place.partition, play.others[0]
        assert told.node is not None
        row = told.node.topology.row(partition)
        given = _given_to(numbers, row)
        _learned(play, told, given)
        play.world.run_until(lambda: not play.unsettled(), 60.0, play.unsettled)
        found = told.node.topology.row(partition)
        assert found[:2] == tuple(given[i].claimed(row[i].holder) for i in range(2))
        assert asked(play, told, Op.GET).siblings


def test_who_waits_to_claim_such_a_slot_says_for_what_and_a_person_may_accept() -> None:
    with played(0, 5, r=2, w=2) as play:
        play.put()
        numbers = _dropped(play, play.owners[0])
        partition = play.place.partition
        table = play.others[0].node.custodies.table  # type: ignore[union-attr]
        row = table.row(partition)
        machines = _machines(play)
        told, down, near = (machines[token.holder] for token in row)
        other = next(m for m in machines.values() if m not in (told, down, near))
        node: Any = told.node
        play.kill(down)
        _learned(play, told, _given_to(numbers, row))
        play.world.run_for(20.0)
        waits_for = (
            "1 other owners that say who holds its slots, or all of 1 nodes that haven't yet"
        )
        assert node.recovery.facts()["waits_for"] == [waits_for]
        [said] = [t for t in node.transfers.facts() if t["partition"] == partition]
        assert (said["state"], said["stalled"]) == ("claiming", waits_for)
        # What was said under another ring may be about another holder.
        play.cut_off([told])
        ring = play.ring_of([m for m in play.world.machines if m is not play.owners[0]], **{
            other.name.replace("-", "_"): "0.99"})  # fmt: skip
        assert play.post(ring, told) == [None]
        play.world.run_for(5.0)
        assert node.recovery.waits_for(partition).startswith("2 other owners")
        status, why = _accept_loss(play, other)
        assert status == 400
        assert why.endswith(f"ask one of {told.name}, {down.name}, {near.name}")
        assert _accept_loss(play, told) == (200, "")
        assert node.custodies.counts(partition)
        assert _accept_loss(play, told)[0] == 409
        play.join_again([told])
        play.start(down)
        play.world.run_until(lambda: not play.unsettled(), 60.0, play.unsettled)
        assert asked(play, near, Op.GET).siblings


@pytest.mark.parametrize("n", [1, 3])
def test_a_row_that_is_merely_old_is_found_out_before_a_claim(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume from before the ring by which a node left takes that one for the holder still;
    whoever holds the slot by now is asked, though no row that is known there names it."""
    claims: list[tuple[str, int]] = []
    claim = Claims.claim

    def noted(self: Claims, partition: int, needed: int) -> bool:
        done = claim(self, partition, needed)
        if done:
            claims.append((self._node.config.name, partition))
        return done

    monkeypatch.setattr(Claims, "claim", noted)
    quorum = min(n, 2)
    with played(0, 6, n=n, r=quorum, w=quorum) as play:
        leaver, partition = play.owners[0], play.place.partition
        assert leaver.node is not None
        number, machines = leaver.node.topology.number, _machines(play)
        slot = play.ring().slots[partition].index(number)
        stay = [m for m in play.world.machines if m is not leaver]
        leaving = play.ring_of(stay)
        after = play.ring_of(stay, leaving, drained=(number,))
        successor = machines[after.slots[partition][slot]]
        later = play.ring_of([m for m in stay if m is not successor], after)
        (old,) = (machines[x] for x in {*later.slots[partition]} - {*after.slots[partition]})
        play.put()
        play.world.run_for(2.0)
        volume = old.disk.snapshot()
        assert play.post(leaving, stay[0], leaver) == [None, None]
        play.until_settled()
        assert play.post(after, stay[0]) == [None]
        play.until_settled()
        play.kill(leaver, old)
        old.disk.roll_back(volume)
        play.cut_off([old], noticed=False)
        play.world.start(old)
        play.world.run_until(lambda: old.node is not None, 30.0)
        for ring in (leaving, after, later):
            assert play.post(ring, old) == [None]
        node: Any = old.node
        assert node.topology.row(partition)[slot].holder == number
        assert node.custodies.of(partition).unclaimed() == [slot]
        play.world.run_for(20.0)
        assert (old.name, partition) not in claims, "nobody was heard"
        play.join_again([old])
        assert play.post(later, successor) == [None]
        play.world.run_until(lambda: node.custodies.counts(partition), 60.0)
        assert (old.name, partition) not in claims, "its holder was asked, and has handed it over"
        assert asked(play, old, Op.GET).siblings
