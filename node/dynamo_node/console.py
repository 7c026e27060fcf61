"""Console: the page at `/ui`, and the JSON that it lives on (docs/console.md).

Owns the page's files with what browsers are told of them (nothing comes from elsewhere,
nothing inline runs), and its questions. All of it only reads; the page writes by `/kv`
like any client. A question of a client is answered as `/kv` and `/cluster` would answer
it: nothing here opens the admin port.
"""

import asyncio
import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Awaitable, Callable
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from dynamo_core.ring import Ring
from dynamo_node import console_view, problems
from dynamo_node.coordinator import KEY_BYTES_MAX
from dynamo_node.inspector import VALUE_BYTES_MAX
from dynamo_node.problems import bad_request, too_large

if TYPE_CHECKING:
    from dynamo_node.node import Node

PATH: Final = "/ui"
FILES: Final = Path(__file__).parent / "ui"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
LOOKS_MAX: Final = 16
"""Keys that are looked at together: each answer may hold some megabytes for a second."""
STATE_FRESH_S: Final = 0.5
"""However many pages are open, the state is put together no more often."""
VALUE_BYTES: Final = 16 << 10
"""Of each value in an inspection, unless `bytes` asks for more."""

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Console:
    """Everything below `/ui`."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._files = _files()
        self._told = (0.0, b"")
        self._looks = 0
        self._questions: dict[str, Callable[[web.BaseRequest, str], Awaitable[web.Response]]] = {
            "state": self._state,
            "ring": self._ring,
            "partition": self._partition,
            "key": self._key,
        }

    async def handle(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a request whose raw path is `/ui` or below it; raises ProblemError."""
        if request.method not in ("GET", "HEAD"):
            raise problems.method_not_allowed(request.method, "GET, HEAD")
        path, _, query = path.partition("?")
        name = path.removeprefix(PATH).removeprefix("/")
        if path == f"{PATH}/":
            # Its parts are named relative to /ui, so that a proxy may put a prefix before it.
            return web.Response(status=308, headers={"Location": "../ui"})
        question = self._questions.get(name)
        if question is not None:
            return await question(request, query)
        found = self._files.get(name or "index.html")
        if found is None:
            raise problems.not_found(
                f"there is nothing at {path[:80]!r}; there are /ui and below it "
                f"{', '.join(sorted({*self._questions, *self._files}))}"
            )
        body, kind, tag = found
        return _tagged(request, body, kind, tag)

    async def _state(self, request: web.BaseRequest, query: str) -> web.Response:
        _fields(query, ())
        await asyncio.gather(self._node.transfers.refresh(), self._node.figures.refresh())
        now = asyncio.get_running_loop().time()
        if not self._told[1] or now - self._told[0] > STATE_FRESH_S:
            self._told = now, json.dumps(console_view.state(self._node)).encode()
        return _json(self._told[1])

    async def _ring(self, request: web.BaseRequest, query: str) -> web.Response:
        _fields(query, ())
        ring = self._held()
        return _tagged(request, _ring_bytes(ring), "application/json", f'"{ring.id}"')

    async def _partition(self, request: web.BaseRequest, query: str) -> web.Response:
        ring = self._held()
        text = _fields(query, ("number",)).get("number", "")
        number = _whole("number", text, 0, ring.partitions - 1)
        found = console_view.partition_view(self._node, ring, number)
        return _json(json.dumps(found).encode())

    async def _key(self, request: web.BaseRequest, query: str) -> web.Response:
        self._held()
        fields = _fields(query, ("key", "key_hex", "key_base64", "bytes"))
        value_bytes = _whole("bytes", fields.pop("bytes", str(VALUE_BYTES)), 0, VALUE_BYTES_MAX)
        if len(fields) != 1:
            raise bad_request("name one key, as one of key (percent-encoded), key_hex, key_base64")
        [(form, text)] = fields.items()
        key = _key(form, text)
        if self._looks >= LOOKS_MAX:
            raise problems.overloaded(f"{LOOKS_MAX} keys are being looked at already")
        self._looks += 1
        try:
            found = await self._node.inspector.look(key, value_bytes)
        finally:
            self._looks -= 1
        return _json(json.dumps(found).encode())

    def _held(self) -> Ring:
        ring = self._node.topology.ring
        if ring is None:
            raise problems.overloaded("this node has no ring yet")
        return ring


@lru_cache(maxsize=1)
def _files() -> dict[str, tuple[bytes, str, str]]:
    """(bytes, media type, entity tag) by name; read once, at the first node's start."""
    found = {}
    for path in sorted(FILES.iterdir()):
        if path.suffix in TYPES:
            body = path.read_bytes()
            tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
            found[path.name] = body, TYPES[path.suffix], tag
    return found


@lru_cache(maxsize=1)
def _ring_bytes(ring: Ring) -> bytes:
    return json.dumps(console_view.ring_view(ring), separators=(",", ":")).encode()


def _tagged(request: web.BaseRequest, body: bytes, kind: str, tag: str) -> web.Response:
    """The body, or 304 for who has it."""
    headers = {**HEADERS, "ETag": tag}
    known = request.headers.get("If-None-Match", "")
    if known.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, "Content-Type": kind})


def _json(body: bytes) -> web.Response:
    headers = {**HEADERS, "Cache-Control": "no-store", "Content-Type": "application/json"}
    return web.Response(body=body, headers=headers)


def _fields(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """The query's parameters, still percent-encoded: keys are bytes, not text."""
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, text = part.partition("=")
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there is none"
            raise bad_request(f"query parameter {name[:40]!r} is not known; {there}")
        if name in found:
            raise bad_request(f"query parameter {name!r} is given twice")
        found[name] = text
    return found


def _whole(name: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise bad_request(f"{name} is {text[:40]!r}; a whole number in {low}..{high} is needed")


def _key(form: str, text: str) -> bytes:
    """The bytes of a key that is written in one of the forms; raises ProblemError."""
    if _BROKEN_ESCAPE.search(text):
        raise bad_request(f"{form} holds a '%' without two hex digits; write '%' as %25")
    key = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    if form == "key_hex":
        digits = key.decode("latin-1")
        try:
            key = bytes.fromhex(digits)
        except ValueError as error:
            raise bad_request(
                f"key_hex is {digits[:40]!r}; pairs of hex digits are needed"
            ) from error
    elif form == "key_base64":
        try:
            key = b64decode(key, validate=True)
        except (Base64Error, ValueError) as error:
            raise bad_request(f"key_base64 is not base64: {error}") from error
    if not key:
        raise bad_request("the key is empty; a key has 1..1024 bytes")
    if len(key) > KEY_BYTES_MAX:
        raise too_large(f"the key has {len(key)} bytes; the limit is {KEY_BYTES_MAX}")
    return key
