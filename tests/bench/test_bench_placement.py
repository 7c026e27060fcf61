"""The reckoning of docs/placement.md: what moves and what is stored, against plain counts."""

from random import Random

import pytest
from bench.placement import WAYS, Nodes, Rows, cluster, equal, fair, moved


def test_what_moves_is_measured_over_ranges_of_different_length() -> None:
    old = Rows([0.5, 0.5], [(1, 2), (3, 4)], [0.5, 1.0])
    new = Rows([0.25, 0.75], [(1, 2), (2, 3)], [0.25, 1.0])
    # 0.25..0.5: (1, 2) to (2, 3) fetches one replica; 0.5..1: (3, 4) to (2, 3) another.
    assert moved(old, new) == pytest.approx(0.75)
    assert moved(old, old) == 0
    assert new.load() == {1: 0.25, 2: 1.0, 3: 0.75}


def test_a_ring_of_equal_ranges_weighs_each_alike() -> None:
    rows = equal([1, 2, 3, 4] * 4, dict.fromkeys((1, 2, 3, 4), ""))
    assert rows.load() == {n: pytest.approx(0.75) for n in (1, 2, 3, 4)}


def test_fair_shares_are_bounded() -> None:
    nodes = cluster(4, "abc", (1,))
    assert fair(nodes, 64) == {n: pytest.approx(e) for n, e in {1: 0.5, 2: 1, 3: 1, 4: 0.5}.items()}


@pytest.mark.parametrize("name", list(WAYS))
@pytest.mark.parametrize("zones", ["", "abc"])
def test_every_way_stores_each_replica_once(name: str, zones: str) -> None:
    nodes: Nodes = cluster(6, zones, (1, 2))
    way = WAYS[name](64, nodes, Random(7))
    before = way.become(nodes)
    assert way.become(nodes).load() == before.load()
    more: Nodes = {**nodes, 7: ("a" if zones else "", 1)}
    after = way.become(more)
    for rows, members in ((before, nodes), (after, more)):
        assert set(rows.load()) <= set(members)
        assert sum(rows.load().values()) == pytest.approx(3)
        assert rows.bounds[-1] == pytest.approx(1)
    assert 0 < moved(before, after) < 1.5
