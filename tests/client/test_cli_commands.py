"""get, put, delete, status, ring, and what the whole command promises: exit codes, one line."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster

from dynamo_client.cli import dynamo
from dynamo_client.sync import DynamoClient


def _run(fake: FakeCluster, *args: str, stdin: bytes | None = None) -> Result:
    environment = {"DYNAMO_URL": fake.urls[0]}
    return CliRunner().invoke(dynamo, list(args), input=stdin, env=environment)


def _process(*args: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "dynamo_client.cli", *args],
        capture_output=True,
        timeout=30,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def test_a_value_is_printed_as_it_is(fake: FakeCluster) -> None:
    assert _run(fake, "put", "k", "-", stdin=b"\x00\xff\n\n").exit_code == 0
    got = _run(fake, "get", "k")
    assert (got.exit_code, got.stdout_bytes, got.stderr) == (0, b"\x00\xff\n\n", "")


def test_put_replaces_what_it_read(fake: FakeCluster) -> None:
    for value in ("one", "two"):
        assert _run(fake, "put", "k", value).exit_code == 0
    assert _run(fake, "get", "k").stdout == "two"
    _run(fake, "put", "k", "three", "--blind")
    got = _run(fake, "get", "k")
    assert got.exit_code == 0
    assert got.stdout == "two\nthree\n"
    assert "2 siblings" in got.stderr
    done = _run(fake, "put", "k", "merged", "--json", "-v")
    assert "replaced 2 siblings" in done.stderr
    assert "acks: primary=2, standin=0" in done.stderr
    document = json.loads(done.stdout)
    assert document["acks"] == {"primary": 2, "standin": 0}
    assert _run(fake, "put", "k", "mine", "--context", document["context"]).exit_code == 0
    assert _run(fake, "get", "k", "--context", document["context"]).stdout == "mine"


def test_put_goes_on_without_its_read(fake: FakeCluster) -> None:
    _run(fake, "put", "k", "old")
    fake.nodes[0].faults.append("unavailable")
    done = _run(fake, "put", "k", "new")
    assert done.exit_code == 0
    assert "writing without a context" in done.stderr
    assert json.loads(_run(fake, "get", "k", "--json").stdout)["siblings"][1]["value"] == "new"


def test_json_of_a_get(fake: FakeCluster) -> None:
    _run(fake, "put", "k", "-", "--content-type", "image/png", stdin=b"\xff")
    document = json.loads(_run(fake, "get", "k", "--json").stdout)
    assert document["key"] == "k"
    assert document["found"] is True
    assert document["context"]
    (sibling,) = document["siblings"]
    assert sibling["value_base64"] == "/w=="
    assert sibling["content_type"] == "image/png"
    absent = _run(fake, "get", "none", "--json")
    assert absent.exit_code == 1
    assert json.loads(absent.stdout)["found"] is False


def test_delete(fake: FakeCluster) -> None:
    for options in ((), ("--blind",)):
        _run(fake, "put", "k", "x")
        assert _run(fake, "delete", "k", *options).exit_code == 0
        again = _run(fake, "delete", "k", *options)
        assert (again.exit_code, again.stdout) == (1, "")
        assert again.stderr == "dynamo: the key 'k' holds no value\n"


def test_keys_of_any_bytes(fake: FakeCluster) -> None:
    key = os.fsdecode(b"\xff/..")
    assert _run(fake, "put", key, "x").exit_code == 0
    assert _run(fake, "get", key).stdout == "x"
    assert b"\xff/.." in fake.store.objects


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("get", "none"), 1, "holds no value"),
        (("get", ""), 2, "the key is empty"),
        (("get", "k", "--r", "9"), 2, "r is 9; 1..3 is right"),
        (("get", "k", "--r", "0"), 2, "--r"),
        (("get",), 2, "KEY"),
        (("put", "k", "x", "--context", "bad"), 2, "context is not of this key"),
        (("put", "k", "x", "--context", "c", "--blind"), 2, "exclude each other"),
        (("get", "k", "--url", "ftp://x"), 2, "'ftp://x' is not one of a node"),
        (("get", "k", "--url", ","), 2, "no URL of a node"),
        (("get", "k", "--url", "http://127.0.0.1:9"), 3, "connection refused"),
        (("status", "--url", "http://127.0.0.1:9"), 3, "connection refused"),
        (("ring", "--partition", "16"), 2, "partitions 0..15"),
        (("ring", "--partition", "1", "--key", "k"), 2, "exclude each other"),
        (("stat",), 2, "did you mean status?"),
        (("nonsense",), 2, "there is no command 'nonsense'"),
        (("import", "/nowhere"), 2, "/nowhere can't be read: no such file"),
        (("import", "/"), 2, "is a folder"),
        (("import", "-", "--checkpoint", "x"), 2, "stdin can't be resumed"),
        (("export", "-o", "/nowhere/x"), 2, "/nowhere/x can't be written"),
    ],
)
def test_what_is_wrong_is_said(
    fake: FakeCluster, args: tuple[str, ...], code: int, says: str
) -> None:
    result = _run(fake, *args)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert result.stdout == ""


def test_quorum_not_met_is_exit_code_3(fake: FakeCluster) -> None:
    fake.nodes[0].fault_forever = "unavailable"
    result = _run(fake, "get", "k")
    assert (result.exit_code, result.stderr) == (3, "dynamo: 1 of 2 replicas answered\n")


def test_status_and_ring(fake: FakeCluster) -> None:
    _run(fake, "put", "k", "x")
    shown = _run(fake, "status").stdout
    assert shown.splitlines()[0].split() == [
        *("NAME", "ZONE", "STATE", "CAPACITY", "TOKENS", "OWNS", "KEYS", "HINTS", "HTTP")
    ]
    assert "cart: 3 of 3 nodes up; ring epoch 1 (settled), 16 partitions, 3 replicas" in shown
    assert json.loads(_run(fake, "status", "--json").stdout) == fake.view()
    ring = fake.ring()
    assert ring.id in _run(fake, "ring").stdout
    document = json.loads(_run(fake, "ring", "--json").stdout)
    assert (document["epoch"], document["id"], document["n"]) == (1, ring.id, 3)
    assert sum(node["tokens"] for node in document["nodes"]) == 16
    place = json.loads(_run(fake, "ring", "--key", "k", "--json").stdout)
    partition = place["partition"]
    assert place["position"] == "8ce4b16b22b58894aa86c421e8759df3"
    assert partition == 8
    names = [ring.member(number).name for number in ring.preference_list(partition)]
    assert place["preference_list"] == names
    assert names[0] in _run(fake, "ring", "--partition", str(partition)).stdout


def test_ring_without_an_admin_port(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    view = fake.view()
    for node in view["nodes"]:
        node["admin"] = "http://127.0.0.1:9"
    monkeypatch.setattr(fake, "view", lambda: view)
    result = _run(fake, "ring")
    assert result.exit_code == 0
    assert "cart-default-2" in result.stdout
    assert "can't be had from an admin port" in result.stderr
    assert _run(fake, "ring", "--key", "k").exit_code == 3


def test_help_is_quick_and_knows_commands_of_others() -> None:
    shown = _process("--help").stdout.decode()
    for name in (
        "local",
        "get",
        "put",
        "delete",
        "import",
        "export",
        "status",
        "ring",
        "transfers",
    ):
        assert f"\n  {name} " in shown
    assert min(_core_seconds(lambda: _process("--help")) for _ in range(3)) < 0.5  # 0.15 s
    loaded = _process_code("import sys, dynamo_client.cli; print(*sys.modules)").split()
    assert not {"aiohttp", "rich", "asyncio"} & set(loaded)


def test_a_command_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynamo_client.cli.entry_points", lambda **_: ())
    result = CliRunner().invoke(dynamo, ["local", "up", "--detach"])
    assert result.exit_code == 2
    assert "pip install 'dynamo-store[operator]'" in result.stderr


def test_no_traceback_at_a_broken_pipe(fake: FakeCluster) -> None:
    with DynamoClient(fake.urls) as kv:
        kv.put(b"big", bytes(1024 * 1024))
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "dynamo_client.cli", "get", "big", "--url", fake.urls[0]],
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == b""


def _process_code(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=30, check=True, text=True
    ).stdout


def _core_seconds(work: Callable[[], object]) -> float:
    """What the processes that it starts and waits for take of a core, whoever else is at work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
