"""What is read from /proc, child processes, the plan, and a profiler's stacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bench.__main__ import main
from bench.contender import GET, OPERATIONS, OVERWRITE, PUT
from bench.errors import CannotStart
from bench.machine import filesystem_in, fsync_rate, require_space
from bench.measure import Timing
from bench.processes import Children, parse_machine_cpu, parse_process_cpu
from bench.profiling import Share, summarise
from bench.rounds import Plan

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
/dev/vdb /srv/data xfs rw 0 0
/dev/vdc /srv/my\\040disk btrfs rw 0 0
"""


def test_process_time_survives_a_hostile_name() -> None:
    stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 31 11 0 0 20 0 4 0 5 6"
    assert parse_process_cpu(stat) == 42


def test_machine_time_leaves_out_idle_and_iowait() -> None:
    assert parse_machine_cpu("cpu  1 2 4 1000 1000 8 16 32 64 128") == 63


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", "ext4"),
        ("/srv/data/x", "xfs"),
        ("/srv/database", "ext4"),
        ("/dev/shm", "tmpfs"),
        ("/srv/my disk", "btrfs"),
    ],
)
def test_the_longest_mount_point_holds_a_folder(folder: str, kind: str) -> None:
    assert filesystem_in(MOUNTS, Path(folder)) == kind


def test_the_fsync_probe_leaves_nothing(tmp_path: Path) -> None:
    assert fsync_rate(tmp_path, seconds=0.02) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_refused_at_once(tmp_path: Path) -> None:
    require_space(tmp_path, 0)
    with pytest.raises(CannotStart, match="GiB free"):
        require_space(tmp_path, 2**70)


def test_children_are_gone_after_an_error(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = []

    def fail() -> None:
        with Children() as children:
            started.append(children.serve(sleeper, tmp_path / "log"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert started[0].returncode == -15


PLAN = Plan(
    rounds=2,
    connections=(1, 16),
    operations=OPERATIONS,
    timing=Timing(1.0, 6.0),
    warm_up=Timing(0.5, 2.0),
)


def test_rounds_come_one_after_the_other() -> None:
    cells = [(cell.round, cell.connections, cell.operation) for cell in PLAN.cells()]
    one = [(connections, operation) for connections in (1, 16) for operation in OPERATIONS]
    assert cells == [(round_, *rest) for round_ in (1, 2) for rest in one]


def test_only_new_keys_need_a_generator_a_connection() -> None:
    assert PLAN.cell(PUT, 16, 1).streams == 16
    assert PLAN.cell(OVERWRITE, 16, 1).streams == 1
    assert PLAN.cell(GET, 16, 1).streams == 1


def test_the_estimate_covers_every_cell_of_every_contender() -> None:
    seconds = sum(cell.load_s for cell in [*PLAN.warm_ups(), *PLAN.cells()])
    assert PLAN.estimate_s(contenders=2) > 2 * seconds


def test_stacks_are_folded_by_function() -> None:
    stacks = [
        "run (a/b/loop.py:10);put (n/node.py:5);pack (n/wire.py:1) 3",
        "run (a/b/loop.py:11);put (n/node.py:9) 5",
        "run (a/b/loop.py:10);walk (n/tree.py:1);walk (n/tree.py:2) 2",
        "",
    ]
    assert summarise(stacks) == [
        Share("put (n/node.py)", 50.0, 80.0),
        Share("pack (n/wire.py)", 30.0, 30.0),
        Share("walk (n/tree.py)", 20.0, 20.0),
        Share("run (b/loop.py)", 0.0, 100.0),
    ]


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--connections", "1,x"], ["--operations", "scan"], ["--seconds", "0"]],
)
def test_wrong_arguments_are_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tools", "package"), [([], "nghttp2-client"), (["h2load"], "etcd-server")]
)
def test_missing_tools_are_named_with_their_packages(
    tools: list[str],
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for tool in tools:
        (tmp_path / tool).write_text("#!/bin/sh\necho h2load\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 2
    assert package in capsys.readouterr().err
