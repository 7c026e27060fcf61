"""What a node's pod is made of: its one container, its probes, and where it may run.

Owns the pod's spec. Forbidden: labels, annotations and pinning, which are `sets`'.

What a pod is promised by, and why:

- **SIGTERM does it all.** The node says 503 on /readyz, tells its peers, and goes on accepting
  while endpoints disappear. A preStop hook would only put off the moment it learns of its end.
- **/readyz and /healthz ask nobody else.** A node whose disk has failed, is full or is being
  rebuilt is alive: killing it mends nothing, and what is wrong must be told, not restarted.
- **Nothing is written but the volume.** The root is read-only, and no temporary folder is needed.
"""

from __future__ import annotations

from typing import Any, Final

from dynamo_operator.kube import configuration, names, services
from dynamo_operator.spec import DynamoCluster, Pool, Toleration

CONTAINER: Final = "node"
USER: Final = 65532  # the image's; a number, so that the kubelet can tell that it isn't root

STOP_SECONDS: Final = 60
"""The drain, then up to 5 s for what is in flight, then a last flush to a disk that may be slow.
Who is killed in it loses nothing, but starts under a new incarnation."""

STARTUP_PERIOD_S: Final = 2
STARTUP_SECONDS_MAX: Final = 3600
"""The ports open when the store is open, which takes as long as its log is. A start that hangs
is seen in the status long before; killing it would begin the same work again."""

READY_PERIOD_S: Final = 3
READY_TIMEOUT_S: Final = 3
READY_FAILURES: Final = 2
"""A node that says no is out of the Service within 6 s; one that is slow for a moment stays."""

ALIVE_PERIOD_S: Final = 10
ALIVE_TIMEOUT_S: Final = 5
ALIVE_FAILURES: Final = 6
"""A minute without any answer: the event loop stands still, and nothing else would end it."""

HOSTNAME: Final = "kubernetes.io/hostname"
_CONFIG: Final = "config"
_IDENTITY: Final = "identity"
_ADMIN: Final = "admin"


def pod_spec(
    cluster: DynamoCluster, pool: Pool, zone: str, *, image: str, config_name: str
) -> dict[str, Any]:
    """The spec of a pod of this pool in this zone ("" without zones).

    It meets the Pod Security Standard `restricted`. config_name: the ConfigMap with node.json.
    """
    return {
        "serviceAccountName": names.service_account(cluster.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # variables for each Service of the namespace
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # A store of many files would otherwise be walked before each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(cluster, pool, zone),
        "containers": [_container(pool, image)],
        "volumes": [
            {"name": _CONFIG, "configMap": {"name": config_name}},
            _secret_volume(_IDENTITY, names.identity_secret(cluster.name)),
            _secret_volume(_ADMIN, names.admin_secret(cluster.name)),
        ],
    }


def _container(pool: Pool, image: str) -> dict[str, Any]:
    given = {"requests": pool.resources.requests, "limits": pool.resources.limits}
    return {
        "name": CONTAINER,
        "image": image,
        "args": [
            *("--config", f"{configuration.CONFIG_DIR}/{configuration.CONFIG_KEY}"),
            *("--config", f"{configuration.IDENTITY_DIR}/{configuration.IDENTITY_KEY}"),
            *("--name", "$(POD_NAME)"),
        ],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"}
            for name, port in (
                (services.HTTP, names.HTTP_PORT),
                (services.NATIVE, names.NATIVE_PORT),
                (services.ADMIN, names.ADMIN_PORT),
            )
        ],
        "resources": {name: dict(amounts) for name, amounts in given.items() if amounts},
        "startupProbe": _probe(
            "/healthz", STARTUP_PERIOD_S, READY_TIMEOUT_S, STARTUP_SECONDS_MAX // STARTUP_PERIOD_S
        ),
        "readinessProbe": _probe("/readyz", READY_PERIOD_S, READY_TIMEOUT_S, READY_FAILURES),
        "livenessProbe": _probe("/healthz", ALIVE_PERIOD_S, ALIVE_TIMEOUT_S, ALIVE_FAILURES),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # What a node says when it can't start stands in the pod's status then.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": names.VOLUME, "mountPath": configuration.VOLUME_DIR},
            {"name": _CONFIG, "mountPath": configuration.CONFIG_DIR, "readOnly": True},
            {"name": _IDENTITY, "mountPath": configuration.IDENTITY_DIR, "readOnly": True},
            {"name": _ADMIN, "mountPath": configuration.ADMIN_DIR, "readOnly": True},
        ],
    }


def _placement(cluster: DynamoCluster, pool: Pool, zone: str) -> dict[str, Any]:
    """Where a pod may run: in its zone, away from the cluster's other pods where that is possible.

    All pools count together, since a key's replicas may lie on any of them. A pod that can't be
    spread is better than one that doesn't run.
    """
    everywhere = {"labelSelector": {"matchLabels": names.selector(cluster.name)}}
    spread = {"maxSkew": 1, "topologyKey": HOSTNAME, "whenUnsatisfiable": "ScheduleAnyway"}
    made: dict[str, Any] = {"topologySpreadConstraints": [{**spread, **everywhere}]}
    if zone:
        here = {"key": names.TOPOLOGY_ZONE, "operator": "In", "values": [zone]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [here]}]}
        made["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        }
    else:
        # Not as a spread constraint: machines without a zone would then not be spread at all.
        apart = {"topologyKey": names.TOPOLOGY_ZONE, **everywhere}
        weighed = [{"weight": 100, "podAffinityTerm": apart}]
        made["affinity"] = {
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": weighed}
        }
    if pool.node_selector:
        made["nodeSelector"] = dict(pool.node_selector)
    if pool.tolerations:
        made["tolerations"] = [_toleration(one) for one in pool.tolerations]
    return made


def _toleration(one: Toleration) -> dict[str, Any]:
    texts = {"key": one.key, "value": one.value, "effect": one.effect}
    made: dict[str, Any] = {"operator": one.operator, **{k: v for k, v in texts.items() if v}}
    if one.toleration_seconds is not None:
        made["tolerationSeconds"] = one.toleration_seconds
    return made


def _probe(path: str, period_s: int, timeout_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": services.HTTP},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def _secret_volume(name: str, secret: str) -> dict[str, Any]:
    # For the group that fsGroup gives it, and nobody else.
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o440}}
