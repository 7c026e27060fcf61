"""Traces on a real Kubernetes cluster, read back from Jaeger by its query API.

Jaeger is e2e/jaeger.yaml, with the image that JAEGER_IMAGE names; the operator and the nodes
send their spans to it as docs/tracing.md and docs/operator.md say. Asserted is the tree that a
person would look at: who is whose child, across processes. Each is kept beside the report, as
Jaeger's page opens it.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from e2e.conftest import Clusters, Tell
from e2e.dynamo_cluster import NAME, Dynamo
from e2e.evidence import folder
from e2e.faults import Faults
from e2e.kube import KIND_CLUSTER, ROOT, SYSTEM, Kubectl, command, until
from e2e.report import Scenario

pytestmark = pytest.mark.timeout(900)

TRACING = "tracing"
CALLER = "00f067aa0ba902b7"
"""The span of whoever sends a request."""
ENDPOINT = f"http://jaeger.{TRACING}:4317"
EDIT_SEEN_S = 5.0
"""Within this an operator that runs has begun its first pass after an edit."""
IMAGE_DEFAULT = "jaegertracing/jaeger:2.11.0"
IMAGE = os.environ.get("JAEGER_IMAGE", IMAGE_DEFAULT)

Request = tuple[str, str, str, dict[str, str]]
"""Method, path, body and headers."""

# Requests to this node from inside its pod; prints what each was answered.
_REQUESTS = """
import json, sys, urllib.error, urllib.request
for method, path, body, headers in json.loads(sys.argv[1]):
    asked = urllib.request.Request("http://127.0.0.1:8080" + path, body.encode() or None, headers,
                                   method=method)
    try:
        answer = urllib.request.urlopen(asked, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    print(json.dumps([answer.status, answer.headers.get("X-Dynamo-Acks", "")]))
"""


class Span(NamedTuple):
    """One span as Jaeger shows it; `at` is who sent it."""

    trace: str
    id: str
    above: str
    name: str
    at: str
    tags: dict[str, Any]
    links: int
    began_s: float
    """Of the clock of who sent it."""


class Jaeger:
    """The query API, through the API server."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl.at(TRACING)
        self._root = f"/api/v1/namespaces/{TRACING}/services/jaeger:16686/proxy/api"

    def _get(self, path: str) -> list[Any]:
        well, said = self._kubectl.tried("get", "--raw", self._root + path)
        return json.loads(said)["data"] or [] if well else []

    def trace(self, trace_id: str) -> list[Span]:
        """All of one trace; empty while there is none."""
        found = self._get(f"/traces/{trace_id}")
        return _spans(found[0]) if found else []

    def keep(self, trace_id: str, name: str) -> None:
        """Leave a trace beside the report, in the form that Jaeger's page takes as a file."""
        into = folder() / "traces"
        into.mkdir(parents=True, exist_ok=True)
        found = {"data": self._get(f"/traces/{trace_id}")}
        (into / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")

    def traces(self, service: str, operation: str) -> list[list[Span]]:
        """The newest traces that have such a span."""
        asked = {
            "service": service,
            "operation": operation,
            "limit": "20",
            "lookback": "1h",
        }
        return [_spans(one) for one in self._get(f"/traces?{urlencode(asked)}")]


def _spans(trace: dict[str, Any]) -> list[Span]:
    at = {
        name: next(t["value"] for t in process["tags"] if t["key"] == "service.instance.id")
        for name, process in trace["processes"].items()
    }
    found = []
    for span in trace["spans"]:
        above = [r for r in span["references"] if r["refType"] == "CHILD_OF"]
        found.append(
            Span(
                span["traceID"],
                span["spanID"],
                above[0]["spanID"] if above else "",
                span["operationName"],
                at[span["processID"]],
                {tag["key"]: tag["value"] for tag in span["tags"]},
                len(span["references"]) - len(above),
                span["startTime"] / 1e6,
            )
        )
    return found


def children(of: Span, spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.above == of.id]


def told(spans: list[Span]) -> str:
    """The tree as text, children below their parents."""
    ids = {span.id for span in spans}
    lines: list[str] = []

    def below(span: Span, depth: int) -> None:
        lines.append(f"{'  ' * depth}{span.name} at {span.at}")
        for child in children(span, spans):
            below(child, depth + 1)

    for span in spans:
        if span.above not in ids:
            below(span, 1)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def jaeger(kubectl: Kubectl) -> Iterator[Jaeger]:
    """Jaeger in the cluster, and the operator sends it its spans."""
    # An image that is here needs no registry.
    if "E2E_KUBECONFIG" not in os.environ and command("docker", "images", "-q", IMAGE).strip():
        command("kind", "load", "docker-image", "--name", KIND_CLUSTER, IMAGE, s=300)
    manifest = (ROOT / "e2e" / "jaeger.yaml").read_text()
    manifest = manifest.replace(f"image: {IMAGE_DEFAULT}", f"image: {IMAGE}")
    tracing, there_before = kubectl.at(TRACING), TRACING in kubectl.items("namespaces")
    try:
        tracing.run("apply", "--server-side", "--force-conflicts", "-f", "-", text=manifest)
        tracing.run("rollout", "status", "deployment/jaeger", "--timeout=180s")
        _operator_sends_to(kubectl, ENDPOINT)
        yield Jaeger(kubectl)
    finally:
        _operator_sends_to(kubectl, "")
        if not there_before:
            kubectl.run("delete", "namespace", TRACING)


def _operator_sends_to(kubectl: Kubectl, endpoint: str) -> None:
    system = kubectl.at(SYSTEM)
    operator = "deployment/dynamo-operator"
    system.run("set", "env", operator, f"DYNAMO_OPERATOR_TRACING_ENDPOINT={endpoint}")
    system.run("rollout", "status", operator, "--timeout=180s")


def _asked(dynamo: Dynamo, pod: str, *requests: Request) -> list[tuple[int, str]]:
    """(status, acks) of each request, sent to that pod's node."""
    said = dynamo.kubectl.run("exec", pod, "--", "python", "-c", _REQUESTS, json.dumps(requests))
    return [(status, acks) for status, acks in map(json.loads, said.splitlines())]


def test_requests_of_a_cluster_with_a_node_that_stands_still(
    clusters: Clusters, scenario: Scenario, jaeger: Jaeger, tell: Tell
) -> None:
    tracing = {"endpoint": ENDPOINT, "sampleRatio": "1"}
    with clusters("traces", replicas=4, tracing=tracing) as dynamo:
        faults, (still, asked, *others) = Faults(dynamo), sorted(dynamo.pods())

        def seen(what: str, spans: list[Span]) -> None:
            tell(f"a {what}\n{told(spans)}")
            jaeger.keep(spans[0].trace, what.replace(" ", "-"))

        seen("put with a stand-in", _put_with_a_stand_in(dynamo, faults, jaeger, still, asked))
        delivery = _found(jaeger, "hint.deliver", still)
        assert delivery[0].links, "the delivery is linked to the write that left the hint"
        seen("delivery of its hint", delivery)
        repair = _read_repair(dynamo, faults, jaeger, still, asked, others[-1])
        assert repair[0].links, "the repair is linked to the read, and to what wrote the version"
        assert _below(repair[0], "replica.write", repair), told(repair)
        seen("read repair", repair)


def _put_with_a_stand_in(
    dynamo: Dynamo, faults: Faults, jaeger: Jaeger, still: str, asked: str
) -> list[Span]:
    """The trace of a put of which a replica stood still, and a stand-in took its copy."""
    traces: list[str] = []

    def put() -> bool:
        trace, key = secrets.token_hex(16), secrets.token_hex(4)
        traces.append(trace)
        context = {"traceparent": f"00-{trace}-{CALLER}-01"}
        ((status, acks),) = _asked(dynamo, asked, ("PUT", f"/kv/{key}?w=3", "v", context))
        return status == 204 and acks == "primary=2, standin=1"

    with faults.paused_processes(still):
        until(put, "a put that a stand-in took part in")
        spans: list[Span] = []

        def whole() -> bool:
            spans[:] = jaeger.trace(traces[-1])
            began = any(span.above == CALLER and span.at == asked for span in spans)
            return began and bool(_coordinated(spans))

        until(whole, "its trace", pause_s=1.0)
    assert len({span.at for span in spans}) >= 3, told(spans)
    return spans


def _read_repair(
    dynamo: Dynamo, faults: Faults, jaeger: Jaeger, still: str, asked: str, keeper: str
) -> list[Span]:
    """The trace of a repair: `still` lacks what was written, and whoever keeps its hint stands
    still by the time at which it runs again, so that a read is the first to notice."""
    found: list[list[Span]] = []

    def repaired() -> bool:
        keys = [secrets.token_hex(4) for _ in range(40)]
        puts: list[Request] = [("PUT", f"/kv/{key}?w=3", "v", {}) for key in keys]
        gets: list[Request] = [("GET", f"/kv/{key}?r=2", "", {}) for key in keys]
        with ExitStack() as later, ExitStack() as now:
            now.enter_context(faults.paused_processes(still))
            _asked(dynamo, asked, *puts)
            later.enter_context(faults.paused_processes(keeper))
            now.close()
            _asked(dynamo, asked, *gets * 10)
        try:
            found[:] = [_found(jaeger, "read_repair", still, deadline_s=10.0)]
        except AssertionError:
            return False
        return True

    until(repaired, "a read repair", 240.0)
    return found[0]


def _coordinated(spans: list[Span]) -> list[Span]:
    """The put at the owner that coordinated it, with its copies and the hint: who was asked and
    is no owner forwards it."""
    return [
        span
        for span in spans
        if span.name == "dynamo.put"
        and _below(span, "replica.write", spans)
        and _below(span, "hint.store", spans)
    ]


def _below(span: Span, name: str, spans: list[Span]) -> bool:
    return any(child.name == name for child in children(span, spans))


def _ids(spans: list[Span]) -> set[str]:
    return {span.id for span in spans}


def _found(jaeger: Jaeger, operation: str, reached: str, deadline_s: float = 60.0) -> list[Span]:
    """A trace with such a span of a node, that span first, and what the node `reached` did."""
    found: list[Span] = []

    def there() -> bool:
        for spans in jaeger.traces("dynamo-node", operation):
            if any(span.at == reached for span in spans):
                found[:] = sorted(spans, key=lambda span: span.name != operation)
                return True
        return False

    until(there, f"a trace with {operation} at {reached}", deadline_s, pause_s=1.0)
    return found


def test_a_whole_scale_up_is_one_trace(
    clusters: Clusters, kubectl: Kubectl, jaeger: Jaeger, tell: Tell
) -> None:
    tracing = {"endpoint": ENDPOINT, "sampleRatio": "1"}
    with clusters("trace", tracing=tracing) as dynamo:
        dynamo.scale(5)
        traceparent: list[str] = []

        def noted() -> bool:
            operation = dynamo.status.get("operation", {})
            found = operation.get("trace", {}).get("traceparent", "")
            traceparent[:] = [found] if operation.get("kind") == "ScaleUp" and found else []
            return bool(traceparent)

        until(noted, "the status names the operation's trace", pause_s=0.2)
        dynamo.until_settled(5)
        _, trace, span_id, _ = traceparent[0].split("-")
        spans: list[Span] = []

        def ended() -> bool:
            spans[:] = jaeger.trace(trace)
            return any(span.id == span_id for span in spans)

        until(ended, "the operation's own span", 60.0, pause_s=1.0)
    root = next(span for span in spans if span.id == span_id)
    assert root.name == "operation.ScaleUp"
    assert root.tags["dynamo.outcome"] == "settled"
    assert root.tags["dynamo.cluster"] == NAME
    passes = [span for span in children(root, spans) if span.name == "reconcile"]
    assert len(passes) > 1, told(spans)
    first = min(span.began_s for span in passes)
    assert first - EDIT_SEEN_S < root.began_s <= first, "it begins with the edit"
    names = {span.name for span in spans}
    assert {
        "observe",
        "step.ScaleSet",
        "step.DecideRing",
        "step.PostRing",
        "node.post_ring",
    } <= names
    assert any(name.startswith("api.") for name in names), told(spans)
    orphans = [span.name for span in spans if span.above and span.above not in _ids(spans)]
    assert not orphans, told(spans)
    tell(f"{len(spans)} spans of {len(passes)} passes\n{told(spans)}")
    jaeger.keep(trace, "scale-up")
