"""What is done to a local cluster while clients work on it, all from one seed.

Owns the nemesis: kills, pauses, polite restarts and wiped disks of real node
processes, and their end. A disk is wiped only while all others are whole and
no hint waits anywhere, because then every acknowledged write is on two disks
at least; the next one only after that node is rebuilt. Meanwhile nodes are hurt
as before: nothing but a second disk lost would be more than was promised.
A node that ends by itself is told as a fault of the store. Forbidden here: judging.
"""

import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.node.node_processes import Cluster, NodeProcess, until

REBUILT_S = 120.0
HURT_MAX = 2
LONG_SHARE = 0.15
"""Of the kills and pauses: they last so long that hints gather."""
_ACTS = {"kill": 4, "pause": 4, "restart": 2, "wipe": 2}


class Told(NamedTuple):
    """One line of the timeline: seconds since the nemesis was made, what, to whom."""

    at_s: float
    act: str
    node: str
    more: str = ""

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} {self.act} {self.node} {self.more}".rstrip()


class Nemesis:
    """Hurts nodes one after the other, at most two at a time, until it is told to stop."""

    def __init__(self, cluster: Cluster, seed: int, wipes: bool = True) -> None:
        self.told: list[Told] = []
        self.done: dict[str, int] = dict.fromkeys(_ACTS, 0)
        self.wrong: list[str] = []
        """What the store did wrong by itself: a node ended, or ended badly when asked to."""
        self.rebuilt_s: list[float] = []
        """How long each wiped disk took until its node counted again."""
        self.began = time.monotonic()
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._acts = {act: share for act, share in _ACTS.items() if wipes or act != "wipe"}
        self._stop = threading.Event()
        self._hurt: dict[str, tuple[NodeProcess, float]] = {}
        self._wiped: tuple[NodeProcess, float] | None = None
        """The node whose disk is being rebuilt, and since when."""

    def run(self, seconds: float) -> None:
        """Hurt for so long, then heal; to be run in a thread beside the load."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not self._stop.wait(self._chance.uniform(0.1, 1.0)):
                self._heal_due()
                self._look()
                act = self._chance.choices(list(self._acts), list(self._acts.values()))[0]
                if act == "wipe":
                    if self._wiped is None:
                        self._wipe_when_whole(min(20.0, end - time.monotonic()))
                elif len(self._hurt) + (self._wiped is not None) < HURT_MAX:
                    self._hurt_one(act)
        finally:
            for node in self._cluster.nodes:
                self.heal(node)
        if self._wiped is not None:
            self.until_rebuilt()

    def stop(self) -> None:
        self._stop.set()

    def heal(self, node: NodeProcess) -> None:
        """Let it run, whatever was done to it."""
        hurt = self._hurt.pop(node.name, None)
        if not node.alive:
            if hurt is None:
                self._wrong(f"{node.name} ended by itself: {node.log()[-1500:]}")
            node.start()
        else:
            node.resume()
        if hurt is not None:
            self._tell("heal", node)

    def wipe(self, node: NodeProcess, patience_s: float) -> bool:
        """Take a node's disk away and start it; False if the others don't become whole."""
        try:
            until(self._whole, "whole", max(0.0, patience_s))
        except AssertionError:
            return False
        self._tell("wipe", node)
        node.kill()
        shutil.rmtree(Path(node.settings["data_dir"]))
        node.start()
        self._wiped = node, time.monotonic()
        return True

    def until_rebuilt(self) -> None:
        """Wait until the wiped node counts again."""
        assert self._wiped is not None
        until(lambda: self._look() or self._wiped is None, "the wiped disk is rebuilt", REBUILT_S)

    # One step

    def _heal_due(self) -> None:
        for node, when in list(self._hurt.values()):
            if when <= time.monotonic():
                self.heal(node)

    def _look(self) -> None:
        """What has happened without the nemesis: a rebuilt disk, a node that ended."""
        for node in self._cluster.nodes:
            if not node.alive and node.name not in self._hurt:
                self.heal(node)
        if self._wiped is None or self._wiped[0].name in self._hurt:
            return
        node, since = self._wiped
        if self._state(node) == "up":
            self._wiped = None
            self.rebuilt_s.append(time.monotonic() - since)
            self._tell("rebuilt", node, f"after {self.rebuilt_s[-1]:.1f} s")

    def _hurt_one(self, act: str) -> None:
        node = self._chance.choice([n for n in self._cluster.nodes if n.name not in self._hurt])
        long = self._chance.random() < LONG_SHARE
        lasts = self._chance.uniform(8.0, 20.0) if long else self._chance.uniform(0.3, 4.0)
        self._tell(act, node, f"for {lasts:.1f} s")
        self._hurt[node.name] = node, time.monotonic() + lasts
        if (problem := _HURT[act](node)) is not None:
            self._wrong(f"{node.name} {problem}: {node.log()[-1500:]}")

    def _wipe_when_whole(self, patience_s: float) -> None:
        for node, _ in list(self._hurt.values()):
            self.heal(node)
        self.wipe(self._chance.choice(self._cluster.nodes), patience_s)

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

    def _wrong(self, what: str) -> None:
        self.wrong.append(f"{time.monotonic() - self.began:.2f} {what}")

    def _tell(self, act: str, node: NodeProcess, more: str = "") -> None:
        if act in self.done:
            self.done[act] += 1
        self.told.append(Told(time.monotonic() - self.began, act, node.name, more))


def _kill(node: NodeProcess) -> None:
    node.kill()


def _pause(node: NodeProcess) -> None:
    node.pause()


def _restart(node: NodeProcess) -> str | None:
    serves = False
    with suppress(OSError):
        serves = node.http("GET", "/readyz").status == 200
    node.terminate()
    code = node.wait_end()
    if code == -signal.SIGTERM and not serves:
        return None  # it was only just starting
    return None if code == 0 else f"ended with code {code} when it was asked to stop"


_HURT: dict[str, Callable[[NodeProcess], str | None]] = {
    "kill": _kill,
    "pause": _pause,
    "restart": _restart,
}
