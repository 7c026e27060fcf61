"""The machines of a Kubernetes cluster from below: as the engine sees them that kind runs them in.

Owns commands inside a machine, its packet filter, its containers' processes. Works with kind,
whose machines are containers called as Kubernetes calls its nodes. Forbidden here: deciding
what to hurt (`faults`).
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from e2e.kube import Kubectl, command, until

CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
HOSTNAME = "kubernetes.io/hostname"


class Machines:
    """Those of one cluster. Skips the test where no engine has them."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        names = sorted(kubectl.items("nodes"))
        if shutil.which("docker") is None:
            pytest.skip("no docker here: the machines can't be reached from below")
        here = command("docker", "ps", "-a", "--format", "{{.Names}}").split()
        if missing := set(names).difference(here):
            pytest.skip(f"the Docker engine has no container {', '.join(sorted(missing))}")

    def control_plane(self) -> str:
        """Name of the one that runs the API server."""
        (name,) = self._kubectl.items("nodes", CONTROL_PLANE)
        return name

    def workers(self) -> list[str]:
        """All others, in order."""
        return sorted(self._kubectl.items("nodes", f"!{CONTROL_PLANE}"))

    def inside(self, machine: str, *words: str, text: str | None = None) -> str:
        """What a command in a machine prints."""
        into = (
            ("docker", "exec", "-i", machine) if text is not None else ("docker", "exec", machine)
        )
        return command(*into, *words, text=text)

    def engine(self, act: str, machine: str) -> None:
        """pause, unpause, kill or start a machine as a whole."""
        command("docker", act, machine)

    def signal(self, pod: Any, name: str, check: bool = True) -> None:
        """Send a signal to the first process of a pod's one container."""
        (status,) = pod["status"]["containerStatuses"]
        container = status["containerID"].removeprefix("containerd://")
        kill = ("ctr", "-n", "k8s.io", "task", "kill", "-s", name, container)
        command("docker", "exec", pod["spec"]["nodeName"], *kill, check=check)

    @contextmanager
    def filtered(
        self, machines: Sequence[str], rules: Sequence[str], hook: str = "forward"
    ) -> Iterator[None]:
        """nft rules at that hook of these machines, for as long as the block lasts.

        forward: what pods say to each other and to other machines. input, output: what the
        machine's own processes hear and say.
        """
        table = f"dynamo-e2e-{os.urandom(3).hex()}"
        lines = "\n".join(f"    {rule}" for rule in rules)
        made = (
            f"table inet {table} {{\n  chain faults {{\n"
            f"    type filter hook {hook} priority -10; policy accept;\n{lines}\n  }}\n}}\n"
        )
        hurt = list(dict.fromkeys(machines))
        try:
            for machine in hurt:
                self.inside(machine, "nft", "-f", "-", text=made)
            yield
        finally:
            for machine in hurt:
                command(
                    "docker", "exec", machine, "nft", "delete", "table", "inet", table, check=False
                )

    def until_ready(self, machine: str) -> None:
        """Kubernetes says that the machine is there."""

        def ready() -> bool:
            (node,) = self._kubectl.items("nodes", f"{HOSTNAME}={machine}").values()
            return any(
                c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"]
            )

        until(ready, f"{machine} is ready")
