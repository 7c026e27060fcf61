"""Replicas: worlds in which objects are put into single replicas, and slots are moved by hand."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.sim.play import Play
from tests.sim.world import Machine

from dynamo_core import objects, records
from dynamo_core.objects import ABSENT, Sibling
from dynamo_core.ring import position
from dynamo_core.slots import Row
from dynamo_core.tenures import Held, Stage
from dynamo_core.versions import EMPTY
from dynamo_core.wire import Type
from dynamo_node import repairs
from dynamo_node.config import Timing
from dynamo_node.storage import OBJECTS

BY_HAND = Timing(timeout_ms=2000, drain_ms=200, antientropy_ms=600_000, recheck_ms=100)
"""The loop stands still: a test says when replicas compare."""
OFTEN = replace(BY_HAND, antientropy_ms=200)


def blind(actor: int, value: bytes | None = b"v") -> bytes:
    sibling = Sibling((bytes([actor]) * 16, 1), bytes([actor]) * 16, 0, "", value)
    return objects.to_bytes(objects.put(ABSENT, EMPTY, sibling))


class Replicas(Play):
    """A world in which objects are put into single replicas."""

    def do(self, machine: Machine, work: Coroutine[Any, Any, Any], most_s: float = 60.0) -> Any:
        """Run a coroutine in a machine's process; its result."""
        done: list[Any] = []

        async def noted() -> None:
            done.append(await work)

        assert machine.process is not None
        loop = machine.process.loop
        self.world.scheduler.soon(loop, lambda: loop.create_task(noted()), ())
        self.world.run_until(lambda: bool(done), most_s)
        return done[0]

    def merge(self, machine: Machine, key: bytes, obj: bytes, wait: bool = True) -> None:
        """Put an object into one replica alone."""
        node, told = machine.node, []
        assert machine.process is not None
        assert node is not None
        self.world.scheduler.soon(
            machine.process.loop, node.replica.merge, (key, position(key), obj, 0, told.append)
        )
        if wait:
            self.world.run_until(lambda: bool(told), 10.0)
            assert told == [None]
        else:
            self.world.scheduler.run(self.world.now + 1e-6)

    @property
    def partition(self) -> int:
        return self.place.partition

    def learn(self, machine: Machine, partition: int, row: Row) -> None:
        """Somebody tells a machine who holds the slots of a partition."""
        assert machine.process is not None
        loop, custodies = machine.process.loop, machine.node.custodies  # type: ignore[union-attr]
        self.world.scheduler.soon(loop, custodies.learn, (partition, row))
        self.world.scheduler.run(self.world.now + 1e-6)

    def takes_over(self, new: Machine, old: Machine, partition: int) -> Row:
        """`new` has taken over the slot of `old`, and counts; only it knows that. The new row."""
        assert new.node is not None
        assert old.node is not None
        topology = new.node.topology
        row = list(topology.row(partition))
        slot = topology.holders(partition).index(old.node.topology.number)
        row[slot] = row[slot].handed_to(topology.number)
        custody = new.node.custodies.of(partition)
        custody.held[slot] = Held(row[slot], Stage.COUNTS)
        self.learn(new, partition, tuple(row))
        custody._put()
        new.node.standing.completed(partition, possible_loss=False)
        new.node.reaper.copies._sure.add(partition)
        self.world.run_for(0.1)
        assert new.node.antientropy.view.counts(partition)
        return tuple(row)

    def held(self, machine: Machine, key: bytes) -> bytes | None:
        assert machine.node is not None
        place = position(key) + key
        found = machine.node.disk.store.scan(OBJECTS, place, place + b"\x00", 1)
        return records.object_of(found[0][1]) if found else None

    def compare(self, a: Machine, b: Machine) -> Any:
        """One comparison of `a` with `b`: how it ended."""
        assert a.node is not None
        assert b.node is not None
        number, node = b.node.topology.number, a.node

        async def compare() -> Any:
            try:
                shared = node.antientropy.shared(number)
                return await node.antientropy._compare(number, shared, 1 << 16)
            except repairs.Ended as ended:
                return ended

        return self.do(a, compare())

    def ask(self, a: Machine, b: Machine, kind: Type, payload: bytes) -> tuple[int, bytes]:
        """One question; of what is about one partition, about the key's, under its row."""
        assert a.node is not None
        assert b.node is not None
        if kind in (Type.SEGMENTS, Type.FETCH):
            payload = a.node.topology.digest(self.partition) + payload
        answer: tuple[int, bytes] = self.do(
            a, a.node.topology.links[b.node.topology.number].ask(kind, payload, 30.0)
        )
        return answer


@contextmanager
def replicas(nodes: int = 3, seed: int = 1, **config: Any) -> Iterator[Replicas]:
    play = Replicas(seed, nodes, **{"timing": BY_HAND, **config})
    try:
        yield play
    finally:
        play.world.close()
