"""The operator's spans, at a real receiver: one trace for each operation, and none without one."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.operator.kube_direct import Died, direct_api
from tests.operator.kube_fixtures import operator, until
from tests.operator.kube_play import Loopback, Play, _plain, playing
from tests.telemetry.receivers import Received, Span, grpc_receiver

from dynamo_operator.kube import kinds
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.errors import KubeError, Unreachable
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.kube.logs import _Json
from dynamo_operator.kube.observing import Observer
from dynamo_operator.kube.reconcile import ClusterPasses, builder
from dynamo_operator.kube.telling import Teller
from dynamo_operator.kube.tracing import Traced
from dynamo_telemetry.contexts import SpanContext
from dynamo_telemetry.endpoints import Tracing
from dynamo_telemetry.pipeline import Pipeline, Service

SERVICE = Service("dynamo-operator", "one", "1.0.0")


@dataclass
class Scene:
    """A play whose operator sends its spans to `received`."""

    play: Play
    pipeline: Pipeline
    received: Received

    async def spans(self) -> list[Span]:
        """All that there are so far."""
        await until(lambda: self.pipeline.facts()["waiting"] == 0)
        return list(self.received.spans)

    async def roots(self) -> list[Span]:
        return [one for one in await self.spans() if not one.parent_id]

    async def tree(self, root: Span) -> dict[str, list[Span]]:
        """By name, what belongs to that root: every span has its parent there."""
        await self.spans()
        found = self.received.trace(root.trace_id)
        ids = {one.span_id for one in found}
        assert [one.name for one in found if one.parent_id and one.parent_id not in ids] == []
        for one in found:
            assert root.start_ns <= one.start_ns <= one.end_ns <= root.end_ns, one
        return {name: [s for s in found if s.name == name] for name in {s.name for s in found}}


@asynccontextmanager
async def traced(ratio: float = 1.0) -> AsyncIterator[Scene]:
    with grpc_receiver() as received:
        pipeline = Pipeline(SERVICE, Tracing(received.endpoint, ratio))
        try:
            async with playing(traced=Traced(pipeline, ratio)) as play:
                yield Scene(play, pipeline, received)
        finally:
            pipeline.close(5)


def trace_of(play: Play) -> SpanContext:
    found = SpanContext.from_header(play.status["operation"]["trace"]["traceparent"])
    assert found is not None
    return found


async def test_a_scale_up_is_one_trace_from_the_edit_until_all_has_moved() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        (created,) = await scene.roots()
        assert created.name == "operation.Create"
        play.joined.clear()
        play.speed = 4  # slots in each turn: it takes some passes
        play.edit({"replicas": 5})
        await play.until_settled()
        assert "operation" not in play.status
        _, root = await scene.roots()
        assert root.name == "operation.ScaleUp"
        assert root.trace_id != created.trace_id
        assert root.attributes == {
            "k8s.namespace.name": "shop",
            "dynamo.cluster": "cart",
            "dynamo.generation": play.applied["metadata"]["generation"],
            "dynamo.operation.kind": "ScaleUp",
            "dynamo.outcome": "settled",
            "dynamo.ring.epoch": play.ring.epoch,
        }
        tree = await scene.tree(root)
        passes = tree["reconcile"]
        assert all(one.parent_id == root.span_id for one in passes)
        assert len(passes) > 2
        # Each step below its pass, each write below its step.
        (scaled,) = tree["step.ScaleSet"]
        assert scaled.parent_id in {one.span_id for one in passes}
        assert scaled.attributes["dynamo.step.target"] == "cart-default"
        assert scaled.attributes["dynamo.outcome"] == "done"
        (write,) = (s for s in scene.received.children(scaled) if s.name == "api.patch")
        assert write.attributes["dynamo.api.kind"] == "StatefulSet"
        assert write.attributes["http.response.status_code"] == 200
        (decided,) = tree["step.DecideRing"]
        assert [s.attributes["dynamo.api.name"] for s in scene.received.children(decided)] == [
            "cart-ring"
        ]
        assert {s.attributes["dynamo.step.target"] for s in tree["step.PostRing"]} <= set(
            play.pods()
        )
        posts = tree["node.post_ring"]
        assert {s.parent_id for s in posts} <= {s.span_id for s in tree["step.PostRing"]}
        assert {s.kind for s in posts} == {"client"}
        assert {s.parent_id for s in tree["node.status"]} == {s.span_id for s in tree["observe"]}
        assert {s.parent_id for s in tree["api.apply_status"]} <= {s.span_id for s in passes}
        assert {s.attributes["dynamo.outcome"] for s in tree["step.AwaitMoves"]} == {"waits"}
        # What nodes do because of it can join.
        told = [SpanContext.from_header(one) for one in play.joined["POST /admin/ring"]]
        assert {(one.trace_hex, f"{one.span_id:016x}") for one in told if one} == {
            (one.trace_id, one.span_id) for one in posts
        }


async def test_an_operator_that_begins_anew_goes_on_with_the_trace() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        play.speed = 2
        play.edit({"replicas": 4})
        await play.until(lambda: play.ring.epoch == 2)
        wanted = trace_of(play)
        play.restart()
        await play.turn()
        assert trace_of(play) == wanted
        for _ in range(3):
            play.restart()
            await play.turn()
        await play.until_settled()
        _, root = await scene.roots()
        assert (root.trace_id, root.span_id) == (wanted.trace_hex, f"{wanted.span_id:016x}")
        assert root.attributes["dynamo.operation.kind"] == "ScaleUp"
        await scene.tree(root)


async def test_operators_that_die_after_each_write_send_each_root_once() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        play.edit({"replicas": 4})
        for _ in range(100):
            api, play.mortal = direct_api(play.world, dies_after=2, lost=True)
            try:
                while await play.turn(api) != float("inf"):
                    pass
                break
            except Died:
                pass
        play.mortal = None
        await play.until_settled()
        roots = await scene.roots()
        assert len({one.span_id for one in roots}) == len(roots) <= 2
        assert "operation" not in play.status


async def test_a_quiet_cluster_is_quiet() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        before = len(await scene.spans())
        for _ in range(5):
            await play.turn()
        play.restart()
        await play.turn()
        assert len(await scene.spans()) == before


async def until_moves_stand_still(play: Play) -> None:
    """A scale-up has come to its moves, and nothing moves."""
    play.apply(replicas=3)
    await play.until_settled()
    play.speed = 0
    play.edit({"replicas": 4})
    await play.until(lambda: "have moved" in play.status.get("operation", {}).get("step", ""))


async def test_passes_that_only_wait_are_left_out() -> None:
    async with traced() as scene:
        play = scene.play
        await until_moves_stand_still(play)
        before = len(await scene.spans())
        for _ in range(5):
            await play.turn()
        assert len(await scene.spans()) == before
        play.speed = 100
        await play.until_settled()
        _, root = await scene.roots()
        assert root.attributes["dynamo.outcome"] == "settled"
        # But how long it was is told, by one span.
        tree = await scene.tree(root)
        (wait,) = tree["wait.Moves"]
        assert wait.parent_id == root.span_id
        assert wait.end_ns > max(one.end_ns for one in tree["step.AwaitMoves"])


async def test_passes_that_wait_for_what_stands_still_are_left_out() -> None:
    """The status says behind the step what stands still: that is no other step."""
    async with traced() as scene:
        play = scene.play
        await until_moves_stand_still(play)
        still = {"bytes_done": 1, "bytes_total": 9, "bytes_per_second": 0, "stalled": "it is busy"}
        name = "cart-default-3"
        play.nodes[name].transfers = [{"from": "cart-default-0", "to": name, **still}]
        await play.turn()
        assert "it is busy" in play.status["operation"]["step"]
        before = len(await scene.spans())
        for _ in range(3):
            await play.turn()
        assert len(await scene.spans()) == before


async def test_an_older_definition_costs_the_note_and_no_pass(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Server-side apply refuses the whole status for a field that isn't declared."""
    apply_status, refusals = Api.apply_status, 0

    async def older(
        self: Api, kind: Kind, namespace: str, name: str, uid: str, status: dict[str, Any]
    ) -> None:
        nonlocal refusals
        if "trace" in status.get("operation", {}):
            refusals += 1
            raise Unreachable(".status.operation.trace: field not declared in schema (HTTP 500)")
        await apply_status(self, kind, namespace, name, uid, status)

    monkeypatch.setattr(Api, "apply_status", older)
    async with traced() as scene:
        play, (api, _) = scene.play, direct_api(scene.play.world)
        play.apply(replicas=3)
        passes = ClusterPasses(api, play._surroundings(), Loopback(play), traced=play.traced)
        owner, teller = play._owner(), Teller(api, play._owner())
        tracing = play.traced.cluster(owner)
        observer = Observer(api, play._surroundings(), Loopback(play))
        for _ in range(3):
            await passes._pass(owner, observer, teller, tracing)
            assert play.status["operation"]["step"]
        await observer.close()
        assert refusals == 1, "then it is known"
        assert "the installed definition is too old" in caplog.text


class Broken:
    """In the place of a pipeline."""

    def record(self, *told: object, **more: object) -> None:
        raise RuntimeError("as the test wants it")


async def test_what_goes_wrong_in_tracing_costs_no_pass() -> None:
    async with playing(traced=Traced(Broken(), 1.0)) as play:
        play.apply(replicas=3)
        await play.until_settled()
        play.edit({"replicas": 4})
        await play.until_settled()
        assert "operation" not in play.status


async def test_another_edit_begins_another_trace_that_names_the_first() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        play.speed = 0
        play.edit({"replicas": 5})
        await play.until(lambda: play.ring.epoch == 2)
        play.speed = 100
        play.edit({"replicas": 4})
        await play.until_settled()
        _, first, second = await scene.roots()
        assert first.attributes["dynamo.outcome"] == "superseded"
        assert second.attributes["dynamo.outcome"] == "settled"
        linked = [s for s in scene.received.trace(second.trace_id) if s.links]
        assert [s.links for s in linked] == [[(first.trace_id, first.span_id)]]


async def test_what_fails_is_told_once_and_belongs_to_the_operation() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        play.edit({"replicas": 4})
        await play.settle()
        api, _ = direct_api(play.world)
        passes = ClusterPasses(api, play._surroundings(), Loopback(play), traced=play.traced)
        for _ in range(3):
            play.world.fail("patch", kinds.STATEFUL_SET, code=500)
            with pytest.raises(KubeError):
                await passes.run("shop", "cart", play.applied["metadata"]["uid"], asyncio.Event())
        await play.until_settled()
        _, root = await scene.roots()
        tree = await scene.tree(root)
        failed = [one for one in tree["reconcile"] if one.error]
        assert [one.attributes["error.type"] for one in failed] == ["Unreachable"]
        (write,) = (one for one in tree["api.patch"] if one.error)
        assert write.attributes["http.response.status_code"] == 500


async def test_what_is_left_out_of_the_sample_is_left_out_everywhere() -> None:
    async with traced(ratio=0.0) as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        assert await scene.spans() == []
        told = [SpanContext.from_header(one) for one in play.joined["POST /admin/ring"]]
        assert told
        assert not any(one is None or one.sampled for one in told)


async def test_without_a_collector_nothing_is_noted() -> None:
    async with playing() as play:
        play.apply(replicas=3)
        await play.turn()
        assert "trace" not in play.status["operation"]
        await play.until_settled()
        assert set(play.joined["POST /admin/ring"]) == {""}


async def test_a_dead_collector_is_not_waited_for() -> None:
    with socket.socket() as deaf:  # takes connections, and never says a word
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        pipeline = Pipeline(SERVICE, Tracing(f"grpc://127.0.0.1:{deaf.getsockname()[1]}", 1.0))
        try:
            async with playing(traced=Traced(pipeline)) as play:
                play.apply(replicas=3)
                await play.until_settled()
                play.edit({"replicas": 4})
                await play.until_settled()
                assert pipeline.facts()["sent"] == 0
                assert pipeline.facts()["waiting"] + pipeline.facts()["failed"] > 0
        finally:
            pipeline.close(0.1)


async def test_the_process_by_itself_and_no_secret_anywhere(
    unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(_Json())
    lines: list[str] = []
    shown = logging.Handler()
    shown.setFormatter(_Json())
    shown.emit = lambda record: lines.append(shown.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("dynamo_operator")
    logger.addHandler(shown)
    caplog.set_level(logging.DEBUG)
    try:
        async with traced() as scene:
            play = scene.play
            build = builder(
                namespace="dynamo-system",
                labels={"app.kubernetes.io/name": "dynamo-operator"},
                network=Loopback(play),
                traced=play.traced,
            )
            async with operator(play.world, unused_tcp_port, build=build, resync_s=5.0) as running:
                play.apply(replicas=3)
                await play.by_itself(lambda: play.status and play.condition("Available")[0])
                await play.by_itself(lambda: play.condition("Progressing")[1] == "Settled")
                play.edit({"replicas": 4})
                await play.by_itself(
                    lambda: (
                        play.status["nodesReady"] == 4
                        and play.condition("Progressing")[1] == "Settled"
                    )
                )
                await play.by_itself(lambda: len(scene.received.named("operation.ScaleUp")) == 1)
                secrets = {
                    text
                    for name in ("cart-admin", "cart-identity")
                    for text in _secret_parts(play, name)
                }
                assert await running.end() == 0
            spans = await scene.spans()
            (root,) = scene.received.named("operation.ScaleUp")
            await scene.tree(root)
    finally:
        logger.removeHandler(shown)
    told = [json.loads(line) for line in lines]
    assert root.trace_id in {one.get("trace_id") for one in told}
    assert len(secrets) > 2
    text = "\n".join(
        [*lines, *map(repr, spans), caplog.text, json.dumps(play.world.all(kinds.EVENT))]
    )
    assert not [one for one in secrets if one in text]


def _secret_parts(play: Play, name: str) -> list[str]:
    """What of a Secret nobody may read anywhere else: the texts that only keys are long enough
    for, but for the cluster's id."""
    held = play.world.find(kinds.SECRET, "shop", name)
    assert held is not None
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                if key != "id":
                    walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)
        elif isinstance(value, str) and len(value) >= 20:
            found.append(value)

    for text in _plain(held).values():
        try:
            walk(json.loads(text))
        except ValueError:
            walk(text)
    found += list(held.get("data", {}).values())
    return found


async def test_an_operation_begins_with_the_edit_that_the_api_server_has_dated() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.until_settled()
        play.edit({"replicas": 4}, managedFields=[
            {"manager": "kubectl", "time": "2024-01-01T00:00:00Z"},
            {"manager": "kubectl", "time": "2024-01-02T00:00:00Z", "subresource": "scale"},
            {"manager": "dynamo-operator", "time": "2024-01-03T00:00:00Z", "subresource": "status"},
        ])  # fmt: skip
        await play.turn()
        assert play.status["operation"]["trace"]["startedAt"] == "2024-01-02T00:00:00.000000Z"
        await play.until_settled()
        _, root = await scene.roots()
        assert root.start_ns == 1_704_153_600_000_000_000


async def test_a_deleted_cluster_ends_its_operation() -> None:
    async with traced() as scene:
        play = scene.play
        play.apply(replicas=3)
        await play.turn()
        play.world.edit(
            kinds.DYNAMO_CLUSTER, "shop", "cart", {"metadata": {"finalizers": ["example.com/x"]}}
        )
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        assert await play.turn() is None
        (root,) = await scene.roots()
        assert root.attributes["dynamo.outcome"] == "deleted"
