"""Handover in thousands of histories: nothing is lost, everything arrives, planted bugs show."""

import pytest
from tests.core.handover_clients import Violation
from tests.core.handover_model import run

HISTORIES = 60
STEPS = 60


def test_nothing_acknowledged_is_lost_and_every_slot_arrives() -> None:
    handovers = claims = deletions = commits = 0
    for seed in range(HISTORIES):
        world = run(seed, STEPS)
        handovers += world.handovers
        claims += world.claims
        deletions += world.deletions
        commits += world.commits
    assert handovers > HISTORIES, "the model hardly ever hands a slot over"
    assert claims > HISTORIES // 8, "hardly ever is a node given up, or its disk lost"
    assert deletions > HISTORIES, "old sides hardly ever get as far as to delete"
    assert commits > HISTORIES // 8, "hardly ever is anything reaped"


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("deletes early", 10),
        ("count slot twice", 10),
        ("stale ring accepted", 15),
        ("keeps serving", 0),
        ("no final difference", 15),
        ("seal forgotten", 0),
        ("resumed", 0),
        ("any one", 170),
        ("late walk", 50),
    ],
)
def test_the_model_catches_a_rule_left_out(fault: str, first: int) -> None:
    """`first` only saves time: histories before it don't happen to meet that fault."""
    for seed in range(first, first + 300):
        try:
            run(seed, STEPS, frozenset({fault}))
        except Violation:
            return
    pytest.fail(f"300 histories without the rule against: {fault}")
