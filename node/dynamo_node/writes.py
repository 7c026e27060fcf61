"""Writes: one put or delete, carried out by the node that coordinates it (P§4.5).

Owns the shell around `PutQuorum`: it mints locally, sends the whole resulting
object to the others in parallel, answers at W, and goes on until every owner
has the write or a hint waits for it.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import objects, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.objects import Object
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.put_quorum import PutQuorum, Send
from dynamo_core.records import NOBODY, Stamp
from dynamo_core.rounds import last_before
from dynamo_core.versions import EMPTY, Clock, Dot
from dynamo_node.in_flight import InFlight
from dynamo_node.links import LOST
from dynamo_node.refusals import MovedError, OtherRowError, PeerRefusal, RefusedError
from dynamo_node.replica import NewWrite
from dynamo_node.spans import Span
from dynamo_node.topology import Place
from dynamo_node.traced import HINT, WRITE, refusal, stored

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator
    from dynamo_node.request import Request


# IntEnum members cost a look-up of two levels each time; writes are counted in microseconds.
_WRITE: Final = int(wire.Type.WRITE)
_WRITTEN: Final = int(wire.Type.WRITTEN)
_ERROR: Final = int(wire.Type.ERROR)
_NO_ROOM: Final = bytes((wire.Code.NO_ROOM,))
_REAPED: Final = bytes((wire.Code.REAPED,))

WRITING_BYTES_MAX: Final = 64 << 20
"""Of objects that wait for stragglers; beyond it a silent owner gets its hint at once."""
_SLOW: Final = Outcome(
    Kind.UNAVAILABLE, needed=1, detail="this node's disk is slow; nothing was written"
)

REBUILDS_MAX: Final = 12
"""Refusals as reaped, by whomever, after which a node counts as one that didn't answer."""


class PutOperation(InFlight):
    """One write in flight; it lives until nobody's answer is awaited."""

    __slots__ = (
        "_bytes",
        "_context",
        "_context_round",
        "_machine",
        "_minted_round",
        "_obj",
        "_payload",
        "_reap_round",
        "_rebuilds",
        "_sends",
        "_unable",
        "_write",
    )

    def __init__(
        self,
        coordinator: "Coordinator",
        request: "Request",
        place: Place,
        w: int,
        write: NewWrite,
        anew: Callable[[], None],
        unable: Callable[[Outcome], bool] | None = None,
        context_round: int = 0,
    ) -> None:
        """`unable` hands the write on where this node can't coordinate, if it can.

        `context_round` is that of the context which the author sent.
        """
        super().__init__(coordinator, request, place, anew)
        self._write = write
        self._unable = unable
        topology = coordinator.topology
        self._machine = PutQuorum(
            place.owners, place.others, topology.number, w, topology.healthy, place.counts
        )
        self._obj = b""
        self._payload = b""
        self._bytes = 0
        self._context = EMPTY
        self._context_round = context_round
        self._reap_round = self._minted_round = 0
        self._rebuilds = 0
        self._sends: list[Send] = []
        self._here = True

    def start(self) -> None:
        coordinator, request = self._coordinator, self._request
        coordinator.writing += 1
        self._sends = self._machine.start()
        local = self._sends.pop(0)
        if request.span is not None:
            self._traced(HINT if local.hint_for else WRITE, self._machine.local, local.hint_for)
        # Before minting: a slow disk may take longer than the request has.
        coordinator.alarms.at(
            min(coordinator.loop.time() + coordinator.hedge_s, request.deadline), self._time_passed
        )
        try:
            coordinator.replica.mint(
                self._request.key,
                self._place.digest,
                local.hint_for,
                self._write,
                self._minted,
                self._refused,
                partial(self._local_done, local.hint_for),
                self._wanted,
                self._place.row,
                None if request.span is None else self._replaces,
            )
        except DynamoError as error:  # the store is broken
            self._refused(error)

    def _minted(self, obj: bytes, context: Clock, reap_round: int) -> None:
        coordinator, key = self._coordinator, self._request.key
        self._request.may_exist()
        self._obj, self._context = obj, context
        if self._request.span is not None:
            self._tell_who_wrote()
        if not coordinator.sure(self._place.partition):
            # The record here may be an old disk's: nothing but the write itself leaves it,
            # nor stays as a hint when that copy is found out and deleted.
            self._obj = obj = self._alone()
        self._bytes = len(obj)
        coordinator.writing_bytes += self._bytes
        self._reap_round = self._minted_round = reap_round
        self._payload = self._place.row + wire.pack_write(key, obj, NOBODY, reap_round, False)
        # A hint's stamp may be of before; the dot is of now, and of this ring (decision 0009).
        now = max(self._stamp(), last_before(coordinator.topology.name))
        self._context_round = max(self._context_round, now)
        self._send_all(self._sends)
        self._send_ahead()

    def _replaces(self, dots: list[Dot]) -> None:
        if (span := self._request.span) is not None:
            self._coordinator.tracing.replaces(span, self._place.digest, dots)

    def _tell_who_wrote(self) -> None:
        """Its span is noted beside the new version."""
        span, write_id = self._request.span, self._write.write_id
        assert span is not None
        self._coordinator.tracing.wrote(span, self._place.digest, self._obj, write_id)
        if here := self._spans.get(self._machine.local):
            here.event("storage.batched")

    def _send_ahead(self) -> None:
        """To those that are to hold a slot soon as well, so that little is left to hand over.

        Nobody counts on it: what they miss until the seal, they find when they take over.
        """
        coordinator, place = self._coordinator, self._place
        for node in place.incoming:
            link = coordinator.topology.links.get(node)
            if link is not None and link.healthy:
                patience_ms = coordinator.straggler_ms
                request_id = link.request(_WRITE, self._payload, patience_ms, _nobody_counts_on)
                coordinator.alarms.at(
                    coordinator.loop.time() + patience_ms / 1000, partial(link.forget, request_id)
                )

    def _refused(self, error: DynamoError) -> None:
        """Nothing was written, nor left this node."""
        if self._finished:
            return
        if isinstance(error, MovedError | OtherRowError):
            # A seal, or what was learned, came before it: whoever holds the key now.
            self._moving = True
            if self._again() or self._again_soon():
                return
        self._ended(self._machine.local, str(error))
        if isinstance(error, RefusedError):
            outcome = Outcome(error.kind, detail=str(error))
        else:
            outcome = self._coordinator.storage_trouble(error, self._request)
        mendable = outcome.kind not in (Kind.OVERLOADED, Kind.UNAVAILABLE)
        if mendable or not self._handed_on(outcome):
            self._answer(outcome)
        self._finish()

    def _wanted(self) -> bool:
        """Whether it may still be minted: neither given up nor handed on."""
        return not self._answered and not self._finished

    def _handed_on(self, why: Outcome) -> bool:
        """Another node coordinates this write from now on, under the same write id."""
        unable, self._unable = self._unable, None
        if unable is None or self._answered or not unable(why):
            return False
        self._finish()
        return True

    def _local_done(self, hint_for: int, error: BaseException | None) -> None:
        machine = self._machine
        self._here = False
        if (span := self._spans.pop(machine.local, None)) is not None:
            stored(span, error)
        if error is None:
            if machine.acked(machine.local, hint_for):
                self._succeed()
        else:
            self._send_all(machine.failed(machine.local, hint_for))
        self._after_reply()

    def _send_all(self, sends: list[Send]) -> None:
        coordinator, request = self._coordinator, self._request
        if sends and self._reap_round < self._stamp():
            # Nothing from before a promise is sent after it.
            self._rebuild(sends, self._stamp())
            return
        for send in sends:
            node, hint_for, over = send
            if node == self._machine.local:
                self._keep_at_home(hint_for)
                continue
            payload = self._payload
            if hint_for:
                payload = self._place.row + wire.pack_write(
                    request.key, self._obj, hint_for, self._reap_round, False, over
                )
            link = coordinator.topology.links.get(node)
            if link is None:  # a ring without it came meanwhile
                coordinator.loop.call_soon(self._replied, send, LOST, b"")
                continue
            # A straggler is awaited beyond the client's deadline.
            remaining_ms = max(request.remaining_ms(), coordinator.straggler_ms)
            request_id = link.request(
                _WRITE,
                payload,
                remaining_ms,
                partial(self._replied, send),
                self._traced(HINT if hint_for else WRITE, node, hint_for),
            )
            self._asked[node] = (link, request_id)

    def _replied(self, send: Send, kind: int, payload: bytes) -> None:
        if self._finished:
            return
        machine = self._machine
        node, hint_for, _ = send
        self._asked.pop(node, None)
        if self._spans:
            self._ended(node, None if kind == _WRITTEN else refusal(kind, payload))
        if kind == _WRITTEN:
            if machine.acked(node, hint_for, payload != wire.UNCOUNTED):
                self._succeed()
        elif kind == _ERROR and self._other_row(node, payload, partial(self._lost, node, hint_for)):
            return
        elif not self._reaped(send, kind, payload):
            if kind != _ERROR or not self._is_moving(payload):
                self._coordinator.reply_was_no(node, kind, payload, self._request)
            full = kind == _ERROR and payload[:1] == _NO_ROOM
            gone = machine.no_room if full else machine.failed
            self._send_all(gone(node, hint_for))
        self._after_reply()

    def _lost(self, node: int, hint_for: int) -> None:
        """`node` will not take its part: somebody else does."""
        self._send_all(self._machine.failed(node, hint_for))
        self._after_reply()

    def _stamp(self) -> int:
        return self._coordinator.replica.rounds.stamp(self._place.partition)

    def _reaped(self, send: Send, kind: int, payload: bytes) -> bool:
        """Whether `send` was refused as older than a reap round, and goes out again.

        A stand-in's round may still be under way: this node takes it, durably, and so
        says no to it, before anything carries it. An owner's is committed; if this node
        has never said yes to it, its own copy may be too old to be called of that round.
        """
        if kind != _ERROR or payload[:1] != _REAPED or self._rebuilds >= REBUILDS_MAX:
            return False
        try:
            ring, reap_round = wire.unpack_reaped(payload)
        except Corrupt:
            return False
        self._rebuilds += 1
        self._coordinator.replica.hints.committed_elsewhere(
            self._request.key, self._place.digest, self._place.owners, ring, reap_round
        )
        again = partial(self._rebuild, [send], reap_round)
        # A copy that isn't sure of being new enough stays unsure by it, and says no anyway:
        # a round that it took would vouch for what it sends next.
        if send.hint_for and self._coordinator.sure(self._place.partition):
            self._coordinator.replica.take_round(self._place.partition, reap_round, again)
        else:
            again()
        return True

    def _rebuild(self, sends: list[Send], reap_round: int) -> None:
        """Send the write as one of `reap_round`, never again the bytes of before.

        Where this node has said yes to a round since it minted, what it holds now is of
        that round: the write may have been superseded and reaped meanwhile. Where it
        hasn't, a later round can't have been committed since; it may have been before,
        if the disk here is new or an old one. So nothing but the write itself goes
        out, as from a node that held nothing of the key.
        """
        if self._finished:
            return
        rounds, partition = self._coordinator.replica.rounds, self._place.partition
        if rounds.agreed(partition) <= self._minted_round:
            self._resend(sends, self._alone(), max(reap_round, self._reap_round))
            return
        stamp, request, place = self._stamp(), self._request, self._place

        def read(obj: bytes | None) -> None:
            if self._finished:
                return
            if obj is None or not self._is_in(obj):  # reaped meanwhile, or its copy deleted
                left = sends
                while left:  # whoever is next would get no more
                    left = [more for each in left for more in self._machine.failed(*each[:2])]
                self._after_reply()
                return
            self._resend(sends, obj, stamp)

        def damaged(error: DynamoError) -> None:
            read(None)

        self._coordinator.replica.read(request.key, place.digest, place.owners, read, damaged)

    def _is_in(self, obj: bytes) -> bool:
        """Whether `obj` carries this write or what superseded it: else no answer is for it."""
        return objects.clock_of(obj).descends(self._context)

    def _resend(self, sends: list[Send], obj: bytes, reap_round: int) -> None:
        self._obj, self._reap_round = obj, reap_round
        self._payload = self._place.row + wire.pack_write(
            self._request.key, obj, NOBODY, reap_round, False
        )
        self._send_all(sends)

    def _alone(self) -> bytes:
        """The write without what was held beside it: its clock is its author's context."""
        context = self._context
        written = (s for s in objects.from_bytes(self._obj).siblings if context.covers(s.dot))
        return objects.to_bytes(Object(context, tuple(written)))

    def _after_reply(self) -> None:
        if self._finished:
            return
        if self._machine.settled and not self._answered:
            self._send_all(self._machine.hedge())  # whoever acknowledged may be spare by now
        if self._machine.settled:
            if not self._answered and not self._again_soon():
                self._fail()
            self._finish()

    def _time_passed(self) -> None:
        if self._finished:
            return
        machine, request, coordinator = self._machine, self._request, self._coordinator
        straggling_ends = coordinator.loop.time() + coordinator.straggler_ms / 1000
        if not self._answered and self._is_slow(WRITE) and self._obj:
            self._tell_who_wrote()
        if not self._obj:  # the record is still being loaded: nothing could be sent yet
            if request.remaining_ms() <= 0:
                self._fail()
                self._finish()
            elif not self._handed_on(_SLOW):
                again = coordinator.loop.time() + coordinator.hedge_s
                coordinator.alarms.at(min(again, request.deadline), self._time_passed)
        elif self._waits_for_stragglers or (not self._answered and request.remaining_ms() <= 0):
            if not self._answered:
                self._fail()
            self._give_up_waiting()
            if machine.settled:
                self._finish()
        elif self._answered:
            self._waits_for_stragglers = True
            coordinator.alarms.at(straggling_ends, self._time_passed)
        else:
            self._send_all(machine.hedge())
            coordinator.alarms.at(self._next_hedge(), self._time_passed)

    def _give_up_waiting(self) -> None:
        """Hints for whoever is silent; the answers of those that get them are awaited once more."""
        coordinator, machine = self._coordinator, self._machine
        self._send_all(machine.give_up_waiting())
        if not machine.settled:
            self._waits_for_stragglers = True
            ends = coordinator.loop.time() + coordinator.straggler_ms / 1000
            coordinator.alarms.at(ends, self._abandon)

    def _abandon(self) -> None:
        """A stand-in didn't take its hint either: keep what is left at home."""
        if self._finished:
            return
        machine = self._machine
        for send in machine.give_up_waiting():
            if send.hint_for != machine.local:  # whose own write failed: anti-entropy mends that
                self._keep_at_home(send.hint_for)
        self._finish()

    def _keep_at_home(self, hint_for: int) -> None:
        """A hint beyond W; where it can't be kept a mark says that its owner misses something."""
        coordinator, place = self._coordinator, self._place
        hints = coordinator.replica.hints
        stamp = Stamp(self._reap_round, *coordinator.topology.name)
        keep = partial(hints.keep, self._request.key, place.digest, hint_for, self._obj, stamp)
        span: Span | None = None
        if self._request.span is not None:  # it may be kept only after this has ended
            here = coordinator.topology.number
            span = coordinator.tracing.asking(self._request.span, HINT, here, hint_for)

        def marked(error: BaseException | None) -> None:
            if isinstance(error, PeerRefusal | Corrupt):
                hints.mark(hint_for, place.partition)

        def kept(error: BaseException | None) -> None:
            if span is not None:
                stored(span, error)
            if isinstance(error, OtherRowError):  # it is kept, and counts for nothing
                keep(marked)
            elif isinstance(error, PeerRefusal | Corrupt):  # else the store is broken
                hints.mark(hint_for, place.partition)
            if self._finished:
                return
            machine = self._machine
            if error is not None:
                self._send_all(machine.failed(machine.local, hint_for))
            elif machine.acked(machine.local, hint_for):
                self._succeed()
            if machine.local not in place.owners:  # else nobody has waited for it
                self._after_reply()

        keep(kept, row=place.row)

    def _succeed(self) -> None:
        machine, coordinator = self._machine, self._coordinator
        token = coordinator.keyring.seal(
            self._request.key,
            self._context.to_bytes(),
            max(self._context_round, self._reap_round),  # some refused it under an older one
            coordinator.topology.number,
        )
        self._answer(
            Outcome(
                Kind.WRITTEN,
                token,
                primary=machine.primary,
                standin=machine.standin,
                needed=machine.w,
                got=machine.got,
            )
        )
        if coordinator.writing_bytes > WRITING_BYTES_MAX and not machine.settled:
            self._give_up_waiting()

    def _fail(self) -> None:
        machine = self._machine
        self._answer(
            Outcome(
                Kind.UNAVAILABLE,
                primary=machine.primary,
                standin=machine.standin,
                needed=machine.w,
                got=machine.got,
                detail=f"{machine.got} of {machine.w} replicas needed acknowledged the write in "
                "time; it may or may not exist now: read the key before you write again",
            )
        )

    def _finishing(self) -> None:
        coordinator = self._coordinator
        coordinator.writing -= 1
        coordinator.writing_bytes -= self._bytes
        self._obj = self._payload = b""


def _nobody_counts_on(kind: int, payload: bytes) -> None:
    """See `PutOperation._send_ahead`."""
