"""Rendered: a response whose head is put together at once and written in one go.

Owns the few lines that the answers of `/kv` need: status, the store's own
headers, Date, Content-Length and Connection. aiohttp asks a response to
`prepare` and to `write_eof`; its general ones go through a header map, hooks
and a writer, which together cost more than a read of the store.
"""

import time
from email.utils import formatdate
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

_REASONS: Final = {200: "OK", 204: "No Content", 300: "Multiple Choices"}


_NOBODYS_PAGE: Final = "Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"
"""Whoever may write a value chooses its type. A browser that shows one runs nothing of it, least
of all with the rights of the console's page, which has the same origin."""


class Rendered(web.StreamResponse):
    """`headers` are name and value pairs without control characters; `body` may be empty."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        # The base class would build what this one exists to avoid; of its state
        # only this is looked at (by its `keep_alive` and `force_close`).
        self._keep_alive: bool | None = None
        self._status_code = status
        self._fields = headers
        self._bytes = body

    @property
    def status(self) -> int:
        return self._status_code

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write everything; raises ConnectionResetError when the client has gone."""
        keep_alive = self._keep_alive
        if keep_alive is None:
            self._keep_alive = keep_alive = request.keep_alive
        status = self._status_code
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nDate: {_date()}\r\n"
        for name, value in self._fields.items():
            head += f"{name}: {value}\r\n"
        if status != 204:
            head += f"Content-Length: {len(self._bytes)}\r\n{_NOBODYS_PAGE}"
        if request.version != HttpVersion11:
            if keep_alive:
                head += "Connection: keep-alive\r\n"
        elif not keep_alive:
            head += "Connection: close\r\n"
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        data = head.encode("latin-1") + b"\r\n"
        transport.write(data if request.method == "HEAD" else data + self._bytes)
        # A client that doesn't read its answers gets no further ones made.
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


_date_at = 0
_date_text = ""


def _date() -> str:
    """The present second as an HTTP date, formatted once."""
    global _date_at, _date_text
    now = int(time.time())
    if now != _date_at:
        _date_at, _date_text = now, formatdate(now, usegmt=True)
    return _date_text
