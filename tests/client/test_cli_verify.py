"""dynamo verify: a store that keeps its promises passes, one that doesn't is told on."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster
from tests.client.fake_store import Version
from tests.client.real_cluster import RealCluster, why_no_real_cluster

from dynamo_client.cli import dynamo
from dynamo_client.cli.trial import Trial
from dynamo_client.client import Protocol
from dynamo_client.errors import DynamoClientError
from dynamo_core.history import ACKNOWLEDGED, PUT, History, Operation


def _verify(url: str, *args: str) -> Result:
    few = ("--duration", "0.6", "--keys", "6", "--settle", "0")
    return CliRunner().invoke(dynamo, ["verify", *few, *args], env={"DYNAMO_URL": url})


def _verify_until(enough: Callable[[Result], bool], url: str, *args: str) -> Result:
    """For longer and longer, until there was enough to judge: how much a second holds varies."""
    for seconds in (0.6, 2, 8, 30):
        result = _verify(url, *args, "--duration", str(seconds))
        if enough(result):
            break
    return result


def _document(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_good_store_passes(cluster: FakeCluster | RealCluster, protocol: Protocol) -> None:
    def enough(result: Result) -> bool:
        if result.exit_code != 0:
            return True  # and more than enough
        counts = _document(result)["counts"]
        return bool(counts["acknowledged"] > 20 and counts["floors"] > 5)

    args = ("--json", "--protocol", protocol, "--seed", "7")
    began = time.time()
    result = _verify_until(enough, cluster.urls[0], *args)
    assert result.exit_code == 0, result.output
    found = _document(result)
    assert found["ok"]
    assert found["violations"] == found["unchecked"] == found["lacking"] == []
    assert found["seed"] == 7
    assert (found["failed_requests"], found["failures"]) == (0, {})
    assert began <= found["started_at"] <= time.time()
    assert sum(each["operations"] for each in found["timeline"]) > 20
    assert {each["failed"] for each in found["timeline"]} == {0}
    counts = found["counts"]
    assert counts["acknowledged"] > 20
    assert counts["floors"] > 5
    assert counts["echoes"] == counts["stale reads"] == 0


def test_a_cluster_where_the_last_write_wins_is_not_accused(tmp_path: Path) -> None:
    if why_not := why_no_real_cluster():
        pytest.skip(why_not)
    real = RealCluster(tmp_path, reconciliation="lastWriteWins")
    try:
        real.start()
        result = _verify(real.urls[0])
        assert result.exit_code == 2, result.output
        assert "reconciliation is lastWriteWins" in result.stderr
    finally:
        real.close()


def test_for_people(fake: FakeCluster) -> None:
    result = _verify(fake.urls[0], "--protocol", "http")
    assert result.exit_code == 0, result.output
    assert "every promise kept" in result.stdout
    assert "seed " in result.stderr


def test_a_kept_history_is_judged_again(fake: FakeCluster, tmp_path: Path) -> None:
    path = str(tmp_path / "run.jsonl")
    done = _verify(fake.urls[0], "--protocol", "http", "--history", path, "--json")
    assert done.exit_code == 0, done.output
    again = _verify("http://127.0.0.1:1", "--check", path, "--json")
    assert again.exit_code == 0, again.output
    for field in ("counts", "load_s", "timeline_width_s", "timeline"):
        assert _document(again)[field] == _document(done)[field]
    assert "started_at" not in _document(again)
    with Path(path).open("a") as file:
        file.write("lunch\n")
    damaged = _verify("http://127.0.0.1:1", "--check", path)
    assert damaged.exit_code == 2
    assert "is no record of a history" in damaged.stderr


def _loses(fake: FakeCluster) -> None:
    """Every tenth write is acknowledged and forgotten."""
    write, count = fake.store.write, 0

    def lossy(key: bytes, *args: Any) -> str:
        nonlocal count
        count += 1
        token = write(key, *args)
        if count % 10 == 0:
            fake.store.objects[key].versions.popitem()
        return token

    fake.store.write = lossy  # type: ignore[method-assign]


def _resurrects(fake: FakeCluster) -> None:
    """Nothing that was written ever goes."""
    write = fake.store.write

    def keeping(key: bytes, *args: Any) -> str:
        held = fake.store.objects.get(key)
        before: dict[int, Version] = dict(held.versions) if held else {}
        token = write(key, *args)
        after = fake.store.objects[key].versions
        after.update(list(before.items())[-3:])
        return token

    fake.store.write = keeping  # type: ignore[method-assign]


def _context_is_the_stored_clock(fake: FakeCluster) -> None:
    write = fake.store.write

    def covering(key: bytes, *args: Any) -> str:
        write(key, *args)
        return fake.store.token(key, fake.store.objects[key].seen)

    fake.store.write = covering  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "promises"),
    [(_loses, {"a", "c"}), (_resurrects, {"b", "c", "e"}), (_context_is_the_stored_clock, {"a"})],
)
def test_a_bad_store_is_told_on(fake: FakeCluster, spoil: Any, promises: set[str]) -> None:
    spoil(fake)
    args = ("--protocol", "http", "--json", "--keys", "15", "--seed", "3")

    def told_on(result: Result) -> bool:
        found = {violation["promise"] for violation in _document(result)["violations"]}
        return result.exit_code == 1 and promises <= found

    result = _verify_until(told_on, fake.urls[0], *args)
    assert told_on(result), result.output


def test_a_lost_write_is_told_with_its_author(tmp_path: Path) -> None:
    history = History(healed_at=1.0)
    history.operations += [
        Operation(
            id="w1", op=PUT, client="c3", session="c3.2", key="k", outcome=ACKNOWLEDGED,
            invoked=0.1, returned=0.2,
        ),
        Operation(
            id="g1", op="get", client="reader 0", key="k", outcome=ACKNOWLEDGED,
            invoked=1.5, returned=1.6,
        ),
    ]  # fmt: skip
    path = tmp_path / "lost.jsonl"
    path.write_text("\n".join(history.lines()))
    result = _verify("http://127.0.0.1:1", "--check", str(path))
    assert result.exit_code == 1
    assert "put w1 of key k by c3 (session c3.2), 0.100..0.200" in result.stdout
    assert "1 promises broken" in result.stdout


def test_a_cluster_that_is_not_whole(fake: FakeCluster) -> None:
    fake.stop_node(2)
    result = _verify(fake.urls[0], "--protocol", "http", "--json")
    assert result.exit_code == 3, result.output
    assert _document(result)["lacking"] == ["cart-default-2 is suspect"]
    assert "isn't whole" in result.stderr


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_load_that_is_stopped_is_judged(
    fake: FakeCluster, end: signal.Signals, twice: bool
) -> None:
    """As by Ctrl-C, or by kubectl exec ... kill when enough has been seen; twice ends at once."""
    if twice:
        fake.stop_node(2)  # so that it waits for a cluster that is whole, and hears the second one
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "dynamo_client.cli", "verify", "--duration", "3600"),
            *(
                "--protocol",
                "http",
                "--url",
                fake.urls[0],
                "--settle",
                "600" if twice else "0",
                "--json",
            ),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    try:
        assert process.stderr is not None
        while "operations" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(end)
        if twice:
            while "stopped" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(end)
            process.communicate(timeout=60)
            assert process.returncode == 128 + end
            return
        said, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "stopped" in told
    assert json.loads(said)["counts"]["acknowledged"] > 0


def test_the_rate_is_kept(fake: FakeCluster) -> None:
    args = ("--protocol", "http", "--json", "--duration", "2", "--concurrency", "2", "--rate", "8")
    counts = _document(_verify(fake.urls[0], *args))["counts"]
    assert 0 < counts["writes"] <= 2 * 8 + 2  # what is read in the end is beside it


class _Refusing:
    """A cluster in trouble: every request fails at once."""

    def __getattr__(self, _: str) -> Callable[..., Any]:
        async def refuse(*_: Any, **__: Any) -> Any:
            raise DynamoClientError("no")

        return refuse


async def test_what_fails_is_not_repeated_faster_than_the_rate() -> None:
    trial = Trial(cast("Any", _Refusing()), prefix="x", keys=4, concurrency=8, pace_s=1.0)
    await trial.run(2.0)
    assert 8 <= trial.done <= 3 * 8
    assert sum(operation.failed for operation in trial.history.operations) == trial.failures
    assert sum(trial.reasons.values()) == trial.failures
    assert {"get no answer", "put no answer"} & set(trial.reasons), trial.reasons


async def test_a_slow_load_stops_at_once() -> None:
    trial = Trial(cast("Any", _Refusing()), prefix="x", keys=4, concurrency=1, pace_s=3600.0)
    asyncio.get_running_loop().call_later(0.1, trial.stop)
    async with asyncio.timeout(60):
        await trial.run(3600.0)
    assert trial.done == 1


def test_nobody_there() -> None:
    assert _verify("http://127.0.0.1:1").exit_code == 3
