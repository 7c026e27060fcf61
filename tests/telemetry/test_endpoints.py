"""Endpoints of spans: which protocol an URL asks for, and what is said of a bad one."""

import pytest

from dynamo_core.errors import CallerError
from dynamo_telemetry.endpoints import Target, Tracing, from_environment, target, trouble

GOOD = {
    "http://jaeger:4317": Target(True, "http://jaeger:4317", False),
    "https://jaeger:4317/": Target(True, "https://jaeger:4317", True),
    "grpc://jaeger": Target(True, "http://jaeger:4317", False),
    "grpc://jaeger:5555": Target(True, "http://jaeger:5555", False),
    "grpcs://[::1]:5555": Target(True, "https://[::1]:5555", True),
    "http://jaeger:4318": Target(False, "http://jaeger:4318/v1/traces", False),
    "http://jaeger:4318/": Target(False, "http://jaeger:4318/v1/traces", False),
    "https://o.example/otlp/v1/traces": Target(False, "https://o.example/otlp/v1/traces", True),
    "http://jaeger:4317/v1/traces": Target(False, "http://jaeger:4317/v1/traces", False),
}
BAD = {
    "jaeger:4317": "scheme",
    "ftp://jaeger:4317": "scheme",
    "http://": "no host",
    "http://jaeger": "by port or path",
    "http://jaeger:9999": "by port or path",
    "http://jaeger:4318/elsewhere": "by port or path",
    "http://jaeger:99999": "no URL",
    "http://jaeger:0": "port 0",
    "grpc://jaeger:4317/v1/traces": "path",
    "http://me:secret@jaeger:4317": "password",
    "http://jaeger:4317?x=1": "query",
    "http://jäger:4317": "no URL",
    "http://a\nb:4317": "no URL",
    "http://" + "a" * 3000 + ":4317": "no URL",
}


@pytest.mark.parametrize("endpoint", GOOD)
def test_an_endpoint_names_its_protocol(endpoint: str) -> None:
    assert target(endpoint) == GOOD[endpoint]
    assert trouble(endpoint) == ""


@pytest.mark.parametrize("endpoint", BAD)
def test_a_bad_endpoint_is_named_with_what_would_be_right(endpoint: str) -> None:
    with pytest.raises(CallerError, match=BAD[endpoint]) as error:
        target(endpoint)
    assert "http://HOST:4317" in str(error.value)
    assert "secret" not in str(error.value)
    assert trouble(endpoint) == str(error.value)


def test_no_endpoint_is_no_trouble() -> None:
    assert trouble("") == ""


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, Tracing()),
        ({"ENDPOINT": "http://c:4317"}, Tracing("http://c:4317", 1.0)),
        ({"ENDPOINT": "http://c:9", "PROTOCOL": "grpc"}, Tracing("grpc://c:9", 1.0)),
        ({"ENDPOINT": "https://c:9/", "PROTOCOL": "grpc"}, Tracing("grpcs://c:9", 1.0)),
        (
            {"ENDPOINT": "http://c:9/otlp/", "PROTOCOL": "http/protobuf"},
            Tracing("http://c:9/otlp/v1/traces", 1.0),
        ),
        (
            {"ENDPOINT": "http://c:4317", "TRACES_ENDPOINT": "http://d:1/v1/traces"},
            Tracing("http://d:1/v1/traces", 1.0),
        ),
    ],
)
def test_the_environment_as_opentelemetry_names_it(said: dict[str, str], wanted: Tracing) -> None:
    assert from_environment({f"OTEL_EXPORTER_OTLP_{n}": v for n, v in said.items()}) == wanted


def test_the_environment_may_turn_it_off_and_name_a_share() -> None:
    said = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    assert from_environment(said).sample_ratio == 0.25
    assert from_environment({**said, "OTEL_SDK_DISABLED": "true"}) == Tracing()
    with pytest.raises(CallerError, match="SAMPLER_ARG"):
        from_environment({**said, "OTEL_TRACES_SAMPLER_ARG": "often"})
    with pytest.raises(CallerError, match="PROTOCOL"):
        from_environment({**said, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
