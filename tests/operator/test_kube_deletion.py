"""What goes with a DynamoCluster and what stays; and what the next one of its name takes over."""

import pytest
from tests.operator.kube_acts import FEW, claim, settled, storage
from tests.operator.kube_play import Play
from tests.operator.kube_store import NAMESPACE

from dynamo_operator.kube import kinds

GONE = storage(whenDeleted="Delete")
LASTING = {("Secret", "cart-identity"), ("ConfigMap", "cart-ring")}
CLAIMS = {("PersistentVolumeClaim", f"data-cart-default-{i}") for i in range(3)}


def left(play: Play) -> set[tuple[str, str]]:
    """What is left of it in its namespace."""
    return {
        (kind.name, body["metadata"]["name"])
        for kind, body in play.world.store.everything()
        if body["metadata"].get("namespace") == "shop" and kind.name != "Event"
    }


async def remove(play: Play) -> None:
    """kubectl delete, while no operator looks."""
    play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
    for _ in range(5):
        await play.settle()


def no_finalizers(play: Play) -> None:
    for kind, body in play.world.store.everything():
        if kind not in (kinds.CLAIM, kinds.VOLUME):  # those are the cluster's own
            assert "finalizers" not in body["metadata"], body["metadata"]["name"]


async def test_everything_goes_by_the_garbage_collector_alone() -> None:
    async with settled(storage=GONE) as play:
        no_finalizers(play)
        await remove(play)
        assert left(play) == set()


async def test_what_is_retained_has_no_owner() -> None:
    async with settled() as play:
        no_finalizers(play)
        await remove(play)
        assert left(play) == LASTING | CLAIMS


async def test_the_wish_can_change_at_any_time_and_back() -> None:
    async with settled() as play:
        play.edit({"storage": GONE})
        await play.until_settled()
        play.edit({"storage": storage(whenDeleted="Retain")})
        await play.until_settled()
        for kind, name in LASTING | CLAIMS:
            found = play.world.find(play.world.kind_named(kind), "shop", name)
            assert found is not None
            assert "ownerReferences" not in found["metadata"], name
        play.edit({"storage": GONE})
        await play.until_settled()
        await remove(play)
        assert left(play) == set()


async def test_owners_of_others_stay() -> None:
    async with settled() as play:
        other = {"apiVersion": "v1", "kind": "ConfigMap", "name": "plan", "uid": "u1"}
        body = {"metadata": {"ownerReferences": [other]}}
        play.world.edit(kinds.CLAIM, "shop", "data-cart-default-0", body)
        play.world.edit(kinds.SECRET, "shop", "cart-identity", body)
        play.machines._collect = lambda: None  # type: ignore[method-assign]
        for wish in ("Delete", "Retain"):
            play.edit({"storage": storage(whenDeleted=wish)})
            await play.until_settled()
            owners = claim(play, "cart-default-0")["metadata"]["ownerReferences"]
            assert [one["kind"] for one in owners][:1] == ["ConfigMap"]
            assert len(owners) == (2 if wish == "Delete" else 1)
            assert not any(one.get("controller") for one in owners)


async def test_identity_and_ring_stay_while_any_pool_retains() -> None:
    large = {"name": "large", "replicas": 1, "capacity": "1"}
    pools = [{**large, "storage": storage(whenDeleted="Retain")}]
    async with settled(storage=GONE, pools=pools) as play:
        await remove(play)
        assert left(play) == LASTING | {("PersistentVolumeClaim", "data-cart-large-0")}


async def test_the_operator_leaves_what_is_being_deleted_alone() -> None:
    async with settled(storage=GONE) as play:
        play.world.edit(
            kinds.DYNAMO_CLUSTER, "shop", "cart", {"metadata": {"finalizers": ["example.org/x"]}}
        )
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart", {"propagationPolicy": "Foreground"})
        before = len(play.world.writes())
        assert await play.turn() is None
        assert len(play.world.writes()) == before


async def test_a_namespace_that_goes(caplog: pytest.LogCaptureFixture) -> None:
    async with settled() as play:
        play.world.add({"kind": "Namespace", "metadata": {"name": "shop"}})
        # Nothing can be made in it any more, and all is deleted in any order.
        ending = {"reason": "NamespaceTerminating", "message": "it is being terminated"}
        play.world.fail("create", code=403, reason="Forbidden", times=99, causes=[ending])
        play.world.remove(kinds.SERVICE, "shop", "cart-nodes")
        play.world.remove(kinds.SECRET, "shop", "cart-admin")
        assert await play.turn() is None, "it is left alone, as one that is deleted itself"
        assert [each for each in caplog.records if each.levelname != "INFO"] == []
        for kind, body in play.world.store.everything():
            at = body["metadata"]
            if at.get("namespace") == "shop" and play.world.find(kind, "shop", at["name"]):
                play.world.remove(kind, "shop", at["name"])
        for _ in range(5):
            await play.settle()
        play.world.remove(NAMESPACE, None, "shop")
        assert left(play) == set()


# The next one


async def _again(play: Play, **spec: object) -> None:
    await remove(play)
    play.apply(**{"replicas": 3, "ring": FEW, **spec})


@pytest.mark.parametrize("replicas", [3, 4, 5])
async def test_a_new_one_takes_over_identity_ring_and_data(replicas: int) -> None:
    async with settled(replicas=4) as play:
        disks = {name: node.disk.disk_id for name, node in play.nodes.items()}
        numbers = {one.name: one.number for one in play.ring.everybody}  # type: ignore[union-attr]
        secret = play.world.find(kinds.SECRET, "shop", "cart-identity")
        await _again(play, replicas=replicas)
        await play.until_settled()
        kept = [f"cart-default-{i}" for i in range(min(replicas, 4))]
        assert {name: play.nodes[name].disk.disk_id for name in kept} == {
            name: disks[name] for name in kept
        }
        ring = play.ring
        assert ring is not None
        assert {one.name: one.number for one in ring.members if one.name in kept} == {
            name: numbers[name] for name in kept
        }
        assert len(ring.everybody) == len(play.pods()) == replicas
        now = play.world.find(kinds.SECRET, "shop", "cart-identity")
        assert now is not None
        assert secret is not None
        assert now["data"] == secret["data"]
        assert play.claims() == [f"data-cart-default-{i}" for i in range(replicas)]
        play.check()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ring": {"partitions": 32}}, "spec.ring.partitions"),
        ({"quorum": {"replication": 2, "r": 2, "w": 2}}, "spec.quorum.replication"),
        ({"storage": storage(size="5Gi")}, "storage.size"),
        ({"reconciliation": "lastWriteWins"}, "spec.reconciliation"),
        ({"quorum": {"replication": 3, "r": 9, "w": 2}}, "spec.quorum.r"),
    ],
)
async def test_one_that_does_not_fit_takes_nothing_over(spec: dict, field: str) -> None:  # type: ignore[type-arg]
    async with settled() as play:
        await _again(play, **spec)
        before = left(play)
        for _ in range(4):
            await play.turn()
        assert left(play) == before, "what an earlier one was is not brought up either"
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "SpecRefused")
        assert field in text
        # Whoever takes it back gets his store again.
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        play.apply(replicas=3, ring=FEW)
        await play.until_settled()
        assert play.condition("Available")[0] == "True"


async def test_after_taking_over_an_edit_that_is_refused_changes_nothing() -> None:
    async with settled() as play:
        await _again(play)
        await play.until_settled()
        play.edit({"ring": {"partitions": 32}})
        play.world.remove(kinds.SERVICE, "shop", "cart")
        for _ in range(3):
            await play.turn()
        assert play.condition("Blocked")[1] == "SpecRefused"
        assert ("Service", "cart") in left(play), "it is looked after as it was"


async def test_claims_whose_identity_is_gone_block() -> None:
    async with settled() as play:
        await remove(play)
        play.world.remove(kinds.SECRET, "shop", "cart-identity")
        play.world.remove(kinds.CONFIG_MAP, "shop", "cart-ring")
        play.apply(replicas=3, ring=FEW)
        before = left(play)
        for _ in range(3):
            await play.turn()
        assert left(play) == before
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "IdentityLost")
        assert "data-cart-default-0" in text
        for name in play.claims():
            play.world.remove(kinds.CLAIM, "shop", name)
        await play.until_settled()
        assert play.condition("Blocked")[0] == "False"


async def test_a_ring_whose_identity_is_gone_blocks() -> None:
    async with settled() as play:
        await remove(play)
        play.world.remove(kinds.SECRET, "shop", "cart-identity")
        for name in play.claims():
            play.world.remove(kinds.CLAIM, "shop", name)
        play.apply(replicas=3, ring=FEW)
        for _ in range(3):
            await play.turn()
        assert play.condition("Blocked")[1] == "IdentityLost"
        assert "ConfigMap cart-ring" in play.condition("Blocked")[2]
        assert ("Secret", "cart-identity") not in left(play)
        play.world.remove(kinds.CONFIG_MAP, "shop", "cart-ring")
        await play.until_settled()


async def test_nodes_of_a_pool_that_the_new_one_lacks_are_asked_for() -> None:
    pools = [{"name": "large", "replicas": 1, "capacity": "1"}]
    async with settled(pools=pools) as play:
        await _again(play)
        for _ in range(8):
            await play.turn()
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "PoolGone")
        assert "cart-large-0" in text
        play.edit({"pools": pools})
        await play.until_settled()
        play.edit({"pools": []})
        await play.until_settled()
        play.check()


async def test_while_an_earlier_one_is_still_collected_nothing_is_done() -> None:
    async with settled(storage=GONE) as play:
        collect = play.machines._collect
        play.machines._collect = lambda: None  # type: ignore[method-assign]
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        play.apply(replicas=3, ring=FEW, storage=GONE)
        before = [one for one in play.world.writes() if one.kind != kinds.EVENT]
        for _ in range(3):
            await play.turn()
        after = [one for one in play.world.writes() if one.kind != kinds.EVENT][len(before) :]
        assert {one.verb for one in after} == {"apply"}, "its own status only"
        assert {one.kind for one in after} == {kinds.DYNAMO_CLUSTER}
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "NameTaken")
        assert "an earlier DynamoCluster cart is still being deleted" in text
        for what in ("Secret cart-identity", "StatefulSet cart-default", "data-cart-default-0"):
            assert what in text
        # Claims alone may be left at last.
        for kind, body in play.world.store.everything():
            at = body["metadata"]
            if kind not in (kinds.CLAIM, kinds.DYNAMO_CLUSTER) and "ownerReferences" in at:
                play.world.remove(kind, at["namespace"], at["name"])
        await play.turn()
        assert play.condition("Blocked")[1] == "NameTaken"
        play.machines._collect = collect  # type: ignore[method-assign]
        await play.until_settled()
        assert play.condition("Available")[0] == "True"
