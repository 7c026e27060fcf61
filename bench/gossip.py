"""How fast news spreads and what gossip costs: the pure core with many members, no network.

`python -m bench.gossip [NODES ...]` prints a table. Every member starts a round
with one random other each second, as nodes do; nothing is lost. Bytes count
payloads and frame headers of both directions, per node and second.
"""

import sys
from dataclasses import dataclass
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
    rounds_one: int
    rounds_all: int
    bytes_quiet: float
    bytes_busy: float
    bytes_one: float


class Simulated:
    """`nodes` members that know each other's number and nothing else."""

    def __init__(self, nodes: int, seed: int = 1) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.sent_bytes = 0
        self.members = {}
        for number in range(1, nodes + 1):
            member = Membership(next_generation(0, self.rng.randrange(1 << 16)))
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
    return Row(nodes, rounds_one, rounds_all, quiet, busy, one)


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [5, 10, 50, 200, 1000]
    print("| nodes | one change: rounds, B/s | all start: rounds | quiet: B/s | all busy: B/s |")
    print("|---|---|---|---|---|")
    for size in sizes:
        row = measure(size)
        print(
            f"| {row.nodes} | {row.rounds_one}, {row.bytes_one:.0f} | {row.rounds_all} "
            f"| {row.bytes_quiet:.0f} | {row.bytes_busy:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
