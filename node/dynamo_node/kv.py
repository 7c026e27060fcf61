"""KV: `GET|HEAD|PUT|DELETE /kv/{key}` (contract, section 3).

Owns what HTTP says and means for a key: decode the request into an operation,
call the coordinator, encode its outcome. Nothing that a client sends here may
give a 500, a stall or a dead node.
"""

import asyncio
import json
import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from email.utils import formatdate
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import StreamReader, web
from multidict import istr

from dynamo_core.objects import Sibling
from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.versions import dot_text
from dynamo_core.wire import Op, Operation
from dynamo_node import problems
from dynamo_node.counters import TOO_SLOW
from dynamo_node.problems import ProblemError, bad_request, too_large
from dynamo_node.rendered import Rendered
from dynamo_telemetry.contexts import header_bytes

if TYPE_CHECKING:
    from dynamo_node.node import Node

PREFIX: Final = "/kv/"
CONTEXT_HEADER: Final = "X-Dynamo-Context"
ACKS_HEADER: Final = "X-Dynamo-Acks"
WRITE_ID_HEADER: Final = "X-Dynamo-Write-Id"
IN_BODY_HEADER: Final = "X-Dynamo-Context-In"
CONTEXT_HEADER_BYTES_MAX: Final = 6 << 10
PUT_JSON: Final = "application/vnd.dynamo.put+json"
DEFAULT_TYPE: Final = "application/octet-stream"
METHODS: Final = {"GET": Op.GET, "HEAD": Op.GET, "PUT": Op.PUT, "DELETE": Op.DELETE}
TIMEOUT_MS_MAX: Final = 60_000
QUERY_FIELDS_MAX: Final = 16
KEY_TEXT_MAX: Final = 3 * 1024
BODY_JSON_ROOM: Final = 256 << 10
"""Bytes a JSON put may have beyond its base64 value: the longest context."""

# Names that aiohttp's header map needn't fold to one case at each look.
_CONTEXT: Final = istr(CONTEXT_HEADER)
_WRITE_ID: Final = istr(WRITE_ID_HEADER)
_TRACE: Final = istr("traceparent")
_ACCEPT: Final = istr("Accept")
_TYPE: Final = istr("Content-Type")
_EXPECT: Final = istr("Expect")

_COUNTED_AS: Final = {400: Kind.BAD_REQUEST, 408: TOO_SLOW, 413: Kind.TOO_LARGE}

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class KeyValue:
    """The `/kv/` routes of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._timeout_ms = node.config.timing.timeout_ms
        self._body_s = node.config.timing.body_ms / 1000

    async def handle(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer a request whose raw path starts with `/kv/`; raises ProblemError."""
        method = request.method
        op = METHODS.get(method)
        if op is None:
            raise problems.method_not_allowed(method, "GET, HEAD, PUT, DELETE")
        try:
            operation, timeout_ms = await self._operation(request, path, op)
        except ProblemError as problem:
            self._node.counters.refused(op, _COUNTED_AS[problem.status])
            raise
        headers = request.headers
        answered: asyncio.Future[Outcome] = self._loop.create_future()
        trace = headers.get(_TRACE)
        self._node.coordinator.operate(
            operation,
            timeout_ms,
            lambda outcome: None if answered.done() else answered.set_result(outcome),
            header_bytes(trace) if trace else b"",
            gone=lambda: request.transport is None or request.transport.is_closing(),
        )
        outcome = await answered
        if op == Op.GET:
            return self._read(outcome, headers.get(_ACCEPT, ""))
        return _written(outcome)

    async def _operation(
        self, request: web.BaseRequest, path: str, op: Op
    ) -> tuple[Operation, int]:
        """What is asked for, and its `timeout_ms`; raises ProblemError."""
        text, _, query = path[len(PREFIX) :].partition("?")
        key = _key(text)
        quorum, timeout_ms = self._query(query, op) if query else (0, self._timeout_ms)
        headers = request.headers
        context = headers.get(_CONTEXT, "")
        value, content_type = b"", ""
        if op != Op.GET:
            if request.can_read_body or op == Op.PUT:
                value = await self._body(request)
            content_type = headers.get(_TYPE) or DEFAULT_TYPE
            if _is_put_json(content_type) and (value or op == Op.PUT):
                value, content_type, context = _put_json(value, context, op)
            elif op == Op.DELETE:
                value, content_type = b"", ""
        operation = Operation(
            op, key, quorum, self._write_id(headers, op), context, content_type, value
        )
        return operation, timeout_ms

    def _query(self, query: str, op: Op) -> tuple[int, int]:
        quorum, timeout_ms = 0, self._timeout_ms
        n = self._node.topology.ring.replication if self._node.topology.ring else 255
        try:
            fields = parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError as error:
            raise bad_request(
                f"the query has more than {QUERY_FIELDS_MAX} parameters; there are r, w, timeout_ms"
            ) from error
        for name, text in fields:
            if name == "timeout_ms":
                timeout_ms = _number(name, text, TIMEOUT_MS_MAX)
            elif name in ("r", "w"):
                number = _number(name, text, n)
                if (name == "r") == (op == Op.GET):
                    quorum = number
            else:
                raise bad_request(
                    f"query parameter {name[:40]!r} is not known; there are r, w, timeout_ms"
                )
        return quorum, timeout_ms

    def _write_id(self, headers: "web.BaseRequest | object", op: Op) -> bytes:
        if op == Op.GET:
            return bytes(16)
        given = headers.get(_WRITE_ID)  # type: ignore[union-attr]
        if given is None:
            return self._node.write_id()
        try:
            data = bytes.fromhex(given)
        except ValueError:
            data = b""
        if len(data) != 16:
            raise bad_request(f"{WRITE_ID_HEADER} holds {given[:40]!r}; 32 hex digits are needed")
        return data

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body; what is over the limit is refused before it is read."""
        limit = self._node.settings.now.limits.value_bytes_max
        if _is_put_json(request.headers.get("Content-Type", "")):
            limit = limit * 4 // 3 + BODY_JSON_ROOM
        length = request.content_length
        if length is not None and length > limit:
            raise too_large(f"the value has {length} bytes; the limit is {limit}")
        if request.headers.get(_EXPECT, "").lower() == "100-continue":
            # aiohttp's low-level server leaves this to its handler; curl waits for it.
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        content = request.content
        if content.is_eof():  # small ones come with their head
            return await _all_of(content, limit)
        try:
            async with asyncio.timeout(self._body_s):
                return await _all_of(content, limit)
        except TimeoutError as error:
            raise ProblemError(
                408,
                "too-slow",
                "The body came too slowly",
                f"the body was not whole within {self._body_s:g} s; nothing was written",
            ) from error

    def _read(self, outcome: Outcome, accept: str) -> web.StreamResponse:
        headers = {ACKS_HEADER: f"primary={outcome.primary}, standin={outcome.standin}"}
        if outcome.kind == Kind.ABSENT:
            return _absent(outcome, headers)
        if outcome.kind != Kind.VALUES:
            return problems.response(_problem(outcome), headers)
        as_json = "application/json" in accept
        siblings, context = outcome.siblings, outcome.context
        in_body = len(context) > CONTEXT_HEADER_BYTES_MAX
        if in_body:
            headers[IN_BODY_HEADER] = "body"
        else:
            headers[CONTEXT_HEADER] = context
        if as_json and (in_body or len(siblings) > 1):
            body = {"context": context, "siblings": [_sibling_json(s) for s in siblings]}
            return web.Response(
                status=300 if len(siblings) > 1 else 200,
                body=json.dumps(body).encode(),
                content_type="application/json",
                headers=headers,
            )
        if len(siblings) == 1:
            headers["Content-Type"] = siblings[0].content_type or DEFAULT_TYPE
            return Rendered(200, headers, siblings[0].value or b"")
        boundary = os.urandom(16).hex()
        headers["Content-Type"] = f'multipart/mixed; boundary="{boundary}"'
        return Rendered(300, headers, _multipart(siblings, boundary))


async def _all_of(content: StreamReader, limit: int) -> bytes:
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > limit:
            raise too_large(f"the value has more than {limit} bytes, which is the limit")
    return bytes(body)


def _key(text: str) -> bytes:
    if len(text) > KEY_TEXT_MAX:
        raise too_large(f"the key takes {len(text)} characters; a key has 1..1024 bytes")
    if "/" in text:
        raise bad_request("the key holds a plain '/'; write it as %2F")
    if "%" not in text:
        if text.isascii():
            return text.encode()
    elif _BROKEN_ESCAPE.search(text):
        raise bad_request("the key holds a '%' without two hex digits; write '%' as %25")
    # What came as raw bytes beyond ASCII was decoded leniently on its way here.
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape"))


def _number(name: str, text: str, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= high:
        return int(text)
    raise bad_request(f"{name} is {text[:40]!r}; a whole number in 1..{high} is needed")


def _is_put_json(content_type: str) -> bool:
    """Media types have parameters and no case (RFC 9110)."""
    return content_type == PUT_JSON or (
        len(content_type) >= len(PUT_JSON)
        and content_type.partition(";")[0].strip().lower() == PUT_JSON
    )


def _put_json(body: bytes, context: str, op: Op) -> tuple[bytes, str, str]:
    """(value, content type, context) of a put in JSON."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise bad_request("the body must be an object of context, value, content_type")
    others = sorted(set(given) - {"context", "value", "content_type"})
    if others:
        raise bad_request(
            f"{others[0][:40]!r} is not known; there are context, value, content_type"
        )
    fields = []
    for name, default in (("value", ""), ("content_type", DEFAULT_TYPE), ("context", context)):
        field = given.get(name, default)
        if not isinstance(field, str):
            raise bad_request(f"{name} is not a text")
        fields.append(field)
    if op == Op.DELETE:
        return b"", "", fields[2]
    if "value" not in given:
        raise bad_request("value is missing; it is the base64 of the bytes to store")
    try:
        return b64decode(fields[0], validate=True), fields[1], fields[2]
    except (Base64Error, ValueError) as error:
        raise bad_request(f"value is not base64: {error}") from error


def _written(outcome: Outcome) -> web.StreamResponse:
    headers = {ACKS_HEADER: f"primary={outcome.primary}, standin={outcome.standin}"}
    if outcome.kind == Kind.ABSENT:
        return _absent(outcome, headers)
    if outcome.kind != Kind.WRITTEN:
        return problems.response(_problem(outcome), headers)
    if len(outcome.context) > CONTEXT_HEADER_BYTES_MAX:
        headers[IN_BODY_HEADER] = "body"
        return web.Response(
            body=json.dumps({"context": outcome.context}).encode(),
            content_type="application/json",
            headers=headers,
        )
    headers[CONTEXT_HEADER] = outcome.context
    return Rendered(204, headers)


def _absent(outcome: Outcome, headers: dict[str, str]) -> web.Response:
    members = {}
    if outcome.context:
        if len(outcome.context) > CONTEXT_HEADER_BYTES_MAX:
            headers[IN_BODY_HEADER] = "body"
            members["context"] = outcome.context
        else:
            headers[CONTEXT_HEADER] = outcome.context
    return problems.response(
        ProblemError(404, "not-found", "Not found", "the key has no value", **members), headers
    )


def _problem(outcome: Outcome) -> ProblemError:
    kind, detail = outcome.kind, outcome.detail
    if kind == Kind.BAD_REQUEST:
        return bad_request(detail)
    if kind == Kind.TOO_LARGE:
        return too_large(detail)
    if kind == Kind.TOO_MANY_SIBLINGS:
        return ProblemError(409, "too-many-siblings", "Too many siblings, read first", detail)
    if kind == Kind.OVERLOADED:
        return problems.overloaded(detail)
    name, title = "unavailable", "Too few replicas answered in time"
    if kind == Kind.NOT_YET:
        name, title = "not-yet", "No replica has what the context has seen"
    return ProblemError(503, name, title, detail, needed=outcome.needed, got=outcome.got)


def _sibling_json(sibling: Sibling) -> dict[str, str]:
    return {
        "value": b64encode(sibling.value or b"").decode(),
        "content_type": sibling.content_type or DEFAULT_TYPE,
        "dot": dot_text(sibling.dot),
        "written_at": written_at(sibling.written_ms),
    }


def written_at(written_ms: int) -> str:
    """Wall time in ISO 8601, UTC, milliseconds."""
    import datetime  # only admin and siblings show times

    moment = datetime.datetime.fromtimestamp(written_ms / 1000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _multipart(siblings: tuple[Sibling, ...], boundary: str) -> bytes:
    parts = []
    for sibling in siblings:
        modified = formatdate(sibling.written_ms / 1000, usegmt=True)
        head = (
            f"--{boundary}\r\n"
            f"Content-Type: {sibling.content_type or DEFAULT_TYPE}\r\n"
            f"X-Dynamo-Dot: {dot_text(sibling.dot)}\r\n"
            f"Last-Modified: {modified}\r\n\r\n"
        )
        parts.append(head.encode() + (sibling.value or b"") + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts)
