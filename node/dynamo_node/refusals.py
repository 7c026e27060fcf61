"""Refusals: what this node says no to, and how it says so to whom.

Owns the errors with which a replica refuses a client's write or a peer's
mutation, and their form on the wire.
"""

from typing import Final

from dynamo_core import wire
from dynamo_core.errors import DynamoError
from dynamo_core.frames import RingName
from dynamo_core.outcomes import Kind
from dynamo_core.slots import Row
from dynamo_core.wire import Code

UNSETTLED: Final = "its tokens are not fsynced here yet"


class RefusedError(DynamoError):
    """A write that a client may not make; `kind` says which answer it gets."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class PeerRefusal(DynamoError):
    """A peer's mutation that isn't taken; `reply` is the payload of the ERROR frame."""

    code = Code.STORAGE

    def reply(self) -> bytes:
        return wire.pack_error(self.code, str(self)[:512])


class NoRoomError(PeerRefusal):
    """A hint that doesn't fit the byte limit; another stand-in may have room."""

    code = Code.NO_ROOM


class ReadOnlyError(PeerRefusal):
    """The disk's reserve would be touched: nothing more is stored here."""

    code = Code.READ_ONLY

    def __init__(self) -> None:
        super().__init__("this node's disk is full; it takes no writes")


class ReapedError(PeerRefusal):
    """A mutation stamped with an older reap round than is taken here."""

    code = Code.REAPED

    def __init__(self, ring: RingName, reap_round: int) -> None:
        super().__init__(f"stamped before reap round {reap_round}")
        self.ring = ring
        self.reap_round = reap_round

    def reply(self) -> bytes:
        return wire.pack_reaped(self.ring, self.reap_round)


class MovedError(PeerRefusal):
    """This node holds no slot of the partition, or not any more."""

    code = Code.MOVED

    def __init__(self) -> None:
        super().__init__("this node holds no slot of the partition now")


class OtherRowError(PeerRefusal):
    """Asked under other tokens than this node knows; both join what they know, then again."""

    code = Code.OTHER_ROW

    def __init__(self, partition: int, row: Row) -> None:
        super().__init__(f"partition {partition}: other tokens are known here")
        self.partition = partition
        self.row = row

    def reply(self) -> bytes:
        return wire.pack_other_row(self.partition, self.row)


class UnsettledRowError(OtherRowError):
    """The same while the row here isn't fsynced: nobody is told it, a crash may forget it."""

    code = Code.NOT_YET

    def reply(self) -> bytes:
        return wire.pack_error(self.code, UNSETTLED)
