"""Workload: seeded clients, and the history of what they did and were told.

Owns the clients' habits, in the shape's shares: several keys and a hot one, blind
writes and writes with the context of a read or of their own last write, old
contexts and those of others, deletes, sessions that read with a floor, retries at
other nodes under the same write id, quorums of their own. A value is the id of the
write that wrote it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final

from tests.sim.world import Machine, Process, World

from dynamo_core import history as told
from dynamo_core.errors import CallerError
from dynamo_core.frames import HEADER
from dynamo_core.history import History, Mint, Shown
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Op, Operation, Type, unpack_operation
from dynamo_node.config import LAST_WRITE_WINS
from dynamo_node.node import Node

TRIES_MAX: Final = 3
LATE_S: Final = 30.0
ANSWER_SLACK_S: Final = 0.2
"""After its deadline a request that wasn't answered counts as forgotten."""
_REFUSALS: Final = (Kind.BAD_REQUEST, Kind.TOO_LARGE, Kind.TOO_MANY_SIBLINGS)
_NAMES: Final = {Op.GET: told.GET, Op.PUT: told.PUT, Op.DELETE: told.DELETE}


class Clients:
    """All clients of one world; what they do goes into `history`."""

    def __init__(self, world: World, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.shape = shape = world.shape
        self.keys = [b"key-%d" % i for i in range(shape.keys)]
        self.history = History(n=shape.n, last_write_wins=shape.reconciliation == LAST_WRITE_WINS)
        self.unfinished = 0
        self.at: Machine | None = None
        """Where all clients go; None for anywhere."""
        self.quorums: dict[int, int] = {}
        """Write id -> the W that it was sent with, where that isn't the cluster's."""
        world.losses.needed = lambda write_id: self.quorums.get(write_id, shape.w)
        self.sent_twice: set[int] = set()
        """Write ids of which a coordinator may have got two requests where one was sent."""
        world.net.on_doubled = self._doubled
        self._count = 0
        self._contexts: dict[tuple[int, bytes], tuple[str, str]] = {}
        """What a client last got for a key: the operation's id and the token."""
        self._all_contexts: dict[bytes, list[tuple[str, str]]] = {}

    def run(self) -> None:
        """Begin the shape's operations at random times within its next `over_s` seconds."""
        world, rng, shape = self.world, self.rng, self.shape
        for _ in range(shape.operations):
            when = world.now + rng.random() * shape.over_s
            world.scheduler.at(when, None, self._begin, rng.randrange(shape.clients))

    def _begin(self, client: int) -> None:
        rng, shape = self.rng, self.shape
        key = self.keys[0] if rng.random() < shape.hot_share else rng.choice(self.keys)
        choice = rng.random()
        op = Op.GET if choice < shape.reads else Op.PUT
        if op == Op.PUT and choice > 1 - shape.deletes:
            op = Op.DELETE
        share = shape.floors if op == Op.GET else shape.contexts
        context = self._context(client, key) if rng.random() < share else None
        quorum = rng.randint(1, shape.n) if rng.random() < shape.own_quorum else 0
        self.call(op, key, client, context, quorum)

    def _context(self, client: int, key: bytes) -> tuple[str, str] | None:
        """The client's last one of the key; now and then an old one, or somebody else's."""
        rng, shape = self.rng, self.shape
        choice = rng.random()
        there = self._all_contexts.get(key)
        if there and choice < shape.stale:
            return rng.choice(there)
        if there and choice > 1 - shape.handed_on:
            return there[-1]
        return self._contexts.get((client, key))

    def call(
        self, op: Op, key: bytes, client: int, context: tuple[str, str] | None, quorum: int = 0
    ) -> None:
        """One operation with all its tries."""
        self.unfinished += 1
        self._count += 1
        _Call(self, op, key, client, context, quorum, f"{_NAMES[op][0]}{self._count}").next_try()

    def got_context(self, client: int, key: bytes, id_: str, token: str) -> None:
        self._contexts[client, key] = id_, token
        self._all_contexts.setdefault(key, []).append((id_, token))

    def _doubled(self, frame: bytes) -> None:
        if frame[4] == Type.FORWARD:
            self.sent_twice.add(int.from_bytes(unpack_operation(frame[HEADER.size :]).write_id))

    def record_mints(self) -> None:
        """The history's record of every dot; at the end of the run."""
        history, losses = self.history, self.world.losses
        names = {int(o.id[1:]): o.id for o in history.operations if o.is_write}
        for write_id, mints in losses.minted.items():
            if write_id in names:
                history.mints += [Mint(names[write_id], dot, clock) for dot, clock in mints]
        history.excused = {names[w] for w in losses.excused if w in names}
        history.operations = list(map(self._as_owners_know_it, history.operations))
        faults, shape = self.world.faults, self.shape
        if faults["disk lost"] + faults["disk rolled back"] >= shape.w:
            # So many bad disks at a time may be all that knew what was deleted and reaped.
            deleted = {o.key for o in history.operations if o.op == told.DELETE}
            history.excused |= {o.id for o in history.operations if o.is_write and o.key in deleted}

    def _as_owners_know_it(self, done: told.Operation) -> told.Operation:
        """`done` with the owners that can still be asked for it, if a disk forgot it.

        An owner that lost it has recovered from the others: what W owners took is with
        one of them, if fewer than W disks forgot it; what stand-ins took may be nowhere else.
        """
        forgotten = self.world.losses.forgotten(int(done.id[1:])) if done.is_write else 0
        if not forgotten or (done.owners >= self.shape.w > forgotten):
            return done
        return replace(done, owners=0)


class _Call:
    """One operation of one client until it is answered or given up."""

    def __init__(
        self,
        clients: Clients,
        op: Op,
        key: bytes,
        client: int,
        context: tuple[str, str] | None,
        quorum: int,
        id_: str,
    ) -> None:
        self.clients = clients
        self.client = client
        self.context = context
        self.id = id_
        blind = op != Op.GET and context is None
        self._by_store = blind and (op == Op.DELETE or clients.history.last_write_wins)
        self._timeout_ms = clients.rng.randint(*clients.shape.timeout_ms)
        self.invoked = clients.world.now
        self.operation = Operation(
            op,
            key,
            quorum,
            int(id_[1:]).to_bytes(16, "big"),
            "" if context is None else context[1],
            "text/plain",
            id_.encode() if op == Op.PUT else b"",
        )
        if quorum:
            clients.quorums[int(id_[1:])] = quorum
        self._tries = 0
        self._asked: Machine | None = None
        self._knew_no_better = False
        """Whether that one hadn't heard that it holds no slots any more."""
        self._unknown = False
        self._done = False

    def next_try(self) -> None:
        world = self.clients.world
        self._tries += 1
        number = self._tries
        machine = self._asked = self.clients.at or self.clients.rng.choice(world.machines)
        self._knew_no_better = world.knows_no_better(machine)
        process = machine.process
        delay = self.clients.rng.uniform(0.0002, 0.002)
        if process is None or process.node is None:
            # Refused by the machine itself: nothing was sent.
            world.scheduler.at(world.now + delay, None, self._answered, number, None)
            return
        asked = partial(self._still_serves, process, process.node, world.now)
        world.scheduler.at(world.now + delay, process.loop, self._operate, process.node, number)
        patience_s = self._timeout_ms / 1000 + ANSWER_SLACK_S
        world.scheduler.at(world.now + patience_s, None, self._timed_out, number, asked)

    def _operate(self, node: Any, number: int) -> None:
        world = self.clients.world

        def answer(outcome: Outcome) -> None:
            world.look()  # under which ring a write was acknowledged may not be seen later
            if outcome.kind == Kind.WRITTEN and world.on_written is not None:
                world.on_written()
            delay = self.clients.rng.uniform(0.0002, 0.002)
            world.scheduler.at(world.now + delay, None, self._answered, number, outcome)

        node.coordinator.operate(self.operation, self._timeout_ms, answer)

    def _timed_out(self, number: int, still_serves: Callable[[], bool]) -> None:
        if number == self._tries and not self._done:
            if still_serves():
                self.clients.world.scheduler.failures.append(f"{self.id} got no answer in time")
            self._unknown = True
            self._again_or(told.UNKNOWN, None)

    @staticmethod
    def _still_serves(process: Process, node: Node, since: float) -> bool:
        """Whether nothing has kept the node from answering."""
        loop = process.loop
        held_up = loop.dead or loop.stalled or loop.went_on_at >= since
        return not held_up and process.node is node and node.failure is None and not node.stopping

    def _answered(self, number: int, outcome: Outcome | None) -> None:
        if self._done or number != self._tries:
            return
        if outcome is None:
            self._again_or(told.UNKNOWN if self._unknown else told.REFUSED, None)
        elif outcome.kind == Kind.ABSENT and self.operation.op == Op.DELETE:
            self._end(told.UNKNOWN if self._unknown else told.REFUSED, outcome)
        elif outcome.ok:
            self._end(told.ACKNOWLEDGED, outcome)
        elif outcome.kind in _REFUSALS:
            self._end(told.UNKNOWN if self._unknown else told.REFUSED, outcome)
        else:
            self._unknown = True
            self._again_or(told.UNKNOWN, outcome)

    def _owners(self, outcome: Outcome) -> int:
        """How many owners answered, for promise (h).

        One whose disk was rolled back answers for less than it acknowledged, and so may, with
        R = 1, one that holds no slot any more and hasn't heard of it yet.
        """
        world = self.clients.world
        if world.faults["disk rolled back"]:
            return 0
        if self._knew_no_better and outcome.needed == 1:
            return 0
        return outcome.primary

    def _again_or(self, result: str, outcome: Outcome | None) -> None:
        if self._tries < TRIES_MAX:
            world = self.clients.world
            self._tries += 1  # answers of the last try come too late from now on
            world.scheduler.at(world.now + 0.05, None, self.next_try)
        else:
            self._end(result, outcome)

    def _end(self, result: str, outcome: Outcome | None) -> None:
        self._done = True
        clients, operation = self.clients, self.operation
        clients.unfinished -= 1
        world = clients.world
        if operation.op == Op.GET and result != told.ACKNOWLEDGED:
            result = told.REFUSED
        elif result == told.REFUSED and int.from_bytes(operation.write_id) in clients.sent_twice:
            result = told.UNKNOWN  # one request was refused; the other one may be carried out
        clock = None
        shown: tuple[Shown, ...] = ()
        if outcome is not None and outcome.ok and result == told.ACKNOWLEDGED:
            if outcome.context:
                try:
                    clock = world.keyring.open(operation.key, outcome.context).clock
                except CallerError as error:
                    raise AssertionError(f"{self.id} got a bad context") from error
                clients.got_context(self.client, operation.key, self.id, outcome.context)
            shown = tuple(Shown((s.value or b"").decode(), s.dot) for s in outcome.siblings)
        record = told.Operation(
            id=self.id,
            op=_NAMES[operation.op],
            client=f"c{self.client}",
            session=f"c{self.client}",
            key=operation.key.decode(),
            invoked=self.invoked,
            # What was not answered may still be on its way.
            returned=world.now + (LATE_S if result == told.UNKNOWN else 0.0),
            outcome=result,
            context=None if self.context is None else self.context[0],
            by_store=self._by_store,
            shown=shown,
            owners=0 if outcome is None else self._owners(outcome),
            clock=clock,
        )
        clients.history.operations.append(record)
        world.note(
            record.client,
            f"{record.op} {record.key} {record.id} with {record.context} since {self.invoked:.3f}: "
            f"{result} {[s.id for s in shown]} {clock or ''}",
        )
