"""An emulated API server's HTTP: what is asked for, and how answers, lists and watches look.

What is stored, and by which rules, stands in `kube_store`.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.operator.kube_evictions import evict
from tests.operator.kube_patches import Object
from tests.operator.kube_rules import Failure
from tests.operator.kube_store import STATUS_KINDS, Store

from dynamo_operator.kube.kinds import Kind

HANG_SECONDS = 120.0


@dataclass(slots=True)
class Asked:
    """A request. verb: get, list, watch, create, patch, apply, put, delete or evict."""

    verb: str
    kind: Kind
    namespace: str | None
    name: str
    sub: str
    query: dict[str, str]
    body: Any
    agent: str
    code: int = 0

    def __str__(self) -> str:
        sub = f"/{self.sub}" if self.sub else ""
        return f"{self.verb} {self.kind.name}{sub} {self.name}"


@dataclass(slots=True)
class Fault:
    verb: str
    kind: Kind | None
    name: str | None
    failure: Failure
    times: int
    hang: bool
    after: bool


@dataclass
class KubeServer:
    """Answers by its store, unless a fault comes first or (granted) the right is lacking."""

    store: Store = field(default_factory=Store)
    asked: list[Asked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    granted: set[tuple[str, str, str]] | None = None  # (group, resource, verb); None: everything
    streams: set[asyncio.Event] = field(default_factory=set)
    pages: int = 0  # raised when the pages of lists expire

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            parts = [part for part in request.rel_url.raw_parts if part != "/"]
            found = self._discovered(parts)
            if found is not None:
                return web.json_response(found)
            text = await request.text()
            asked = self.read(
                request.method,
                "/" + "/".join(parts),
                dict(request.query),
                request.headers.get("Content-Type", ""),
                json.loads(text) if text else None,
                request.headers.get("User-Agent", ""),
            )
            fault = self.note(asked)
            if fault is not None and fault.hang:
                await asyncio.sleep(HANG_SECONDS)
            if asked.verb != "watch":
                return web.json_response(self.respond(asked, fault), status=asked.code)
            if fault is not None:
                raise fault.failure
            self._authorize(asked)
            return await self._watch(asked, request)
        except Failure as failure:
            if self.asked:
                self.asked[-1].code = failure.code
            return web.json_response(failure.status, status=failure.code)

    def note(self, asked: Asked) -> Fault | None:
        """That this was asked for; what shall go wrong with it."""
        self.asked.append(asked)
        return self._fault(asked)

    def respond(self, asked: Asked, fault: Fault | None = None) -> Object:
        """The answer of anything but a watch. Raises Failure."""
        if fault is not None and not fault.after:
            raise fault.failure
        self._authorize(asked)
        answer = self._answer(asked)
        if fault is not None:
            raise fault.failure
        asked.code = 201 if asked.verb in ("create", "evict") else 200
        return answer

    def _discovered(self, parts: list[str]) -> Object | None:
        prefix, rest = parts[0], parts[1:]
        if prefix == "version":
            return {"major": "1", "minor": "30", "gitVersion": "v1.30.0"}
        if (prefix == "api" and len(rest) < 2) or (prefix == "apis" and len(rest) < 3):
            return self._discovery(prefix, rest)
        return None

    def read(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        content_type: str,
        body: Any,
        agent: str,
    ) -> Asked:
        """What a request to a resource asks for. Raises Failure if none is served there."""
        prefix, *rest = path.strip("/").split("/")
        group, version, *rest = rest if prefix == "apis" else ["", *rest]
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kind = self._served(group, version, rest[0])
        name = rest[1] if len(rest) > 1 else ""
        sub = rest[2] if len(rest) > 2 else ""
        if method == "POST" and not name:
            name = ((body or {}).get("metadata") or {}).get("name", "")
        verb = _verb(method, name, sub, query, content_type)
        return Asked(verb, kind, namespace, name, sub, query, body, agent)

    def _answer(self, asked: Asked) -> Object:
        place = (asked.kind, asked.namespace, asked.name)
        manager = asked.query.get("fieldManager", asked.agent.split("/")[0])
        store = self.store
        if asked.sub not in ("", "eviction") and not (
            asked.sub == "status" and asked.kind in STATUS_KINDS
        ):
            raise Failure(404, "NotFound", "the server could not find the requested resource")
        match asked.verb:
            case "get":
                return store.get(*place)
            case "list":
                return self._list(asked)
            case "create":
                metadata = asked.body.setdefault("metadata", {})
                if metadata.setdefault("namespace", asked.namespace) != asked.namespace:
                    raise Failure(400, "BadRequest", "the namespace is another one")
                if asked.namespace is None:
                    del metadata["namespace"]
                return store.create(asked.kind, asked.body, manager)
            case "patch":
                return store.patch(*place, asked.body, sub=asked.sub, manager=manager)
            case "put":
                return store.put(*place, asked.body, sub=asked.sub, manager=manager)
            case "apply":
                force = asked.query.get("force") == "true"
                body = asked.body
                return store.apply(*place, body, sub=asked.sub, manager=manager, force=force)
            case "delete":
                return store.delete(*place, asked.body)
            case "evict":
                options = asked.body.get("deleteOptions") or {}
                evict(store, asked.namespace or "", asked.name, options)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        raise Failure(405, "MethodNotAllowed", str(asked))

    def _list(self, asked: Asked) -> Object:
        found = self.store.all(asked.kind, asked.namespace, None)
        found = [body for body in found if _selected(body, asked.query)]
        start, metadata = 0, {"resourceVersion": str(self.store.version)}
        if asked.query.get("continue"):
            start, pages = json.loads(base64.urlsafe_b64decode(asked.query["continue"]))
            if pages != self.pages:
                raise Failure(410, "Expired", "The provided continue parameter is too old")
        limit = int(asked.query.get("limit") or 0)
        if limit and start + limit < len(found):
            token = json.dumps([start + limit, self.pages]).encode()
            metadata["continue"] = base64.urlsafe_b64encode(token).decode()
            found = found[: start + limit]
        items = [
            {key: value for key, value in body.items() if key not in ("apiVersion", "kind")}
            for body in found[start:]
        ]
        return {
            "apiVersion": asked.kind.api_version,
            "kind": f"{asked.kind.name}List",
            "metadata": metadata,
            "items": items,
        }

    async def _watch(self, asked: Asked, request: web.BaseRequest) -> web.StreamResponse:
        asked.code = 200
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        since = int(asked.query.get("resourceVersion") or 0)
        changed, ended = asyncio.Event(), asyncio.Event()
        self.store.waiting.add(changed)
        self.streams.add(ended)
        try:
            await response.prepare(request)
            if since < self.store.forgotten:
                gone = Failure(410, "Expired", "too old resource version").status
                await _say(response, "ERROR", gone)
                return response
            while not ended.is_set():
                changed.clear()
                for version, kind, old, new in list(self.store.log):
                    if version <= since:
                        continue
                    since = version
                    told = self._told(asked, kind, old, new, version)
                    if told is not None:
                        await _say(response, *told)
                waits = [asyncio.ensure_future(each.wait()) for each in (changed, ended)]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
            return response
        except ConnectionError:
            return response
        finally:
            self.store.waiting.discard(changed)
            self.streams.discard(ended)

    @staticmethod
    def _told(
        asked: Asked, kind: Kind, old: Object | None, new: Object | None, version: int
    ) -> tuple[str, Object] | None:
        """The event of a change, for somebody who watches only what is selected."""
        if kind != asked.kind:
            return None

        def inside(body: Object | None) -> bool:
            return (
                body is not None
                and asked.namespace in (None, body["metadata"].get("namespace"))
                and _selected(body, asked.query)
            )

        if new is not None and inside(new):
            return ("MODIFIED" if inside(old) else "ADDED"), new
        if old is not None and inside(old):
            metadata = {**old["metadata"], "resourceVersion": str(version)}
            return "DELETED", {**old, "metadata": metadata}
        return None

    def _discovery(self, prefix: str, rest: list[str]) -> Object:
        served = self.store.served
        if prefix == "api" and not rest:
            return {"kind": "APIVersions", "versions": ["v1"]}
        if not rest:
            groups = sorted({(kind.group, kind.version) for kind in served if kind.group})
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [
                    {
                        "name": group,
                        "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                        "preferredVersion": {
                            "groupVersion": f"{group}/{version}",
                            "version": version,
                        },
                    }
                    for group, version in groups
                ],
            }
        group, version = ("", rest[0]) if prefix == "api" else (rest[0], rest[-1])
        found = [kind for kind in served if (kind.group, kind.version) == (group, version)]
        if not found:
            raise Failure(404, "NotFound", "the server could not find the requested resource")
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = [
            {
                "name": f"{kind.plural}{sub}",
                "singularName": kind.name.lower(),
                "namespaced": kind.namespaced,
                "kind": kind.name,
                "verbs": ["get", "patch", "update"] if sub else verbs,
            }
            for kind in found
            for sub in ("", *(["/status"] if kind in STATUS_KINDS else []))
        ]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": found[0].api_version,
            "resources": resources,
        }

    def _fault(self, asked: Asked) -> Fault | None:
        for fault in self.faults:
            if (
                fault.times > 0
                and fault.verb in (asked.verb, "any")
                and fault.kind in (None, asked.kind)
                and fault.name in (None, asked.name)
            ):
                fault.times -= 1
                return fault
        return None

    def _authorize(self, asked: Asked) -> None:
        verb = {"apply": "patch", "evict": "create", "put": "update"}.get(asked.verb, asked.verb)
        resource = f"{asked.kind.plural}/{asked.sub}" if asked.sub else asked.kind.plural
        needed = {(asked.kind.group, resource, verb)}
        if (
            asked.verb == "apply"
            and self.store.find(asked.kind, asked.namespace, asked.name) is None
        ):
            needed.add((asked.kind.group, resource, "create"))
        if self.granted is not None and not needed <= self.granted:
            told = (
                f'{resource}.{asked.kind.group} is forbidden: cannot {verb} resource "{resource}"'
            )
            raise Failure(403, "Forbidden", told, kind=asked.kind.plural)

    def _served(self, group: str, version: str, plural: str) -> Kind:
        for kind in self.store.served:
            if (kind.group, kind.version, kind.plural) == (group, version, plural):
                return kind
        raise Failure(404, "NotFound", "the server could not find the requested resource")

    def kind_named(self, name: str) -> Kind:
        return next(kind for kind in self.store.served if kind.name == name)


def _verb(method: str, name: str, sub: str, query: Mapping[str, str], content_type: str) -> str:
    if method == "GET":
        watching = query.get("watch") in ("true", "1")
        return "watch" if watching else "get" if name else "list"
    if method == "PATCH":
        return "apply" if "apply-patch" in content_type else "patch"
    if method == "POST" and sub == "eviction":
        return "evict"
    return {"POST": "create", "PUT": "put", "DELETE": "delete"}[method]


def _selected(body: Object, query: Mapping[str, str]) -> bool:
    """Label selectors `a`, `!a`, `a=b`, `a!=b`; field selectors on name and namespace."""
    labels = body["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        if "!=" in part:
            key, value = part.split("!=")
            fits = labels.get(key) != value
        elif "=" in part:
            key, value = part.replace("==", "=").split("=")
            fits = labels.get(key) == value
        else:
            fits = (part.lstrip("!") in labels) != part.startswith("!")
        if not fits:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, value = part.replace("==", "=").split("=")
        if body["metadata"].get(key.removeprefix("metadata.")) != value:
            return False
    return True


async def _say(response: web.StreamResponse, sort: str, body: Object) -> None:
    await response.write(json.dumps({"type": sort, "object": body}).encode() + b"\n")
