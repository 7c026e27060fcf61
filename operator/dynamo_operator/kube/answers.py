"""What an answer of the API server means.

Owns the translation of status codes and Status objects into `errors`. Forbidden:
requests, and anything but what is in the answer.
"""

from __future__ import annotations

import json
from typing import Any, Final

from dynamo_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NamespaceEnding,
    NotFound,
    TooManyRequests,
    Unreachable,
)

TEXT_MAX: Final = 500  # characters of the server's own words that are passed on
CAUSES_MAX: Final = 10

CREDENTIALS, FORBIDDEN, MISSING, CONFLICT = 401, 403, 404, 409
INVALID, TOO_MANY, TROUBLE = 422, 429, 500
_ENDING: Final = "NamespaceTerminating"  # the cause in a creation's 403
_BUDGET: Final = "DisruptionBudget"  # the cause in an eviction's 429


def parsed(body: bytes, asked: str) -> dict[str, Any]:
    """The object in an answer that succeeded. Raises Unreachable if there is none."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Unreachable(f"{asked}: the answer is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Unreachable(f"{asked}: the answer is not an object")
    return value


def error_of(code: int, body: bytes, asked: str, *, tested: bool = False) -> KubeError:
    """The error in an answer that didn't succeed.

    `asked` says what was asked for ("patch Pod shop/cart-0"); `tested` that it was a
    JSON patch with a test, whose failure comes as a 422 without causes.
    """
    status = _status(body)
    details = status.get("details") or {}
    causes = _causes(details)
    said = str(status.get("message") or body[:TEXT_MAX].decode(errors="replace").strip())[:TEXT_MAX]
    detail = f"{asked}: {said or 'no reason given'} (HTTP {code})"
    if code == MISSING:
        return NotFound(detail, kind_unknown=not details.get("name"))
    if code == CONFLICT:
        exists = status.get("reason") == "AlreadyExists"
        return (AlreadyExists if exists else Conflict)(detail)
    if code in (CREDENTIALS, FORBIDDEN):
        ending = any(reason == _ENDING for reason, _, _ in causes)
        return (NamespaceEnding if ending else Forbidden)(f"not allowed to {detail}")
    if code == TOO_MANY and any(reason == _BUDGET for reason, _, _ in causes):
        reason = "; ".join(message for reason, _, message in causes if reason == _BUDGET)
        return TooManyRequests(f"{detail}: {reason}", reason)
    if code == INVALID and tested and not causes:
        return Conflict(f"{asked}: what the patch tests is not so any more (HTTP {code})")
    if code >= TROUBLE or code == TOO_MANY:
        return Unreachable(detail)
    return Invalid(detail, tuple((field, message) for _, field, message in causes))


def _status(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("kind") == "Status" else {}


def _causes(details: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(reason, field, message) each."""
    return [
        (str(cause.get("reason", "")), str(cause.get("field", "")), str(cause.get("message", "")))
        for cause in (details.get("causes") or [])[:CAUSES_MAX]
    ]
