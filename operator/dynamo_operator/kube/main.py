"""The command `dynamo-operator`: options, and the process around `serving`.

Owns names, defaults and environment variables of the options, and the exit codes:
0 told to stop, 1 the watches failed, 2 usage, 3 the lease was lost or there is no
way to an API server. Forbidden: deciding anything about clusters.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dynamo_core.errors import CallerError
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.logs import Style, set_up
from dynamo_operator.kube.measures import Measures
from dynamo_operator.kube.names import Release
from dynamo_operator.kube.reconcile import builder
from dynamo_operator.kube.serving import LOST, Build, Options, serve, take_signals
from dynamo_operator.kube.tracing import Traced
from dynamo_telemetry.endpoints import Tracing, from_environment, target

if TYPE_CHECKING:
    from dynamo_telemetry.pipeline import Pipeline

log = logging.getLogger(__name__)

_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PREFIX: Final = "DYNAMO_OPERATOR"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX}
)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="A namespace to look after; several times for several.",
)
@click.option("--cluster-wide", is_flag=True, help="Look after all namespaces.")
@click.option("--lease-namespace", help="Where the lease is (the operator's own namespace).")
@click.option("--node-image", required=True, help="The image of nodes whose spec names none.")
@click.option("--liveness-port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--log-format", type=click.Choice(["json", "text"]), default="json", show_default=True
)
@click.option(
    "--resync-seconds",
    type=click.FloatRange(1, 300),
    default=15,
    show_default=True,
    help="How often each cluster is looked at if nothing happens.",
)
@click.option(
    "--pod-labels",
    default=json.dumps({"app.kubernetes.io/name": "dynamo-operator"}),
    help="JSON: labels of the operator's own pods, which nodes let to their admin port.",
)
@click.option(
    "--admin-peers",
    default="[]",
    help="JSON: further NetworkPolicyPeers that nodes let to their admin port.",
)
@click.option(
    "--monitor-labels",
    default="",
    help="JSON: make a ServiceMonitor for each cluster, with these labels. Empty: none.",
)
@click.option(
    "--ready-within-seconds",
    type=click.FloatRange(10, 86400),
    default=600,
    show_default=True,
    help="What the first pod of a new template gets to become ready, before the last good "
    "template is put back.",
)
@click.option(
    "--tracing-endpoint",
    default="",
    help="Where spans of operations go by OTLP: http://HOST:4317 (gRPC), http://HOST:4318 (HTTP). "
    "Without it OTEL_EXPORTER_OTLP_ENDPOINT is taken; without either there are none.",
)
@click.option(
    "--tracing-sample-ratio",
    type=click.FloatRange(0, 1),
    default=1,
    show_default=True,
    help="The share of operations that are traced.",
)
def main(
    namespaces: tuple[str, ...],
    cluster_wide: bool,
    lease_namespace: str | None,
    node_image: str,
    liveness_port: int,
    log_format: Style,
    resync_seconds: float,
    pod_labels: str,
    admin_peers: str,
    monitor_labels: str,
    ready_within_seconds: float,
    tracing_endpoint: str,
    tracing_sample_ratio: float,
) -> None:
    """Run Dynamo clusters as their DynamoCluster objects say.

    Each option can come from the environment: DYNAMO_OPERATOR_NODE_IMAGE, and so on;
    DYNAMO_OPERATOR_NAMESPACES holds names separated by spaces.
    """
    if bool(namespaces) == cluster_wide:
        raise click.UsageError("Give either --cluster-wide or --namespace.")
    set_up(log_format)
    tracing = _tracing(tracing_endpoint, tracing_sample_ratio)
    measures = Measures()
    options = Options(
        namespaces=tuple(dict.fromkeys(namespaces)),
        lease_namespace=lease_namespace or _own_namespace(namespaces),
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        release=Release(version("dynamo-store"), node_image),
        liveness_port=liveness_port,
        resync_s=resync_seconds,
        measures=measures,
    )
    pipeline = _pipeline(options, tracing)
    if pipeline is not None:
        measures.spans(pipeline.facts)
    build = builder(
        namespace=_own_namespace(namespaces),
        labels=_read("--pod-labels", pod_labels, dict),
        peers=_read("--admin-peers", admin_peers, list),
        monitors=_read("--monitor-labels", monitor_labels, dict) if monitor_labels else None,
        ready_within_s=ready_within_seconds,
        measures=measures,
        traced=Traced(pipeline, tracing.sample_ratio),
    )
    try:
        raise SystemExit(asyncio.run(_run(options, build)))
    finally:
        if pipeline is not None:
            pipeline.close()


def _tracing(endpoint: str, ratio: float) -> Tracing:
    """By the options, or by OpenTelemetry's variables if they name no endpoint."""
    try:
        if not endpoint:
            return from_environment(os.environ)
        target(endpoint)
    except CallerError as error:
        raise click.UsageError(str(error)) from error
    return Tracing(endpoint, ratio)


def _pipeline(options: Options, tracing: Tracing) -> Pipeline | None:
    """None if no spans are sent: importing the SDK takes a third of a second and 20 MB."""
    if not tracing.endpoint:
        return None
    from dynamo_telemetry.pipeline import Pipeline, Service

    service = Service("dynamo-operator", options.identity, options.release.version)
    return Pipeline(service, tracing)


def _read(option: str, text: str, wanted: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{option} is no JSON: {error}") from error
    if not isinstance(value, wanted):
        right = "an object" if wanted is dict else "a list"
        raise click.UsageError(f"{option} must be {right}")
    return value


async def _run(options: Options, build: Build) -> int:
    stop = asyncio.Event()
    take_signals(stop)
    try:
        connection = await Connection.open()
    except CallerError as error:
        log.critical("%s", error)
        return LOST
    try:
        return await serve(options, build, connection, stop=stop, end=_end)
    finally:
        await connection.close()


def _end(code: int) -> None:
    """At once: nothing that is under way may be finished."""
    logging.shutdown()
    os._exit(code)


def _own_namespace(namespaces: tuple[str, ...]) -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip()
    except OSError:
        return namespaces[0] if namespaces else "default"
