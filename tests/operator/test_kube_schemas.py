"""The schemas that scripts/kube_schemas.py makes refuse what an API server would drop."""

from typing import Any

import jsonschema
import pytest
import yaml
from tests.operator.programs import ROOT, loaded

kube_schemas = loaded("kube_schemas")
TEXT = {"type": "string"}
NUMBER_OR_TEXT = [{"type": "integer"}, TEXT]
META = {"type": "object", "properties": {"name": TEXT, "namespace": TEXT}}
DOCUMENT: dict[str, Any] = {
    "definitions": {
        kube_schemas.META: META,
        kube_schemas.QUANTITY: {"type": "string"},
        "Port": {"type": "string", "format": "int-or-string"},
        "Tree": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"$ref": f"#/definitions/{kube_schemas.QUANTITY}"},
                "port": {"$ref": "#/definitions/Port", "description": "of it"},
                "branches": {"type": "array", "items": {"$ref": "#/definitions/Tree"}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "x-kubernetes-thing": {"type": "boolean"},
                "raw": {"type": "object"},
                "metadata": {"$ref": f"#/definitions/{kube_schemas.META}"},
            },
            "x-kubernetes-group-version-kind": [
                {"group": "grove.k8s.io", "version": "v1", "kind": "Tree"}
            ],
        },
        "Stone": {
            "type": "object",
            "properties": {"weight": {"type": "integer", "format": "int64"}},
            "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Stone"}],
        },
    }
}


def accepted(file: str, value: Any, *crds: Any) -> bool:
    schema = kube_schemas.files(DOCUMENT, *crds)[file]
    return bool(jsonschema.Draft7Validator(schema).is_valid(value))


def test_files_are_named_as_kubeconform_asks_for_them() -> None:
    assert set(kube_schemas.files(DOCUMENT)) == {"tree-grove-v1.json", "stone-v1.json"}


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"size": "1Gi"}, True),
        ({"size": 0.5, "port": 80, "branches": [{"size": 1, "port": "http"}]}, True),
        ({"size": 1, "labels": {"a": "b"}, "raw": {"any": ["thing"]}}, True),
        ({"size": 1, "x-kubernetes-thing": True, "metadata": {"name": "oak"}}, True),
        ({}, False),
        ({"size": True}, False),
        ({"size": 1, "sise": 1}, False),
        ({"size": 1, "port": 1.5}, False),
        ({"size": 1, "port": None}, False),
        ({"size": 1, "labels": {"a": 1}}, False),
        ({"size": 1, "x-kubernetes-thing": "yes"}, False),
        ({"size": 1, "metadata": {"nam": "oak"}}, False),
        ({"size": 1, "branches": [{"size": 1, "branches": [{"siz": 1}]}]}, False),
    ],
)
def test_all_that_is_said_of_a_field_holds_on_every_level(value: Any, good: bool) -> None:
    assert accepted("tree-grove-v1.json", value) is good


def crd(**properties: Any) -> Any:
    spec = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": spec}}
    names = {"kind": "Tree"}
    return {"spec": {"group": "grove.k8s.io", "names": names, "versions": [version]}}


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ({"spec": {"depth": 1}}, True),
        ({"apiVersion": "grove/v1", "kind": "Tree", "metadata": {"name": "oak"}}, True),
        ({"spec": {"cpu": "500m", "soil": None, "rest": {"any": 1}}}, True),
        ({"spec": {"cpu": 2, "soil": "clay"}}, True),
        ({"spec": {"depth": 0}}, False),
        ({"spec": {"dept": 1}}, False),
        ({"spec": {"cpu": 0.5}}, False),
        ({"spec": {"soil": "peat"}}, False),
        ({"metadata": {"nam": "oak"}}, False),
        ({"size": 1}, False),
    ],
)
def test_a_definition_of_ones_own_goes_before_the_document(value: Any, good: bool) -> None:
    ours = crd(
        depth={"type": "integer", "minimum": 1},
        cpu={"x-kubernetes-int-or-string": True, "anyOf": NUMBER_OR_TEXT},
        soil={"type": "string", "enum": ["clay", "sand"], "nullable": True},
        rest={
            "type": "object",
            "properties": {"known": {"type": "string"}},
            "x-kubernetes-preserve-unknown-fields": True,
        },
    )
    assert accepted("tree-grove-v1.json", value, ours) is good


def test_our_definition_takes_our_examples() -> None:
    ours = yaml.safe_load((ROOT / "crds/dynamoclusters.yaml").read_text())
    for path in (ROOT / "examples").glob("*.yaml"):
        example = yaml.safe_load(path.read_text())
        assert accepted("dynamocluster-dynamocluster-v1alpha1.json", example, ours), path.name
        example.setdefault("spec", {})["replica"] = 3
        assert not accepted("dynamocluster-dynamocluster-v1alpha1.json", example, ours)


def test_two_kinds_of_one_name_are_refused() -> None:
    tree = DOCUMENT["definitions"]["Tree"]
    other = {**tree, "x-kubernetes-group-version-kind": [{"group": "grove.example.com"}]}
    other["x-kubernetes-group-version-kind"][0] |= {"version": "v1", "kind": "Tree"}
    with pytest.raises(ValueError, match="tree-grove-v1"):
        kube_schemas.files({"definitions": {**DOCUMENT["definitions"], "Other": other}})
