"""What befalls a DynamoCluster: each fault says in the record what it is, and undoes itself.

Owns choosing what is hit and how. A fault that lasts is a context manager: what it did is
undone when its block ends, however it ends. Forbidden here: judging, and waiting until all is
well again, which are the scenario's.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from e2e.dynamo_cluster import Dynamo
from e2e.kube import OPERATOR, SYSTEM, until
from e2e.machines import Machines

API_PORT = 6443
SKEW_FILE = "/dev/shm/clock-offset"


class Faults:
    """Those of one DynamoCluster, whose scenario's record tells of them."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self._kubectl = dynamo.kubectl
        self._scenario = dynamo.scenario
        self.machines = Machines(dynamo.kubectl)
        self.stopped: set[str] = set()
        """Machines in which nothing runs just now: nothing can be done inside either."""

    def _pod(self, name: str) -> Any:
        return self._dynamo.pods()[name]

    # Processes and pods

    def kill_processes(self, *pods: str) -> None:
        """SIGKILL, all at once; the kubelet starts them again in the pods that they were in."""
        found = {name: self._pod(name) for name in pods}
        self._scenario.mark(f"SIGKILL {', '.join(pods)}")
        for pod in found.values():
            self.machines.signal(pod, "SIGKILL")

    def until_restarted(self, *pods: str, than: dict[str, int]) -> None:
        """Each has started more often `than` then, and is ready."""

        def again() -> bool:
            now = self._dynamo.pods()
            return all(
                status["restartCount"] > than[name] and status["ready"]
                for name in pods
                for status in now[name]["status"]["containerStatuses"]
            )

        until(again, f"{', '.join(pods)} started again")

    def restarts(self) -> dict[str, int]:
        """How often each pod's container was started again."""
        return {
            name: sum(s["restartCount"] for s in pod["status"]["containerStatuses"])
            for name, pod in self._dynamo.pods().items()
        }

    @contextmanager
    def paused_processes(self, *pods: str) -> Iterator[None]:
        """SIGSTOP until the block ends, all at once: they are there, and say nothing."""
        found = [self._pod(name) for name in pods]
        with self._scenario.fault(f"{', '.join(pods)} stand still"):
            try:
                for pod in found:
                    self.machines.signal(pod, "SIGSTOP")
                yield
            finally:
                for pod in found:  # its container may be another one by now, which runs
                    self.machines.signal(pod, "SIGCONT", check=False)

    @contextmanager
    def stuttering(self, pod: str, still_s: float, runs_s: float) -> Iterator[Callable[[], None]]:
        """A slow node: it stands still for a moment again and again while `step` is called."""
        found = self._pod(pod)

        def step() -> None:
            self.machines.signal(found, "SIGSTOP")
            time.sleep(still_s)
            self.machines.signal(found, "SIGCONT")
            time.sleep(runs_s)

        with self._scenario.fault(f"{pod} stands still for {still_s * 1000:.0f} ms at a time"):
            try:
                yield step
            finally:
                self.machines.signal(found, "SIGCONT", check=False)

    def evict(self, pod: str) -> str:
        """By the eviction API, which asks the PodDisruptionBudget; what was refused, or ""."""
        namespace = self._kubectl.namespace
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        url = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        _, said = self._kubectl.tried("create", "--raw", url, "-f", "-", text=json.dumps(body))
        refused = "disruption budget" in said
        self._scenario.mark(f"{pod} {'may not be evicted now' if refused else 'is evicted'}")
        return said if refused else ""

    # Machines

    @contextmanager
    def drained(self, machine: str) -> Iterator[None]:
        """kubectl drain of this cluster's pods, and uncordon in the end."""
        selector = f"dynamocluster.io/cluster={self._dynamo.name}"
        flags = ("--ignore-daemonsets", "--pod-selector", selector, "--timeout=110s")
        with self._scenario.fault(f"{machine} is drained"):
            try:
                self._kubectl.run("drain", machine, *flags)
                yield
            finally:
                self._kubectl.run("uncordon", machine)

    def paused_machine(self, *machines: str) -> AbstractContextManager[None]:
        """Nothing in it runs: neither nodes nor the kubelet."""
        return self._stopped("pause", "unpause", f"nothing runs in {', '.join(machines)}", machines)

    def killed_machine(self, *machines: str) -> AbstractContextManager[None]:
        """As if the power went, and came back at the end of the block."""
        return self._stopped("kill", "start", f"{', '.join(machines)} without power", machines)

    @contextmanager
    def _stopped(self, act: str, back: str, what: str, machines: tuple[str, ...]) -> Iterator[None]:
        with self._scenario.fault(what), ExitStack() as undo:
            for machine in machines:
                undo.callback(self.machines.engine, back, machine)
                undo.callback(self.stopped.discard, machine)
                self.stopped.add(machine)
                self.machines.engine(act, machine)
            yield
        for machine in machines:
            self.machines.until_ready(machine)

    # Links

    @contextmanager
    def _links(self, what: str, rules: list[str], *pods: Any) -> Iterator[None]:
        machines = [pod["spec"]["nodeName"] for pod in pods]
        with self._scenario.fault(what), self.machines.filtered(machines, rules):
            yield

    def cut(self, one: str, *others: str, one_way: bool = False) -> AbstractContextManager[None]:
        """Packets between a pod and others are dropped; one_way: only those from it to them."""
        mine, theirs = self._pod(one), [self._pod(name) for name in others]
        ip, ips = _ip(mine), ", ".join(map(_ip, theirs))
        rules = [f"ip saddr {ip} ip daddr {{ {ips} }} drop"]
        if not one_way:
            rules.append(f"ip saddr {{ {ips} }} ip daddr {ip} drop")
        arrow = "->" if one_way else "<->"
        return self._links(f"{one} {arrow} {', '.join(others)} cut", rules, mine, *theirs)

    def lossy(self, pod: str, percent: int) -> AbstractContextManager[None]:
        """So many of the packets from and to a pod are lost, by chance."""
        found = self._pod(pod)
        lost = f"numgen random mod 100 < {percent} drop"
        rules = [f"ip saddr {_ip(found)} {lost}", f"ip daddr {_ip(found)} {lost}"]
        return self._links(f"{percent} % of {pod}'s packets lost", rules, found)

    def slow(self, pod: str, kbytes_per_second: int) -> AbstractContextManager[None]:
        """What a pod says and hears beyond a rate is dropped, as by a narrow link's full queue."""
        found = self._pod(pod)
        over = f"limit rate over {kbytes_per_second} kbytes/second burst 16 kbytes drop"
        rules = [f"ip saddr {_ip(found)} {over}", f"ip daddr {_ip(found)} {over}"]
        return self._links(f"{pod} has {kbytes_per_second} kB/s", rules, found)

    @contextmanager
    def operator_cut_off(self) -> Iterator[None]:
        """From the API server: the operator's pods can't say or hear anything there."""
        pods = list(self._kubectl.at(SYSTEM).items("pods", OPERATOR).values())
        rules = [f"ip saddr {_ip(pod)} tcp dport {API_PORT} drop" for pod in pods]
        what = "the operator is cut off from the API server"
        machines = [pod["spec"]["nodeName"] for pod in pods]
        with self._scenario.fault(what), self.machines.filtered(machines, rules):
            yield

    @contextmanager
    def machine_cut_off(self, machine: str) -> Iterator[None]:
        """From the API server: its kubelet and its pods; pods reach each other all the same."""
        rule = f"tcp dport {API_PORT} drop"
        with (
            self._scenario.fault(f"{machine} is cut off from the API server"),
            self.machines.filtered([machine], [rule], "output"),
            self.machines.filtered([machine], [rule]),
        ):
            yield
        self.machines.until_ready(machine)

    @contextmanager
    def no_api_server(self) -> Iterator[None]:
        """Nobody reaches it, kubectl neither; its connections hang."""
        machine = self.machines.control_plane()
        rule = f"tcp dport {API_PORT} iifname != lo drop"
        with (
            self._scenario.fault("the API server is away"),
            self.machines.filtered([machine], [rule], "input"),
        ):
            yield
        until(lambda: self._kubectl.run("get", "--raw", "/readyz"), "the API server is back")

    # Disks and clocks

    @contextmanager
    def full_disk(self, pod: str, leave_mib: int = 8) -> Iterator[None]:
        """All but so much of the free space of a pod's volume is taken."""
        machine = self._pod(pod)["spec"]["nodeName"]
        claim = self._dynamo.claims()[f"data-{pod}"]
        volume = self._kubectl.json("get", "pv", claim["spec"]["volumeName"])["spec"]
        path = (volume.get("local") or volume.get("hostPath"))["path"]
        script = (
            f"cd {path} && free=$(df --output=avail -m . | tail -1)"
            f" && fallocate -l $((free - {leave_mib}))M ballast"
        )
        with self._scenario.fault(f"{pod}'s disk is full"):
            try:
                self.machines.inside(machine, "sh", "-c", script)
                yield
            finally:
                self.machines.inside(machine, "rm", "-f", f"{path}/ballast")

    @contextmanager
    def skewed_clock(self, pod: str, seconds: float) -> Iterator[None]:
        """The wall clock of a pod's process jumps, and jumps back in the end (e2e/skew)."""
        into = ("exec", pod, "--", "sh", "-c")
        with self._scenario.fault(f"{pod}'s clock is {seconds:+.0f} s off"):
            try:
                self._kubectl.run(*into, f"echo {seconds} > {SKEW_FILE}")
                yield
            finally:
                self._kubectl.run(*into, f"rm -f {SKEW_FILE}")


def _ip(pod: Any) -> str:
    return str(pod["status"]["podIP"])


def lasting(seconds: float, act: Callable[[], Any] = lambda: None, every_s: float = 0.5) -> None:
    """A fault goes on for so long; `act` meanwhile, again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        act()
        time.sleep(min(every_s, max(0.0, end - time.monotonic())))


def machine_of(dynamo: Dynamo, pod: str) -> str:
    """Where a pod runs."""
    return str(dynamo.pods()[pod]["spec"]["nodeName"])
