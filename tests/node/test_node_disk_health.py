"""Disk health: read-only below the reserve, writing again by itself, no flapping."""

from dynamo_node.disk_health import FAILED, FULL, OK, RESERVE_BYTES, DiskHealth, headroom_bytes


def test_read_only_below_the_reserve_until_there_is_clearly_more() -> None:
    free = 1000
    health = DiskHealth(lambda: free, 400)
    seen = []
    for free in (500, 400, 399, 100, 400, 499, 500, 450, 399):  # noqa: B007 - `check` reads it
        health.check()
        seen.append(health.state)
    assert seen == [OK, OK, FULL, FULL, FULL, FULL, OK, OK, FULL]
    assert "399" in health.facts()["reason"]


def test_the_reserve_follows_the_disk() -> None:
    assert headroom_bytes(64 << 20) == (64 << 20) // 10
    assert headroom_bytes(1 << 30) == (1 << 30) // 10
    assert headroom_bytes(10 << 30) == headroom_bytes(1 << 50) == RESERVE_BYTES


def test_an_unknown_free_space_changes_nothing_and_a_failed_store_stays_failed() -> None:
    def unknown() -> int:
        raise OSError(5, "Input/output error")

    health = DiskHealth(unknown, 400)
    assert (health.state, health.free_bytes) == (OK, None)
    health = DiskHealth(lambda: 1000, 400)
    health.failed("an fsync failed")
    health.check()
    assert (health.state, health.read_only) == (FAILED, True)
