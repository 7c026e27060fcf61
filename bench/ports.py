"""Ports: free ones of 127.0.0.1 for servers that are started, stopped and started again.

The kernel gives the ports of its ephemeral range to any outgoing connection at
any moment, so a server that was stopped for a second may find its port taken.
These here lie below that range; tests and benchmarks share them.

Tests that run side by side (pytest-xdist) have a lane each: a server of one is
never started on the port that a stopped server of another will come back to.
Forbidden: any other place that picks a port.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from random import SystemRandom
from typing import Final

LOWEST: Final = 15_000
EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_LOWEST: Final = 32_768
"""Linux's default, where the range can't be read."""
_APART: Final = 1_000
"""How far from its HTTP ports the native and the admin ports of a local cluster lie."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on now."""
    return [_lane().take((0,)) for _ in range(count)]


def free_base(nodes: int) -> int:
    """The first port of a local cluster: P such that P.., P-1000.. and P+1000.. are free."""
    return _lane().take([by + node for by in (-_APART, 0, _APART) for node in range(nodes)])


class Lane:
    """What one of `lanes` processes side by side may use of `ports`: a strip of every thousand.

    Strips, because the three blocks of a local cluster lie a thousand apart.
    """

    def __init__(self, number: int, lanes: int, ports: range) -> None:
        self._number = number
        self._lanes = lanes
        self._ports = ports
        self._given: set[int] = set()

    def __contains__(self, port: int) -> bool:
        return port in self._ports and port % _APART * self._lanes // _APART == self._number

    def take(self, shape: Sequence[int]) -> int:
        """A port P such that all of P + `shape` are of this lane and nobody's now, or OSError.

        None of them is given out again before there are no others: whoever
        has one may be between a stop and a start.
        """
        first = SystemRandom().randrange(len(self._ports))  # other runs choose, too
        for _again in range(2):
            for port in chain(self._ports[first:], self._ports[:first]):
                wanted = {port + by for by in shape}
                mine = wanted.isdisjoint(self._given) and all(p in self for p in wanted)
                if mine and _free(wanted):
                    self._given |= wanted
                    return port
            self._given.clear()
        raise OSError(f"no {len(shape)} ports in {self._ports} are free")


@cache
def _lane() -> Lane:
    """This process's: pytest-xdist names its workers gw0, gw1, ... (and further, if one dies)."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lanes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return Lane(number % lanes, lanes, safe_ports())


def safe_ports() -> range:
    """Those that the kernel gives to nobody by itself."""
    end = EPHEMERAL_LOWEST
    with suppress(OSError, ValueError):
        end = int(EPHEMERAL.read_text().split()[0])
    if end - LOWEST < 3 * _APART:  # set wide on this machine: no range is safe, any will do
        end = 65_536
    return range(LOWEST, end)


def _free(ports: set[int]) -> bool:
    with ExitStack() as stack, suppress(OSError):
        for port in ports:
            stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        return True
    return False
