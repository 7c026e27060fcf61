"""Actors: which name a node may write under, so that no dot is issued twice.

Owns the rule for going on with an actor (design: actor, birth, incarnation)
and the leased counter of births. A node continues an actor for a key only
while the record in which it minted that actor's last dot has stayed in its own
store without a break; the record's mark says so. Otherwise it takes a new
birth. Births are leased: the end of the lease is durable before any birth
below it is used, so that a restart never hands a birth out twice.

Forbidden here: randomness (the incarnation is passed in) and storage (the
caller makes a lease durable and then says so).
"""

from dataclasses import dataclass
from struct import Struct
from typing import Final

from dynamo_core.errors import DynamoError
from dynamo_core.versions import Clock, Dot

_ACTOR: Final = Struct(">I8sI")
INCARNATION_BYTES: Final = 8
BIRTHS_MAX: Final = 0xFFFFFFFF


class LeaseExhausted(DynamoError):
    """No birth is left under the durable lease; extend it first."""


def actor_bytes(number: int, incarnation: bytes, birth: int) -> bytes:
    """16 bytes: node number u32, incarnation 8 bytes, birth u32 (1, 2, ...)."""
    return _ACTOR.pack(number, incarnation, birth)


def actor_node(actor: bytes) -> int:
    """The node number in an actor."""
    return int.from_bytes(actor[:4], "big")


def newest_node(clock: Clock) -> int:
    """The highest number of a node that has written what `clock` knows of; 0 if nothing was."""
    single = (actor for actor, _ in clock.dots)
    return max(map(actor_node, (*clock.vector, *single)), default=0)


def actor_incarnation(actor: bytes) -> bytes:
    """The 8 bytes of the incarnation in an actor."""
    return actor[4:12]


@dataclass(slots=True)
class Minter:
    """Issues dots for one incarnation of one node.

    `next_birth` is the first birth not yet used, `lease_end` the first one
    that is not covered by the durable lease.
    """

    number: int
    incarnation: bytes
    next_birth: int = 1
    lease_end: int = 1

    def __post_init__(self) -> None:
        # Packed into an actor another length would be cut or padded in silence.
        if len(self.incarnation) != INCARNATION_BYTES:
            raise DynamoError(
                f"an incarnation has {len(self.incarnation)} bytes, {INCARNATION_BYTES} are needed"
            )

    def next_dot(self, mark: Dot | None) -> Dot:
        """The dot of a new write to a record whose mark is `mark`.

        The mark is the last dot that this node minted into the record, or None
        when there is no record or it came from elsewhere. Raises
        LeaseExhausted when a new birth is needed and none is left.
        """
        if mark is not None and self._is_mine(mark[0]):
            return mark[0], mark[1] + 1
        if self.next_birth >= self.lease_end:
            raise LeaseExhausted(f"birth {self.next_birth} is not covered by the lease")
        actor = actor_bytes(self.number, self.incarnation, self.next_birth)
        self.next_birth += 1
        return actor, 1

    def births_left(self) -> int:
        """Births that can be issued before the lease must be extended."""
        return self.lease_end - self.next_birth

    def extended(self, lease_end: int) -> None:
        """Take note that the lease up to `lease_end` (exclusive) is durable."""
        if not self.lease_end <= lease_end <= BIRTHS_MAX:
            raise DynamoError(f"lease end {lease_end} is outside {self.lease_end}..{BIRTHS_MAX}")
        self.lease_end = lease_end

    def _is_mine(self, actor: bytes) -> bool:
        return actor[4:12] == self.incarnation and actor_node(actor) == self.number
