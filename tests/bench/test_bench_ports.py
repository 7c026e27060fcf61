"""Ports: nobody's now, each given once, and another's lane is never touched."""

from __future__ import annotations

import socket

import pytest
from bench.ports import Lane, free_base, free_ports, safe_ports

BLOCKS = [by + node for by in (-1000, 0, 1000) for node in range(8)]


def test_free_ports_differ() -> None:
    assert len(set(free_ports(12))) == 12


def test_a_local_clusters_three_blocks_are_free() -> None:
    base = free_base(8)
    taken = []
    try:
        for port in (base + by for by in BLOCKS):
            taken.append(socket.socket())
            taken[-1].bind(("127.0.0.1", port))
    finally:
        for held in taken:
            held.close()
    assert not {base + by for by in BLOCKS} & set(free_ports(500))


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 50])
def test_lanes_share_no_port_and_each_has_room_for_local_clusters(lanes: int) -> None:
    side_by_side = [Lane(number, lanes, safe_ports()) for number in range(lanes)]
    for port in range(1, 65_536):
        assert sum(port in lane for lane in side_by_side) <= 1
    for lane in side_by_side:
        for shape in ((0,), BLOCKS):
            base = lane.take(shape)
            assert all(base + by in lane for by in shape)


def test_whoever_listens_keeps_his_port() -> None:
    """Of six ports one is another's: the five are given, and given anew, but it never is."""
    base = free_base(6)
    lane = Lane(0, 1, range(base, base + 6))
    with socket.socket() as other:
        other.bind(("127.0.0.1", base + 3))
        for _lap in range(2):
            assert {lane.take((0,)) for _ in range(5)} == {base + at for at in (0, 1, 2, 4, 5)}
        with pytest.raises(OSError, match="no 6 ports"):
            lane.take(range(6))
