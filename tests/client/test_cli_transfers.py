"""`dynamo transfers`, and how `status` and `ring` show a cluster that is being scaled."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.client.fake_cluster import FakeCluster

from dynamo_client.cli import dynamo
from dynamo_client.cli.transfers import duration, size, summary
from dynamo_core.placement import Candidate, next_ring


def _transfer(partition: int, state: str = "waiting", **more: Any) -> dict[str, Any]:
    """In the form of `GET /cluster`."""
    return {
        "partition": partition,
        "from": "cart-default-0",
        "to": "cart-default-3",
        "bytes_done": 0,
        "bytes_total": 0,
        "bytes_per_second": 0,
        "eta_seconds": None,
        "state": state,
        "stalled": "",
        **more,
    }


MOVING = [
    _transfer(1, stalled="cart-default-0 is down"),
    _transfer(3),
    _transfer(
        7,
        "pulling",
        bytes_done=3 << 20,
        bytes_total=8 << 20,
        bytes_per_second=1 << 20,
        eta_seconds=5.2,
    ),
    _transfer(5, "claiming", **{"from": ""}),
]


@pytest.fixture
def scaled(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """The first of four nodes leaves, the last one joins."""
    view, ring = fake.view(), fake.ring()
    members = [
        Candidate(m.name, "", "1", m.host, m.http_port, m.native_port, m.admin_port, m.disk_id)
        for m in ring.members[1:]
    ]
    joins = Candidate("cart-default-3", "", "1", "127.0.0.1", 1, 2, 3, f"{9:032x}")
    later = next_ring(ring, [*members, joins], "2026-01-01T00:00:00Z")
    view["ring"] |= {"epoch": later.epoch, "settled": False}
    view["nodes"][0] |= {"state": "leaving", "tokens": 0, "ownership_percent": 0.0}
    new = {**view["nodes"][1], "name": joins.name, "state": "joining", "keys": 0}
    view["nodes"].append(new)
    view["transfers"] = MOVING
    monkeypatch.setattr(fake, "view", lambda: view)
    monkeypatch.setattr(fake, "ring", lambda: later)
    return fake


def _run(fake: FakeCluster, *args: str) -> Result:
    return CliRunner().invoke(dynamo, [*args, "--url", fake.urls[0]])


def test_transfers_are_listed_and_those_that_run_come_first(scaled: FakeCluster) -> None:
    lines = _run(scaled, "transfers").stdout.splitlines()
    assert lines[0].split() == [
        *("PARTITION", "FROM", "TO", "STATE", "DONE", "OF", "RATE", "LEFT", "STALLED")
    ]
    assert [line.split()[0] for line in lines[1:5]] == ["5", "7", "1", "3"]
    assert lines[2].split() == [
        *("7", "cart-default-0", "cart-default-3", "pulling", "3.0", "MiB", "8.0", "MiB"),
        *("1.0", "MiB/s", "5", "s", "-"),
    ]
    assert lines[3].endswith("cart-default-0 is down")
    assert lines[-1] == "1 can't go on: cart-default-0 is down"
    assert lines[-2] == (
        "cart: 4 transfers (1 claiming, 1 pulling, 2 waiting), 3.0 MiB of about 8.0 MiB at "
        "1.0 MiB/s, about 5 s left; ring epoch 2 (moving), 16 partitions, "
        "3 replicas each, imbalance 1.0%"
    )


def test_transfers_for_programs(scaled: FakeCluster) -> None:
    document = json.loads(_run(scaled, "transfers", "--json").stdout)
    assert sorted(document) == ["cluster", "ring", "transfers"]
    assert [each["partition"] for each in document["transfers"]] == [5, 7, 1, 3]
    assert document["transfers"][1] == MOVING[2]
    assert document["ring"]["settled"] is False


def test_many_transfers_are_cut_for_people_only(
    scaled: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = scaled.view() | {"transfers": [_transfer(p) for p in range(100)]}
    monkeypatch.setattr(scaled, "view", lambda: view)
    shown = _run(scaled, "transfers").stdout
    assert len(shown.splitlines()) == 1 + 40 + 3
    assert "and 60 more (--all shows them)" in shown
    assert len(_run(scaled, "transfers", "--all").stdout.splitlines()) == 1 + 100 + 2
    assert len(json.loads(_run(scaled, "transfers", "--json").stdout)["transfers"]) == 100


def test_when_nothing_moves_that_is_said(fake: FakeCluster) -> None:
    shown = _run(fake, "transfers").stdout
    assert shown.startswith("cart: nothing moves; ring epoch 1 (settled)")
    assert json.loads(_run(fake, "transfers", "--json").stdout)["transfers"] == []


@pytest.mark.parametrize("odd", [None, "x", [None, 7, {}], [{"partition": "x", "bytes_done": "y"}]])
def test_odd_views_break_nothing(
    fake: FakeCluster, monkeypatch: pytest.MonkeyPatch, odd: object
) -> None:
    view = fake.view() | {"transfers": odd}
    monkeypatch.setattr(fake, "view", lambda: view)
    for command in ("transfers", "status", "ring"):
        assert _run(fake, command).exit_code == 0


def test_status_and_ring_show_who_joins_and_who_leaves(scaled: FakeCluster) -> None:
    shown = _run(scaled, "status").stdout
    assert "cart: 2 of 4 nodes up, 1 joining, 1 leaving; ring epoch 2 (moving)" in shown
    assert "4 transfers are under way: `dynamo transfers` shows them" in shown
    lines = {
        line.split()[1]: line.split() for line in _run(scaled, "ring").stdout.splitlines()[1:5]
    }
    assert lines["cart-default-0"][3:] == ["leaving", "1", "0", "0.0%"]
    assert lines["cart-default-3"][3] == "joining"
    place = json.loads(_run(scaled, "ring", "--partition", "7", "--json").stdout)
    assert place["moving"] == [MOVING[2]]
    text = _run(scaled, "ring", "--partition", "7").stdout
    assert "cart-default-3 takes it over from cart-default-0: pulling" in text


def test_figures_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3 << 30, 1 << 50, None)] == [
        *("0 B", "1023 B", "1.0 KiB", "3.0 GiB", "1024.0 TiB", "0 B")
    ]
    assert [duration(n) for n in (None, 0.4, 59.4, 61, 3599, 7260)] == [
        *("", "0 s", "59 s", "1 min 1 s", "59 min 59 s", "2 h 1 min")
    ]
    assert summary([_transfer(1)]) == "1 transfer (1 waiting)"
