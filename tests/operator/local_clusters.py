"""The command line of a local cluster in a folder of its own, for tests from outside."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ports import free_base
from click.testing import CliRunner

from dynamo_operator.local import cli, processes
from dynamo_operator.local.folder import Folder

DEADLINE_SECONDS = 30
NODES_MAX = 8
FAKE = Path(__file__).with_name("fake_node.py")


class Local:
    """The command line in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_base(NODES_MAX)
        self.foreground: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "dynamo_operator.local", *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        """Runs a command to its end, in this process; its stdout and stderr together."""
        result = CliRunner().invoke(cli.local, arguments)
        assert result.exit_code == code, result.output
        return result.output

    def up(self, *arguments: str, code: int = 0) -> str:
        return self.run("up", "--detach", "--port", str(self.port), *arguments, code=code)

    def open(self, *arguments: str) -> subprocess.Popen[str]:
        """Runs `up` in the foreground with its output in a file."""
        with (self.path / "out").open("w") as out:
            child = subprocess.Popen(
                self.command("up", "--port", str(self.port), *arguments),
                cwd=self.path,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.foreground.append(child)
        return child

    def output(self) -> str:
        return (self.path / "out").read_text()

    def status(self) -> dict[str, Any]:
        result = CliRunner().invoke(cli.local, ["status", "--json"])
        value: dict[str, Any] = json.loads(result.stdout)
        return value

    def nodes(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self.status()["nodes"]
        return nodes

    def node(self, ordinal: int) -> dict[str, Any]:
        return self.nodes()[ordinal]

    def log(self) -> str:
        return next(self.path.glob(".dynamo/*/supervisor.log")).read_text()

    def manifest(self, **spec: Any) -> None:
        """Writes cluster.yaml (JSON is YAML), as an editor would: all at once."""
        value = {
            "apiVersion": "dynamocluster.io/v1alpha1",
            "kind": "DynamoCluster",
            "metadata": {"name": "cart"},
            "spec": spec,
        }
        new = self.path / "new"
        new.write_text(json.dumps(value))
        new.replace(self.path / "cluster.yaml")

    def end(self) -> None:
        """Ends whatever the test left behind, by the process ids that the folder knows."""
        for child in self.foreground:
            child.kill()
            child.wait()
        for marker in self.path.glob("**/dynamo-local.json"):
            state = Folder.open(marker.parent).state()
            for process in (state.supervisor, *(r.process for r in state.nodes.values())):
                if process is not None:
                    processes.send(process, signal.SIGKILL)


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.05)
