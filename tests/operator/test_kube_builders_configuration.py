"""A node's configuration in a pod: its file, and the ConfigMap that holds it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.operator.kube_objects import EVERYTHING, IDENTITY, OWNED, OWNER, cluster, template

from dynamo_node.config import ANY
from dynamo_node.config_files import load
from dynamo_operator.kube import configuration, credentials, names
from dynamo_operator.spec import DynamoCluster

MIB = 1 << 20


def config(spec: Any = None, pool: int = 0) -> dict[str, Any]:
    made = cluster(spec)
    return configuration.node_config(made, made.spec.pools[pool])


def seed(pod: str) -> dict[str, Any]:
    return {"name": pod, "host": f"{pod}.cart-nodes.shop.svc", "native_port": 7070}


def test_the_file_as_a_whole() -> None:
    assert config() == {
        "data_dir": "/var/lib/dynamo/data",
        "host": "::",
        "http_port": 8080,
        "native_port": 7070,
        "admin_port": 8081,
        "admin_token_file": "/etc/dynamo/admin/token",
        "seeds": [seed("cart-default-0"), seed("cart-default-1"), seed("cart-default-2")],
        "quorum": {"r": 2, "w": 2},
        "reconciliation": "siblings",
        "durability": "sync",
        "limits": {
            "valueBytesMax": 1048576,
            "siblingsMax": 100,
            "objectBytesMax": 8388608,
        },
        "timing": {"drain_ms": 5000},
        "log": {"format": "json", "level": "info"},
        "storage": {"memory_bytes": 256 * MIB},
    }


def test_the_config_map_as_a_whole() -> None:
    made = cluster()
    pool = made.spec.default_pool
    found = configuration.config_map(made, OWNER, pool)
    text = found["data"].pop("node.json")
    name = f"cart-config-{configuration.config_hash(config())}"
    assert found == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": names.labels(made, "node"),
            "ownerReferences": OWNED,
        },
        "immutable": True,
        "data": {},
    }
    assert json.loads(text) == config()
    assert configuration.config_name(made, pool) == name


@pytest.mark.parametrize(("spec", "pool"), [(None, 0), (EVERYTHING, 0), (EVERYTHING, 1)])
def test_a_node_takes_it_with_the_identity_and_its_name(
    tmp_path: Path, spec: Any, pool: int
) -> None:
    """With the options that its pod gives it, and files as the kubelet makes them."""
    made = cluster(spec)
    built = configuration.config_map(made, OWNER, made.spec.pools[pool])
    secret = credentials.identity_secret(made, None, IDENTITY)
    identity = base64.b64decode(secret["data"]["identity.json"]).decode()
    for folder, data in (("config", built["data"]), ("identity", {"identity.json": identity})):
        (tmp_path / folder).mkdir()
        for name, text in data.items():
            (tmp_path / folder / name).write_text(text)
    (container,) = template(made, made.spec.pools[pool])["spec"]["containers"]
    options = list(pairs(container["args"]))
    paths = [b.replace("/etc/dynamo", str(tmp_path)) for a, b in options if a == "--config"]
    assert options[-1] == ("--name", "$(POD_NAME)")

    taken = load([Path(path) for path in paths], "cart-default-0")
    assert taken.name == "cart-default-0"
    assert (taken.cluster_name, taken.cluster_id.hex()) == ("cart", IDENTITY.cluster_id)
    assert taken.keyring == IDENTITY.keyring
    assert taken.admin_token_file == Path("/etc/dynamo/admin/token")
    assert taken.host == ANY
    assert (taken.http_port, taken.native_port, taken.admin_port) == (8080, 7070, 8081)
    assert (taken.settings.r, taken.settings.w) == (made.spec.quorum.r, made.spec.quorum.w)
    assert taken.durability == made.spec.durability
    assert taken.seeds[0].host == names.pod_host(taken.seeds[0].name, "cart", "shop")


def pairs(items: list[str]) -> Iterator[tuple[str, str]]:
    return zip(items[::2], items[1::2], strict=True)


def test_what_lies_where_is_mounted_there() -> None:
    made = cluster()
    spec = template(made, made.spec.default_pool)["spec"]
    mounts = {one["name"]: one["mountPath"] for one in spec["containers"][0]["volumeMounts"]}
    given = config()
    assert given["data_dir"].startswith(mounts["data"] + "/")
    assert given["admin_token_file"].startswith(mounts["admin"] + "/")
    assert sorted(mounts) == sorted(["data", *(one["name"] for one in spec["volumes"])])
    secrets = {one["secret"]["secretName"] for one in spec["volumes"] if "secret" in one}
    assert secrets == {names.identity_secret("cart"), names.admin_secret("cart")}


def test_seeds_are_the_first_of_each_zone_whatever_the_scale() -> None:
    zoned = {"zones": ["a", "b"], "replicas": 3}
    assert [one["name"] for one in config(zoned)["seeds"]] == [
        f"cart-default-{zone}-{ordinal}" for zone in "ab" for ordinal in range(3)
    ]
    pools = [{"name": "large", "replicas": 9}]
    assert config({**zoned, "replicas": 50, "pools": pools}) == config(zoned)


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({"memory": "1Gi"}, {}, 512 * MIB),
        ({"memory": "1Gi"}, {"memory": "8Gi"}, 512 * MIB),
        ({"memory": "0"}, {"memory": "8Gi"}, 4096 * MIB),
        ({"memory": "0"}, {}, None),
        ({"memory": "1M"}, {}, 16 * MIB),
        ({"memory": "1Pi"}, {}, 1 << 40),
        ({"memory": "1000000001"}, {}, 500_000_000),
    ],
)
def test_the_store_gets_half_of_what_the_pod_is_promised(
    requests: dict[str, str], limits: dict[str, str], expected: int | None
) -> None:
    found = config({"resources": {"requests": requests, "limits": limits}}).get("storage", {})
    assert found.get("memory_bytes") == expected


def test_pools_share_a_config_map_unless_their_memory_differs() -> None:
    def config_names(made: DynamoCluster) -> list[str]:
        return [configuration.config_name(made, pool) for pool in made.spec.pools]

    pools = [
        {"name": "equal", "replicas": 1, "resources": {"requests": {"cpu": "2"}}},
        {"name": "large", "replicas": 1, "resources": {"requests": {"memory": "1Gi"}}},
    ]
    default, equal, large = config_names(cluster({"pools": pools}))
    assert default == equal != large


def test_every_setting_names_another_map() -> None:
    """Live ones too: an immutable object can't hold anything else under its name."""
    edits: list[Any] = [
        None,
        {"quorum": {"r": 1}},
        {"quorum": {"w": 1}},
        {"limits": {"siblingsMax": 7}},
        {"durability": "buffered"},
        {"reconciliation": "lastWriteWins"},
    ]
    assert len({configuration.config_hash(config(edit)) for edit in edits}) == len(edits)
