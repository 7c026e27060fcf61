"""YAML is read as kubectl reads it, and what can't be read is told with its line."""

from pathlib import Path

import pytest

from dynamo_operator import manifest
from dynamo_operator.layout import places
from dynamo_operator.manifest import ManifestError
from dynamo_operator.observed import Address, Observed, ObservedNode
from dynamo_operator.plan import plan
from dynamo_operator.spec import DynamoCluster

EXAMPLES = Path(__file__).parents[2] / "examples"

# What these show is accepted, and said to be not carried out yet.
NOT_YET = {
    "tls": {"spec.security.tls.mode", "spec.security.clientAuth.mode"},
}
HEAD = "apiVersion: dynamocluster.io/v1alpha1\nkind: DynamoCluster\n"


def value_of(text: str) -> object:
    return manifest.documents(text)[0].value


def cases(*words: str) -> list[str]:
    return sorted({case for word in words for case in (word, word.capitalize(), word.upper())})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(
            (word, True)
            for word in ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"]
        ),
        *(
            (word, False)
            for word in ["n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"]
        ),
        *((word, None) for word in ("~", "null", "Null", "NULL", "")),
        ("yEs", "yEs"),
        ("None", "None"),
        ("7", 7),
        ("-7", -7),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b101", 5),
        ("010", 8),
        ("0o10", 8),
        ("08", 8),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000),
        ("3.0", 3),
        ("1e30", 1e30),
        ("12:30:00", "12:30:00"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("500m", "500m"),
        ("_1", "_1"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_words_mean_what_they_mean_to_kubectl(word: str, value: object) -> None:
    read = value_of(f"a: {word}")["a"]
    assert read == value
    assert type(read) is type(value)


def test_quoted_words_and_blocks_are_text() -> None:
    text = "a: 'yes'\nb: \"12\"\nc: |\n  on\nd: !!str 5\n"
    assert value_of(text) == {"a": "yes", "b": "12", "c": "on\n", "d": "5"}


def test_anchors_and_merges_are_followed_and_own_fields_win() -> None:
    text = "base: &b {x: 1, y1: 2}\nmore: {<<: *b, x: 3}\n"
    assert value_of(text)["more"] == {"x": 3, "y1": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: {x: 1,\n  x: 2}\n", "m.yaml:3: the field b.x stands here twice"),
        ("a: [1, 2\n", "m.yaml:2: not YAML"),
        ("a: &a [*a]\n", "an anchor contains itself"),
        ("y: 1\n", "m.yaml:1: the field name `y` is a boolean"),
        ("? [a]\n: 1\n", "a field's name must be text"),
        ("a: !!binary aGk=\n", "the tag !!binary can't be read"),
        ("a: !thing 1\n", "the tag !thing can't be read"),
        ("a: \x00\n", "not YAML"),
        ("[" * 5000, "m.yaml"),
        ("a: " + "x" * manifest.BYTES_MAX, "larger than"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
            "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
            "e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
            "more than 20000 values",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.documents(text, "m.yaml")
    assert told in str(caught.value)


def test_other_kinds_beside_the_cluster_are_named_and_passed_over() -> None:
    text = f"---\napiVersion: v1\nkind: Namespace\n---\n{HEAD}metadata: {{name: cart}}\n---\n"
    read = manifest.read(text)
    assert read.cluster.name == "cart"
    assert read.ignored == ("Namespace",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "m.yaml: there is no DynamoCluster in it (it is empty)"),
        ("kind: Pod\n", "there is no DynamoCluster in it (it holds Pod)"),
        (
            f"{HEAD}metadata: {{name: a}}\n---\n{HEAD}metadata: {{name: b}}\n",
            "there are 2 DynamoCluster documents in it (lines 1, 5)",
        ),
        ("just words\n", 'the document is "just words" (a string): it must be an object'),
        ("- a\n", "(a list): it must be an object"),
        (
            HEAD.replace("Cluster\n", "Clutser\n"),
            'kind is "DynamoClutser": it must be DynamoCluster',
        ),
        (f"{HEAD}metadata: {{name: a}}\nspec:\n  replicas: x\n", "m.yaml:5: spec.replicas is"),
        (
            f"{HEAD}metadata: {{name: a}}\nspec:\n  zones:\n  - a\n  - on\n",
            "m.yaml:7: spec.zones[1]",
        ),
    ],
)
def test_exactly_one_cluster_is_wanted(text: str, told: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.read(text, "m.yaml")
    assert told in str(caught.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_can_be_carried_out_or_says_that_it_cant_yet(path: Path) -> None:
    cluster = manifest.read(path.read_text(), path.name).cluster
    made = plan(cluster, Observed("", None, None, nobody(cluster)), "2026-01-31T12:00:00Z")
    refused = {refusal.field for refusal in made.refusals}
    assert refused == NOT_YET.get(path.stem, set())
    assert bool(made.act) == (not refused)


def nobody(cluster: DynamoCluster) -> dict[str, ObservedNode]:
    address = Address("127.0.0.1", 1, 2, 3)
    names = [place.name for place in places(cluster)]
    return {name: ObservedNode(name, address, False, False, "", None) for name in names}
