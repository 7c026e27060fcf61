"""What is counted as it happens, and how long things have been as they are."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.slots import Move, Token
from dynamo_core.wire import Op
from dynamo_node.availability import availability
from dynamo_node.counters import Counters, Histogram
from dynamo_node.progress import Progress
from dynamo_node.recovery import Recovery
from dynamo_node.transfers import Transfers

SAMPLED, UNSAMPLED = b"t" * 16 + b"s" * 8 + b"\x01", b"t" * 16 + b"s" * 8 + b"\x00"


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (5.0, 1), (5.1, 2), (1e9, 2)]
)
def test_a_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    found = Histogram((1.0, 5.0))
    assert found.observe(value) == bucket
    assert found.buckets[bucket] == sum(found.buckets) == 1
    assert found.total == value


def test_only_a_sampled_trace_is_kept_and_the_last_of_each_bucket() -> None:
    counters = Counters(lambda: 0.0, lambda: 1234)
    for took_s, trace in ((0.0012, b""), (0.0013, UNSAMPLED), (0.0014, SAMPLED), (7.0, SAMPLED)):
        counters.answered(Op.GET, Outcome(Kind.ABSENT), took_s, trace)
    kept = counters.durations[Op.GET].exemplars.values()
    assert [(e.trace_id, e.value, e.wall_ms) for e in kept] == [
        ((b"t" * 16).hex(), 0.0014, 1234),
        ((b"t" * 16).hex(), 7.0, 1234),
    ]
    assert counters.requests[Op.GET][Kind.ABSENT] == 4
    assert sum(counters.shown.buckets) == 0, "a key without values has no siblings"


def test_a_transfer_stands_still_since_its_first_reason() -> None:
    progress = Progress(1, 2, began=10.0)
    progress.stands_still(20.0, "node 2 is down")
    progress.stands_still(30.0, "node 2 doesn't answer")
    assert (progress.stalled, progress.stalled_at) == ("node 2 doesn't answer", 20.0)
    progress.stalled = ""
    progress.stands_still(40.0, "node 2 is down")
    assert progress.stalled_at == 40.0


async def test_transfers_by_state_with_their_ages() -> None:
    links = {2: SimpleNamespace(up=True), 3: SimpleNamespace(up=False)}
    node: Any = SimpleNamespace(
        topology=SimpleNamespace(ring=object(), links=links, number=1),
        custodies=SimpleNamespace(
            blank=False, on_row=[], table=SimpleNamespace(orphans=lambda partition, number: [])
        ),
        handlers={},
    )
    transfers = Transfers(node)
    now = asyncio.get_running_loop().time()
    running, stalled = Progress(1, 2, now - 50), Progress(2, 2, now - 60)
    stalled.stands_still(now - 30, "no")
    transfers.running = {1: running, 2: stalled}
    transfers._ring_since = now - 100
    moves = {p: (Move(0, Token(1, 0, holder), 1),) for p, holder in ((1, 2), (3, 2), (4, 3))}
    transfers.moves = lambda: moves  # type: ignore[method-assign]
    found = {state: [round(age) for age in ages] for state, ages in transfers.ages_s().items()}
    assert found == {"running": [50], "stalled": [30, 100], "waiting": [100]}
    node.topology.ring = None
    assert transfers.ages_s() == {"running": [], "stalled": [], "waiting": []}


async def test_since_when_a_node_recovers() -> None:
    lacking: list[int] = []
    recovery: Any = SimpleNamespace(lacking=lambda: lacking, since=None)
    Recovery._note_since(recovery)
    assert recovery.since is None
    lacking.append(7)
    Recovery._note_since(recovery)
    began = recovery.since
    assert began is not None
    lacking.append(8)
    Recovery._note_since(recovery)
    assert recovery.since == began
    lacking.clear()
    Recovery._note_since(recovery)
    assert recovery.since is None


def _node(healthy: set[int], recovering: set[int], full: set[int], counts: bool) -> Any:
    """Node 1 of five, in a ring of 600 partitions that 1, 2 and 3 own and the others stand in."""
    facts = {
        n: SimpleNamespace(recovering=int(n in recovering), read_only=n in full)
        for n in (2, 3, 4, 5)
    }
    return SimpleNamespace(
        topology=SimpleNamespace(
            ring=SimpleNamespace(partitions=600, replication=3),
            number=1,
            links={n: SimpleNamespace(healthy=n in healthy) for n in facts},
            nodes_of=lambda partition: ((1, 2, 3), (4, 5)),
        ),
        settings=SimpleNamespace(now=SimpleNamespace(r=2, w=2)),
        gossip=SimpleNamespace(facts=facts.get),
        disk_health=SimpleNamespace(read_only=1 in full),
        reaper=SimpleNamespace(copies=SimpleNamespace(answers=lambda partition: counts)),
    )


@pytest.mark.parametrize(
    ("healthy", "recovering", "full", "counts", "found"),
    [
        ({2, 3, 4, 5}, set(), set(), True, (0, 0, 0)),
        ({2, 4, 5}, set(), set(), True, (0, 0, 600)),
        (
            {4, 5},
            set(),
            set(),
            True,
            (600, 0, 600),
        ),  # stand-ins know nothing
        ({2, 3}, {3}, set(), True, (0, 0, 600)),
        ({2, 3}, {3}, set(), False, (600, 0, 600)),
        ({2, 3}, set(), {1, 2}, True, (0, 600, 0)),
        (set(), set(), set(), True, (600, 600, 600)),
    ],
)
async def test_for_how_many_partitions_too_few_nodes_can_be_had(
    healthy: set[int],
    recovering: set[int],
    full: set[int],
    counts: bool,
    found: tuple[int, int, int],
) -> None:
    assert await availability(_node(healthy, recovering, full, counts)) == found
