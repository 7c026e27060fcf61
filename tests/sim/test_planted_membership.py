"""Bugs in how slots move, planted: the ordinary checks must catch each (see test_planted_bugs)."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.sim import publisher as publishing
from tests.sim.planted import Plant, Scenario, accused, innocent
from tests.sim.play import PATIENCE_S, Play, scripted
from tests.sim.publisher import Publisher, Wishes
from tests.sim.world import Machine

from dynamo_core.handover import Custody
from dynamo_core.history import ACKNOWLEDGED
from dynamo_core.history_report import Report
from dynamo_core.merkle import EMPTY_ROOT
from dynamo_core.rounds import State
from dynamo_core.slot_table import SlotTable
from dynamo_core.tenures import Asked
from dynamo_core.wire import Op, Type
from dynamo_node.config import Timing
from dynamo_node.covering import Covering
from dynamo_node.service import Service
from dynamo_node.storage import OBJECTS
from dynamo_node.topology import Topology
from dynamo_node.walking import Copy, Walked

SEEDS = range(3)
FAST = replace(Timing(), reap_delay_ms=200)


def _block(play: Play, sources: list[Machine], targets: list[Machine], blocked: bool) -> None:
    for source in sources:
        for target in targets:
            if source is not target:
                play.world.block(source.name, target.name, blocked)


def _custody(play: Play, machine: Machine) -> Custody:
    assert machine.node is not None
    return machine.node.custodies.of(play.place.partition)


def _put_at(play: Play, machine: Machine, client: int = 0) -> None:
    play.clients.at = machine
    play.put(client=client)
    play.clients.at = None


def _asks_for_the_seal(play: Play) -> tuple[Machine, Machine]:
    """Owner 0 leaves; (leaver, successor) once the successor is about to ask for the seal."""
    leaver, successor = play.owners[0], play.others[0]
    play.put()
    ring = play.ring_of([m for m in play.world.machines if m is not leaver])
    successor.disk.temper.slowness = 300.0
    play.post(ring, *play.world.machines)
    custody = _custody(play, successor)

    def asks() -> bool:
        return custody.pulling is not None and custody.pulling.asked is Asked.MAYBE

    play.world.run_until(asks, PATIENCE_S)
    return leaver, successor


# The scenarios


def write_between_the_last_walk_and_the_seal(seed: int) -> Report:
    """It reaches the leaver and one other owner; the third one is asked with the successor."""

    def script(play: Play) -> None:
        leaver, successor = _asks_for_the_seal(play)
        second, third = play.owners[1], play.owners[2]
        _block(play, [second, third], [successor], True)
        _block(play, [leaver, second], [third], True)
        _put_at(play, second)
        successor.disk.temper.slowness = 1.0
        _block(play, [leaver], [third], False)
        _block(play, [third], [successor], False)
        play.kill(second)
        for _ in range(4):
            play.ask(Op.GET, client=7)
        _block(play, [second], [successor, third], False)

    return scripted(seed, script, 4, hints_bytes_max=0)


def disk_lost_while_the_successor_is_cut_off(seed: int) -> Report:
    """The leaver's sealed copy is one of two that have a write; the other one's disk is lost."""

    def script(play: Play) -> None:
        leaver, successor = _asks_for_the_seal(play)
        world, second, third = play.world, play.owners[1], play.owners[2]
        _block(play, [second, third], [successor], True)
        _block(play, [leaver, second], [third], True)
        _put_at(play, second)

        def sent(source: str, target: str, frame: bytes) -> None:
            if frame[4] == Type.SEAL_REPLY and _custody(play, leaver).seals:
                play.world.net.on_frame = None
                _block(play, [leaver], [successor], True)

        world.net.on_frame = sent
        successor.disk.temper.slowness = 1.0
        world.run_until(lambda: bool(_custody(play, leaver).seals), PATIENCE_S)
        world.run_for(3.0)
        play.kill(second, power=True)
        second.disk.wipe()
        _block(play, world.machines, world.machines, False)
        play.start(second)

    return scripted(seed, script, 4, hints_bytes_max=0)


def mind_changed_after_a_write_at_both_sides(seed: int) -> Report:
    """Old and new side have a write, and nobody else; then the plan is taken back."""

    def script(play: Play) -> None:
        leaver, successor = play.owners[0], play.others[0]
        world = play.world
        play.put()
        world.run_for(2.0)
        ring = play.ring_of([m for m in world.machines if m is not leaver])
        _block(play, play.owners[1:], [leaver, successor], True)
        _block(play, [leaver, successor], play.owners[1:], True)
        world.net.lost = frozenset({Type.SEAL})
        play.post(ring, leaver, successor)
        custody = _custody(play, successor)
        world.run_until(lambda: custody.pulling is not None, PATIENCE_S)
        play.clients.at = leaver
        play.ask(Op.PUT, client=1)
        play.clients.at = None
        back = play.ring_of([m for m in world.machines if m is not successor])
        play.post(back, leaver, successor)
        world.net.lost = frozenset()
        world.run_for(5.0)
        play.kill(leaver, power=True)
        leaver.disk.wipe()
        _block(play, world.machines, world.machines, False)
        play.start(leaver)

    return scripted(seed, script, 4, hints_bytes_max=0)


def given_up_node_asks_one_that_knows_better(seed: int) -> Report:
    """A node that was given up is heard again by one owner, which has missed a write."""

    def script(play: Play) -> None:
        world, (away, second, third), heir = play.world, play.owners, play.others[0]
        play.put()
        world.run_for(2.0)
        play.cut_off([away], noticed=False)
        number = away.node.topology.number if away.node is not None else 0
        ring = play.ring_of([second, third, heir], give_up=(number,))
        play.post(ring, second, third, heir)
        place = play.place.partition
        world.run_until(
            lambda: heir.node is not None and place in heir.node.topology.counting, PATIENCE_S
        )
        _block(play, [second], [third, heir], True)
        _block(play, [third, heir], [second], True)
        _put_at(play, heir)
        _block(play, [away], [second], False)
        _block(play, [second], [away], False)
        play.clients.at = away
        for _ in range(3):
            play.ask(Op.GET, client=7)
        play.clients.at = None
        world.remove(away)
        _block(play, world.machines, world.machines, False)

    return scripted(seed, script, 4, hints_bytes_max=0)


def two_leave_that_had_nothing_when_they_came(seed: int) -> Report:
    """What a publisher was told of them before they were members says nothing now."""

    def script(play: Play) -> None:
        world = play.world
        play.world.ring = play.ring()
        one = publishing.first(world, Random(f"{seed}/publisher"))
        one.ends_at_once = True
        wanted = {machine.name: "1" for machine in world.machines}
        joined = play.join(2)
        one.wishes = Wishes({**wanted, **{m.name: "1" for m in joined}})
        one.begin()
        world.run_until(lambda: not one.unfinished(), 60.0, one.unfinished)
        holders = play.another_key(joined)
        third = next(m for m in holders if m not in joined)
        play.kill(third)
        play.put(client=1)
        world.net.lost = frozenset({Type.PULL})
        one.wishes = Wishes(wanted)
        world.run_for(5.0)
        world.net.lost = frozenset()
        world.start(third)
        world.run_for(15.0)

    return scripted(seed, script, 4, hints_bytes_max=0)


def _number(machine: Machine) -> int:
    return 0 if machine.node is None else machine.node.topology.number


def old_volume_of_one_that_left(seed: int) -> Report:
    """It comes back after its key was deleted and reaped (schedule 10)."""

    def script(play: Play) -> None:
        world, leaver = play.world, play.owners[seed % 3]
        play.put()
        world.run_for(2.0)
        play.kill(leaver)
        snapshot = leaver.disk.snapshot()
        play.start(leaver)
        world.run_until(world.all_linked, PATIENCE_S)
        rest = [m for m in world.machines if m is not leaver]
        play.post(play.ring_of(rest), *world.machines)
        play.until_settled()
        number = leaver.node.topology.number if leaver.node is not None else 0
        play.post(play.ring_of(rest, drained=(number,)), *rest)
        world.end(leaver)
        world.run_until(lambda: leaver.process is None, PATIENCE_S)
        play.ask(Op.GET)
        assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED
        world.run_until(
            lambda: not any(m.disk.contents()[OBJECTS] for m in world.machines), 2 * PATIENCE_S
        )
        disk = world.shelf.pop(leaver.name)
        disk.roll_back(snapshot)
        back = world.add(leaver.name, disk)
        back.config = leaver.config
        world.start(back)
        world.run_until(lambda: back.node is not None, PATIENCE_S)
        play.post(play.ring_of([*rest, back]), *rest)
        play.until_settled()

    return scripted(seed, script, 4, timing=FAST)


# The bugs


def deletes_without_proof(patch: pytest.MonkeyPatch) -> None:
    """A copy is let go as soon as it is sealed, as if it had been covered."""

    async def offer(self: Covering) -> None:
        for custody in self._node.custodies.sealed():
            for slot in list(custody.seals):
                self._node.custodies.carry_out(custody.partition, custody._let_go(slot))

    patch.setattr(Covering, "_offer_all", offer)


def counts_without_the_final_walk(patch: pytest.MonkeyPatch) -> None:
    walk = Copy.walk

    async def walked(self: Copy) -> Walked:
        if self.paced:
            return await walk(self)
        from dynamo_node.walking import What, messages

        given = await self.ask(What.TREE)
        _, kept = messages.unpack_tree(given.body)
        return Walked(EMPTY_ROOT, given.state, kept, given.possible_loss)

    patch.setattr(Copy, "walk", walked)


def incoming_count(patch: pytest.MonkeyPatch) -> None:
    """Whoever is to hold a slot is an owner like those who hold one, with its half-pulled copy."""
    listed = Topology._list

    def both(self: Topology, partition: int) -> Any:
        found = listed(self, partition)
        owners = tuple(dict.fromkeys((*found.owners, *found.incoming)))
        others = tuple(n for n in found.others if n not in owners)
        found = found._replace(owners=owners, others=others, incoming=())
        self._lists[partition] = found
        return found

    patch.setattr(Topology, "_list", both)
    patch.setattr(Service, "_stands_in_for_itself", lambda self, place: False)


def any_row_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlotTable, "digest", lambda self, partition: bytes(8))


def proof_of_another_ring(patch: pytest.MonkeyPatch) -> None:
    """Who was seen with nothing once is drained whenever it leaves."""
    seen: set[str] = set()

    def drained(self: Publisher) -> list[int]:
        for name, told in self._seen.items():
            if told.handover["records"] == told.handover["hints"] == 0:
                seen.add(name)
        return [node.number for node in self.decided.leaving if node.name in seen]

    patch.setattr(Publisher, "drained", drained)


def every_round_will_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(State, "agreed_to", lambda self, reap_round: True)


PLANTED: dict[str, tuple[Plant, Scenario, set[str]]] = {
    "an old side that deletes without proof": (
        deletes_without_proof, disk_lost_while_the_successor_is_cut_off, {"a"},
    ),
    "a successor that counts before the final difference": (
        counts_without_the_final_walk, write_between_the_last_walk_and_the_seal, {"h"},
    ),
    "an incoming node counted as an owner": (
        incoming_count, mind_changed_after_a_write_at_both_sides, {"a"},
    ),
    "an answer under another row": (
        any_row_will_do, given_up_node_asks_one_that_knows_better, {"h"},
    ),
    "a proof that was given under another ring": (
        proof_of_another_ring, two_leave_that_had_nothing_when_they_came, {"a"},
    ),
    "an old volume that is merged whatever its round": (
        every_round_will_do, old_volume_of_one_that_left, {"e"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_without_a_bug_nothing_is_accused(name: str) -> None:
    innocent(PLANTED[name][1], SEEDS)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, scenario, promises = PLANTED[name]
    plant(monkeypatch)
    accused(scenario, SEEDS, promises)
