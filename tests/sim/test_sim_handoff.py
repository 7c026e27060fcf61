"""Hints whose targets hold no slot any more, on virtual time (docs/decisions/0012, 10)."""

from typing import Any

import pytest
from tests.sim.play import PATIENCE_S, Play, played
from tests.sim.world import Machine

from dynamo_node.cluster_view import cluster_view

SEEDS = range(3)


def _number(machine: Machine) -> int:
    assert machine.node is not None
    return machine.node.topology.number


def _without(play: Play, *gone: Machine) -> list[Machine]:
    return [m for m in play.world.machines if m not in gone]


def _hints(machine: Machine) -> dict[int, int]:
    assert machine.node is not None
    return machine.node.replica.hints.pending()


def _keepers(play: Play, target: int) -> list[Machine]:
    return [m for m in play.world.machines if m.node is not None and target in _hints(m)]


def _handover(machine: Machine) -> Any:
    assert machine.node is not None
    return machine.node.transfers.handover()


def _state(at: Machine, name: str) -> str:
    assert at.node is not None
    view = cluster_view(at.node)
    return next((n["state"] for n in view["nodes"] if n["name"] == name), "")


def _put_without(play: Play, down: Machine) -> list[Machine]:
    """Write while an owner is down: whoever keeps the hint for it."""
    target = _number(down)
    play.kill(down)
    play.put()
    play.world.run_until(lambda: bool(_keepers(play, target)), PATIENCE_S)
    return _keepers(play, target)


def _judged(play: Play) -> None:
    report = play.judged()
    assert not report.violations, "\n".join(map(str, report.violations))
    assert not report.unchecked


@pytest.mark.parametrize("seed", SEEDS)
def test_hints_for_who_is_given_up_go_to_all_present_holders(seed: int) -> None:
    with played(seed, 5) as play:
        dead = play.owners[seed % 3]
        number = _number(dead)
        keepers = _put_without(play, dead)
        ring = play.ring_of(_without(play, dead), give_up=(number,))
        play.world.remove(dead)
        play.post(ring, *play.world.machines)
        play.until_settled()
        play.until_handed_off()
        assert number not in _hints(keepers[0])
        holders = keepers[0].node.topology.holders(play.place.partition)  # type: ignore[union-attr]
        assert len(holders) == 3
        assert number not in holders
        for machine in play.world.machines:
            if _number(machine) in holders:
                assert play.copy(machine) is not None, "each of them has it durably"
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hint_reaches_the_successor_whose_target_is_up_and_gave_its_slot_away(seed: int) -> None:
    """The stand-in was cut off from it all the while."""
    with played(seed, 7) as play:
        leaver = play.owners[seed % 3]
        number = _number(leaver)
        keeper = _put_without(play, leaver)[0]
        ring = play.ring_of(_without(play, leaver))
        assert _number(keeper) not in ring.slots[play.place.partition]
        play.cut_off([keeper], noticed=False)
        play.start(leaver)
        play.post(ring, *_without(play, keeper))
        other = play.owners[(seed + 1) % 3].node
        assert other is not None
        play.world.run_until(
            lambda: number not in other.topology.holders(play.place.partition), PATIENCE_S
        )
        assert _hints(keeper) == {number: 1}
        play.join_again([keeper])
        play.until_settled()
        play.until_handed_off()
        play.world.run_until(lambda: _handover(leaver)["drained"], PATIENCE_S)
        _judged(play)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leaving_node_is_drained_once_its_hints_are_delivered(seed: int) -> None:
    with played(seed, 5) as play:
        down = play.owners[seed % 3]
        leaver = _put_without(play, down)[0]
        play.post(play.ring_of(_without(play, leaver)), *_without(play, down))

        play.world.run_for(15.0)
        assert _hints(leaver)
        assert not _handover(leaver)["drained"], "its hint is for a member that is down"
        other = play.others[0] if play.others[0] is not leaver else play.others[1]
        assert _state(other, leaver.name) == "leaving"
        assert _state(other, down.name) == "down"
        play.start(down)
        play.until_settled()
        play.world.run_until(lambda: _handover(leaver)["drained"], PATIENCE_S)
        assert not _hints(leaver)
        _judged(play)


def test_the_view_names_who_joins_and_who_leaves() -> None:
    with played(1, 4) as play:
        play.put()
        [new] = play.join()
        leaver = play.owners[0]
        seen: dict[str, set[str]] = {new.name: set(), leaver.name: set()}
        play.post(play.ring_of(_without(play, leaver)), *play.world.machines)

        def done() -> bool:
            for name, states in seen.items():
                states.add(_state(play.owners[1], name))
            return not play.unsettled()

        play.world.run_until(done, 60.0)
        assert "joining" in seen[new.name]
        assert _state(play.owners[1], new.name) == "up"
        assert _state(play.owners[1], leaver.name) == "leaving"
        play.post(
            play.ring_of(_without(play, leaver), drained=(_number(leaver),)),
            *_without(play, leaver),
        )
        assert _state(play.owners[1], leaver.name) == ""
