"""The command `dynamo-operator`: its options, and a whole process of it."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.operator.kube_fixtures import dynamo_cluster, until
from tests.operator.kube_world import KubeWorld

from dynamo_operator.kube import kinds, main
from dynamo_operator.kube.serving import Options

# The command with a reconciler that only says that it lives.
SCRIPT = """
import asyncio
from contextlib import asynccontextmanager
from dynamo_operator.kube import main

class Passes:
    async def run(self, namespace, name, uid, woken):
        print("pass", namespace, name, flush=True)
        await asyncio.Event().wait()

@asynccontextmanager
async def build(api, release):
    yield Passes()

main.builder = lambda **surroundings: build
main.main()
"""


def options_of(monkeypatch: pytest.MonkeyPatch, arguments: list[str], **environment: str) -> Any:
    """What the command would run with, or click's result if it doesn't run."""
    taken: list[tuple[Options, dict[str, Any]]] = []
    surroundings: dict[str, Any] = {}

    def builder(**given: Any) -> None:
        surroundings.update(given)

    async def run(options: Options, build: object) -> int:
        taken.append((options, surroundings))
        return 0

    monkeypatch.setattr(main, "_run", run)
    monkeypatch.setattr(main, "builder", builder)
    monkeypatch.setattr(main, "set_up", lambda style: None)
    result = CliRunner(env=environment).invoke(main.main, arguments)
    return taken[0] if taken else result


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    options, _ = options_of(
        monkeypatch,
        ["--namespace", "shop", "--namespace", "blog", "--node-image", "i", "--liveness-port", "9"],
    )
    assert options.namespaces == ("shop", "blog")
    assert options.lease_namespace == "shop"
    assert options.release.image == "i"
    assert options.liveness_port == 9
    assert options.resync_s == 15
    again, _ = options_of(monkeypatch, ["--cluster-wide", "--node-image", "i"])
    assert again.namespaces == ()
    assert again.identity != options.identity


def test_where_spans_go(monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines: list[Any] = []
    monkeypatch.setattr(main, "_pipeline", lambda options, tracing: pipelines.append(tracing))
    arguments = ["--cluster-wide", "--node-image", "i"]
    ours = {"DYNAMO_OPERATOR_TRACING_ENDPOINT": "", "DYNAMO_OPERATOR_TRACING_SAMPLE_RATIO": "1"}
    options_of(monkeypatch, arguments, **ours)
    options_of(monkeypatch, arguments, **ours, OTEL_EXPORTER_OTLP_ENDPOINT="http://other:4317")
    ours |= {"DYNAMO_OPERATOR_TRACING_ENDPOINT": "http://j:4318"}
    ours |= {"DYNAMO_OPERATOR_TRACING_SAMPLE_RATIO": "0.5"}
    _, given = options_of(monkeypatch, arguments, **ours)
    assert given["traced"].ratio == 0.5
    assert [(one.endpoint, one.sample_ratio) for one in pipelines[1:]] == [
        ("http://other:4317", 1.0),
        ("http://j:4318", 0.5),
    ]
    assert pipelines[0].endpoint == ""
    result = options_of(monkeypatch, [*arguments, "--tracing-endpoint", "j:4317"])
    assert result.exit_code == 2
    assert "tracing endpoint" in result.output


def test_options_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    options, surroundings = options_of(
        monkeypatch,
        [],
        DYNAMO_OPERATOR_NAMESPACES="shop blog",
        DYNAMO_OPERATOR_NODE_IMAGE="i",
        DYNAMO_OPERATOR_LEASE_NAMESPACE="dynamo-system",
        DYNAMO_OPERATOR_RESYNC_SECONDS="5",
        DYNAMO_OPERATOR_MONITOR_LABELS='{"release": "prometheus"}',
    )
    assert options.namespaces == ("shop", "blog")
    assert options.lease_namespace == "dynamo-system"
    assert options.resync_s == 5
    assert surroundings["monitors"] == {"release": "prometheus"}
    assert surroundings["peers"] == []
    assert surroundings["labels"] == {"app.kubernetes.io/name": "dynamo-operator"}


@pytest.mark.parametrize(
    ("text", "told"), [("{", "--admin-peers is no JSON"), ("{}", "--admin-peers must be a list")]
)
def test_what_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    arguments = ["--cluster-wide", "--node-image", "i", "--admin-peers", text]
    result = options_of(monkeypatch, arguments)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize("arguments", [[], ["--namespace", "a", "--cluster-wide"]])
def test_exactly_one_scope_is_to_be_given(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    result = options_of(monkeypatch, ["--node-image", "i", *arguments])
    assert result.exit_code == 2
    assert "either --cluster-wide or --namespace" in result.output


async def started(tmp_path: Path, world: KubeWorld, port: int) -> asyncio.subprocess.Process:
    kubeconfig = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": world.url}}],
        "users": [{"name": "x", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(kubeconfig))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT,
        "--cluster-wide",
        "--node-image=i",
        f"--liveness-port={port}",
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), "KUBECONFIG": str(tmp_path / "config")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_process_that_is_told_to_stop_hands_the_lease_over(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with KubeWorld().serving() as world, asyncio.timeout(60):
        world.add(dynamo_cluster())
        process = await started(tmp_path, world, unused_tcp_port)
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"pass shop cart\n"
            # kopf has the signals for a moment; they are ours again once it watches.
            await until(lambda: any(each.verb == "watch" for each in world.asked))
            process.send_signal(signal.SIGTERM)
            _, said = await process.communicate()
            assert process.returncode == 0, said.decode()
            lease = world.find(kinds.LEASE, "default", "dynamo-operator")
            assert lease is not None
            assert lease["spec"]["holderIdentity"] == ""
            lines = [json.loads(line) for line in said.splitlines()]
            assert [line for line in lines if line["level"] not in ("info",)] == []
            assert world.writes() == []
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_a_process_whose_lease_is_taken_ends_at_once(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with KubeWorld().serving() as world, asyncio.timeout(60):
        world.add(dynamo_cluster())
        process = await started(tmp_path, world, unused_tcp_port)
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"pass shop cart\n"
            changes = {"spec": {"holderIdentity": "thief"}}
            world.edit(kinds.LEASE, "default", "dynamo-operator", changes)
            _, said = await process.communicate()
            assert process.returncode == 3
            last = json.loads(said.splitlines()[-1])
            assert last["level"] == "critical"
            assert last["message"] == (
                "this process ends: lease default/dynamo-operator lost: thief holds it"
            )
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
