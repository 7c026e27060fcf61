"""Between the client's calls and the native protocol's operations and outcomes.

Owns both translations, so that a call means and raises the same over either
protocol. Pure. Forbidden here: I/O, and the choice of node.
"""

from datetime import UTC, datetime
from typing import Any, Final

from dynamo_client.errors import BadRequest, DynamoClientError, TooLarge, UnexpectedAnswer
from dynamo_client.errors import from_problem as _from_problem
from dynamo_client.items import OCTET_STREAM, Acks, DeleteResult, Item, PutResult, Sibling
from dynamo_client.transport import DeleteCall, GetCall, PutCall
from dynamo_core.errors import Corrupt
from dynamo_core.frames import FRAME_BYTES_MAX
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import dot_text
from dynamo_core.wire import (
    Code,
    Op,
    Operation,
    Type,
    pack_operation,
    unpack_error,
    unpack_outcome,
)

_NO_WRITE_ID: Final = bytes(16)
_FRAME_ROOM: Final = 256
"""Bytes that a frame needs beside its payload, generously."""

# kind -> (status, last part of the problem's type, title), as the HTTP door says it
_PROBLEMS: Final = {
    Kind.BAD_REQUEST: (400, "bad-request", "The request is not one this store can take"),
    Kind.TOO_LARGE: (413, "too-large", "Value or key too large"),
    Kind.TOO_MANY_SIBLINGS: (409, "too-many-siblings", "Too many siblings, read first"),
    Kind.UNAVAILABLE: (503, "unavailable", "Too few replicas answered in time"),
    Kind.NOT_YET: (503, "not-yet", "No replica has what the context has seen"),
    Kind.OVERLOADED: (503, "overloaded", "This node can't take the request now"),
}
_COUNTED: Final = frozenset({Kind.UNAVAILABLE, Kind.NOT_YET})
# What an ERROR frame means; in every case but a broken store nothing was begun.
_CODES: Final = {
    Code.BAD_REQUEST: Kind.BAD_REQUEST,
    Code.OVERLOADED: Kind.OVERLOADED,
    Code.NOT_READY: Kind.OVERLOADED,
    Code.STALE_RING: Kind.OVERLOADED,
    Code.EXPIRED: Kind.UNAVAILABLE,
    Code.STORAGE: Kind.UNAVAILABLE,
}


def pack_get(call: GetCall, node: str) -> bytes:
    """The OPERATION of a get; BadRequest or TooLarge if it can't be one."""
    quorum = _quorum("r", call.r, node)
    return _packed(Operation(Op.GET, call.key, quorum, _NO_WRITE_ID, call.context or ""), node)


def pack_put(call: PutCall, node: str) -> bytes:
    """The OPERATION of a put."""
    operation = Operation(
        Op.PUT,
        call.key,
        _quorum("w", call.w, node),
        _write_id(call.write_id, node),
        call.context or "",
        call.content_type,
        call.value,
    )
    return _packed(operation, node)


def pack_delete(call: DeleteCall, node: str) -> bytes:
    """The OPERATION of a delete; like HTTP's, its quorum is w."""
    _quorum("r", call.r, node)
    operation = Operation(
        Op.DELETE,
        call.key,
        _quorum("w", call.w, node),
        _write_id(call.write_id, node),
        call.context or "",
    )
    return _packed(operation, node)


def item_of(key: bytes, kind: int, payload: bytes, node: str) -> Item:
    """What a get's reply says."""
    outcome = _outcome(kind, payload, node)
    if outcome.kind not in (Kind.VALUES, Kind.ABSENT):
        raise _error(outcome, node)
    siblings = tuple(
        [
            Sibling(
                sibling.value or b"",
                sibling.content_type or OCTET_STREAM,
                dot_text(sibling.dot),
                _written_at(sibling.written_ms),
            )
            for sibling in outcome.siblings
        ]
    )
    return Item(key, siblings, outcome.context or None, Acks(outcome.primary, outcome.standin))


def put_result_of(kind: int, payload: bytes, node: str) -> PutResult:
    """What a put's reply says."""
    outcome = _outcome(kind, payload, node)
    if outcome.kind is not Kind.WRITTEN:
        raise _error(outcome, node)
    return PutResult(outcome.context or None, Acks(outcome.primary, outcome.standin))


def delete_result_of(kind: int, payload: bytes, node: str) -> DeleteResult:
    """What a delete's reply says."""
    outcome = _outcome(kind, payload, node)
    if outcome.kind not in (Kind.WRITTEN, Kind.ABSENT):
        raise _error(outcome, node)
    acks = Acks(outcome.primary, outcome.standin)
    return DeleteResult(outcome.kind is Kind.WRITTEN, outcome.context or None, acks)


def _outcome(kind: int, payload: bytes, node: str) -> Outcome:
    if kind == Type.OPERATION_REPLY:
        try:
            return unpack_outcome(payload)
        except Corrupt as error:
            raise _unexpected(f"a reply that can't be read ({error})", node) from error
    if kind != Type.ERROR:
        raise _unexpected(f"a frame of type {kind}", node)
    code, text = 0, ""
    try:
        code, text = unpack_error(payload)
        meant = _CODES[Code(code)]
    except (Corrupt, ValueError, KeyError) as error:
        raise _unexpected(f"an error that isn't known ({code}: {text})", node) from error
    if code == Code.EXPIRED:
        text = "the deadline had passed when the request arrived; nothing was begun"
    answer = _error(Outcome(meant, detail=text), node)
    answer.maybe_done = code == Code.STORAGE
    raise answer


def _error(outcome: Outcome, node: str) -> DynamoClientError:
    if outcome.kind not in _PROBLEMS:
        return _unexpected(f"{outcome.kind.name} to another question", node)
    status, kind, title = _PROBLEMS[outcome.kind]
    problem: dict[str, Any] = {
        "type": f"urn:dynamo:problem:{kind}",
        "title": title,
        "status": status,
        "detail": outcome.detail,
    }
    if outcome.kind in _COUNTED:
        problem |= {"needed": outcome.needed, "got": outcome.got}
    return _from_problem(
        status, problem, node=node, retry_after="1" if outcome.kind is Kind.OVERLOADED else None
    )


def _unexpected(what: str, node: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{node} answered {what} over the native protocol", node=node, status=500, maybe_done=True
    )


def _packed(operation: Operation, node: str) -> bytes:
    try:
        payload = pack_operation(operation)
    except (Corrupt, UnicodeEncodeError) as error:
        raise BadRequest(
            f"the request can't be sent: {error}", status=400, kind="bad-request", node=node
        ) from error
    if len(payload) > FRAME_BYTES_MAX - _FRAME_ROOM:
        raise TooLarge(
            f"the request has {len(payload)} bytes; no cluster takes more than {FRAME_BYTES_MAX}",
            status=413,
            kind="too-large",
            node=node,
        )
    return payload


def _quorum(name: str, given: int | None, node: str) -> int:
    """0, which asks for the cluster's own, can't be what a caller means by 0."""
    if given is None:
        return 0
    if not 1 <= given <= 255:
        raise BadRequest(
            f"{name} is {given}; a whole number from 1 to the number of replicas is needed",
            status=400,
            kind="bad-request",
            node=node,
        )
    return given


def _write_id(given: str, node: str) -> bytes:
    try:
        data = bytes.fromhex(given)
    except ValueError:
        data = b""
    if len(data) != 16:
        raise BadRequest(
            f"the write id is {given[:40]!r}; 32 hex digits are needed",
            status=400,
            kind="bad-request",
            node=node,
        )
    return data


def _written_at(written_ms: int) -> str | None:
    """Wall time in ISO 8601, as HTTP gives it; None where a wild clock wrote no such time."""
    try:
        moment = datetime.fromtimestamp(written_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
