"""The one door to the nodes' HTTP interface.

Owns paths, headers and bodies of the contract's HTTP, and the translation of
aiohttp's errors into ours. Forbidden here: retries and the choice of node.
"""

import json
import os
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from dynamo_client.errors import BadRequest, UnexpectedAnswer, Unreachable, from_problem
from dynamo_client.items import OCTET_STREAM, Acks, DeleteResult, Item, PutResult, Sibling
from dynamo_client.spans import outgoing
from dynamo_client.transport import DeleteCall, GetCall, PutCall

CONTEXT = "X-Dynamo-Context"
ACKS = "X-Dynamo-Acks"
WRITE_ID = "X-Dynamo-Write-Id"
PUT_JSON = "application/vnd.dynamo.put+json"
# A longer context doesn't fit where servers and proxies still take headers.
CONTEXT_HEADER_BYTES_MAX = 6 * 1024
# The node answers this much before our own patience ends, so that its words win.
_MARGIN_MS = 100
_CONNECT_MS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    node: str

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} if it is none."""
        if not self.media_type.endswith("json"):
            return {}
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def context(self) -> str | None:
        return self.headers.get(CONTEXT) or None

    @property
    def acks(self) -> Acks:
        return Acks.parse(self.headers.get(ACKS))

    def error(self) -> Exception:
        """What this answer means when it isn't the one that was hoped for."""
        problem = self.json()
        if self.status < 400 or not problem:
            return self.unexpected("this doesn't look like a Dynamo node")
        return from_problem(
            self.status, problem, node=self.node, retry_after=self.headers.get("Retry-After")
        )

    def unexpected(self, why: str) -> UnexpectedAnswer:
        start = self.body[:80].decode("utf-8", "replace").strip()
        return UnexpectedAnswer(
            f"{self.node} answered {self.status} {self.media_type or 'without a type'}"
            f"{f' ({start!r})' if start else ''}: {why}",
            status=self.status,
            node=self.node,
            maybe_done=True,
        )


class HttpTransport:
    """`Transport` over pooled HTTP/1.1 connections; made inside a running event loop."""

    def __init__(self, *, connections_max: int = 256) -> None:
        self.on_new_ring: Callable[[], None] = lambda: None  # answers over HTTP name no ring
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections_max, ttl_dns_cache=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, node: str, call: GetCall, timeout_ms: int) -> Item:
        headers = {"Accept": "application/json"}
        if call.context is not None:
            if len(call.context) > CONTEXT_HEADER_BYTES_MAX:
                raise BadRequest(
                    f"a floor of {len(call.context)} bytes doesn't fit into an HTTP header; "
                    "the native protocol takes it, or leave it out",
                    node=node,
                )
            headers[CONTEXT] = call.context
        url = _kv_url(node, call.key, timeout_ms, r=call.r)
        answer = await self._send("GET", url, node, headers, None, timeout_ms)
        if answer.status == 200:
            if answer.context is None and answer.acks == Acks():
                raise answer.unexpected("this doesn't look like a Dynamo node")
            content_type = answer.headers.get("Content-Type", OCTET_STREAM)
            return Item(
                call.key, (Sibling(answer.body, content_type),), answer.context, answer.acks
            )
        if answer.status == 300:
            document = answer.json()
            return Item(call.key, _siblings(answer, document), _context(answer), answer.acks)
        if answer.status == 404 and _absent(answer):
            return Item(call.key, (), _context(answer), answer.acks)
        raise answer.error()

    async def put(self, node: str, call: PutCall, timeout_ms: int) -> PutResult:
        headers = {WRITE_ID: call.write_id, "Content-Type": call.content_type}
        body = call.value
        if _needs_envelope(call):
            headers["Content-Type"] = PUT_JSON
            envelope = {
                "value": b64encode(call.value).decode(),
                "content_type": call.content_type,
            }
            if call.context is not None:
                envelope["context"] = call.context
            body = json.dumps(envelope).encode()
        elif call.context is not None:
            headers[CONTEXT] = call.context
        url = _kv_url(node, call.key, timeout_ms, w=call.w)
        answer = await self._send("PUT", url, node, headers, body, timeout_ms)
        if answer.status in (200, 201, 204):
            return PutResult(_context(answer), answer.acks)
        raise answer.error()

    async def delete(self, node: str, call: DeleteCall, timeout_ms: int) -> DeleteResult:
        headers = {WRITE_ID: call.write_id}
        body = None
        if len(call.context or "") > CONTEXT_HEADER_BYTES_MAX:
            headers["Content-Type"] = PUT_JSON
            body = json.dumps({"context": call.context}).encode()
        elif call.context is not None:
            headers[CONTEXT] = call.context
        url = _kv_url(node, call.key, timeout_ms, r=call.r, w=call.w)
        answer = await self._send("DELETE", url, node, headers, body, timeout_ms)
        if answer.status in (200, 204):
            return DeleteResult(True, _context(answer), answer.acks)
        if answer.status == 404 and _absent(answer):
            return DeleteResult(False, _context(answer), answer.acks)
        raise answer.error()

    def owners(self, key: bytes, *, reads: bool) -> Sequence[str]:
        return ()  # any node takes a request over HTTP and finds the owners itself

    async def cluster(self, node: str, timeout_ms: int) -> dict[str, Any]:
        return await self.json(f"{node}/cluster", timeout_ms)

    async def ready(self, node: str, timeout_ms: int) -> bool:
        try:
            url = URL(f"{node}/readyz")
            return (await self._send("GET", url, node, {}, None, timeout_ms)).status == 200
        except Unreachable:
            return False

    async def json(self, url: str, timeout_ms: int, token: str = "") -> dict[str, Any]:
        """A JSON object from any of a node's ports; `token` is the admin port's."""
        headers = {"Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        parsed = URL(url, encoded=True)
        answer = await self._send("GET", parsed, str(parsed.origin()), headers, None, timeout_ms)
        if answer.status != 200:
            raise answer.error()
        found = answer.json()
        if not found:
            raise answer.unexpected("a JSON object was expected")
        return found

    async def _send(
        self,
        method: str,
        url: URL,
        node: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_ms: int,
    ) -> _Answer:
        if (trace := outgoing()) is not None:
            headers = {**headers, "traceparent": trace.traceparent()}
        started = time.monotonic()
        timeout = aiohttp.ClientTimeout(
            total=timeout_ms / 1000, sock_connect=min(timeout_ms, _CONNECT_MS_MAX) / 1000
        )
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, timeout=timeout, allow_redirects=False
            ) as response:
                return _Answer(response.status, response.headers, await response.read(), node)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(
                f"{node}: {_reason(error)}", node=node, kind="no-connection"
            ) from error
        except TimeoutError as error:
            waited_ms = (time.monotonic() - started) * 1000
            raise Unreachable(
                f"{node}: no answer within {waited_ms:.0f} ms",
                node=node,
                kind="timeout",
                maybe_done=method in ("PUT", "DELETE"),
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(
                f"{node}: {_reason(error)}",
                node=node,
                kind="broken",
                maybe_done=method in ("PUT", "DELETE"),
            ) from error
        except ValueError as error:
            # A header that HTTP can't carry (line breaks in a context, say).
            raise BadRequest(f"the request can't be sent: {error}", node=node) from error


def _kv_url(
    node: str, key: bytes, timeout_ms: int, r: int | None = None, w: int | None = None
) -> URL:
    # Dots alone would be taken as a path's "here" and "up", by us or by a proxy.
    path = key.replace(b".", b"%2E").decode() if not key.strip(b".") else quote(key, safe="")
    query = f"timeout_ms={max(1, timeout_ms - _MARGIN_MS)}"
    if r is not None:
        query += f"&r={r}"
    if w is not None:
        query += f"&w={w}"
    return URL(f"{node}/kv/{path}?{query}", encoded=True)


def _needs_envelope(call: PutCall) -> bool:
    # A value that is itself of the envelope's type would be unpacked by the node.
    is_envelope = call.content_type.partition(";")[0].strip().lower() == PUT_JSON
    return is_envelope or len(call.context or "") > CONTEXT_HEADER_BYTES_MAX


def _context(answer: _Answer) -> str | None:
    if answer.context is not None:
        return answer.context
    found = answer.json().get("context")
    return found if isinstance(found, str) and found else None


def _absent(answer: _Answer) -> bool:
    # A web server that isn't ours says 404 too, and "absent" must not be guessed.
    return answer.media_type == "application/problem+json" or answer.context is not None


def _siblings(answer: _Answer, document: Mapping[str, Any]) -> tuple[Sibling, ...]:
    try:
        return tuple(
            Sibling(
                b64decode(entry["value"], validate=True),
                str(entry.get("content_type") or OCTET_STREAM),
                _text(entry.get("dot")),
                _text(entry.get("written_at")),
            )
            for entry in document["siblings"]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise answer.unexpected(f"its list of siblings can't be read ({error!r})") from error


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name isn't known"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number).lower() if number else str(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed without an answer"
    return str(error) or type(error).__name__
