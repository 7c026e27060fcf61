"""Secrets and the ring's ConfigMap: lost, damaged, put back."""

import base64
import json

import pytest
from tests.operator.kube_acts import machine_of, power_off, settled
from tests.operator.kube_patches import Object
from tests.operator.kube_play import Play

from dynamo_operator.kube import kinds


async def turns(play: Play, count: int = 3) -> None:
    for _ in range(count):
        await play.turn()


def take(play: Play, kind: kinds.Kind, name: str) -> Object:
    """Deletes it; what it was."""
    found = play.world.find(kind, "shop", name)
    assert found is not None
    play.world.remove(kind, "shop", name)
    return found


def put_back(play: Play, found: Object) -> None:
    metadata = {key: found["metadata"][key] for key in ("name", "namespace", "labels")}
    play.world.add({**found, "metadata": metadata})


def pods(play: Play) -> set[str]:
    return {one["metadata"]["uid"] for one in play.world.all(kinds.POD, "shop")}


async def test_a_lost_identity_is_never_made_anew() -> None:
    """Nodes know the cluster by it: they go on, and nothing is done until it is put back."""
    async with settled() as play:
        before = pods(play)
        held = take(play, kinds.SECRET, "cart-identity")
        play.edit({"replicas": 4})
        await turns(play)
        assert play.world.find(kinds.SECRET, "shop", "cart-identity") is None
        status, reason, text = play.condition("Blocked")
        assert (status, reason) == ("True", "IdentityLost")
        assert "Secret cart-identity is gone" in text
        assert pods(play) == before
        assert play.condition("Available")[0] == "True", "which it is"
        put_back(play, held)
        await play.until_settled()
        assert len(play.pods()) == 4


async def test_another_identity_blocks() -> None:
    async with settled() as play:
        held = take(play, kinds.SECRET, "cart-identity")
        value = json.loads(base64.b64decode(held["data"]["identity.json"]))
        value["cluster"]["id"] = "0" * 32
        text = base64.b64encode(json.dumps(value).encode()).decode()
        put_back(play, {**held, "data": {"identity.json": text}})
        await turns(play)
        assert play.condition("Blocked")[1] == "IdentityLost"
        assert "is of cluster " + "0" * 32 in play.condition("Blocked")[2]


async def test_a_lost_admin_token_is_made_anew() -> None:
    async with settled() as play:
        before, old = pods(play), take(play, kinds.SECRET, "cart-admin")
        await play.until_settled()
        now = play.world.find(kinds.SECRET, "shop", "cart-admin")
        assert now is not None
        assert now["data"] != old["data"]
        assert pods(play) == before, "nodes take it up while they run"
        assert play.condition("Available")[0] == "True"


@pytest.mark.parametrize(
    ("kind", "name", "key", "text"),
    [
        (kinds.SECRET, "cart-identity", "identity.json", "bm90IGpzb24="),
        (kinds.SECRET, "cart-admin", "token", ""),
        (kinds.CONFIG_MAP, "cart-ring", "ring.json", "{}"),
        (kinds.CONFIG_MAP, "cart-ring", "ring.json", "nonsense"),
        (kinds.CONFIG_MAP, "cart-ring", "settled.json", "[]"),
        (kinds.CONFIG_MAP, "cart-ring", "accepted.json", "[]"),
        (kinds.CONFIG_MAP, "cart-ring", "accepted.json", "nonsense"),
        (kinds.CONFIG_MAP, "cart-ring", "given-up.json", "7"),
    ],
)
async def test_damaged_contents_block(kind: kinds.Kind, name: str, key: str, text: str) -> None:
    async with settled() as play:
        found = play.world.find(kind, "shop", name)
        assert found is not None
        good = found["data"].get(key)
        play.world.edit(kind, "shop", name, {"data": {key: text}})
        before = len(play.world.writes())
        play.edit({"replicas": 4})
        await turns(play)
        apart = (kinds.DYNAMO_CLUSTER, kinds.EVENT)
        assert [one for one in play.world.writes()[before:] if one.kind not in apart] == []
        status, reason, told = play.condition("Blocked")
        assert (status, reason) == ("True", "ContentsDamaged")
        assert name in told
        assert key in told
        play.world.edit(kind, "shop", name, {"data": {key: good}})
        await play.until_settled()
        assert play.condition("Blocked")[0] == "False"
        assert len(play.pods()) == 4


# The ring


async def test_a_lost_ring_is_taken_back_from_the_nodes() -> None:
    async with settled() as play:
        ring = play.ring
        play.speed = 0
        take(play, kinds.CONFIG_MAP, "cart-ring")
        await play.until_settled()
        assert play.ring == ring


async def test_nobody_makes_a_ring_up_while_one_is_silent() -> None:
    async with settled() as play:
        ring = play.ring
        take(play, kinds.CONFIG_MAP, "cart-ring")
        await power_off(play, machine_of(play, "cart-default-2"))
        await turns(play, 5)
        assert play.ring is None
        assert "wait for the status of cart-default-2" in play.condition("Progressing")[2]
        play.annotate(give_up="cart-default-2@0000000000000bad")
        await turns(play)
        assert play.ring is None, "that is another life of it"
        incarnation = next(
            one["incarnation"] for one in play.status["nodes"] if one["name"] == "cart-default-2"
        )
        play.annotate(give_up=f"cart-default-2@{incarnation}")
        await play.until(lambda: play.ring is not None)
        assert play.ring == ring


async def test_those_who_leave_are_asked_for_a_lost_ring_too() -> None:
    """The newest ring may be known to the leaver alone."""
    async with settled(replicas=4) as play:
        play.speed = 0
        play.edit({"replicas": 3})
        await play.until(lambda: play.ring is not None and play.ring.leaving)
        ring = play.ring
        await play.turn()
        assert play.nodes["cart-default-3"].disk.ring == ring
        take(play, kinds.CONFIG_MAP, "cart-ring")
        await power_off(play, machine_of(play, "cart-default-3"))
        await turns(play, 4)
        assert play.ring is None
        assert "cart-default-3" in play.condition("Progressing")[2]


async def test_volumes_of_an_earlier_cluster_are_asked_for_a_lost_ring() -> None:
    async with settled(replicas=5) as play:
        ring = play.ring
        play.world.remove(kinds.DYNAMO_CLUSTER, "shop", "cart")
        for _ in range(5):
            await play.settle()
        take(play, kinds.CONFIG_MAP, "cart-ring")
        play.apply(replicas=3, ring={"partitions": 16})
        await play.until(lambda: play.ring is not None)
        assert len(play.pods()) == 5, "any of them may know the newest"
        assert play.ring == ring
        await play.until_settled()
        assert len(play.pods()) == 3
        play.check()
