"""The CustomResourceDefinition: structural, bounded, fresh, and of one mind with the parser."""

from pathlib import Path

import jsonschema
import pytest
from tests.operator.crd_judge import FIELDS, compiled, defaulted, judged
from tests.operator.manifest_cases import WHOLE_STATUS, manifest

from dynamo_operator import manifest as manifests
from dynamo_operator.description import SPEC
from dynamo_operator.kube import crd, reference
from dynamo_operator.kube.crd_status import STATUS
from dynamo_operator.kube.names import GIVE_UP, UPDATE
from dynamo_operator.parsing import parse

ROOT = Path(__file__).parents[2]
RULES = "x-kubernetes-validations"


def test_the_file_is_what_the_description_makes() -> None:
    text = (ROOT / "crds/dynamoclusters.yaml").read_text()
    assert text == crd.text(), "stale: run `make crd`"
    assert manifests.documents(text)[0].value == crd.crd(), "kubectl would read something else"


def test_the_reference_is_what_the_description_makes() -> None:
    text = (ROOT / "docs/reference.md").read_text()
    assert text == reference.filled(text), "stale: run `make crd`"
    assert f"`{GIVE_UP}: " in text
    assert f"`{UPDATE}: " in text
    for path in FIELDS:
        if path.startswith(("spec.", "status.")) and not path.endswith(("[]", "{}")):
            assert f"| `{path}` |" in text, path


def test_the_schema_is_structural() -> None:
    for path, schema in FIELDS.items():
        assert not {"allOf", "oneOf", "not", "nullable", "$ref"} & set(schema), path
        if schema.get("x-kubernetes-int-or-string"):
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert "type" not in schema, path
            continue
        assert schema["type"] in ("object", "array", "string", "integer", "boolean"), path
        if schema["type"] == "object" and path != "metadata":
            assert ("properties" in schema) != ("additionalProperties" in schema), path
        assert ("items" in schema) == (schema["type"] == "array"), path
        for key in schema.get("required", []):
            assert "default" not in schema["properties"][key], f"{path}.{key}"
        for key in schema.get("x-kubernetes-list-map-keys", []):
            assert key in schema["items"]["required"], path
        assert "default" not in schema or not path.endswith("{}"), path


def test_each_default_is_written_out_and_valid() -> None:
    """A rule that reads a field of `default: {}` would refuse the definition itself."""
    for path, schema in FIELDS.items():
        if "default" not in schema:
            continue
        jsonschema.validate(schema["default"], schema)
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner:
                assert schema["default"][name] == inner["default"], f"{path}.{name}"
    assert FIELDS["spec"]["default"] == SPEC.default()
    assert judged(manifest()) == []


def test_whatever_a_rule_may_see_has_a_bound() -> None:
    """The API server counts what a rule costs by the largest value that the schema lets in."""
    bounds = {"string": "maxLength", "array": "maxItems"}
    for path, schema in FIELDS.items():
        if path.startswith("spec"):
            bound = bounds.get(schema.get("type", "string"))
            assert bound is None or bound in schema or "enum" in schema, path
            assert "additionalProperties" not in schema or "maxProperties" in schema, path


def test_each_rule_compiles_and_says_what_would_be_right() -> None:
    rules = [rule for schema in FIELDS.values() for rule in schema.get(RULES, [])]
    assert len(rules) > 50
    for rule in rules:
        compiled(rule["rule"])
        compiled(rule.get("messageExpression", "''"))
        assert len(rule["message"]) > 12
        assert "\n" not in rule["message"] + rule["rule"]


def test_nothing_is_a_boolean_to_yaml() -> None:
    for path, schema in FIELDS.items():
        for word in [*schema.get("properties", {}), *schema.get("enum", [])]:
            condition = path == "status.conditions[].status"  # quoted, as in every Kubernetes API
            assert condition or not isinstance(manifests.scalar(word), bool), path


def test_columns_and_scale_read_fields_that_exist() -> None:
    version = crd.crd()["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += version["subresources"]["scale"].values()
    for path in paths:
        name = path.removeprefix(".").replace('[?(@.type=="Available")]', "[]")
        assert name in FIELDS or name == "metadata.creationTimestamp", path
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert names == ["Nodes", "Ready", "Available", "Epoch", "Operation", "Age"]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_is_accepted(path: Path) -> None:
    read = manifests.read(path.read_text(), path.name)
    assert judged(read.value) == []
    assert parse(defaulted(read.value)) == read.cluster
    comments = [line for line in path.read_text().splitlines() if line.lstrip().startswith("#")]
    assert len(comments) >= 3


def test_the_status_has_what_the_contract_names() -> None:
    assert judged({**manifest(), "status": WHOLE_STATUS}) == []
    assert (
        list(STATUS.fields)
        == list(WHOLE_STATUS)
        == [
            *("observedGeneration", "replicas", "readyReplicas", "selector", "nodesTotal"),
            *("nodesReady", "conditions", "ring", "nodes", "operation", "plan"),
        ]
    )
    assert FIELDS["status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert FIELDS["status.nodes"]["x-kubernetes-list-map-keys"] == ["name"]
    assert not [
        path for path, schema in FIELDS.items() if path.startswith("status") and RULES in schema
    ]
