"""Handover plays: a cluster whose clients go on while slots move, and who watches over them.

Owns the words that plays of handover share, and the watch: whoever takes a slot over has
all of the sealed copy, and what is deleted a present holder has on its disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from tests.sim import play as words
from tests.sim.play import PATIENCE_S, Play, configured
from tests.sim.shape import Shape
from tests.sim.workload import Clients
from tests.sim.world import Machine, World

from dynamo_core import objects, records
from dynamo_core.frames import HEADER
from dynamo_core.handover import Custody, Effect
from dynamo_core.handover_messages import (
    What,
    unpack_pull,
)
from dynamo_core.history_check import check
from dynamo_core.wire import Op, Type
from dynamo_node.config import Limits, Timing
from dynamo_node.digests import partition_range
from dynamo_node.node import Node
from dynamo_node.storage import OBJECTS

FAST = replace(Timing(), reap_delay_ms=200)


class Busy(Play):
    """A cluster with many keys, whose clients go on while it is changed."""

    def __init__(self, seed: int, nodes: int, shape: Shape, **config: Any) -> None:
        self.world = World(seed, shape)
        for machine in self.world.machines:
            machine.config = configured(machine.config, **config)
        self._config = config
        self.clients = Clients(self.world, Random(f"{seed}/clients"))
        self.world.form()

    def ends(self) -> None:
        """All operations have ended, and nothing moves; what they were told holds."""
        world, history = self.world, self.clients.history
        world.run_until(lambda: not self.clients.unfinished, PATIENCE_S)
        self.until_settled()
        world.run_until(
            lambda: not words.whole_run._unsettled(world, self.clients),
            120.0,
            lambda: "because " + words.whole_run._unsettled(world, self.clients),
        )
        history.healed_at = world.now
        for key in self.clients.keys:
            self.clients.call(Op.GET, key, 99, None)
        world.run_until(lambda: not self.clients.unfinished, PATIENCE_S)
        words.whole_run._record_copies(world, self.clients)
        self.clients.record_mints()
        report = check(history)
        assert not report.violations, "\n".join(map(str, report.violations))


@contextmanager
def busy(
    seed: int,
    nodes: int = 3,
    over_s: float = 6.0,
    per_s: int = 60,
    limits: Limits | None = None,
    **shape: Any,
) -> Iterator[Busy]:
    shape = {"keys": 60, "clients": 6, **shape, "operations": int(per_s * over_s)}
    whole = Shape(nodes=nodes, over_s=over_s, **shape)
    play = Busy(seed, nodes, whole, limits=limits or Limits())
    try:
        yield play
    finally:
        play.world.close()


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever takes a slot over has all of the sealed copy; what is deleted, a holder has."""
    worlds: list[World] = []
    real_init = World.__init__
    broken: list[str] = []

    def init(self: World, *more: Any) -> None:
        real_init(self, *more)
        worlds.append(self)

    def machine(number: int) -> Machine | None:
        found = [m for m in worlds[-1].machines if m.node is not None]
        return next((m for m in found if m.node.topology.number == number), None)

    def lacking(partition: int, there: Machine, here: Any) -> list[bytes]:
        """Keys of which `there` has something that the records `here` don't."""
        ring = there.node.topology.ring
        lacks = []
        low, high = partition_range(ring, partition)
        for place, data in there.node.disk.store.scan(OBJECTS, low, high, 10_000):
            theirs, mine = records.object_of(data), here.get(place)
            mine = None if mine is None else records.object_of(mine)
            if mine is None or objects.merge_bytes(mine, theirs) != mine:
                lacks.append(place)
        return lacks

    real_walked, real_covered = Custody.walked, Custody.on_covered

    def walked(self: Custody, slot: int, source: Any, reap_round: int, w: int) -> Effect:
        effect = real_walked(self, slot, source, reap_round, w)
        taken, old, me = self.held.get(slot), machine(source.holder), machine(self.me)
        if (
            taken is not None
            and old is not None
            and slot in old.node.custodies.of(self.partition).seals
        ):
            store = me.node.disk.store
            here = {**store._held[OBJECTS], **store._batch_now[OBJECTS]}
            if keys := lacking(self.partition, old, here):
                broken.append(f"{me.name} takes {self.partition} over and lacks {keys}")
        return effect

    def covered(self: Custody, slot: int, token: Any, theirs: bytes, root: bytes) -> Effect:
        effect = real_covered(self, slot, token, theirs, root)
        if Effect.EMPTY in effect:
            old = machine(self.me)
            holder = worlds[-1].named(old.node.topology.host_name(self.row[slot].holder))
            if keys := lacking(self.partition, old, holder.disk.synced[OBJECTS]):
                broken.append(f"{old.name} deletes {keys}, which {holder.name} lacks")
        return effect

    real_ended = Node._ended

    def ended(self: Node, task: Any) -> None:
        if not task.cancelled() and task.exception() is not None:
            broken.append(f"a task of {self.config.name} failed: {task.exception()!r}")
        real_ended(self, task)

    monkeypatch.setattr(Node, "_ended", ended)
    monkeypatch.setattr(World, "__init__", init)
    monkeypatch.setattr(Custody, "walked", walked)
    monkeypatch.setattr(Custody, "on_covered", covered)
    yield
    assert not broken, broken


def moved(before: Any, after: Any) -> int:
    """How many slots have to move between two rings."""
    pairs = zip(before.slots, after.slots, strict=True)
    return sum(len({*new} - {*old}) for old, new in pairs)


def totals(play: Play) -> list[Any]:
    return [m.node.transfers.totals for m in play.world.machines if m.node is not None]


def until_frame(play: Play, kind: Type, to: Machine | None = None) -> bool:
    """Run until such a frame has been sent."""
    seen: list[float] = []

    def sent(source: str, target: str, frame: bytes) -> None:
        if frame[4] == kind and (to is None or target == to.name):
            seen.append(play.world.now)

    play.world.net.on_frame = sent
    until = play.world.now + 10.0
    while not seen and play.world.now < until:
        play.world.run_for(0.0001)
    play.world.net.on_frame = None
    return bool(seen)


def hold_pages(
    play: Play, holder: Machine, successor: Machine, what: What = What.PAGE
) -> list[float]:
    """What `holder` says to `successor` is held once that is asked of the key's partition."""
    held: list[float] = []
    asked_for = play.place.partition.to_bytes(2, "big")

    def sent(source: str, target: str, frame: bytes) -> None:
        if held or frame[4] != Type.PULL or (source, target) != (successor.name, holder.name):
            return
        pull = unpack_pull(frame[HEADER.size :])
        if pull.what is what and frame[HEADER.size :][:2] == asked_for:
            held.append(play.world.now)
            play.world.block(holder.name, successor.name, True)

    play.world.net.on_frame = sent
    return held


def records_of(play: Play, machine: Machine) -> list[Any]:
    """What lies on that machine of the key's partition."""
    ring = machine.node.topology.ring
    start, end = partition_range(ring, play.place.partition)
    return machine.node.disk.store.scan(OBJECTS, start, end, 10)
