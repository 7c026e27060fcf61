"""Lost volumes: what proves it, what proves nothing, and what a person's word does."""

from tests.operator.kube_acts import (
    claim,
    lose_volume,
    machine_of,
    power_off,
    power_on,
    settled,
    taint,
)
from tests.operator.kube_play import Play

from dynamo_operator.kube import kinds

POD = "cart-default-1"


async def turns(play: Play, count: int = 6) -> None:
    for _ in range(count):
        await play.turn()


def deletions(play: Play) -> list[str]:
    return [str(one) for one in play.world.writes() if one.verb in ("delete", "evict")]


async def _replaced(play: Play, old: str) -> None:
    """Its node has begun with a new volume under its number, and nothing else has changed."""
    before, ring = play.nodes.get(POD), play.ring
    assert ring is not None
    await play.until_settled()
    assert claim(play, POD)["spec"]["volumeName"] != old
    assert play.nodes[POD] is not before
    member = play.nodes[POD].member()
    assert member is not None
    assert member.number == ring.node_named(POD).number  # type: ignore[union-attr]
    assert play.ring == ring
    assert play.condition("Available")[0] == "True"


async def test_a_volume_that_is_gone_is_replaced() -> None:
    async with settled() as play:
        old = await lose_volume(play, POD)
        await _replaced(play, old)


async def test_a_local_volume_whose_node_is_gone_is_replaced() -> None:
    async with settled(local=True) as play:
        old, machine = claim(play, POD)["spec"]["volumeName"], machine_of(play, POD)
        await power_off(play, machine)
        await turns(play)
        assert not deletions(play), "it may come back"
        play.world.remove(kinds.NODE, None, machine)
        await _replaced(play, old)


async def test_a_node_that_is_not_ready_proves_nothing() -> None:
    for local in (True, False):
        async with settled(local=local) as play:
            old, machine = claim(play, POD)["spec"]["volumeName"], machine_of(play, POD)
            await power_off(play, machine)
            await turns(play)
            # Kubernetes has the pod terminate, and nobody ends it.
            play.world.remove(kinds.POD, "shop", POD)
            await turns(play)
            assert not deletions(play)
            assert play.condition("Degraded")[0] == "True"
            power_on(play, machine)
            await play.until_settled()
            assert claim(play, POD)["spec"]["volumeName"] == old
            assert play.condition("Degraded")[0] == "False"


async def test_what_the_role_cannot_see_proves_nothing() -> None:
    async with settled(local=True) as play:
        play.world.grant(cluster_wide=False)
        machine = machine_of(play, POD)
        await power_off(play, machine)
        play.world.remove(kinds.NODE, None, machine)
        await turns(play)
        assert not deletions(play)


async def test_an_out_of_service_node_loses_its_pods_and_not_its_volumes() -> None:
    async with settled() as play:
        old, machine = claim(play, POD)["spec"]["volumeName"], machine_of(play, POD)
        await power_off(play, machine)
        play.world.remove(kinds.POD, "shop", POD)  # by the taint manager, after five minutes
        await turns(play, 2)
        assert not deletions(play)
        # The emulated pod collector would be faster: it is the operator's turn here.
        play.machines._kubelets = lambda: None  # type: ignore[method-assign]
        taint(play, machine)
        await turns(play, 2)
        asked = [one for one in play.world.writes() if one.verb == "delete"]
        assert [(one.name, one.body["gracePeriodSeconds"]) for one in asked] == [(POD, 0)]
        assert asked[0].body["preconditions"]["uid"]
        del play.machines._kubelets  # type: ignore[method-assign]
        await play.until_settled()
        assert claim(play, POD)["spec"]["volumeName"] == old
        assert machine_of(play, POD) != machine


async def test_a_node_that_answers_has_its_disk() -> None:
    """Somebody has deleted the volume's object by mistake: the disk is still mounted."""
    async with settled() as play:
        volume = str(claim(play, POD)["spec"]["volumeName"])
        play.world.remove(kinds.VOLUME, None, volume)
        play.nodes[POD].ready = False
        await turns(play)
        assert not deletions(play)


async def test_one_at_a_time_and_only_while_all_others_are_whole() -> None:
    async with settled(replicas=4) as play:
        other = "cart-default-2"
        play.nodes[other].state = "recovering"
        old = await lose_volume(play, POD)
        await turns(play)
        assert not deletions(play)
        assert f"when {other} is whole again" in play.condition("Degraded")[2]
        play.nodes[other].state = "up"
        await _replaced(play, old)


async def test_a_leaving_node_counts_among_the_others() -> None:
    async with settled(replicas=4) as play:
        play.speed = 0
        play.edit({"replicas": 3})
        await play.until(lambda: play.ring is not None and play.ring.leaving)
        await power_off(play, machine_of(play, "cart-default-3"))
        await lose_volume(play, POD)
        await turns(play)
        assert not deletions(play), "what only the leaver has would be out of reach"


async def test_two_lost_volumes_are_a_persons() -> None:
    async with settled(replicas=4) as play:
        await lose_volume(play, POD)
        await lose_volume(play, "cart-default-2")
        await turns(play)
        assert not deletions(play)
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "VolumesLost")
        assert f"kubectl delete pvc/data-{POD} pod/{POD}" in text
        for pod in (POD, "cart-default-2"):
            play.world.remove(kinds.CLAIM, "shop", f"data-{pod}")
            play.world.remove(kinds.POD, "shop", pod)
        await play.until_settled()
        assert play.condition("Blocked")[0] == "False"


async def test_all_is_said_to_be_well_only_when_it_is() -> None:
    """A node was still being rebuilt when "everything is as the spec says" was told."""
    async with settled() as play:
        told = len(play.events("Settled"))
        play.nodes[POD].state = "recovering"
        await turns(play)
        assert play.condition("Progressing")[:2] == ("False", "NothingToDo")
        assert len(play.events("Settled")) == told
        play.nodes[POD].state = "up"
        await play.until_settled()
        assert play.condition("Progressing")[:2] == ("False", "Settled")
        assert len(play.events("Settled")) == told + 1


async def test_a_joiner_with_a_lost_volume_is_in_nobodys_way() -> None:
    async with settled(local=True, zones=("",) * 4) as play:
        play.bad_images.add("dynamo-node:1.0.0")
        play.edit({"replicas": 4})
        await play.until(lambda: len(play.pods()) == 4)
        play.nodes["cart-default-0"].state = "recovering"
        machine = machine_of(play, "cart-default-3")
        await power_off(play, machine)
        play.world.remove(kinds.NODE, None, machine)
        play.bad_images.clear()
        await play.until(lambda: play.ring is not None and len(play.ring.members) == 4)


async def test_a_claim_deleted_under_a_pod_is_told_and_its_pod_left_alone() -> None:
    async with settled() as play:
        play.world.remove(kinds.CLAIM, "shop", f"data-{POD}")
        play.nodes["cart-default-2"].state = "recovering"
        play.nodes[POD].ready = False
        play.edit({"image": "dynamo-node:2"})
        await turns(play)
        assert POD not in [one.name for one in play.world.writes() if one.verb == "delete"]
        assert f"claim data-{POD} was deleted by somebody" in play.condition("Degraded")[2]
        play.nodes["cart-default-2"].state = "up"
        play.nodes[POD].ready = True
        await play.until_settled()
        assert play.condition("Degraded")[0] == "False"


async def test_a_conflict_at_either_deletion_only_ends_the_pass() -> None:
    for name in (f"data-{POD}", POD):
        async with settled() as play:
            play.world.fail("delete", None, name, code=409, reason="Conflict", times=2)
            old = await lose_volume(play, POD)
            await _replaced(play, old)
            assert all(fault.times == 0 for fault in play.world.faults)


async def test_every_deletion_names_what_was_seen() -> None:
    async with settled(replicas=4) as play:
        await lose_volume(play, POD)
        await play.until_settled()
        play.edit({"replicas": 3})
        await play.until_settled()
        found = [one for one in play.world.writes() if one.verb in ("delete", "evict")]
        assert {one.kind for one in found} == {kinds.CLAIM, kinds.POD}
        for one in found:
            options = one.body.get("deleteOptions", one.body)
            assert options["preconditions"]["uid"]
            assert one.kind is kinds.POD or options["preconditions"]["resourceVersion"]
        for one in play.world.writes():
            if one.verb == "patch" and isinstance(one.body, dict):
                assert one.body["metadata"]["resourceVersion"], str(one)
