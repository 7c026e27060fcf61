"""export: every key once, readable by import, and a word about what may be missing."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster
from tests.client.real_cluster import RealCluster

from dynamo_client.cli import dynamo
from dynamo_client.sync import DynamoClient


def _run(fake: FakeCluster, *args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(dynamo, list(args), input=stdin, env={"DYNAMO_URL": fake.urls[0]})


def _import(fake: FakeCluster, path: Path | str, *args: str, code: int = 0) -> dict[str, Any]:
    result = _run(fake, "import", str(path), "--json", *args)
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _values(fake: FakeCluster) -> dict[bytes, list[bytes | None]]:
    return {
        key: [version.value for version in found.live()]
        for key, found in fake.store.objects.items()
    }


def test_export_and_import_are_inverse(fake: FakeCluster, tmp_path: Path) -> None:
    fake.page_keys_max = 3
    with DynamoClient(fake.urls) as kv:
        for number in range(100):
            kv.put(b"k%d" % number, b"%d" % number)
        kv.put(b"\xff", b"\x00\xff", content_type="image/png")
        kv.put("ü", b"one")
        kv.put("ü", b"two", content_type="text/plain")
        kv.put(b"gone", b"x")
        kv.delete(b"gone")
    before = _values(fake)
    path = tmp_path / "all.jsonl.gz"
    result = _run(fake, "export", "-o", str(path), "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["keys"], summary["with_siblings"], summary["complete"]) == (102, 1, True)
    on_stdout = _run(fake, "export")
    assert on_stdout.stdout_bytes == gzip.decompress(path.read_bytes())
    assert "102 keys" in on_stdout.stderr
    assert '"gone"' not in on_stdout.stdout
    fake.store.objects.clear()
    assert _import(fake, path)["written"] == 102
    del before[b"gone"]
    assert _values(fake) == before
    assert [p.name for p in tmp_path.iterdir()] == ["all.jsonl.gz"]


def test_export_pages_through_what_nodes_hold(
    cluster: FakeCluster | RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_client.cli.admin._PAGE_KEYS", 2)
    wanted = {f"export/{number}" for number in range(100)}
    with DynamoClient(cluster.urls) as kv:
        for key in wanted:
            kv.put(key, b"x", context=kv.get(key).context)
    result = CliRunner().invoke(dynamo, ["export", "--url", cluster.urls[1]])
    assert result.exit_code == 0, result.stderr
    keys = [json.loads(line).get("key") for line in result.stdout.splitlines()]
    assert {key for key in keys if key and key.startswith("export/")} == wanted
    text_keys = [key for key in keys if key]
    assert len(text_keys) == len(set(text_keys))


def test_export_says_what_may_be_missing(fake: FakeCluster, tmp_path: Path) -> None:
    with DynamoClient(fake.urls) as kv:
        for number in range(20):
            kv.put(b"k%d" % number, b"x")
    view = fake.view()
    view["nodes"][2]["admin"] = "http://127.0.0.1:9"
    fake.view = lambda: view  # type: ignore[method-assign]
    result = _run(fake, "export")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 20
    assert "cart-default-2 did not list its keys" in result.stderr
    for node in fake.nodes:
        node.fault_forever = "unavailable"
    path = tmp_path / "out"
    result = _run(fake, "export", "-o", str(path), "--timeout-ms", "1000")
    assert result.exit_code == 3
    assert "can't be read: 1 of 2 replicas answered" in result.stderr
    assert "19 more keys can't be read" in result.stderr
