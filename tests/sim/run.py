"""Run: one seed from the first ring to the checker's judgement.

Owns the phases: form a cluster, work under faults, heal, let it converge, look.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.sim.loop import SimFailure
from tests.sim.nemesis import Nemesis
from tests.sim.workload import Clients
from tests.sim.world import World

from dynamo_core import objects, records
from dynamo_core.history import TOMBSTONE, Figure, ReplicaCopy, Shown
from dynamo_core.history_check import check
from dynamo_core.records import DIGEST_BYTES
from dynamo_core.wire import Op, Type
from dynamo_node.node import Node
from dynamo_node.storage import OBJECTS

CONVERGED_WITHIN_S: Final = 120.0
STRAGGLERS_S: Final = 4.0
QUIET_S: Final = 3.0


@dataclass
class Result:
    """What a seed gave; `failure` is "" for a clean run."""

    seed: int
    failure: str
    digest: str
    virtual_s: float
    operations: int
    faults: Counter[str]
    trace: list[tuple[float, str, str]]


def run(seed: int, trace: bool = False) -> Result:
    """Run one seed; the same seed gives the same result."""
    rng = Random(f"{seed}/run")
    nodes = rng.choice((3, 3, 4, 5))
    world = World(seed, nodes=nodes)
    if trace:
        world.trace = []
    clients = Clients(world, Random(f"{seed}/clients"), keys=rng.randint(3, 8))
    nemesis = Nemesis(world, Random(f"{seed}/nemesis"))
    failure = ""
    try:
        _phases(world, clients, nemesis, rng)
    except SimFailure as error:
        failure = str(error)
    finally:
        world.close()
    lines = "\n".join(clients.history.lines())
    if not failure:
        report = check(clients.history)
        failure = "\n".join(str(v) for v in report.violations)
    summary = f"{lines}\n{world.scheduler.steps}\n{sorted(world.net.sent.items())}\n{failure}"
    world.faults.update(world.net.faults)
    return Result(
        seed,
        failure,
        hashlib.sha256(summary.encode()).hexdigest()[:16],
        world.now,
        len(clients.history.operations),
        world.faults,
        world.trace or [],
    )


def _phases(world: World, clients: Clients, nemesis: Nemesis, rng: Random) -> None:
    world.form()
    over_s = rng.uniform(10, 20)
    clients.run(rng.randint(60, 100), clients=4, over_s=over_s)
    nemesis.begin(world.now + over_s)
    world.run_for(over_s)
    nemesis.heal()
    healed = world.now
    world.run_until(
        lambda: not clients.unfinished and world.all_ready() and world.all_linked(),
        CONVERGED_WITHIN_S,
    )
    # Writes that have been answered still wait for stragglers, to leave hints for them.
    world.run_for(STRAGGLERS_S)
    world.run_until(lambda: _converged(world, clients), CONVERGED_WITHIN_S)
    history = clients.history
    history.figures.append(Figure(name="seconds until healed", value=world.now - healed, most=120))
    history.healed_at = world.now
    written = world.net.sent[Type.WRITE]
    for key in clients.keys:
        clients.call(Op.GET, key, 99, None)
    world.run_for(QUIET_S)
    figure = Figure(
        name="writes between nodes when quiet", value=world.net.sent[Type.WRITE] - written, most=0
    )
    history.figures.append(figure)
    _record_copies(world, clients)


def _converged(world: World, clients: Clients) -> bool:
    """No hint is left, nobody recovers, and the owners of each key hold the same of it."""
    held = {}
    for machine in world.machines:
        node = machine.node
        if node is None or node.recovering or node.replica.hints.pending():
            return False
        held[node.topology.number] = node
    for key in clients.keys:
        place = next(iter(held.values())).topology.place(key)
        copies = {_copy(held[owner], place.digest + key) for owner in place.owners}
        if len(copies) > 1:
            return False
    return True


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
