"""StatefulSets and pod templates: what they say, and by which hash they are pinned."""

import re
from copy import deepcopy
from typing import Any

import pytest
from tests.operator.kube_objects import (
    CLUSTER_ID,
    EVERYTHING,
    OWNED,
    OWNER,
    RELEASE,
    cluster,
    objects,
    stateful_sets,
    template,
)

from dynamo_node.config import Timing
from dynamo_node.supervisor import FINISH_S
from dynamo_operator.changes import changes
from dynamo_operator.kube import configuration, names, pods, sets
from dynamo_operator.spec import NODES_MAX, DynamoCluster

IMAGE = RELEASE.image


def the_set(spec: Any = None) -> dict[str, Any]:
    return stateful_sets(cluster(spec))[0]


def pod(spec: Any = None) -> dict[str, Any]:
    return the_set(spec)["spec"]["template"]["spec"]


def hashed(made: DynamoCluster, image: str = IMAGE) -> str:
    return sets.spec_hash(made, made.spec.pools[-1], "", made.spec.image or image)


def test_a_set_as_a_whole() -> None:
    made = cluster()
    labels = {
        "dynamocluster.io/cluster": "cart",
        "dynamocluster.io/pool": "default",
        "app.kubernetes.io/name": "dynamo",
        "app.kubernetes.io/instance": "cart",
        "app.kubernetes.io/component": "node",
        "app.kubernetes.io/managed-by": "dynamo-operator",
    }
    pinned = {
        "dynamocluster.io/built-by": "0.1.0",
        "dynamocluster.io/spec-hash": sets.spec_hash(made, made.spec.default_pool, "", IMAGE),
    }
    noted = {**pinned, "dynamocluster.io/pinned-image": IMAGE}  # the operator's own: none is given
    found = the_set()
    pod_template = found["spec"].pop("template")
    assert pod_template["metadata"] == {"labels": labels, "annotations": noted}
    assert found == {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": "cart-default",
            "namespace": "shop",
            "labels": labels,
            "annotations": pinned,
            "ownerReferences": OWNED,
        },
        "spec": {
            "replicas": 3,
            "serviceName": "cart-nodes",
            "selector": {
                "matchLabels": {
                    "dynamocluster.io/cluster": "cart",
                    "dynamocluster.io/pool": "default",
                }
            },
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain",
                "whenScaled": "Retain",
            },
            "revisionHistoryLimit": 5,
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {
                        "name": "data",
                        "labels": labels,
                        "annotations": {"dynamocluster.io/cluster-id": CLUSTER_ID},
                    },
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "10Gi"}},
                    },
                }
            ],
        },
    }


def test_a_pod_as_a_whole() -> None:
    config = configuration.config_name(cluster(), cluster().spec.default_pool)
    everywhere = {"labelSelector": {"matchLabels": {"dynamocluster.io/cluster": "cart"}}}

    def probe(path: str, period: int, timeout: int, failures: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        }

    assert pod() == {
        "serviceAccountName": "cart-nodes",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                **everywhere,
            }
        ],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "topology.kubernetes.io/zone",
                            **everywhere,
                        },
                    }
                ]
            }
        },
        "containers": [
            {
                "name": "node",
                "image": IMAGE,
                "args": [
                    "--config",
                    "/etc/dynamo/config/node.json",
                    "--config",
                    "/etc/dynamo/identity/identity.json",
                    "--name",
                    "$(POD_NAME)",
                ],
                "env": [
                    {
                        "name": "POD_NAME",
                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                    }
                ],
                "ports": [
                    {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                    {"name": "native", "containerPort": 7070, "protocol": "TCP"},
                    {"name": "admin", "containerPort": 8081, "protocol": "TCP"},
                ],
                "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}},
                "startupProbe": probe("/healthz", 2, 3, 1800),
                "readinessProbe": probe("/readyz", 3, 3, 2),
                "livenessProbe": probe("/healthz", 10, 5, 6),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "data", "mountPath": "/var/lib/dynamo"},
                    {"name": "config", "mountPath": "/etc/dynamo/config", "readOnly": True},
                    {"name": "identity", "mountPath": "/etc/dynamo/identity", "readOnly": True},
                    {"name": "admin", "mountPath": "/etc/dynamo/admin", "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "config", "configMap": {"name": config}},
            {"name": "identity", "secret": {"secretName": "cart-identity", "defaultMode": 0o440}},
            {"name": "admin", "secret": {"secretName": "cart-admin", "defaultMode": 0o440}},
        ],
    }


def test_one_set_for_each_pool_and_zone() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in stateful_sets(cluster(EVERYTHING))}
    assert {name: spec["replicas"] for name, spec in found.items()} == {
        "cart-default-a": 2,
        "cart-default-b": 1,
        "cart-default-c": 1,
        "cart-large-a": 0,
        "cart-large-b": 1,
        "cart-large-c": 1,
    }
    for name, spec in found.items():
        _, pool, zone = name.split("-")
        labels = {
            f"dynamocluster.io/{key}": value for key, value in (("pool", pool), ("zone", zone))
        }
        assert spec["selector"]["matchLabels"] == {"dynamocluster.io/cluster": "cart", **labels}
        assert labels.items() <= spec["template"]["metadata"]["labels"].items()
        assert spec["template"]["spec"]["affinity"] == {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {
                                    "key": "topology.kubernetes.io/zone",
                                    "operator": "In",
                                    "values": [zone],
                                }
                            ]
                        }
                    ]
                }
            }
        }


def test_what_the_spec_asks_for_of_machines_and_volumes() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in stateful_sets(cluster(EVERYTHING))}
    default, large = found["cart-default-a"], found["cart-large-a"]
    claims = [spec["volumeClaimTemplates"][0]["spec"] for spec in (default, large)]
    assert [(c["resources"]["requests"]["storage"], c["storageClassName"]) for c in claims] == [
        ("1Ti", "fast"),
        ("2Ti", ""),  # which says: a volume without a class
    ]
    assert "storageClassName" not in the_set()["spec"]["volumeClaimTemplates"][0]["spec"]
    assert "nodeSelector" not in default["template"]["spec"]
    at = large["template"]["spec"]
    assert at["nodeSelector"] == {"disk": "nvme"}
    assert at["tolerations"] == [
        {"key": "store", "operator": "Exists", "effect": "NoSchedule"},
        {
            "key": "slow",
            "operator": "Equal",
            "value": "yes",
            "effect": "NoExecute",
            "tolerationSeconds": 0,
        },
        {"operator": "Exists"},
    ]
    assert default["template"]["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "8Gi"},
    }


def test_a_pod_may_stop_for_longer_than_a_node_takes() -> None:
    assert Timing().drain_ms == configuration.DRAIN_MS
    assert pods.STOP_SECONDS > 2 * (configuration.DRAIN_MS / 1000 + FINISH_S)


def test_a_pod_meets_the_restricted_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, as of 1.30."""
    for made in stateful_sets(cluster(EVERYTHING)):
        spec = made["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        kinds = {kind for volume in spec["volumes"] for kind in set(volume) - {"name"}}
        assert kinds <= {"configMap", "emptyDir", "projected", "secret"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            rules = container["securityContext"]
            assert rules["allowPrivilegeEscalation"] is False
            assert rules["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in rules
            assert not any("hostPort" in port for port in container["ports"])


# --- the hash ------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "pools": [{"name": "large", "replicas": 2, "storage": {"size": "20Gi"}, "capacity": "2"}],
    "storage": {"size": "10Gi"},
}
EDITS: dict[str, Any] = {
    "replicas": 5,
    "quorum.r": 1,
    "quorum.w": 3,
    "limits.valueBytesMax": 7,
    "limits.siblingsMax": 7,
    "limits.objectBytesMax": 9 << 20,
    "storage.size": "11Gi",
    "storage.whenDeleted": "Delete",
    "storage.whenScaled": "Retain",
    "updateStrategy.onOperatorUpgrade": "Automatic",
    "paused": True,
    "dryRun": True,
    "durability": "buffered",
    "image": "other:1",
    "resources.requests.memory": "1Gi",
    "resources.requests.cpu": "2",
    "resources.limits.cpu": "4",
    "pools.0.replicas": 3,
    "pools.0.capacity": "3",
    "pools.0.storage.size": "21Gi",
    "pools.0.storage.whenDeleted": "Delete",
    "pools.0.storage.whenScaled": "Retain",
    "pools.0.resources.requests.memory": "1Gi",
    "pools.0.resources.limits.memory": "1Gi",
    "pools.0.nodeSelector.disk": "nvme",
    "pools.0.tolerations": [{"key": "store", "operator": "Exists"}],
}


def edited(at: str, value: object) -> DynamoCluster:
    spec = deepcopy(BASE)
    *way, last = at.split(".")
    inside: Any = spec
    for step in way:
        inside = inside[int(step)] if isinstance(inside, list) else inside.setdefault(step, {})
    inside[last] = value
    return cluster(spec)


@pytest.mark.parametrize("at", EDITS)
def test_exactly_the_edits_that_restart_nodes_change_the_hash(at: str) -> None:
    before, after = cluster(BASE), edited(at, EDITS[at])
    kinds = {change.kind for change in changes(before, after)}
    assert kinds, "the edit says something"
    assert (hashed(before) != hashed(after)) == ("rolling" in kinds)


@pytest.mark.parametrize("at", [at for at in EDITS if at.startswith("pools.")])
def test_an_edit_of_one_pool_leaves_the_others_alone(at: str) -> None:
    before, after = cluster(BASE), edited(at, EDITS[at])
    for made in (before, after):
        assert sets.spec_hash(made, made.spec.default_pool, "", IMAGE) == sets.spec_hash(
            before, before.spec.default_pool, "", IMAGE
        )


def test_no_rolling_field_is_taken_for_another() -> None:
    same_amount = {"pools.0.resources.requests.cpu": "4", "pools.0.resources.limits.cpu": "4"}
    fields = {
        "image": "other:1",
        "durability": "buffered",
        "reconciliation": "lastWriteWins",
        "pools.0.nodeSelector.cpu": "4",
        "pools.0.tolerations": [{"key": "cpu", "value": "4"}],
        **same_amount,
    }
    found = [hashed(cluster(BASE)), *(hashed(edited(at, value)) for at, value in fields.items())]
    made = cluster(EVERYTHING)
    found += [sets.spec_hash(made, made.spec.default_pool, zone, IMAGE) for zone in "abc"]
    assert len(set(found)) == len(found)


def test_the_same_amount_in_other_words_restarts_nothing() -> None:
    one = cluster({"resources": {"requests": {"cpu": "500m", "memory": "512Mi"}}})
    other = cluster({"resources": {"requests": {"cpu": "0.5", "memory": "536870912"}}})
    assert hashed(one) == hashed(other) == hashed(cluster())


def test_the_order_of_tolerations_says_nothing() -> None:
    several = [{"operator": "Exists"}, {"key": "a", "value": "b"}, {"key": "a", "value": "c"}]
    one, other = (
        edited("pools.0.tolerations", several),
        edited("pools.0.tolerations", several[::-1]),
    )
    assert hashed(one) == hashed(other)


def test_the_hash_is_the_same_in_every_version() -> None:
    """Never change these values: whoever does restarts every node at the operator's upgrade."""
    made = cluster(EVERYTHING)
    default, large = made.spec.pools
    plain = cluster()
    found = [
        sets.spec_hash(plain, plain.spec.default_pool, "", IMAGE),
        sets.spec_hash(made, default, "a", made.spec.image),
        sets.spec_hash(made, large, "b", made.spec.image),
    ]
    assert found == ["2f49a8d90086d88b", "78041283846bced5", "8b96bef45f37eeb2"]


def test_a_set_shows_what_its_template_is_pinned_by() -> None:
    made = cluster()
    kept = template(made, made.spec.default_pool)
    kept["metadata"]["annotations"] = {
        names.BUILT_BY: "0.0.9",
        names.SPEC_HASH: "of then",
        "kubectl.kubernetes.io/restartedAt": "2026-01-31T12:00:00Z",
    }
    found = sets.stateful_set(
        made,
        OWNER,
        made.spec.default_pool,
        "",
        replicas=4,
        template=kept,
        cluster_id=CLUSTER_ID,
    )
    assert found["spec"]["template"] == kept
    assert found["metadata"]["annotations"] == {
        names.BUILT_BY: "0.0.9",
        names.SPEC_HASH: "of then",
    }
    assert sets.pinned_by({}) == sets.pinned_by({"metadata": {"annotations": None}})
    assert sets.pinned_by({}) == {names.BUILT_BY: "", names.SPEC_HASH: ""}


# --- names ----------------------------------------------------------------------------------

LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9][-.a-z0-9]{0,251}[a-z0-9]")
REVISION_CHARACTERS_MAX = 10  # of the hash in a ControllerRevision's name: a uint32 in decimal


LONGEST = (
    cluster(None, "c" * 44),
    cluster({"zones": ["z" * 20], "pools": [{"name": "p" * 15, "replicas": 1}]}, "c" * 15),
    cluster({"pools": [{"name": "p" * 40, "replicas": 1}]}, "c" * 11),
)


@pytest.mark.parametrize("made", LONGEST, ids=lambda made: str(len(made.name)))
def test_the_longest_names_fit_everywhere(made: DynamoCluster) -> None:
    lengths = set()
    for one in objects(made):
        labelled = [one["metadata"]]
        assert DNS_NAME.fullmatch(one["metadata"]["name"])
        if one["kind"] == "Service":
            assert DNS_LABEL.fullmatch(one["metadata"]["name"])
        if one["kind"] == "StatefulSet":
            name = one["metadata"]["name"]
            lengths.add(len(name))
            last = f"{name}-{NODES_MAX - 1}"
            assert DNS_LABEL.fullmatch(last), "it is a host name"
            added = {
                "controller-revision-hash": f"{name}-{'4' * REVISION_CHARACTERS_MAX}",
                "statefulset.kubernetes.io/pod-name": last,
                "apps.kubernetes.io/pod-index": str(NODES_MAX - 1),
            }
            spec = one["spec"]
            labelled += [{"labels": added}, spec["template"]["metadata"]]
            labelled += [claim["metadata"] for claim in spec["volumeClaimTemplates"]]
            host = names.pod_host(last, made.name, "n" * 63) + ".cluster.local"
            assert len(host) <= 253
            assert all(len(part) <= 63 for part in host.split("."))
        for labels in labelled:
            for key, value in labels["labels"].items():
                assert LABEL_KEY.fullmatch(key)
                assert LABEL.fullmatch(value), f"{key}: {value}"
    assert max(lengths) == 52
