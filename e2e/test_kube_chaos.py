"""Faults in an order that a seed decides, one after the other and two at a time, under load.

E2E_SEED chooses the order again; E2E_CHAOS_S is how long it goes on.
"""

import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from e2e.conftest import Clusters, Tell
from e2e.dynamo_cluster import Dynamo
from e2e.faults import Faults, lasting, machine_of
from e2e.kube import kill_operator
from e2e.load import figures, loaded
from e2e.report import Run

SECONDS = float(os.environ.get("E2E_CHAOS_S", "240"))
READS_FAILED_MAX = 10.0
"""A second, of some 90 reads."""
pytestmark = pytest.mark.timeout(SECONDS + 900)


def test_random_faults(clusters: Clusters, tell: Tell, run: Run) -> None:
    """Five nodes; whatever is done, one fault at a time lasts and one more strikes in it."""
    seed = int(run.seed or random.SystemRandom().randrange(10**6))
    run.seed = str(seed)
    tell(f"E2E_SEED={seed}")
    chance = random.Random(seed)
    with clusters("chaos", replicas=5) as dynamo:
        faults = Faults(dynamo)
        # With two of five away some reads have too few owners; no write is refused for that.
        with loaded(dynamo, failed_max=int(SECONDS * READS_FAILED_MAX)) as report:
            end = time.monotonic() + SECONDS
            count = 0
            while time.monotonic() < end:
                with _lasting_fault(faults, dynamo, chance):
                    lasting(chance.uniform(3.0, 12.0))
                    _strike(faults, dynamo, chance)
                    lasting(chance.uniform(3.0, 12.0))
                dynamo.until_settled(_wanted(dynamo))
                count += 1
            dynamo.scale(5)
            dynamo.until_settled(5)
        tell(f"{count} rounds; {figures(report)}")


def _wanted(dynamo: Dynamo) -> int:
    return int(dynamo.seen()["spec"]["replicas"])


def _lasting_fault(
    faults: Faults, dynamo: Dynamo, chance: random.Random
) -> AbstractContextManager[object]:
    pods = sorted(dynamo.pods())
    one, *others = chance.sample(pods, len(pods))
    kinds: list[Callable[[], AbstractContextManager[object]]] = [
        lambda: faults.paused_processes(one),
        lambda: faults.cut(one, *others),
        lambda: faults.cut(one, *others[:2], one_way=True),
        lambda: faults.lossy(one, 15),
        lambda: faults.slow(one, 64),
        lambda: faults.paused_machine(machine_of(dynamo, one)),
        faults.operator_cut_off,
    ]
    return chance.choice(kinds)()


def _strike(faults: Faults, dynamo: Dynamo, chance: random.Random) -> None:
    pods = sorted(dynamo.pods().items())
    ready = [name for name, pod in pods if pod["status"].get("podIP")]
    kind = chance.choice(["process", "pod", "operator", "scale"])
    if kind == "process":
        # Kubernetes takes a while to see that a machine stands still, and what is in it with it.
        reached = [n for n in ready if machine_of(dynamo, n) not in faults.stopped]
        faults.kill_processes(chance.choice(reached))
    elif kind == "pod":
        dynamo.kill_pods(chance.choice(ready))
    elif kind == "operator":
        dynamo.scenario.mark("the operator is killed")
        kill_operator(dynamo.kubectl)
    else:
        dynamo.scale(chance.choice([4, 5, 6]))
