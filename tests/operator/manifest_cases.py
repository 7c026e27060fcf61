"""Manifests that are accepted or refused: one table for all who judge them.

`dynamo local` reads manifests by `manifest.read`; Kubernetes goes by the
CustomResourceDefinition. Both say the same, but for the cases that say otherwise here,
which docs/reference.md lists.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = {"apiVersion": "dynamocluster.io/v1alpha1", "kind": "DynamoCluster"}
KIND = "".join(f"{name}: {value}\n" for name, value in HEAD.items())


@dataclass(frozen=True, slots=True)
class Case:
    """told: a piece of what `dynamo local` says, "" if it accepts.

    server: the same of the API server, as kubectl asks it (field validation Strict); None if
    it says the same. text: the manifest where its YAML matters.
    """

    spec: Any = None
    told: str = ""
    server: str | None = None
    name: str = "cart"
    text: str = ""

    @property
    def manifest(self) -> dict[str, Any]:
        return manifest(self.spec, self.name)

    @property
    def yaml(self) -> str:
        return self.text or json.dumps(self.manifest)  # which is YAML

    @property
    def server_told(self) -> str:
        return self.told if self.server is None else self.server


def manifest(spec: Any = None, name: str = "cart") -> dict[str, Any]:
    value: dict[str, Any] = {**HEAD, "metadata": {"name": name}}
    return value if spec is None else {**value, "spec": spec}


def pool(name: str = "large", replicas: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "replicas": replicas, **more}


def tolerating(**toleration: Any) -> dict[str, Any]:
    return {"pools": [pool(tolerations=[toleration])]}


def requesting(**amounts: Any) -> Mapping[str, Any]:
    return {"resources": {"requests": amounts}}


def limited(**amounts: Any) -> Mapping[str, Any]:
    return {"resources": {"limits": amounts}}


NO_QUANTITY = "it must be a Kubernetes quantity, such as"
NO_NAME = "it must start with a lower-case letter"
NO_BOOLEAN = "YAML 1.1 reads that as a boolean, choose another name"
TEXT, INTEGER, OBJECT = (f"must be of type {name}" for name in ("string", "integer", "object"))
ITEMS = "must have at most 16 items"
LONG = "must have at most 52 characters"

ACCEPTED = (
    Case(),
    Case({}),
    Case({"replicas": None, "quorum": None, "zones": None, "storage": None}),
    Case({"replicas": 5, "quorum": {"replication": 5, "r": 1, "w": 5}}),
    Case({"quorum": {"replication": 1, "r": 1, "w": 1}, "replicas": 1}),
    Case({"replicas": 0, "pools": [pool(replicas=3)]}),
    Case({"replicas": 2, "pools": [pool(replicas=1)]}),
    Case({"ring": {"partitions": 16}, "reconciliation": "lastWriteWins"}),
    Case({"ring": {"partitions": 8192}, "durability": "buffered"}),
    Case({"image": "registry.example:5000/dynamo-node@sha256:0a"}),
    Case({"storage": {"size": 1000000000, "storageClassName": None}}),
    Case({"storage": {"size": "1.5Ti", "storageClassName": "", "whenDeleted": "Delete"}}),
    Case({"storage": {"size": "1Pi", "whenScaled": "Retain"}}),
    Case(requesting(cpu=2)),
    Case(requesting(cpu="1500m", memory="2e9")),
    Case(requesting(cpu=0, **{"ephemeral-storage": "1Gi"})),
    Case({"resources": {"requests": {"cpu": None}, "limits": {"memory": "512Mi"}}}),
    Case(limited(cpu=1, **{"ephemeral-storage": "1Gi"})),
    Case({"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": 1073741824}}}),
    Case({"zones": ["a", "b", "c"], "replicas": 6}),
    Case({"zones": ["eu-west-1a", "eu-west-1b"]}),
    Case({"pools": [pool(), pool("small", 0, capacity="0.25")]}),
    Case({"pools": [pool(capacity=None, storage=None, resources=None, nodeSelector=None)]}),
    Case({"pools": [pool(storage={})]}),
    Case({"pools": [pool(storage={"size": "20Gi"}, resources={"requests": {"cpu": 2}})]}),
    Case({"pools": [pool(storage={"storageClassName": "fast", "whenScaled": "Retain"})]}),
    Case({"pools": [pool(resources={"requests": {"cpu": 0}}, capacity="1")]}),
    Case({**requesting(cpu=0), "pools": [pool(resources={"requests": {"cpu": 0}})]}),
    Case({"pools": [pool(nodeSelector={"disk": "ssd", "example.com/rack": "", "gone": None})]}),
    Case(tolerating(operator="Exists")),
    Case(tolerating(key="big")),
    Case(tolerating(key="big", value="yes", effect="NoExecute", tolerationSeconds=0)),
    Case({"security": {"tls": {"mode": "CertManager"}, "clientAuth": {"mode": "Token"}}}),
    Case({"tracing": {"endpoint": "http://jaeger-collector:4317", "sampleRatio": "1"}}),
    Case({"tracing": {"endpoint": "https://[::1]:4317/v1/traces?x=y", "sampleRatio": "0"}}),
    Case({"tracing": {"endpoint": "grpc://jaeger:5555"}}),
    Case({"tracing": {"sampleRatio": "001.000"}}),
    Case({"limits": {"valueBytesMax": 1, "siblingsMax": 10000, "objectBytesMax": 50331648}}),
    Case({"updateStrategy": {"onOperatorUpgrade": "Automatic"}, "paused": True, "dryRun": True}),
    Case(
        text=f"{KIND}metadata: {{name: cart}}\nspec: {{replicas: 3.0, storage: {{size: 2e10}}}}\n"
    ),
    Case(name="c" * 44),
    Case({"zones": ["z" * 42]}, name="c"),
    Case({"pools": [pool("p" * 50)]}, name="c"),
    Case({"zones": ["y-z", "z"], "pools": [pool("x"), pool("x-w")]}),
)

REFUSED = (
    # Unknown fields: `kubectl` asks for strict validation; without it they are dropped.
    Case(
        {"replica": 3},
        "spec.replica is no known field: did you mean replicas?",
        'unknown field "spec.replica"',
    ),
    Case({"quorum": {"R": 1}}, "did you mean r?", 'unknown field "spec.quorum.R"'),
    Case({"xyzzy": 3}, "spec.xyzzy is no known field: known are", 'unknown field "spec.xyzzy"'),
    Case(
        {"resources": {"requets": {}}},
        "did you mean requests?",
        'unknown field "spec.resources.requets"',
    ),
    Case(
        requesting(mem="1Gi"), "did you mean memory?", 'unknown field "spec.resources.requests.mem"'
    ),
    Case(
        {"pools": [pool(storage={"sizes": 1})]},
        "did you mean size?",
        'unknown field "spec.pools[0].storage.sizes"',
    ),
    # Types.
    Case(
        {"replicas": "3"},
        'spec.replicas is "3" (a string): it must be an integer (write 3 with',
        INTEGER,
    ),
    Case(
        {"replicas": True},
        "spec.replicas is true (a boolean): it must be an integer",
        "must be of type int",
    ),
    Case(
        {"replicas": 2.5},
        "spec.replicas is 2.5 (a number): it must be an integer",
        INTEGER,
    ),
    Case({"replicas": [3]}, "spec.replicas is [3] (a list)", INTEGER),
    Case(
        {"quorum": 3},
        "spec.quorum is 3 (an integer): it must be an object",
        OBJECT,
    ),
    Case(
        {"image": 5},
        'spec.image is 5 (an integer): it must be a string (write "5" in quotes)',
        TEXT,
    ),
    Case({"storage": {"storageClassName": 1}}, "spec.storage.storageClassName is 1", TEXT),
    Case(
        {"zones": "a"}, 'spec.zones is "a" (a string): it must be a list', "must be of type array"
    ),
    Case({"zones": ["a", False]}, "spec.zones[1] is false (a boolean): it must be a string", TEXT),
    Case(
        {"zones": [1]}, 'spec.zones[0] is 1 (an integer): it must be a string (write "1" in', TEXT
    ),
    Case(
        {"pools": ["a"]},
        'spec.pools[0] is "a" (a string): it must be an object',
        OBJECT,
    ),
    Case({"pools": [pool(capacity=2)]}, 'write "2" in quotes', TEXT),
    Case(
        {"pools": [pool(nodeSelector={"ssd": True})]},
        "spec.pools[0].nodeSelector.ssd is true",
        TEXT,
    ),
    Case(
        {"tracing": {"sampleRatio": 0.01}},
        'decimals are strings here, write "0.01" in quotes',
        TEXT,
    ),
    Case(
        {"paused": "yes"},
        'spec.paused is "yes" (a string): it must be true or false',
        "must be of type boolean",
    ),
    Case({"updateStrategy": "Manual"}, "spec.updateStrategy is", OBJECT),
    Case(7, "spec is 7 (an integer): it must be an object", OBJECT),
    # Bounds.
    Case(
        {"replicas": -1},
        "spec.replicas is -1: it must be between 0 and",
        "greater than or equal to 0",
    ),
    Case({"replicas": 1001}, "it must be between 0 and 1000", "less than or equal to 1000"),
    Case(
        {"quorum": {"w": 0}},
        "spec.quorum.w is 0: it must be between 1 and",
        "greater than or equal to 1",
    ),
    Case(
        {"quorum": {"replication": 17}},
        "spec.quorum.replication is 17: it must be between 1",
        "less than or equal to 16",
    ),
    Case(
        {"limits": {"siblingsMax": 0}},
        "spec.limits.siblingsMax is 0: it must be between 1",
        "greater than or equal to 1",
    ),
    Case(
        {"zones": [f"z{i}" for i in range(17)]},
        "spec.zones has 17 items: it must have at most 16",
        ITEMS,
    ),
    Case(
        {"pools": [pool(f"p{i}") for i in range(17)]},
        "it must have at most 16",
        ITEMS,
    ),
    Case({"zones": ["z" * 43]}, "spec.zones[0] is too long (43 characters)", "Too long"),
    Case(
        {"image": "x" * 513}, "spec.image is too long (513 characters): at most 512 fit", "Too long"
    ),
    Case(requesting(cpu="0" * 31), "is too long (31 characters): at most 30 fit", "Too long"),
    # Choices.
    Case(
        {"reconciliation": "Siblings"},
        "one of siblings, lastWriteWins (did you mean siblings?)",
        'supported values: "siblings", "lastWriteWins"',
    ),
    Case(
        {"durability": "fast"},
        'spec.durability is "fast": it must be one of sync, buffered',
        'supported values: "sync", "buffered"',
    ),
    Case(
        {"storage": {"whenDeleted": "Keep"}}, "it must be one of Retain, Delete", "supported values"
    ),
    Case(
        {"security": {"tls": {"mode": "On"}}},
        "one of Disabled, Operator, CertManager",
        "supported values",
    ),
    Case({"security": {"clientAuth": {"mode": "none"}}}, "did you mean None?", "supported values"),
    # Rules.
    Case({"replicas": 2}, "fewer than spec.quorum.replication, which is 3: raise the replicas or"),
    Case({"replicas": 1, "pools": [pool()]}, "2 node(s) of all pools together are fewer than"),
    Case(
        {"quorum": {"r": 4}}, "is 4: it must be between 1 and spec.quorum.replication, which is 3"
    ),
    Case(
        {"quorum": {"replication": 1}},
        "it must be between 1 and spec.quorum.replication, which is 1",
    ),
    Case({"ring": {"partitions": 100}}, "is 100: it must be a power of two between 16 and 8192"),
    Case({"ring": {"partitions": 8}}, "is 8: it must be a power of two"),
    Case({"ring": {"partitions": 16384}}, "is 16384: it must be a power of two"),
    Case({"ring": {"partitions": 16384}}, "such as 8192", "it must be a power of two"),
    Case({"image": "a b"}, 'is "a b": it must be an image such as'),
    Case(requesting(cpu="1 core"), NO_QUANTITY),
    Case(requesting(cpu=0.5), "it must be a quantity in quotes", "must be of type"),
    Case(limited(memory="-1"), "it must be at least 0"),
    Case(limited(memory="2Pi"), "it must be at most 1Pi"),
    Case(limited(cpu="100m"), "it must be at least the request, which is 500m"),
    Case(
        {"pools": [pool(resources={"limits": {"memory": "1Mi"}})]}, "must be at least the request"
    ),
    Case(
        {"pools": [pool(resources={"requests": {"cpu": 2}})], **limited(cpu=1)},
        "must be at least the request",
    ),
    Case({"storage": {"size": "10GB"}}, NO_QUANTITY),
    Case({"storage": {"size": "0"}}, 'is "0": it must be above 0'),
    Case({"storage": {"size": "-1Gi"}}, "it must be above 0"),
    Case({"storage": {"size": "2Pi"}}, "it must be at most 1Pi"),
    Case({"pools": [pool(storage={"size": "x"})]}, NO_QUANTITY),
    Case({"zones": ["no"]}, f'is "no": {NO_BOOLEAN}'),
    Case(
        {"zones": ["a", "a"]},
        'spec.zones[1] is "a", which stands there already: name each zone once',
        "name each zone once",
    ),
    Case({"zones": ["A"]}, f'is "A": {NO_NAME}'),
    Case({"zones": [""]}, NO_NAME),
    Case(
        {"pools": [{"replicas": 1}]},
        "spec.pools[0].name is missing",
        "spec.pools[0].name: Required value",
    ),
    Case(
        {"pools": [{"name": "a"}]},
        "spec.pools[0].replicas is missing",
        "spec.pools[0].replicas: Required value",
    ),
    Case({"pools": [pool("default")]}, "that name is reserved for the nodes of spec.replicas"),
    Case({"pools": [pool("on")]}, f'is "on": {NO_BOOLEAN}'),
    Case({"pools": [pool("Large")]}, NO_NAME),
    Case({"pools": [pool("a")] * 2}, "which another pool has already", "Duplicate value"),
    Case({"pools": [pool(capacity="0")]}, 'is "0": it must be a decimal above 0'),
    Case({"pools": [pool(capacity="1e3")]}, "a decimal above 0"),
    Case({"pools": [pool(capacity=f"{10**12}")]}, "a decimal above 0"),
    Case({"pools": [pool(resources={"requests": {"cpu": 0}})]}, "can't be derived"),
    Case({"pools": [pool(nodeSelector={"disk": "a b"})]}, "at most 63 of letters, digits"),
    Case(tolerating(operator="Equal"), "is empty: that takes the operator Exists"),
    Case(
        tolerating(key="a", operator="Exists", value="b"),
        "must be left out when the operator is Exists",
    ),
    Case(tolerating(key="a", tolerationSeconds=5), "takes the effect NoExecute"),
    Case(tolerating(key="a b"), "a label's name, such as disk or example.com/disk"),
    Case(tolerating(key="a", effect="Never"), "it must be one of", "supported values"),
    Case({"tracing": {"sampleRatio": "1.5"}}, 'is "1.5": it must be a decimal between "0" and "1"'),
    Case({"tracing": {"endpoint": "jaeger"}}, 'is "jaeger": it must be a URL such as'),
    Case({"tracing": {"endpoint": "ftp://jaeger:4317"}}, "it must be a URL such as"),
    Case(
        {"limits": {"valueBytesMax": 9000000}},
        "it must be at least spec.limits.valueBytesMax, which is 9000000",
    ),
    # Names.
    Case(told=f'is "9lives": {NO_NAME}', name="9lives"),
    Case(told="and not end with -", server="a lowercase RFC 1123 subdomain", name="cart-"),
    Case(told=NO_NAME, server="a lowercase RFC 1123 subdomain", name="Cart"),
    Case(told=f'is "shop.cart": {NO_NAME}', name="shop.cart"),
    Case(told="at most 52 fit", server=LONG, name="c" * 45),
    Case({"zones": ["z" * 42]}, "at most 52 fit", LONG, name="ca"),
    Case({"pools": [pool("p" * 50)]}, "at most 52 fit", LONG, name="ca"),
    Case(
        {"pools": [pool("p" * 20)], "zones": ["z" * 28]},
        "at most 52 fit",
        LONG,
        name="abc",
    ),
    Case(
        {"zones": ["y-z", "z"], "pools": [pool("x"), pool("x-y")]},
        "makes the name cart-x-y-z",
        "makes the name of another pool with another zone",
    ),
    Case(
        {"zones": ["y-z", "z"], "pools": [pool("default-y")]},
        "makes the name cart-default-y-z",
        "makes the name of another pool with another zone",
    ),
    # As kubectl reads YAML.
    Case(
        told="spec.zones[1] is true (a boolean)",
        server=TEXT,
        text=f"{KIND}metadata: {{name: cart}}\nspec:\n  zones: [a, on]\n",
    ),
    # What only one of the two can see.
    Case({"pools": [pool(nodeSelector={"a b": "c"})]}, 'has the key "a b": it must be a label', ""),
    Case(
        {"pools": [pool(resources={"requests": {"cpu": "1n"}}), pool("b")], **requesting(cpu=4)},
        "can't be derived",
        "",
    ),
)

# Every field that the operator writes.
WHOLE_STATUS = {
    "observedGeneration": 4,
    "replicas": 3,
    "readyReplicas": 3,
    "selector": "dynamocluster.io/cluster=cart,dynamocluster.io/pool=default",
    "nodesTotal": 5,
    "nodesReady": 4,
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "QuorumMet",
            "message": "every key can be read and written",
            "observedGeneration": 4,
            "lastTransitionTime": "2026-01-31T12:00:00Z",
        }
    ],
    "ring": {"epoch": 7, "settled": True, "imbalance": "0.03", "zonesDistinct": 3},
    "nodes": [
        {
            "name": "cart-default-0",
            "pool": "default",
            "zone": "",
            "state": "up",
            "capacity": "1",
            "tokens": 256,
            "ownershipPercent": "33.3",
            "hintsPending": 0,
            "incarnation": "a1",
        }
    ],
    "operation": {
        "kind": "ScaleUp",
        "node": "cart-default-3",
        "step": "wait until 3 slot(s) have moved",
        "bytesDone": 1,
        "bytesTotal": 10,
        "bytesPerSecond": 1,
        "etaSeconds": 9,
        "stalled": False,
    },
    "plan": ["start cart-default-3"],
}
