"""What must hold of the writes in the model of handover, for readers and on disks.

A write that W holders acknowledged is shown to every R; one that any W nodes did is on W
disks, less those that were lost with it.
"""

from tests.core.handover_network import Network, Violation
from tests.core.handover_world import ABSENT, KEYS, Node, Obj


class Watch(Network):
    def __init__(
        self, seed: int, faults: frozenset[str] = frozenset(), trace: bool = False
    ) -> None:
        super().__init__(seed, faults, trace)
        self.writes = 0
        self.cover: dict[int, int] = {}
        """Write -> what its author had seen."""
        self.tombs = 0
        self.reaped: dict[int, int] = {}  # tombstone -> key
        self.contexts = dict.fromkeys(KEYS, 0)
        self.acked = dict.fromkeys(KEYS, 0)
        self.strict = dict.fromkeys(KEYS, 0)
        """Acknowledged by W holders that counted: every read has to show them."""
        self.due: list[int] = [0] * self.w
        """[i]: acknowledged writes of which more than i disks must have a copy."""
        self.losses: list[int] = []
        """The writes that each lost disk had."""

    def acknowledged(self, key: int, bit: int) -> None:
        self.acked[key] |= bit
        self.acks += 1
        for i in range(self.w - sum(bool(lost & bit) for lost in self.losses)):
            self.due[i] |= bit

    def missing(self, key: int, expected: int, whole: Obj) -> int:
        """Writes of `expected` that are neither in `whole` nor superseded nor reaped."""
        lost = expected & ~whole[0]
        if lost:
            for tomb in self.reaped:
                lost &= ~(tomb | self.cover[tomb])
        return lost

    def shown(
        self, key: int, whole: Obj, expected: int, where: str, reaped: dict[int, int] | None = None
    ) -> None:
        if missing := self.missing(key, expected, whole):
            raise Violation(f"{where} misses {missing:b} of key {key}")
        for tomb, of in (self.reaped if reaped is None else reaped).items():
            if of == key and (back := whole[1] & self.cover[tomb] & ~self.tombs):
                raise Violation(f"{where}: {back:b} of key {key} is back, reaped with {tomb:b}")

    def failing(self, m: Node) -> None:
        """A disk is about to be lost: of what it holds one copy less is due."""
        self.gone(m.have[0] | m.have[1] | m.have[2])

    def gone(self, writes: int) -> None:
        self.losses.append(writes)
        for i, more in enumerate((*self.due[1:], 0)):
            self.due[i] &= ~writes | more

    def check_copies(self) -> None:
        """No acknowledged write is on fewer disks than are due."""
        for key in KEYS:
            at_least = [0] * self.w
            for m in self.nodes.values():
                more = m.have[key]
                for i, have in enumerate(at_least):
                    at_least[i], more = have | more, have & more
            lack = 0
            for due, have in zip(self.due, at_least, strict=True):
                lack |= due & ~have
            if lack and (lost := self.missing(key, lack & self.acked[key], ABSENT)):
                raise Violation(f"too few disks have {lost:b} of key {key}")
