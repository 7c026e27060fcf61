"""The operator's objects on a real API server, written with no more rights than its role gives."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.operator.api_rights import install_definition, operator_account
from tests.operator.api_server import MISSING, WHY_SKIPPED, ApiServer, api_server
from tests.telemetry.receivers import grpc_receiver

from dynamo_operator.kube import names
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.observing import Network, Observer
from dynamo_operator.kube.reconcile import ClusterPasses
from dynamo_operator.kube.telling import Teller
from dynamo_operator.kube.tracing import Traced
from dynamo_operator.kube.world import Surroundings
from dynamo_telemetry.endpoints import Tracing
from dynamo_telemetry.pipeline import Pipeline, Service

if MISSING:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

CLUSTERS = "/apis/dynamocluster.io/v1alpha1/namespaces/default/dynamoclusters"
AROUND = Surroundings(
    names.Release("1.0.0", "dynamo-node:1.0.0"),
    "default",
    {"app.kubernetes.io/name": "dynamo-operator"},
)
WRITTEN = (
    "/apis/apps/v1/namespaces/default/statefulsets",
    "/api/v1/namespaces/default/services",
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/namespaces/default/secrets",
    "/api/v1/namespaces/default/serviceaccounts",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
    CLUSTERS,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("kube")) as running:
        install_definition(running)
        yield running


@pytest.fixture
async def api(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Api]:
    """The operator's door, as a service account with the operator's role."""
    name = f"operator-{tmp_path.name}".replace("_", "-").lower()[:60].strip("-")
    monkeypatch.setenv("KUBECONFIG", str(operator_account(server, "default", name, tmp_path)))
    connection = await Connection.open()
    try:
        yield Api(connection)
    finally:
        await connection.close()


def versions(server: ApiServer) -> dict[tuple[str, str], str]:
    found = {}
    for path in WRITTEN:
        for one in server.ask("GET", path)[1]["items"]:
            found[path, one["metadata"]["name"]] = one["metadata"]["resourceVersion"]
    return found


async def passes(
    server: ApiServer, api: Api, name: str, count: int, traced: Traced | None = None
) -> None:
    """So many passes over a cluster whose pods nobody starts."""
    uid = server.ask("GET", f"{CLUSTERS}/{name}")[1]["metadata"]["uid"]
    owner = names.Owner(name, "default", uid)
    reconciler = ClusterPasses(api, AROUND, Network(), traced=traced)
    observer, teller = Observer(api, AROUND, Network()), Teller(api, owner)
    try:
        for _ in range(count):
            await reconciler._pass(owner, observer, teller)
    finally:
        await observer.close()


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("plain", {}),
        (
            "whole",
            {
                "replicas": 3,
                "zones": ["a", "b", "c"],
                "storage": {"size": "1Gi", "whenDeleted": "Delete"},
                "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}},
                "pools": [
                    {
                        "name": "large",
                        "replicas": 2,
                        "capacity": "2",
                        "nodeSelector": {"disk": "fast"},
                        "tolerations": [{"key": "big", "operator": "Exists"}],
                    }
                ],
            },
        ),
    ],
)
async def test_what_is_made_is_taken_and_then_left_alone(
    server: ApiServer, api: Api, name: str, spec: dict[str, Any]
) -> None:
    server.made(
        CLUSTERS,
        {
            "apiVersion": "dynamocluster.io/v1alpha1",
            "kind": "DynamoCluster",
            "metadata": {"name": name},
            "spec": spec,
        },
    )
    await passes(server, api, name, 4)
    status = server.ask("GET", f"{CLUSTERS}/{name}")[1]["status"]
    conditions = {one["type"]: one for one in status["conditions"]}
    assert conditions["Blocked"]["status"] == "False", conditions["Blocked"]
    assert conditions["Available"]["reason"] == "NoRing"
    sets = server.ask("GET", WRITTEN[0])[1]["items"]
    mine = [one for one in sets if one["metadata"]["name"].startswith(f"{name}-")]
    wanted = sum(one["spec"]["replicas"] for one in mine)
    assert wanted == status["nodesTotal"]
    before = versions(server)
    assert {path for path, _ in before} >= set(WRITTEN[:4])
    await passes(server, api, name, 3)
    assert versions(server) == before, "nothing is written that stands there"
    events = server.ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events")[1]["items"]
    assert any(one["regarding"]["name"] == name for one in events)


async def test_an_edit_changes_the_template_and_comes_to_rest(server: ApiServer, api: Api) -> None:
    body = {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "metadata": {"name": "edited"},
        "spec": {},
    }
    server.made(CLUSTERS, body)
    await passes(server, api, "edited", 4)
    path = f"{WRITTEN[0]}/edited-default"
    first = server.ask("GET", path)[1]["spec"]["template"]
    change = {"spec": {"resources": {"requests": {"cpu": "250m"}}}}
    kind = "application/merge-patch+json"
    assert server.ask("PATCH", f"{CLUSTERS}/edited", change, kind)[0] == 200
    await passes(server, api, "edited", 3)
    second = server.ask("GET", path)[1]["spec"]["template"]
    container = second["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == "250m"
    assert second != first
    before = versions(server)
    await passes(server, api, "edited", 2)
    assert versions(server) == before


async def test_the_trace_of_an_operation_stands_in_the_status_from_the_edit_on(
    server: ApiServer, api: Api
) -> None:
    """Each pass is another operator's: what it knows of the trace is what the server kept."""
    body = {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "metadata": {"name": "traced"},
        "spec": {},
    }
    made = server.made(CLUSTERS, body)

    def trace() -> dict[str, Any]:
        return dict(server.ask("GET", f"{CLUSTERS}/traced")[1]["status"]["operation"]["trace"])

    with grpc_receiver() as received:
        pipeline = Pipeline(Service("dynamo-operator", "one", "1"), Tracing(received.endpoint, 1.0))
        traced = Traced(pipeline)
        for _ in range(4):
            await passes(server, api, "traced", 1, traced)
        first = trace()
        assert first["kind"] == "Create"
        assert first["startedAt"][:19] == made["metadata"]["creationTimestamp"][:19]
        before = versions(server)
        await passes(server, api, "traced", 2, traced)
        assert versions(server) == before
        change = {"spec": {"replicas": 4}}
        kind = "application/merge-patch+json"
        status, edited = server.ask("PATCH", f"{CLUSTERS}/traced", change, kind)
        assert status == 200
        times = {
            one["time"] for one in edited["metadata"]["managedFields"] if "subresource" not in one
        }
        await passes(server, api, "traced", 1, traced)
        second = trace()
        assert second["generation"] == edited["metadata"]["generation"]
        assert second["traceparent"] != first["traceparent"]
        assert second["startedAt"][:19] in {one[:19] for one in times}
        assert pipeline.close(20)
    (root,) = [one for one in received.spans if not one.parent_id]
    assert root.trace_id == first["traceparent"].split("-")[1]
    assert root.attributes["dynamo.outcome"] == "superseded"
