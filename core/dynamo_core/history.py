"""Histories: what clients did and were told, and what replicas held in the end.

Owns the record that `history_check` judges and its JSON-lines form, so that a
run can be stored and checked again. A value is known by the id of the write
that wrote it; whoever records puts that id into the value's bytes. Times are
seconds of the recorder's own clock; only their order within one history
counts. Forbidden here: judging.

One JSON object a line, `record` says of what kind it is::

    {"record": "replication", "n": 3, "last_write_wins": false}
    {"record": "operation", "id": "w17", "op": "put", "client": "c3", "session": "c3.1",
     "key": "cart:7", "invoked": 1.25, "returned": 1.31, "outcome": "acknowledged",
     "context": "g16", "clock": "0001...", "by_store": false, "shown": [],
     "owners": 2, "failed": 1}
    {"record": "replica", "node": "cart-default-0", "key": "cart:7", "owner": true,
     "siblings": [["w17", "1.ab12....0:4"], ["", "2.cd34....1:1"]], "clock": "0002..."}
    {"record": "mint", "id": "w17", "dot": "1.ab12....0:4", "clock": "0001..."}
    {"record": "excused", "id": "w9"}
    {"record": "mark", "what": "healed", "at": 61.5}
    {"record": "figure", "name": "seconds until replicas were equal", "value": 4, "most": 60}

The same in Python: `Operation`, `ReplicaCopy`, `Figure`, `Mint`, `History.excused` and
`History.healed_at`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dynamo_core.errors import CallerError, Corrupt
from dynamo_core.versions import EMPTY, Clock, Dot, clock_from_bytes, clock_length, dot_text

PUT: Final = "put"
DELETE: Final = "delete"
GET: Final = "get"
OPS: Final = (PUT, DELETE, GET)

ACKNOWLEDGED: Final = "acknowledged"
"""A write that was promised, or a get that was answered (with values or with none)."""
REFUSED: Final = "refused"
"""Surely nothing was written; for a get: there was no answer."""
UNKNOWN: Final = "unknown"
"""A write that may or may not exist."""
OUTCOMES: Final = (ACKNOWLEDGED, REFUSED, UNKNOWN)

TOMBSTONE: Final = ""
"""The id of a tombstone in a replica's siblings: which delete made it isn't on disk."""

_DOT: Final = re.compile(r"(\d{1,10})\.([0-9a-f]{16})\.(\d{1,10}):(\d{1,20})")


class Shown(NamedTuple):
    """A value in an answer or in a replica: the write's id, and its dot where it was told."""

    id: str
    dot: Dot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of one client, with all its tries (a write's tries share a write id).

    `context`: what was sent. The id of the operation whose answer's context it
    was; or the ids of the values that the author had been shown; None: nothing
    (for a get: no floor). `by_store`: a delete that was sent without a context
    covers what the store read for it, which nobody was shown (and so does a
    put without one where time decides, lastWriteWins). `clock`: the clock in the answer's context,
    where the recorder can read it. `shown`: a get's answer; with ACKNOWLEDGED
    and nothing shown the key was said to be absent. `owners`: how many of the
    key's owners acknowledged or answered (the `primary` of X-Dynamo-Acks).
    `failed`: how many of its tries got no answer or an error; too many siblings are none.
    """

    id: str
    op: str
    client: str
    key: str
    invoked: float
    returned: float
    outcome: str
    session: str = ""
    context: str | tuple[str, ...] | None = None
    by_store: bool = False
    shown: tuple[Shown, ...] = ()
    clock: Clock | None = None
    owners: int = 0
    failed: int = 0

    @property
    def is_write(self) -> bool:
        return self.op != GET

    @property
    def acknowledged(self) -> bool:
        return self.outcome == ACKNOWLEDGED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCopy:
    """What one node held of a key at the end, of its own; `owner`: one of the key's N."""

    node: str
    key: str
    siblings: tuple[Shown, ...] = ()
    clock: Clock | None = None
    owner: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured outside that must not be over `most` (invariant d)."""

    name: str
    value: float
    most: float


class Mint(NamedTuple):
    """A dot that a node gave to write `id`, and what it replaced: the context applied with it.

    Only a recorder inside of the store knows them; it records all or none.
    """

    id: str
    dot: Dot
    clock: Clock


@dataclass(slots=True)
class History:
    """A whole run.

    `healed_at`: from then on nothing was broken and all repairs had their time.
    Gets that began then, and `replicas`, are what the strict checks look at.
    `n`: replicas of each key, 0 if not known. `excused`: writes of which nothing is
    promised, because every disk that held them was lost. `last_write_wins`: answers
    show the last written sibling alone.
    """

    operations: list[Operation] = field(default_factory=list)
    replicas: list[ReplicaCopy] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    mints: list[Mint] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)
    healed_at: float | None = None
    n: int = 0
    last_write_wins: bool = False

    def lines(self) -> Iterator[str]:
        """The JSON-lines form, without line ends."""
        if self.n or self.last_write_wins:
            document = {"n": self.n, "last_write_wins": self.last_write_wins}
            yield json.dumps({"record": "replication"} | document)
        for operation in self.operations:
            yield json.dumps(_operation_json(operation))
        for copy in self.replicas:
            yield json.dumps(_copy_json(copy))
        for figure in self.figures:
            measured = {"name": figure.name, "value": figure.value, "most": figure.most}
            yield json.dumps({"record": "figure"} | measured)
        for mint in self.mints:
            clock = mint.clock.to_bytes().hex()
            yield json.dumps(
                {"record": "mint", "id": mint.id, "dot": dot_text(mint.dot), "clock": clock}
            )
        for name in sorted(self.excused):
            yield json.dumps({"record": "excused", "id": name})
        if self.healed_at is not None:
            yield json.dumps({"record": "mark", "what": "healed", "at": self.healed_at})


def from_lines(lines: Iterable[str]) -> History:
    """Read a stored history; CallerError names the line that is none."""
    history = History()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(history, json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, Corrupt, RecursionError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CallerError(f"line {number} is no record of a history: {what}") from error
    return history


def _take(history: History, document: dict[str, Any]) -> None:
    kind = document["record"]
    if kind == "operation":
        history.operations.append(_operation(document))
    elif kind == "replica":
        history.replicas.append(
            ReplicaCopy(
                node=_text(document, "node"),
                key=_text(document, "key"),
                siblings=_siblings(document["siblings"]),
                clock=_clock(document.get("clock")),
                owner=bool(document.get("owner", True)),
            )
        )
    elif kind == "figure":
        value, most = float(document["value"]), float(document["most"])
        history.figures.append(Figure(name=_text(document, "name"), value=value, most=most))
    elif kind == "replication":
        history.n = int(document["n"])
        history.last_write_wins = bool(document.get("last_write_wins", False))
    elif kind == "mint":
        clock = _clock(document["clock"]) or EMPTY
        history.mints.append(Mint(_text(document, "id"), dot_of(document["dot"]), clock))
    elif kind == "excused":
        history.excused.add(_text(document, "id"))
    elif kind == "mark" and document.get("what") == "healed":
        history.healed_at = float(document["at"])
    else:
        raise ValueError(
            f"record is {kind!r}; there are operation, replica, figure, replication, mint, "
            "excused and mark"
        )


def _operation(document: dict[str, Any]) -> Operation:
    op, outcome = document["op"], document["outcome"]
    if op not in OPS:
        raise ValueError(f"op is {op!r}; there are {', '.join(OPS)}")
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome is {outcome!r}; there are {', '.join(OUTCOMES)}")
    context = document.get("context")
    if isinstance(context, list):
        context = tuple(str(each) for each in context)
    elif context is not None and not isinstance(context, str):
        raise ValueError("context is neither an operation's id, nor a list of values' ids")
    return Operation(
        id=_text(document, "id"),
        op=op,
        client=_text(document, "client"),
        session=str(document.get("session", "")),
        key=_text(document, "key"),
        invoked=float(document["invoked"]),
        returned=float(document["returned"]),
        outcome=outcome,
        context=context,
        by_store=bool(document.get("by_store", False)),
        shown=_siblings(document.get("shown", [])),
        clock=_clock(document.get("clock")),
        owners=int(document.get("owners", 0)),
        failed=int(document.get("failed", 0)),
    )


def _operation_json(operation: Operation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "record": "operation",
        "id": operation.id,
        "op": operation.op,
        "client": operation.client,
        "session": operation.session,
        "key": operation.key,
        "invoked": operation.invoked,
        "returned": operation.returned,
        "outcome": operation.outcome,
        "context": operation.context,
    }
    if operation.op == GET:
        document["shown"] = _shown_json(operation.shown)
    if operation.by_store:
        document["by_store"] = True
    if operation.owners:
        document["owners"] = operation.owners
    if operation.failed:
        document["failed"] = operation.failed
    if operation.clock is not None:
        document["clock"] = operation.clock.to_bytes().hex()
    return document


def _copy_json(copy: ReplicaCopy) -> dict[str, Any]:
    document: dict[str, Any] = {
        "record": "replica",
        "node": copy.node,
        "key": copy.key,
        "owner": copy.owner,
        "siblings": _shown_json(copy.siblings),
    }
    if copy.clock is not None:
        document["clock"] = copy.clock.to_bytes().hex()
    return document


def _shown_json(shown: Iterable[Shown]) -> list[list[str | None]]:
    return [[each.id, None if each.dot is None else dot_text(each.dot)] for each in shown]


def _siblings(found: Any) -> tuple[Shown, ...]:
    return tuple(Shown(str(name), None if dot is None else dot_of(dot)) for name, dot in found)


def dot_of(text: str) -> Dot:
    """The dot that `versions.dot_text` shows for people; ValueError if it is none."""
    found = _DOT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no dot; one is NODE.INCARNATION.BIRTH:COUNTER")
    number, incarnation, birth, counter = found.groups()
    if max(int(number), int(birth)) >= 1 << 32 or not 1 <= int(counter) < 1 << 64:
        raise ValueError(f"{text!r} is no dot: a number in it is out of range")
    actor = int(number).to_bytes(4, "big") + bytes.fromhex(incarnation)
    return actor + int(birth).to_bytes(4, "big"), int(counter)


def _clock(text: Any) -> Clock | None:
    if text is None:
        return None
    data = bytes.fromhex(text)
    if clock_length(data) != len(data):
        raise ValueError(f"a clock has {len(data)} bytes, its counts say {clock_length(data)}")
    return clock_from_bytes(data)


def _text(document: dict[str, Any], name: str) -> str:
    value = document[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}; a text is needed")
    return value
