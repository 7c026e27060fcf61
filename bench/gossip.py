"""How fast news spreads and what gossip costs: the pure core with many members, no network.

`python -m bench.gossip [--seeds N] [NODES ...]` prints a table. Every member starts
a round with one random other each second, as nodes do; nothing is lost. Bytes count
payloads and frame headers of both directions, per node and second. With `--nodes-code`
whole nodes run in the simulator instead (`gossip_sim`).
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from random import Random

from dynamo_core.frames import HEADER, RingName
from dynamo_core.gossip_messages import STARTED, Facts
from dynamo_core.membership import Membership, next_generation, pick

RING = RingName(7, bytes(range(16)))
ROUNDS_MAX = 60
SETTLED_ROUNDS = 5
CHURN_ROUNDS = 10


@dataclass(frozen=True)
class Row:
    """One line of the table; bytes are sent per node and second, headers included."""

    nodes: int
    rounds_one: float
    rounds_all: float
    bytes_quiet: float
    bytes_one: float
    bytes_busy: float
    bytes_restarts: float


class Simulated:
    """`nodes` members that know each other's number and nothing else."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.sent_bytes = 0
        self.members: dict[int, Membership] = {}
        for number in range(1, nodes + 1):
            self.start(number, nodes, 0)

    def start(self, number: int, nodes: int, generation: int) -> None:
        """That member begins a life; what it knew of others is gone but for the history."""
        before = self.members.get(number)
        log = () if before is None else before.events()
        member = Membership(next_generation(generation, self.rng.randrange(1 << 16)), log)
        member.ring(number, range(1, nodes + 1))
        incarnation = self.rng.randbytes(8)
        member.enter(STARTED, number, member.generation, incarnation, 1_700_000_000_000)
        member.say(Facts("up", incarnation, 100_000, 0, RING), self.now)
        self.members[number] = member

    def round(self) -> None:
        """Everybody's round of one second, in random order."""
        self.now += 1.0
        numbers = sorted(self.members)
        for number in self.rng.sample(numbers, len(numbers)):
            peer = pick([n for n in numbers if n != number], self.rng.randbytes(8))
            if peer is not None:
                self._exchange(self.members[number], self.members[peer])

    def _exchange(self, caller: Membership, called: Membership) -> None:
        reply = called.answer(self._sent(caller.open()), RING)
        _, message = caller.follow(self._sent(reply))
        if message is not None:
            caller.conclude(self._sent(called.answer(self._sent(message), RING)))

    def _sent(self, payload: bytes) -> bytes:
        self.sent_bytes += HEADER.size + len(payload)
        return payload

    @property
    def agree(self) -> bool:
        return len({member.digest for member in self.members.values()}) == 1

    def rounds_until_agreed(self) -> int:
        for rounds in range(1, ROUNDS_MAX + 1):
            self.round()
            if self.agree:
                return rounds
        raise AssertionError(f"no agreement after {ROUNDS_MAX} rounds")

    def bytes_a_second(self, rounds: int) -> float:
        self.sent_bytes = 0
        for _ in range(rounds):
            self.round()
        return self.sent_bytes / rounds / len(self.members)

    def change(self, number: int, keys: int) -> None:
        """That member has another number of keys to tell."""
        member = self.members[number]
        facts = member.facts(number)
        assert facts is not None
        member.say(facts._replace(keys=keys), self.now)


def measure(nodes: int, seed: int = 1) -> Row:
    """The figures of one cluster size; the same for the same seed."""
    simulated = Simulated(nodes, seed)
    rounds_all = simulated.rounds_until_agreed()
    quiet = simulated.bytes_a_second(SETTLED_ROUNDS)
    simulated.now += 60
    simulated.change(1, 100_001)
    simulated.sent_bytes = 0
    rounds_one = simulated.rounds_until_agreed()
    one = simulated.sent_bytes / rounds_one / nodes
    simulated.sent_bytes = 0
    for at in range(CHURN_ROUNDS):
        # Under load every member's figures change all the time and are told every 10 s.
        for number in range(1, nodes + 1):
            if number % CHURN_ROUNDS == at:
                simulated.change(number, 200_000 + at)
        simulated.round()
    busy = simulated.sent_bytes / CHURN_ROUNDS / nodes
    simulated.rounds_until_agreed()
    simulated.sent_bytes = 0
    for at in range(CHURN_ROUNDS):
        number = 1 + at % nodes
        simulated.start(number, nodes, simulated.members[number].generation)
        simulated.round()
    restarts = simulated.sent_bytes / CHURN_ROUNDS / nodes
    return Row(nodes, rounds_one, rounds_all, quiet, one, busy, restarts)


def table(rows: Callable[[int, int], Row], sizes: Sequence[int], seeds: int, unit: str) -> None:
    """Print a line for each size: the median over the seeds, and of the times the highest."""
    print(
        f"| nodes | one change: {unit} until all know, median (max) | all start at once: {unit} "
        "| quiet: B/s | one change: B/s | all figures change: B/s | one restarts each second: B/s |"
    )
    print("|" + "---|" * 7)
    for size in sizes:
        # The larger the cluster, the less a run is left to chance.
        found = [rows(size, seed) for seed in range(1, max(1, min(seeds, 5_000 // size)) + 1)]
        columns = list(zip(*map(astuple, found), strict=True))
        one, every = (
            f"{statistics.median(column):.3g} ({max(column):.3g})" for column in columns[1:3]
        )
        costs = [f"{statistics.median(column):.0f}" for column in columns[3:]]
        print("| " + " | ".join([str(size), one, every, *costs]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gossip")
    parser.add_argument("nodes", nargs="*", type=int, help="cluster sizes")
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--nodes-code", action="store_true", help="whole nodes on virtual time")
    options = parser.parse_args()
    if options.nodes_code:
        from bench.gossip_sim import measure as measure_nodes

        table(measure_nodes, options.nodes or [10, 50, 200], options.seeds, "seconds")
    else:
        table(measure, options.nodes or [5, 10, 50, 200, 1000], options.seeds, "rounds")


if __name__ == "__main__":
    main()
