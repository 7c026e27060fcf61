"""Endpoints: where spans are sent, by which protocol.

Owns the reading of an endpoint's URL and of the environment variables that OpenTelemetry
names for it. Errors say what the URL holds and what would be right.

| endpoint | spans go by |
|---|---|
| `""` | nothing: tracing is off |
| `grpc://host:port`, `grpcs://host:port` | OTLP over gRPC, with TLS for `grpcs` |
| `http://host:4317`, `https://host:4317` | OTLP over gRPC, with TLS for `https` |
| `http://host:4318`, `https://host:4318` | OTLP over HTTP, at `/v1/traces` |
| `http://host[:port]/.../v1/traces`, or `https` | OTLP over HTTP, at that very URL |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from dynamo_core.errors import CallerError

GRPC_PORT: Final = 4317
HTTP_PORT: Final = 4318
TRACES_PATH: Final = "/v1/traces"
RATIO_DEFAULT: Final = 0.01
URL_MAX: Final = 2048

_RIGHT: Final = (
    "give http://HOST:4317 or grpc://HOST:PORT for OTLP over gRPC, http://HOST:4318 or "
    "http://HOST:PORT/v1/traces for OTLP over HTTP (https and grpcs for TLS)"
)


@dataclass(frozen=True, slots=True)
class Tracing:
    """What may be said about tracing: where to ("" is off), and the share of requests, 0..1."""

    endpoint: str = ""
    sample_ratio: float = RATIO_DEFAULT


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that was understood. `url` is what the exporter of that protocol takes."""

    grpc: bool
    url: str
    secure: bool


def target(endpoint: str) -> Target:
    """How to reach an endpoint that isn't empty; raises CallerError with what is wrong."""
    if len(endpoint) > URL_MAX or not endpoint.isascii() or not endpoint.isprintable():
        raise _wrong(endpoint, "is no URL")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(endpoint, f"is no URL ({error})") from error
    if parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise _wrong(endpoint, f"has the scheme {parts.scheme!r}")
    if not host or " " in endpoint:
        raise _wrong(endpoint, "names no host")
    if port == 0:
        raise _wrong(endpoint, "has the port 0")
    if parts.username is not None or parts.password is not None:
        raise _wrong("(hidden)", "holds a user or a password, which would stand in logs")
    if parts.query or parts.fragment:
        raise _wrong(endpoint, "has a query or a fragment")
    secure = parts.scheme in ("https", "grpcs")
    path = parts.path.rstrip("/")
    if parts.scheme.startswith("grpc") or (not path and port == GRPC_PORT):
        if path:
            raise _wrong(endpoint, "has a path, which OTLP over gRPC has none of")
        at = f"[{host}]" if ":" in host else host
        scheme = "https" if secure else "http"
        return Target(True, f"{scheme}://{at}:{port or GRPC_PORT}", secure)
    if path.endswith(TRACES_PATH):
        return Target(False, endpoint.rstrip("/"), secure)
    if not path and port == HTTP_PORT:
        return Target(False, endpoint.rstrip("/") + TRACES_PATH, secure)
    raise _wrong(endpoint, "doesn't show by port or path which protocol is spoken there")


def trouble(endpoint: str) -> str:
    """What is wrong with an endpoint, "" for nothing; for checks that gather mistakes."""
    if not endpoint:
        return ""
    try:
        target(endpoint)
    except CallerError as error:
        return str(error)
    return ""


def from_environment(environment: Mapping[str, str]) -> Tracing:
    """What OpenTelemetry's variables ask for; off where they name no endpoint.

    Read are OTEL_SDK_DISABLED, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (as it stands),
    OTEL_EXPORTER_OTLP_ENDPOINT (a base, to which HTTP adds its path),
    OTEL_EXPORTER_OTLP_[TRACES_]PROTOCOL (grpc or http/protobuf; without it port and path
    decide) and OTEL_TRACES_SAMPLER_ARG (the share; all, where it isn't said: whoever sets
    these for one command wants to see it). Raises CallerError.
    """

    def said(name: str) -> str:
        found = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
        return found or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    endpoint, protocol = said("ENDPOINT"), said("PROTOCOL")
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or not endpoint:
        return Tracing()
    if protocol == "grpc":
        endpoint = endpoint.replace("http", "grpc", 1).rstrip("/")
    elif protocol == "http/protobuf":
        if not endpoint.rstrip("/").endswith(TRACES_PATH):
            endpoint = endpoint.rstrip("/") + TRACES_PATH
    elif protocol:
        raise CallerError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol}; grpc and http/protobuf are known"
        )
    target(endpoint)
    text = environment.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise CallerError(f"OTEL_TRACES_SAMPLER_ARG: {text[:40]!r}; a number in 0..1 is needed")
    return Tracing(endpoint, ratio)


def _wrong(endpoint: str, what: str) -> CallerError:
    return CallerError(f"the tracing endpoint {endpoint[:200]!r} {what}; {_RIGHT}")
