"""Fields and defaults of the custom resource. What is refused stands in manifest_cases."""

from contextlib import suppress
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_operator.layout import places
from dynamo_operator.parsing import SpecError, parse
from dynamo_operator.quantities import decimal_text, quantity
from dynamo_operator.spec import DynamoCluster, Limits, Quorum, Storage

FOURFOLD = {"resources": {"requests": {"cpu": 2, "memory": "2Gi"}}}


def cluster(spec: Any = None, name: str = "cart", **more: Any) -> dict[str, Any]:
    value = {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "metadata": {"name": name},
        **more,
    }
    return value if spec is None else {**value, "spec": spec}


def parsed(spec: Any = None, name: str = "cart", **more: Any) -> DynamoCluster:
    return parse(cluster(spec, name, **more))


def mistakes(value: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(value)
    return [str(problem) for problem in caught.value.problems]


def test_everything_has_the_contracts_default() -> None:
    spec = parsed().spec
    assert spec.quorum == Quorum(3, 2, 2)
    assert spec.partitions == 256
    assert (spec.reconciliation, spec.durability, spec.image) == ("siblings", "sync", "")
    assert spec.zones == ()
    assert spec.limits == Limits(1048576, 100, 8388608)
    assert (spec.tracing.endpoint, spec.tracing.sample_ratio) == ("", "0.01")
    assert (spec.security.tls_mode, spec.security.client_auth_mode) == ("Disabled", "None")
    assert (spec.on_operator_upgrade, spec.paused, spec.dry_run) == ("Manual", False, False)
    (pool,) = spec.pools
    assert (pool.name, pool.replicas, pool.capacity) == ("default", 3, "1")
    assert pool.storage == Storage("10Gi", None, "Retain", "Delete")
    assert pool.resources.requests == (("cpu", "500m"), ("memory", "512Mi"))


def test_a_whole_manifest_is_read() -> None:
    read = parsed(
        {
            "replicas": 2,
            "quorum": {"replication": 3, "r": 1, "w": 3},
            "ring": {"partitions": 1024},
            "reconciliation": "lastWriteWins",
            "durability": "buffered",
            "image": "x:1",
            "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
            "storage": {"size": "20Gi", "storageClassName": "fast", "whenDeleted": "Delete"},
            "zones": ["a", "b"],
            "pools": [
                {
                    "name": "large",
                    "replicas": 2,
                    "capacity": "2.5",
                    "nodeSelector": {"disk": "ssd"},
                    "tolerations": [
                        {
                            "key": "big",
                            "operator": "Exists",
                            "effect": "NoExecute",
                            "tolerationSeconds": 5,
                        }
                    ],
                }
            ],
            "security": {"tls": {"mode": "Operator"}, "clientAuth": {"mode": "Token"}},
            "tracing": {"endpoint": "http://jaeger:4317", "sampleRatio": "1"},
            "limits": {"siblingsMax": 7},
            "updateStrategy": {"onOperatorUpgrade": "Automatic"},
            "paused": True,
            "dryRun": True,
        },
        status={"anything": 1},
    )
    large = read.spec.pools[1]
    assert large.capacity == "2.5"
    assert large.storage.storage_class_name == "fast"
    assert large.node_selector == (("disk", "ssd"),)
    assert large.tolerations[0].toleration_seconds == 5
    assert read.spec.nodes_total == 4
    assert read.spec.quorum == Quorum(3, 1, 3)


def test_null_means_left_out_as_for_the_api_server() -> None:
    assert parsed({"replicas": None, "quorum": None, "zones": None}) == parsed()


def test_a_default_that_a_rule_refuses_is_said_to_be_one() -> None:
    assert mistakes(cluster({"quorum": {"replication": 1}})) == [
        f"spec.quorum.{name} is 2 (the default): it must be between 1 and spec.quorum.replication, "
        "which is 1"
        for name in ("r", "w")
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "the document is empty"),
        ([], "the document is [] (a list)"),
        ({}, "apiVersion is missing"),
        (cluster(apiVersion="v1"), 'apiVersion is "v1": it must be dynamocluster.io/v1alpha1'),
        (cluster(metadata={}), "metadata.name is missing"),
        (cluster(metadata={"name": "Cart"}), 'metadata.name is "Cart": it must start with'),
        (cluster(metadata={"name": "9lives"}), "it must start with a lower-case letter"),
        (cluster(metadata={"name": "cart-"}), "and not end with -"),
        (cluster(metadata={"name": "cart", "lables": {}}), "did you mean labels?"),
        (cluster(name="c" * 45), "at most 52 fit"),
        (cluster(zones=[]), "zones is no known field"),
    ],
)
def test_mistakes_outside_the_spec(value: Any, told: str) -> None:
    assert any(told in line for line in mistakes(value))


def test_all_mistakes_are_told_together() -> None:
    wrong = {"replica": 1, "quorum": {"r": 9}, "paused": "on", "storage": {"size": "x"}}
    found = mistakes(cluster(wrong, name="Cart"))
    assert len(found) == 5, found


def test_the_longest_name_fits() -> None:
    assert parsed(name="c" * 44).name == "c" * 44


@pytest.mark.parametrize(
    ("pool", "capacity"),
    [
        ({"capacity": "2"}, "2"),
        ({}, "1"),
        (
            {**FOURFOLD, "storage": {"size": "40Gi"}},
            "4",
        ),
        (
            {**FOURFOLD, "storage": {"size": "20Gi"}},
            "2",
        ),
        (FOURFOLD, "1"),
        ({"resources": {"requests": {"memory": "384Mi"}}}, "0.75"),
        ({"resources": {"requests": {"cpu": "166m"}}}, "0.332"),
    ],
)
def test_capacity_is_given_or_follows_the_scarcest_request(pool: Any, capacity: str) -> None:
    spec = parsed({"pools": [{"name": "large", "replicas": 1, **pool}]}).spec
    assert spec.pools[1].capacity == capacity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("2", Fraction(2)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("1Ki", Fraction(1024)),
        ("1k", Fraction(1000)),
        ("1e3", Fraction(1000)),
        ("1E3", Fraction(1000)),
        ("1E", Fraction(10**18)),
        ("1Ei", Fraction(2**60)),
        ("3n", Fraction(3, 10**9)),
    ],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1GB", "1gi", "0x10", "1e999", "١", "1" * 99])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


def test_decimals_are_written_plainly() -> None:
    assert [decimal_text(Fraction(*v)) for v in ((1, 3), (40, 1), (2, 1), (5, 10**5))] == [
        "0.3333",
        "40",
        "2",
        "0.00005",
    ]


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({}, ["cart-default-0", "cart-default-1", "cart-default-2"]),
        (
            {"replicas": 2, "pools": [{"name": "large", "replicas": 1}]},
            ["cart-default-0", "cart-default-1", "cart-large-0"],
        ),
        (
            {"zones": ["a", "b"]},
            ["cart-default-a-0", "cart-default-b-0", "cart-default-a-1"],
        ),
        (
            # crc32("large") mod 3 is 1: its one node goes to the second zone.
            {"zones": ["a", "b", "c"], "pools": [{"name": "large", "replicas": 1}]},
            ["cart-default-a-0", "cart-default-b-0", "cart-default-c-0", "cart-large-b-0"],
        ),
    ],
)
def test_which_nodes_a_spec_means(spec: Any, names: list[str]) -> None:
    assert [place.name for place in places(parsed(spec))] == names


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
FIELDS = (
    *("replicas", "quorum", "ring", "reconciliation", "durability", "image", "resources"),
    *("storage", "zones", "pools", "security", "tracing", "limits", "updateStrategy", "paused"),
)
INNER = ("replication", "r", "w", "partitions", "size", "requests", "limits", "mode", "endpoint")


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), json_values)
    | st.builds(
        lambda outer, inner, value: {outer: {inner: value}},
        st.sampled_from(FIELDS),
        st.sampled_from(INNER),
        json_values,
    )
    | st.builds(lambda items: {"pools": items}, st.lists(json_values, max_size=3))
)
def test_nothing_that_a_manifest_holds_breaks_the_reader(spec: Any) -> None:
    with suppress(SpecError):
        assert parse(cluster(spec)).spec.nodes_total >= 1
