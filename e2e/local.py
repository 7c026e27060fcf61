"""One local cluster as a person would use it: by its commands and its HTTP interface alone.

Owns running the commands and waiting. Forbidden here: importing the product.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench.ports import free_base

DEADLINE_S = 60.0
DYNAMO = [sys.executable, "-m", "dynamo_client.cli"]


class Local:
    """The command line of one local cluster in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.data = folder / "data"

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*DYNAMO, *arguments],
            cwd=self.folder,
            env=os.environ | {"DYNAMO_URL": self.http(0)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"dynamo {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
        return done

    def local(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("local", command, *arguments, "--data", str(self.data))

    def up(self, *arguments: str) -> None:
        self.local("up", "--detach", "--port", str(self.port), *arguments)

    def status(self) -> Any:
        return json.loads(self.local("status", "--json").stdout)

    def http(self, node: int) -> str:
        return f"http://127.0.0.1:{self.port + node}"

    def admin(self, node: int, path: str) -> Any:
        return asked(f"http://127.0.0.1:{self.port + 1000 + node}{path}")


def asked(url: str) -> Any:
    """The JSON at an address."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def local_cluster(folder: Path, nodes: int, *up: str) -> Iterator[Local]:
    """A cluster that is up; wiped at the end."""
    found = Local(folder, free_base(nodes))
    try:
        found.up(*up)
        yield found
    finally:
        found.local("down", "--wipe")


def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> float:
    """Wait for it; seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > deadline_s:
            pytest.fail(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began
