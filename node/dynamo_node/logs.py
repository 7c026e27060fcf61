"""Logs: one line that matters per event, as text for people or JSON for tools.

What is written on behalf of a traced request names its trace (`on_behalf_of`). No line
carries a value, a context token or a secret.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from dynamo_telemetry.contexts import SpanContext

_TRACE = "trace_id"


def on_behalf_of(trace: bytes) -> dict[str, Any]:
    """logging's `extra` for a line about a request that came with, or has, this context."""
    context = SpanContext.from_bytes(trace)
    return {} if context is None else {_TRACE: context.trace_hex}


class _Json(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name.removeprefix("dynamo_node."),
            "message": record.getMessage(),
        }
        if (trace := getattr(record, _TRACE, None)) is not None:
            line[_TRACE] = trace
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Text(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_at(record)} {record.levelname.lower():<8} {self._node} {record.getMessage()}"
        if (trace := getattr(record, _TRACE, None)) is not None:
            line += f" trace={trace}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _at(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def set_up(style: str, level: str, node: str) -> None:
    """All logging of this process goes to stderr in one style."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(node) if style == "json" else _Text(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
