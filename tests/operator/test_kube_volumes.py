"""Claims as pools come and go: marked, kept, deleted, used again; and as they grow."""

from tests.operator.kube_acts import claim, events, mark, settled, storage
from tests.operator.kube_play import Play

from dynamo_operator.kube import kinds, names

KEPT = [f"data-cart-default-{i}" for i in range(3)]
ALL = [f"data-cart-default-{i}" for i in range(4)]


async def test_a_claim_is_marked_before_replicas_are_lowered_and_deleted_after() -> None:
    async with settled(replicas=4) as play:
        last = "cart-default-3"
        before = len(play.world.asked)
        play.edit({"replicas": 3})
        await play.until_settled()
        assert play.claims() == KEPT
        acts = [
            f"{one.verb} {one.name}"
            for one in play.world.asked[before:]
            if one.kind in (kinds.STATEFUL_SET, kinds.CLAIM) and one.verb in ("patch", "delete")
        ]
        marks = acts.index(f"patch data-{last}")
        assert marks < acts.index("patch cart-default") < acts.index(f"delete data-{last}")
        play.check()


async def test_retain_keeps_the_claim_and_the_next_scale_up_uses_its_volume() -> None:
    async with settled(replicas=4, storage=storage(whenScaled="Retain")) as play:
        last = "cart-default-3"
        volume = claim(play, last)["spec"]["volumeName"]
        disk = play.nodes[last].disk.disk_id
        play.edit({"replicas": 3})
        await play.until_settled()
        assert play.claims() == ALL
        assert mark(play, last) is not None
        play.edit({"replicas": 4})
        await play.until_settled()
        assert claim(play, last)["spec"]["volumeName"] == volume
        assert play.nodes[last].disk.disk_id == disk
        assert mark(play, last) is None, "it is used again"


async def test_the_mark_goes_before_the_ring_names_the_node_again() -> None:
    async with settled(replicas=4, storage=storage(whenScaled="Retain")) as play:
        play.edit({"replicas": 3})
        await play.until_settled()
        # With it, the owner changes too: one object, two changes.
        play.edit({"replicas": 4, "storage": storage(whenScaled="Retain", whenDeleted="Delete")})
        for _ in range(20):
            await play.turn()
            ring = play.ring
            if ring is not None and ring.node_named("cart-default-3"):
                assert mark(play, "cart-default-3") is None
        assert len(play.pods()) == 4


async def test_retained_claims_go_when_somebody_says_so_later() -> None:
    async with settled(replicas=4, storage=storage(whenScaled="Retain")) as play:
        play.edit({"replicas": 3})
        await play.until_settled()
        assert play.claims() == ALL
        play.edit({"storage": storage(whenScaled="Delete")})
        await play.until_settled()
        assert play.claims() == KEPT


async def _down_to(play: Play, moment: str) -> None:
    """From 4 to 3 until this moment."""
    play.edit({"replicas": 3})
    last = "cart-default-3"
    if moment == "leaving":
        play.speed = 0
        await play.until(lambda: play.ring is not None and play.ring.leaving)
    elif moment == "marked":
        play.world.fail("patch", kinds.STATEFUL_SET, code=409, reason="Conflict", times=99)
        await play.until(lambda: mark(play, last) is not None)
    elif moment == "lowered":
        play.world.fail("delete", kinds.CLAIM, code=409, reason="Conflict", times=99)
        await play.until(lambda: play.set()["spec"]["replicas"] == 3)
    elif moment == "terminating":
        held = {"metadata": {"finalizers": ["example.org/snapshot"]}}
        play.world.edit(kinds.CLAIM, "shop", f"data-{last}", held)
        await play.until(lambda: "deletionTimestamp" in claim(play, last)["metadata"])
    play.world.mend()
    play.speed = 10_000


async def _back(moment: str) -> None:
    async with settled(replicas=4) as play:
        last = "cart-default-3"
        disk = play.nodes[last].disk.disk_id
        await _down_to(play, moment)
        play.edit({"replicas": 4})
        if moment == "terminating":
            for _ in range(5):
                await play.turn()
            assert last not in play.nodes, "nobody starts on a volume that is going"
            play.world.edit(kinds.CLAIM, "shop", f"data-{last}", {"metadata": {"finalizers": None}})
        await play.until_settled()
        ring = play.ring
        assert ring is not None
        assert [one.name for one in ring.everybody] == play.pods()
        assert play.claims() == ALL
        assert mark(play, last) is None
        assert (play.nodes[last].disk.disk_id == disk) is (moment != "terminating")
        play.check()


async def test_a_change_of_mind_while_it_leaves() -> None:
    await _back("leaving")


async def test_a_change_of_mind_after_the_mark() -> None:
    await _back("marked")


async def test_a_change_of_mind_after_lowering() -> None:
    await _back("lowered")


async def test_a_change_of_mind_while_the_claim_terminates() -> None:
    await _back("terminating")


POOL = {"name": "large", "replicas": 1, "capacity": "1"}


async def test_claims_of_a_removed_pool_follow_what_it_said_last() -> None:
    pools = [
        {**POOL, "storage": storage(whenScaled="Retain")},
        {**POOL, "name": "small", "storage": storage(whenScaled="Delete")},
    ]
    async with settled(pools=pools) as play:
        # The claim can't be deleted for a while: its set, which says what becomes of it, waits.
        play.world.fail("delete", kinds.CLAIM, code=409, reason="Conflict", times=3)
        play.edit({"pools": []})
        await play.until_settled()
        assert play.claims() == [*KEPT, "data-cart-large-0"]
        sets = [one["metadata"]["name"] for one in play.world.all(kinds.STATEFUL_SET, "shop")]
        assert sets == ["cart-default"]
        play.check()


async def test_a_joiner_that_never_was_in_a_ring_goes_with_its_claim() -> None:
    async with settled(zones=("",) * 3) as play:
        play.bad_images.add("dynamo-node:1.0.0")
        play.edit({"replicas": 4})
        await play.until(lambda: len(play.pods()) == 4)
        play.edit({"replicas": 3})
        await play.until_settled()
        assert play.claims() == KEPT


# Growth


async def test_volumes_grow_those_of_new_pods_too() -> None:
    async with settled(zones=("",) * 5) as play:
        play.edit({"storage": storage(size="20Gi")})
        await play.until_settled()
        sizes = {one["spec"]["resources"]["requests"]["storage"] for one in _claims(play)}
        assert sizes == {"20Gi"}
        pods = {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")}
        play.edit({"replicas": 4})
        await play.until_settled()
        assert claim(play, "cart-default-3")["spec"]["resources"]["requests"] == {"storage": "20Gi"}
        now = {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")}
        assert pods < now, "nothing restarts for that"
        template = play.set()["spec"]["volumeClaimTemplates"][0]
        assert template["spec"]["resources"]["requests"] == {"storage": "10Gi"}, "which is fixed"


async def test_full_disks_grow() -> None:
    """A node that starts on a full disk waits for room, unready: so may all of them."""
    async with settled() as play:
        for node in play.nodes.values():
            node.state, node.ready = "starting", False
        await play.turn()
        assert play.condition("Available")[0] != "True"
        pods = {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")}
        play.edit({"storage": storage(size="20Gi")})
        for _ in range(3):
            await play.turn()
        sizes = {one["spec"]["resources"]["requests"]["storage"] for one in _claims(play)}
        assert sizes == {"20Gi"}
        for node in play.nodes.values():
            node.state, node.ready = "up", True
        await play.until_settled()
        assert {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")} == pods


async def test_a_full_disk_is_told_as_long_as_it_is_full() -> None:
    """Its node is ready, for it reads and forwards writes: nothing else says that it takes none."""
    space = {"free_bytes": 8_000_000, "reserve_bytes": 50_000_000, "stored_bytes": 1_000_000}
    async with settled() as play:
        play.nodes["cart-default-1"].disk_space = {"state": "full", **space}
        await play.turn()
        status, reason, text = play.condition("Degraded")
        assert (status, reason) == ("True", "NodesNotWhole")
        assert text.startswith("the disk of cart-default-1 is full")
        assert play.condition("Available")[0] == "True"
        play.nodes["cart-default-1"].disk_space = {"state": "ok", **space}
        await play.turn()
        assert play.condition("Degraded")[0] == "False"


async def test_a_pool_with_storage_of_its_own_grows_by_itself() -> None:
    own = {**POOL, "storage": storage(size="30Gi")}
    async with settled(pools=[own]) as play:
        play.edit({"pools": [{**POOL, "storage": storage(size="40Gi")}]})
        await play.until_settled()
        sizes = {
            one["metadata"]["name"]: one["spec"]["resources"]["requests"]["storage"]
            for one in _claims(play)
        }
        assert sizes == {**dict.fromkeys(KEPT, "10Gi"), "data-cart-large-0": "40Gi"}


async def _stuck(play: Play) -> None:
    play.edit({"storage": storage(size="20Gi"), "replicas": 4})
    for _ in range(12):
        await play.turn()
    assert len(play.pods()) == 4, "which holds nothing else up"
    ring = play.ring
    assert ring is not None
    assert len(ring.members) == 4
    status, _, text = play.condition("Degraded")
    assert status == "True"
    assert "data-cart-default-0" in text
    assert "20Gi" in text
    assert any("data-cart-default-0" in note for note in events(play, "VolumeCannotGrow"))


async def test_a_class_that_cannot_grow_is_told() -> None:
    async with settled() as play:
        name = {"allowVolumeExpansion": False}
        play.world.edit(kinds.STORAGE_CLASS, None, "standard", name)
        await _stuck(play)
        assert play.condition("Progressing")[0] == "False", "nothing will come of it"


async def test_a_class_that_cannot_be_seen_is_found_out_by_trying() -> None:
    async with settled() as play:
        play.world.grant(cluster_wide=False)
        name = {"allowVolumeExpansion": False}
        play.world.edit(kinds.STORAGE_CLASS, None, "standard", name)
        await _stuck(play)


async def test_a_claim_without_a_volume_is_not_grown() -> None:
    """The server allows no change of it."""
    async with settled(zones=("",) * 4) as play:
        play.edit({"storage": storage(size="20Gi")})
        await play.until_settled()
        play.machines.down |= {"machine-0", "machine-1", "machine-2", "machine-3"}
        play.edit({"replicas": 4})
        for _ in range(4):
            await play.turn()
        assert claim(play, "cart-default-3")["status"]["phase"] == "Pending"
        assert claim(play, "cart-default-3")["spec"]["resources"]["requests"] == {"storage": "10Gi"}
        play.machines.down.clear()
        await play.until_settled()
        assert claim(play, "cart-default-3")["spec"]["resources"]["requests"] == {"storage": "20Gi"}


def _claims(play: Play) -> list[dict]:  # type: ignore[type-arg]
    return play.world.all(kinds.CLAIM, "shop", {names.CLUSTER_LABEL: "cart"})
