"""The operator's shell as a whole: kopf in this process against an emulated API server."""

import asyncio
import getpass
from collections.abc import AsyncIterator

import pytest
from tests.operator.kube_fixtures import Passes, dynamo_cluster, operator, told, until
from tests.operator.kube_world import KubeWorld

from dynamo_operator.kube import kinds
from dynamo_operator.kube.names import CLUSTER_LABEL


@pytest.fixture
async def world() -> AsyncIterator[KubeWorld]:
    async with KubeWorld().serving() as serving:
        serving.grant()
        yield serving


async def test_a_cluster_from_its_appearance_to_its_end(
    world: KubeWorld, unused_tcp_port: int
) -> None:
    old = world.add(dynamo_cluster("old"))["metadata"]["uid"]
    async with operator(world, unused_tcp_port) as running:
        passes = running.passes
        await until(lambda: passes.passes.get(old))
        uid = world.add(dynamo_cluster())["metadata"]["uid"]
        await until(lambda: passes.passes.get(uid))
        before = passes.passes[uid]
        world.edit(kinds.DYNAMO_CLUSTER, "shop", "cart", {"spec": {"replicas": 5}})
        await until(lambda: passes.passes[uid] > before)
        world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        await until(lambda: passes.ended == [uid])
        again = world.add(dynamo_cluster())["metadata"]["uid"]
        await until(lambda: passes.passes.get(again))
        assert [each[2] for each in passes.started] == [old, uid, again]
        assert passes.ended == [uid]
        assert await running.end() == 0
    # Nothing was written by kopf or by anything else in the shell, and nothing read in vain.
    assert world.writes() == []
    assert {each.kind for each in world.asked} == {
        kinds.DYNAMO_CLUSTER,
        kinds.LEASE,
        *kinds.CHILDREN,
    }
    for each in world.asked:
        assert each.kind not in kinds.CHILDREN or each.query["labelSelector"] == CLUSTER_LABEL
    assert {each.code for each in world.asked} <= {200, 201, 404}
    for body in world.all(kinds.DYNAMO_CLUSTER):
        assert not {"finalizers", "annotations"} & body["metadata"].keys()
        assert "status" not in body


@pytest.mark.parametrize("kind", kinds.CHILDREN, ids=lambda kind: kind.plural)
async def test_what_belongs_to_a_cluster_wakes_its_task_and_no_other(
    world: KubeWorld, unused_tcp_port: int, kind: kinds.Kind
) -> None:
    cart = world.add(dynamo_cluster())["metadata"]["uid"]
    other = world.add(dynamo_cluster("other"))["metadata"]["uid"]
    elsewhere = world.add(dynamo_cluster("cart", "elsewhere"))["metadata"]["uid"]
    async with operator(world, unused_tcp_port) as running:
        passes = running.passes
        await until(lambda: len(passes.passes) == 3)
        before = dict(passes.passes)
        metadata = {"name": "x", "namespace": "shop", "labels": {CLUSTER_LABEL: "cart"}}
        unlabelled = {"name": "y", "namespace": "shop"}
        for each in (unlabelled, metadata):
            body = {"kind": kind.name, "metadata": each, "spec": {}}
            if kind == kinds.CLAIM:
                body["spec"] = {"resources": {"requests": {"storage": "1Gi"}}}
            world.store.create(kind, body)
        await until(lambda: passes.passes[cart] > before[cart])
        created = passes.passes[cart]
        world.edit(kind, "shop", "x", {"metadata": {"annotations": {"changed": "yes"}}})
        await until(lambda: passes.passes[cart] > created)
        edited = passes.passes[cart]
        world.remove(kind, "shop", "x")
        await until(lambda: passes.passes[cart] > edited)
        assert passes.passes[other] == before[other]
        assert passes.passes[elsewhere] == before[elsewhere]
    assert world.writes() == []


async def test_a_user_without_a_name_will_do(
    world: KubeWorld, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the image, whose user is a number that no file knows: kopf asked for its name."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", nameless)
    uid = world.add(dynamo_cluster())["metadata"]["uid"]
    async with operator(world, unused_tcp_port) as running:
        passes = running.passes
        await until(lambda: passes.passes.get(uid))


async def test_a_finalizer_that_another_operator_of_kopf_has_set_is_left_alone(
    world: KubeWorld, unused_tcp_port: int
) -> None:
    marker = "kopf.zalando.org/KopfFinalizerMarker"
    body = dynamo_cluster()
    body["metadata"]["finalizers"] = [marker]
    uid = world.add(body)["metadata"]["uid"]
    metadata = {"name": "x", "namespace": "shop", "labels": {CLUSTER_LABEL: "cart"}}
    world.add({"kind": "ConfigMap", "metadata": {**metadata, "finalizers": [marker]}})
    async with operator(world, unused_tcp_port) as running:
        passes = running.passes
        await until(lambda: passes.passes.get(uid))
        world.remove(kinds.CONFIG_MAP, "shop", "x")
        # An object that is being deleted is nobody's to manage any more, whoever holds it.
        world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        await until(lambda: passes.ended == [uid])
        other = world.add(dynamo_cluster("other"))["metadata"]["uid"]
        await until(lambda: passes.passes.get(other))
    assert world.writes() == []
    assert world.store.get(kinds.CONFIG_MAP, "shop", "x")["metadata"]["finalizers"] == [marker]


async def test_single_namespaces(world: KubeWorld, unused_tcp_port: int) -> None:
    world.grant(cluster_wide=False)
    shop = world.add(dynamo_cluster())["metadata"]["uid"]
    blog = world.add(dynamo_cluster("posts", "blog"))["metadata"]["uid"]
    world.add(dynamo_cluster("cart", "elsewhere"))
    async with operator(world, unused_tcp_port, namespaces=("shop", "blog")) as running:
        passes = running.passes
        await until(lambda: len(passes.passes) == 2)
        body = {
            "kind": "ConfigMap",
            "metadata": {"name": "x", "namespace": "blog", "labels": {CLUSTER_LABEL: "posts"}},
        }
        before = passes.passes[blog]
        world.add(body)
        await until(lambda: passes.passes[blog] > before)
        assert {each[2] for each in passes.started} == {shop, blog}
    assert {each.namespace for each in world.asked} == {"shop", "blog", "dynamo-system"}


async def test_watches_that_end_or_are_too_old_lose_nothing(
    world: KubeWorld, unused_tcp_port: int
) -> None:
    uid = world.add(dynamo_cluster())["metadata"]["uid"]
    async with operator(world, unused_tcp_port, resync_s=0.5) as running:
        passes = running.passes
        await until(lambda: passes.passes.get(uid))
        world.drop_watches()
        new = world.add(dynamo_cluster("new"))["metadata"]["uid"]
        await until(lambda: passes.passes.get(new))
        # The deletion falls into a gap that the watch doesn't bridge: kopf lists anew, and
        # never tells of what is not there any more. The audit finds out.
        world.drop_watches()
        world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        world.forget_history()
        await until(lambda: passes.ended == [uid])
        newer = world.add(dynamo_cluster("newer"))["metadata"]["uid"]
        await until(lambda: passes.passes.get(newer))
    assert world.writes() == []


async def test_it_waits_for_the_crd_and_is_not_ready_before(
    world: KubeWorld, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_operator.kube.serving.RETRY_S", 0.05)
    world.unserve(kinds.DYNAMO_CLUSTER)
    async with operator(world, unused_tcp_port) as running:
        assert await told(unused_tcp_port, "/readyz", code=503) == "starting\n"
        assert await told(unused_tcp_port) == "starting\n"
        world.serve(kinds.DYNAMO_CLUSTER)
        uid = world.add(dynamo_cluster())["metadata"]["uid"]
        await until(lambda: running.passes.passes.get(uid))
        assert await told(unused_tcp_port, "/readyz") == "leading\n"


async def test_a_second_one_stands_by_ready_and_takes_over_at_a_clean_end(
    world: KubeWorld, unused_tcp_port_factory: object
) -> None:
    ports = [unused_tcp_port_factory(), unused_tcp_port_factory()]  # type: ignore[operator]
    uid = world.add(dynamo_cluster())["metadata"]["uid"]
    async with operator(world, ports[0], identity="one") as one:
        await until(lambda: one.passes.passes.get(uid))
        async with operator(world, ports[1], identity="two") as two:
            assert await told(ports[1], "/readyz") == "standing by\n"
            assert two.passes.started == []
            assert await one.end() == 0
            assert one.passes.ended == [uid]
            await until(lambda: two.passes.passes.get(uid))
            assert await told(ports[1], "/readyz") == "leading\n"
            lease = world.find(kinds.LEASE, "dynamo-system", "dynamo-operator")
            assert lease is not None
            assert lease["spec"]["holderIdentity"] == "two"


async def test_the_process_ends_when_its_lease_is_taken(
    world: KubeWorld, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    uid = world.add(dynamo_cluster())["metadata"]["uid"]
    async with operator(world, unused_tcp_port) as running:
        await until(lambda: running.passes.passes.get(uid))
        stolen = {"spec": {"holderIdentity": "thief"}}
        world.edit(kinds.LEASE, "dynamo-system", "dynamo-operator", stolen)
        await until(lambda: running.ended)
        assert running.ended == [3]
        assert "this process ends: lease dynamo-system/dynamo-operator lost: thief" in caplog.text
        assert running.passes.api is not None


async def test_watches_that_fail_for_good_end_the_process_with_an_error(
    world: KubeWorld, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr("dynamo_operator.kube.serving.watch", broken)
    async with operator(world, unused_tcp_port) as running:
        async with asyncio.timeout(20):
            assert await running.task == 1
    lease = world.find(kinds.LEASE, "dynamo-system", "dynamo-operator")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == ""


async def test_a_pass_that_hangs_and_a_watch_that_is_dead_fail_the_liveness(
    world: KubeWorld, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Passes):
        async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
            woken.clear()
            self.passes[uid] = 1
            await asyncio.Event().wait()

    world.add(dynamo_cluster())
    passes = Hanging()
    async with operator(world, unused_tcp_port, resync_s=0.1, passes=passes) as running:
        await until(lambda: running.passes.passes)
        assert "no pass over shop/cart for" in await told(unused_tcp_port, code=503)

    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("dynamo_operator.kube.serving.watch", silent)
    async with operator(world, unused_tcp_port, resync_s=0.1, identity="two") as running:
        await until(lambda: running.passes.passes)  # by the audit
        answer = await told(unused_tcp_port, code=503)
        assert answer == "the watch doesn't tell of shop/cart\n"
