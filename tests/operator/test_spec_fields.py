"""Fields, defaults and checks of the custom resource; mistakes name field, value and remedy."""

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
                    "tolerations": [{"key": "big", "operator": "Exists", "tolerationSeconds": 5}],
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


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"replica": 3}, "spec.replica is no known field: did you mean replicas?"),
        ({"quorum": {"R": 1}}, "spec.quorum.R is no known field: did you mean r?"),
        ({"xyzzy": 3}, "spec.xyzzy is no known field: known are"),
        ({"replicas": "3"}, 'spec.replicas is "3" (a string): it must be an integer (write 3 with'),
        ({"replicas": True}, "spec.replicas is true (a boolean): it must be an integer"),
        ({"replicas": 2.5}, "spec.replicas is 2.5 (a number): it must be an integer"),
        ({"replicas": -1}, "spec.replicas is -1: it must be between 0 and"),
        ({"replicas": [3]}, "spec.replicas is [3] (a list)"),
        ({"replicas": 2}, "spec.replicas is 2, and 2 node(s) are fewer than"),
        ({"quorum": 3}, "spec.quorum is 3 (an integer): it must be an object"),
        ({"quorum": {"r": 4}}, "spec.quorum.r is 4: it must be between 1 and"),
        ({"quorum": {"w": 0}}, "spec.quorum.w is 0: it must be between 1 and"),
        ({"quorum": {"replication": 1}}, "spec.quorum.r is 2 (the default): it must be between 1"),
        ({"quorum": {"replication": 17}}, "spec.quorum.replication is 17: it must be between 1"),
        (
            {"ring": {"partitions": 100}},
            "it must be a power of two between 16 and 8192",
        ),
        ({"ring": {"partitions": 8}}, "spec.ring.partitions is 8: it must be a power of two"),
        ({"ring": {"partitions": 16384}}, "such as 8192"),
        ({"reconciliation": "Siblings"}, "one of siblings, lastWriteWins (did you mean siblings?)"),
        ({"durability": "fast"}, 'spec.durability is "fast": it must be one of sync, buffered'),
        ({"image": 5}, 'spec.image is 5 (an integer): it must be a string (write "5" in quotes)'),
        ({"resources": {"requests": {"cpu": "1 core"}}}, "spec.resources.requests.cpu is"),
        ({"resources": {"requests": {"cpu": 0.5}}}, "it must be a quantity in quotes"),
        (
            {"resources": {"limits": {"cpu": "100m"}}},
            "it must be at least the request, which is 500m",
        ),
        ({"resources": {"requets": {}}}, "did you mean requests?"),
        ({"storage": {"size": "10GB"}}, "it must be a Kubernetes quantity, such as"),
        ({"storage": {"size": "0"}}, 'spec.storage.size is "0": it must be above 0'),
        ({"storage": {"size": "-1Gi"}}, "it must be above 0"),
        ({"storage": {"whenDeleted": "Keep"}}, "it must be one of Retain, Delete"),
        ({"storage": {"storageClassName": 1}}, "spec.storage.storageClassName is 1"),
        ({"zones": "a"}, 'spec.zones is "a" (a string): it must be a list'),
        ({"zones": ["a", False]}, "spec.zones[1] is false (a boolean): it must be a string"),
        ({"zones": ["no"]}, 'spec.zones[0] is "no": YAML 1.1 reads that as a boolean'),
        ({"zones": ["a", "a"]}, 'spec.zones[1] is "a", which stands there already'),
        ({"zones": ["A"]}, 'spec.zones[0] is "A": it must start with a lower-case letter'),
        ({"zones": [1]}, 'spec.zones[0] is 1 (an integer): it must be a string (write "1" in'),
        ({"pools": [{"replicas": 1}]}, "spec.pools[0].name is missing"),
        ({"pools": [{"name": "a"}]}, "spec.pools[0].replicas is missing"),
        ({"pools": [{"name": "default", "replicas": 1}]}, "that name is reserved"),
        ({"pools": [{"name": "on", "replicas": 1}]}, "YAML 1.1 reads that as a boolean"),
        ({"pools": [{"name": "a", "replicas": 1}] * 2}, "which another pool has already"),
        ({"pools": [{"name": "a", "replicas": 1, "capacity": 2}]}, 'write "2" in quotes'),
        ({"pools": [{"name": "a", "replicas": 1, "capacity": "0"}]}, "a decimal above 0"),
        ({"pools": [{"name": "a", "replicas": 1, "capacity": "1e3"}]}, "a decimal above 0"),
        (
            {"pools": [{"name": "a", "replicas": 1, "resources": {"requests": {"cpu": 0}}}]},
            "spec.pools[0].capacity can't be derived",
        ),
        (
            {"pools": [{"name": "a", "replicas": 1, "tolerations": [{"operator": "Equal"}]}]},
            "spec.pools[0].tolerations[0].key is empty",
        ),
        ({"pools": ["a"]}, 'spec.pools[0] is "a" (a string): it must be an object'),
        ({"security": {"tls": {"mode": "On"}}}, "one of Disabled, Operator, CertManager"),
        ({"security": {"clientAuth": {"mode": "none"}}}, "did you mean None?"),
        ({"tracing": {"sampleRatio": 0.01}}, 'decimals are strings here, write "0.01" in quotes'),
        ({"tracing": {"sampleRatio": "1.5"}}, 'a decimal between "0" and "1"'),
        ({"tracing": {"endpoint": "jaeger"}}, "it must be a URL such as"),
        ({"limits": {"valueBytesMax": 9000000}}, "it must be at least spec.limits.valueBytesMax"),
        ({"limits": {"siblingsMax": 0}}, "spec.limits.siblingsMax is 0: it must be between 1"),
        ({"paused": "yes"}, 'spec.paused is "yes" (a string): it must be true or false'),
        ({"updateStrategy": "Manual"}, "spec.updateStrategy is"),
        (7, "spec is 7 (an integer): it must be an object"),
        (
            {
                "zones": ["y-z", "z"],
                "pools": [{"name": "x", "replicas": 1}, {"name": "x-y", "replicas": 1}],
            },
            "makes the name cart-x-y-z",
        ),
    ],
)
def test_a_mistake_names_its_field_what_it_holds_and_what_would_be_right(
    spec: Any, told: str
) -> None:
    found = mistakes(cluster(spec))
    assert any(told in line for line in found), found
    assert len(found) == 1 or spec in ({"quorum": {"replication": 1}},), found


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
