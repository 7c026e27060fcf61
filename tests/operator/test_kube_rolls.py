"""How pods are replaced: the template first, then one pod at a time, and the way back."""

from typing import Any

from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import kinds, names

IMAGE = "dynamo-node:2"


def image_of(play: Play, pod: str) -> str:
    found = play.world.find(kinds.POD, "shop", pod)
    return str(found["spec"]["containers"][0]["image"]) if found else ""


def uids(play: Play) -> dict[str, str]:
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in play.world.all(kinds.POD, "shop")}


def evicted(play: Play) -> list[str]:
    return [one.name for one in play.world.writes() if one.verb == "evict" and one.code == 201]


async def made(play: Play, **spec: Any) -> dict[str, str]:
    play.apply(**spec)
    await play.until_settled()
    play.unready_most = 0
    return uids(play)


async def test_a_new_image_reaches_one_pod_after_another_by_eviction() -> None:
    async with playing() as play:
        before = await made(play)
        play.edit({"image": IMAGE})
        await play.turn()
        assert play.set()["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE
        await play.until_settled()
        after = uids(play)
        assert all(after[name] != before[name] for name in before)
        assert {image_of(play, name) for name in after} == {IMAGE}
        assert sorted(evicted(play)) == sorted(before)
        assert play.unready_most == 1, "never two pods away"
        deleted = [w for w in play.world.writes() if w.verb == "delete" and w.kind == kinds.POD]
        assert not deleted
        play.check()


async def test_each_rolling_field_replaces_pods() -> None:
    for spec in (
        {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
        {"durability": "buffered"},
    ):
        async with playing() as play:
            before = await made(play)
            play.edit(spec)
            await play.until_settled()
            assert not set(before.values()) & set(uids(play).values()), spec
            assert play.unready_most == 1
            configs = [
                one["metadata"]["name"]
                for one in play.world.all(kinds.CONFIG_MAP, "shop")
                if "-config-" in one["metadata"]["name"]
            ]
            assert len(configs) == 1, "what nobody uses any more is deleted"


async def test_the_next_pod_waits_until_all_others_are_whole() -> None:
    async with playing() as play:
        await made(play)
        play.edit({"image": IMAGE})
        await play.until(lambda: evicted(play))
        back = evicted(play)[0]
        await play.settle()
        node = play.nodes[back]
        for hurt, heal in (
            ({"state": "recovering"}, {"state": "up"}),
            ({"ready": False}, {"ready": True}),
            ({"hints": {"cart-default-1": 3, "cart-default-2": 1}}, {"hints": {}}),
            ({"silent": True}, {"silent": False}),
        ):
            for name, value in hurt.items():
                setattr(node, name, value)
            for _ in range(3):
                await play.turn()
            assert evicted(play) == [back], hurt
            asked = [one.name for one in play.world.writes() if one.verb == "evict"]
            assert set(asked) == {back}, "not even asked for: the budget is the second line"
            assert play.condition("Progressing")[0] == "True"
            for name, value in heal.items():
                setattr(node, name, value)
        await play.until_settled()
        assert len(evicted(play)) == 3
        assert play.unready_most == 1


async def test_the_disruption_budget_is_the_arbiter() -> None:
    async with playing() as play:
        before = await made(play)
        budget = {
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "of-a-person", "namespace": "shop"},
            "spec": {
                "minAvailable": 3,
                "selector": {"matchLabels": names.selector("cart")},
            },
        }
        play.world.add(budget)
        play.edit({"image": IMAGE})
        for _ in range(5):
            await play.turn()
        assert uids(play) == before
        told = play.events("RollWaits")
        assert len(told) == 1, "told once"
        assert "of-a-person needs 3 healthy" in told[0]
        play.world.remove(kinds.BUDGET, "shop", "of-a-person")
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}


async def test_pods_that_serve_nobody_are_replaced_at_once() -> None:
    async with playing() as play:
        await made(play)
        play.bad_images.add("broken")
        play.edit({"image": "broken"})
        await play.until(lambda: evicted(play))
        first = evicted(play)[0]
        for _ in range(3):
            await play.turn()
        assert evicted(play) == [first], "nobody follows"
        play.edit({"image": IMAGE})
        await play.turn()
        await play.turn()
        assert image_of(play, first) == IMAGE, "replaced without an eviction"
        await play.until_settled()
        assert play.unready_most == 1


async def test_a_bad_revision_is_taken_back() -> None:
    async with playing(ready_within_s=0.0) as play:
        await made(play)
        good = play.set()["spec"]["template"]
        play.bad_images.add("broken")
        play.edit({"image": "broken"})
        await play.until(lambda: evicted(play))
        first = evicted(play)[0]
        play.age(first, 60)
        play.waiting[first] = ("ImagePullBackOff", "no such image")
        await play.until(lambda: play.condition("Blocked")[0] == "True")
        assert play.set()["spec"]["template"] == good
        state, reason, text = play.condition("Blocked")
        assert (state, reason) == ("True", "RolloutFailed")
        assert "ImagePullBackOff: no such image" in text
        play.waiting.clear()
        for _ in range(4):
            await play.turn()
        assert image_of(play, first) != "broken", "that pod is replaced at once"
        assert play.condition("Blocked")[1] == "RolloutFailed"
        assert "ImagePullBackOff: no such image" in play.condition("Blocked")[2]
        assert evicted(play) == [first]
        assert play.condition("Available")[0] == "True"
        assert play.unready_most == 1
        assert len(play.events("RolloutFailed")) == 1
        # The spec before heals it; the same bad one isn't tried again.
        play.edit({"image": ""})
        await play.until_settled()
        assert play.condition("Blocked")[0] == "False"
        touched = uids(play)
        play.edit({"image": "broken"})
        for _ in range(4):
            await play.turn()
        assert play.condition("Blocked")[1] == "RolloutFailed"
        assert uids(play) == touched
        play.edit({"image": IMAGE})
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
        assert play.condition("Blocked")[0] == "False"


async def test_one_failed_set_takes_all_back() -> None:
    """Several sets get a new template together; who has not tried it gets the old one back too."""
    async with playing(("a", "b", "c"), ready_within_s=0.0) as play:
        await made(play, zones=["a", "b", "c"])
        play.bad_images.add("broken")
        play.edit({"image": "broken"})
        await play.until(lambda: evicted(play))
        first = evicted(play)[0]
        play.age(first, 60)
        await play.until(lambda: play.condition("Blocked")[1] == "RolloutFailed")
        for _ in range(4):
            await play.turn()
        images = {
            one["spec"]["template"]["spec"]["containers"][0]["image"]
            for one in play.world.all(kinds.STATEFUL_SET, "shop")
        }
        assert "broken" not in images
        assert set(evicted(play)) == {first}
        play.edit({"image": IMAGE})
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
        assert play.unready_most == 1


async def test_a_roll_over_pools_and_zones_is_one_roll() -> None:
    async with playing(("a", "b", "a", "b")) as play:
        await made(play, zones=["a", "b"], pools=[{"name": "large", "replicas": 2}])
        assert len(play.pods()) == 5
        play.edit({"image": IMAGE})
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
        assert play.unready_most == 1


async def test_scaling_in_the_same_edit_as_a_roll() -> None:
    """A leftover that the ring doesn't name any more holds nothing up: see below."""
    async with playing() as play:
        await made(play, replicas=5)
        play.edit({"replicas": 3, "image": IMAGE})
        await play.until_settled()
        assert len(play.pods()) == 3
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
        assert play.unready_most <= 1
        play.check()
        play.edit({"replicas": 4, "image": "dynamo-node:3"})
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {"dynamo-node:3"}
        play.check()


async def test_two_that_hang_do_not_wait_for_each_other() -> None:
    """Nobody says more of them than that they aren't ready: no waiting reason, no answer."""
    async with playing(ready_within_s=1800.0) as play:
        await made(play)
        play.bad_images.add("broken")
        play.edit({"image": "broken"})
        await play.until(lambda: evicted(play))
        other = next(name for name in play.pods() if name not in evicted(play))
        play.world.remove(kinds.POD, "shop", other)
        await play.turn()
        play.edit({"image": IMAGE})
        await play.until_settled()
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
        play.check()


async def test_a_leftover_with_an_older_template_does_not_bar_the_next_ring() -> None:
    """It was to be evicted first, which the budget refuses while a ring is on its way."""
    async with playing() as play:
        await made(play, replicas=5)
        play.edit({"replicas": 3})
        await play.until(lambda: [m.name for m in play.ring.leaving] == ["cart-default-3"])
        assert "cart-default-4" in play.pods(), "not named any more, and still there"
        play.edit({"image": IMAGE})
        await play.until_settled()
        assert len(play.pods()) == 3
        assert {image_of(play, name) for name in play.pods()} == {IMAGE}
