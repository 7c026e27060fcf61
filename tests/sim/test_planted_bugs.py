"""Planted bugs: each is put into the production code, and the ordinary checks must catch it.

A scenario is a short script in a small world, played with a few seeds. Without
the bug the checker has nothing to say; with it, it accuses within those seeds.
A check that can't fail proves nothing: this is what proves the simulator and
the checker.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.sim.disk import SimStore
from tests.sim.planted import Plant, Scenario, accused, innocent
from tests.sim.play import PATIENCE_S, Play, scripted

from dynamo_core import copies, objects, recovery, returning, slots
from dynamo_core.actors import Minter, actor_bytes
from dynamo_core.errors import DynamoError
from dynamo_core.get_quorum import GetQuorum
from dynamo_core.history import ACKNOWLEDGED
from dynamo_core.history_report import Report
from dynamo_core.objects import Object
from dynamo_core.recovery import Verdict
from dynamo_core.returning import Judged, Step
from dynamo_core.versions import Clock, Dot
from dynamo_core.wire import Op
from dynamo_node.config import Timing
from dynamo_node.handoff import Handoff
from dynamo_node.replica import Replica
from dynamo_node.storage import OBJECTS

SEEDS = range(6)

# The scenarios


def stand_in_writes_twice(seed: int) -> Report:
    """A stand-in writes blind, delivers its hint, forgets, writes blind again (schedule 1)."""

    def script(play: Play) -> None:
        for _ in range(2):
            play.kill(*play.owners)
            for _ in range(3):
                play.put()
            play.start(*play.owners)
            play.until_handed_off()

    return scripted(seed, script, 5)


def power_goes_after_the_answer(seed: int) -> Report:
    def script(play: Play) -> None:
        for machine in play.world.machines:
            machine.disk.temper.slowness = 50.0
        play.put()
        play.kill(*play.world.machines, power=True)

    return scripted(seed, script, 3)


def owners_were_all_away(seed: int) -> Report:
    def script(play: Play) -> None:
        play.kill(*play.owners)
        play.put()
        play.world.run_for(5.0)
        play.start(*play.owners)
        play.until_handed_off()

    return scripted(seed, script, 5)


def power_goes_after_the_handoff(seed: int) -> Report:
    """Stand-ins have delivered and forgotten; then the owners lose power."""

    def script(play: Play) -> None:
        play.kill(*play.owners)
        play.put()
        play.cut_off(play.others)
        play.start(*play.owners)
        for machine in play.owners:
            machine.disk.temper.slowness = 1000.0
        play.join_again(play.others)
        play.until_handed_off()
        play.kill(*play.owners, power=True)

    return scripted(seed, script, 5)


def hint_holder_sleeps_through_a_delete(seed: int) -> Report:
    """A hint outlives the delete of what it holds (schedule 9)."""

    def script(play: Play) -> None:
        away, holder = play.owners[2], play.others[0]
        play.kill(away)
        play.put()
        play.world.run_for(3.0)
        play.kill(holder)
        play.start(away)
        play.ask(Op.GET)
        play.world.run_for(5.0)
        play.ask(Op.GET)
        assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED
        play.world.run_for(10.0)
        play.start(holder)

    return scripted(seed, script, 4)


def two_writers_and_a_third_write(seed: int) -> Report:
    """X, Y blind; Y's writer puts again with the context of its own put (schedule 4)."""

    def script(play: Play) -> None:
        play.put(client=1)
        play.put(client=2)
        play.put(client=2, context=True)

    return scripted(seed, script, 3)


def siblings_for_one_that_was_away(seed: int) -> Report:
    """No room for hints: anti-entropy alone brings the third owner its siblings."""

    def script(play: Play) -> None:
        play.kill(play.owners[2])
        play.put(client=1)
        play.put(client=2)
        play.start(play.owners[2])

    return scripted(seed, script, 3, hints_bytes_max=0)


def client_with_two_empty_stand_ins(seed: int) -> Report:
    """A client cut off with two stand-ins asks for a key that exists (schedule 13)."""

    def script(play: Play) -> None:
        play.put()
        play.world.run_for(2.0)
        play.cut_off(play.others)
        for _ in range(5):
            play.ask(Op.GET, client=3)
        play.join_again(play.others)

    return scripted(seed, script, 5)


def volume_from_before_a_round(seed: int) -> Report:
    """A disk is rolled back to before a delete that was reaped everywhere (schedule 10)."""

    def script(play: Play) -> None:
        world, back = play.world, play.owners[seed % 3]
        play.put()
        world.run_for(2.0)
        play.kill(back)
        snapshot = back.disk.snapshot()
        play.start(back)
        world.run_until(world.all_linked, PATIENCE_S)
        play.ask(Op.GET)
        assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED
        world.run_until(
            lambda: not any(m.disk.contents()[OBJECTS] for m in world.machines), 2 * PATIENCE_S
        )
        play.kill(back)
        back.disk.roll_back(snapshot)

    return scripted(seed, script, 4, timing=replace(Timing(), reap_delay_ms=200))


def successor_of_a_dead_node_hears_too_few(seed: int) -> Report:
    """It is nominated, and can reach only the replica that missed a write (schedule 11)."""

    def script(play: Play) -> None:
        dead, missed, knows = (play.owners[(seed + i) % 3] for i in range(3))
        successor = play.others[0]
        number = dead.node.topology.number  # type: ignore[union-attr]
        play.kill(missed, successor)
        play.put()
        play.kill(knows)
        play.world.remove(dead)
        play.start(missed, successor)
        ring = play.ring_of(play.world.machines, give_up=(number,))
        assert play.post(ring, missed, successor) == [None, None]
        play.world.run_for(10.0)
        for _ in range(3):
            play.clients.call(Op.GET, play.key, 1, None)
            play.world.run_until(lambda: not play.clients.unfinished, PATIENCE_S)

    return scripted(seed, script, nodes=4)


# The bugs


def reused_dot(patch: pytest.MonkeyPatch) -> None:
    def next_dot(self: Minter, mark: Dot | None) -> Dot:
        return actor_bytes(self.number, bytes(8), 1), 1 if mark is None else mark[1] + 1

    patch.setattr(Minter, "next_dot", next_dot)


def actor_continued(patch: pytest.MonkeyPatch) -> None:
    """Its last dot is remembered without its record, and counted as if all before it were known."""
    last: dict[tuple[int, bytes], int] = {}

    def next_dot(self: Minter, mark: Dot | None) -> Dot:
        name = self.number, self.incarnation
        last[name] = last.get(name, 0) + 1
        return actor_bytes(*name, 1), last[name]

    patch.setattr(Minter, "next_dot", next_dot)
    patch.setattr(
        Clock, "with_dot", lambda self, dot: Clock({**self.vector, dot[0]: dot[1]}, self.dots)
    )


def ack_before_fsync(patch: pytest.MonkeyPatch) -> None:
    honest = SimStore.commit

    def commit(self: SimStore, done: Any, sync: bool = False) -> None:
        self._tick_waiters.append(done)
        honest(self, lambda error: None, sync)

    patch.setattr(SimStore, "commit", commit)


def proof_before_fsync(patch: pytest.MonkeyPatch) -> None:
    merge = Replica.merge

    def merged(self: Replica, key: Any, digest: Any, obj: Any, reap_round: int, done: Any,
               sync: bool = False, row: Any = None) -> None:  # fmt: skip
        merge(self, key, digest, obj, reap_round, lambda error: None, row=row)
        done(None)

    patch.setattr(Replica, "merge", merged)


def hint_deleted_undelivered(patch: pytest.MonkeyPatch) -> None:
    async def deliver(self: Handoff, *args: Any) -> bool:
        for place, data in args[-1]:
            self._replica.hints.forget(place, data)
        return False

    patch.setattr(Handoff, "_deliver_batch", deliver)


def tombstone_reaped_by_a_timer(patch: pytest.MonkeyPatch) -> None:
    put = Replica._put_object

    def put_object(self: Replica, skey: bytes, old: bytes | None, record: Any) -> None:
        import asyncio

        put(self, skey, old, record)
        if not objects.has_value(record.obj):
            leaf = objects.leaf(skey[16:], objects.head_of(record.obj))

            def reap() -> None:
                with suppress(DynamoError):  # its store may be gone by then
                    self.reap(skey, leaf, lambda error: None)

            asyncio.get_running_loop().call_later(4.0, reap)

    patch.setattr(Replica, "_put_object", put_object)


def context_is_the_stored_clock(patch: pytest.MonkeyPatch) -> None:
    minted = Replica._minted

    def covering(self: Replica, record: Any, write: Any) -> Any:
        obj, dot, context = minted(self, record, write)
        return obj, dot, context.join(objects.clock_of(obj))

    patch.setattr(Replica, "_minted", covering)


def one_sibling_is_copied(patch: pytest.MonkeyPatch) -> None:
    own = Replica.read_own_async

    async def first_alone(self: Replica, skey: bytes) -> bytes | None:
        found = await own(self, skey)
        if found is None:
            return None
        held = objects.from_bytes(found)
        return objects.to_bytes(Object(held.clock, held.siblings[:1]))

    patch.setattr(Replica, "read_own_async", first_alone)


def stand_ins_say_absent(patch: pytest.MonkeyPatch) -> None:
    init = GetQuorum.__init__

    def made(self: GetQuorum, owners: Any, others: Any, *args: Any, **named: Any) -> None:
        init(self, (*owners, *others), (), *args, **named)

    patch.setattr(GetQuorum, "__init__", made)


def old_copies_are_as_good_as_any(patch: pytest.MonkeyPatch) -> None:
    judge = returning.judge

    def trusting(*args: Any) -> Judged:
        judged = judge(*args)
        old = judged.step in (Step.EMPTY, Step.WAIT)
        return judged._replace(step=Step.SURE) if old else judged

    patch.setattr(returning, "judge", trusting)
    patch.setattr(copies, "too_old", lambda held: [])


def whoever_is_heard_is_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(slots, "needed_to_claim", lambda row, r, w: 1)
    patch.setattr(
        recovery, "judge", lambda mine, others, merged, w, doubtful: Verdict(bool(merged))
    )


PLANTED: dict[str, tuple[Plant, Scenario, set[str]]] = {
    "a reused dot": (reused_dot, stand_in_writes_twice, {"f"}),
    "an actor continued after its record was forgotten": (
        actor_continued, stand_in_writes_twice, {"a"},
    ),
    "an ack before the fsync": (ack_before_fsync, power_goes_after_the_answer, {"a"}),
    "a hint deleted before delivery": (hint_deleted_undelivered, owners_were_all_away, {"a"}),
    "a proof given before the fsync": (proof_before_fsync, power_goes_after_the_handoff, {"a"}),
    "a tombstone reaped early": (
        tombstone_reaped_by_a_timer, hint_holder_sleeps_through_a_delete, {"e"},
    ),
    "a put's context that is the stored clock": (
        context_is_the_stored_clock, two_writers_and_a_third_write, {"a", "f"},
    ),
    "anti-entropy that copies one sibling": (
        one_sibling_is_copied, siblings_for_one_that_was_away, {"a"},
    ),
    "a stand-in's empty answer counted as absence": (
        stand_ins_say_absent, client_with_two_empty_stand_ins, {"h"},
    ),
    "a copy from before a round that is taken for a new one": (
        old_copies_are_as_good_as_any, volume_from_before_a_round, {"e"},
    ),
    "a slot claimed after hearing anybody": (
        whoever_is_heard_is_enough, successor_of_a_dead_node_hears_too_few, {"h"},
    ),
}  # fmt: skip

SCENARIOS = {scenario.__name__: scenario for _, scenario, _ in PLANTED.values()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_a_bug_nothing_is_accused(name: str) -> None:
    innocent(SCENARIOS[name], SEEDS)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, scenario, promises = PLANTED[name]
    plant(monkeypatch)
    accused(scenario, SEEDS, promises)
