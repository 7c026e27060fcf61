"""Play: a small world with one key, and the words that scripted schedules are written in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from tests.sim import run as whole_run
from tests.sim.shape import Shape
from tests.sim.workload import Clients
from tests.sim.world import AT, Machine, World, candidate

from dynamo_core.errors import DynamoError
from dynamo_core.history import ACKNOWLEDGED, Operation
from dynamo_core.history_check import check
from dynamo_core.history_report import Report
from dynamo_core.placement import next_ring
from dynamo_core.ring import Ring
from dynamo_core.wire import Op
from dynamo_core.wire import Operation as Asked
from dynamo_node.config import Config
from dynamo_node.storage import OBJECTS

PATIENCE_S = 30.0
TIMEOUT_MS = 2000


def configured(config: Config, **fields: Any) -> Config:
    """The configuration with these fields changed; live ones may be among them."""
    live = {name: fields.pop(name) for name in ("r", "w", "limits") if name in fields}
    return replace(config, settings=replace(config.settings, **live), **fields)


class Play:
    """One world with one key, and the words a scenario is written in."""

    def __init__(self, seed: int, nodes: int, n: int = 3, **config: Any) -> None:
        self.world = World(seed, Shape(nodes=nodes, n=n, keys=1))
        for machine in self.world.machines:
            machine.config = configured(machine.config, **config)
        self._config = config
        self.clients = Clients(self.world, Random(f"{seed}/clients"))
        self.key = self.clients.keys[0]
        self.world.form()
        self.place = place = self.machine(0).topology.place(self.key)
        by_number = {m.node.topology.number: m for m in self.world.machines if m.node is not None}
        self.owners = [by_number[number] for number in place.owners]
        self.others = [m for m in self.world.machines if m not in self.owners]
        self.stand_ins = [by_number[number] for number in place.others]
        """The others in the order of the key's preference list."""

    def machine(self, at: int) -> Any:
        return self.world.machines[at].node

    def ask(self, op: Op, client: int = 0, context: bool = False) -> Operation:
        """One operation to its end, tried again while it is refused; its record."""
        held = self.clients._contexts.get((client, self.key)) if context else None
        for _ in range(20):
            self.clients.call(op, self.key, client, held)
            self.world.run_until(lambda: not self.clients.unfinished, PATIENCE_S)
            done = self.clients.history.operations[-1]
            if done.outcome == ACKNOWLEDGED:
                break
        return done

    def put(self, client: int = 0, context: bool = False) -> Operation:
        done = self.ask(Op.PUT, client, context)
        assert done.outcome == ACKNOWLEDGED, done
        return done

    def kill(self, *machines: Machine, power: bool = False) -> None:
        """With `power` nothing survives that wasn't fsynced: the worst of what may happen."""
        for machine in machines:
            if power:
                machine.disk.unsynced.clear()
            self.world.crash(machine, power)
        self.world.run_for(2.0)

    def start(self, *machines: Machine) -> None:
        for machine in machines:
            self.world.start(machine)
        self.world.run_until(
            lambda: all(m.node is not None and m.node.ready for m in machines), PATIENCE_S
        )

    def cut_off(self, machines: list[Machine], noticed: bool = True) -> None:
        """No frame passes between `machines` and the rest; nobody is told."""
        self._block(machines, True)
        if noticed:
            self.world.run_for(5.0)

    def join_again(self, machines: list[Machine]) -> None:
        """Undo `cut_off`."""
        self._block(machines, False)

    def _block(self, machines: list[Machine], blocked: bool) -> None:
        for one in machines:
            for other in self.world.machines:
                if other not in machines:
                    self.world.block(one.name, other.name, blocked)
                    self.world.block(other.name, one.name, blocked)

    # Members that change

    def join(self, count: int = 1) -> list[Machine]:
        """So many more machines, which have started and hold no ring."""
        world = self.world
        first = len(world.machines)
        joined = [world.add(f"node-{first + i}") for i in range(count)]
        for machine in joined:
            machine.config = configured(machine.config, **self._config)
            world.start(machine)
        world.run_until(lambda: all(m.node is not None for m in joined), PATIENCE_S)
        return joined

    def another_key(self, owners: list[Machine]) -> list[Machine]:
        """Go on with a key that all of these hold a slot of; its holders."""
        topology = owners[0].node.topology
        numbers = {m.node.topology.number: m for m in self.world.machines if m.node is not None}
        keys = (b"another-%d" % i for i in range(1000))
        for self.key in keys:
            self.place = topology.place(self.key)
            holders = [numbers[number] for number in self.place.owners]
            if all(machine in holders for machine in owners):
                break
        self.clients.keys = [self.key]
        return holders

    def ring_of(
        self,
        members: list[Machine],
        after: Ring | None = None,
        drained: tuple[int, ...] = (),
        give_up: tuple[int, ...] = (),
        **capacities: str,
    ) -> Ring:
        """The ring after `after` (the highest that a node holds) of these members; a capacity
        other than 1 is given by the machine's name with _ for -."""
        after = after or self.ring()
        wanted = []
        for machine in members:
            known = after.node_named(machine.name)
            disk_id = machine.node.disk.disk_id if machine.node is not None else known.disk_id
            capacity = capacities.get(machine.name.replace("-", "_"), "1")
            wanted.append(candidate(machine.name, capacity, disk_id))
        return next_ring(after, wanted, AT, drained, give_up)

    def ring(self) -> Ring:
        """The highest ring that a running node holds."""
        rings = [m.node.topology.ring for m in self.world.machines if m.node is not None]
        return max((ring for ring in rings if ring is not None), key=lambda ring: ring.name)

    def post(self, ring: Ring, *machines: Machine) -> list[DynamoError | None]:
        """A publisher posts `ring` to these; what each of them says against it."""
        answers: dict[str, DynamoError | None] = {}

        async def posted(machine: Machine, node: Any) -> None:
            try:
                await node.rings.post(ring)
                answers[machine.name] = None
            except DynamoError as error:
                answers[machine.name] = error

        for machine in machines:
            loop = machine.process.loop
            loop.call_soon(lambda m=machine, at=loop: at.create_task(posted(m, m.node)))
        self.world.run_until(lambda: len(answers) == len(machines), PATIENCE_S)
        return [answers[machine.name] for machine in machines]

    def until_settled(self, most_s: float = 60.0) -> None:
        """All nodes hold one ring, and who holds what is what it says; nothing lies elsewhere."""
        self.world.run_until(
            lambda: not self.unsettled(), most_s, lambda: "because " + self.unsettled()
        )

    def unsettled(self) -> str:
        """Why the members aren't yet what the highest ring says; "" if they are."""
        ring = self.ring()
        there = {m.name: m.node for m in self.world.machines}
        for node in ring.everybody:
            at = there.get(node.name)
            if at is None or at.topology.ring != ring:
                return f"{node.name} doesn't hold ring {ring.epoch}"
        held = {node.number: there[node.name] for node in ring.everybody}
        return whole_run._misplaced(held)

    def copy(self, machine: Machine) -> bytes | None:
        """The key's record at a machine, as it is stored there."""
        assert machine.node is not None
        place = self.place.digest + self.key
        found = machine.node.disk.store.scan(OBJECTS, place, place + b"\x00", 1)
        return found[0][1] if found else None

    def until_handed_off(self) -> None:
        """All hints are gone from the machines that run."""
        self.world.run_until(
            lambda: all(m.node is None or not m.node.replica.hints.by_target
                        for m in self.world.machines), PATIENCE_S,
        )  # fmt: skip

    def judged(self) -> Report:
        """Heal, let it converge, read, and check."""
        world, history = self.world, self.clients.history
        for machine in world.machines:
            machine.disk.temper.slowness = 1.0
        self.start(*world.machines)
        world.run_until(world.all_linked, PATIENCE_S)
        world.run_for(PATIENCE_S)
        history.healed_at = world.now
        for _ in range(3):
            self.ask(Op.GET, 99)
        whole_run._record_copies(world, self.clients)
        return check(history)


def scripted(seed: int, script: Callable[[Play], None], nodes: int, **config: Any) -> Report:
    """What the checker says of a script that was played in a world of its own."""
    with played(seed, nodes, **config) as play:
        script(play)
        return play.judged()


@contextmanager
def played(seed: int, nodes: int, **config: Any) -> Iterator[Play]:
    """A play, and the end of its world."""
    play = Play(seed, nodes, **config)
    try:
        yield play
    finally:
        play.world.close()


def asked(play: Play, at: Machine, op: Op, **more: Any) -> Any:
    """The outcome of one operation at one node, asked once; the history doesn't know of it."""
    outcomes: list[Any] = []
    node, process = at.node, at.process
    assert node is not None
    assert process is not None
    asked = Asked(op, play.key, write_id=bytes(15) + b"x", value=b"v")._replace(**more)
    process.loop.call_soon(lambda: node.coordinator.operate(asked, TIMEOUT_MS, outcomes.append))
    play.world.run_until(lambda: bool(outcomes), 30.0)
    return outcomes[0]


def reaped(play: Play) -> int:
    """Write and delete the key until its tombstone is reaped; the round of its partition."""
    play.put()
    play.ask(Op.GET)
    assert play.ask(Op.DELETE, context=True).outcome == ACKNOWLEDGED
    owners, partition = play.owners, play.place.partition

    def committed() -> list[int]:
        return [o.node.replica.rounds.committed(partition) for o in owners if o.node is not None]

    play.world.run_until(lambda: len(committed()) == 3 and min(committed()) > 0, 120.0)
    return min(committed())
