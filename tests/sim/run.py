"""Run: one seed from the first ring to the checker's judgement.

Owns the phases: form a cluster, work under faults, heal, let it converge, look.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.sim import publisher
from tests.sim.changes import Changes
from tests.sim.loop import SimFailure
from tests.sim.nemesis import FAULTS, OF_SLOTS, Nemesis
from tests.sim.shape import Shape, draw
from tests.sim.workload import Clients
from tests.sim.world import World

from dynamo_core import objects, records
from dynamo_core.history import TOMBSTONE, Figure, ReplicaCopy, Shown
from dynamo_core.history_check import check
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.wire import Op, Type
from dynamo_node.digests import partition_range
from dynamo_node.node import Node
from dynamo_node.storage import OBJECTS
from dynamo_node.topology import Place

CONVERGED_WITHIN_S: Final = 120.0
STRAGGLERS_S: Final = 4.0
QUIET_S: Final = 3.0
NEVER_WITHIN_MS: Final = 10_000
"""A reap delay from which on no round begins before the end of a run is looked at."""


@dataclass
class Result:
    """What a seed gave; `failure` is "" for a clean run."""

    seed: int
    failure: str
    digest: str
    virtual_s: float
    operations: int
    faults: Counter[str]
    shape: Shape
    counts: dict[str, int]
    trace: list[tuple[float, str, str]]


def run(seed: int, trace: bool = False) -> Result:
    """Run one seed; the same seed gives the same result."""
    shape = draw(seed, FAULTS)
    world = World(seed, shape)
    if trace:
        world.trace = []
        world.note("shape", shape.told())
    clients = Clients(world, Random(f"{seed}/clients"))
    nemesis = Nemesis(world, Random(f"{seed}/nemesis"))
    failure = ""
    try:
        _phases(world, clients, nemesis)
    except SimFailure as error:
        failure = str(error)
    finally:
        world.close()
    clients.record_mints()
    lines = "\n".join(clients.history.lines())
    counts: dict[str, int] = {}
    if not failure:
        report = check(clients.history)
        counts = report.counts
        failure = "\n".join(str(v) for v in report.violations)
    summary = f"{lines}\n{world.scheduler.steps}\n{sorted(world.net.sent.items())}\n{failure}"
    world.faults.update(world.net.faults)
    if shape.changes:
        world.faults["seals and covers said"] += sum(world.net.sent[t] for t in {*OF_SLOTS[:3]})
    return Result(
        seed,
        failure,
        hashlib.sha256(summary.encode()).hexdigest()[:16],
        world.now,
        len(clients.history.operations),
        world.faults,
        shape,
        counts,
        world.trace or [],
    )


def _phases(world: World, clients: Clients, nemesis: Nemesis) -> None:
    world.form()
    over_s = world.shape.over_s
    changes = _changes(world) if world.shape.changes else None
    clients.run()
    nemesis.begin(world.now + over_s)
    if changes is not None:
        changes.begin(world.now + over_s)
    world.run_for(over_s)
    if changes is not None:
        changes.heal()
    nemesis.heal()
    healed = world.now
    if changes is not None:
        world.run_until(
            lambda: not changes.publisher.unfinished(),
            CONVERGED_WITHIN_S,
            lambda: "because " + changes.publisher.unfinished(),
        )
    world.run_until(
        lambda: not clients.unfinished and world.all_ready() and world.all_linked(),
        CONVERGED_WITHIN_S,
        lambda: f"for {clients.unfinished} operations, or for nodes to be up and linked",
    )
    # Writes that have been answered still wait for stragglers, to leave hints for them.
    world.run_for(STRAGGLERS_S)
    world.run_until(
        lambda: not _unsettled(world, clients),
        CONVERGED_WITHIN_S,
        lambda: "because " + _unsettled(world, clients),
    )
    world.run_for(STRAGGLERS_S)  # repairs that were on their way when they had become needless
    history = clients.history
    history.figures.append(Figure(name="seconds until healed", value=world.now - healed, most=120))
    history.healed_at = world.now
    written = world.net.sent[Type.WRITE]
    for key in clients.keys * 2:
        clients.call(Op.GET, key, 99, None)
    world.run_for(QUIET_S)
    figure = Figure(
        name="writes between nodes when quiet", value=world.net.sent[Type.WRITE] - written, most=0
    )
    history.figures.append(figure)
    _record_copies(world, clients)


def _changes(world: World) -> Changes:
    """A publisher, perhaps two, and the person who tells them what to do."""
    shape, rng = world.shape, Random(f"{world.seed}/changes")
    one = publisher.first(world, Random(f"{world.seed}/publisher"))
    one.reaches, one.crashes = shape.publisher_reaches, shape.publisher_crashes
    changes = Changes(world, rng, one)
    one.begin()
    if shape.publishers > 1:
        at = world.now + rng.uniform(0, shape.over_s * 0.7)
        world.scheduler.at(at, None, changes.overlap, rng.uniform(1.0, shape.over_s))
    return changes


def _unsettled(world: World, clients: Clients) -> str:
    """Why the cluster isn't whole yet; "" when no hint is left, nobody recovers, copies agree."""
    held = {}
    for machine in world.machines:
        node = machine.node
        if node is None:
            return f"{machine.name} is down"
        if node.recovering:
            return f"{machine.name} is recovering: {node.recovery.facts()}"
        if pending := node.replica.hints.pending():
            return f"{machine.name} has hints or marks: {pending}"
        if world.shape.reap_delay_ms < NEVER_WITHIN_MS and (still := _reaping(node)):
            return f"{machine.name} {still}"
        held[node.topology.number] = node
    if world.shape.changes and (why := _misplaced(held)):
        return why
    for key in clients.keys:
        place = next(iter(held.values())).topology.place(key)
        copies = {_copy(held[owner], place.digest + key) for owner in place.owners}
        if len(copies) > 1:
            return f"owners {place.owners} of {key.decode()} differ: {_told(held, place, key)}"
    return ""


def _misplaced(held: dict[int, Node]) -> str:
    """What lies where no row says, or lacks where one does; "" when all know the same rows."""
    first = next(iter(held.values()))
    tables = {number: node.custodies.table for number, node in held.items()}
    if len({table.root() for table in tables.values()}) > 1:
        rows = {n: list(map(table.row, range(table.partitions))) for n, table in tables.items()}
        return f"nodes know different rows: {rows}"
    ring = first.topology.ring
    assert ring is not None
    for partition in range(ring.partitions):
        holders = first.topology.holders(partition)
        if sorted(holders) != sorted(ring.slots[partition]):
            return f"partition {partition} is held by {holders}, not by {ring.slots[partition]}"
        if len({held[owner].trees.root(partition) for owner in holders}) > 1:
            return f"the copies of partition {partition} at {holders} have different roots"
        start, end = partition_range(ring, partition)
        for number, node in held.items():
            if number not in holders and node.disk.store.scan(OBJECTS, start, end, 1):
                return f"node {number} has a copy of partition {partition}, of {holders}"
    return ""


def _reaping(node: Node) -> str:
    """What rounds still have to do: copies differ while they do it."""
    if left := node.reaper.tombstones.partitions():
        return f"has tombstones to reap, or clocks to retire, in partitions {left}"
    if kept := node.replica.rounds.kept_partitions():
        return f"keeps the lists of partitions {kept}"
    return ""


def _told(held: dict[int, Node], place: Place, key: bytes) -> str:
    copies = {owner: _copy(held[owner], place.digest + key) for owner in place.owners}
    return "; ".join(
        f"{owner} has {'nothing' if copy is None else objects.from_bytes(copy)}"
        for owner, copy in copies.items()
    )


def _copy(node: Node, place: bytes) -> bytes | None:
    found = node.disk.store.scan(OBJECTS, place, place + b"\x00", 1)
    return records.object_of(found[0][1]) if found else None


def _record_copies(world: World, clients: Clients) -> None:
    for machine in world.machines:
        node = machine.node
        assert node is not None
        for place, data in node.disk.store.scan(OBJECTS, b"", b"\xff" * 64, 10_000):
            key = place[DIGEST_BYTES:]
            held = objects.from_bytes(records.object_of(data))
            clients.history.replicas.append(
                ReplicaCopy(
                    node=machine.name,
                    key=key.decode(),
                    siblings=tuple(
                        Shown(TOMBSTONE if s.value is None else s.value.decode(), s.dot)
                        for s in held.siblings
                    ),
                    clock=held.clock,
                    owner=node.topology.number in node.topology.place(key).owners,
                )
            )
