"""Names that somebody else has: nothing of theirs is touched, and it heals when they go."""

import pytest
from tests.operator.kube_acts import FEW, settled
from tests.operator.kube_fixtures import dynamo_cluster
from tests.operator.kube_patches import Object
from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import configuration, kinds, names
from dynamo_operator.kube.kinds import Kind
from dynamo_operator.parsing import parse

SPEC = {"replicas": 3, "ring": FEW}
CONFIG = configuration.config_name(
    (made := parse({"apiVersion": "dynamocluster.io/v1alpha1", **dynamo_cluster(**SPEC)})),
    made.spec.default_pool,
)
SET = {
    "replicas": 0,
    "selector": {"matchLabels": {"a": "b"}},
    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}},
}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
OTHER = {"containers": [{"name": "x", "image": "other"}]}
NEEDED: list[tuple[Kind, str, Object]] = [
    (kinds.SERVICE, "cart", {"spec": {"ports": [{"port": 80}]}}),
    (kinds.SERVICE, "cart-nodes", {"spec": {"ports": [{"port": 80}]}}),
    (kinds.SERVICE_ACCOUNT, "cart-nodes", {}),
    (kinds.CONFIG_MAP, "cart-ring", {"data": {"ring.json": "{}"}}),
    (kinds.CONFIG_MAP, CONFIG, {"data": {"x": "y"}}),
    (kinds.SECRET, "cart-identity", {"data": {}}),
    (kinds.SECRET, "cart-admin", {"data": {"token": "eA=="}}),
    (kinds.BUDGET, "cart-nodes", {"spec": {"selector": {"matchLabels": {"a": "b"}}}}),
    (kinds.NETWORK_POLICY, "cart-nodes", {"spec": {}}),
    (kinds.SERVICE_MONITOR, "cart-nodes", {"spec": {}}),
    (kinds.STATEFUL_SET, "cart-default", {"spec": SET}),
    (kinds.CLAIM, "data-cart-default-1", {"spec": CLAIM}),
    (kinds.POD, "cart-default-1", {"spec": OTHER}),
]


def writes(play: Play, since: int = 0) -> list[str]:
    """Everything but status and events."""
    apart = (kinds.DYNAMO_CLUSTER, kinds.EVENT)
    return [str(one) for one in play.world.writes()[since:] if one.kind not in apart]


@pytest.mark.parametrize(
    ("kind", "name", "body"), NEEDED, ids=[f"{k.name}-{n}" for k, n, _ in NEEDED]
)
async def test_what_exists_is_not_touched(kind: Kind, name: str, body: Object) -> None:
    async with playing(monitors={"release": "prometheus"}, bad_images={"other"}) as play:
        stranger = {"kind": kind.name, "metadata": {"name": name, "namespace": "shop"}, **body}
        held = play.world.add(stranger)
        play.apply(**SPEC)
        for _ in range(3):
            await play.turn()
        assert writes(play) == []
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "NameTaken")
        assert f"{kind.name} {name} exists and is nobody's" in text
        now = play.world.find(kind, "shop", name)
        assert now is not None
        assert now["metadata"]["uid"] == held["metadata"]["uid"]
        play.world.remove(kind, "shop", name)
        await play.until_settled()
        assert play.condition("Blocked")[0] == "False"


@pytest.mark.parametrize("kind", [kinds.SERVICE, kinds.SECRET, kinds.STATEFUL_SET])
async def test_the_label_alone_makes_nothing_ours(kind: Kind) -> None:
    """Somebody else controls it, and has copied all labels."""
    name = {"Service": "cart", "Secret": "cart-identity", "StatefulSet": "cart-default"}[kind.name]
    async with playing() as play:
        owner = play.world.add(
            {"kind": "ConfigMap", "metadata": {"name": "helm", "namespace": "shop"}}
        )["metadata"]
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "helm", "uid": owner["uid"]}
        metadata = {
            "name": name,
            "namespace": "shop",
            "labels": {names.CLUSTER_LABEL: "cart"},
            "ownerReferences": [{**reference, "controller": True}],
        }
        body = {"spec": SET} if kind is kinds.STATEFUL_SET else {}
        play.world.add({"kind": kind.name, "metadata": metadata, **body})
        play.apply(**SPEC)
        await play.turn()
        assert writes(play) == []
        assert f"{kind.name} {name} belongs to ConfigMap helm" in play.condition("Blocked")[2]


async def test_a_cluster_whose_names_are_anothers() -> None:
    """`cart` has a Service `cart-nodes`; so would a cluster of that name."""
    async with playing() as play:
        play.world.add(
            {
                "kind": "Service",
                "metadata": {
                    "name": "cart-nodes",
                    "namespace": "shop",
                    "labels": {names.CLUSTER_LABEL: "cart-nodes"},
                    "ownerReferences": [
                        {
                            "apiVersion": "dynamocluster.io/v1alpha1",
                            "kind": "DynamoCluster",
                            "name": "cart-nodes",
                            "uid": play.world.add(dynamo_cluster("cart-nodes"))["metadata"]["uid"],
                            "controller": True,
                        }
                    ],
                },
            }
        )
        play.apply(**SPEC)
        await play.turn()
        assert writes(play) == []
        text = play.condition("Blocked")[2]
        assert "Service cart-nodes belongs to DynamoCluster cart-nodes" in text


async def test_strangers_with_our_label_are_left_alone() -> None:
    """Copied by people and by backup tools; none of it is looked after, or in the way."""
    async with settled(storage={"size": "10Gi", "whenDeleted": "Delete"}) as play:
        labels = {names.CLUSTER_LABEL: "cart", names.POOL_LABEL: "default"}
        play.bad_images.add("other")
        before = len(play.world.writes())
        for kind, name, more in (
            ("PersistentVolumeClaim", "data-cart-default-0-copy", {"spec": CLAIM}),
            ("PersistentVolumeClaim", "backup", {"spec": CLAIM}),
            ("Pod", "debug", {"spec": OTHER}),
            ("Pod", "cart-other-7", {"spec": OTHER}),
            ("ServiceMonitor", "mine", {"spec": {}}),
            ("ConfigMap", "cart-config-mine", {}),
            ("StatefulSet", "cart-mine", {"spec": SET}),
        ):
            metadata = {"name": name, "namespace": "shop", "labels": labels}
            play.world.add({"kind": kind, "metadata": metadata, **more})
        for _ in range(3):
            await play.turn()
        assert writes(play, before) == []
        assert play.condition("Blocked")[0] == "False"
        assert play.status["nodesTotal"] == 3


async def test_pods_whose_set_somebody_deleted_are_taken_over_again() -> None:
    async with settled() as play:
        uids = {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")}
        for pod in play.pods():
            play.world.edit(kinds.POD, "shop", pod, {"metadata": {"ownerReferences": None}})
        play.world.remove(kinds.STATEFUL_SET, "shop", "cart-default")
        await play.turn()
        assert play.set()["spec"]["replicas"] == 3
        assert {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")} == uids
        assert play.condition("Available")[0] == "True"


async def test_what_others_add_is_no_reason_to_write() -> None:
    async with settled() as play:
        other = {"apiVersion": "v1", "kind": "ConfigMap", "name": "plan", "uid": "u1"}
        service = play.world.find(kinds.SERVICE, "shop", "cart")
        assert service is not None
        owners = [*service["metadata"]["ownerReferences"], other]
        ports = [*service["spec"]["ports"], {"name": "more", "port": 99, "targetPort": 99}]
        changes = {"metadata": {"ownerReferences": owners}, "spec": {"ports": ports}}
        play.world.edit(kinds.SERVICE, "shop", "cart", changes)
        before = len(play.world.writes())
        await play.until_settled(2)
        assert writes(play, before) == []


async def test_a_monitor_goes_when_nobody_asks_for_it_any_more() -> None:
    async with settled() as play:
        play.monitors = {"release": "prometheus"}
        await play.until_settled()
        assert play.world.find(kinds.SERVICE_MONITOR, "shop", "cart-nodes")
        play.monitors = None
        await play.until_settled()
        assert play.world.find(kinds.SERVICE_MONITOR, "shop", "cart-nodes") is None
        play.world.unserve(kinds.SERVICE_MONITOR)
        await play.until_settled()
