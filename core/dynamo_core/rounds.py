"""Rounds: which reap round a partition's data is of, and what is too old to be taken.

Owns one member's knowledge of the numbered rounds in which tombstones are
reaped (design: reaping). What is read or minted here is stamped with the
highest round this member has promised or been told; a hint below that and, at
an owner, a mutation below the round committed here are refused, because what
they would bring back may have been reaped.

Forbidden here: where this is kept, and how a round is agreed on.
"""


class Rounds:
    """Per partition, 0 where nothing was ever reaped."""

    __slots__ = ("_committed", "_taken")

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}
        self._committed: dict[int, int] = {}

    def stamp(self, partition: int) -> int:
        """The round of what is read or minted here now."""
        return self._taken.get(partition, 0)

    def committed(self, partition: int) -> int:
        """The last round whose list was carried out here."""
        return self._committed.get(partition, 0)

    def refuses_write(self, partition: int, stamp: int) -> bool:
        """Whether an owner must refuse a mutation stamped `stamp`."""
        return stamp < self._committed.get(partition, 0)

    def refuses_hint(self, partition: int, stamp: int) -> bool:
        """Whether a hint stamped `stamp` must not be stored any more."""
        return stamp < self._taken.get(partition, 0)
