"""A node's configuration in a pod: the file `node.json`, and the ConfigMap that holds it.

Owns where things lie in a container, and which settings follow from the spec.
The rest of a node's configuration comes from elsewhere: cluster and keys from
the Secret of the identity, the node's name from its pod.

A ConfigMap is named by a hash of all it holds and never changes. A template
names one, and is pinned with it: settings that change live (r, w, limits) stand
in the file as they were when the template was made, and reach nodes through the
admin port from then on. So an edit of those makes no new template, although a
template made now would name another ConfigMap.

Forbidden: secrets, and anything that differs between pods of one set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from dynamo_operator.kube import names
from dynamo_operator.kube.metadata import metadata
from dynamo_operator.quantities import quantity
from dynamo_operator.rolling import settings
from dynamo_operator.spec import DynamoCluster, Pool

CONFIG_DIR: Final = "/etc/dynamo/config"
CONFIG_KEY: Final = "node.json"
IDENTITY_DIR: Final = "/etc/dynamo/identity"
IDENTITY_KEY: Final = "identity.json"
ADMIN_DIR: Final = "/etc/dynamo/admin"
ADMIN_KEY: Final = "token"
VOLUME_DIR: Final = "/var/lib/dynamo"
DATA_DIR: Final = f"{VOLUME_DIR}/data"  # beside the file system's own lost+found
DRAIN_MS: Final = 5000
"""How long a node that was told to stop still accepts: endpoints are gone everywhere by then."""

SEEDS_PER_SET: Final = 3
MEMORY_SHARE: Final = 2
MEMORY_BYTES_MIN: Final = 16 << 20  # what a node takes
MEMORY_BYTES_MAX: Final = 1 << 40


def node_config(cluster: DynamoCluster, pool: Pool) -> dict[str, Any]:
    """The content of node.json, as the node's configuration takes it together with identity.json.

    Equal for all zones of a pool, and for pools of equal memory.
    """
    config: dict[str, Any] = {
        "data_dir": DATA_DIR,
        "host": "::",  # both families, whichever the pod's network has
        "http_port": names.HTTP_PORT,
        "native_port": names.NATIVE_PORT,
        "admin_port": names.ADMIN_PORT,
        "admin_token_file": f"{ADMIN_DIR}/{ADMIN_KEY}",
        "seeds": _seeds(cluster),
        **settings(cluster),
        "timing": {"drain_ms": DRAIN_MS},
        "log": {"format": "json", "level": "info"},
    }
    memory = memory_bytes(pool)
    if memory is not None:
        config["storage"] = {"memory_bytes": memory}
    return config


def memory_bytes(pool: Pool) -> int | None:
    """What the store may use for memtables and blocks: half of what the pod is promised.

    That is the request, without one the limit, without both None: the node's default. What lies
    between request and limit is only lent, and who has filled it with a cache is evicted first.
    The other half is the process itself, requests in flight, and compactions.
    """
    requests, limits = dict(pool.resources.requests), dict(pool.resources.limits)
    promised = quantity(requests.get("memory", "0")) or quantity(limits.get("memory", "0"))
    if not promised:
        return None
    return max(MEMORY_BYTES_MIN, min(int(promised / MEMORY_SHARE), MEMORY_BYTES_MAX))


def config_hash(config: Mapping[str, Any]) -> str:
    """Names a configuration by all it holds: 16 hex."""
    return hashlib.sha256(_text(config).encode()).hexdigest()[:16]


def config_name(cluster: DynamoCluster, pool: Pool) -> str:
    """The ConfigMap that a template made now names."""
    return names.config_map(cluster.name, config_hash(node_config(cluster, pool)))


def config_map(cluster: DynamoCluster, owner: names.Owner, pool: Pool) -> dict[str, Any]:
    """The immutable ConfigMap of that name. It carries no pool: equal pools share it."""
    config = node_config(cluster, pool)
    name = names.config_map(cluster.name, config_hash(config))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, owner, name, "node"),
        "immutable": True,
        "data": {CONFIG_KEY: _text(config)},
    }


def _seeds(cluster: DynamoCluster) -> list[dict[str, Any]]:
    """The first ordinals of the default pool, whether or not there are as many.

    A name that doesn't resolve costs a seed's try and nothing else; so scaling changes no file.
    """
    return [
        {
            "name": pod,
            "host": names.pod_host(pod, cluster.name, cluster.namespace),
            "native_port": names.NATIVE_PORT,
        }
        for zone in cluster.spec.zones or ("",)
        for ordinal in range(SEEDS_PER_SET)
        for pod in [
            f"{names.set_name(cluster.name, cluster.spec.default_pool.name, zone)}-{ordinal}"
        ]
    ]


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True) + "\n"
