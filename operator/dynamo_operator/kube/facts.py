"""What nodes tell beside their status: for people, never for a decision.

Owns values only. Forbidden: everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transfer:
    """One partition on its way, as its receiver tells; eta_s is None if nobody can say."""

    source: str
    to: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    eta_s: float | None
    stalled: str


@dataclass(frozen=True, slots=True)
class Facts:
    """incarnations and hints: by node name; unseen: kinds that this operator's role can't see."""

    incarnations: Mapping[str, str]
    hints: Mapping[str, int]
    transfers: Sequence[Transfer] = ()
    unseen: tuple[str, ...] = ()
