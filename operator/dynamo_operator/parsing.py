"""From plain values to a typed, checked DynamoCluster.

Owns every field's name and default, and the order in which things are checked:
each field's shape here, what concerns several fields in `rules`. All mistakes
are told together. Forbidden: I/O, YAML, and what the cluster looks like at
present.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from dynamo_core.errors import CallerError
from dynamo_core.ring_checks import REPLICATION_MAX
from dynamo_operator import rules
from dynamo_operator.fields import Fields, Problem, Problems, shown, text_item
from dynamo_operator.quantities import decimal, decimal_text, quantity
from dynamo_operator.spec import (
    API_VERSION,
    DEFAULT_POOL,
    KIND,
    NODES_MAX,
    ClusterSpec,
    DynamoCluster,
    Limits,
    Pairs,
    Pool,
    Quorum,
    Resources,
    Security,
    Storage,
    Toleration,
    Tracing,
)


class SpecError(CallerError):
    """The resource has mistakes; all of them are in `problems`."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def parse(value: Any) -> DynamoCluster:
    """A typed resource from plain values. Raises SpecError naming every mistake."""
    problems = Problems()
    top = Fields(problems, "", value)
    if not isinstance(value, dict):
        if value is None:
            problems.add("", f"is empty: it must be a {KIND}")
        raise SpecError(tuple(problems.found))
    for name, right in (("apiVersion", API_VERSION), ("kind", KIND)):
        given = top.text(name, required=True)
        if problems.clean(name) and given != right:
            top.wrong(name, f"is {shown(given)}: it must be {right}")
    top.ignore("status")
    name, namespace, annotations = _metadata(top.fields("metadata"))
    if not top.has("spec"):
        top.ignore("spec")  # every field has a default
    spec = _spec(top.fields("spec"))
    top.done()
    rules.check(problems, name, spec)
    if problems.found:
        raise SpecError(tuple(sorted(problems.found, key=lambda p: p.path)))
    return DynamoCluster(name, namespace, annotations, spec)


def _metadata(fields: Fields) -> tuple[str, str, Pairs]:
    name = fields.text("name", required=True)
    namespace = fields.text("namespace", "default")
    annotations = fields.texts("annotations")
    fields.texts("labels")
    # Written by the API server; `kubectl get -o yaml` hands them back.
    fields.ignore("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
    fields.ignore("ownerReferences", "finalizers", "selfLink", "generateName")
    fields.ignore("deletionTimestamp", "deletionGracePeriodSeconds")
    fields.done()
    return name, namespace, annotations


def _spec(fields: Fields) -> ClusterSpec:
    problems = fields.problems
    quorum_fields = fields.fields("quorum")
    quorum = Quorum(
        replication=quorum_fields.integer("replication", 3, 1, REPLICATION_MAX),
        r=quorum_fields.integer("r", 2, 1, NODES_MAX),
        w=quorum_fields.integer("w", 2, 1, NODES_MAX),
    )
    quorum_fields.done()
    ring_fields = fields.fields("ring")
    partitions = ring_fields.integer("partitions", 256, 1, 1 << 31)
    ring_fields.done()
    replicas = fields.integer("replicas", 3, 0, NODES_MAX)
    resources = _resources(fields.fields("resources"), {"cpu": "500m", "memory": "512Mi"}, {})
    storage = _storage(fields.fields("storage"), Storage("10Gi", None, "Retain", "Delete"))
    default = Pool(DEFAULT_POOL, replicas, "1", False, resources, storage, False, (), ())
    pools = [_pool(Fields(problems, path, item), default) for path, item in fields.items("pools")]
    zones = [text_item(problems, path, item) for path, item in fields.items("zones")]
    security_fields = fields.fields("security")
    tls, auth = security_fields.fields("tls"), security_fields.fields("clientAuth")
    security = Security(
        tls_mode=tls.choice("mode", "Disabled", ("Disabled", "Operator", "CertManager")),
        client_auth_mode=auth.choice("mode", "None", ("None", "Token")),
    )
    tracing_fields = fields.fields("tracing")
    tracing = Tracing(
        endpoint=tracing_fields.text("endpoint"),
        sample_ratio=tracing_fields.decimal(
            "sampleRatio", "0.01", lambda v: v <= 1, 'a decimal between "0" and "1"'
        ),
    )
    limits_fields = fields.fields("limits")
    limits = Limits(
        value_bytes_max=limits_fields.integer("valueBytesMax", 1 << 20, 1, 32 << 20),
        siblings_max=limits_fields.integer("siblingsMax", 100, 1, 10_000),
        object_bytes_max=limits_fields.integer("objectBytesMax", 8 << 20, 1, 48 << 20),
    )
    update = fields.fields("updateStrategy")
    spec = ClusterSpec(
        quorum=quorum,
        partitions=partitions,
        reconciliation=fields.choice("reconciliation", "siblings", ("siblings", "lastWriteWins")),
        durability=fields.choice("durability", "sync", ("sync", "buffered")),
        image=fields.text("image"),
        # An item that is no text keeps its place, so that paths go on naming the right one.
        zones=tuple(zone or "" for zone in zones),
        pools=(default, *pools),
        security=security,
        tracing=tracing,
        limits=limits,
        on_operator_upgrade=update.choice("onOperatorUpgrade", "Manual", ("Manual", "Automatic")),
        paused=fields.boolean("paused", False),
        dry_run=fields.boolean("dryRun", False),
    )
    for inner in (security_fields, tls, auth, tracing_fields, limits_fields, update, fields):
        inner.done()
    return spec


def _resources(fields: Fields, requests: Mapping[str, str], limits: Mapping[str, str]) -> Resources:
    resources = Resources(
        requests=fields.quantity_map("requests", requests),
        limits=fields.quantity_map("limits", limits),
    )
    fields.done()
    return resources


def _storage(fields: Fields, default: Storage) -> Storage:
    storage_class = fields.text("storageClassName", "\0")
    storage = Storage(
        size=fields.quantity("size", default.size, positive=True),
        storage_class_name=default.storage_class_name if storage_class == "\0" else storage_class,
        when_deleted=fields.choice("whenDeleted", default.when_deleted, ("Retain", "Delete")),
        when_scaled=fields.choice("whenScaled", default.when_scaled, ("Retain", "Delete")),
    )
    fields.done()
    return storage


def _pool(fields: Fields, default: Pool) -> Pool:
    name = fields.text("name", required=True)
    replicas = fields.integer("replicas", 0, 0, NODES_MAX)
    if not fields.has("replicas"):
        fields.missing("replicas", "it must say how many nodes the pool has")
    resources = _resources(
        fields.fields("resources"),
        dict(default.resources.requests),
        dict(default.resources.limits),
    )
    storage_given = fields.has("storage")
    storage = _storage(fields.fields("storage"), default.storage)
    given = fields.decimal("capacity", "", lambda v: v > 0, 'a decimal above 0, such as "2"')
    if fields.has("capacity"):
        capacity = given or "1"
    else:
        capacity = _derived_capacity(fields, default, resources, storage)
    pool = Pool(
        name=name,
        replicas=replicas,
        capacity=capacity,
        capacity_given=fields.has("capacity"),
        resources=resources,
        storage=storage,
        storage_given=storage_given,
        node_selector=fields.texts("nodeSelector"),
        tolerations=tuple(
            _toleration(Fields(fields.problems, path, item))
            for path, item in fields.items("tolerations")
        ),
    )
    fields.done()
    return pool


def _derived_capacity(fields: Fields, default: Pool, resources: Resources, storage: Storage) -> str:
    """The scarcest of cpu, memory and storage, relative to the default pool."""
    own = {**dict(resources.requests), "storage": storage.size}
    base = {**dict(default.resources.requests), "storage": default.storage.size}
    shares: list[Fraction] = []
    for name in ("cpu", "memory", "storage"):
        of_default = quantity(base.get(name, "0"))
        if of_default > 0:
            shares.append(quantity(own.get(name, "0")) / of_default)
    capacity = decimal_text(min(shares, default=Fraction(1)))
    try:
        if decimal(capacity) > 0:
            return capacity
    except ValueError:
        pass
    fields.wrong(
        "capacity",
        f"can't be derived, since the requests of this pool make it {capacity}: give one, such as "
        '"2" for twice the tokens of a node of the default pool',
    )
    return "1"


def _toleration(fields: Fields) -> Toleration:
    seconds = fields.integer("tolerationSeconds", -1, 0, 1 << 31)
    toleration = Toleration(
        key=fields.text("key"),
        operator=fields.choice("operator", "Equal", ("Equal", "Exists")),
        value=fields.text("value"),
        effect=fields.choice("effect", "", ("", "NoSchedule", "PreferNoSchedule", "NoExecute")),
        toleration_seconds=None if seconds < 0 else seconds,
    )
    fields.done()
    return toleration
