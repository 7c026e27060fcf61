"""The CustomResourceDefinition on a real API server, by the same table of manifests."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.operator.api_server import MISSING, WHY_SKIPPED, ApiServer, api_server
from tests.operator.crd_judge import defaulted
from tests.operator.manifest_cases import ACCEPTED, REFUSED, WHOLE_STATUS, Case, manifest
from tests.operator.manifest_edits import EDITS, Edit

from dynamo_operator import manifest as manifests
from dynamo_operator.kube.crd import crd
from dynamo_operator.parsing import parse

if MISSING:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

CLUSTERS = "/apis/dynamocluster.io/v1alpha1/namespaces/default/dynamoclusters"
STRICT = "fieldManager=test&fieldValidation=Strict"  # as kubectl asks


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("kube")) as running:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        status, told = running.ask("POST", path, crd())
        assert status == 201, told
        deadline = time.monotonic() + 30
        while running.ask("GET", CLUSTERS)[0] != 200:
            assert time.monotonic() < deadline, "the definition is never established"
            time.sleep(0.05)
        yield running


def value_of(case: Case) -> Any:
    return manifests.documents(case.yaml)[0].value


def created(server: ApiServer, value: Any, more: str = "") -> tuple[int, Any]:
    return server.ask("POST", f"{CLUSTERS}?{STRICT}{more}", value)


def test_what_is_accepted_comes_back_as_the_same_cluster(server: ApiServer) -> None:
    for case in ACCEPTED:
        value = value_of(case)
        status, stored = created(server, value, "&dryRun=All")
        assert status == 201, (case, stored)
        assert stored["spec"] == defaulted(value)["spec"], case
        stored["metadata"]["namespace"] = "default"
        assert parse(stored).spec == manifests.read(case.yaml).cluster.spec, case


def test_every_example_is_accepted(server: ApiServer) -> None:
    for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")):
        value = manifests.read(path.read_text()).value
        value["metadata"].pop("namespace", None)
        status, told = created(server, value, "&dryRun=All")
        assert status == 201, (path.name, told)


def test_what_is_refused_is_told(server: ApiServer) -> None:
    for case in REFUSED:
        status, told = created(server, value_of(case), "&dryRun=All")
        if case.server_told:
            assert status in (400, 422), (case, told)
            assert case.server_told in told["message"], case
        else:
            assert status == 201, (case, told)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.before}->{edit.after}"[:80])
def test_edits(server: ApiServer, edit: Edit) -> None:
    status, stored = created(server, manifest(edit.before))
    assert status == 201, stored
    try:
        after = copy.deepcopy(manifest(edit.after))
        after["metadata"] = stored["metadata"]
        status, told = server.ask("PUT", f"{CLUSTERS}/cart?{STRICT}&dryRun=All", after)
        if edit.told:
            assert status == 422, told
            assert edit.told in told["message"]
        else:
            assert status == 200, told
    finally:
        server.ask("DELETE", f"{CLUSTERS}/cart")


def test_without_strict_validation_what_is_unknown_is_dropped(server: ApiServer) -> None:
    value = manifest({"replica": 5, "quorum": {"R": 1}})
    status, stored = server.ask("POST", f"{CLUSTERS}?dryRun=All", value)
    assert status == 201
    assert stored["spec"] == defaulted(manifest())["spec"]


def test_scale_reads_and_writes_the_default_pool(server: ApiServer) -> None:
    status, stored = created(server, manifest({"replicas": 4}))
    assert status == 201, stored
    try:
        stored["status"] = {"replicas": 3, "selector": "a=b", "nodesTotal": 3}
        assert server.ask("PUT", f"{CLUSTERS}/cart/status", stored)[0] == 200
        _, scale = server.ask("GET", f"{CLUSTERS}/cart/scale")
        assert (scale["spec"], scale["status"]) == (
            {"replicas": 4},
            {"replicas": 3, "selector": "a=b"},
        )
        patch = "application/merge-patch+json"
        status, told = server.ask(
            "PATCH", f"{CLUSTERS}/cart/scale", {"spec": {"replicas": 2}}, patch
        )
        assert status == 422
        assert "fewer than spec.quorum.replication, which is 3" in told["message"]
        assert (
            server.ask("PATCH", f"{CLUSTERS}/cart/scale", {"spec": {"replicas": 6}}, patch)[0]
            == 200
        )
        assert server.ask("GET", f"{CLUSTERS}/cart")[1]["spec"]["replicas"] == 6
    finally:
        server.ask("DELETE", f"{CLUSTERS}/cart")


def test_a_whole_status_is_kept_and_shown(server: ApiServer) -> None:
    assert created(server, manifest())[0] == 201
    try:
        value = {**manifest(), "status": WHOLE_STATUS}
        apply = (
            f"{CLUSTERS}/cart/status?fieldManager=dynamo-operator&force=true&fieldValidation=Strict"
        )
        status, stored = server.ask("PATCH", apply, value, "application/apply-patch+yaml")
        assert status == 200, stored
        assert stored["status"] == WHOLE_STATUS
        assert server.ask("GET", f"{CLUSTERS}/cart")[1]["status"] == WHOLE_STATUS
        as_table = "application/json;as=Table;g=meta.k8s.io;v=v1"
        table = server.ask("GET", f"{CLUSTERS}/cart", accept=as_table)[1]
        cells = table["rows"][0]["cells"]
        assert cells[:6] == ["cart", 5, 4, "True", 7, "ScaleUp"]
    finally:
        server.ask("DELETE", f"{CLUSTERS}/cart")
