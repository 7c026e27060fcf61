"""Reaping under loss, crashes and lost disks: nothing comes back, nothing waits for ever."""

import pytest
from tests.core.reaping_model import OLD, World

HISTORIES = 1000
STEPS = 250


def _run(seed: int, faults: frozenset[str] = frozenset()) -> World:
    world = World(seed, faults)
    for _ in range(STEPS):
        world.step()
        if world.resurrected:
            break
    return world


def test_nothing_that_was_reaped_comes_back_and_nothing_waits_for_ever() -> None:
    reaped = healed = 0
    for seed in range(HISTORIES):
        world = _run(seed)
        assert not world.resurrected, f"seed {seed}"
        reaped += world.reaped
        if seed % 10:
            continue
        for at in range(1000):  # faults heal
            world.step(faulty=False, propose=at < 700)
        assert not world.resurrected, f"seed {seed}"
        assert all(world.members[n].rounds.kept(0) is None for n in world.owners), f"seed {seed}"
        if world.reaped:
            assert all(world.members[n].record != OLD for n in world.owners), f"seed {seed}"
            healed += 1
    assert reaped > HISTORIES // 20, "the model hardly ever gets as far as a commit"
    assert healed > HISTORIES // 20, "rounds hardly ever succeed after faults have healed"


@pytest.mark.parametrize("fault", ["without a yes", "yes from memory"])
def test_the_model_catches_a_rule_left_out(fault: str) -> None:
    assert any(_run(seed, frozenset({fault})).resurrected for seed in range(2500)), fault
