"""What a node exposes, read with Prometheus's own parsers; and where its programs are found."""

import os
import shutil
from collections.abc import Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from tests.node.node_processes import NodeProcess

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"


def program(name: str) -> str | None:
    """`prometheus` or `promtool`: by PROMETHEUS or PROMTOOL, else on PATH."""
    return os.environ.get(name.upper()) or shutil.which(name)


def families(node: NodeProcess, accept: str = "") -> dict[str, Metric]:
    """Each metric by the name in its TYPE line; a counter's without `_total`."""
    reply = node.http("GET", "/metrics", **({"Accept": accept} if accept else {}))
    assert reply.status == 200, reply.body
    kind = reply.headers["Content-Type"]
    assert kind.startswith("application/openmetrics-text" if accept else "text/plain"), kind
    parsed = (openmetrics if accept else plain)(reply.body.decode())
    return {family.name: family for family in parsed}


def samples(node: NodeProcess) -> dict[tuple[str, Mapping[str, str]], float]:
    found = {}
    for family in families(node).values():
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def metric(node: NodeProcess, name: str, **labels: str) -> float:
    """One sample; 0 where there is none, as a sum over all would have it."""
    return samples(node).get((name, frozenset(labels.items())), 0.0)


def series(found: Mapping[str, Metric]) -> dict[str, set[str]]:
    """Every name that a query can ask for -> its labels; metrics without a sample too."""
    parts = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}
    names = {
        f"{name}{part}": set[str]()
        for name, family in found.items()
        for part in parts.get(family.type, ("",))
    }
    for family in found.values():
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names
