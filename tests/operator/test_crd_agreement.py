"""Parser and CustomResourceDefinition are of one mind, around each bound and on drawn specs."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.crd_judge import FIELDS, Schema, defaulted, judged
from tests.operator.manifest_cases import manifest, pool

from dynamo_operator import changes
from dynamo_operator.description import SPEC
from dynamo_operator.kube import reference
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.spec import DynamoCluster


def test_kinds_of_edits_are_those_that_changes_tells() -> None:
    """A live, rolling or scaling edit is what `changes` says that it is."""
    described = {path: getattr(kind, "edit", "") for path, kind in reference.rows(SPEC, "spec")}
    before = parse(manifest({"pools": [pool()], "replicas": 4}))
    other: dict[str, Any] = {
        "replicas": 5,
        "quorum.replication": 4,
        "quorum.r": 1,
        "quorum.w": 1,
        "ring.partitions": 512,
        "reconciliation": "lastWriteWins",
        "durability": "buffered",
        "image": "x",
        "resources.requests.cpu": 1,
        "resources.limits.cpu": 1,
        "zones": ["a"],
        "storage.size": "11Gi",
        "storage.storageClassName": "x",
        "storage.whenDeleted": "Delete",
        "storage.whenScaled": "Retain",
        "security.tls.mode": "Operator",
        "security.clientAuth.mode": "Token",
        "tracing.endpoint": "http://a",
        "tracing.sampleRatio": "1",
        "limits.valueBytesMax": 1,
        "limits.siblingsMax": 1,
        "limits.objectBytesMax": 1 << 21,
        "updateStrategy.onOperatorUpgrade": "Automatic",
        "paused": True,
        "dryRun": True,
        "pools[].replicas": 2,
        "pools[].capacity": "2",
        "pools[].nodeSelector": {"a": "b"},
        "pools[].tolerations": [{"key": "a"}],
        "pools[].storage.size": "11Gi",
        "pools[].storage.storageClassName": "x",
        "pools[].storage.whenDeleted": "Delete",
        "pools[].storage.whenScaled": "Retain",
    }
    for path, value in other.items():
        spec: dict[str, Any] = {"pools": [pool()], "replicas": 4}
        put(spec, path, value)
        found = changes.changes(before, parse(manifest(spec)))
        assert {change.kind for change in found} == {described[f"spec.{path}"]}, path


def put(spec: dict[str, Any], path: str, value: Any) -> None:
    """Sets a field; [] is the one pool."""
    at: Any = spec
    *way, last = path.replace("pools[]", "pools.0").split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
    at[last] = value


def read(value: dict[str, Any]) -> tuple[DynamoCluster | None, str]:
    """What the parser makes of a manifest, or what it finds wrong."""
    try:
        return parse(value), ""
    except SpecError as error:
        return None, str(error)


def agreed(spec: Any) -> None:
    """Parser and definition both refuse a spec, or take it for the same cluster."""
    value = manifest(spec)
    told = judged(value)
    cluster, problems = read(value)
    assert bool(told) == bool(problems), f"{spec}: told by one alone: {told} {problems}"
    assert cluster is None or parse(defaulted(value)) == cluster, spec


def boundaries(schema: Schema) -> list[Any]:
    """Values on both sides of each bound of a field."""
    values: list[Any] = [None, 0, 1, -1, True, "", "1", "a", [], {}, [None], "x" * 1000]
    values += schema.get("enum", [])
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in schema:
            values += [schema[bound], schema[bound] + step]
    if "maxLength" in schema:
        values += ["a" * schema["maxLength"], "a" * (schema["maxLength"] + 1)]
        values += ["1" * schema["maxLength"], "1Gi", "1Pi", "1.1Pi", "500m", "0.1", "-1", "1GB"]
    return values


@pytest.mark.parametrize("path", [path for path in FIELDS if path.startswith("spec.")])
def test_parser_and_definition_draw_each_line_in_the_same_place(path: str) -> None:
    for value in boundaries(FIELDS[path]):
        spec: dict[str, Any] = {"pools": [pool(tolerations=[{"key": "a"}], capacity="1")]}
        at: Any = spec
        *way, last = path.removeprefix("spec.").replace("{}", ".key").split(".")
        for step in way:
            name = step.removesuffix("[]")
            at = at.setdefault(name, [{}] if step.endswith("[]") else {})
            at = at[0] if step.endswith("[]") else at
        at[last.removesuffix("[]")] = [value] if last.endswith("[]") else value
        agreed(spec)


quantities = st.sampled_from(
    ["0", "1", 1, 2, "250m", "500m", "1Gi", "512Mi", "1e3", "-1", "x", None]
)
amounts = st.fixed_dictionaries({}, optional={"cpu": quantities, "memory": quantities})
sizes = st.sampled_from(["5Gi", "10Gi", "1Ti", 1 << 33, "0", "1Z", None])
classes = st.sampled_from(["", "fast", None])
names = st.sampled_from(
    ["a", "b", "a-b", "b-c", "c", "default", "default-a", "on", "A", "", "x" * 45]
)
choices = st.sampled_from(["Retain", "Delete", "keep", None])
storages = st.fixed_dictionaries(
    {}, optional={"size": sizes, "storageClassName": classes, "whenScaled": choices}
)
pools = st.fixed_dictionaries(
    {"name": names, "replicas": st.integers(-1, 3)},
    optional={
        "capacity": st.sampled_from(["1", "0", "2.5", "1e3", "", None]),
        "resources": st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts}),
        "storage": storages,
        "tolerations": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "key": st.sampled_from(["", "a", "a/b", "/"]),
                    "operator": st.sampled_from(["Exists", "Equal", "In"]),
                    "value": st.sampled_from(["", "a", "a b"]),
                    "effect": st.sampled_from(["", "NoExecute", "NoSchedule"]),
                    "tolerationSeconds": st.sampled_from([0, 5, -1, None]),
                },
            ),
            max_size=2,
        ),
    },
)
small = st.integers(0, 4)
specs = st.fixed_dictionaries(
    {},
    optional={
        "replicas": small,
        "quorum": st.fixed_dictionaries(
            {}, optional={"replication": small, "r": small, "w": small}
        ),
        "zones": st.lists(names, max_size=3),
        "pools": st.lists(pools, max_size=3),
        "resources": st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts}),
        "storage": storages,
        "tracing": st.fixed_dictionaries(
            {},
            optional={
                "endpoint": st.from_regex(r"(https?|grpc)://[a-z0-9.:\[\]-]{1,9}(/a)?"),
                "sampleRatio": st.from_regex(r"[01]{1,3}([.][01]{1,3})?\n?"),
            },
        ),
        "limits": st.fixed_dictionaries(
            {}, optional={"valueBytesMax": small, "objectBytesMax": small}
        ),
    },
)


@settings(max_examples=100, deadline=None)
@given(specs)
def test_parser_and_definition_agree_on_whole_specs(spec: Any) -> None:
    agreed(spec)


@settings(max_examples=100, deadline=None)
@given(specs, specs)
def test_parser_and_definition_agree_on_edits(before: Any, after: Any) -> None:
    """An edit is of a whole spec: what is not drawn anew stays as it was."""
    edited = {**before, **after}
    old, new = read(manifest(before))[0], read(manifest(edited))[0]
    if old and new:
        refused = [change for change in changes.changes(old, new) if change.refusal]
        told = judged(manifest(edited), manifest(before))
        assert bool(refused) == bool(told), (before, edited, refused, told)
