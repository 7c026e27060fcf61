"""Handover in thousands of histories: nothing is lost, everything arrives, planted bugs show."""

from collections.abc import Callable

import pytest
from tests.core.handover_model import World, run
from tests.core.handover_network import Violation

HISTORIES = 60
STEPS = 60


def test_nothing_acknowledged_is_lost_and_every_slot_arrives() -> None:
    worlds = [run(seed, STEPS) for seed in range(HISTORIES)]

    def often(counted: Callable[[World], int]) -> float:
        return sum(map(counted, worlds)) / HISTORIES

    assert often(lambda w: w.handovers) > 1, "the model hardly ever hands a slot over"
    assert often(lambda w: w.claims) > 0.12, "hardly ever is a node given up, or its disk lost"
    assert often(lambda w: w.followed) > 0.03, "hardly ever does a drained node hold a slot"
    assert often(lambda w: w.deletions) > 1, "old sides hardly ever get as far as to delete"
    assert often(lambda w: w.commits) > 0.12, "hardly ever is anything reaped"
    assert often(lambda w: w.again) > 1, "operations are hardly ever begun anew"
    assert often(lambda w: w.uncounted) > 0.5, "hardly ever does a node stand in for itself"
    assert often(lambda w: w.delivered) > 3, "hardly any hint is delivered"


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("deletes early", 19),
        ("uncounted counts", 90),
        ("stale ring accepted", 33),
        ("rows not compared", 281),
        ("keeps serving", 47),
        ("no final difference", 28),
        ("seal forgotten", 10),
        ("resumed", 0),
        ("any one", 58),
        ("reaps while open", 53),
    ],
)
def test_the_model_catches_a_rule_left_out(fault: str, first: int) -> None:
    """`first` only saves time: histories before it don't happen to meet that fault."""
    for seed in range(first, first + 200):
        try:
            run(seed, STEPS, frozenset({fault}))
        except Violation:
            return
    pytest.fail(f"200 histories without the rule against: {fault}")
