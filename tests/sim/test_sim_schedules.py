"""Schedules that must not lose, played on virtual time with the node's own parts."""

from typing import Any

from tests.sim.play import Play, played

from dynamo_core.history import ACKNOWLEDGED, Operation
from dynamo_core.outcomes import Kind
from dynamo_core.wire import Op
from dynamo_node.config import BUFFERED


def _asked(play: Play, at: Any, op: Op) -> Any:
    """The outcome of one operation at one node, asked once."""
    from dynamo_core.wire import Operation as Asked

    outcomes: list[Any] = []
    node = at.node
    at.process.loop.call_soon(
        lambda: node.coordinator.operate(
            Asked(op, play.key, write_id=bytes(15) + b"x", value=b"v"), 2000, outcomes.append
        )
    )
    play.world.run_until(lambda: bool(outcomes), 30.0)
    return outcomes[0]


def test_schedule_13_two_empty_stand_ins_never_say_that_a_key_is_absent() -> None:
    with played(13, 6) as play:
        play.put()
        play.world.run_for(2.0)
        # A client that reaches only nodes that are no owners of the key.
        play.cut_off(play.others)
        outcome = _asked(play, play.others[0], Op.GET)
        assert outcome.kind == Kind.UNAVAILABLE, outcome
        assert outcome.got == 0, "an empty stand-in counts for nothing"
        play.join_again(play.others)
        assert not play.judged().violations


def test_schedule_17_with_every_hint_store_full_writes_go_on_and_marks_bring_them_home() -> None:
    with played(17, 5, hints_bytes_max=0) as play:
        play.kill(play.owners[1], play.owners[2])
        for _ in range(4):
            done = play.put(context=True)
            assert isinstance(done, Operation)
            assert done.outcome == ACKNOWLEDGED
        pending = [
            m.node.replica.hints.pending() for m in play.world.machines if m.node is not None
        ]
        assert any(pending), "what an owner misses is known"
        report = play.judged()
        assert not report.violations, report
        assert not any(
            m.node.replica.hints.pending() for m in play.world.machines if m.node is not None
        ), "marks clear once the owners were compared"


def test_schedule_22_after_a_power_cut_everywhere_two_buffered_copies_wait_for_the_third() -> None:
    with played(22, 3, durability=BUFFERED) as play:
        play.put()
        play.kill(*play.owners, power=True)
        back, third = play.owners[:2], play.owners[2]
        play.start(*back)
        play.world.run_for(10.0)
        for machine in back:
            assert machine.node is not None
            assert machine.node.state == "recovering"
            assert _asked(play, machine, Op.GET).kind == Kind.UNAVAILABLE, "never a 404"
        assert _asked(play, back[0], Op.PUT).kind == Kind.WRITTEN, "writes go on"
        play.start(third)
        play.world.run_until(
            lambda: all(m.node is not None and m.node.state == "up" for m in play.owners), 60.0
        )
        for machine in play.owners:
            assert machine.node is not None
            assert machine.node.standing.possible_losses, "it says that writes may be gone"
        assert _asked(play, third, Op.GET).kind == Kind.VALUES


def test_buffered_writes_survive_a_crash_of_every_process() -> None:
    with played(22, 3, durability=BUFFERED) as play:
        play.put()
        play.kill(*play.owners)
        play.start(*play.owners)
        assert {m.node.state for m in play.owners if m.node is not None} == {"up"}
        assert not play.judged().violations
