"""Percentiles and ratios against plain definitions."""

from __future__ import annotations

import pytest
from bench.figures import Sample, percentile, rows, spread
from hypothesis import given
from hypothesis import strategies as st


def sample(contender: str, round_: int, rate: float, connections: int = 16) -> Sample:
    return Sample(
        contender=contender,
        operation="put",
        connections=connections,
        round=round_,
        requests=int(rate),
        requests_per_s=rate,
        mean_ms=1.0 * round_,
        p50_ms=2.0,
        p99_ms=3.0,
        generators=1,
        cpu_generator=0.5,
        cpu_servers={f"{contender}-0": 0.9, f"{contender}-1": 0.1 * round_},
        cpu_rest=0.0,
    )


@given(
    st.lists(st.integers(0, 1000), min_size=1).map(sorted),
    st.sampled_from([1, 50, 90, 99, 99.9, 100]),
)
def test_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    ordered: list[float], percent: float
) -> None:
    wanted = next(
        value
        for value in ordered
        if sum(other <= value for other in ordered) * 100 >= percent * len(ordered)
    )
    assert percentile(ordered, percent) == wanted


@pytest.mark.parametrize(("ordered", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_percentile_refuses_what_has_none(ordered: list[float], percent: float) -> None:
    with pytest.raises(ValueError):
        percentile(ordered, percent)


def test_the_ratio_is_taken_within_a_round() -> None:
    # The second round was slow for both: the ratio stays 2 although the medians moved.
    samples = [
        *(sample("ours", 1, 200), sample("peer", 1, 100)),
        *(sample("ours", 2, 20), sample("peer", 2, 10)),
        *(sample("ours", 3, 300), sample("peer", 3, 100)),
    ]
    (row,) = rows(samples, "ours", "peer")
    assert row.ratio == spread([2, 2, 3])
    assert (row.ratio.median, row.ratio.low, row.ratio.high) == (2, 2, 3)
    assert row.sides["ours"].requests_per_s.median == 200
    assert row.sides["ours"].mean_ms == 2.0
    assert row.sides["peer"].cpu_servers == {"peer-0": 0.9, "peer-1": pytest.approx(0.2)}


def test_rows_keep_the_order_of_the_cells_and_leave_out_one_sided_ones() -> None:
    samples = [
        *(sample("ours", 1, 5, 64), sample("peer", 1, 5, 64)),
        *(sample("ours", 1, 5, 1), sample("peer", 1, 5, 1)),
        sample("ours", 1, 5, 16),
    ]
    assert [row.connections for row in rows(samples, "ours", "peer")] == [64, 1]
