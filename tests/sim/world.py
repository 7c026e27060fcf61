"""World: a whole cluster on virtual time, made of the production node's parts.

Owns which machines there are, in what state they come, go and end, and what
befalls their processes. Everything random comes from the seed.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.sim.disk import SimDisk
from tests.sim.loop import Scheduler, SimFailure
from tests.sim.losses import Losses, WatchedDisk
from tests.sim.machines import NATIVE_PORT, Machine, Process
from tests.sim.net import Network
from tests.sim.shape import Shape

from dynamo_core import objects, slot_table
from dynamo_core.contexts import Keyring
from dynamo_core.placement import Candidate, first_ring
from dynamo_core.ring import Ring
from dynamo_node.config import SYNC, Config, Limits, Seed, Settings, Timing
from dynamo_node.coordinator import Coordinator
from dynamo_node.node import Node
from dynamo_node.storage import OBJECTS

__all__ = ["Machine", "Process", "World"]

CLUSTER_ID: Final = bytes(range(16))
AT: Final = "2026-01-01T00:00:00Z"


class World:
    """One cluster and its clock; `seed` decides everything."""

    def __init__(self, seed: int, shape: Shape) -> None:
        objects.SPENT_MIN = shape.spent_min
        logging.getLogger("dynamo_node").setLevel(logging.CRITICAL + 1)
        self.seed = seed
        self.shape = shape
        self.rng = Random(f"{seed}/world")
        self.scheduler = Scheduler()
        self.net = Network(self.scheduler, Random(f"{seed}/net"))
        self.faults: Counter[str] = Counter()
        self.trace: list[tuple[float, str, str]] | None = None
        self.ring: Ring | None = None
        self.losses = Losses()
        self.on_written: Callable[[], None] | None = None
        """Told when a node has answered a client that its write is safe."""
        self._dead: list[Process] = []
        self.keyring = Keyring(0, {0: bytes(32)})
        self.machines: list[Machine] = []
        """Those that run, or will again; in the order in which they came."""
        self.ending: list[Machine] = []
        """Those that have been told to stop for good, until their processes are gone."""
        self.shelf: dict[str, WatchedDisk] = {}
        """Volumes of machines that are no more, by the last bearer of the name."""
        self.unaware: set[Machine] = set()
        """Those that run although they were given up, cut off from the others, and those with
        a volume of before they left: for all that they know they hold slots."""
        self._highest: Ring | None = None
        """The highest ring that any node was seen to hold."""
        self._bearers: Counter[str] = Counter()
        for i in range(shape.nodes):
            self.add(f"node-{i}")

    def config_of(self, name: str) -> Config:
        """What a machine of that name is configured with; its seeds are those that there are."""
        shape = self.shape
        seeds = [Seed(m.name, m.name, NATIVE_PORT) for m in self.machines] if self.ring else []
        return Config(
            cluster_name="sim",
            cluster_id=CLUSTER_ID,
            keyring=self.keyring,
            name=name,
            data_dir=Path("/sim") / name,
            host=name,
            http_port=8080,
            native_port=NATIVE_PORT,
            admin_port=8081,
            admin_token="t",
            seeds=tuple(seeds),
            settings=Settings(
                shape.r,
                shape.w,
                replace(
                    Limits(),
                    siblings_max=shape.siblings_max,
                    transfer_bytes_per_second_max=shape.transfer_bytes_per_second_max,
                ),
            ),
            reconciliation=shape.reconciliation,
            durability=shape.durability,
            timing=replace(
                Timing(),
                timeout_ms=2000,
                drain_ms=200,
                hedge_ms=shape.hedge_ms,
                straggler_ms=shape.straggler_ms,
                reap_delay_ms=shape.reap_delay_ms,
            ),
            hints_bytes_max=shape.hints_bytes_max,
        )

    @property
    def now(self) -> float:
        return self.scheduler.now

    def note(self, who: str, what: str) -> None:
        """A line of the trace, if one is kept."""
        if self.trace is not None:
            self.trace.append((self.now, who, what))

    # Life

    def form(self) -> None:
        """Start every node on an empty disk and give them their first ring."""
        for machine in self.machines:
            self.start(machine)
        self.run_until(lambda: all(m.node is not None for m in self.machines), 10)
        self.ring = first_ring(
            CLUSTER_ID.hex(),
            "sim",
            [
                candidate(m.name, "1", m.node.disk.disk_id)
                for m in self.machines
                if m.node is not None
            ],
            self.shape.n,
            self.shape.partitions,
            AT,
        )
        self.losses.partition = self.ring.partition_of
        for machine in self.machines:
            assert machine.process is not None
            assert machine.node is not None
            loop, node = machine.process.loop, machine.node
            self.scheduler.soon(
                loop, lambda loop=loop, node=node: loop.create_task(node.rings.post(self.ring)), ()
            )
        self.run_until(lambda: self.all_ready() and self.all_linked(), 30)

    # Machines that come and go

    def add(self, name: str, disk: WatchedDisk | None = None) -> Machine:
        """One more machine, with an empty disk or with one that was used before; not started."""
        assert self.named(name) is None, f"there is a machine {name}"
        machine = Machine(self, name, disk, self._bearers[name])
        machine.disk.temper.sync_s = self.shape.sync_s
        for other in self.machines if self._bearers[name] else ():
            self.block(name, other.name, False)
            self.block(other.name, name, False)
        self._bearers[name] += 1
        self.machines.append(machine)
        return machine

    def named(self, name: str) -> Machine | None:
        """The machine of that name, if there is one, be it ending."""
        return next((m for m in (*self.machines, *self.ending) if m.name == name), None)

    def end(self, machine: Machine) -> None:
        """It is stopped for good, with time to finish; its volume goes to the shelf."""
        self.machines.remove(machine)
        self.stop(machine)
        if machine.process is None:
            self.shelf[machine.name] = machine.disk
        else:
            self.ending.append(machine)

    def remove(self, machine: Machine) -> None:
        """It is gone, with its disk: nobody is told. The volume may be found again."""
        self.crash(machine, power=True)
        self.machines.remove(machine)
        found = machine.disk.snapshot()
        machine.disk.wipe()  # as far as anybody can know
        machine.disk.synced = found
        machine.disk.went_back = True  # what it takes before it hears of it may be too old
        self.shelf[machine.name] = machine.disk
        self.note(machine.name, "is gone for good")

    def knows_no_better(self, machine: Machine) -> bool:
        """Whether it may take itself for an owner by what it knew before it was given up or left.

        That ends with the highest ring that was held anywhere: who holds that may be down now.
        """
        self.look()
        if machine.node is None:
            return False
        ring, highest = machine.node.topology.ring, self._highest
        if ring is None or highest is None or ring.name >= highest.name:
            return False
        number = machine.node.topology.number
        return machine in self.unaware or number in slot_table.given_up(highest)

    def look(self) -> None:
        """Take note of the highest ring that is held now."""
        rings = [m.node.topology.ring for m in self.machines if m.node is not None]
        self._highest = max(
            filter(None, (self._highest, *rings)), key=lambda ring: ring.name, default=None
        )

    # Life of a process

    def start(self, machine: Machine) -> None:
        """Start a process on a machine that has none; one that is stopping starts again."""
        if machine not in self.machines:
            return  # it has ended for good meanwhile
        machine.down = False
        if machine.process is None:
            self.net.power_on(machine.name)
            machine.process = Process(machine)
            self.note(machine.name, "starts")

    def started(self, machine: Machine, node: Node) -> None:
        self.losses.watch(node.replica)
        if machine.disk.went_back:
            node.replica.on_emptied.append(partial(self._emptied, machine.disk))
        self._watch_deadlines(machine.name, node.coordinator)
        if self.trace is not None:
            self._trace_mints(machine.name, node)

    def _watch_deadlines(self, name: str, coordinator: Coordinator) -> None:
        """No write is begun for a request whose time is over: its author has been told."""
        real = coordinator._coordinate

        def coordinate(operation: Any, *more: Any) -> None:
            if not more[-2].remaining_s():  # the request
                what = operation.value.decode() or "a delete"
                self.scheduler.failures.append(f"{name} begins {what} after its deadline")
            real(operation, *more)

        coordinator._coordinate = coordinate  # type: ignore[method-assign]

    def _trace_mints(self, name: str, node: Node) -> None:
        real = node.replica.mint

        def mint(key, digest, hint_for, write, minted, *others):  # type: ignore[no-untyped-def]
            def told(obj, context, *more):  # type: ignore[no-untyped-def]
                what = "delete" if write.value is None else write.value.decode()
                self.note(name, f"mints {key.decode()} {what} over {write.context}: now {context}")
                minted(obj, context, *more)

            real(key, digest, hint_for, write, told, *others)

        node.replica.mint = mint  # type: ignore[method-assign]

    def ended(self, machine: Machine, process: Process) -> None:
        """A process ended by itself: whoever supervises it starts it again."""
        self._dead.append(process)
        self.note(machine.name, "has ended")
        if machine.process is process:
            machine.process = None
            if machine in self.ending:
                self.ending.remove(machine)
                self.shelf[machine.name] = machine.disk
            elif not machine.down:
                self.scheduler.at(self.now + 1.0, None, self._supervise, machine)

    def _supervise(self, machine: Machine) -> None:
        if not machine.down:
            self.start(machine)

    def crash(self, machine: Machine, power: bool) -> None:
        """Kill the process; with `power` the machine goes dark and loses unsynced writes."""
        machine.down = True
        process, machine.process = machine.process, None
        if process is not None:
            process.loop.kill()
            self._dead.append(process)
            machine.disk.in_use = False
        if power:
            if process is not None:
                self.net.power_off(process.loop)
            lost = machine.disk.cut_power()
            machine.boots += 1
            self.faults["unsynced batches lost"] += lost
            self.note(machine.name, f"power cut, {lost} batches lost")
        elif process is not None:
            self.net.process_gone(process.loop)
            self.note(machine.name, "is killed")

    def forgets(self, disk: SimDisk, act: Callable[[], None]) -> None:
        """Carry out `act`, in which `disk` may lose what it held."""
        buffered = self.shape.durability != SYNC
        before = disk.contents() if buffered else {f: {**p} for f, p in disk.synced.items()}
        act()
        others = (m.disk.contents() for m in self.machines if m.disk is not disk)
        self.losses.forgot(before, disk.contents(), others)

    def _emptied(self, disk: SimDisk, partition: int, start: bytes, end: bytes) -> None:
        """An old copy is about to be deleted unread: it counts as lost since it went back."""
        before = disk.contents()
        kept = {p: v for p, v in before[OBJECTS].items() if not start <= p < end}
        others = (m.disk.contents() for m in self.machines if m.disk is not disk)
        self.losses.forgot(before, {**before, OBJECTS: kept}, others)

    def stop(self, machine: Machine) -> None:
        """SIGTERM; it stays down until it is started."""
        machine.down = True
        if machine.process is not None:
            machine.process.stop()
            self.note(machine.name, "is told to stop")

    def stall(self, machine: Machine, seconds: float) -> None:
        """The process doesn't run for a while."""
        process = machine.process
        if process is None or process.loop.stalled:
            return
        process.loop.stall()
        self.note(machine.name, f"stalls for {seconds:.2f} s")
        self.scheduler.at(self.now + seconds, None, process.loop.go_on, self.rng.random() < 0.5)

    def block(self, source: str, target: str, blocked: bool) -> None:
        """One direction between two machines."""
        link = self.net.link(source, target)
        if link.blocked != blocked:
            link.blocked = blocked
            if not blocked:
                self.net.flush(source, target)

    def all_ready(self) -> bool:
        return all(m.node is not None and m.node.ready for m in self.machines)

    def all_linked(self) -> bool:
        return all(
            link.healthy
            for m in self.machines
            if m.node is not None
            for link in m.node.topology.links.values()
        )

    # Running

    def run_for(self, seconds: float) -> None:
        self.scheduler.run(self.now + seconds)
        self._raise()

    def run_until(
        self, condition: Callable[[], bool], most_s: float, why: Callable[[], str] = lambda: ""
    ) -> None:
        """Run until `condition()`; SimFailure, with `why()`, when that takes over `most_s`."""
        until = self.now + most_s
        while not condition():
            if self.now >= until:
                raise SimFailure(f"waited {most_s} s of virtual time in vain {why()}".rstrip())
            self.run_for(0.05)

    def _raise(self) -> None:
        if self.scheduler.failures:
            raise SimFailure(self.scheduler.failures[0])

    def close(self) -> None:
        """End of the run: nothing of it runs any more, in whatever order it is freed."""
        objects.SPENT_MIN = Shape().spent_min
        for machine in (*self.machines, *self.ending):
            if machine.process is not None:
                machine.process.loop.kill()
                self._dead.append(machine.process)
        self.scheduler.drop_all()
        for process in self._dead:
            process.loop.close_tasks()


def candidate(name: str, capacity: str, disk_id: str) -> Candidate:
    """A machine as a publisher names it to the planner."""
    return Candidate(name, "", capacity, name, 8080, NATIVE_PORT, 8081, disk_id)
