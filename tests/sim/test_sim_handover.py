"""Handover with the node's own parts: slots move while clients read and write."""

from dataclasses import replace
from typing import Any

import pytest
from tests.sim import handover_plays
from tests.sim.handover_plays import Busy, busy, moved, totals
from tests.sim.play import PATIENCE_S
from tests.sim.shape import Shape

from dynamo_core.history import ACKNOWLEDGED, DELETE, REFUSED
from dynamo_node import handing_over, pulling
from dynamo_node.config import Limits
from dynamo_node.writes import PutOperation

watched = handover_plays.watched

SEEDS = range(3)

PAUSE_S_MAX = 0.25
"""Of one partition, with syncs of some 2 ms and frames of up to 3 ms."""


@pytest.mark.parametrize("ahead", [True, False], ids=["sent ahead", "found by walks"])
@pytest.mark.parametrize("seed", SEEDS)
def test_slots_move_while_clients_write_and_no_request_fails(
    seed: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ahead:  # these are sent as a help only: what a successor misses, it finds
        monkeypatch.setattr(PutOperation, "_send_ahead", lambda put: None)
    # Many writes in the short time between the last look before a seal and the seal.
    slow = replace(Limits(), transfer_bytes_per_second_max=50_000)
    with busy(seed, over_s=0.4, per_s=1500, limits=slow, reads=0.1, keys=30) as play:
        play.clients.run()
        play.world.run_for(0.5)
        before = play.ring()
        (new,) = play.join()
        ring = play.ring_of(list(play.world.machines))
        assert play.post(ring, *play.world.machines) == [None] * 4
        play.clients.run()  # once more
        play.until_settled()
        slots = moved(before, ring)
        assert slots > 0
        every = totals(play)
        assert sum(t.partitions for t in every) == slots
        assert sum(t.handed_over for t in every) == slots
        assert new.node.transfers.totals.partitions == slots, "and to nobody else"
        for total in every:
            assert total.pause_s_max < PAUSE_S_MAX, f"clients waited {total.pause_s_max} s"
        play.ends()
        for done in play.clients.history.operations:
            absent = done.op == DELETE and done.outcome == REFUSED
            assert absent or done.outcome == ACKNOWLEDGED, done
            assert done.returned - done.invoked < 0.5, f"{done.id} took long: {done}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leaver_is_drained_while_clients_write(seed: int) -> None:
    with busy(seed, nodes=4) as play:
        play.clients.run()
        play.world.run_for(1.0)
        leaver = play.world.machines[seed % 4]
        number = leaver.node.topology.number
        assert leaver.node.transfers.handover()["drained"] is False
        stay = [m for m in play.world.machines if m is not leaver]
        ring = play.ring_of(stay)
        assert play.post(ring, *play.world.machines) == [None] * 4
        play.until_settled()
        play.ends()
        proof = leaver.node.transfers.handover()
        assert proof["drained"] is True, proof
        for machine in stay:
            facts = machine.node.transfers.handover()
            assert str(number) not in facts["sealed_to"], facts
            assert facts["held_by"] == {}, facts
            assert facts["open_slots"] == facts["pulling"] == 0
        for done in play.clients.history.operations:
            absent = done.op == DELETE and done.outcome == REFUSED
            assert absent or done.outcome == ACKNOWLEDGED, done


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_proven_is_not_proven_too_early(seed: int) -> None:
    # Whenever a leaver is drained by what all say, nothing of it is left, and nothing comes.
    with busy(seed, nodes=4, over_s=3.0) as play:
        play.clients.run()
        play.world.run_for(0.5)
        leaver = play.world.machines[seed % 4]
        stay = [m for m in play.world.machines if m is not leaver]
        ring = play.ring_of(stay)
        number = leaver.node.topology.number
        play.post(ring, *play.world.machines)

        def proven() -> bool:
            facts = [m.node.transfers.handover() for m in stay]
            held = any(str(number) in f["sealed_to"] or str(number) in f["held_by"] for f in facts)
            rings = {m.node.topology.ring.id for m in play.world.machines}
            drained = leaver.node.transfers.handover()["drained"]
            return drained and not held and rings == {ring.id}

        play.world.run_until(proven, PATIENCE_S)
        assert not leaver.node.topology.owned
        assert not any(number in m.node.topology.holders(p) for m in stay for p in range(16))
        play.ends()


def test_a_ceiling_is_kept_and_pages_tell_how_much_there_is(monkeypatch: Any) -> None:
    monkeypatch.setattr(handing_over, "PULL_KEYS", 16)
    monkeypatch.setattr(handing_over, "PULL_BYTES", 2000)
    monkeypatch.setattr(handing_over, "PULL_BYTES_MIN", 1000)
    monkeypatch.setattr(pulling, "PARTITIONS_AT_ONCE", 1)
    limits = replace(Limits(), transfer_bytes_per_second_max=10_000)
    shape = Shape(
        keys=300, clients=6, operations=900, over_s=3.0, reads=0.0, deletes=0.0, hot_share=0
    )
    play = Busy(6, 3, shape, limits=limits)
    try:
        play.clients.run()
        play.world.run_for(8.0)
        (new,) = play.join()
        ring = play.ring_of(list(play.world.machines))
        play.post(ring, *play.world.machines)
        seen: list[tuple[int, int, float | None]] = []
        began = play.world.now
        while new.node.transfers.moves():
            play.world.run_for(0.2)
            running = [t for t in new.node.transfers.facts() if t["state"] == "pulling"]
            seen += ((t["bytes_done"], t["bytes_total"], t["eta_seconds"]) for t in running)
        totals = new.node.transfers.totals
        took_s = play.world.now - began
        assert totals.bytes / took_s < 11_000, "the ceiling"
        assert totals.bytes / took_s > 5_000, "and not much less"
        sizes = totals.bytes / totals.partitions
        assert any(done for done, *_ in seen)
        for done, total, eta_s in [s for s in seen if s[0]]:
            assert done <= total
            assert 0.3 * sizes < total < 3 * sizes, (done, total, sizes)
            assert eta_s is None or 0 <= eta_s < 60
        play.ends()
    finally:
        play.world.close()
