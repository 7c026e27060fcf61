"""End to end on this machine: `dynamo local` as a person would use it, through a bad day.

One cluster, one story: load records while a node is killed and restarted, read
every one back through each node, stop and start everything, and see that the
replicas are equal. Nothing here imports the product: it is used by its
commands and its HTTP interface alone.
"""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from e2e.local import DYNAMO, Local, local_cluster, until

RECORDS = 12_000
KILL_AT = 2_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local_cluster(tmp_path_factory.mktemp("local"), 3) as found:
        yield found


def _value(number: int) -> str:
    return f"value of {number} " * (1 + number % 20)


@pytest.mark.timeout(400)
def test_a_bad_day(cluster: Local) -> None:
    records = cluster.folder / "records.jsonl"
    with records.open("w") as file:
        for number in range(RECORDS):
            file.write(json.dumps({"key": f"key/{number}", "value": _value(number)}) + "\n")

    # A node dies and comes back in the middle of an import: nobody notices.
    importing = subprocess.Popen(
        [*DYNAMO, "import", "--json", str(records), "--url", cluster.http(0)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        until(lambda: cluster.admin(0, "/admin/status")["keys"] >= KILL_AT, "an import under way")
        cluster.local("kill", "local-default-1")
        until(
            lambda: sum(cluster.admin(0, "/admin/status")["hints_pending"].values()) > 0,
            "hints for the dead node",
        )
        cluster.local("start", "local-default-1")
        report = json.loads(importing.communicate(timeout=180)[0])
    finally:
        importing.kill()
        importing.wait()
    assert (report["written"], report["failed"]) == (RECORDS, 0)

    until(
        lambda: not any(cluster.admin(n, "/admin/status")["hints_pending"] for n in range(3)),
        "hints delivered",
    )
    _until_equal(cluster)
    _read_all(cluster)

    # A full stop and start: everything is still there.
    cluster.local("stop")
    with pytest.raises(urllib.error.URLError):
        cluster.admin(0, "/admin/status")
    cluster.up()
    _read_all(cluster)
    _until_equal(cluster)

    exported = cluster.folder / "export.jsonl"
    cluster.run("export", "-o", str(exported))
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {line["key"]: line["value"] for line in lines} == {
        f"key/{number}": _value(number) for number in range(RECORDS)
    }


def _until_equal(cluster: Local) -> None:
    def equal() -> bool:
        digests = [cluster.admin(n, "/admin/digest") for n in range(3)]
        return len(digests[0]) == 256 and digests[0] == digests[1] == digests[2]

    until(equal, "replicas equal")


def _read_all(cluster: Local) -> None:
    for node in range(3):
        for number in range(RECORDS) if node == 0 else range(node, RECORDS, 7):
            url = f"{cluster.http(node)}/kv/key%2F{number}"
            with urllib.request.urlopen(url) as answer:
                assert answer.read().decode() == _value(number), f"{url} lost its value"


def test_writes_go_on_with_two_of_three(cluster: Local) -> None:
    cluster.local("pause", "local-default-2")
    try:
        for number in range(20):
            if number % 10 == 0:
                cluster.run("put", f"paused:{number}", "taken")
            request = urllib.request.Request(
                f"{cluster.http(number % 2)}/kv/paused-{number}", data=b"taken", method="PUT"
            )
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 204
    finally:
        cluster.local("resume", "local-default-2")
    _until_equal(cluster)
    assert cluster.run("get", "paused:10").stdout == "taken"
    assert cluster.run("get", "nowhere", check=False).returncode == 1
