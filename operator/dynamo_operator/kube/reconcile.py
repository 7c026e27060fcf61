"""Passes over one DynamoCluster: look, plan, act, report; again when something changes.

Owns the loop of one cluster and the report of a pass. No state in memory matters: whoever
begins anew finds the same thing to do. Forbidden: deciding (`kube_plan`), and writing anything
but the status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from dynamo_operator.kube import kinds, kube_plan, names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.carrying import Carrier
from dynamo_operator.kube.errors import KubeError, NamespaceEnding
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.kube_steps import Warn
from dynamo_operator.kube.observing import Network, Observer, now
from dynamo_operator.kube.status import refused_status, status
from dynamo_operator.kube.tasks import Reconciler
from dynamo_operator.kube.telling import Teller
from dynamo_operator.kube.world import Surroundings
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import Refused

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 1.0  # between passes while nodes move data: no event tells of that
STILL_SECONDS: Final = 3.0  # while something is waited for and nothing is seen to change


class ClusterPasses:
    """A Reconciler (see `tasks`): the passes over one cluster after another."""

    def __init__(self, api: Api, surroundings: Surroundings, network: Network) -> None:
        self._api = api
        self._surroundings = surroundings
        self._network = network

    async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
        """Passes until cancelled, or until the object of this uid is gone."""
        owner = names.Owner(name, namespace, uid)
        observer = Observer(self._api, self._surroundings, self._network)
        teller = Teller(self._api, owner)
        try:
            while True:
                woken.clear()
                pause_s = await self._pass(owner, observer, teller)
                if pause_s is None:
                    return
                try:
                    async with asyncio.timeout(pause_s):
                        await woken.wait()
                except TimeoutError:
                    pass
        finally:
            await observer.close()

    async def _pass(self, owner: names.Owner, observer: Observer, teller: Teller) -> float | None:
        """One look and what follows; the pause before the next, None if the object is gone."""
        found = await self._api.get(kinds.DYNAMO_CLUSTER, owner.namespace, owner.name)
        if found is None or found["metadata"]["uid"] != owner.uid:
            return None
        if found["metadata"].get("deletionTimestamp"):
            return None  # what was made for it is the garbage collector's now
        before = found.get("status") or {}
        generation = int(found["metadata"].get("generation", 1))
        value = {key: part for key, part in found.items() if key != "status"}
        cluster: DynamoCluster | None
        refused: tuple[Refused, ...] = ()
        try:
            cluster = parse(value)
        except SpecError as error:
            # What a schema without its rules let through. The last good spec goes on meanwhile.
            refused = tuple(Refused(one.path, one.text) for one in error.problems)
            cluster = await observer.accepted(owner)
        if cluster is None:
            problems = [str(one) for one in refused]
            teller.refused(problems)
            await self._report(owner, before, refused_status(before, problems, generation, now()))
            await teller.flush()
            return float("inf")
        sight = await observer.look(cluster, owner, before)
        made = kube_plan.plan(cluster, sight.world)
        made, warnings = replace(made, steps=(*refused, *made.steps)), list[Warn]()
        problem = ""
        try:
            if made.act and made.to_do:
                accepted = {**value, "metadata": _kept_metadata(value["metadata"])}
                carrier = Carrier(self._api, teller, observer.nodes, accepted, warnings)
                await carrier.carry_out(made, sight)
                problem = carrier.waits
        except NamespaceEnding:
            log.info("%s/%s goes with its namespace", owner.namespace, owner.name)
            return None
        except KubeError as error:
            problem = str(error)
            raise
        finally:
            shown = replace(made, steps=(*made.steps, *warnings))
            teller.plan(shown)
            told = status(sight.world, shown, sight.facts, generation, before, problem)
            teller.completed(before, told)
            await self._report(owner, before, told)
            await teller.flush()
        return _pause_s(made, still=told == before)

    async def _report(
        self, owner: names.Owner, before: Mapping[str, Any], told: dict[str, Any]
    ) -> None:
        """Nothing is written that stands there already."""
        if told != before:
            await self._api.apply_status(
                kinds.DYNAMO_CLUSTER, owner.namespace, owner.name, owner.uid, told
            )


def _kept_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """With the uid: what an earlier DynamoCluster of this name was is not carried out."""
    known = ("name", "namespace", "uid", "annotations")
    return {key: metadata[key] for key in known if key in metadata}


def _pause_s(made: KubePlan, *, still: bool) -> float:
    """How long nothing has to be looked at by itself: events and the resync wake it else."""
    if not made.to_do or not made.act:
        return float("inf")
    return STILL_SECONDS if still else BUSY_SECONDS


def builder(
    *,
    namespace: str,
    labels: Mapping[str, str],
    peers: Sequence[Mapping[str, Any]] = (),
    monitors: Mapping[str, str] | None = None,
    ready_within_s: float = 600.0,
    network: Network | None = None,
) -> Callable[[Api, names.Release], AbstractAsyncContextManager[Reconciler]]:
    """What `serving` makes its reconciler with; see `Surroundings`."""

    @asynccontextmanager
    async def build(api: Api, release: names.Release) -> AsyncIterator[Reconciler]:
        around = Surroundings(release, namespace, labels, tuple(peers), monitors, ready_within_s)
        yield ClusterPasses(api, around, network or Network())

    return build
