"""What is done to a local cluster while clients work on it, all from one seed.

Owns the nemesis: kills, pauses, polite restarts and wiped disks of real node
processes, and their end. A disk is wiped only while all others are whole and
no hint waits anywhere, because then every acknowledged write is on two disks
at least; the next one only after that node is rebuilt. Forbidden here: judging.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.node.node_processes import Cluster, NodeProcess, until

REBUILT_S = 120.0
HURT_MAX = 2
_ACTS = {"kill": 4, "pause": 4, "restart": 2, "wipe": 1}


class Nemesis:
    """Hurts nodes one after the other, at most two at a time, until it is told to stop."""

    def __init__(self, cluster: Cluster, seed: int, wipes: bool = True) -> None:
        self.told: list[str] = []
        self.done: dict[str, int] = dict.fromkeys(_ACTS, 0)
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._acts = {act: share for act, share in _ACTS.items() if wipes or act != "wipe"}
        self._stop = threading.Event()
        self._began = time.monotonic()

    def run(self, seconds: float) -> None:
        """Hurt for so long, then heal; to be run in a thread beside the load."""
        end = time.monotonic() + seconds
        hurt: dict[NodeProcess, float] = {}
        try:
            while time.monotonic() < end and not self._stop.wait(self._chance.uniform(0.1, 1.0)):
                for node in [node for node, when in hurt.items() if when <= time.monotonic()]:
                    del hurt[node]
                    self.heal(node)
                whole = [node for node in self._cluster.nodes if node not in hurt]
                act = self._chance.choices(list(self._acts), list(self._acts.values()))[0]
                node = self._chance.choice(whole)
                lasts = self._chance.uniform(0.3, 4.0)
                if act == "wipe":
                    for each in hurt:
                        self.heal(each)
                    hurt.clear()
                    self.wipe(node, min(20.0, end - time.monotonic()))
                elif len(hurt) < HURT_MAX:
                    self._tell(act, node, f"for {lasts:.1f} s")
                    _HURT[act](node)
                    hurt[node] = time.monotonic() + lasts
        finally:
            for node in self._cluster.nodes:
                self.heal(node)

    def stop(self) -> None:
        self._stop.set()

    def heal(self, node: NodeProcess) -> None:
        """Let it run, whatever was done to it."""
        if not node.alive:
            node.start()
        else:
            node.resume()

    def wipe(self, node: NodeProcess, patience_s: float) -> None:
        """Take a node's disk away, and wait until it is rebuilt; not if the others aren't whole."""
        try:
            until(self._whole, "whole", max(0.0, patience_s))
        except AssertionError:
            return
        self._tell("wipe", node)
        node.kill()
        shutil.rmtree(Path(node.settings["data_dir"]))
        node.start()
        until(lambda: self._state(node) == "up", f"{node.name} is rebuilt", REBUILT_S)
        self._tell("rebuilt", node)

    def _whole(self) -> bool:
        """Whether every node is up and keeps no hints."""
        for node in self._cluster.nodes:
            with suppress(OSError):
                status = node.status()
                if status["state"] == "up" and not status["hints_pending"]:
                    continue
            return False
        return True

    def _state(self, node: NodeProcess) -> str:
        with suppress(OSError):
            return str(node.status()["state"])
        return ""

    def _tell(self, act: str, node: NodeProcess, more: str = "") -> None:
        if act in self.done:
            self.done[act] += 1
        self.told.append(f"{time.monotonic() - self._began:7.2f} {act} {node.name} {more}".rstrip())


def _restart(node: NodeProcess) -> None:
    node.terminate()
    node.wait_end()


_HURT: dict[str, Callable[[NodeProcess], None]] = {
    "kill": NodeProcess.kill,
    "pause": NodeProcess.pause,
    "restart": _restart,
}
