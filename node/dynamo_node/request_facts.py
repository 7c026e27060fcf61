"""Request facts: what the span of a request says of it when it is answered.

Owns the attributes, by OpenTelemetry's semantic conventions where there are some and as
`dynamo.*` else (docs/tracing.md has them all). Forbidden here: keys, values and contexts.
"""

from typing import Any, Final

from dynamo_core.outcomes import Kind, Outcome
from dynamo_core.wire import Op, Operation
from dynamo_node.config import Config

FAILED: Final = (Kind.UNAVAILABLE, Kind.NOT_YET, Kind.OVERLOADED)
"""How a request ends that isn't its caller's fault."""
_METHODS: Final = {Op.GET: "GET", Op.PUT: "PUT", Op.DELETE: "DELETE"}
_STATUS: Final = {
    Kind.WRITTEN: 204,
    Kind.VALUES: 200,
    Kind.ABSENT: 404,
    Kind.BAD_REQUEST: 400,
    Kind.TOO_LARGE: 413,
    Kind.TOO_MANY_SIBLINGS: 409,
}


def request_facts(
    config: Config, operation: Operation, outcome: Outcome, native: bool
) -> dict[str, Any]:
    """Of a request that came natively, from a client or a node, or else by HTTP."""
    op, kind = operation.op, outcome.kind
    facts: dict[str, Any] = {
        "db.system.name": "dynamo",
        "db.operation.name": op.name.lower(),
        "db.namespace": config.cluster_name,
        "server.address": config.host,
        "server.port": config.native_port if native else config.http_port,
        "network.protocol.name": "dynamo" if native else "http",
        "dynamo.node": config.name,
        "dynamo.outcome": kind.name.lower(),
        "dynamo.acks.primary": outcome.primary,
        "dynamo.acks.standin": outcome.standin,
        "dynamo.context": bool(operation.context),
    }
    if op == Op.GET:
        facts["dynamo.siblings"] = len(outcome.siblings)
    elif op == Op.PUT:
        facts["dynamo.value.bytes"] = len(operation.value)
    if not native:
        status = 300 if len(outcome.siblings) > 1 else _STATUS.get(kind, 503)
        facts |= {
            "http.request.method": _METHODS[op],
            "http.response.status_code": status,
            "url.path": "/kv/{key}",
        }
    if kind in FAILED:
        facts["error.type"] = kind.name.lower()
    return facts
