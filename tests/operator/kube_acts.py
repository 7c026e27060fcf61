"""What happens to an emulated cluster in plays: machines that die, volumes that are lost."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.operator.kube_machines import OUT_OF_SERVICE
from tests.operator.kube_patches import Object
from tests.operator.kube_play import Play, playing

from dynamo_operator.kube import kinds, names

FEW = {"partitions": 16}


@contextlib.asynccontextmanager
async def settled(
    zones: tuple[str, ...] = ("",) * 5, *, local: bool = False, **spec: Any
) -> AsyncIterator[Play]:
    """A play whose cluster is made and at rest. local: volumes can be used by one Node only."""
    async with playing(zones) as play:
        play.machines.local_volumes = local
        play.apply(**{"replicas": 3, "ring": FEW, **spec})
        await play.until_settled()
        yield play


def storage(**fields: Any) -> dict[str, Any]:
    return {"size": "10Gi", "whenDeleted": "Retain", "whenScaled": "Delete", **fields}


def claim(play: Play, pod: str) -> Object:
    found = play.world.find(kinds.CLAIM, "shop", f"data-{pod}")
    assert found is not None, f"{pod} has no claim"
    return found


def mark(play: Play, pod: str) -> str | None:
    return claim(play, pod)["metadata"].get("annotations", {}).get(names.DRAINED_EPOCH)


def machine_of(play: Play, pod: str) -> str:
    found = play.world.find(kinds.POD, "shop", pod)
    assert found is not None
    return str(found["spec"]["nodeName"])


async def power_off(play: Play, machine: str) -> None:
    """Its Node becomes NotReady; nobody knows more."""
    play.machines.down.add(machine)
    _ready(play, machine, "Unknown")
    for pod in play.world.all(kinds.POD, "shop"):
        if pod["spec"].get("nodeName") == machine and pod["metadata"]["name"] in play.nodes:
            await play._stop(pod["metadata"]["name"])


def power_on(play: Play, machine: str) -> None:
    play.machines.down.discard(machine)
    _ready(play, machine, "True")


def _ready(play: Play, machine: str, state: str) -> None:
    node = play.world.find(kinds.NODE, None, machine)
    assert node is not None
    conditions = [{"type": "Ready", "status": state}]
    play.world.store.set_status(kinds.NODE, node, {"conditions": conditions})


def taint(play: Play, machine: str) -> None:
    taints = [{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]
    play.world.edit(kinds.NODE, None, machine, {"spec": {"taints": taints}})


async def lose_volume(play: Play, pod: str) -> str:
    """The volume of a pod is gone; its node ends with it. The name that the volume had."""
    volume = str(claim(play, pod)["spec"]["volumeName"])
    play.world.remove(kinds.VOLUME, None, volume)
    node = play.nodes[pod]
    node.ready = False
    if node.runner is not None:
        await node.runner.cleanup()
        node.runner = None
    return volume


def events(play: Play, reason: str) -> list[str]:
    found = play.world.all(kinds.EVENT, "shop")
    return [one["note"] for one in found if one["reason"] == reason]
