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
from dataclasses import dataclass, replace
from typing import Any, Final

from dynamo_operator.kube import kinds, kube_plan, names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.carrying import Carrier
from dynamo_operator.kube.errors import KubeError, NamespaceEnding
from dynamo_operator.kube.kinds_of_work import kind_of_work, outcome_of
from dynamo_operator.kube.kube_plan import KubePlan
from dynamo_operator.kube.kube_steps import Warn
from dynamo_operator.kube.measures import Measures, Pass
from dynamo_operator.kube.observing import Network, Observer, now
from dynamo_operator.kube.status import refused_status, status
from dynamo_operator.kube.tasks import Reconciler
from dynamo_operator.kube.telling import Teller
from dynamo_operator.kube.tracing import ClusterTracing, PassTracing, Traced
from dynamo_operator.kube.world import Surroundings
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spans import span
from dynamo_operator.spec import DynamoCluster
from dynamo_operator.steps import Refused

log = logging.getLogger(__name__)

BUSY_SECONDS: Final = 1.0  # between passes while nodes move data: no event tells of that
NOTE_FIELD: Final = ".status.operation.trace"  # as the API server names what it doesn't know
STILL_SECONDS: Final = 3.0  # while something is waited for and nothing is seen to change


@dataclass(frozen=True, slots=True)
class Watched:
    """How a pass is told to whoever measures and traces."""

    measured: Pass
    traced: PassTracing

    def planned(
        self,
        kind: str,
        steps: Sequence[str],
        outcome: str,
        before: Mapping[str, Any],
        epoch: int | None,
    ) -> None:
        """See `PassTracing.planned`."""
        self.measured.outcome = outcome
        self.traced.planned(kind, steps, outcome, before, epoch)


class ClusterPasses:
    """A Reconciler (see `tasks`): the passes over one cluster after another."""

    def __init__(
        self,
        api: Api,
        surroundings: Surroundings,
        network: Network,
        measures: Measures | None = None,
        traced: Traced | None = None,
    ) -> None:
        self._api = api
        self._surroundings = surroundings
        self._network = network
        self._measures = measures or Measures()
        self._traced = traced or Traced()
        self._tracing: dict[str, ClusterTracing] = {}  # by uid: beyond a pass that fails
        self._notes_traces = True
        """Until the API server has said that it knows no such field."""

    async def run(self, namespace: str, name: str, uid: str, woken: asyncio.Event) -> None:
        """Passes until cancelled, or until the object of this uid is gone."""
        owner = names.Owner(name, namespace, uid)
        observer = Observer(self._api, self._surroundings, self._network)
        teller = Teller(self._api, owner)
        tracing = self._tracing.setdefault(uid, self._traced.cluster(owner))
        try:
            while True:
                woken.clear()
                pause_s = await self._pass(owner, observer, teller, tracing)
                if pause_s is None:
                    self._forget(owner)
                    return
                try:
                    async with asyncio.timeout(pause_s):
                        await woken.wait()
                except TimeoutError:
                    pass
        except asyncio.CancelledError:
            self._forget(owner)
            raise
        finally:
            await observer.close()

    def _forget(self, owner: names.Owner) -> None:
        self._measures.gone(owner.namespace, owner.name)
        self._tracing.pop(owner.uid, None)

    async def _pass(
        self,
        owner: names.Owner,
        observer: Observer,
        teller: Teller,
        tracing: ClusterTracing | None = None,
    ) -> float | None:
        """One look and what follows; the pause before the next, None if the object is gone."""
        tracing = tracing or self._traced.cluster(owner)
        with self._measures.a_pass() as measured:
            found = await self._api.get(kinds.DYNAMO_CLUSTER, owner.namespace, owner.name)
            if found is None or found["metadata"]["uid"] != owner.uid:
                measured.outcome = "gone"
                tracing.gone(None)
                return None
            if found["metadata"].get("deletionTimestamp"):
                measured.outcome = "gone"
                tracing.gone(found)
                return None  # what was made for it is the garbage collector's now
            with tracing.a_pass(found) as traced:
                watched = Watched(measured, traced)
                pause_s = await self._reconcile(owner, found, observer, teller, watched)
            if pause_s is None:
                tracing.gone(found)
            return pause_s

    async def _reconcile(
        self,
        owner: names.Owner,
        found: Mapping[str, Any],
        observer: Observer,
        teller: Teller,
        watched: Watched,
    ) -> float | None:
        """Of the DynamoCluster that was found; None if its namespace ends."""
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
            watched.planned("", (), "refused", before, None)
            told = refused_status(before, problems, generation, now())
            await self._report(owner, before, told, watched)
            await teller.flush()
            return float("inf")
        with span("observe"):
            sight = await observer.look(cluster, owner, before)
        made = kube_plan.plan(cluster, sight.world)
        made, warnings = replace(made, steps=(*refused, *made.steps)), list[Warn]()
        ring = sight.world.observed.ring
        steps = [str(step) for step in made.to_do] if made.act else []
        outcome = outcome_of(made)
        watched.planned(kind_of_work(made), steps, outcome, before, ring.epoch if ring else None)
        problem = ""
        try:
            if made.act and made.to_do:
                accepted = {**value, "metadata": _kept_metadata(value["metadata"])}
                did = self._measures.did
                carrier = Carrier(self._api, teller, observer.nodes, accepted, warnings, did=did)
                await carrier.carry_out(made, sight)
                problem = carrier.waits
        except NamespaceEnding:
            log.info("%s/%s goes with its namespace", owner.namespace, owner.name)
            watched.measured.outcome = "gone"
            return None
        except KubeError as error:
            problem = str(error)
            watched.measured.outcome = "failed"
            raise
        finally:
            shown = replace(made, steps=(*made.steps, *warnings))
            teller.plan(shown)
            told = status(sight.world, shown, sight.facts, generation, before, problem)
            if self._notes_traces:
                told = watched.traced.noted(told)
            teller.completed(before, told)
            await self._report(owner, before, told, watched)
            await teller.flush()
        return _pause_s(made, still=told == before)

    async def _report(
        self,
        owner: names.Owner,
        before: Mapping[str, Any],
        told: dict[str, Any],
        watched: Watched,
    ) -> None:
        """Nothing is written that stands there already."""
        try:
            await self._write(owner, before, told)
        except KubeError as error:
            shown = {**told.get("operation", {})}
            if NOTE_FIELD not in str(error) or shown.pop("trace", None) is None:
                raise
            self._notes_traces = False
            log.warning("traces aren't noted: the installed definition is too old: %s", error)
            told = {**told, "operation": shown}
            await self._write(owner, before, told)
        watched.traced.reported = True
        self._measures.stands(owner.namespace, owner.name, told)

    async def _write(
        self, owner: names.Owner, before: Mapping[str, Any], told: dict[str, Any]
    ) -> None:
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
    measures: Measures | None = None,
    traced: Traced | None = None,
) -> Callable[[Api, names.Release], AbstractAsyncContextManager[Reconciler]]:
    """What `serving` makes its reconciler with; see `Surroundings`."""

    @asynccontextmanager
    async def build(api: Api, release: names.Release) -> AsyncIterator[Reconciler]:
        around = Surroundings(release, namespace, labels, tuple(peers), monitors, ready_within_s)
        yield ClusterPasses(api, around, network or Network(), measures, traced)

    return build
