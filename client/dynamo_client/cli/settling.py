"""After the load: wait until the cluster is whole, and read back what was written.

Owns what `/cluster` says against a cluster's being whole, and how long and how often it is
read. Forbidden here: the load (`trial`) and what is promised (`dynamo_core.history_check`).
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from dynamo_client.cli.progress import Progress
from dynamo_client.cli.terminal import connect
from dynamo_client.cli.trial import Trial
from dynamo_client.client import DynamoClient
from dynamo_client.errors import DynamoClientError
from dynamo_core.history_check import check

_ASK_EVERY_S: Final = 0.5
READERS_MAX: Final = 5
"""Nodes through which every key is read at the end."""


async def settled(kv: DynamoClient, trial: Trial, seconds: float, timeout_ms: int) -> list[str]:
    """Wait until the cluster is whole, read every key through several nodes, until all is well.

    Bounded by `seconds`; what still lacks is returned. Repairs take their time,
    so a reading that isn't right is repeated; the last one is what counts.
    """
    began = trial.now()
    with Progress("settle", "keys read") as progress:
        while True:
            lacking = await not_whole(kv)
            late = trial.now() - began >= seconds
            progress.show(
                0, min(1.0, (trial.now() - began) / max(seconds, 1e-9)), "; ".join(lacking)
            )
            if not lacking or late:
                async with AsyncExitStack() as stack:
                    nodes = [
                        await stack.enter_async_context(connect(node, timeout_ms))
                        for node in kv.nodes[:READERS_MAX]
                    ]
                    await trial.read_all([kv, *nodes])
                report = check(trial.history)
                if late or (report.ok and not report.unchecked):
                    return lacking
            await asyncio.sleep(_ASK_EVERY_S)


async def not_whole(kv: DynamoClient) -> list[str]:
    """What keeps the cluster from being whole, as far as `/cluster` tells; [] if nothing does.

    Every node is asked, because each knows its own hints best.
    """
    try:
        views: list[Mapping[str, Any]] = [await kv.cluster()]
    except DynamoClientError as error:
        return [f"no node answers: {error}"]
    for node in kv.nodes:
        try:
            async with connect(node, 2_000) as one:
                views.append(await one.cluster())
        except DynamoClientError:
            continue  # the others say what is wrong with it
    found: dict[str, None] = {}
    for view in views:
        ring = view.get("ring")
        if isinstance(ring, dict) and not ring.get("settled", True):
            found["partitions are moving"] = None
        for node in view.get("nodes") or ():
            if node.get("state") not in ("up", "left", "leaving"):
                found[f"{node.get('name')} is {node.get('state')}"] = None
            if hints := node.get("hints_pending"):
                found[f"{node.get('name')} keeps {hints} hints"] = None
    return list(found)
