"""The timeline of a load: each second is there, with what returned in it."""

import pytest

from dynamo_client.cli.timeline import STRETCHES_MAX, Stretch, timeline
from dynamo_core.history import ACKNOWLEDGED, GET, REFUSED, Operation


def _operation(
    returned: float, took_s: float = 0.01, *, client: str = "c0", failed: int = 0
) -> Operation:
    return Operation(
        id="g1", op=GET, client=client, key="k", invoked=returned - took_s, returned=returned,
        outcome=REFUSED if failed else ACKNOWLEDGED, failed=failed,
    )  # fmt: skip


def test_an_operation_counts_where_it_returned() -> None:
    # Invoked in the second before it: 0.9 and 1.0 are on both sides of a border.
    found = timeline([_operation(1.25, 0.5), _operation(0.9), _operation(1.0)])
    assert [(s.at, s.operations) for s in found.stretches] == [(0, 1), (1, 2)]
    assert (found.width_s, found.load_s) == (1, 1.25)


def test_a_gap_is_there_as_zeros_and_who_waited_through_it_shows_after_it() -> None:
    found = timeline([_operation(0.5), _operation(4.2, 3.6)]).stretches
    assert found[1:4] == (Stretch(1), Stretch(2), Stretch(3))
    assert found[4].max_ms == pytest.approx(3600.0)


def test_percentiles_are_nearest_ranks_and_failed_ones_count_among_them() -> None:
    took_ms = [*range(1, 100), 5000]
    shuffled = took_ms[50:] + took_ms[:50]
    slow = [_operation(9.5, ms / 1000, failed=2 * (ms == 5000)) for ms in shuffled]
    last = timeline(slow).stretches[-1]
    assert (last.operations, last.failed) == (100, 2)
    assert (last.p50_ms, last.p99_ms, last.max_ms) == pytest.approx((50.0, 99.0, 5000.0))


def test_a_single_operation_is_all_its_percentiles() -> None:
    only = timeline([_operation(0.5, 0.007)]).stretches[0]
    assert (only.p50_ms, only.p99_ms, only.max_ms) == pytest.approx((7.0, 7.0, 7.0))


def test_the_last_reading_is_no_load() -> None:
    read_back = [_operation(70.0, client="reader 0"), _operation(70.5, client="reader 4")]
    found = timeline([_operation(0.5), *read_back])
    assert [s.operations for s in found.stretches] == [1]
    assert timeline(read_back).document() == {"load_s": 0.0, "timeline_width_s": 1, "timeline": []}


@pytest.mark.parametrize(
    ("load_s", "width_s", "stretches"),
    [
        (STRETCHES_MAX - 0.5, 1, STRETCHES_MAX),
        (STRETCHES_MAX, 2, STRETCHES_MAX // 2 + 1),
        (86_400.0, 32, 2_701),
    ],
)
def test_a_long_load_has_wider_stretches(load_s: float, width_s: int, stretches: int) -> None:
    found = timeline([_operation(0.5), _operation(1.5), _operation(load_s)])
    assert (found.width_s, len(found.stretches)) == (width_s, stretches)
    assert [s.at for s in found.stretches[:3]] == [0, width_s, 2 * width_s]
    assert sum(s.operations for s in found.stretches) == 3
    assert found.stretches[0].operations == (1 if width_s == 1 else 2)


def test_a_time_that_is_none_ends_nothing() -> None:
    """A stored history can say anything."""
    odd = [_operation(float("inf")), _operation(float("nan")), _operation(-3.0)]
    assert [s.operations for s in timeline([_operation(0.5), *odd]).stretches] == [1]
