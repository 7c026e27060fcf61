"""The door to the API server against scripted answers: what is really sent, and what each
answer becomes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import kmock
import pytest
from kubernetes.aio.client import Configuration

from dynamo_operator.kube import kinds
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.connection import Connection
from dynamo_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NamespaceEnding,
    NotFound,
    NotLeading,
    TooManyRequests,
    Unreachable,
)

POD = "/api/v1/namespaces/shop/pods/cart-default-0"
SETS = "/apis/apps/v1/namespaces/shop/statefulsets"


@pytest.fixture
async def server() -> AsyncIterator[kmock.RawHandler]:
    async with kmock.RawHandler() as handler, kmock.Server(handler):
        yield handler


@pytest.fixture
async def api(server: kmock.RawHandler) -> AsyncIterator[Api]:
    connection = Connection(Configuration(host=str(server.url).rstrip("/")))
    yield Api(connection, deadline_s=5.0)
    await connection.close()


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


async def test_get_gives_the_object_or_none(server: kmock.RawHandler, api: Api) -> None:
    server["get", POD] << {"metadata": {"name": "cart-default-0"}}
    assert await api.get(kinds.POD, "shop", "cart-default-0") == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cart-default-0"},
    }
    path = "/api/v1/persistentvolumes/pv"
    server["get", path] << 404 << status(404, "NotFound", "gone", name="pv")
    assert await api.get(kinds.VOLUME, None, "pv") is None
    assert server[0].headers["Accept"] == "application/json"


async def test_a_list_is_read_page_by_page(server: kmock.RawHandler, api: Api) -> None:
    pages = [
        {"metadata": {"continue": "next/1=="}, "items": [{"metadata": {"name": "a"}}]},
        {"metadata": {"continue": ""}, "items": [{"metadata": {"name": "b"}}]},
    ]
    server["get", SETS] << (lambda: pages.pop(0))
    labels = {"dynamocluster.io/cluster": "cart", "dynamocluster.io/pool": "default"}
    found = await api.list_all(kinds.STATEFUL_SET, "shop", labels, page_objects=1)
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("apps/v1", "StatefulSet")}
    selector = "dynamocluster.io/cluster=cart,dynamocluster.io/pool=default"
    assert dict(server[0].params) == {"limit": "1", "labelSelector": selector}
    assert server[1].params["continue"] == "next/1=="
    assert server[1].params["labelSelector"] == selector


async def test_a_list_whose_pages_have_expired_begins_anew(
    server: kmock.RawHandler, api: Api
) -> None:
    pages: list[Any] = [
        {"metadata": {"continue": "old"}, "items": [{"metadata": {"name": "a"}}]},
        None,
        {"metadata": {}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]},
    ]
    (
        server["get /api/v1/pods", kmock.params({"continue": "old"})]
        << 410
        << status(410, "Expired", "too old")
    )
    server["get /api/v1/pods"] << (lambda: pages.pop(0) or pages.pop(0))
    found = await api.list_all(kinds.POD)
    assert [item["metadata"]["name"] for item in found] == ["a", "b"]
    assert len(server) == 3


async def test_pages_that_always_expire_are_given_up(server: kmock.RawHandler, api: Api) -> None:
    (
        server["get /api/v1/pods", kmock.params({"continue": "old"})]
        << 410
        << status(410, "Expired", "too old")
    )
    server["get /api/v1/pods"] << {"metadata": {"continue": "old"}, "items": []}
    with pytest.raises(Unreachable, match="list Pods: it changes faster"):
        await api.list_all(kinds.POD)
    assert len(server) == 6


async def test_create_sends_the_object_and_who_owns_its_fields(
    server: kmock.RawHandler, api: Api
) -> None:
    server["post", SETS] << 201 << {"metadata": {"name": "cart-default", "uid": "u"}}
    body = {"metadata": {"name": "cart-default", "namespace": "shop"}, "spec": {"replicas": 3}}
    made = await api.create(kinds.STATEFUL_SET, body)
    assert made["metadata"]["uid"] == "u"
    assert server[0].data == {"apiVersion": "apps/v1", "kind": "StatefulSet", **body}
    assert dict(server[0].params) == {"fieldManager": "dynamo-operator"}


@pytest.mark.parametrize("force", [False, True])
async def test_apply_is_server_side_and_forces_only_when_asked(
    server: kmock.RawHandler, api: Api, force: bool
) -> None:
    server["patch", f"{SETS}/cart-default"] << {"metadata": {"name": "cart-default"}}
    metadata = {"name": "cart-default", "namespace": "shop", "resourceVersion": "7"}
    body = {"metadata": metadata, "spec": {}}
    await api.apply(kinds.STATEFUL_SET, body, force=force)
    assert server[0].headers["Content-Type"] == "application/apply-patch+yaml"
    assert server[0].data["metadata"]["resourceVersion"] == "7"
    assert dict(server[0].params) == {
        "fieldManager": "dynamo-operator",
        "force": "true" if force else "false",
    }


async def test_the_status_is_applied_to_its_sub_resource_of_exactly_that_object(
    server: kmock.RawHandler, api: Api
) -> None:
    path = "/apis/dynamocluster.io/v1alpha1/namespaces/shop/dynamoclusters/cart/status"
    server["patch", path] << {"metadata": {"name": "cart"}}
    await api.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", "u-1", {"replicas": 3})
    assert server[0].data == {
        "apiVersion": "dynamocluster.io/v1alpha1",
        "kind": "DynamoCluster",
        "metadata": {"name": "cart", "namespace": "shop", "uid": "u-1"},
        "status": {"replicas": 3},
    }
    assert server[0].headers["Content-Type"] == "application/apply-patch+yaml"


async def test_both_kinds_of_patch_carry_their_precondition(
    server: kmock.RawHandler, api: Api
) -> None:
    path = "/api/v1/namespaces/shop/persistentvolumeclaims/data-0"
    server["patch", path] << {"metadata": {"name": "data-0"}}
    merge = {"metadata": {"resourceVersion": "9", "annotations": {"a": None}}}
    await api.patch(kinds.CLAIM, "shop", "data-0", merge)
    assert server[0].headers["Content-Type"] == "application/merge-patch+json"
    assert server[0].data == merge
    steps = [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "remove", "path": "/metadata/ownerReferences"},
    ]
    await api.patch(kinds.CLAIM, "shop", "data-0", steps)
    assert server[1].headers["Content-Type"] == "application/json-patch+json"
    assert server[1].data == steps


async def test_a_deletion_carries_its_preconditions(server: kmock.RawHandler, api: Api) -> None:
    server["delete", POD] << status(200, "", "")
    await api.delete(kinds.POD, "shop", "cart-default-0", uid="u", grace_s=0)
    assert server[0].data == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u"},
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }
    server["delete", f"{SETS}/cart-large"] << status(200, "", "")
    await api.delete(
        kinds.STATEFUL_SET,
        "shop",
        "cart-large",
        uid="u",
        resource_version="8",
        propagation="Orphan",
    )
    assert server[1].data["preconditions"] == {"uid": "u", "resourceVersion": "8"}
    assert server[1].data["propagationPolicy"] == "Orphan"


async def test_an_eviction_carries_its_precondition(server: kmock.RawHandler, api: Api) -> None:
    server["post", f"{POD}/eviction"] << 201 << status(201, "", "")
    await api.evict("shop", "cart-default-0", uid="u")
    assert server[0].data == {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "cart-default-0", "namespace": "shop"},
        "deleteOptions": {"preconditions": {"uid": "u"}},
    }


ENDING = [{"reason": "NamespaceTerminating", "message": "it ends", "field": "metadata.namespace"}]
FAILURES = [
    (404, status(404, "NotFound", 'pods "cart-default-0" not found', name="x"), NotFound),
    (409, status(409, "Conflict", "the object has been modified"), Conflict),
    (409, status(409, "AlreadyExists", "exists"), AlreadyExists),
    (401, status(401, "Unauthorized", "Unauthorized"), Forbidden),
    (403, status(403, "Forbidden", "pods is forbidden"), Forbidden),
    (403, status(403, "Forbidden", "no", causes=ENDING), NamespaceEnding),
    (400, status(400, "BadRequest", "no"), Invalid),
    (422, status(422, "Invalid", "no"), Invalid),
    (429, status(429, "TooManyRequests", "too many requests"), Unreachable),
    (500, status(500, "InternalError", "etcd"), Unreachable),
    (503, {"what": "is this"}, Unreachable),
]


@pytest.mark.parametrize(("code", "body", "error"), FAILURES)
async def test_each_failure_is_one_of_the_projects_errors_and_names_what_was_asked(
    server: kmock.RawHandler, api: Api, code: int, body: Any, error: type[KubeError]
) -> None:
    server["delete", POD] << code << body
    with pytest.raises(KubeError) as raised:
        await api.delete(kinds.POD, "shop", "cart-default-0", uid="u")
    assert type(raised.value) is error
    assert "delete Pod shop/cart-default-0" in str(raised.value)
    assert f"HTTP {code}" in str(raised.value)


async def test_what_is_forbidden_is_named_by_verb_kind_and_namespace(
    server: kmock.RawHandler, api: Api
) -> None:
    server["get /api/v1/namespaces/shop/secrets"] << 403 << status(403, "Forbidden", "no role")
    with pytest.raises(Forbidden, match="not allowed to list Secrets in namespace shop: no role"):
        await api.list_all(kinds.SECRET, "shop")


async def test_a_kind_that_the_server_does_not_serve_is_told_apart(
    server: kmock.RawHandler, api: Api
) -> None:
    (
        server["/apis/monitoring.coreos.com/v1/namespaces/shop/servicemonitors"]
        << 404
        << (b"404 page not found\n")
    )
    with pytest.raises(NotFound, match="404 page not found") as raised:
        await api.list_all(kinds.SERVICE_MONITOR, "shop")
    assert raised.value.kind_unknown
    server["delete", POD] << 404 << status(404, "NotFound", "gone", name="cart-default-0")
    with pytest.raises(NotFound) as raised:
        await api.delete(kinds.POD, "shop", "cart-default-0", uid="u")
    assert not raised.value.kind_unknown


async def test_the_causes_of_what_is_invalid(server: kmock.RawHandler, api: Api) -> None:
    causes = [{"reason": "FieldValueInvalid", "message": "too small", "field": "spec.replicas"}]
    server["post", SETS] << 422 << status(422, "Invalid", "bad", causes=causes)
    with pytest.raises(Invalid) as raised:
        await api.create(kinds.STATEFUL_SET, {"metadata": {"name": "a", "namespace": "shop"}})
    assert raised.value.causes == (("spec.replicas", "too small"),)


async def test_an_eviction_that_a_budget_refuses(server: kmock.RawHandler, api: Api) -> None:
    causes = [{"reason": "DisruptionBudget", "message": "needs 2 healthy pods and has 2"}]
    (
        server["post", f"{POD}/eviction"]
        << 429
        << status(429, "TooManyRequests", "Cannot evict pod", causes=causes)
    )
    with pytest.raises(TooManyRequests) as raised:
        await api.evict("shop", "cart-default-0", uid="u")
    assert raised.value.reason == "needs 2 healthy pods and has 2"


async def test_a_failed_test_of_a_json_patch_is_a_conflict(
    server: kmock.RawHandler, api: Api
) -> None:
    told = "the server rejected our request due to an error in our request"
    server["patch", f"{SETS}/cart-default"] << 422 << status(422, "Invalid", told)
    test = {"op": "test", "path": "/metadata/uid", "value": "u"}
    with pytest.raises(Conflict, match="not so any more"):
        await api.patch(kinds.STATEFUL_SET, "shop", "cart-default", [test])
    with pytest.raises(Invalid):
        await api.patch(kinds.STATEFUL_SET, "shop", "cart-default", {"metadata": {"uid": "u"}})


async def test_no_answer_in_time_is_unreachable(server: kmock.RawHandler, api: Api) -> None:
    server["get", POD] << (lambda: asyncio.sleep(60))
    quick = Api(api._connection, deadline_s=0.2)
    with pytest.raises(Unreachable, match=r"get Pod shop/cart-default-0: no answer within 0\.2 s"):
        await quick.get(kinds.POD, "shop", "cart-default-0")


async def test_no_server_is_unreachable_with_its_cause(unused_tcp_port: int) -> None:
    connection = Connection(Configuration(host=f"http://127.0.0.1:{unused_tcp_port}"))
    try:
        with pytest.raises(Unreachable, match="list Nodes") as raised:
            await Api(connection).list_all(kinds.NODE)
        assert isinstance(raised.value.__cause__, OSError)
    finally:
        await connection.close()


async def test_an_answer_that_is_not_json_is_unreachable(
    server: kmock.RawHandler, api: Api
) -> None:
    server["get", POD] << b"<html>"
    with pytest.raises(Unreachable, match="not JSON"):
        await api.get(kinds.POD, "shop", "cart-default-0")


async def test_nothing_is_sent_without_its_precondition(server: kmock.RawHandler, api: Api) -> None:
    body = {"metadata": {"name": "a", "namespace": "shop"}}
    with pytest.raises(ValueError, match="forced apply"):
        await api.apply(kinds.SERVICE, body, force=True)
    with pytest.raises(ValueError, match="a patch names"):
        await api.patch(kinds.CLAIM, "shop", "a", {"metadata": {"labels": {}}})
    with pytest.raises(ValueError, match="begins with a test"):
        await api.patch(kinds.CLAIM, "shop", "a", [{"op": "remove", "path": "/spec"}])
    with pytest.raises(ValueError, match="a deletion names"):
        await api.delete(kinds.POD, "shop", "a")
    with pytest.raises(ValueError, match="a deletion names"):
        await api.evict("shop", "a")
    with pytest.raises(ValueError, match="needs a namespace"):
        await api.get(kinds.POD, None, "a")
    assert len(server) == 0


async def test_a_process_that_does_not_lead_reads_and_writes_nothing(
    server: kmock.RawHandler, api: Api
) -> None:
    server["get", POD] << {"metadata": {}}
    standing_by = Api(api._connection, may_write=lambda: False)
    assert await standing_by.get(kinds.POD, "shop", "cart-default-0")
    body = {"metadata": {"name": "a", "namespace": "shop", "uid": "u"}}
    for write in (
        standing_by.create(kinds.SERVICE, body),
        standing_by.apply(kinds.SERVICE, body),
        standing_by.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", "u", {}),
        standing_by.patch(kinds.CLAIM, "shop", "a", {"metadata": {"uid": "u"}}),
        standing_by.delete(kinds.POD, "shop", "a", uid="u"),
        standing_by.evict("shop", "a", uid="u"),
    ):
        with pytest.raises(NotLeading):
            await write
    assert [request.method.value for request in server] == ["GET"]
