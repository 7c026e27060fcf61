"""A kubelet's part on 127.0.0.1: pods of nodes as real processes, with what they mount.

Owns a pod's files and process, from its start to SIGTERM and SIGKILL, and what is told of it.
Forbidden: the API server, and which pods there are to be (`kube_stand_in`).

A process is `dynamo-node` with the container's own arguments, ConfigMap and Secrets. What is
changed is what one machine forces: paths, for there is no container; addresses and ports, for
all pods share 127.0.0.1; and the drain, for no endpoint has to be forgotten anywhere.
"""

import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamo_operator.observed import Address

Object = dict[str, Any]

HOST = "127.0.0.1"
DRAIN_MS = 300
AGAIN_S = 1.0  # between two starts of a process that ends by itself
PROBE_S = 1.0
CREATING = {"waiting": {"reason": "ContainerCreating"}}


class PodProcess:
    """One pod of one node. contents: by volume, the files of a ConfigMap or Secret.

    disk: the folder of its claim's volume. nodes: where each pod of the cluster is reached.
    """

    def __init__(
        self,
        pod: Object,
        folder: Path,
        contents: Mapping[str, Mapping[str, str]],
        disk: Path,
        nodes: Mapping[str, Address],
    ) -> None:
        self.name: str = pod["metadata"]["name"]
        self.uid: str = pod["metadata"]["uid"]
        self.ready = False
        self.starts = 0
        self.log = folder / "log"
        self._container = pod["spec"]["containers"][0]
        self._disk = disk
        self._at = nodes[self.name]
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._killed_at: float | None = None
        self._grace_s = float(pod["spec"]["terminationGracePeriodSeconds"])
        self._places = {
            mount["mountPath"]: folder / mount["name"] if mount["name"] in contents else disk
            for mount in self._container["volumeMounts"]
        }
        for volume, files in contents.items():
            (folder / volume).mkdir(parents=True)
            for key, text in files.items():
                changed = _on_loopback(self, text, nodes) if key == "node.json" else text
                (folder / volume / key).write_text(changed)

    def here(self, path: str) -> str:
        """Where a path of the container lies on this machine."""
        for mounted, place in self._places.items():
            if path == mounted or path.startswith(f"{mounted}/"):
                return f"{place}{path.removeprefix(mounted)}"
        return path

    @property
    def address(self) -> Address:
        return self._at

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ending(self) -> bool:
        """Whether `end` was called before."""
        return self._killed_at is not None

    def keep_running(self) -> None:
        """Starts it, and again when it has ended by itself, if its disk is there."""
        if self.alive or not self._disk.is_dir() or time.monotonic() - self._started_at < AGAIN_S:
            return
        names = {one["name"]: self.name for one in self._container["env"]}  # metadata.name
        words = [self.here(word) for word in self._container["args"]]
        for variable, value in names.items():
            words = [word.replace(f"$({variable})", value) for word in words]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dynamo_node", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1
        self._started_at = time.monotonic()

    def probe(self) -> bool:
        """Asks /readyz; whether the answer is another one than before."""
        before, self.ready = self.ready, self.alive and self._says_ready()
        return before != self.ready

    def _says_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._at.http_port, timeout=PROBE_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def end(self) -> bool:
        """SIGTERM at first, SIGKILL when the pod's grace is over; whether it has ended."""
        now, first = time.monotonic(), not self.ending
        if self._killed_at is None:
            self._killed_at = now + self._grace_s
        if self._process is None or not self.alive:
            return True
        if first:
            self._process.send_signal(signal.SIGTERM)
        elif now >= self._killed_at:
            self.kill()
        return False

    def kill(self) -> None:
        """SIGKILL, and waits."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def status(self) -> Object:
        """Of the pod, as a kubelet writes it."""
        state = {"running": {}} if self.alive else CREATING
        told = status_of(self._container, state, ready=self.ready, restarts=self.starts - 1)
        return {**told, "phase": "Running", "podIP": HOST, "podIPs": [{"ip": HOST}]}


def status_of(container: Object, state: Object, *, ready: bool, restarts: int) -> Object:
    said = str(ready)
    told = {"Initialized": "True", "PodScheduled": "True", "ContainersReady": said, "Ready": said}
    return {
        "phase": "Pending",
        "conditions": [{"type": kind, "status": value} for kind, value in told.items()],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "started": "running" in state,
                "restartCount": max(0, restarts),
                "state": state,
            }
        ],
    }


def wiped(disk: Path) -> None:
    shutil.rmtree(disk, ignore_errors=True)


def _on_loopback(pod: PodProcess, text: str, nodes: Mapping[str, Address]) -> str:
    """node.json as the operator made it, with this machine's paths, addresses and ports."""
    config = json.loads(text)
    at = pod.address
    config["host"] = at.host
    for port in ("http_port", "native_port", "admin_port"):
        config[port] = getattr(at, port)
    for path in ("data_dir", "admin_token_file"):
        config[path] = pod.here(config[path])
    config["seeds"] = [
        {"name": name, "host": nodes[name].host, "native_port": nodes[name].native_port}
        for name in (seed["name"] for seed in config["seeds"])
        if name in nodes
    ]
    config["timing"]["drain_ms"] = DRAIN_MS
    return json.dumps(config)
