"""Operators come and go: what they find stays as it is until somebody asks for more."""

from typing import Any

import pytest
from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import kinds, names

OLD = names.Release("1.0.0", "dynamo-node:1.0.0")
NEW = names.Release("1.1.0", "dynamo-node:1.1.0")


def images(play: Play) -> set[str]:
    pods = play.world.all(kinds.POD, "shop")
    return {pod["spec"]["containers"][0]["image"] for pod in pods}


def lives(play: Play) -> set[str]:
    return {pod["metadata"]["uid"] for pod in play.world.all(kinds.POD, "shop")}


def configurations(play: Play) -> list[str]:
    found = [one["metadata"]["name"] for one in play.world.all(kinds.CONFIG_MAP, "shop")]
    return [name for name in found if "-config-" in name]


async def grown(play: Play, **spec: Any) -> set[str]:
    play.apply(**spec)
    await play.until_settled()
    play.unready_most = 0
    return lives(play)


async def come(play: Play, release: names.Release) -> None:
    play.release = release
    play.restart()
    await play.until_settled()


async def test_a_new_operator_touches_no_pod_and_says_what_to_do() -> None:
    async with playing() as play:
        before, template = await grown(play), play.set()["spec"]["template"]
        assert play.condition("UpdateAvailable")[0] == "False"
        await come(play, NEW)
        assert lives(play) == before
        assert play.set()["spec"]["template"] == template
        state, reason, text = play.condition("UpdateAvailable")
        assert (state, reason) == ("True", "OperatorUpgraded")
        assert "kubectl annotate dyn cart dynamocluster.io/update=1.1.0 --overwrite" in text
        play.annotate(update="1.1.0")
        await play.until_settled()
        assert not lives(play) & before
        assert images(play) == {NEW.image}
        assert play.unready_most == 1
        assert play.condition("UpdateAvailable")[0] == "False"


async def test_automatic_rolls_to_a_newer_operator_but_never_back() -> None:
    async with playing() as play:
        before = await grown(play, updateStrategy={"onOperatorUpgrade": "Automatic"})
        await come(play, NEW)
        after = lives(play)
        assert not after & before
        assert images(play) == {NEW.image}
        await come(play, OLD)
        assert lives(play) == after
        assert play.condition("UpdateAvailable")[0] == "True"


async def test_a_downgrade_touches_nothing() -> None:
    async with playing() as play:
        await grown(play)
        play.annotate(update="1.1.0")
        await come(play, NEW)
        before = lives(play)
        await come(play, OLD)
        assert lives(play) == before
        assert images(play) == {NEW.image}


async def test_a_default_image_stays_whatever_else_is_edited() -> None:
    async with playing() as play:
        await grown(play)
        await come(play, NEW)
        play.edit({"durability": "buffered", "pools": [{"name": "large", "replicas": 1}]})
        await play.until_settled()
        assert images(play) == {OLD.image}, "pinned when first used, for all pools"
        assert play.condition("UpdateAvailable")[0] == "True", "it isn't this operator's image"
        play.annotate(update="1.1.0")
        await play.until_settled()
        assert images(play) == {NEW.image}
        assert play.condition("UpdateAvailable")[0] == "False"


async def test_an_image_of_the_spec_given_up_becomes_the_default_of_that_time() -> None:
    async with playing() as play:
        await grown(play, image="mine:1")
        await come(play, NEW)
        assert images(play) == {"mine:1"}
        play.edit({"image": ""})
        await play.until_settled()
        assert images(play) == {NEW.image}


async def test_a_new_operator_does_not_try_a_failed_template_again() -> None:
    async with playing(ready_within_s=0.0) as play:
        await grown(play)
        play.bad_images.add("broken")
        play.edit({"image": "broken"})
        await play.until(lambda: play.unready_most)
        play.age("cart-default-0", 60)
        await play.until(lambda: play.condition("Blocked")[1] == "RolloutFailed")
        for _ in range(4):
            await play.turn()
        before = lives(play)
        play.release = NEW
        play.restart()
        for _ in range(3):
            await play.turn()
        assert lives(play) == before
        assert play.condition("Blocked")[1] == "RolloutFailed"


async def test_an_image_changed_by_hand_in_the_set_is_not_taken_for_the_pinned_one() -> None:
    async with playing() as play:
        before = await grown(play)
        template = play.set()["spec"]["template"]
        template["spec"]["containers"][0]["image"] = "somebody:else"
        play.world.edit(
            kinds.STATEFUL_SET, "shop", "cart-default", {"spec": {"template": template}}
        )
        for _ in range(3):
            await play.turn()
        assert lives(play) == before, "no roll comes of it"


@pytest.mark.parametrize("release", [OLD, NEW], ids=["same", "newer"])
async def test_a_set_deleted_without_its_pods_comes_back(release: names.Release) -> None:
    async with playing() as play:
        before = await grown(play)
        await come(play, release)
        options = {"propagationPolicy": "Orphan"}
        play.world.remove(kinds.STATEFUL_SET, "shop", "cart-default", options)
        await play.until_settled()
        assert images(play) == {OLD.image}
        assert play.set()["spec"]["replicas"] == 3
        if release is OLD:
            assert lives(play) == before
        assert play.unready_most <= 1
        play.check()


# Live settings


async def test_live_edits_reach_nodes_without_a_restart() -> None:
    async with playing() as play:
        before = await grown(play)
        play.edit({"quorum": {"r": 1, "w": 3}, "limits": {"siblingsMax": 7}})
        await play.until_settled()
        assert lives(play) == before
        for node in play.nodes.values():
            assert node.settings["quorum"] == {"r": 1, "w": 3}
            assert node.settings["limits"]["siblingsMax"] == 7
        template = play.set()["spec"]["template"]
        play.world.remove(kinds.POD, "shop", "cart-default-1")
        await play.settle()
        assert play.nodes["cart-default-1"].settings["quorum"]["r"] == 1, "with nobody's help"
        play.edit({"replicas": 4})
        await play.until_settled()
        assert play.nodes["cart-default-3"].settings["quorum"] == {"r": 1, "w": 3}
        assert play.set()["spec"]["template"] == template


async def test_configurations_in_use_are_never_deleted() -> None:
    async with playing() as play:
        await grown(play)
        first = configurations(play)
        play.edit({"quorum": {"r": 1}, "durability": "buffered"})
        await play.turn()
        assert set(first) < set(configurations(play)), "pods still mount it"
        for _ in range(20):
            await play.turn()
            for pod in play.world.all(kinds.POD, "shop"):
                mounted = [
                    v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v
                ]
                assert set(mounted) <= set(configurations(play))
        assert not set(first) & set(configurations(play))


async def test_a_configuration_is_not_deleted_before_its_template_is_written() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"durability": "buffered"})
        play.world.fail("patch", kinds.STATEFUL_SET, code=409, reason="Conflict", times=2)
        await play.until_settled()
        deleted = {
            one.name
            for one in play.world.writes()
            if one.kind == kinds.CONFIG_MAP and one.verb == "delete"
        }
        assert not deleted & set(configurations(play))
        created = [
            one.name
            for one in play.world.writes()
            if one.kind == kinds.CONFIG_MAP and one.verb == "create"
        ]
        assert len(created) == len(set(created))


async def test_a_configuration_deleted_by_hand_is_made_again() -> None:
    async with playing() as play:
        before = await grown(play)
        play.edit({"quorum": {"r": 1}})
        await play.until_settled()
        (name,) = configurations(play)
        play.world.remove(kinds.CONFIG_MAP, "shop", name)
        await play.until_settled()
        assert lives(play) == before
        (made,) = configurations(play)
        play.world.remove(kinds.POD, "shop", "cart-default-0")
        await play.until_settled()
        mounted = play.world.find(kinds.POD, "shop", "cart-default-0")["spec"]["volumes"]
        assert made in [one["configMap"]["name"] for one in mounted if "configMap" in one]
        assert play.condition("Blocked")[0] == "False"
