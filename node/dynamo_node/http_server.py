"""HTTP server: the client's port 8080 (contract, sections 2 and 3).

Owns routing, and the promise that whatever a client sends ends in a clear
answer: aiohttp's own error pages are replaced by problems, and an error that
nobody foresaw becomes a 503 and a line in the log. `/kv` goes through
aiohttp's low-level server, because a router costs more than a read.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from dynamo_core.errors import DynamoError
from dynamo_node import problems
from dynamo_node.cluster_view import cluster_view
from dynamo_node.console import PATH as CONSOLE
from dynamo_node.console import Console
from dynamo_node.kv import PREFIX, KeyValue
from dynamo_node.logs import on_behalf_of
from dynamo_node.metrics import Connections, NodeMetrics
from dynamo_node.problems import ProblemError
from dynamo_telemetry.contexts import header_bytes

if TYPE_CHECKING:
    from dynamo_node.node import Node

log = logging.getLogger(__name__)

LINE_BYTES_MAX: Final = 16 << 10
FIELD_BYTES_MAX: Final = 8190
READ_BYTES: Final = 1 << 18
KEEPALIVE_S: Final = 75.0

_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?]*", re.IGNORECASE)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Protocol(RequestHandler):  # type: ignore[type-arg,misc,unused-ignore]
    """aiohttp's connection, with problems in place of its error pages."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            # The client left in the middle of its request; nobody reads an answer.
            problem = problems.bad_request("the request ended before its body did")
        elif isinstance(exc, LineTooLong) or (message and "too long" in message.lower()):
            problem = problems.too_large(
                "the request line or a header is too long; a key has 1..1024 bytes, and a "
                "context over 6 KiB travels in the body"
            )
        elif 400 <= status < 500:
            problem = problems.bad_request(
                f"this is not HTTP/1.1 as it can be read here: {(message or str(exc))[:200]}"
            )
        else:
            log.error("a request failed unforeseen: %r", exc, exc_info=exc)
            problem = problems.overloaded("the request failed; it may or may not be carried out")
        response = problems.response(problem)
        response.force_close()
        return response


class _Server(web.Server):
    """web.Server that makes `_Protocol`s."""

    def __call__(self) -> RequestHandler:  # type: ignore[type-arg,unused-ignore]
        return _Protocol(self, loop=self._loop, **self._kwargs)


def make_server(handler: Handler) -> web.Server:  # type: ignore[type-arg,unused-ignore]
    """A low-level server whose handler may raise ProblemError."""
    return _Server(
        handler,
        access_log=None,
        auto_decompress=False,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=FIELD_BYTES_MAX,
        read_bufsize=READ_BYTES,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=2.0,
    )


def guarded(handler: Callable[..., Awaitable[web.StreamResponse]]) -> Callable[..., Any]:
    """Turn what a handler raises into an answer."""

    async def answer(*arguments: Any) -> web.StreamResponse:
        try:
            return await handler(*arguments)
        except ProblemError as problem:
            response = problems.response(problem)
            if problem.status in (408, 413):
                response.force_close()  # the rest of the body isn't read
            return response
        except (asyncio.CancelledError, ConnectionError):
            raise
        except DynamoError as error:
            log.error("a request failed: %s", error, extra=_trace_of(arguments))
            return problems.response(
                problems.overloaded(f"this node's store does not answer: {error}")
            )
        except Exception as error:
            extra = _trace_of(arguments)
            log.error("a request failed unforeseen: %r", error, exc_info=error, extra=extra)
            return problems.response(
                problems.overloaded("the request failed; it may or may not be carried out")
            )

    return answer


def _trace_of(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What names the trace of the request that is among them, for the log."""
    said = (a.headers.get("traceparent", "") for a in arguments if isinstance(a, web.BaseRequest))
    return on_behalf_of(header_bytes(next(said, "")))


class ClientDoor:
    """Everything on port 8080."""

    def __init__(self, node: "Node", connections: Callable[[], Connections]) -> None:
        self._node = node
        self._kv = KeyValue(node)
        self._console = Console(node)
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/metrics": NodeMetrics(node, connections).response,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/cluster": self._cluster,
            "/": self._index,
        }
        self._guarded: Handler = guarded(self._handle)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request; it never raises for what a client sent."""
        response = await self._guarded(request)
        if self._node.stopping:
            response.force_close()  # clients move on to another node
        return response

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request._message.path
        if not path.startswith("/"):
            path = _origin_form(path)
        if path.startswith(PREFIX):
            return await self._kv.handle(request, path)
        plain = path.partition("?")[0]
        if plain == CONSOLE or plain.startswith(CONSOLE + "/"):
            return await self._console.handle(request, path)
        page = self._pages.get(plain)
        if page is None:
            raise problems.not_found(
                f"there is nothing at {path[:80]!r}; there are /kv/{{key}}, "
                f"{', '.join(sorted((CONSOLE, *self._pages)))}"
            )
        if request.method not in ("GET", "HEAD"):
            raise problems.method_not_allowed(request.method, "GET, HEAD")
        return await page(request)

    async def _healthz(self, request: web.BaseRequest) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        node = self._node
        if node.ready:
            return web.Response(text="ready\n")
        if node.stopping:
            why = "this node is shutting down"
        elif node.topology.ring is None:
            why = "this node has no ring yet"
        else:
            why = "this node is still taking up its incarnation"
        raise problems.overloaded(why)

    async def _cluster(self, request: web.BaseRequest) -> web.Response:
        await self._node.transfers.refresh()
        return problems.json_response(cluster_view(self._node))

    async def _index(self, request: web.BaseRequest) -> web.Response:
        name = self._node.config.name
        return web.Response(
            text=f"{name}: an always-writable key-value store\n\n"
            "  GET|HEAD|PUT|DELETE /kv/{key}\n  GET /cluster\n  GET /ui (the console)\n"
            "  GET /readyz\n  GET /healthz\n  GET /metrics\n"
        )


def _origin_form(target: str) -> str:
    """Path and query of a target with scheme and authority, as proxies send it (RFC 9112, 3.2.2).

    Whatever has neither is left as it is.
    """
    found = _ABSOLUTE_FORM.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}"
