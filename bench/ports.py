"""Ports: free ones of 127.0.0.1 for servers that are started, stopped and started again.

The kernel gives the ports of its ephemeral range to any outgoing connection at
any moment, so a server that was stopped for a second may find its port taken.
These here lie below that range; tests and benchmarks share them.
"""

import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Final

LOWEST: Final = 15_000
EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
EPHEMERAL_LOWEST: Final = 32_768
"""Linux's default, where the range can't be read."""


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on now."""
    end = EPHEMERAL_LOWEST
    with suppress(OSError, ValueError):
        end = int(EPHEMERAL.read_text().split()[0])
    if end - LOWEST < 1000:  # set wide on this machine: no range is safe, any will do
        end = 65_536
    found: list[int] = []
    for port in SystemRandom().sample(range(LOWEST, end), min(end - LOWEST, 1000 + 10 * count)):
        if len(found) == count:
            return found
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    raise OSError(f"only {len(found)} of {count} ports between {LOWEST} and {end} are free")
