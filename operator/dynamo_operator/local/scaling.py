"""What `dynamo local scale` and `give-up` do: change what is wanted, and watch it happen.

Owns the checks that come before anything is written down, so that what can't be
is refused while somebody looks. The supervisor does the rest, from what the
folder says. Forbidden: deciding steps (`plan`), and doing them (`carrying`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from dynamo_core.errors import CallerError
from dynamo_operator.giving_up import refusal
from dynamo_operator.local import acts, start
from dynamo_operator.local.folder import Folder
from dynamo_operator.local.observing import Sight
from dynamo_operator.local.processes import alive
from dynamo_operator.spec import DEFAULT_POOL, DynamoCluster

ACCEPTED_SECONDS = 20.0


def scale(folder: Folder, replicas: int, pool: str) -> tuple[str, bool]:
    """Sets the nodes of a pool; (what was done, for people; whether it is carried out now).

    It counts until the manifest is edited, as `kubectl scale` does until the next apply.
    Raises CallerError with the reason if it can't be, and nothing is changed then.
    """
    state = folder.state()
    source = start.source_of(state)
    before = start.load(source, folder.path).cluster
    scaled = {**dict(source.scaled), pool: replicas}
    # An older `up --replicas` speaks of the default pool too: this is newer.
    kept = None if pool == DEFAULT_POOL else source.replicas
    source = replace(source, replicas=kept, scaled=tuple(sorted(scaled.items())))
    wanted = start.load(source, folder.path)
    refused = start.refusals(folder, wanted.cluster)
    if refused:
        raise CallerError("\n".join(refused))
    if wanted.cluster.spec.paused:
        raise CallerError(
            "the manifest says paused, so nothing would be changed, and the edit that ends that "
            "would end this too: set the replicas there"
        )
    start.check_ports_free(state, wanted.cluster)
    acts.hand_over(folder, source)
    was = _replicas(before, pool)
    name = f"{folder.cluster_name}, pool {pool}"
    told = f"{name}: from {was} to {replicas} node(s)"
    if was == replicas:
        told = f"{name}: {replicas} node(s), as before"
    if not alive(state.supervisor):
        return f"{told}, once the cluster is up (`dynamo local up`)", False
    if wanted.cluster.spec.dry_run:
        return f"{told}, were it not for dryRun in the manifest", False
    asyncio.run(
        acts.wait_until(
            folder,
            lambda now: now.observed.accepted == wanted.cluster,
            "the supervisor has taken it up",
            ACCEPTED_SECONDS,
        )
    )
    return told, True


def follow(folder: Folder, show: Callable[[Sight], None]) -> None:
    """Returns when nothing is left to do; shows each look. Raises NotRunning."""

    def done(now: Sight) -> bool:
        show(now)
        named = [member.name for member in now.ring.members] if now.ring else []
        return sorted(named) == sorted(now.wanted) and now.settled and not now.state.plan

    asyncio.run(acts.wait_until(folder, done, "all data is where it belongs", float("inf")))


def give_up(folder: Folder, name: str) -> str:
    """A person gives up a node and whatever only it holds; returns what was done.

    Raises CallerError with the reason if that can't be now; then nothing is changed.
    """
    acts.supervisor_or_fail(folder)
    now = asyncio.run(acts.sight(folder))
    ring = now.ring
    everybody = (*ring.members, *ring.leaving) if ring else ()
    member = next((one for one in everybody if one.name == name), None)
    if ring is None or member is None:
        raise CallerError(f"the ring doesn't name {name}: there is nothing to give up")
    reason = refusal(ring, member, now.observed.nodes)
    if reason:
        raise CallerError(reason)
    with folder.edit() as state:
        record = state.nodes[name]
        if alive(record.process):
            raise CallerError(f"{name} runs again: only a node that is down can be given up")
        record.wanted, record.act = "down", "give-up"
        state.give_up.append(member.number)

    def given_up(seen: Sight) -> bool:
        named = (*seen.ring.members, *seen.ring.leaving) if seen.ring else ()
        return all(one.number != member.number for one in named)

    asyncio.run(acts.wait_until(folder, given_up, f"a ring without {name} is decided"))
    back = f"; `dynamo local start {name}` lets it join anew" if name in now.wanted else ""
    return f"{name} is given up{back}"


def _replicas(cluster: DynamoCluster, pool: str) -> int:
    return next((one.replicas for one in cluster.spec.pools if one.name == pool), 0)
