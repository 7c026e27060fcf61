"""What an emulated API server stores: versions, uids, generations, preconditions, finalizers.

`Store` is the server without HTTP: what an eviction needs, who owns which fields, and that
a write that changes nothing makes no new version.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import jsonpatch
from tests.operator.kube_patches import Object, Owners, applied, copied, merged, updated
from tests.operator.kube_rules import Failure, check_precondition, fill, validate

from dynamo_operator.kube import kinds
from dynamo_operator.kube.kinds import Kind

NAMESPACE = Kind("Namespace", "", "v1", "namespaces", namespaced=False)
CRD = Kind(
    "CustomResourceDefinition",
    "apiextensions.k8s.io",
    "v1",
    "customresourcedefinitions",
    namespaced=False,
)
CORE_EVENT = Kind("Event", "", "v1", "events")
SERVED = (*kinds.USES, NAMESPACE, CRD, CORE_EVENT)
STATUS_KINDS = (
    kinds.DYNAMO_CLUSTER,
    kinds.STATEFUL_SET,
    kinds.POD,
    kinds.CLAIM,
    kinds.VOLUME,
    kinds.NODE,
    kinds.SERVICE,
    kinds.BUDGET,
)
Key = tuple[Kind, str | None, str]
Admit = Callable[[Kind, Object | None, Object], None]


class Store:
    """All objects of a cluster. Everything that is given out is a copy."""

    def __init__(self) -> None:
        self.served = list(SERVED)
        self.version = 100
        self.admit: list[Admit] = []  # further validation; raises Failure
        self.log: list[tuple[int, Kind, Object | None, Object | None]] = []  # old and new
        self.forgotten = 0  # versions up to this one can't be watched from
        self.waiting: set[asyncio.Event] = set()
        self._objects: dict[Key, Object] = {}
        self._owners: dict[str, Owners] = {}  # by uid
        self._uids = 0

    def find(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return copied(self._objects.get((kind, namespace, name)))

    def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        found = self.find(kind, namespace, name)
        if found is None:
            raise Failure(
                404,
                "NotFound",
                f'{kind.plural} "{name}" not found',
                name=name,
                kind=kind.plural,
                group=kind.group,
            )
        return found

    def all(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """Sorted by namespace and name."""
        return [
            copied(body)
            for key, body in sorted(
                self._objects.items(), key=lambda each: (each[0][1] or "", each[0][2])
            )
            if key[0] == kind
            and namespace in (None, key[1])
            and (labels or {}).items() <= body["metadata"].get("labels", {}).items()
        ]

    def everything(self) -> list[tuple[Kind, Object]]:
        return [(key[0], copied(body)) for key, body in self._objects.items()]

    def owners(self, kind: Kind, namespace: str | None, name: str) -> Owners:
        """Which manager owns which fields."""
        owned = self._owners[self.get(kind, namespace, name)["metadata"]["uid"]]
        return {manager: set(fields) for manager, fields in owned.items()}

    def create(self, kind: Kind, body: Object, manager: str = "kubectl") -> Object:
        new = self._born(kind, body)
        if kind in STATUS_KINDS:
            new.pop("status", None)
        owners = updated({}, new, {}, manager)
        return self._add(kind, new, owners)

    def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        changes: Object | list[Object],
        *,
        sub: str = "",
        manager: str = "kubectl",
    ) -> Object:
        """A merge patch, or (a list) a JSON patch."""
        old = self.get(kind, namespace, name)
        if isinstance(changes, list):
            try:
                new = jsonpatch.apply_patch(old, changes)
            except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
                told = "the server rejected our request due to an error in our request"
                raise Failure(422, "Invalid", told) from error
        else:
            new = merged(old, changes)
        new = self._checked(kind, old, new, sub)
        if new == old:
            return old
        owners = updated(old, new, self._owners[old["metadata"]["uid"]], manager)
        return self._replace(kind, old, new, owners)

    def put(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Object,
        *,
        sub: str = "",
        manager: str = "kubectl",
    ) -> Object:
        """Replaces an object."""
        old = self.get(kind, namespace, name)
        metadata = {**body["metadata"], "name": name} | (
            {"namespace": namespace} if namespace else {}
        )
        new = self._checked(kind, old, {**copied(body), "metadata": metadata}, sub)
        owners = updated(old, new, self._owners[old["metadata"]["uid"]], manager)
        return self._replace(kind, old, new, owners)

    def apply(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        config: Object,
        *,
        sub: str = "",
        manager: str,
        force: bool = False,
    ) -> Object:
        """Server-side apply."""
        old = self.find(kind, namespace, name)
        metadata = config.get("metadata") or {}
        if old is None:
            if sub or metadata.get("uid") or metadata.get("resourceVersion"):
                raise Failure(409, "Conflict", f'{kind.plural} "{name}" is not that object')
            new, owners, _ = applied({}, {}, manager, config, force)
            place = {"name": name} | ({"namespace": namespace} if namespace else {})
            new = self._born(kind, {**new, "metadata": {**new.get("metadata", {}), **place}})
            return self._add(kind, new, owners)
        uid = old["metadata"]["uid"]
        new, owners, conflicts = applied(old, self._owners[uid], manager, config, force)
        if conflicts:
            causes = [
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{other}"',
                    "field": ".".join(str(step) for step in path),
                }
                for other, path in conflicts
            ]
            told = f"Apply failed with {len(conflicts)} conflicts: " + "; ".join(
                f"{cause['message']}: {cause['field']}" for cause in causes
            )
            raise Failure(409, "Conflict", told, causes=causes)
        asked = {key: metadata[key] for key in ("uid", "resourceVersion") if key in metadata}
        new["metadata"] = {**new["metadata"], **asked}
        return self._replace(kind, old, self._checked(kind, old, new, sub), owners)

    def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        options: Object | None = None,
    ) -> Object:
        """Marks the object as going, or takes it away if nothing holds it."""
        options = options or {}
        old = self.get(kind, namespace, name)
        check_precondition(kind, old, options.get("preconditions") or {})
        new = copied(old)
        metadata = new["metadata"]
        policy = options.get("propagationPolicy", "Background")
        if policy != "Background" and "deletionTimestamp" not in metadata:
            added = "foregroundDeletion" if policy == "Foreground" else "orphan"
            metadata["finalizers"] = [*metadata.get("finalizers", []), added]
        grace = options.get("gracePeriodSeconds")
        if kind == kinds.POD:
            default = new.get("spec", {}).get("terminationGracePeriodSeconds", 30)
            grace = default if grace is None else grace
            if not new.get("spec", {}).get("nodeName"):
                grace = 0
        if not metadata.get("finalizers") and not (kind == kinds.POD and grace):
            self._remove(kind, old)
            return old
        if (
            "deletionTimestamp" not in metadata
            or metadata.get("deletionGracePeriodSeconds") != grace
        ):
            metadata.setdefault("deletionTimestamp", _now())
            if grace is not None:
                metadata["deletionGracePeriodSeconds"] = grace
            return self._replace(kind, old, new, self._owners[metadata["uid"]])
        return old

    def set_status(self, kind: Kind, body: Object, status: Object) -> Object:
        """As a controller of the cluster does."""
        metadata = body["metadata"]
        held = self._objects.get((kind, metadata.get("namespace"), metadata["name"]))
        if held is not None and merged(held.get("status"), status) == held.get("status"):
            return body
        return self.patch(
            kind,
            metadata.get("namespace"),
            metadata["name"],
            {"status": status},
            sub="status",
            manager="cluster",
        )

    def backdate(self, kind: Kind, namespace: str, name: str, since: datetime) -> None:
        """Has an object been there since then."""
        told = since.isoformat(timespec="seconds").replace("+00:00", "Z")
        self._objects[kind, namespace, name]["metadata"]["creationTimestamp"] = told

    def _born(self, kind: Kind, body: Object) -> Object:
        new = copied(body)
        metadata = new.setdefault("metadata", {})
        if "name" not in metadata and "generateName" in metadata:
            metadata["name"] = f"{metadata['generateName']}{self._uids:05d}"
        key = (kind, metadata.get("namespace"), metadata["name"])
        if key in self._objects:
            raise Failure(
                409,
                "AlreadyExists",
                f'{kind.plural} "{metadata["name"]}" already exists',
                name=key[2],
            )
        for given in ("resourceVersion", "uid"):
            metadata.pop(given, None)
        self._uids += 1
        metadata["uid"] = f"00000000-0000-4000-8000-{self._uids:012x}"
        metadata["creationTimestamp"] = _now()
        if kind not in (kinds.POD, kinds.CONFIG_MAP, kinds.SECRET, kinds.EVENT, CORE_EVENT):
            metadata["generation"] = 1
        new = {"apiVersion": kind.api_version, "kind": kind.name, **new}
        fill(kind, new)
        return new

    def _checked(self, kind: Kind, old: Object, new: Object, sub: str) -> Object:
        """The object as it would be stored. Raises Failure."""
        check_precondition(kind, old, new["metadata"])
        if sub == "status":
            status = {"status": new["status"]} if "status" in new else {}
            new = {**{key: old[key] for key in old if key != "status"}, **status}
        elif kind in STATUS_KINDS:
            status = {"status": old["status"]} if "status" in old else {}
            new = {**{key: new[key] for key in new if key != "status"}, **status}
        metadata = dict(new["metadata"])
        for key in (
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ):
            metadata.pop(key, None)
            if key in old["metadata"]:
                metadata[key] = old["metadata"][key]
        for key in ("labels", "annotations", "finalizers", "ownerReferences"):
            if key in metadata and not metadata[key]:
                del metadata[key]
        new = copied({**new, "metadata": metadata})
        fill(kind, new)
        validate(kind, old, new, lambda name: self.find(kinds.STORAGE_CLASS, None, name))
        for admit in self.admit:
            admit(kind, old, new)
        return new

    def _add(self, kind: Kind, new: Object, owners: Owners) -> Object:
        for admit in self.admit:
            admit(kind, None, new)
        metadata = new["metadata"]
        self._objects[kind, metadata.get("namespace"), metadata["name"]] = new
        self._owners[metadata["uid"]] = owners
        self._record(kind, None, new)
        return copied(new)

    def _replace(self, kind: Kind, old: Object, new: Object, owners: Owners) -> Object:
        metadata = new["metadata"]
        self._owners[metadata["uid"]] = owners
        if new == old:
            return old
        if "generation" in metadata and _content(new) != _content(old):
            metadata["generation"] += 1
        going = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        if going and kind != kinds.POD:
            self._remove(kind, old)
            return new
        self._objects[kind, metadata.get("namespace"), metadata["name"]] = new
        self._record(kind, old, new)
        return copied(new)

    def _remove(self, kind: Kind, old: Object) -> None:
        metadata = old["metadata"]
        del self._objects[kind, metadata.get("namespace"), metadata["name"]]
        del self._owners[metadata["uid"]]
        self._record(kind, old, None)

    def _record(self, kind: Kind, old: Object | None, new: Object | None) -> None:
        self.version += 1
        told = copied(new) if new is not None else None
        if new is not None and told is not None:
            new["metadata"]["resourceVersion"] = str(self.version)
            told["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, kind, copied(old), told))
        for event in self.waiting:
            event.set()


def _content(body: Object) -> Object:
    return {key: value for key, value in body.items() if key not in ("metadata", "status")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
