"""Problems: every error that leaves over HTTP, as application/problem+json (RFC 9457).

Owns the types of problems and their form, so that client and admin doors say
the same thing in the same way.
"""

import json
from typing import Any, Final

from aiohttp import web

PROBLEM_TYPE: Final = "application/problem+json"
_BASE: Final = "urn:dynamo:problem:"
RETRY_AFTER_S: Final = "1"


class ProblemError(Exception):
    """Raised inside a handler to end the request with a problem."""

    def __init__(self, status: int, kind: str, title: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.members = members


def bad_request(detail: str) -> ProblemError:
    return ProblemError(400, "bad-request", "The request is not one this store can take", detail)


def too_large(detail: str) -> ProblemError:
    return ProblemError(413, "too-large", "Value or key too large", detail)


def not_found(detail: str) -> ProblemError:
    return ProblemError(404, "not-found", "Not found", detail)


def method_not_allowed(method: str, allowed: str) -> ProblemError:
    return ProblemError(
        405,
        "method-not-allowed",
        "Method not allowed",
        f"{method} is not possible here; use one of {allowed}",
    )


def overloaded(detail: str) -> ProblemError:
    return ProblemError(503, "overloaded", "This node can't take the request now", detail)


def response(problem: ProblemError, headers: dict[str, str] | None = None) -> web.Response:
    """The response for a problem; 503s of an overloaded node say when to come back."""
    body = {
        "type": _BASE + problem.kind,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    out = dict(headers or {})
    if problem.kind == "overloaded":
        out["Retry-After"] = RETRY_AFTER_S
    if problem.status == 405:
        out["Allow"] = problem.detail.rpartition("one of ")[2]
    return web.Response(
        status=problem.status,
        body=json.dumps(body).encode(),
        content_type=PROBLEM_TYPE,
        headers=out,
    )


def json_response(value: object, status: int = 200) -> web.Response:
    """A JSON answer; bytes that aren't text must have been encoded before."""
    return web.Response(
        status=status, body=json.dumps(value).encode() + b"\n", content_type="application/json"
    )
