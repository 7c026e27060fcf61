"""What befalls processes, disks and clocks of a store on Kubernetes, under a load that is judged.

Each scenario states its error budget: requests that failed after all retries of the client.
None of them may lose an acknowledged write, or bring one back; in the end all copies are equal.
"""

import pytest
from e2e.conftest import Clusters, Tell
from e2e.faults import Faults, lasting
from e2e.kube import SKEWED_NODE_IMAGE, until
from e2e.load import figures, loaded
from e2e.small_disks import small_disks

pytestmark = pytest.mark.timeout(900)


def test_each_process_killed(clusters: Clusters, tell: Tell) -> None:
    """SIGKILL: the pod stays, and so does its address."""
    with clusters("sigkill") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            for pod in sorted(dynamo.pods()):
                before = faults.restarts()
                faults.kill_processes(pod)
                faults.until_restarted(pod, than=before)
                dynamo.until_settled(3)
        tell(figures(report))


def test_as_many_processes_killed_at_once_as_a_key_can_lose(clusters: Clusters, tell: Tell) -> None:
    """N-1 = 2 of five: some keys have one owner left, and stand-ins make up the quorum."""
    with clusters("several", replicas=5) as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pods = sorted(dynamo.pods())
            for pair in (pods[:2], pods[2:4]):
                before = faults.restarts()
                faults.kill_processes(*pair)
                faults.until_restarted(*pair, than=before)
                dynamo.until_settled(5)
        tell(figures(report))


def test_processes_that_stand_still(clusters: Clusters, tell: Tell) -> None:
    """Nothing tells a node that stands still from one behind a broken link, at first.

    While two of five do, some keys have one owner left. Every write is taken; a read of what
    was never there, or was deleted, needs R owners, and is refused.
    """
    with clusters("paused", replicas=5) as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo, failed_max=600) as report:
            pods = sorted(dynamo.pods())
            with faults.paused_processes(pods[0]):
                lasting(20.0)
            dynamo.until_settled(5)
            with faults.paused_processes(pods[1], pods[2]):
                lasting(20.0)
            dynamo.until_settled(5)
        tell(figures(report))


def test_a_node_that_is_slow(clusters: Clusters, tell: Tell) -> None:
    """It stands still for a moment again and again: each time shorter than it takes to be
    thought dead, so that every request that needs it waits."""
    with clusters("slow") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pod = sorted(dynamo.pods())[1]
            with faults.stuttering(pod, still_s=0.3, runs_s=0.3) as step:
                lasting(25.0, step, every_s=0.0)
            dynamo.until_settled(3)
        tell(figures(report))


def test_evictions_ask_the_budget(clusters: Clusters, tell: Tell) -> None:
    """One may be taken away; the next only once that one is whole again."""
    with clusters("evicted") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            first, second, _ = sorted(dynamo.pods())
            before = dynamo.uids()
            assert not faults.evict(first)
            assert "disruption budget" in faults.evict(second)
            dynamo.until_made_anew(first, before)
            dynamo.until_settled(3)
            until(lambda: not faults.evict(second), "the other one may go")
            dynamo.until_made_anew(second, before)
            dynamo.until_settled(3)
        tell(figures(report))


def test_a_disk_that_is_full(clusters: Clusters, tell: Tell) -> None:
    """Its node takes nothing more, says so, and goes on by itself when there is space."""
    with small_disks(clusters.kubectl) as storage_class:
        storage = {"size": "512Mi", "storageClassName": storage_class}
        with clusters("full", storage=storage) as dynamo:
            faults = Faults(dynamo)
            with loaded(dynamo) as report:
                pod = sorted(dynamo.pods())[0]
                with faults.full_disk(pod):
                    until(lambda: "full" in str(dynamo.condition("Degraded")), "the status says so")
                    tell(f"Degraded: {dynamo.condition('Degraded')[2]}")
                    lasting(15.0)
                dynamo.until_settled(3)
            tell(figures(report))


@pytest.mark.skipif(not SKEWED_NODE_IMAGE, reason="E2E_IMAGE_NODE_SKEWED names no image")
@pytest.mark.parametrize("seconds", [3600.0, -86400.0], ids=["an hour ahead", "a day behind"])
def test_a_clock_that_is_wrong(clusters: Clusters, tell: Tell, seconds: float) -> None:
    """Who wrote last is never asked of a clock, where siblings are kept."""
    with clusters("clock", image=SKEWED_NODE_IMAGE) as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pod = sorted(dynamo.pods())[1]
            with faults.skewed_clock(pod, seconds):
                lasting(10.0)
                before = faults.restarts()
                faults.kill_processes(pod)
                faults.until_restarted(pod, than=before)
                lasting(5.0)
            dynamo.until_settled(3)
        tell(figures(report))
