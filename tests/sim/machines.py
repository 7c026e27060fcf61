"""Machines: hosts of a world, and the processes that run on them.

Owns a machine (name, disk, wall clock, power) and the life of its process as `main`
arranges it, without the HTTP doors: start, serve, drain, stop.
"""

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

from tests.sim.disk import SimStore
from tests.sim.loop import NodeLoop
from tests.sim.losses import WatchedDisk

from dynamo_core.errors import CallerError
from dynamo_node.config import SYNC, Config
from dynamo_node.inbound import Inbound
from dynamo_node.node import Node
from dynamo_node.opening import StorageError
from dynamo_node.outside import Outside
from dynamo_node.service import Service
from dynamo_node.supervisor import Supervisor, Trouble

if TYPE_CHECKING:
    from tests.sim.world import World

WALL_START_MS: Final = 1_700_000_000_000
NATIVE_PORT: Final = 7070


class Machine:
    """One host: its disk and clock stay when its process goes."""

    def __init__(
        self, world: "World", name: str, disk: WatchedDisk | None = None, bearer: int = 0
    ) -> None:
        """`disk`: the volume that is found there, if it isn't an empty one; `bearer`: how
        many machines have had this name before."""
        self.world = world
        self.name = name
        seed = f"{world.seed}/{name}" + (f"/{bearer}" if bearer else "")
        self.rng = Random(seed)
        self.disk = WatchedDisk(Random(f"{seed}/disk")) if disk is None else disk
        self.disk.forgetting = partial(world.forgets, self.disk)
        self.free_bytes = 1 << 40
        self.skew_ms = 0
        self.boots = 1
        self.config: Config = world.config_of(name)
        self.process: Process | None = None
        self.down = False
        """Kept down by a fault; else a process that ended is started again."""

    def outside(self) -> Outside:
        return Outside(
            random_bytes=self.rng.randbytes,
            wall_ns=lambda: (WALL_START_MS + int(self.world.now * 1000) + self.skew_ms) * 1_000_000,
            stopwatch=lambda: self.world.now,
            boot_id=lambda: f"{self.name}-boot-{self.boots}",
            open_store=lambda config, create: SimStore(
                self.disk, sync=config.durability == SYNC, create=create
            ),
            free_bytes=lambda config: self.free_bytes,
            size_bytes=lambda config: 1 << 40,
            look_up=self._look_up,
        )

    def _look_up(self, host: str) -> "asyncio.Future[list[str]]":
        """Hosts of a world are reached by their names."""
        found: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        found.set_result([host])
        return found

    @property
    def node(self) -> Node | None:
        """The running node, once it has started."""
        return None if self.process is None else self.process.node


class Process:
    """One run of `main`, from its start to its end."""

    def __init__(self, machine: Machine) -> None:
        world = machine.world
        self.machine = machine
        self.loop = NodeLoop(
            world.scheduler, machine.name, offset=machine.rng.randrange(1, 1_000_000)
        )
        self.loop.connect = world.net.connect
        self.node: Node | None = None
        self.stop_wanted = False
        self._supervisor: Supervisor | None = None
        self.connections: set[Inbound] = set()
        world.scheduler.soon(self.loop, self._begin, ())

    def _begin(self) -> None:
        self.loop.create_task(self._serve())

    async def _serve(self) -> None:
        machine = self.machine
        self._supervisor = Supervisor(machine.config, self, machine.outside())
        if self.stop_wanted:
            self._supervisor.stop()
        try:
            await self._supervisor.run()
        except (CallerError, StorageError) as error:  # `main` says so and exits
            machine.world.note(machine.name, f"ends: {error}")
        self._gone()

    # The supervisor's doors

    async def serve(self, node: Node) -> None:
        machine, world = self.machine, self.machine.world
        service = Service(node)
        self.node = node
        world.started(machine, node)
        world.net.listen(
            machine.name, NATIVE_PORT, self.loop, lambda: Inbound(service, self.connections)
        )

    async def refuse(self, trouble: Trouble) -> None:
        self.machine.world.note(self.machine.name, f"has no store: {trouble.error}")
        self.node = None
        await self.shut()

    async def shut(self) -> None:
        self.machine.world.net.stop_listening(self.machine.name)

    async def leave(self) -> None:
        for connection in sorted(self.connections, key=lambda c: getattr(c.transport, "number", 0)):
            connection.close_soon()

    def stop(self) -> None:
        """SIGTERM."""
        self.stop_wanted = True
        if self._supervisor is not None:
            self.machine.world.scheduler.soon(self.loop, self._supervisor.stop, ())

    def _gone(self) -> None:
        machine = self.machine
        self.loop.kill()
        machine.disk.in_use = False
        machine.world.net.process_gone(self.loop)
        machine.world.ended(machine, self)
