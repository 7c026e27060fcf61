"""A node that gets another number while it works under the one that it had."""

from typing import Any

import pytest
from tests.sim import handover_plays
from tests.sim.handover_plays import hold_pages
from tests.sim.play import AT, PATIENCE_S, played
from tests.sim.world import candidate

from dynamo_core.handover_messages import What
from dynamo_core.placement import next_ring
from dynamo_node.incarnations import Known
from dynamo_node.pulling import Puller

watched = handover_plays.watched

STEPS_MAX = 1000


@pytest.mark.parametrize("seed", range(3))
def test_work_under_a_former_number_ends(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Seeds 80001125 and 80001690: until the ring was fsynced the node had its new number and the
    # old ring. A pull begun before asked for a slot that the new number had just got: at once,
    # and again, for ever.
    asked = []
    due = Puller._step

    def counted(self: Puller, custody: Any) -> Any:
        asked.append(play.world.now)
        assert asked.count(play.world.now) < STEPS_MAX, "it doesn't let anybody else run"
        return due(self, custody)

    with played(seed, 4) as play:
        world, old, new = play.world, play.owners[seed % 3], play.others[0]
        partition, number = play.place.partition, old.node.topology.number
        play.put()
        world.run_for(1.0)
        held = hold_pages(play, old, new, What.BEGIN)
        away = play.ring_of([m for m in world.machines if m is not old])
        play.post(away, *world.machines)
        world.run_until(lambda: bool(held), PATIENCE_S)
        former = new.node.custodies.of(partition)
        assert former.pulling is None, "it is about to begin"
        # The holder is given up, and the one that pulls from it is named with another disk.
        members = [m for m in world.machines if m not in (old, new)]
        wanted = [candidate(m.name, "1", m.node.disk.disk_id) for m in members]
        wanted.append(candidate(new.name, "1", "f" * 32))
        ring = next_ring(away, wanted, AT, give_up=(number,))
        monkeypatch.setattr(Puller, "_step", counted)
        new.disk.temper.slowness = 500.0
        loop = new.process.loop
        loop.call_soon(lambda: loop.create_task(new.node.rings.post(ring)))
        world.run_until(lambda: new.node.custodies.of(partition) is not former, PATIENCE_S)
        world.remove(old)
        world.block(old.name, new.name, False)  # whoever waits for a page hears that he is gone
        world.run_for(1.0)
        new.disk.temper.slowness = 1.0
        play.post(ring, *members)
        play.until_settled()


@pytest.mark.parametrize("seed", range(3))
def test_a_number_is_met_with_one_incarnation(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two that are told a moment apart a peer may meet the newer one first, and refuse it then.
    met: dict[int, set[bytes]] = {}
    real = Known.called

    def called(self: Known, number: int, name: str, incarnation: bytes) -> bool:
        met.setdefault(number, set()).add(incarnation)
        return real(self, number, name, incarnation)

    monkeypatch.setattr(Known, "called", called)
    with played(seed, 4) as play:
        world, new = play.world, play.owners[seed % 3]
        before = play.ring()
        wanted = [
            candidate(m.name, "1", "f" * 32 if m is new else m.node.disk.disk_id)
            for m in world.machines
        ]
        ring = next_ring(before, wanted, AT)
        new.disk.temper.slowness = 100.0
        assert play.post(ring, *world.machines) == [None] * 4
        new.disk.temper.slowness = 1.0
        play.until_settled()
        world.run_for(3.0)  # each has something to say to each other
        number = new.node.topology.number
        assert number != before.node_named(new.name).number
        assert met[number] == {new.node.births.incarnation}
