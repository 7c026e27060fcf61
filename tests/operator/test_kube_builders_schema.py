"""Every object that is built, against Kubernetes' own schemas, strictly.

The schemas are cut out of the published ones by scripts/prune_openapi.py: an unknown field is an
error, where an API server would drop it in silence.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.operator.kube_objects import EVERYTHING, cluster, objects

SCHEMAS = sorted((Path(__file__).parent / "openapi").glob("kubernetes-*.json"))


@cache
def published(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def mistakes(path: Path, built: dict[str, Any]) -> list[str]:
    """Where an object isn't what the schema says, as paths with reasons."""
    schemas = published(path)
    name = schemas["kinds"][f"{built['apiVersion']} {built['kind']}"]
    schema = {"$ref": f"#/definitions/{name}", "definitions": schemas["definitions"]}
    found = jsonschema.Draft7Validator(schema).iter_errors(built)
    return [f"{error.json_path}: {error.message}" for error in found]


def built() -> Iterator[dict[str, Any]]:
    for spec in (None, EVERYTHING, {"resources": {"requests": {"memory": "0", "cpu": "0"}}}):
        yield from objects(cluster(spec))


def of_kind(kind: str) -> dict[str, Any]:
    return deepcopy(next(one for one in objects(cluster(EVERYTHING)) if one["kind"] == kind))


def test_the_oldest_supported_release_and_a_recent_one_are_there() -> None:
    assert [path.stem for path in SCHEMAS] == ["kubernetes-1.30", "kubernetes-1.36"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_every_object_is_one_that_kubernetes_knows(path: Path) -> None:
    assert {f"{one['apiVersion']} {one['kind']}" for one in built()} == set(
        published(path)["kinds"]
    )
    for one in built():
        assert mistakes(path, one) == [], one["kind"]


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("kind", "at", "value", "told"),
    [
        ("StatefulSet", "spec.template.spec.containers.0.imagePolicy", "Always", "imagePolicy"),
        ("StatefulSet", "spec.template.spec.securityContext.runAsUser", "65532", "'65532' is not"),
        ("StatefulSet", "spec.volumeClaimTemplates.0.spec.size", "1Gi", "size"),
        ("StatefulSet", "spec.replicas", None, "None is not"),
        ("StatefulSet", "status", {}, "status"),
        ("Service", "spec.ports.0.port", "8080", "'8080' is not"),
        ("NetworkPolicy", "spec.ingress.1.form", [], "form"),
        ("PodDisruptionBudget", "spec.maxUnavailable", [1], "[1] is not"),
        ("ServiceMonitor", "spec.endpoints.0.interval", "soon", "'soon' does not match"),
        ("ServiceMonitor", "spec.endpoints.0.metricsPath", "/", "metricsPath"),
        ("Secret", "metadata.labels.app", 1, "1 is not"),
        ("ConfigMap", "immutable", "true", "'true' is not"),
        ("ServiceAccount", "metadata.owner", {}, "owner"),
    ],
)
def test_what_is_wrong_is_found(path: Path, kind: str, at: str, value: object, told: str) -> None:
    wrong = of_kind(kind)
    *way, last = at.split(".")
    inside: Any = wrong
    for step in way:
        inside = inside[int(step)] if isinstance(inside, list) else inside[step]
    inside[last] = value
    (mistake,) = mistakes(path, wrong)
    assert told in mistake
