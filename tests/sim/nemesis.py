"""Nemesis: what befalls a world, drawn from its seed.

Owns the kinds of faults, how long each lasts, and healing. Which kinds there are in
a run, how many machines may be down at once and what befalls disks is the shape's.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from tests.sim.shape import LOST, ROLLED_BACK
from tests.sim.world import Machine, World

from dynamo_core.wire import Type

FAULTS: Final = (
    "one-way partition",
    "partition",
    "split",
    "flapping link",
    "frame faults",
    "slow link",
    "resets",
    "process crash",
    "power cut",
    "power cut everywhere",
    "power cut at an answer",
    "power cut at a proof",
    "graceful stop",
    "stall",
    "slow disk",
    "clock jump",
    "full disk",
    "failed write or sync",
    "broken disk",
)
PROOFS: Final = (Type.WRITTEN, Type.WRITTEN, Type.PREPARE_REPLY, Type.COMMIT_REPLY, Type.KEPT_REPLY)
"""Replies that are said about fsynced state alone."""
OF_SLOTS: Final = (Type.SEAL_REPLY, Type.SEAL_REPLY, Type.COVERED, Type.ROWS_REPLY, Type.ROWS)
"""The same, where slots move."""


class Nemesis:
    """One per world; `begin` draws faults until `until`, `heal` ends them all."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.active = False
        acts: tuple[Callable[[], None], ...] = (
            self._one_way,
            self._partition,
            self._split,
            self._flap,
            self._frames,
            self._slow_link,
            self._resets,
            lambda: self._crash(False),
            lambda: self._crash(True),
            self._dark,
            self._dark_at_an_answer,
            self._dark_at_a_proof,
            self._stop,
            self._stall,
            self._slow_disk,
            self._clock,
            self._full_disk,
            self._disk_error,
            self._broken_disk,
        )
        acts_by_name = dict(zip(FAULTS, acts, strict=True))
        self._kinds = [(name, acts_by_name[name]) for name in world.shape.faults]
        self._snapshots: dict[str, dict[str, dict[bytes, bytes]]] = {}

    def begin(self, until: float) -> None:
        self.active = True
        world, rng = self.world, self.rng
        if world.shape.small_buffers:
            world.net.buffer_scale = 1 / 512
        for what in world.shape.disks:
            machine = rng.choice(world.machines)
            if what == ROLLED_BACK:
                at = world.now + rng.random() * (until - world.now) * 0.5
                world.scheduler.at(at, None, self._take_snapshot, machine)
            at = world.now + rng.uniform(0.5, 1.0) * (until - world.now)
            world.scheduler.at(at, None, self._lose_disk, machine, what)
        when = world.now
        while self._kinds and (when := when + rng.uniform(*world.shape.gap_s)) < until:
            world.scheduler.at(when, None, self._strike)

    def _strike(self) -> None:
        if self.active:
            name, act = self.rng.choice(self._kinds)
            self.world.faults[name] += 1
            self.world.note("nemesis", name)
            act()

    def heal(self) -> None:
        """End every fault and start what is down."""
        self.active = False
        world = self.world
        world.net.on_frame = world.on_written = None
        for link in world.net.links():
            link.slow_s = link.lose = link.double = link.overtake = 0.0
        for a in world.machines:
            for b in world.machines:
                if a is not b:
                    world.block(a.name, b.name, False)
        for machine in world.machines:
            temper = machine.disk.temper
            temper.slowness = 1.0
            temper.fails_next_sync = temper.fails_next_write = temper.fails = False
            machine.free_bytes = 1 << 40
            machine.skew_ms = 0
            world.start(machine)

    def _later(self, act: Callable[..., object], *args: object) -> None:
        """End a fault after a while; some last for longer than most of what waits for it."""
        world = self.world
        most_s = 5.0 if self.rng.random() < 0.8 else 15.0
        after_s = self.rng.uniform(0.2, most_s)
        world.scheduler.at(world.now + after_s, None, self._if_active, act, args)

    def _if_active(self, act: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.active:
            act(*args)

    def _pair(self) -> tuple[Machine, Machine]:
        one, other = self.rng.sample(self.world.machines, 2)
        return one, other

    def _one_way(self) -> None:
        a, b = self._pair()
        self.world.block(a.name, b.name, True)
        self._later(self.world.block, a.name, b.name, False)

    def _partition(self) -> None:
        world = self.world
        cut = self.rng.choice(world.machines)
        for other in world.machines:
            if other is not cut:
                for a, b in ((cut, other), (other, cut)):
                    world.block(a.name, b.name, True)
        self._later(self._rejoin, cut)

    def _split(self) -> None:
        """Two parts that don't hear each other; each has nodes, not always owners."""
        world = self.world
        part = self.rng.sample(world.machines, self.rng.randint(1, len(world.machines) - 1))
        rest = [m for m in world.machines if m not in part]
        for a in part:
            for b in rest:
                world.block(a.name, b.name, True)
                world.block(b.name, a.name, True)
        for a in part:
            self._later(self._rejoin, a)

    def _rejoin(self, cut: Machine) -> None:
        for other in self.world.machines:
            if other is not cut:
                self.world.block(cut.name, other.name, False)
                self.world.block(other.name, cut.name, False)

    def _flap(self) -> None:
        a, b = self._pair()
        for i in range(6):
            self.world.scheduler.at(
                self.world.now + i * self.rng.uniform(0.05, 0.5),
                None,
                self._if_active,
                self.world.block,
                (a.name, b.name, i % 2 == 0),
            )

    def _frames(self) -> None:
        a, b = self._pair()
        link = self.world.net.link(a.name, b.name)
        link.lose, link.double, link.overtake = (self.rng.random() * 0.3 for _ in range(3))
        self._later(link.calm_frames)

    def _slow_link(self) -> None:
        a, b = self._pair()
        link = self.world.net.link(a.name, b.name)
        link.slow_s = self.rng.uniform(0.02, 0.8)
        self._later(setattr, link, "slow_s", 0.0)

    def _resets(self) -> None:
        self.world.net.reset_some(self.rng.randint(1, 4))

    def _may_fall(self) -> Machine | None:
        up = [m for m in self.world.machines if m.process is not None and not m.down]
        down = len(self.world.machines) - len(up)
        return self.rng.choice(up) if up and down < self.world.shape.down_max else None

    def _crash(self, power: bool) -> None:
        machine = self._may_fall()
        if machine is not None:
            self.world.crash(machine, power)
            self._later(self.world.start, machine)

    def _dark(self) -> None:
        """All machines lose power at once, and come back one by one."""
        for machine in self.world.machines:
            self._cut(machine)

    def _dark_at_an_answer(self) -> None:
        """A client is told that its write is safe, and then all power goes."""
        world = self.world

        def answered() -> None:
            world.on_written = None
            world.scheduler.at(world.now + self._moment_s(), None, self._if_active, self._dark, ())

        world.on_written = answered

    def _dark_at_a_proof(self) -> None:
        """A node says what lets another one delete or stop trying, and then its power goes."""
        world = self.world
        proof = self.rng.choice(PROOFS + OF_SLOTS if world.shape.changes else PROOFS)

        def sent(source: str, target: str, frame: bytes) -> None:
            if frame[4] != proof or not self.active:
                return
            world.net.on_frame = None
            cut, when = world.named(source), world.now + self._moment_s()
            world.scheduler.at(when, None, self._if_active, self._cut, (cut,))

        world.net.on_frame = sent

    def _moment_s(self) -> float:
        """Shorter or longer than an fsync takes."""
        return self.rng.choice((0.0, self.rng.uniform(0, 0.003), self.rng.uniform(0, 0.1)))

    def _cut(self, machine: Machine) -> None:
        if machine in self.world.machines:
            self.world.crash(machine, True)
            self._later(self.world.start, machine)

    def _stop(self) -> None:
        machine = self._may_fall()
        if machine is not None:
            self.world.stop(machine)
            self._later(self.world.start, machine)

    def _stall(self) -> None:
        seconds = self.rng.choice((self.rng.uniform(0.05, 3.0), self.rng.uniform(3.0, 12.0)))
        self.world.stall(self.rng.choice(self.world.machines), seconds)

    def _slow_disk(self) -> None:
        temper = self.rng.choice(self.world.machines).disk.temper
        # An fsync that has begun takes what it takes, and the end of the run awaits it.
        temper.slowness = self.rng.choice((10.0, 100.0, 500.0)) * (0.0015 / temper.sync_s)
        self._later(setattr, temper, "slowness", 1.0)

    def _clock(self) -> None:
        machine = self.rng.choice(self.world.machines)
        machine.skew_ms = self.rng.randint(-86_400_000, 86_400_000)

    def _full_disk(self) -> None:
        machine = self.rng.choice(self.world.machines)
        machine.free_bytes = 1 << 10
        self._later(setattr, machine, "free_bytes", 1 << 40)

    def _disk_error(self) -> None:
        """Once, or for a while in which the disk can't be opened again either."""
        temper = self.rng.choice(self.world.machines).disk.temper
        what = self.rng.choice(("fails_next_sync", "fails_next_write", "fails"))
        setattr(temper, what, True)
        if what == "fails":
            self._later(setattr, temper, what, False)

    def _broken_disk(self) -> None:
        """It fails for a while, and can't be opened until it works again."""
        temper = self.rng.choice(self.world.machines).disk.temper
        temper.fails = True
        self._later(setattr, temper, "fails", False)

    def _take_snapshot(self, machine: Machine) -> None:
        if self.active and machine in self.world.machines:
            self._snapshots[machine.name] = machine.disk.snapshot()

    def _lose_disk(self, machine: Machine, what: str) -> None:
        """The volume is replaced by an empty one, or restored from its snapshot."""
        world = self.world
        if not self.active or machine not in world.machines:
            return
        world.crash(machine, power=True)
        snapshot = self._snapshots.get(machine.name)
        if what == LOST or snapshot is None:
            machine.disk.wipe()
            world.faults["disk lost"] += 1
            world.note(machine.name, "its disk is lost")
        else:
            machine.disk.roll_back(snapshot)
            world.faults["disk rolled back"] += 1
            world.note(machine.name, "its disk is rolled back")
        self._later(world.start, machine)
