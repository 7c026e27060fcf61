"""Shape: what kind of cluster, clients and faults a random run has, drawn from its seed.

Owns every choice that is made once for a whole run, and its names in totals. A
shape says nothing of what happens when: that is the nemesis' and the clients'.
"""

from dataclasses import dataclass, fields, replace
from random import Random
from typing import Final

from dynamo_node.config import BUFFERED, HINTS_BYTES_MAX, LAST_WRITE_WINS, SIBLINGS, SYNC

REAP_DELAYS_MS: Final = (300, 1000, 3000, 60_000)
"""How long tombstones wait for their round; the last, a node's default, reaps nothing in a run."""

QUORUMS: Final = (
    *((3, 2, 2),) * 10,
    *((3, 1, 3), (3, 3, 1), (3, 1, 1), (3, 3, 3), (3, 2, 3), (3, 3, 2)),
    *((5, 3, 3),) * 3,
    *((2, 1, 2), (2, 2, 1), (2, 2, 2), (2, 1, 1), (4, 2, 3), (1, 1, 1)),
)
"""(N, R, W); most clusters are 3/2/2."""

LOST, ROLLED_BACK = "lost", "rolled back"
JOIN, LEAVE, REWEIGH, MIND, REPLACE, GIVE_UP, RETURN = CHANGES = (
    "join",
    "leave",
    "re-weigh",
    "change of mind",
    "replace",
    "give up",
    "return",
)
"""What becomes of who is a member; the last three need a disk that may be missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One run's kind; the defaults are a plain cluster that a scenario starts from.

    `disks`: what befalls disks in the course of the run, one each. Shares are
    probabilities per operation. `faults`: the nemesis' kinds that may strike. `changes`: what
    happens to the members in the course of the run, one each; with `burst` shortly after
    each other. `sync_s`: how long an fsync takes at least.
    """

    nodes: int = 3
    n: int = 3
    r: int = 2
    w: int = 2
    partitions: int = 16
    durability: str = SYNC
    reconciliation: str = SIBLINGS
    reap_delay_ms: int = 60_000
    spent_min: int = 8
    hints_bytes_max: int = HINTS_BYTES_MAX
    siblings_max: int = 100
    straggler_ms: int = 1000
    hedge_ms: int = 150
    timeout_ms: tuple[int, int] = (1500, 1500)
    keys: int = 5
    hot_share: float = 0.3
    clients: int = 4
    operations: int = 80
    over_s: float = 15.0
    reads: float = 0.45
    deletes: float = 0.15
    contexts: float = 0.7
    floors: float = 0.5
    stale: float = 0.0
    handed_on: float = 0.0
    own_quorum: float = 0.0
    down_max: int = 1
    disks: tuple[str, ...] = ()
    small_buffers: bool = False
    faults: tuple[str, ...] = ()
    gap_s: tuple[float, float] = (0.3, 2.0)
    changes: tuple[str, ...] = ()
    publishers: int = 1
    publisher_reaches: float = 1.0
    publisher_crashes: float = 0.0
    follows_disks: bool = True
    ends_at_once: bool = False
    sync_s: float = 0.0015
    transfer_bytes_per_second_max: int = 0
    burst: bool = False

    def told(self) -> str:
        """In one line, without what is as in the plain shape."""
        plain = Shape()
        return ", ".join(
            f"{f.name} {getattr(self, f.name)}"
            for f in fields(self)
            if f.name in ("nodes", "n", "r", "w") or getattr(self, f.name) != getattr(plain, f.name)
        )

    def kinds(self) -> list[str]:
        """What the totals of many runs count."""
        hints = "full" if self.hints_bytes_max < HINTS_BYTES_MAX else "default"
        return [
            f"nodes {self.nodes}",
            f"N/R/W {self.n}/{self.r}/{self.w}",
            f"durability {self.durability}",
            f"reconciliation {self.reconciliation}",
            f"hint stores {hints}",
            f"reap delay {self.reap_delay_ms} ms",
            f"clocks retired from {self.spent_min} spent entries",
            f"disks {' and '.join(sorted(self.disks)) or 'whole'}",
            f"members change {'once' if len(self.changes) == 1 else 'often'}"
            if self.changes
            else "members stay",
            f"keys {'up to 3' if self.keys <= 3 else 'up to 10' if self.keys <= 10 else 'more'}",
        ]


def draw(seed: int, faults: tuple[str, ...]) -> Shape:
    """The shape of a seed; `faults` are all kinds there are."""
    rng = Random(f"{seed}/shape")
    n, r, w = rng.choice(QUORUMS)
    nodes = max(n, rng.choices((3, 4, 5, 6, 7), (42, 26, 18, 9, 5))[0])
    low = rng.choice((1500, 1500, 1500, 100, 400, 4000))
    shape = Shape(
        nodes=nodes,
        n=n,
        r=r,
        w=w,
        partitions=rng.choice((16, 16, 32)),
        durability=BUFFERED if rng.random() < 0.25 else SYNC,
        reconciliation=LAST_WRITE_WINS if rng.random() < 0.2 else SIBLINGS,
        reap_delay_ms=rng.choice(REAP_DELAYS_MS),
        hints_bytes_max=rng.choice((HINTS_BYTES_MAX,) * 5 + (0, 200, 600)),
        siblings_max=rng.choice((100, 100, 100, 4)),
        straggler_ms=rng.choice((1000, 1000, 1000, 200)),
        hedge_ms=rng.choice((150, 150, 30, 500)),
        timeout_ms=(low, rng.choice((low, low, 2 * low))),
        keys=_keys(rng),
        hot_share=rng.choice((0.3, 0.0, 0.7)),
        clients=rng.randint(2, 7),
        operations=rng.randint(60, 100),
        over_s=rng.uniform(10, 20),
        reads=rng.choice((0.45, 0.3, 0.6)),
        deletes=rng.choice((0.15, 0.05, 0.3)),
        contexts=rng.choice((0.7, 0.95, 0.3)),
        floors=rng.choice((0.5, 0.9, 0.1)),
        stale=rng.choice((0.0, 0.1, 0.4)),
        handed_on=rng.choice((0.0, 0.0, 0.3)),
        own_quorum=rng.choice((0.0, 0.0, 0.2)),
        down_max=rng.choice(((nodes - 1) // 2, (nodes - 1) // 2, nodes - 1)),
        disks=_disks(rng, n),
        small_buffers=rng.random() < 0.2,
        faults=_some(rng, faults),
        gap_s=rng.choice(((0.3, 2.0), (0.3, 2.0), (0.1, 0.8), (1.0, 5.0))),
        spent_min=rng.choice((8, 1, 1, 2)),
    )
    return _changing(Random(f"{seed}/shape/members"), shape)


def _changing(rng: Random, shape: Shape) -> Shape:
    """Half of all runs as they are, the other half with members that change."""
    if rng.random() < 0.5:
        return shape
    kinds = CHANGES if shape.n > 1 and len(shape.disks) < shape.n - 1 else CHANGES[:4]
    count = rng.choice((1, 1, 2, 3, 4, 5))
    changes = (rng.choice(kinds),) if count == 1 else tuple(rng.choices(kinds, k=count))
    if RETURN in changes and changes[0] == RETURN:
        changes = (rng.choice((LEAVE, REPLACE, GIVE_UP)), *changes)
    publishers = rng.choice((1, 1, 1, 2))
    alone = rng.random() < 0.3
    return replace(
        shape,
        partitions=16,
        keys=min(shape.keys, rng.randint(1, 8)),
        changes=changes,
        publishers=publishers,
        publisher_reaches=rng.choice((1.0, 1.0, 0.7)),
        publisher_crashes=rng.choice((0.0, 0.0, 0.1)),
        follows_disks=rng.random() < 0.7,
        ends_at_once=publishers == 1 and rng.random() < 0.5,
        # Small partitions on fast disks move in no time, and no plan would meet another one.
        sync_s=rng.choice((0.0015, 0.0015, 0.02, 0.1)),
        transfer_bytes_per_second_max=rng.choice((0, 0, 600, 3000)),
        burst=rng.random() < 0.5,
        faults=() if alone else shape.faults,
        disks=() if alone else shape.disks,
    )


def _keys(rng: Random) -> int:
    """A few hot ones, some, or many."""
    return rng.randint(*rng.choice(((1, 3), (4, 10), (4, 10), (11, 30))))


def _disks(rng: Random, n: int) -> tuple[str, ...]:
    """Never all owners' disks: then only a person could say that nothing is missing."""
    count = min(rng.choices((0, 1, 2), (40, 48, 12))[0], n - 1)
    return tuple(rng.choice((LOST, ROLLED_BACK)) for _ in range(count))


def _some(rng: Random, faults: tuple[str, ...]) -> tuple[str, ...]:
    """All of them, or a few that then meet more often; seldom none."""
    choice = rng.random()
    if choice < 0.5:
        return faults
    if choice < 0.95:
        return tuple(sorted(rng.sample(faults, rng.randint(2, 6))))
    return ()
