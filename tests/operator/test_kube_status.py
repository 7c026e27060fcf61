"""What the status says in each situation, and what is told as an event, once."""

import copy
from typing import Any

import jsonschema
import pytest
from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import crd, kinds
from dynamo_operator.kube.errors import Forbidden

CONDITIONS = ["Available", "Progressing", "Degraded", "Blocked", "UpdateAvailable"]


def judged(play: Play) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition, after the schema has been asked."""
    schema = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(play.status, schema["properties"]["status"])
    _nothing_unknown(play.status, schema["properties"]["status"])
    found = {one["type"]: one for one in play.status["conditions"]}
    assert list(found) == CONDITIONS
    for one in found.values():
        assert one["message"], one
        assert one["lastTransitionTime"], one
    return {kind: (one["status"], one["reason"]) for kind, one in found.items()}


def _nothing_unknown(value: Any, schema: dict[str, Any]) -> None:
    """The API server drops fields that the schema doesn't name: they would never be seen."""
    if isinstance(value, dict):
        for key, part in value.items():
            assert key in schema["properties"], key
            _nothing_unknown(part, schema["properties"][key])
    elif isinstance(value, list):
        for part in value:
            _nothing_unknown(part, schema["items"])


async def grown(play: Play, **spec: Any) -> None:
    play.apply(**spec)
    await play.until_settled()


async def test_from_nothing_to_rest() -> None:
    async with playing() as play:
        play.apply()
        await play.turn()
        told = judged(play)
        assert told["Available"] == ("False", "NoRing")
        assert told["Progressing"] == ("True", "Create")
        assert told["Degraded"][0] == "False"
        await play.until_settled()
        assert judged(play) == {
            "Available": ("True", "QuorumAvailable"),
            "Progressing": ("False", "Settled"),
            "Degraded": ("False", "Whole"),
            "Blocked": ("False", "NotBlocked"),
            "UpdateAvailable": ("False", "UpToDate"),
        }
        assert play.events("Settled") == ["everything is as the spec says"]
        assert len(play.events("RingDecided")) == 1


async def test_available_is_what_nodes_say_not_what_pods_look_like() -> None:
    async with playing() as play:
        await grown(play)
        since = _since(play, "Available")
        play.nodes["cart-default-0"].state = "recovering"
        await play.turn()
        assert judged(play)["Available"][0] == "True", "two of three still answer reads"
        assert judged(play)["Degraded"] == ("True", "NodesNotWhole")
        assert _since(play, "Available") == since
        play.nodes["cart-default-1"].state = "recovering"
        await play.turn()
        assert judged(play)["Available"] == ("False", "NoReadQuorum")
        assert "cart-default-0, cart-default-1" in play.condition("Available")[2]
        play.nodes["cart-default-0"].state = play.nodes["cart-default-1"].state = "up"
        for node in play.nodes.values():
            node.ready = node.name == "cart-default-2"
        await play.turn()
        assert judged(play)["Available"] == ("False", "NoWriteQuorum")
        assert play.status["nodesReady"] == 1


async def test_who_cannot_be_asked_makes_it_unknown() -> None:
    async with playing() as play:
        await grown(play)
        for name in ("cart-default-0", "cart-default-1"):
            play.nodes[name].silent = True
        await play.turn()
        assert judged(play)["Available"] == ("Unknown", "NodesSilent")
        assert [n["state"] for n in play.status["nodes"]] == ["suspect", "suspect", "up"]
        # Two are known to be down: whatever the third one says, there is no quorum.
        for name in ("cart-default-0", "cart-default-1"):
            play.waiting[name] = ("CrashLoopBackOff", "back-off")
        play.nodes["cart-default-2"].silent = True
        await play.turn()
        assert judged(play)["Available"] == ("False", "NoWriteQuorum")
        assert "CrashLoopBackOff: back-off" in play.condition("Degraded")[2]


async def test_a_lost_ring_is_unknown_not_absent() -> None:
    async with playing() as play:
        await grown(play)
        play.nodes["cart-default-0"].silent = True
        play.world.remove(kinds.CONFIG_MAP, "shop", "cart-ring")
        await play.turn()
        assert judged(play)["Available"][0] == "Unknown"
        play.nodes["cart-default-0"].silent = False
        await play.until_settled()
        assert judged(play)["Available"][0] == "True"


async def test_nothing_is_written_while_nothing_changes() -> None:
    async with playing() as play:
        await grown(play)
        play.restart()
        before = len(play.world.writes())
        for _ in range(3):
            await play.turn()
        play.nodes["cart-default-0"].silent = True
        await play.turn()
        await play.turn()
        written = len(play.world.writes())
        assert written == before + 3, "the budget that lets nobody go now, the status by that"
        for _ in range(3):
            await play.turn()
        assert len(play.world.writes()) == written


async def test_a_refused_spec_leaves_the_rest_true() -> None:
    """Fewer nodes than replicas of a key: the definition's rules say no; so does the operator."""
    async with playing() as play:
        await grown(play)
        play.edit({"replicas": 2})
        for _ in range(3):
            await play.turn()
        told = judged(play)
        assert told["Blocked"] == ("True", "SpecRefused")
        assert told["Available"][0] == "True"
        assert told["Progressing"] == ("False", "SpecRefused")
        assert len(play.pods()) == 3
        assert play.set()["spec"]["replicas"] == 3
        assert len(play.events("SpecRefused")) == 1
        assert play.status["observedGeneration"] == play.applied["metadata"]["generation"]
        for name in ("cart-default-0", "cart-default-1"):
            play.nodes[name].ready = False
        await play.turn()
        assert judged(play)["Available"][0] == "False", "it goes on looking"
        for node in play.nodes.values():
            node.ready = True
        play.edit({"replicas": 3})
        await play.until_settled()
        assert judged(play)["Blocked"][0] == "False"


async def test_an_immutable_field_is_refused_by_name() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"ring": {"partitions": 32}, "replicas": 4})
        await play.turn()
        assert judged(play)["Blocked"] == ("True", "SpecRefused")
        assert "spec.ring.partitions" in play.condition("Blocked")[2]
        assert len(play.pods()) == 3, "half an edit is what nobody asked for"


async def test_a_spec_that_cannot_be_read_from_the_start() -> None:
    async with playing() as play:
        play.apply(replicas=2)
        await play.turn()
        told = judged(play)
        assert told["Blocked"] == ("True", "SpecRefused")
        assert told["Available"][0] == "Unknown"
        assert not play.pods()
        play.edit({"replicas": 3})
        await play.until_settled()
        assert judged(play)["Blocked"][0] == "False"


async def test_no_room_blocks_a_scale_down_and_changes_nothing() -> None:
    async with playing() as play:
        await grown(play, replicas=4)
        for node in play.nodes.values():
            node.disk_space = {
                "state": "ok",
                "free_bytes": 1 << 20,
                "reserve_bytes": 0,
                "stored_bytes": 1 << 30,
            }
        epoch = play.ring.epoch
        play.edit({"replicas": 3})
        for number in range(4):
            play.nodes["cart-default-0"].disk_space["stored_bytes"] += number
            await play.turn()
        told = judged(play)
        assert told["Blocked"][0] == "True"
        assert "cart-default-3 can't leave" in play.condition("Blocked")[2]
        assert play.ring.epoch == epoch
        assert len(play.pods()) == 4
        assert len(play.events("Blocked")) == 1
        play.edit({"replicas": 4})
        await play.until_settled()
        assert judged(play)["Blocked"][0] == "False"


async def test_paused_reports_and_writes_nothing_else() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"paused": True, "replicas": 5, "image": "other:1"})
        await play.turn()
        before = copy.deepcopy(play.world.store.everything())
        play.nodes["cart-default-0"].ready = False
        play.world.edit(kinds.STATEFUL_SET, "shop", "cart-default", {"spec": {"replicas": 3}})
        for _ in range(2):
            await play.turn()
        told = judged(play)
        assert told["Progressing"] == ("False", "Paused")
        assert told["Degraded"][0] == "True"
        assert "operation" not in play.status
        mine = [w for w in play.world.writes() if w.agent == "direct"][-2:]
        assert {(w.verb, w.sub) for w in mine} == {("apply", "status")}
        assert len(play.pods()) == 3
        assert len(before) == len(play.world.store.everything())
        play.edit({"paused": False})
        play.nodes["cart-default-0"].ready = True
        await play.until_settled()
        assert len(play.pods()) == 5


async def test_dry_run_tells_the_exact_steps() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"dryRun": True, "replicas": 4, "image": "other:1"})
        before = len([w for w in play.world.writes() if w.sub != "status"])
        await play.turn()
        told = judged(play)
        assert told["Progressing"] == ("False", "DryRun")
        steps = play.status["plan"]
        assert "scale StatefulSet cart-default from 3 to 4" in steps
        assert "change the pod template of StatefulSet cart-default" in steps
        assert "decide the next ring: cart-default-3 joins" in steps
        assert len([w for w in play.world.writes() if w.sub != "status"]) == before
        play.edit({"dryRun": False})
        await play.until_settled()
        assert len(play.pods()) == 4
        assert "plan" not in play.status


async def test_an_operation_tells_what_moves() -> None:
    async with playing(speed=0) as play:
        await grown(play)
        play.edit({"replicas": 4})
        await play.until(lambda: play.status.get("ring", {}).get("epoch") == 2)
        move = {"from": "cart-default-0", "to": "cart-default-3", "partition": 1}
        node = play.nodes["cart-default-3"]
        node.transfers = [
            {**move, "bytes_done": 100, "bytes_total": 1000, "bytes_per_second": 50, "stalled": ""}
        ]
        await play.turn()
        judged(play)
        told = play.status["operation"]
        assert told["bytesDone"] == 100
        assert told["bytesTotal"] == 1000
        assert told["etaSeconds"] == 18
        assert told["stalled"] is False
        node.transfers[0] |= {"bytes_per_second": 0, "stalled": "cart-default-0 is busy"}
        await play.turn()
        judged(play)
        told = play.status["operation"]
        assert told["stalled"] is True
        assert told["step"].endswith("; cart-default-3: cart-default-0 is busy")
        assert "etaSeconds" not in told, "nobody knows"


async def test_a_role_of_one_namespace_says_what_it_cannot_see() -> None:
    async with playing() as play:
        play.world.grant(cluster_wide=False)
        await grown(play)
        judged(play)
        text = play.condition("Degraded")[2]
        assert "Nodes, PersistentVolumes, StorageClasses" in text


async def test_an_error_of_the_server_is_told() -> None:
    async with playing() as play:
        await grown(play)
        play.edit({"replicas": 4})
        play.world.fail("patch", kinds.STATEFUL_SET, code=403, reason="Forbidden", times=1)
        with pytest.raises(Forbidden):
            await play.turn()
        assert judged(play)["Progressing"] == ("True", "Retrying")
        assert "StatefulSet shop/cart-default" in play.condition("Progressing")[2]
        await play.until_settled()


def _since(play: Play, kind: str) -> str:
    return next(c["lastTransitionTime"] for c in play.status["conditions"] if c["type"] == kind)
