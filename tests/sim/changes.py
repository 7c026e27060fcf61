"""Changes: what a person does to the members of a cluster in the course of a run.

Owns the acts (join, leave, re-weigh, take back, replace, give up, bring an old volume
back), when each may be, and what of it is still unsettled when everything is healed.
What a person may not do, nothing here does: as many disks as W are never given away
at a time, nor all N of a partition in one run.

Forbidden here: deciding on rings (`publisher`), and faults (`nemesis`).
"""

from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Final

from tests.sim.publisher import Publisher, Wishes, second
from tests.sim.shape import GIVE_UP, JOIN, LEAVE, MIND, REPLACE, RETURN, REWEIGH
from tests.sim.world import Machine, World

AGAIN_S: Final = 0.5
MEMBERS_MAX: Final = 10
CAPACITIES: Final = ("0.5", "1", "2", "3")


class Changes:
    """One per world; `begin` draws the moments of the shape's acts, `heal` ends them."""

    def __init__(self, world: World, rng: Random, publisher: Publisher) -> None:
        self.world = world
        self.rng = rng
        self.publisher = publisher
        self.other: Publisher | None = None
        """One that overlaps, and doesn't hear of every wish."""
        self.active = False
        self._acts: dict[str, Callable[[], bool]] = {
            JOIN: self._join,
            LEAVE: self._leave,
            REWEIGH: self._reweigh,
            MIND: self._change_of_mind,
            REPLACE: self._replace,
            GIVE_UP: self._give_up,
            RETURN: self._return,
        }
        self._before: list[Wishes] = []
        self._snapshots: dict[str, dict[str, dict[bytes, bytes]]] = {}
        """Of machines whose disks may come back as they were then, by name."""
        self._to_miss = world.shape.n - 1 - len(world.shape.disks)
        """How many more disks may be missed in this run."""
        self._fewest = max(2, world.shape.n)
        self._cut_off: list[Machine] = []

    def begin(self, until: float) -> None:
        self.active = True
        world = self.world
        count = len(world.shape.changes)
        if world.shape.burst:
            first = self.rng.uniform(world.now, until - (until - world.now) / 3)
            moments = [first + each for each in self._soon(count)]
        else:
            moments = sorted(self.rng.uniform(world.now, until) for _ in range(count))
        for when, kind in zip(moments, world.shape.changes, strict=True):
            world.scheduler.at(when, None, self._strike, kind)

    def _soon(self, count: int) -> list[float]:
        """Moments in seconds, each about as long after the last one as a ring takes to be told."""
        return list(accumulate(self.rng.uniform(0.05, 2.0) for _ in range(count)))

    def _strike(self, kind: str) -> None:
        if not self.active:
            return
        if self._acts[kind]():
            self.world.faults[kind] += 1
        else:
            self.world.scheduler.at(self.world.now + AGAIN_S, None, self._strike, kind)

    def heal(self) -> None:
        """What was given up doesn't run any more; nothing else is wished for."""
        self.active = False
        self.publisher.reaches, self.publisher.crashes = 1.0, 0.0
        for machine in self._cut_off:
            if machine in self.world.machines:
                self.world.remove(machine)
        if self.other is not None:
            self._dismiss()

    def overlap(self, seconds: float) -> None:
        """For a while there are two publishers, of which one doesn't hear of all wishes."""
        if self.active:
            self.other = second(self.publisher, Random(f"{self.world.seed}/other publisher"))
            self.other.begin()
            self.world.scheduler.at(self.world.now + seconds, None, self._dismiss)

    def _dismiss(self) -> None:
        assert self.other is not None
        self.other.dismiss()
        # What it has sent may still arrive.
        self.world.scheduler.at(self.world.now + 1.0, None, setattr, self.publisher, "alone", True)

    # Wishes

    @property
    def wishes(self) -> Wishes:
        return self.publisher.wishes

    def _wish(self, wanted: dict[str, str], give_up: int = 0, what: str = "") -> bool:
        self.world.note("person", f"wants {wanted} {what}".rstrip())
        self._before.append(self.wishes.copy())
        numbers = self.wishes.give_up | ({give_up} if give_up else set())
        self.publisher.wishes = Wishes(wanted, numbers)
        if self.other is not None and self.rng.random() < 0.5:
            self.other.wishes = self.publisher.wishes.copy()
        return True

    def _one_that_may_leave(self) -> str | None:
        names = sorted(self.wishes.wanted)
        return self.rng.choice(names) if len(names) > self._fewest else None

    # Acts: each tells whether it could be done now

    def _join(self) -> bool:
        wanted = dict(self.wishes.wanted)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            if len(wanted) < MEMBERS_MAX:
                machine = self._new(old_volume=self.rng.random() < 0.5)
                wanted[machine.name] = self.rng.choice(("1", *CAPACITIES))
        return len(wanted) > len(self.wishes.wanted) and self._wish(wanted)

    def _new(self, old_volume: bool) -> Machine:
        """One more machine: with an empty disk, or with one that has been in the cluster."""
        world, rng = self.world, self.rng
        if old_volume and (free := self._volumes()):
            name = rng.choice(free)
            disk = world.shelf.pop(name)
            if name in self._snapshots and rng.random() < 0.5:
                disk.roll_back(self._snapshots[name])
            machine = world.add(name, disk)
            if disk.went_back:
                world.unaware.add(machine)
            world.note(name, "comes back with its old volume")
        else:
            number = world.shape.nodes
            while world.named(f"node-{number}") or f"node-{number}" in world.shelf:
                number += 1
            machine = world.add(f"node-{number}")
        world.start(machine)
        return machine

    def _volumes(self) -> list[str]:
        """Names of machines that have ended, whose volumes may come back."""
        named = {node.name for node in self.publisher.decided.everybody}
        return [n for n in sorted(self.world.shelf) if not self.world.named(n) and n not in named]

    def _leave(self) -> bool:
        name = self._one_that_may_leave()
        if name is None:
            return self._join()  # to leave again, the next time
        self._remember(name)
        wanted = {n: c for n, c in self.wishes.wanted.items() if n != name}
        if self.rng.random() < 0.2 and len(wanted) > self._fewest:
            wanted.pop(self.rng.choice(sorted(wanted)))
        return self._wish(wanted)

    def _remember(self, name: str) -> None:
        machine = self.world.named(name)
        if machine is not None:
            self._snapshots[name] = machine.disk.snapshot()

    def _reweigh(self) -> bool:
        name = self.rng.choice(sorted(self.wishes.wanted))
        others = [c for c in CAPACITIES if c != self.wishes.wanted[name]]
        return self._wish({**self.wishes.wanted, name: self.rng.choice(others)})

    def _change_of_mind(self) -> bool:
        """The last wish is taken back, whatever has become of it."""
        if not self._before:
            act = self.rng.choice((self._join, self._leave, self._reweigh))
            if not act():
                return False
            when = self.world.now + self.rng.uniform(0.1, 4.0)
            self.world.scheduler.at(when, None, self._strike, MIND)
            return True
        last = self._before.pop()
        wanted = {n: c for n, c in last.wanted.items() if self._is_there(n)}
        if len(wanted) < self._fewest:
            return False
        done = self._wish(wanted, what="again")
        self._before.pop()
        return done

    def _is_there(self, name: str) -> bool:
        """Whether a machine of that name runs, or can be had back as it was."""
        world = self.world
        if world.named(name) is None and name in world.shelf and not self._given_up(name):
            world.start(world.add(name, world.shelf.pop(name)))
        machine = world.named(name)
        if machine in self._cut_off:  # also once no ring names it: it will be turned off
            return False
        return machine in world.machines and not self._given_up(name)

    def _given_up(self, name: str) -> bool:
        node = self.publisher.decided.node_named(name)
        return node is not None and node.number in self.wishes.give_up

    def _may_miss_one(self) -> bool:
        """What a person makes sure of: that no other copy is missing, or still being made."""
        if self._to_miss <= 0:
            return False
        ring = self.publisher.decided
        if any(node.number in self.wishes.give_up for node in ring.everybody):
            return False
        for machine in self.world.machines:
            node = machine.node
            if node is not None and (node.recovering or not self._whole(machine)):
                return False
        return True

    def _whole(self, machine: Machine) -> bool:
        node, ring = machine.node, self.publisher.decided
        assert node is not None
        named = ring.node_named(machine.name)
        if named is not None and named.disk_id != node.disk.disk_id:
            return not self.publisher.follows_disks
        return node.topology.ring is None or node.topology.owned <= node.topology.counting

    def _replace(self) -> bool:
        """The disk is lost, and an empty one is put into its place under the same name."""
        world = self.world
        if not self._may_miss_one():
            return False
        machine = self.rng.choice(world.machines)
        self._to_miss -= 1
        world.crash(machine, power=True)
        self._remember(machine.name)
        machine.disk.wipe()
        world.faults["disk lost"] += 1
        world.note(machine.name, "gets an empty disk in the place of its own")
        world.scheduler.at(world.now + self.rng.uniform(0.1, 3.0), None, self._start, machine)
        return True

    def _start(self, machine: Machine) -> None:
        if machine in self.world.machines:
            self.world.start(machine)

    def _give_up(self) -> bool:
        """A member, or one that is leaving, is dead or can't be reached: it won't come back."""
        world, rng, ring = self.world, self.rng, self.publisher.decided
        if not self._may_miss_one():
            return False
        there = {machine.name: machine for machine in world.machines}
        nodes = [node for node in ring.everybody if node.name in there]
        if not nodes:
            return False
        node = rng.choice(nodes)
        machine = there[node.name]
        self._to_miss -= 1
        world.faults["disk lost"] += 1
        wanted = {n: c for n, c in self.wishes.wanted.items() if n != node.name}
        if len(wanted) < self._fewest or rng.random() < 0.5:
            wanted[self._new(old_volume=False).name] = "1"
        if rng.random() < 0.3:
            self._cut(machine)
        else:
            world.remove(machine)
        return self._wish(wanted, node.number, f"without {node.name}, which is given up")

    def _cut(self, machine: Machine) -> None:
        """Nobody reaches it but its clients, until somebody turns it off."""
        world = self.world
        for other in world.machines:
            if other is not machine:
                world.block(machine.name, other.name, True)
                world.block(other.name, machine.name, True)
        world.unaware.add(machine)
        self._cut_off.append(machine)
        world.note(machine.name, "is cut off for good")
        world.scheduler.at(world.now + self.rng.uniform(1.0, 8.0), None, self._turn_off, machine)

    def _turn_off(self, machine: Machine) -> None:
        if machine in self.world.machines:
            self.world.remove(machine)

    def _return(self) -> bool:
        """A volume that was replaced is put back in the place of the newer one, or a machine
        that has left or was given up comes back with its own."""
        world, rng = self.world, self.rng
        old = [m for m in world.machines if m.name in self._snapshots and not self._is_leaving(m)]
        if old and self._may_miss_one() and rng.random() < 0.7:
            machine = rng.choice(old)
            self._to_miss -= 1
            world.crash(machine, power=True)
            machine.disk.roll_back(self._snapshots[machine.name])
            world.faults["disk rolled back"] += 1
            world.note(machine.name, "gets an old volume back")
            world.scheduler.at(world.now + rng.uniform(0.1, 3.0), None, self._start, machine)
            return True
        if not self._volumes() or len(self.wishes.wanted) >= MEMBERS_MAX:
            return False
        machine = self._new(old_volume=True)
        return self._wish({**self.wishes.wanted, machine.name: "1"})

    def _is_leaving(self, machine: Machine) -> bool:
        return machine.name not in self.wishes.wanted
