"""From plain values to a typed, checked DynamoCluster.

Owns the way from described fields (`description`) to the typed value, what a pool takes
over from the spec, and the order in which things are checked: each field's shape
here, what concerns several fields in `rules`. All mistakes are told together.
Forbidden: I/O, YAML, and what the cluster looks like at present.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from dynamo_core.errors import CallerError
from dynamo_operator import rules
from dynamo_operator.description import TOP
from dynamo_operator.fields import Fields
from dynamo_operator.pool_description import RESOURCE_NAMES
from dynamo_operator.problems import Problem, Problems, shown
from dynamo_operator.quantities import decimal, decimal_text, quantity
from dynamo_operator.spec import (
    API_VERSION,
    DEFAULT_POOL,
    KIND,
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
    if value is None:
        problems.add("", f"is empty: it must be a {KIND}")
    top = Fields(problems, "", value, TOP)
    if not isinstance(value, dict):
        raise SpecError(tuple(problems.found))
    for name, right in (("apiVersion", API_VERSION), ("kind", KIND)):
        given = top.text(name)
        if problems.clean(name) and given != right:
            top.wrong(name, f"is {shown(given)}: it must be {right}")
    metadata = top.fields("metadata")
    name, namespace = metadata.text("name"), metadata.text("namespace")
    annotations = metadata.texts("annotations")
    metadata.texts("labels")
    spec = _spec(top.fields("spec"))
    rules.check(problems, name, spec)
    if problems.found:
        raise SpecError(tuple(sorted(problems.found, key=lambda p: p.path)))
    return DynamoCluster(name, namespace, annotations, spec)


def _spec(fields: Fields) -> ClusterSpec:
    quorum = fields.fields("quorum")
    security = fields.fields("security")
    tracing = fields.fields("tracing")
    limits = fields.fields("limits")
    default = Pool(
        DEFAULT_POOL,
        fields.number("replicas"),
        "1",
        False,
        _resources(fields.fields("resources"), Resources((), ())),
        _storage(fields.fields("storage"), Storage("", None, "", "")),
        False,
        (),
        (),
    )
    return ClusterSpec(
        quorum=Quorum(quorum.number("replication"), quorum.number("r"), quorum.number("w")),
        partitions=fields.fields("ring").power_of_two("partitions"),
        reconciliation=fields.choice("reconciliation"),
        durability=fields.choice("durability"),
        image=fields.text("image"),
        zones=tuple(fields.words("zones")),
        pools=(default, *(_pool(pool, default) for pool in fields.items("pools"))),
        security=Security(
            tls_mode=security.fields("tls").choice("mode"),
            client_auth_mode=security.fields("clientAuth").choice("mode"),
        ),
        tracing=Tracing(tracing.text("endpoint"), tracing.decimal("sampleRatio")),
        limits=Limits(
            value_bytes_max=limits.number("valueBytesMax"),
            siblings_max=limits.number("siblingsMax"),
            object_bytes_max=limits.number("objectBytesMax"),
        ),
        on_operator_upgrade=fields.fields("updateStrategy").choice("onOperatorUpgrade"),
        paused=fields.boolean("paused"),
        dry_run=fields.boolean("dryRun"),
    )


def _resources(fields: Fields, default: Resources) -> Resources:
    return Resources(
        requests=_amounts(fields.fields("requests"), default.requests),
        limits=_amounts(fields.fields("limits"), default.limits),
    )


def _amounts(fields: Fields, default: Pairs) -> Pairs:
    base = dict(default)
    found = ((name, fields.quantity(name, base.get(name))) for name in RESOURCE_NAMES)
    return tuple((name, amount) for name, amount in found if amount)


def _storage(fields: Fields, default: Storage) -> Storage:
    storage_class = default.storage_class_name
    if fields.has("storageClassName"):
        storage_class = fields.text("storageClassName")
    return Storage(
        size=fields.quantity("size", default.size),
        storage_class_name=storage_class,
        when_deleted=fields.choice("whenDeleted", default.when_deleted),
        when_scaled=fields.choice("whenScaled", default.when_scaled),
    )


def _pool(fields: Fields, default: Pool) -> Pool:
    resources = _resources(fields.fields("resources"), default.resources)
    storage = _storage(fields.fields("storage"), default.storage)
    capacity = fields.decimal("capacity")
    if not fields.has("capacity"):
        capacity = _derived_capacity(fields, default, resources, storage)
    return Pool(
        name=fields.word("name"),
        replicas=fields.number("replicas"),
        capacity=capacity or "1",
        capacity_given=fields.has("capacity"),
        resources=resources,
        storage=storage,
        storage_given=fields.has("storage"),
        node_selector=fields.texts("nodeSelector"),
        tolerations=tuple(
            Toleration(
                key=toleration.text("key"),
                operator=toleration.choice("operator"),
                value=toleration.text("value"),
                effect=toleration.choice("effect"),
                toleration_seconds=toleration.integer("tolerationSeconds"),
            )
            for toleration in fields.items("tolerations")
        ),
    )


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
