"""Coordination under faults that nobody has noticed yet, with the node's own parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.sim.test_planted_bugs import Play
from tests.sim.world import Machine

from dynamo_core.outcomes import Kind
from dynamo_core.wire import Op, Operation

TIMEOUT_MS = 2000


@contextmanager
def _play(seed: int, nodes: int, **config: Any) -> Iterator[Play]:
    play = Play(seed, nodes, **config)
    try:
        yield play
    finally:
        play.world.close()


def _asked(play: Play, at: Machine, op: Op, **more: Any) -> Any:
    """The outcome of one operation at one node, asked once; the history doesn't know of it."""
    outcomes: list[Any] = []
    node, process = at.node, at.process
    assert node is not None
    assert process is not None
    asked = Operation(op, play.key, write_id=bytes(15) + b"x", value=b"v")._replace(**more)
    process.loop.call_soon(lambda: node.coordinator.operate(asked, TIMEOUT_MS, outcomes.append))
    play.world.run_until(lambda: bool(outcomes), 30.0)
    return outcomes[0]


def _in_order(play: Play) -> tuple[list[Machine], list[Machine]]:
    """Owners and stand-ins of the key, in the order of its preference list."""
    by_number = {m.node.topology.number: m for m in play.world.machines if m.node is not None}
    place = play.machine(0).topology.place(play.key)
    return [by_number[n] for n in place.owners], [by_number[n] for n in place.others]


def _cut(play: Play, machines: list[Machine]) -> None:
    """Frames between `machines` and the rest vanish from now on; nobody is told."""
    for one in machines:
        for other in play.world.machines:
            if other not in machines:
                play.world.block(one.name, other.name, True)
                play.world.block(other.name, one.name, True)


@pytest.mark.parametrize("seed", range(4))
def test_a_write_where_all_owners_fall_silent_is_taken_by_stand_ins(seed: int) -> None:
    with _play(seed, 6) as play:
        _, others = _in_order(play)
        _cut(play, others)
        done = _asked(play, others[0], Op.PUT)
        assert (done.kind, done.standin) == (Kind.WRITTEN, 2), done


@pytest.mark.parametrize("seed", range(4))
def test_a_write_finds_the_one_stand_in_that_is_left(seed: int) -> None:
    with _play(seed, 7) as play:
        owners, others = _in_order(play)
        _cut(play, [owners[0], others[-1]])
        done = _asked(play, owners[0], Op.PUT)
        assert (done.kind, done.primary, done.standin) == (Kind.WRITTEN, 1, 1), done
