"""Nodes come and go: pods before the ring, the ring before its pods go, one at a time."""

import collections

from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import kinds, names


async def grown(play: Play, **spec: object) -> None:
    play.apply(**spec)
    await play.until_settled()
    play.unready_most = 0


def members(play: Play) -> list[str]:
    return sorted(member.name for member in play.ring.members)


def default(*numbers: int) -> list[str]:
    return [f"cart-default-{number}" for number in numbers]


async def test_pods_come_first_then_one_ring_for_all() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"replicas": 6})
        await play.turn()
        assert len(play.pods()) == 6
        assert members(play) == default(0, 1, 2), "nobody waits for who isn't there"
        await play.until_settled()
        assert play.ring.epoch == 2
        assert len(members(play)) == 6
        play.check()


async def test_a_joiner_that_does_not_come_up_holds_up_joiners_only() -> None:
    async with playing() as play:
        await grown(play)
        play.broken_pods.add("cart-default-4")
        play.edit({"replicas": 5})
        for _ in range(6):
            await play.turn()
        assert members(play) == default(0, 1, 2)
        assert play.condition("Available")[0] == "True"
        assert play.condition("Progressing")[1] == "ScaleUp"
        play.edit({"quorum": {"r": 1}})
        await play.turn()
        assert all(node.settings["quorum"]["r"] == 1 for node in play.nodes.values())
        play.edit({"replicas": 4})
        await play.until_settled()
        assert members(play) == default(0, 1, 2, 3)
        assert play.pods() == default(0, 1, 2, 3)


async def test_a_change_of_mind_in_the_middle_of_joining() -> None:
    async with playing(speed=1) as play:
        await grown(play)
        play.edit({"replicas": 5})
        await play.until(lambda: not play.status["ring"]["settled"])
        play.edit({"replicas": 3})
        for _ in range(4):
            await play.turn()
            play.check()
        await play.until_settled(200)
        assert members(play) == default(0, 1, 2)
        assert play.pods() == default(0, 1, 2)
        play.check()


async def test_a_change_of_mind_in_the_middle_of_leaving() -> None:
    async with playing(speed=1) as play:
        await grown(play, replicas=5)
        play.edit({"replicas": 3})
        await play.until(lambda: play.ring.leaving)
        play.edit({"replicas": 5})
        await play.until_settled(200)
        assert members(play) == default(0, 1, 2, 3, 4)
        assert len(play.pods()) == 5
        assert names.DRAINED_EPOCH not in str(play.world.all(kinds.CLAIM, "shop"))
        play.check()


async def test_leavers_go_one_at_a_time_with_the_proof() -> None:
    async with playing(speed=0) as play:
        await grown(play, replicas=5)
        play.edit({"replicas": 3})
        for _ in range(5):
            await play.turn()
        assert [m.name for m in play.ring.leaving] == ["cart-default-4"]
        assert len(play.pods()) == 5, "not drained: not let go"
        assert play.status["operation"]["node"] == "cart-default-4"
        play.speed = 1000
        play.nodes["cart-default-0"].silent = True
        for _ in range(5):
            await play.turn()
        assert len(play.pods()) == 5, "somebody's word is missing"
        play.nodes["cart-default-0"].silent = False
        seen = []
        for _ in range(40):
            await play.turn()
            play.check()
            seen.append(play.set()["spec"]["replicas"])
        assert list(collections.Counter(seen)) == [5, 4, 3]


async def test_a_scale_down_is_told_as_one_until_its_last_volume_is_gone() -> None:
    """On kind it was Settled while a pod was still ending, and ScaleUp while the ring shrank."""
    async with playing() as play:
        await grown(play, replicas=5)
        play.edit({"replicas": 3})
        told = []
        while len(play.pods()) > 3 or len(play.world.all(kinds.CLAIM, "shop")) > 3:
            await play.turn()
            told.append(play.condition("Progressing"))
        assert {status for status, _, _ in told[:-1]} == {"True"}
        assert {reason for _, reason, _ in told[:-1]} == {"ScaleDown"}
        await play.until_settled()


async def test_the_mark_on_the_claim_is_seen_before_the_pod_is_let_go() -> None:
    async with playing() as play:
        await grown(play, replicas=4, storage={"whenScaled": "Retain"})
        play.edit({"replicas": 3})
        await play.until_settled()
        writes = [(one.verb, one.kind.name, one.name) for one in play.world.writes()]
        mark = writes.index(("patch", "PersistentVolumeClaim", "data-cart-default-3"))
        lowered = max(i for i, one in enumerate(writes) if one[1] == "StatefulSet")
        assert mark < lowered
        assert "data-cart-default-3" in play.claims(), "whenScaled: Retain"


async def test_pools_have_capacities_and_go_when_they_are_empty() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"pools": [{"name": "large", "replicas": 2, "capacity": "2"}]})
        await play.until_settled()
        shares = {one["name"]: float(one["ownershipPercent"]) for one in play.status["nodes"]}
        assert shares["cart-large-0"] > 1.4 * shares["cart-default-0"]
        assert play.status["replicas"] == 3, "scale is about the default pool"
        assert play.status["nodesTotal"] == 5
        assert play.status["selector"].endswith("dynamocluster.io/pool=default")
        play.speed = 1
        play.edit({"pools": []})
        while "cart-large-0" in play.pods() or "cart-large-1" in play.pods():
            assert play.world.find(kinds.STATEFUL_SET, "shop", "cart-large") is not None
            await play.turn()
            play.check()
        play.speed = 1000
        await play.until_settled()
        assert play.world.find(kinds.STATEFUL_SET, "shop", "cart-large") is None
        assert members(play) == default(0, 1, 2)
        assert not [name for name in play.claims() if "large" in name]


async def test_zones_are_filled_evenly_and_the_last_comer_leaves() -> None:
    async with playing(("a", "b", "c")) as play:
        await grown(play, replicas=5, zones=["a", "b", "c"])
        assert play.pods() == [
            "cart-default-a-0",
            "cart-default-a-1",
            "cart-default-b-0",
            "cart-default-b-1",
            "cart-default-c-0",
        ]
        assert play.status["ring"]["zonesDistinct"] == 3
        assert play.status["replicas"] == 5
        play.edit({"replicas": 4})
        await play.until_settled()
        assert "cart-default-b-1" not in play.pods()
        assert len(play.pods()) == 4
        play.check()


# By somebody's hand


async def test_replicas_of_a_set_changed_by_hand_are_brought_back() -> None:
    async with playing() as play:
        await grown(play)
        for replicas in (5, 1, 0):
            play.world.edit(
                kinds.STATEFUL_SET, "shop", "cart-default", {"spec": {"replicas": replicas}}
            )
            await play.until_settled()
            assert play.set()["spec"]["replicas"] == 3
            assert members(play) == default(0, 1, 2)
            assert play.claims() == [f"data-{name}" for name in default(0, 1, 2)]
            play.check()


async def test_what_keeps_kubernetes_from_acting_by_itself_is_brought_back() -> None:
    async with playing() as play:
        await grown(play)
        changed = {
            "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"},
        }
        play.world.edit(kinds.STATEFUL_SET, "shop", "cart-default", {"spec": changed})
        await play.until_settled()
        spec = play.set()["spec"]
        assert spec["updateStrategy"]["type"] == "OnDelete"
        assert spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"


async def test_a_service_changed_by_hand_is_brought_back() -> None:
    async with playing() as play:
        await grown(play)
        wanted = play.world.find(kinds.SERVICE, "shop", "cart")["spec"]["selector"]
        for selector in ({"more": "narrow"}, {names.CLUSTER_LABEL: "other"}):
            spec = {"selector": selector}
            play.world.edit(kinds.SERVICE, "shop", "cart", {"spec": spec})
            await play.until_settled()
            found = play.world.find(kinds.SERVICE, "shop", "cart")
            assert found["spec"]["selector"] == wanted
        play.world.remove(kinds.SERVICE, "shop", "cart")
        await play.until_settled()
        assert play.world.find(kinds.SERVICE, "shop", "cart") is not None


async def test_somebody_elses_pod_and_claim_with_our_label_are_left_alone() -> None:
    async with playing() as play:
        await grown(play, storage={"whenDeleted": "Delete"})
        labels = {names.CLUSTER_LABEL: "cart"}
        metadata = {"name": "debug", "namespace": "shop", "labels": labels}
        play.bad_images.add("shell")
        pod = {"containers": [{"name": "shell", "image": "shell"}]}
        play.world.add({"kind": "Pod", "metadata": metadata, "spec": pod})
        spec = {"resources": {"requests": {"storage": "1Gi"}}}
        play.world.add({"kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
        await play.until_settled()
        assert "ownerReferences" not in play.world.find(kinds.CLAIM, "shop", "debug")["metadata"]
        assert "debug" in play.pods()
        assert play.status["replicas"] == 3


async def test_no_pod_is_let_go_in_the_pass_that_marks_its_claim() -> None:
    """Another change of the claim may come first in that pass, and the mark be put off by it."""
    async with playing() as play:
        await grown(play, replicas=4)
        play.edit({"replicas": 3})
        await play.until(lambda: play.ring.epoch == 3)
        await play.turn()
        assert names.DRAINED_EPOCH not in str(play.world.all(kinds.CLAIM, "shop"))
        assert len(play.pods()) == 4
        play.edit({"storage": {"whenDeleted": "Delete"}})
        await play.until_settled()
        assert play.claims() == [f"data-{name}" for name in default(0, 1, 2)]
