"""Reads: one get, carried out by the node that coordinates it (P§4.5, §5).

Owns the shell around `GetQuorum`: it reads locally without a call to itself,
asks the other replicas in parallel for heads, answers at R, and afterwards
brings those up to date that replied with something older.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from dynamo_core import objects, wire
from dynamo_core.errors import Corrupt, DynamoError
from dynamo_core.get_quorum import Ask, GetQuorum
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.records import NOBODY
from dynamo_core.rounds import last_before
from dynamo_core.versions import EMPTY, Clock
from dynamo_node.background_spans import RepairSpans
from dynamo_node.in_flight import InFlight
from dynamo_node.links import LOST, Link
from dynamo_node.storage import Done
from dynamo_node.topology import Place
from dynamo_node.traced import READ, refusal

if TYPE_CHECKING:
    from dynamo_node.coordinator import Coordinator
    from dynamo_node.request import Request


log = logging.getLogger(__name__)

# IntEnum members cost a look-up of two levels each time; reads are counted in microseconds.
_READ: Final = int(wire.Type.READ)
_READ_REPLY: Final = int(wire.Type.READ_REPLY)
_ERROR: Final = int(wire.Type.ERROR)
_WHOLE: Final = int(wire.Found.WHOLE)
_HEAD: Final = int(wire.Found.HEAD)
_NOTHING: Final = int(wire.Found.NOTHING)


class GetOperation(InFlight):
    """One read in flight; it lives until the stragglers have answered or are given up."""

    __slots__ = ("_machine",)

    def __init__(
        self,
        coordinator: "Coordinator",
        request: "Request",
        place: Place,
        r: int,
        anew: Callable[[], None],
        floor: Clock = EMPTY,
        floor_round: int = 0,
    ) -> None:
        super().__init__(coordinator, request, place, anew)
        topology = coordinator.topology
        self._machine = GetQuorum(
            topology.staying_first(place.owners),
            place.others,
            topology.number,
            r,
            topology.healthy,
            floor,
            floor_round,
            request.settings.w,
        )

    def start(self) -> None:
        coordinator, request = self._coordinator, self._request
        coordinator.alarms.at(
            min(request.began + coordinator.hedge_s, request.deadline), self._time_passed
        )
        self._ask_all(self._machine.start())
        if self._machine.exhausted:
            self._after_reply()

    def _ask_all(self, asks: list[Ask]) -> None:
        if not asks:
            return
        coordinator, request = self._coordinator, self._request
        links, local = coordinator.topology.links, self._machine.local
        remaining_ms = request.remaining_ms()
        ask_self = False
        for node, whole in asks:
            if node == local:
                ask_self = True
                continue
            link = links.get(node)
            if link is None:  # a ring without it came meanwhile
                coordinator.loop.call_soon(self._replied, node, LOST, b"")
                continue
            request_id = link.request(
                _READ,
                self._place.row + wire.pack_read(request.key, whole),
                remaining_ms,
                partial(self._replied, node),
                self._traced(READ, node),
            )
            self._asked[node] = (link, request_id)
        if not ask_self:
            return
        self._here = True
        if request.span is not None:
            self._traced(READ, local)
        if not self._place.counts and not coordinator.shows(self._place.partition):
            self._read_here(None)  # what could be emptied while it is read
            return
        # Last: the others work meanwhile.
        coordinator.replica.read(
            request.key, self._place.digest, self._place.owners, self._read_here, self._damaged
        )

    def _read_here(self, obj: bytes | None) -> None:
        if self._finished:  # it had to be loaded, and that took too long
            return
        self._here = False
        if self._spans:
            self._ended(self._machine.local)
        machine, place = self._machine, self._place
        if self._coordinator.topology.digest(place.partition) != place.row:
            if self._again():  # learned meanwhile
                return
            self._ask_all(machine.failed(machine.local))
            self._after_reply()
            return
        try:
            if not self._coordinator.shows(place.partition):
                asks = machine.failed(machine.local)
            else:
                rounds, partition = self._coordinator.replica.rounds, self._place.partition
                head = None if obj is None else objects.head_of(obj)
                asks = machine.replied(
                    machine.local, head, obj, rounds.stamp(partition), rounds.committed(partition)
                )
        except Corrupt as error:
            self._damaged(error)
            return
        self._ask_all(asks)
        self._after_reply()

    def _damaged(self, error: DynamoError) -> None:
        """What is stored here can't be used: the others have to do."""
        if self._finished:
            return
        log.error("a record of this node can't be read: %s", error, extra=self._request.for_log)
        self._here = False
        self._ended(self._machine.local, "the record can't be read")
        self._ask_all(self._machine.failed(self._machine.local))
        self._after_reply()

    def _replied(self, node: int, kind: int, payload: bytes) -> None:
        if self._finished:
            return
        machine = self._machine
        self._asked.pop(node, None)
        if self._spans:
            self._ended(node, None if kind == _READ_REPLY else refusal(kind, payload))
        try:
            if kind == _READ_REPLY:
                found, reap_round, data, committed = wire.unpack_read_reply(payload)
                if found == _WHOLE:
                    asks = machine.replied(node, objects.head_of(data), data, reap_round, committed)
                elif found == _HEAD:
                    asks = machine.replied(node, data, None, reap_round, committed)
                elif found == _NOTHING:
                    asks = machine.replied(node, None, None, reap_round, committed)
                else:
                    asks = machine.failed(node)
            elif kind == _ERROR and self._other_row(node, payload, partial(self._lost, node)):
                return
            else:
                if kind != _ERROR or not self._is_moving(payload):
                    self._coordinator.reply_was_no(node, kind, payload, self._request)
                asks = machine.failed(node)
        except Corrupt:
            asks = machine.failed(node)
        self._ask_all(asks)
        self._after_reply()

    def _lost(self, node: int) -> None:
        """Nothing comes from `node` for this read any more."""
        self._ask_all(self._machine.failed(node))
        self._after_reply()

    def _after_reply(self) -> None:
        machine = self._machine
        if machine.ready and not self._answered:
            self._succeed()
        if machine.settled:
            if not self._answered and not self._again_soon():
                self._fail()
            self._finish()

    def _time_passed(self) -> None:
        if self._finished:
            return
        coordinator, request = self._coordinator, self._request
        if self._answered:
            if self._waits_for_stragglers:
                self._finish()
                return
            self._waits_for_stragglers = True
            coordinator.alarms.at(
                coordinator.loop.time() + coordinator.straggler_ms / 1000, self._time_passed
            )
        elif request.remaining_ms() <= 0:
            self._fail()
            self._finish()
        else:
            coordinator.alarms.at(self._next_hedge(), self._time_passed)
            self._is_slow(READ)
            self._ask_all(self._machine.hedge())
            self._after_reply()

    def _succeed(self) -> None:
        machine, coordinator = self._machine, self._coordinator
        obj = machine.answer
        token = ""
        siblings: tuple[objects.Sibling, ...] = ()
        if obj is not None:
            try:
                held = objects.from_bytes(obj)
            except Corrupt as error:
                self._answer(coordinator.storage_trouble(error, self._request))
                return
            show = objects.last_written if coordinator.last_write_wins else objects.shown
            siblings = show(held)
            token = coordinator.keyring.seal(
                self._request.key,
                objects.clock_bytes_of(obj),
                machine.context_round(last_before(coordinator.topology.name)),
                machine.fastest,
            )
        self._answer(
            Outcome(
                Kind.VALUES if siblings else Kind.ABSENT,
                token,
                siblings,
                machine.primary,
                machine.standin,
                machine.r,
                machine.got,
                "" if siblings else "the key has no value",
            )
        )

    def _fail(self) -> None:
        machine = self._machine
        if machine.below_floor:
            kind = Kind.NOT_YET
            detail = (
                "no replica that could be reached has yet what the context has seen; "
                "read again, or without the context for what there is"
            )
        else:
            kind = Kind.UNAVAILABLE
            detail = (
                f"{machine.got} of {machine.r} replicas needed answered in time; "
                "whether the key has a value is not known"
            )
        self._answer(
            Outcome(
                kind,
                primary=machine.primary,
                standin=machine.standin,
                needed=machine.r,
                got=machine.got,
                detail=detail,
            )
        )

    def _finishing(self) -> None:
        machine = self._machine
        try:
            found = machine.repairs() if machine.ready else None
            if found is not None:
                self._repair(*found)
        except DynamoError as error:
            extra = self._request.for_log
            log.error("a read couldn't be repaired: %s", error, extra=extra)
        machine.release()

    def _repair(self, obj: bytes, stale: list[int]) -> None:
        coordinator, key = self._coordinator, self._request.key
        if self._machine.reap_round < coordinator.replica.rounds.stamp(self._place.partition):
            # Nothing from before a promise is sent after it, not even to a disk that
            # has lost its own: what a later round reaps must be nowhere on its way.
            return
        payload = self._place.row + wire.pack_write(
            key, obj, NOBODY, self._machine.reap_round, False
        )
        repair = RepairSpans(coordinator.tracing, self._request, self._place.digest, obj)
        for node in stale:
            coordinator.counters.read_repairs += 1
            trace, done = repair.asked(node)
            if node == self._machine.local:
                reap_round = self._machine.reap_round
                coordinator.replica.merge(key, self._place.digest, obj, reap_round, done)
            elif link := coordinator.topology.links.get(node):
                patience_ms = coordinator.straggler_ms
                request_id = link.request(
                    wire.Type.WRITE, payload, patience_ms, partial(_repair_answered, done), trace
                )
                # Else a peer that never answers counts as silent for ever.
                coordinator.alarms.at(
                    coordinator.loop.time() + patience_ms / 1000,
                    partial(_given_up, link, request_id, done),
                )


# A repair binds nobody: the next read or anti-entropy tries again.


def _repair_answered(done: Done, kind: int, payload: bytes) -> None:
    done(None if kind == wire.Type.WRITTEN else DynamoError(refusal(kind, payload)))


def _given_up(link: Link, request_id: int, done: Done) -> None:
    link.forget(request_id)
    done(DynamoError("it wasn't awaited any longer"))
