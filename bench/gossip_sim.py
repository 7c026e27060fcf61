"""What gossip costs between whole nodes: their own code in the simulator, on virtual time.

Owns the figures of `gossip`, taken from frames on a simulated network: links are
dialled and shaken hands on, rounds are out of step, rings are compared, and what a
node says is what it finds. Bytes are those of gossip's frames alone.
"""

from tests.sim.shape import Shape
from tests.sim.world import World

from bench.gossip import CHURN_ROUNDS, SETTLED_ROUNDS, Row
from dynamo_core.frames import HEADER
from dynamo_core.wire import Type

AGREED_MOST_S = 60.0
PARTITIONS = 1024
_TYPE_AT = 4


class _Watched:
    """A formed cluster of which gossip's bytes are counted."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.world = World(seed, Shape(nodes=nodes, partitions=PARTITIONS))
        self.sent_bytes = 0
        self.world.net.on_frame = self._count

    def _count(self, source: str, target: str, frame: bytes) -> None:
        if frame[_TYPE_AT] in (Type.GOSSIP, Type.GOSSIP_REPLY):
            self.sent_bytes += len(frame)

    def agreed(self) -> bool:
        """Whether all know the same, something of everybody."""
        digests = set()
        for machine in self.world.machines:
            node = machine.node
            if node is None or node.replica.minter is None:
                return False
            digests.add(node.gossip.membership.digest)
            if len(digests) > 1:
                return False
        known = self.world.machines[0].node
        assert known is not None
        return all(known.gossip.facts(number) for number in known.topology.links)

    def seconds_until_agreed(self) -> float:
        began = self.world.now
        self.world.run_until(self.agreed, AGREED_MOST_S)
        return self.world.now - began

    def bytes_a_second(self, seconds: float) -> float:
        self.sent_bytes = 0
        self.world.run_for(seconds)
        return self.sent_bytes / seconds / len(self.world.machines)

    def change(self, at: int) -> None:
        """That node has one key more to tell."""
        node = self.world.machines[at].node
        assert node is not None
        assert node.replica.keys is not None
        node.replica.keys += 1


def measure(nodes: int, seed: int = 1) -> Row:
    """The figures of one cluster size; the same for the same seed."""
    assert HEADER.size > _TYPE_AT
    watched = _Watched(nodes, seed)
    world = watched.world
    try:
        world.form()
        every = watched.seconds_until_agreed()
        world.run_for(15.0)
        quiet = watched.bytes_a_second(SETTLED_ROUNDS)
        watched.change(0)
        world.run_until(lambda: not watched.agreed(), 15.0)  # it is told with its next round
        watched.sent_bytes = 0
        one_s = watched.seconds_until_agreed()
        one = watched.sent_bytes / one_s / nodes
        world.run_for(10.0)
        watched.sent_bytes = 0
        for _ in range(CHURN_ROUNDS):
            for at in range(nodes):
                watched.change(at)
            world.run_for(1.0)
        busy = watched.sent_bytes / CHURN_ROUNDS / nodes
        world.run_for(15.0)
        watched.sent_bytes = 0
        for at in range(CHURN_ROUNDS):
            machine = world.machines[at % nodes]
            world.crash(machine, power=False)
            world.scheduler.at(world.now + 0.5, None, world.start, machine)
            world.run_for(1.0)
        restarts = watched.sent_bytes / CHURN_ROUNDS / nodes
        return Row(nodes, one_s, every, quiet, one, busy, restarts)
    finally:
        world.close()
