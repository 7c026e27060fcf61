"""The door to the API server: everything the operator reads and writes there.

Owns the requests, their deadline and their preconditions. Objects are plain
dicts as the server gives them, apiVersion and kind always filled in. Watching is
kopf's. Forbidden: deciding anything; a call that `kinds.USES` doesn't list; a
patch or deletion without a precondition; a forced apply without one.

Every method raises the errors of `errors`: Forbidden, Invalid, Unreachable,
and those that are named with it. A write whose answer doesn't come may have
happened all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import aiohttp
from kubernetes.aio.client.exceptions import OpenApiException
from kubernetes.aio.config import ConfigException

from dynamo_operator.kube.answers import error_of, parsed
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.errors import KubeError, NotFound, NotLeading, Unreachable
from dynamo_operator.kube.kinds import POD, Asked, Kind, asked_for
from dynamo_operator.kube.names import OPERATOR
from dynamo_operator.spans import Span, span

Object = dict[str, Any]
Propagation = Literal["Background", "Foreground", "Orphan"]

DEADLINE_S: Final = 15.0  # of one request; a pass that hangs longer is worth a new one
PAGE_OBJECTS: Final = 500
PAGES_MAX: Final = 1000
LISTS_MAX: Final = 3  # how often a list begins anew when its pages have expired

_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_GONE: Final = 410


class _Expired(KubeError):
    """The pages of a list are too old."""


class Api:
    """Calls through one connection. `may_write` is asked before each write."""

    def __init__(
        self,
        connection: Connection,
        *,
        may_write: Callable[[], bool] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._connection = connection
        self._may_write = may_write
        self._deadline_s = deadline_s

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        """The object; None if there is none, or if the server doesn't serve the kind."""
        asked = asked_for("get", kind, namespace, name)
        try:
            return _typed(kind, await self._send("GET", kind.path(namespace, name), asked))
        except NotFound:
            return None

    async def list_all(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        page_objects: int = PAGE_OBJECTS,
    ) -> list[Object]:
        """All objects with these labels: of a namespace, or (None) of the whole cluster.

        Raises NotFound if the server doesn't serve the kind.
        """
        asked = asked_for("list", kind, namespace)
        for _ in range(LISTS_MAX):
            try:
                return await self._list(kind, namespace, labels or {}, page_objects, asked)
            except _Expired:
                continue
        raise Unreachable(f"{asked}: it changes faster than it can be read")

    async def create(self, kind: Kind, body: Object) -> Object:
        """Raises AlreadyExists; NotFound if its namespace (or its kind) doesn't exist."""
        namespace, name = _place(kind, body)
        asked = asked_for("create", kind, namespace, name)
        return await self._write("POST", kind.path(namespace), asked, _typed(kind, body))

    async def apply(self, kind: Kind, body: Object, *, force: bool = False) -> Object:
        """Server-side apply: creates, or changes what this operator owns of it.

        With `metadata.resourceVersion` or `metadata.uid` in the body it changes only that
        object. `force` takes over fields that others own, and needs one of the two.
        Raises Conflict (also for a field of another owner); NotFound.
        """
        if force and not _preconditions(body):
            raise ValueError("a forced apply names the object that it has seen")
        namespace, name = _place(kind, body)
        asked = asked_for("apply", kind, namespace, name)
        return await self._apply(kind.path(namespace, name), asked, _typed(kind, body), force)

    async def apply_status(
        self, kind: Kind, namespace: str | None, name: str, uid: str, status: Object
    ) -> Object:
        """Server-side apply of the status, which is this operator's alone.

        Raises Conflict if the object of that name has another uid; NotFound.
        """
        asked = asked_for("apply_status", kind, namespace, name)
        metadata = {"name": name, "uid": uid} | ({"namespace": namespace} if namespace else {})
        body = _typed(kind, {"metadata": metadata, "status": status})
        return await self._apply(kind.path(namespace, name, "status"), asked, body, True)

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        changes: Object | Sequence[Object],
    ) -> Object:
        """A merge patch (a dict) or a JSON patch (a list of operations).

        The dict holds `metadata.resourceVersion` or `metadata.uid`, the list begins with a
        `test`. Raises Conflict if that isn't met; NotFound.
        """
        asked = asked_for("patch", kind, namespace, name)
        path = kind.path(namespace, name)
        if isinstance(changes, dict):
            if not _preconditions(changes):
                raise ValueError("a patch names the object that it has seen")
            return await self._write("PATCH", path, asked, changes, content_type=_MERGE)
        if not changes or changes[0].get("op") != "test":
            raise ValueError("a JSON patch begins with a test")
        return await self._write("PATCH", path, asked, list(changes), content_type=_JSON_PATCH)

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_s: int | None = None,
        propagation: Propagation = "Background",
    ) -> None:
        """Deletes exactly the object that was seen: by its uid, its version, or both.

        `grace_s` is for pods; 0 takes it out of the API whatever becomes of its process.
        Raises Conflict if it is another one now; NotFound.
        """
        options = _delete_options(uid, resource_version, grace_s)
        options |= {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        asked = asked_for("delete", kind, namespace, name)
        await self._write("DELETE", kind.path(namespace, name), asked, options)

    async def evict(
        self,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_s: int | None = None,
    ) -> None:
        """Deletes exactly the pod that was seen, if its PodDisruptionBudget allows it now.

        Raises TooManyRequests with the budget's reason; Conflict; NotFound.
        """
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": _delete_options(uid, resource_version, grace_s),
        }
        asked = asked_for("evict", POD, namespace, name)
        await self._write("POST", POD.path(namespace, name, "eviction"), asked, body)

    async def _list(
        self,
        kind: Kind,
        namespace: str | None,
        labels: Mapping[str, str],
        page_objects: int,
        asked: Asked,
    ) -> list[Object]:
        query = {"limit": str(page_objects)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in labels.items())
        found: list[Object] = []
        for _ in range(PAGES_MAX):
            page = await self._send("GET", kind.path(namespace), asked, query=query)
            found += [_typed(kind, item) for item in page.get("items") or []]
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found
        raise Unreachable(f"{asked}: more than {PAGES_MAX} pages")

    async def _apply(self, path: str, asked: Asked, body: Object, force: bool) -> Object:
        query = {"fieldManager": OPERATOR, "force": "true" if force else "false"}
        return await self._write("PATCH", path, asked, body, content_type=_APPLY, query=query)

    async def _write(
        self,
        method: str,
        path: str,
        asked: Asked,
        body: object,
        *,
        content_type: str = _JSON,
        query: dict[str, str] | None = None,
    ) -> Object:
        if self._may_write is not None and not self._may_write():
            raise NotLeading(f"{asked}: not sent, another operator may lead by now")
        if method in ("POST", "PATCH") and query is None:
            query = {"fieldManager": OPERATOR}
        name = f"api.{asked.verb}"
        with span(name, asked.attributes, kind="client", changes=asked.changes) as traced:
            return await self._send(
                method, path, asked, body=body, content_type=content_type, query=query, span=traced
            )

    async def _send(
        self,
        method: str,
        path: str,
        asked: Asked,
        *,
        body: object = None,
        content_type: str = _JSON,
        query: dict[str, str] | None = None,
        span: Span | None = None,
    ) -> Object:
        try:
            async with asyncio.timeout(self._deadline_s):
                status, answer = await self._connection.request(
                    method,
                    path,
                    query=query or {},
                    body=body,
                    content_type=content_type,
                    timeout_s=self._deadline_s,
                )
        except TimeoutError as error:
            raise Unreachable(f"{asked}: no answer within {self._deadline_s:g} s") from error
        except (aiohttp.ClientError, OSError, OpenApiException, ConfigException) as error:
            raise Unreachable(f"{asked}: {error or type(error).__name__}") from error
        if span is not None:
            span.attributes["http.response.status_code"] = status
        if status < 300:
            return parsed(answer, str(asked))
        if status == _GONE and "continue" in (query or {}):
            raise _Expired(str(asked))
        raise error_of(status, answer, str(asked), tested=content_type == _JSON_PATCH)


def _place(kind: Kind, body: Object) -> tuple[str | None, str]:
    metadata = body["metadata"]
    return (metadata["namespace"] if kind.namespaced else None), metadata["name"]


def _typed(kind: Kind, body: Object) -> Object:
    """Items of a list come without these two."""
    return {"apiVersion": kind.api_version, "kind": kind.name, **body}


def _preconditions(body: Object) -> bool:
    metadata = body.get("metadata") or {}
    return bool(metadata.get("resourceVersion") or metadata.get("uid"))


def _delete_options(
    uid: str | None, resource_version: str | None, grace_s: int | None
) -> dict[str, Any]:
    if not uid and not resource_version:
        raise ValueError("a deletion names the object that it has seen")
    wanted = {"uid": uid, "resourceVersion": resource_version}
    options: dict[str, Any] = {"preconditions": {k: v for k, v in wanted.items() if v}}
    if grace_s is not None:
        options["gracePeriodSeconds"] = grace_s
    return options
