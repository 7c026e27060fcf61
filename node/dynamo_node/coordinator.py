"""Coordinator: gets, puts and deletes, at whichever node they arrive (P§4.5).

Owns what a request may ask for, who coordinates it, and its bounds. Any node
coordinates a read. A write is coordinated by a healthy owner of the key,
preferably the one that the context names as fastest; a node that is no owner
forwards it, and coordinates it itself only when no owner can be reached.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Final

from dynamo_core import wire
from dynamo_core.admission import Admission
from dynamo_core.contexts import NO_CONTEXT, Context, Keyring
from dynamo_core.errors import CallerError, Corrupt, DynamoError
from dynamo_core.objects import TYPE_BYTES_MAX
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import EMPTY, Clock
from dynamo_core.wire import Code, Op, Operation
from dynamo_node.alarms import Alarms
from dynamo_node.config import LAST_WRITE_WINS, Config, Settings
from dynamo_node.counters import Counters
from dynamo_node.forwards import Forward
from dynamo_node.outside import REAL
from dynamo_node.reads import GetOperation
from dynamo_node.replica import NewWrite, Replica
from dynamo_node.request import Answer, Request
from dynamo_node.topology import Place, Topology
from dynamo_node.tracing import Tracing
from dynamo_node.writes import PutOperation

log = logging.getLogger(__name__)

KEY_BYTES_MAX: Final = 1024
REQUESTS_MAX: Final = 20_000
REQUEST_BYTES_MAX: Final = 256 << 20
_ORDINARY: Final = (
    Code.EXPIRED,
    Code.OVERLOADED,
    Code.NO_ROOM,
    Code.READ_ONLY,
    Code.REAPED,
    Code.MOVED,
    Code.NOT_YET,
)
"""Refusals that nobody needs to be told of."""
_LEAVING: Final = Outcome(
    Kind.UNAVAILABLE,
    needed=1,
    detail="this node is leaving and holds nothing of the key; nothing was written here",
)
"""Where a leaver would have to be the stand-in that coordinates. It may have been found drained
a moment ago, and what it took now would go with its disk."""
_CONTENT_TYPE: Final = re.compile(rf"[\x20-\x7e]{{0,{TYPE_BYTES_MAX}}}")


class Coordinator:
    """Turns operations into answers; one per node."""

    def __init__(
        self,
        config: Config,
        topology: Topology,
        replica: Replica,
        wall_ms: Callable[[], int] = REAL.wall_ms,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.topology = topology
        self.replica = replica
        self.keyring: Keyring = config.keyring
        self.last_write_wins = config.reconciliation == LAST_WRITE_WINS
        self.hedge_s = config.timing.hedge_ms / 1000
        self.straggler_ms = config.timing.straggler_ms
        self.alarms = Alarms(self.loop)
        self.admission = Admission(self.loop.time())
        """Told how long operations take."""
        self.counters = Counters(self.loop.time, wall_ms)
        """Told how clients' operations end."""
        self.shows: Callable[[int], bool] = lambda partition: True
        """Whether a read may take in what this node stores of a partition, or doesn't."""
        self.sure: Callable[[int], bool] = lambda partition: True
        """Whether what this node holds of a partition may carry a round that it is told of."""
        self.on_stale_ring: Callable[[int, int], None] = lambda node, code: None
        self.on_other_row: Callable[[int, bytes, Callable[[], None] | None], None] = (
            lambda node, payload, then: None
        )
        """Told of a peer that knows other tokens, its refusal, and what to do once both know."""
        self.tracing = Tracing(config)
        """Told what operations came to."""
        self.settings: Callable[[], Settings] = lambda: config.settings
        """What is in force now; each request keeps what it began with."""
        self._wall_ms = wall_ms
        self._in_flight = 0
        self._bytes_in_flight = 0
        self.writing = 0
        """Writes that some owner still lacks and no hint waits for; answered or not."""
        self.writing_bytes = 0
        """Of their objects, held until then."""

    def operate(
        self,
        operation: Operation,
        remaining_ms: int,
        answer: Answer,
        trace: bytes = b"",
        forwarded: bool = False,
        gone: Callable[[], bool] = lambda: False,
        native: bool = False,
    ) -> None:
        """Carry out one operation; `answer(outcome)` is called exactly once.

        `forwarded`: another node sent it because it is no owner; it is not
        forwarded a second time, whatever this node's ring says. `gone`: whether
        who asked has closed its connection. `native`: it came by the native protocol.
        """
        size, settings, counters = len(operation.value), self.settings(), self.counters
        tracing = self.tracing
        span = tracing.begin(operation.op, trace, forwarded) if tracing.on else None
        taken = self._taken(operation, size, settings)
        if isinstance(taken, Outcome):
            if not forwarded:
                counters.refused(operation.op, taken.kind)
            if tracing.on:
                tracing.refused(span, operation, taken, trace, native)
            answer(taken)
            return
        came = counters.clock()
        self._in_flight += 1
        self._bytes_in_flight += size

        answered = False

        def finished(outcome: Outcome) -> None:
            nonlocal answered
            if answered:  # its own timer ends it too, after the store has failed it
                return
            answered = True
            self._in_flight -= 1
            self._bytes_in_flight -= size
            now = self.loop.time()
            self.admission.ended(now, now - request.began)
            if not forwarded:  # else it is counted where the client asked
                kept = trace if request.span is None else request.span.context.to_bytes()
                counters.answered(operation.op, outcome, counters.clock() - came, kept)
            if tracing.on:
                tracing.answered(request, operation, outcome, place, native, forwarded)
            answer(outcome)

        request = Request(self.loop, operation.key, remaining_ms, trace, finished, settings)
        request.span = span
        self.admission.began(request.began)
        place = self.topology.place(operation.key)
        try:
            if operation.op == Op.GET:
                r = operation.quorum or settings.r
                self._read(request, r, taken.clock, taken.reap_round)
            elif operation.op == Op.DELETE and not operation.context:
                self._delete_what_is_read(operation, request, place, gone)
            else:
                self._write(operation, taken, request, place, forwarded)
        except DynamoError as error:  # the store is broken, or the record damaged
            finished(self.storage_trouble(error, request))

    def _taken(self, operation: Operation, size: int, settings: Settings) -> Context | Outcome:
        """The operation's context, or what refuses it before anything is done."""
        if self._in_flight >= REQUESTS_MAX or self._bytes_in_flight + size > REQUEST_BYTES_MAX:
            return Outcome(Kind.OVERLOADED, detail="this node has too many requests in flight")
        try:
            context = self._checked(operation, settings.limits.value_bytes_max)
        except CallerError as error:
            return Outcome(Kind.BAD_REQUEST, detail=str(error))
        except _TooLargeError as error:
            return Outcome(Kind.TOO_LARGE, detail=str(error))
        if self.topology.ring is None:
            return Outcome(Kind.OVERLOADED, detail="this node has no ring yet; try again")
        return context

    @property
    def in_flight(self) -> int:
        """Operations that have not been answered yet."""
        return self._in_flight

    @property
    def bytes_in_flight(self) -> int:
        """Of the values that they bring."""
        return self._bytes_in_flight

    @property
    def busy(self) -> bool:
        """Whether an end now would leave something unanswered, or an owner without a hint."""
        return bool(self._in_flight or self.writing)

    def _checked(self, operation: Operation, value_bytes_max: int) -> Context:
        n = self.topology.ring.replication if self.topology.ring is not None else 255
        key, quorum = operation.key, operation.quorum
        if not key:
            raise CallerError(f"the key is empty; a key has 1..{KEY_BYTES_MAX} bytes")
        if len(key) > KEY_BYTES_MAX:
            raise _TooLargeError(
                f"the key has {len(key)} bytes; a key has 1..{KEY_BYTES_MAX} bytes"
            )
        if quorum > n:
            name = "r" if operation.op == Op.GET else "w"
            raise CallerError(f"{name} is {quorum}; it must be within 1..{n}")
        if len(operation.value) > value_bytes_max:
            raise _TooLargeError(
                f"the value has {len(operation.value)} bytes; the limit is {value_bytes_max}"
            )
        if not _CONTENT_TYPE.fullmatch(operation.content_type):
            raise CallerError("the content type must be up to 255 printable ASCII characters")
        if not operation.context:
            return NO_CONTEXT
        return self.keyring.open(key, operation.context)

    def _read(self, request: Request, r: int, floor: Clock = EMPTY, floor_round: int = 0) -> None:
        place = self.topology.place(request.key)
        anew = partial(self._guarded, request, partial(self._read, request, r, floor, floor_round))
        GetOperation(self, request, place, r, anew, floor, floor_round).start()

    def _guarded(self, request: Request, work: Callable[[], None]) -> None:
        """Go on with a request after a pause; whatever breaks answers it."""
        if not request.remaining_ms():  # nobody waits for it any more: nothing is begun
            detail = (
                "who holds the key changed until the time was over; a write may or may not exist "
                "now: read the key before you write again"
            )
            request.answer(Outcome(Kind.UNAVAILABLE, needed=1, detail=detail))
            return
        try:
            work()
        except DynamoError as error:
            request.answer(self.storage_trouble(error, request))

    # Writes

    def _write(
        self,
        operation: Operation,
        context: Context,
        request: Request,
        place: Place,
        forwarded: bool,
    ) -> None:
        if forwarded:
            self._coordinate(operation, context, None, request, place)
            return
        others = partial(self._forward, operation, context, request, place)
        if not place.counts and others(None):
            return
        self._coordinate(operation, context, others, request, place)

    def _write_anew(
        self, operation: Operation, context: Context, request: Request, forwarded: bool
    ) -> None:
        """Slots have moved: the same write, to whoever holds the key now."""
        place = self.topology.place(request.key)
        write = partial(self._write, operation, context, request, place, forwarded)
        self._guarded(request, write)

    def _forward(
        self,
        operation: Operation,
        context: Context,
        request: Request,
        place: Place,
        unable: Outcome | None,
    ) -> bool:
        """Hand a write to an owner; `unable` says why this node can't take it itself.

        False, and nothing was done, where nobody can be asked.
        """
        # A stand-in can coordinate what this node can't.
        nodes = place.owners if unable is None else (*place.owners, *place.others)
        here, healthy = self.topology.number, self.topology.healthy
        nodes = tuple(n for n in nodes if n != here and healthy(n))
        if not nodes:
            return False
        if context.fastest in nodes:
            nodes = (context.fastest, *(n for n in nodes if n != context.fastest))
        nodes = self.topology.staying_first(nodes)
        others = partial(self._forward, operation, context, request, place)
        myself = partial(self._coordinate, operation, context, others)
        Forward(self, operation, request, nodes, myself if unable is None else None, unable)
        return True

    def _coordinate(
        self,
        operation: Operation,
        context: Context,
        unable: Callable[[Outcome], bool] | None,
        request: Request,
        place: Place,
    ) -> None:
        """Coordinate a write here; `unable`, if given, hands it on where this node can't."""
        if self.topology.leaver and not place.counts:
            if unable is None or not unable(_LEAVING):
                request.answer(_LEAVING)
            return
        write = NewWrite(
            context.clock,
            adopt_clock=self.last_write_wins,
            write_id=operation.write_id,
            written_ms=self._wall_ms(),
            content_type=operation.content_type,
            value=None if operation.op == Op.DELETE else operation.value,
            limits=request.settings.limits,
        )
        w = operation.quorum or request.settings.w
        anew = partial(self._write_anew, operation, context, request, unable is None)
        PutOperation(self, request, place, w, write, anew, unable, context.reap_round).start()

    def _delete_what_is_read(
        self, operation: Operation, request: Request, place: Place, gone: Callable[[], bool]
    ) -> None:
        """A delete without a context covers what a read of now shows, and nothing else.

        A node that stood still finds requests whose callers have long given them up, and have
        deleted by way of others; what has been written since isn't theirs to delete. That a
        connection has ended is read at the earliest one turn of the loop after the request.
        """
        answer = request.answer

        def was_read(outcome: Outcome) -> None:
            self.loop.call_soon(decide, outcome)

        def decide(outcome: Outcome) -> None:
            if outcome.kind != Kind.VALUES:
                answer(outcome)
                return
            if not request.remaining_ms():  # nobody waits for it any more
                detail = "the read before the delete took all the time; nothing was deleted"
                answer(Outcome(Kind.UNAVAILABLE, needed=outcome.needed, detail=detail))
                return
            if gone():
                detail = "whoever asked has gone; nothing was deleted"
                answer(Outcome(Kind.UNAVAILABLE, needed=outcome.needed, detail=detail))
                return
            request.answer = answer
            context = self.keyring.open(operation.key, outcome.context)
            known = operation._replace(context=outcome.context)
            self._guarded(request, partial(self._write, known, context, request, place, False))

        request.answer = was_read
        self._read(request, request.settings.r)

    # Trouble

    def storage_trouble(self, error: BaseException, request: Request) -> Outcome:
        """The answer when this node's own store can't serve."""
        log.error("storage: %s", error, extra=request.for_log)
        return Outcome(
            Kind.UNAVAILABLE,
            needed=1,
            detail="this node's store does not answer; the write may or may not exist",
        )

    def reply_was_no(
        self, node: int, kind: int, payload: bytes, request: Request | None = None
    ) -> None:
        """A peer answered with something else than its reply; stale rings are mended."""
        if kind != wire.Type.ERROR:
            return
        try:
            code, text = wire.unpack_error(payload)
        except Corrupt:
            return
        if code in (Code.STALE_RING, Code.NOT_READY):
            self.on_stale_ring(node, code)
        elif code == Code.OTHER_ROW:
            self.on_other_row(node, payload, None)
        elif code not in _ORDINARY:
            extra = request.for_log if request is not None else None
            log.warning("peer %s refused: %s", self.topology.host_name(node), text, extra=extra)


class _TooLargeError(DynamoError):
    """Key or value over its limit."""
