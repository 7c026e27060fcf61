"""What befalls the machines under a store, and the links between them, under a judged load."""

import pytest
from e2e.conftest import Clusters, Tell
from e2e.faults import Faults, lasting, machine_of
from e2e.kube import until
from e2e.load import figures, loaded

pytestmark = pytest.mark.timeout(900)


def test_a_machine_drained(clusters: Clusters, tell: Tell) -> None:
    """By kubectl drain; its volume is bound to it, so the pod waits until it is back."""
    with clusters("drain") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            for pod in sorted(dynamo.pods())[:2]:
                with faults.drained(machine_of(dynamo, pod)):
                    lasting(10.0)
                dynamo.until_settled(3)
        tell(figures(report))


def test_a_machine_that_stands_still(clusters: Clusters, tell: Tell) -> None:
    with clusters("frozen") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            with faults.paused_machine(machine_of(dynamo, sorted(dynamo.pods())[1])):
                lasting(30.0)
            dynamo.until_settled(3)
        tell(figures(report))


def test_a_machine_without_power(clusters: Clusters, tell: Tell) -> None:
    with clusters("power") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            with faults.killed_machine(machine_of(dynamo, sorted(dynamo.pods())[2])):
                lasting(30.0)
            dynamo.until_settled(3, 300.0)
        tell(figures(report))


def test_a_zone_lost(clusters: Clusters, tell: Tell) -> None:
    """Two of six nodes at once; no key has more than one of its copies there."""
    with clusters("zone", replicas=6) as dynamo:
        assert dynamo.status["ring"]["zonesDistinct"] == 3
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pods = sorted(dynamo.pods())
            machine = machine_of(dynamo, pods[0])
            assert [p for p in pods if machine_of(dynamo, p) == machine] == pods[:2]
            with faults.killed_machine(machine):
                lasting(45.0)
            dynamo.until_settled(6, 300.0)
        tell(figures(report))


def test_links_that_are_cut(clusters: Clusters, tell: Tell) -> None:
    """Between two nodes only, one way only, and one node from all others."""
    with clusters("cut", replicas=5) as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pods = sorted(dynamo.pods())
            with faults.cut(pods[0], pods[1]):
                lasting(15.0)
            dynamo.until_settled(5)
            with faults.cut(pods[1], *pods[2:], one_way=True):
                lasting(15.0)
            dynamo.until_settled(5)
            with faults.cut(pods[2], *(p for p in pods if p != pods[2])):
                lasting(15.0)
            dynamo.until_settled(5)
        tell(figures(report))


def test_links_that_are_bad(clusters: Clusters, tell: Tell) -> None:
    """Lost packets and a narrow link. No machine here can delay packets: no netem."""
    with clusters("lossy") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            pods = sorted(dynamo.pods())
            with faults.lossy(pods[0], 10):
                lasting(20.0)
            dynamo.until_settled(3)
            with faults.slow(pods[1], 64):
                lasting(20.0)
            dynamo.until_settled(3)
        tell(figures(report))


def test_the_operator_cut_off_in_the_middle_of_scaling(clusters: Clusters, tell: Tell) -> None:
    with clusters("mute") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            dynamo.scale(5)
            until(lambda: len(dynamo.pods()) > 3, "pods are made", pause_s=0.1)
            with faults.operator_cut_off():
                lasting(30.0)
            dynamo.until_settled(5)
            dynamo.scale(3)
            dynamo.until_settled(3)
        tell(figures(report))


def test_a_machine_cut_off_from_the_api_server(clusters: Clusters, tell: Tell) -> None:
    """Kubernetes thinks it lost, and its pods work: nobody may replace them."""
    with clusters("island") as dynamo:
        faults = Faults(dynamo)
        before = dynamo.uids()
        with loaded(dynamo) as report:
            with faults.machine_cut_off(machine_of(dynamo, sorted(dynamo.pods())[0])):
                lasting(60.0)
            dynamo.until_settled(3)
        assert dynamo.uids() == before
        tell(figures(report))


def test_the_api_server_away_for_a_minute(clusters: Clusters, tell: Tell) -> None:
    """In the middle of scaling up; nothing stops for clients, and the plan goes on after it."""
    with clusters("headless") as dynamo:
        faults = Faults(dynamo)
        with loaded(dynamo) as report:
            dynamo.scale(5)
            until(lambda: len(dynamo.pods()) > 3, "pods are made", pause_s=0.1)
            with faults.no_api_server():
                lasting(60.0)
            dynamo.until_settled(5, 300.0)
            dynamo.scale(3)
            dynamo.until_settled(3)
        tell(figures(report))
