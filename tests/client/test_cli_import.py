"""import: what is written, skipped, resumed and said, and what failures cost."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster

from dynamo_client.cli import dynamo


def _run(fake: FakeCluster, *args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(dynamo, list(args), input=stdin, env={"DYNAMO_URL": fake.urls[0]})


def _import(fake: FakeCluster, path: Path | str, *args: str, code: int = 0) -> dict[str, Any]:
    result = _run(fake, "import", str(path), "--json", *args)
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _lines(count: int, value: str = "v") -> bytes:
    return b"".join(b'{"key": "k%d", "value": "%s"}\n' % (n, value.encode()) for n in range(count))


def _values(fake: FakeCluster) -> dict[bytes, list[bytes | None]]:
    return {
        key: [version.value for version in found.live()]
        for key, found in fake.store.objects.items()
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_bytes(_lines(300))
    return path


def test_import_writes_then_skips_then_replaces(fake: FakeCluster, records: Path) -> None:
    first = _import(fake, records)
    assert (first["written"], first["already_there"], first["failed"]) == (300, 0, 0)
    assert _values(fake) == {b"k%d" % n: [b"v"] for n in range(300)}
    again = _import(fake, records)
    assert (again["written"], again["already_there"]) == (0, 300)
    records.write_bytes(_lines(300, "w"))
    replaced = _import(fake, records)
    assert replaced["written"] == 300
    assert _values(fake) == {b"k%d" % n: [b"w"] for n in range(300)}
    assert not Path(f"{records}.dynamo-import").exists()


def test_import_reads_gzip_and_no_last_line_break(fake: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "records"  # known by its bytes, whatever its name
    path.write_bytes(gzip.compress(_lines(100)) + gzip.compress(_lines(101).rstrip(b"\n")))
    assert _import(fake, path)["written"] == 101


def test_import_of_stdin(fake: FakeCluster, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dynamo_client.cli", "import", "-", "--url", fake.urls[0]],
        input=_lines(50),
        capture_output=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 0
    assert b": 50 written, 0 skipped (already there), 0 failed, 0 bad lines" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_form_of_a_record(fake: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(
        b'{"key": "text", "value": "\\u00fc\\u2028", "content_type": "text/plain"}\n'
        b"\n"
        b'{"key_base64": "/wA=", "value_base64": "AAE="}\r\n'
        b'{"key": "two", "siblings": [{"value": "a"}, {"value": "b", "content_type": "x/y"}]}'
    )
    assert _import(fake, path)["written"] == 3
    assert _values(fake) == {
        b"text": ["ü\u2028".encode()],
        b"\xff\x00": [b"\x00\x01"],
        b"two": [b"a", b"b"],
    }
    assert _import(fake, path)["already_there"] == 3


def test_bad_lines_are_named(fake: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "records"
    bad = [
        (b"nonsense", "not JSON: Expecting value at column 1"),
        (b"[1]", 'a list where {"key"'),
        (b'{"value": "v"}', "no key (or key_base64)"),
        (b'{"key": "", "value": "v"}', "the key is empty"),
        (b'{"key": "k"}', "no value (or value_base64)"),
        (b'{"key": "k", "value": 7}', "value is 7; a string is needed"),
        (b'{"key": "k", "value_base64": "*"}', "value_base64 is not base64"),
        (b'{"key": "k", "value": "", "value_base64": ""}', "both value and value_base64"),
        (b'{"key": "\\ud800", "value": ""}', "key can't be written as UTF-8"),
        (b'{"key": "k", "value": "v", "content_type": "a\\nb"}', "content_type is"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b'{"key": "k", "siblings": []}', "at least one"),
    ]
    path.write_bytes(b'{"key": "good", "value": "v"}\n' + b"\n".join(line for line, _ in bad))
    result = _run(fake, "import", str(path))
    assert result.exit_code == 1
    assert f"1 written, 0 skipped (already there), 0 failed, {len(bad)} bad lines" in result.stdout
    said = [line for line in result.stderr.splitlines() if line.startswith("dynamo: line")]
    assert len(said) == 10
    for number, (line, (_, why)) in enumerate(zip(said, bad, strict=False), 2):
        assert line.startswith(f"dynamo: line {number}: ")
        assert why in line
    assert "... and 2 more" in result.stderr
    assert list(fake.store.objects) == [b"good"]


def test_the_last_of_several_lines_for_a_key_wins(fake: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(b"".join(_lines(3, f"v{n}") for n in range(40)))
    assert _import(fake, path)["written"] == 120
    assert _values(fake) == {b"k%d" % n: [b"v39"] for n in range(3)}


def test_blind_does_not_read(fake: FakeCluster, records: Path) -> None:
    _import(fake, records, "--blind")
    assert not any(r.method == "GET" for node in fake.nodes for r in node.requests)
    _import(fake, records, "--blind")
    assert _values(fake)[b"k0"] == [b"v", b"v"]


def test_a_refused_record_fails_alone(fake: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "records"
    path.write_bytes(_lines(2) + json.dumps({"key": "big", "value": "x" * 2**21}).encode())
    result = _import(fake, path, code=1)
    assert (result["written"], result["failed"]) == (2, 1)
    assert result["problems"][0]["line"] == 3
    assert "over 1048576 bytes" in result["problems"][0]["why"]


def test_nodes_that_fail_in_the_middle_cost_no_write(fake: FakeCluster, records: Path) -> None:
    records.write_bytes(_lines(1500))
    fake.nodes[1].faults.extend(["drop-after", "unavailable", "overloaded", "drop-before"] * 5)

    def kill_and_restart() -> None:
        deadline = time.monotonic() + 10
        while len(fake.store.objects) < 300 and time.monotonic() < deadline:
            time.sleep(0.005)
        fake.stop_node(2)
        while len(fake.store.objects) < 900 and time.monotonic() < deadline:
            time.sleep(0.005)
        fake.start_node(2)

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    result = _import(fake, records)
    killer.join()
    assert (result["written"], result["failed"]) == (1500, 0)
    assert _values(fake) == {b"k%d" % n: [b"v"] for n in range(1500)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("packed", [False, True])
def test_an_interrupted_import_goes_on(
    fake: FakeCluster, tmp_path: Path, how: signal.Signals, packed: bool
) -> None:
    path = tmp_path / "records"
    path.write_bytes(gzip.compress(_lines(700)) if packed else _lines(700))
    command = ["import", str(path), "--url", fake.urls[0], "--rate", "300"]
    with subprocess.Popen(
        [sys.executable, "-m", "dynamo_client.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores it, and so would whatever it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        checkpoint = Path(f"{path}.dynamo-import")
        deadline = time.monotonic() + 20
        while _position(checkpoint) < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        output, errors = process.communicate(timeout=20)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"interrupted: the same command goes on" in errors
        assert b" written, " in output
        assert b"Traceback" not in errors
    done = _position(checkpoint)
    assert done >= 100
    result = _run(fake, "import", str(path), "--json")
    assert result.exit_code == 0
    assert f"going on after line {done:,}" in result.stderr
    document = json.loads(result.stdout)
    assert document["skipped_lines"] == done
    assert document["records"] == 700 - done
    assert len(fake.store.objects) == 700
    assert not checkpoint.exists()


def _position(checkpoint: Path) -> int:
    try:
        line = json.loads(checkpoint.read_text())["line"]
    except FileNotFoundError:
        return 0
    return int(line)


def test_a_checkpoint_of_something_else_is_not_followed(
    fake: FakeCluster, records: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "here"
    options = ("--checkpoint", str(checkpoint))

    def interrupted() -> None:
        fake.store.objects.clear()
        from dynamo_client.cli.checkpoint import Checkpoint, save
        from dynamo_client.cli.source import Position, identity_of

        cluster = f"cart {fake.id}"
        at = Position(200, len(_lines(200)))
        save(checkpoint, Checkpoint(identity_of(str(records)), cluster, at))

    interrupted()
    assert _import(fake, records, *options)["written"] == 100
    interrupted()
    assert _import(fake, records, *options, "--no-resume")["written"] == 300
    interrupted()
    fake.id = "f" * 32  # wiped and made anew: what the first run wrote is gone
    result = _run(fake, "import", str(records), *options)
    assert "it went to another cluster" in result.stderr
    assert len(fake.store.objects) == 300
    interrupted()
    records.write_bytes(_lines(301))
    result = _run(fake, "import", str(records), *options)
    assert "records.jsonl has changed" in result.stderr
    assert len(fake.store.objects) == 301
    checkpoint.write_text("something else")
    result = _run(fake, "import", str(records), *options)
    assert result.exit_code == 2
    assert "is not a checkpoint" in result.stderr


def test_a_lost_cluster_stops_the_import_and_failed_lines_are_tried_again(
    fake: FakeCluster, records: Path
) -> None:
    for node in fake.nodes:
        node.fault_forever = "unavailable"
    result = _run(fake, "import", str(records), "--retry-seconds", "0.2")
    assert result.exit_code == 3
    assert "the cluster takes no more records: 1 of 2 replicas answered" in result.stderr
    assert "goes on after line 0" in result.stderr
    for node in fake.nodes:
        node.fault_forever = ""
    assert _import(fake, records)["written"] == 300


def test_progress_is_a_bar_on_a_terminal(fake: FakeCluster, records: Path) -> None:
    leader, follower = os.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "dynamo_client.cli", "import", str(records)],
            stdout=subprocess.PIPE,
            stderr=follower,
            env={**os.environ, "DYNAMO_URL": fake.urls[0], "TERM": "xterm"},
            timeout=30,
            check=False,
        )
        shown = os.read(leader, 100_000).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert ended.returncode == 0
    assert "import records.jsonl" in shown
    assert "%" in shown
    assert "300 written" in ended.stdout.decode()
