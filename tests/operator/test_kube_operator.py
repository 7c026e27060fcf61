"""The whole operator against an emulated cluster: what a person does, and what comes of it."""

from tests.operator.kube_fixtures import operator
from tests.operator.kube_play import Loopback, playing

from dynamo_operator.kube import kinds
from dynamo_operator.kube.reconcile import builder


async def test_a_cluster_is_made_and_comes_to_rest() -> None:
    async with playing() as play:
        play.apply(replicas=3)
        await play.until_settled()
        assert play.pods() == [f"cart-default-{i}" for i in range(3)]
        ring = play.ring
        assert ring is not None
        assert ring.epoch == 1
        assert [member.host for member in ring.members] == [
            f"cart-default-{i}.cart-nodes.shop.svc" for i in range(3)
        ]
        assert play.condition("Available")[:2] == ("True", "QuorumAvailable")
        assert play.condition("Progressing")[:2] == ("False", "Settled")
        assert play.status["nodesReady"] == 3
        assert play.status["ring"]["settled"] is True
        assert "operation" not in play.status
        assert "finalizers" not in play.applied["metadata"]
        before = len(play.world.writes())
        await play.turn()
        assert len(play.world.writes()) == before, "nothing is written that stands there"


async def test_more_and_fewer_nodes() -> None:
    async with playing() as play:
        play.apply(replicas=3)
        await play.until_settled()
        play.edit({"replicas": 5})
        await play.until_settled()
        assert len(play.pods()) == 5
        assert len(play.ring.members) == 5
        play.check()
        play.edit({"replicas": 3})
        await play.until_settled()
        assert play.pods() == [f"cart-default-{i}" for i in range(3)]
        assert play.claims() == [f"data-cart-default-{i}" for i in range(3)], "whenScaled: Delete"
        assert [m.name for m in play.ring.everybody] == play.pods()
        play.check()
        assert play.set()["spec"]["replicas"] == 3
        kinds_used = {one.kind for one in play.world.writes()}
        assert kinds.STATEFUL_SET in kinds_used


async def test_the_process_does_it_by_itself(unused_tcp_port: int) -> None:
    # Watches wake it, nobody calls a pass; nothing of its own is written but what the plan says.
    async with playing() as play:
        build = builder(
            namespace="dynamo-system",
            labels={"app.kubernetes.io/name": "dynamo-operator"},
            network=Loopback(play),
        )
        async with operator(play.world, unused_tcp_port, build=build, resync_s=5.0) as running:
            play.apply(replicas=3)
            await play.by_itself(
                lambda: play.status and play.condition("Progressing")[1] == "Settled"
            )
            play.edit({"replicas": 4})
            await play.by_itself(
                lambda: play.status["nodesReady"] == 4 and len(play.ring.members) == 4
            )
            play.check()
            play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
            await play.by_itself(lambda: not play.pods())
            assert play.claims() == [f"data-cart-default-{i}" for i in range(4)], "Retain"
            assert await running.end() == 0
