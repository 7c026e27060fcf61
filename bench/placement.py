"""How even three ways to place tokens are, and what their changes move (P§6.2).

`python -m bench.placement [--quick]` prints the tables of docs/placement.md. Pure reckoning:
no node runs. Load is the share of the data a node stores, replicas included, over keys of
equal popularity. The ways, all with the same walk to N distinct nodes and zones (P§4.3):

- `scattered`: strategy 1, T random tokens per node and unit of capacity, a range each.
- `dealt`: strategy 3 as the paper tells it: Q equal ranges, tokens by capacity, dealt at
  random; who joins steals random tokens, what a leaver had is scattered at random.
- `planned`: strategy 3 with this store's `placement.plan`.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from bench.placement_chains import AT, candidate, growth, rough
from dynamo_core.placement import first_ring, next_ring, plan
from dynamo_core.placement_targets import token_shares, token_targets, whole_weights
from dynamo_core.ring import Ring
from dynamo_core.walks import preferred_slots

N = 3
UNIT = 1 << 32  # the circle of random tokens


@dataclass(frozen=True)
class Rows:
    """Ranges of the circle as (length, holders); lengths add up to 1."""

    lengths: Sequence[float]
    holders: Sequence[Sequence[int]]
    bounds: Sequence[float]  # where each range ends

    def load(self) -> Counter[int]:
        """Replicas of the whole data that each node stores; they add up to N."""
        found: Counter[int] = Counter()
        for length, row in zip(self.lengths, self.holders, strict=True):
            for number in row:
                found[number] += length  # type: ignore[assignment]  # a share, not a count
        return found


def moved(old: Rows, new: Rows) -> float:
    """Replicas of the whole data that some node has to fetch."""
    found, i, j, at = 0.0, 0, 0, 0.0
    while i < len(old.bounds) and j < len(new.bounds):
        end = min(old.bounds[i], new.bounds[j])
        found += (end - at) * len(set(new.holders[j]) - set(old.holders[i]))
        at = end
        i += old.bounds[i] <= end
        j += new.bounds[j] <= end
    return found


def equal(owners: Sequence[int], zones: dict[int, str]) -> Rows:
    q = len(owners)
    ends = [(p + 1) / q for p in range(q)]
    return Rows([1 / q] * q, preferred_slots(owners, zones, N), ends)


Nodes = dict[int, tuple[str, int]]
"""number -> (zone, capacity)"""


class Scattered:
    def __init__(self, q: int, nodes: Nodes, random: Random, per_node: int = 0) -> None:
        self.random = random
        self.per_node = per_node or max(1, q // len(nodes))
        self.tokens: dict[int, list[int]] = {}
        self.become(nodes)

    def become(self, nodes: Nodes) -> Rows:
        for number in list(self.tokens):
            if number not in nodes:
                del self.tokens[number]
        for number, (_, capacity) in nodes.items():
            own = self.tokens.setdefault(number, [])
            del own[self.per_node * capacity :]
            own += [self.random.randrange(UNIT) for _ in range(self.per_node * capacity - len(own))]
        points = sorted((at, number) for number, own in self.tokens.items() for at in own)
        zones = {number: zone for number, (zone, _) in nodes.items()}
        # A key goes to the first token after it: the range ends at the token.
        ends = [at / UNIT for at, _ in points] + [1.0]
        owners = [number for _, number in points] + [points[0][1]]
        lengths = [b - a for a, b in pairwise([0.0, *ends])]
        slots = preferred_slots(owners[:-1], zones, N)
        return Rows(lengths, [*slots, slots[0]], ends)


class Dealt:
    def __init__(self, q: int, nodes: Nodes, random: Random) -> None:
        self.random = random
        self.owners = [0] * q
        self.become(nodes)

    def become(self, nodes: Nodes) -> Rows:
        weights = {number: capacity for number, (_, capacity) in nodes.items()}
        none = dict.fromkeys(nodes, "")
        targets = token_targets(weights, none, len(self.owners), 1, Counter(self.owners))
        over = Counter(self.owners)
        over.subtract(targets)
        places = list(range(len(self.owners)))
        self.random.shuffle(places)
        free = []
        for p in places:
            if over[self.owners[p]] > 0:
                over[self.owners[p]] -= 1
                free.append(p)
        takers = [number for number in sorted(targets) for _ in range(-over[number])]
        for p, number in zip(free, takers, strict=True):
            self.owners[p] = number
        return equal(self.owners, {number: zone for number, (zone, _) in nodes.items()})


class Planned:
    def __init__(self, q: int, nodes: Nodes, random: Random) -> None:
        self.ring: Ring | None = None
        self.q = q
        self.become(nodes)

    def become(self, nodes: Nodes) -> Rows:
        members = [
            candidate(f"n{number}", zone, str(capacity))
            for number, (zone, capacity) in nodes.items()
        ]
        if self.ring is None:
            self.ring = first_ring("c0" * 16, "c", members, N, self.q, AT)
        else:
            self.ring = next_ring(self.ring, members, AT)
        q = self.q
        names = {m.number: int(m.name[1:]) for m in self.ring.members}
        rows = [[names[number] for number in row] for row in self.ring.slots]
        return Rows([1 / q] * q, rows, [(p + 1) / q for p in range(q)])


WAYS: dict[str, Callable[[int, Nodes, Random], "Scattered | Dealt | Planned"]] = {
    "scattered, Q/S": Scattered,
    "scattered, 256": lambda q, nodes, random: Scattered(q, nodes, random, 256),
    "dealt": Dealt,
    "planned": Planned,
}


def fair(nodes: Nodes, q: int) -> dict[int, float]:
    """The replicas of the whole data that each node should store: by capacity, as far as N
    distinct nodes and zones allow."""
    weights = whole_weights([str(capacity) for _, capacity in nodes.values()])
    given = dict(zip(nodes, weights, strict=True))
    zones = {number: zone for number, (zone, _) in nodes.items()}
    shares = token_shares(given, zones, q, N)
    return {number: float(N * share / q) for number, share in shares.items()}


def cluster(count: int, zones: str, capacities: Sequence[int], start: int = 1) -> Nodes:
    return {
        start + i: (zones[i % len(zones)] if zones else "", capacities[i % len(capacities)])
        for i in range(count)
    }


def changed(nodes: Nodes, zones: str, random: Random, unused: int) -> Nodes:
    """One to three nodes join, or leave, or another tenth of them."""
    nodes = dict(nodes)
    many = random.choice((1, 1, 2, 3, max(1, len(nodes) // 10)))
    if random.random() < 0.5 and len(nodes) - many >= max(N + 1, 2 * len(zones)):
        for number in random.sample(sorted(nodes), many):
            del nodes[number]
    else:
        for number in range(unused, unused + many):
            have = Counter(zone for zone, _ in nodes.values())
            zone = min(zones, key=lambda z: (have[z], z)) if zones else ""
            nodes[number] = (zone, random.choice(sorted({c for _, c in nodes.values()})))
    return nodes


@dataclass
class Figures:
    fullest: list[float]
    off: list[float]
    moved: list[float]


def run(
    name: str, q: int, count: int, zones: str, capacities: Sequence[int], steps: int, seeds: int
) -> Figures:
    found = Figures([], [], [])
    for seed in range(seeds):
        chain, tokens = Random(f"chain {count} {zones} {seed}"), Random(f"tokens {name} {seed}")
        nodes = cluster(count, zones, capacities)
        way = WAYS[name](q, nodes, tokens)
        rows, should, unused = way.become(nodes), fair(nodes, q), count + 1
        for step in range(steps + 1):
            if step:
                nodes = changed(nodes, zones, chain, unused)
                unused = max(unused, *nodes) + 1
                before, rows, was = rows, way.become(nodes), should
                should = fair(nodes, q)
                least = sum(max(0.0, should[n] - was.get(n, 0.0)) for n in should)
                found.moved.append(moved(before, rows) / least)
            load = rows.load()
            fill = [load[n] / should[n] for n in nodes]
            found.fullest.append(max(fill))
            found.off.append(sum(abs(each - 1) > 0.15 for each in fill) / len(fill))
    return found


CASES = [  # nodes, Q, zones, capacities, steps, seeds
    (3, 256, "", (1,), 5, 8),
    (5, 256, "", (1,), 5, 8),
    (12, 256, "", (1,), 5, 8),
    (12, 256, "abc", (1,), 5, 8),
    (12, 256, "abcd", (1,), 5, 8),
    (12, 1024, "", (1, 2, 4), 5, 8),
    (50, 1024, "", (1,), 5, 4),
    (50, 1024, "abc", (1, 2), 5, 4),
    (200, 8192, "", (1,), 4, 1),
    (500, 8192, "", (1,), 4, 1),
    (500, 8192, "abc", (1,), 4, 1),
    (500, 8192, "abcde", (1, 2), 4, 1),
]


def compare(quick: bool) -> None:
    names = list(WAYS)
    for title in ("fullest", "off", "moved"):
        print(f"\n{title}\n\n| nodes | Q | zones | capacities | {' | '.join(names)} |")
        print("|---" * (4 + len(names)) + "|")
        for count, q, zones, capacities, steps, seeds in CASES:
            if quick and count > 50:
                continue
            key = (count, q, zones, capacities, steps, 1 if quick else seeds)
            cells = [_cell(title, _figures(name, *key)) for name in names]
            weights = ", ".join(map(str, capacities))
            print(f"| {count} | {q} | {len(zones) or '-'} | {weights} | {' | '.join(cells)} |")


_done: dict[tuple[object, ...], Figures] = {}


def _figures(
    name: str, count: int, q: int, zones: str, capacities: Sequence[int], steps: int, seeds: int
) -> Figures:
    key = (name, count, q, zones, capacities, steps, seeds)
    if key not in _done:
        _done[key] = run(name, q, count, zones, capacities, steps, seeds)
    return _done[key]


def _cell(title: str, found: Figures) -> str:
    values = {"fullest": found.fullest, "off": found.off, "moved": found.moved}[title]
    if title == "off":
        return f"{100 * statistics.mean(values):.0f}%"
    return f"{statistics.mean(values):.2f} ({max(values):.2f})"


def timed(quick: bool) -> None:
    print("\n| nodes | Q | zones | first ring, s | one joins, s | a tenth joins, s |")
    print("|---" * 6 + "|")
    sizes = [(12, 256), (100, 1024)] if quick else [(12, 256), (100, 1024), (500, 8192)]
    for count, q in sizes:
        for zones in ("", "abc", "abcd"):
            seconds = []
            way = None
            for more in (0, 1, 1 + count // 10):
                nodes = cluster(count + more, zones, (1,))
                began = time.process_time()
                if way is None:
                    way = Planned(q, nodes, Random(0))
                elif way.ring is not None:
                    old = way.ring
                    way.become(nodes)
                    began = time.process_time()
                    plan(old, way.ring.members, N, q)
                seconds.append(time.process_time() - began)
            cells = " | ".join(f"{each:.2f}" for each in seconds)
            print(f"| {count} | {q} | {len(zones) or '-'} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.placement", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small clusters, one seed")
    quick = parser.parse_args().quick
    compare(quick)
    growth()
    rough(5 if quick else 150)
    timed(quick)


if __name__ == "__main__":
    main()
