"""A node as it runs in a pod: a number without a name, a root file system that is read-only,
and a volume that belongs to root and a group (`fsGroup`)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.ports import free_ports
from tests.node.confined import UNSUPPORTED
from tests.node.node_processes import NodeProcess

from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring

CONFINED = str(Path(__file__).with_name("confined.py"))
UID, GROUP = 65532, 65531
ROOT = os.getuid() == 0


class Pod(NodeProcess):
    """A node process with nothing around it: no home, no user, no folder for temporary files."""

    def __init__(self, folder: Path, group: bool = True) -> None:
        ports = free_ports(3)
        volume = folder / "volume"
        volume.mkdir()
        settings = {"data_dir": str(volume / "data")}
        super().__init__(folder, "pod-0", (ports[0], ports[1], ports[2]), settings)
        self.settings["quorum"] = {"r": 1, "w": 1}
        self.volume = volume
        self.user = ["", ""]
        if ROOT:
            self.user = [str(UID), str(GROUP) if group else ""]
            os.chown(volume, 0, GROUP)
            volume.chmod(0o2775 if group else 0o755)

    def start(self, program: tuple[str, ...] = ()) -> None:
        self.config_path.write_text(json.dumps(self.settings))
        self.config_path.chmod(0o644)
        confined = [sys.executable, CONFINED, str(self.volume), *self.user]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*confined, "--config", str(self.config_path)],
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "PATH": "/usr/bin:/bin"},
            )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where anybody may read: pytest's own folders are for their owner alone."""
    made = Path(tempfile.mkdtemp(prefix="pod-"))
    made.chmod(0o755)
    able = subprocess.run(
        [sys.executable, CONFINED, str(made), "", "", "--version"], cwd="/", capture_output=True
    )
    try:
        if able.returncode == UNSUPPORTED:
            pytest.skip("this kernel confines no processes")
        yield made
    finally:
        shutil.rmtree(made)


def _ring(pod: Pod) -> Ring:
    ports = (pod.http_port, pod.native_port, pod.admin_port)
    member = Candidate(pod.name, "", "1", "127.0.0.1", *ports, pod.status()["disk_id"])
    cluster = pod.settings["cluster"]
    return first_ring(cluster["id"], "cart", [member], 1, 16, "2026-01-01T00:00:00Z")


def test_it_writes_below_data_dir_and_nowhere_else(folder: Path) -> None:
    pod = Pod(folder)
    try:
        pod.start()
        pod.wait_up()
        assert pod.admin("POST", "/admin/ring", _ring(pod).to_bytes()).status == 200
        pod.wait_ready()
        for at in range(200):
            assert pod.put(b"%d" % at, b"x" * 1000).status == 204
        assert pod.admin("PUT", "/admin/settings", b'{"limits": {"siblingsMax": 9}}').status == 200
        pod.kill()
        pod.start()  # RocksDB writes what is in its log into files now
        pod.wait_ready()
        assert pod.get(b"7").body == b"x" * 1000
        assert pod.status()["settings"]["limits"]["siblingsMax"] == 9
        pod.signal(signal.SIGTERM)
        assert pod.wait_end() == 0
    finally:
        if pod.alive:
            pod.kill()
    assert [path.name for path in pod.volume.iterdir()] == ["data"]
    assert not [line for line in pod.log().splitlines() if " error " in line], pod.log()


@pytest.mark.skipif(not ROOT, reason="a folder of somebody else is needed")
def test_a_volume_without_its_group_is_named_with_what_is_wrong(folder: Path) -> None:
    pod = Pod(folder, group=False)
    pod.start()
    assert pod.wait_end() == 2
    said = pod.log()
    assert f"{pod.volume} belongs to uid 0 with mode 0755" in said
    assert f"runs as uid {UID}" in said
    assert "fsGroup" in said
    assert "Traceback" not in said


def test_the_walls_are_real(folder: Path) -> None:
    """Else the first test would prove nothing."""
    pod = Pod(folder)
    pod.settings["data_dir"] = str(folder / "elsewhere")
    pod.start()
    assert pod.wait_end() == 2
    assert f"data_dir {folder / 'elsewhere'}: Permission denied" in pod.log()
    assert not (folder / "elsewhere").exists()
