"""The emulated cluster keeps the rules of the real one that an operator relies upon."""

import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.operator.kube_world import KubeWorld

from dynamo_operator.kube import kinds
from dynamo_operator.kube.api import Api
from dynamo_operator.kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unreachable,
)

LABELS = {"dynamocluster.io/cluster": "cart"}
Object = dict[str, Any]


@pytest.fixture
async def world() -> AsyncIterator[KubeWorld]:
    async with KubeWorld().serving() as serving:
        serving.grant()
        yield serving


@pytest.fixture
def api(world: KubeWorld) -> Api:
    return world.api()


def config(name: str = "c", **data: str) -> Object:
    return {"metadata": {"name": name, "namespace": "shop", "labels": LABELS}, "data": data}


def stateful_set(replicas: int = 3) -> Object:
    return {
        "metadata": {"name": "cart-default", "namespace": "shop", "labels": LABELS},
        "spec": {
            "replicas": replicas,
            "serviceName": "cart-nodes",
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"containers": [{"name": "node", "image": "i:1"}]},
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {"resources": {"requests": {"storage": "10Gi"}}},
                }
            ],
        },
    }


def budget(name: str = "cart", most: int = 1) -> Object:
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": LABELS},
        "spec": {"maxUnavailable": most, "selector": {"matchLabels": LABELS}},
    }


async def test_versions_uids_and_preconditions(world: KubeWorld, api: Api) -> None:
    made = await api.create(kinds.CONFIG_MAP, config(a="1"))
    with pytest.raises(AlreadyExists):
        await api.create(kinds.CONFIG_MAP, config(a="1"))
    seen = {"resourceVersion": made["metadata"]["resourceVersion"]}
    changed = await api.patch(kinds.CONFIG_MAP, "shop", "c", {"metadata": seen, "data": {"a": "2"}})
    assert changed["metadata"]["resourceVersion"] != seen["resourceVersion"]
    with pytest.raises(Conflict):
        await api.patch(kinds.CONFIG_MAP, "shop", "c", {"metadata": seen, "data": {"a": "3"}})
    with pytest.raises(Conflict):
        await api.delete(kinds.CONFIG_MAP, "shop", "c", uid="another")
    same = {"metadata": {"uid": made["metadata"]["uid"]}, "data": {"a": "2"}}
    again = await api.patch(kinds.CONFIG_MAP, "shop", "c", same)
    assert again["metadata"] == changed["metadata"]  # nothing changed: no new version
    test = {"op": "test", "path": "/data/a", "value": "9"}
    with pytest.raises(Conflict):
        await api.patch(kinds.CONFIG_MAP, "shop", "c", [test])
    await api.delete(kinds.CONFIG_MAP, "shop", "c", uid=made["metadata"]["uid"])
    assert await api.get(kinds.CONFIG_MAP, "shop", "c") is None
    new = await api.create(kinds.CONFIG_MAP, config())
    assert new["metadata"]["uid"] != made["metadata"]["uid"]


async def test_the_status_is_a_sub_resource(world: KubeWorld, api: Api) -> None:
    metadata = {"name": "cart", "namespace": "shop"}
    body = {"kind": "DynamoCluster", "metadata": metadata, "spec": {}, "status": {"a": 1}}
    made = world.add(body)
    assert "status" not in made
    uid = made["metadata"]["uid"]
    conditions = [{"type": "Available", "status": "True"}, {"type": "Blocked", "status": "False"}]
    status = {"replicas": 3, "conditions": conditions}
    told = await api.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", uid, status)
    assert told["status"] == status
    assert told["metadata"]["generation"] == 1
    edited = world.edit(kinds.DYNAMO_CLUSTER, "shop", "cart", {"spec": {"x": 1}, "status": {}})
    assert edited["metadata"]["generation"] == 2
    assert edited["status"] == status
    # What isn't told any more goes, item by item of a list with keys.
    less = {"conditions": conditions[:1]}
    told = await api.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", uid, less)
    assert told["status"] == less
    version = told["metadata"]["resourceVersion"]
    told = await api.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", uid, less)
    assert told["metadata"]["resourceVersion"] == version
    with pytest.raises(Conflict):
        await api.apply_status(kinds.DYNAMO_CLUSTER, "shop", "cart", "another", less)


async def test_server_side_apply_knows_who_owns_what(world: KubeWorld, api: Api) -> None:
    await api.apply(kinds.CONFIG_MAP, config(a="1", b="1"))
    world.edit(kinds.CONFIG_MAP, "shop", "c", {"data": {"b": "2", "c": "3"}})
    with pytest.raises(Conflict, match=r'conflict with "kubectl": data\.b'):
        await api.apply(kinds.CONFIG_MAP, config(a="1", b="1"))
    kept = await api.apply(kinds.CONFIG_MAP, config(b="2"))  # a is ours alone: it goes
    assert kept["data"] == {"b": "2", "c": "3"}
    seen = copy.deepcopy(config(b="4"))
    seen["metadata"]["resourceVersion"] = kept["metadata"]["resourceVersion"]
    assert (await api.apply(kinds.CONFIG_MAP, seen, force=True))["data"] == {"b": "4", "c": "3"}
    with pytest.raises(Conflict):
        await api.apply(kinds.CONFIG_MAP, seen, force=True)  # another version by now
    seen["metadata"] |= {"name": "new"}
    with pytest.raises(Conflict):
        await api.apply(kinds.CONFIG_MAP, seen)  # what was seen is not there


async def test_what_was_created_and_then_applied_has_two_owners(world: KubeWorld, api: Api) -> None:
    """As on the real server: a POST and an apply of one manager are told apart.

    A field of both stays when the apply no longer names it, and a change of it conflicts.
    """
    made = await api.create(kinds.CONFIG_MAP, config(a="1", b="1"))
    with pytest.raises(Conflict, match=r"dynamo-operator.*data\.a"):
        await api.apply(kinds.CONFIG_MAP, config(a="2", b="1"))
    seen = config(a="2", b="1")
    seen["metadata"]["uid"] = made["metadata"]["uid"]
    assert (await api.apply(kinds.CONFIG_MAP, seen, force=True))["data"] == {"a": "2", "b": "1"}
    del seen["data"]["b"]
    assert (await api.apply(kinds.CONFIG_MAP, seen, force=True))["data"] == {"a": "2", "b": "1"}


async def test_lists_come_in_pages_that_can_expire(world: KubeWorld, api: Api) -> None:
    for n in range(5):
        await api.create(kinds.CONFIG_MAP, config(f"c{n}"))
    world.add({"kind": "ConfigMap", "metadata": {"name": "other", "namespace": "shop"}})
    found = await api.list_all(kinds.CONFIG_MAP, "shop", LABELS, page_objects=2)
    assert [each["metadata"]["name"] for each in found] == [f"c{n}" for n in range(5)]
    assert {each["kind"] for each in found} == {"ConfigMap"}
    assert len([each for each in world.asked if each.verb == "list"]) == 3
    assert len(await api.list_all(kinds.CONFIG_MAP)) == 6


@pytest.mark.parametrize(
    ("kind", "body", "changes"),
    [
        (kinds.CONFIG_MAP, {**config(a="1"), "immutable": True}, {"data": {"a": "2"}}),
        (kinds.STATEFUL_SET, stateful_set(), {"spec": {"serviceName": "x"}}),
        (kinds.STATEFUL_SET, stateful_set(), {"spec": {"volumeClaimTemplates": []}}),
    ],
    ids=["immutable", "serviceName", "volumeClaimTemplates"],
)
async def test_what_cannot_be_changed(
    world: KubeWorld, api: Api, kind: kinds.Kind, body: Object, changes: Object
) -> None:
    made = await api.create(kind, body)
    changes = {"metadata": {"uid": made["metadata"]["uid"]}, **changes}
    with pytest.raises(Invalid) as raised:
        await api.patch(kind, "shop", body["metadata"]["name"], changes)
    assert raised.value.causes


async def test_a_set_makes_pods_and_claims_and_keeps_the_claims(world: KubeWorld, api: Api) -> None:
    world.add_storage_class()
    for name in ("n1", "n2", "n3"):
        world.add_node(name, zone=name)
    made = await api.create(kinds.STATEFUL_SET, stateful_set())
    world.settle()
    pods = world.all(kinds.POD, "shop", LABELS)
    assert [pod["metadata"]["name"] for pod in pods] == [f"cart-default-{n}" for n in range(3)]
    assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2", "n3"}
    assert all(pod["status"]["conditions"][0]["status"] == "True" for pod in pods)
    claims = world.all(kinds.CLAIM, "shop", LABELS)
    assert [claim["status"]["phase"] for claim in claims] == ["Bound"] * 3
    assert len(world.all(kinds.VOLUME)) == 3
    live = world.store.get(kinds.STATEFUL_SET, "shop", "cart-default")
    assert live["status"]["readyReplicas"] == 3

    fewer = {"metadata": {"uid": made["metadata"]["uid"]}, "spec": {"replicas": 2}}
    await api.patch(kinds.STATEFUL_SET, "shop", "cart-default", fewer)
    world.step()
    going = world.store.get(kinds.POD, "shop", "cart-default-2")
    assert "deletionTimestamp" in going["metadata"]
    world.settle()
    assert world.find(kinds.POD, "shop", "cart-default-2") is None
    assert len(world.all(kinds.CLAIM)) == 3

    # OnDelete: a new template waits for its pods to go.
    image = {"template": {"spec": {"containers": [{"name": "node", "image": "i:2"}]}}}
    newer = {"metadata": {"uid": made["metadata"]["uid"]}, "spec": image}
    await api.patch(kinds.STATEFUL_SET, "shop", "cart-default", newer)
    world.settle()
    images = [pod["spec"]["containers"][0]["image"] for pod in world.all(kinds.POD)]
    assert images == ["i:1", "i:1"]
    uid = world.all(kinds.POD)[0]["metadata"]["uid"]
    await api.evict("shop", "cart-default-0", uid=uid)
    world.settle()
    images = [pod["spec"]["containers"][0]["image"] for pod in world.all(kinds.POD)]
    assert images == ["i:2", "i:1"]


async def test_a_budget_refuses_evictions(world: KubeWorld, api: Api) -> None:
    world.add_storage_class()
    world.add_node("n1")
    await api.create(kinds.BUDGET, budget())
    await api.create(kinds.STATEFUL_SET, stateful_set())
    world.settle()
    pods = world.all(kinds.POD)
    await api.evict("shop", "cart-default-0", uid=pods[0]["metadata"]["uid"])
    with pytest.raises(TooManyRequests, match="needs 2 healthy pods and has 2") as raised:
        await api.evict("shop", "cart-default-1", uid=pods[1]["metadata"]["uid"])
    assert raised.value.reason.startswith("The disruption budget cart")
    world.settle()
    await api.evict("shop", "cart-default-1", uid=pods[1]["metadata"]["uid"])


async def test_claims_grow_and_are_protected_and_volumes_can_be_lost(
    world: KubeWorld, api: Api
) -> None:
    world.add_storage_class()
    world.add_node("n1")
    world.add_node("n2")
    world.cluster.local_volumes = True
    await api.create(kinds.STATEFUL_SET, stateful_set(1))
    world.settle()
    claim = world.all(kinds.CLAIM)[0]
    name, uid = claim["metadata"]["name"], claim["metadata"]["uid"]

    def sized(size: str) -> Object:
        return {"metadata": {"uid": uid}, "spec": {"resources": {"requests": {"storage": size}}}}

    await api.patch(kinds.CLAIM, "shop", name, sized("20Gi"))
    world.settle()
    assert world.all(kinds.CLAIM)[0]["status"]["capacity"]["storage"] == "20Gi"
    with pytest.raises(Invalid):
        await api.patch(kinds.CLAIM, "shop", name, sized("10Gi"))
    world.edit(kinds.STORAGE_CLASS, None, "standard", {"allowVolumeExpansion": False})
    with pytest.raises(Forbidden):
        await api.patch(kinds.CLAIM, "shop", name, sized("30Gi"))

    await api.delete(kinds.CLAIM, "shop", name, uid=uid)
    world.settle()
    assert "deletionTimestamp" in world.all(kinds.CLAIM)[0]["metadata"]  # a pod uses it
    pod = world.all(kinds.POD)[0]
    await api.delete(kinds.POD, "shop", pod["metadata"]["name"], uid=pod["metadata"]["uid"])
    world.settle()
    claim = world.all(kinds.CLAIM)[0]
    assert claim["metadata"]["uid"] != uid  # a new one
    assert len(world.all(kinds.VOLUME)) == 1

    world.remove(kinds.VOLUME, None, claim["spec"]["volumeName"])
    world.settle()
    assert world.all(kinds.CLAIM)[0]["status"]["phase"] == "Lost"


async def test_a_node_that_is_down_keeps_its_pods_until_it_is_gone(
    world: KubeWorld, api: Api
) -> None:
    world.add_storage_class()
    world.add_node("n1")
    await api.create(kinds.STATEFUL_SET, stateful_set(1))
    world.settle()
    world.cluster.down.add("n1")
    world.settle()
    pod = world.all(kinds.POD)[0]
    assert pod["status"]["conditions"][0]["status"] == "False"
    await api.delete(kinds.POD, "shop", pod["metadata"]["name"], uid=pod["metadata"]["uid"])
    world.settle()
    assert "deletionTimestamp" in world.all(kinds.POD)[0]["metadata"]
    world.add_node("n2")
    world.remove(kinds.NODE, None, "n1")
    world.settle()
    assert world.all(kinds.POD)[0]["spec"]["nodeName"] == "n2"


async def test_owners_and_what_goes_with_them(world: KubeWorld, api: Api) -> None:
    def owned(name: str, uid: str, *, blocks: bool = False) -> Object:
        reference = {"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": True}
        body = config(name)
        body["metadata"]["ownerReferences"] = [{**reference, "blockOwnerDeletion": blocks}]
        return body

    options: dict[str, Callable[[Object], Object]] = {
        "Background": lambda _: {},
        "Foreground": lambda _: {"propagationPolicy": "Foreground"},
        "Orphan": lambda _: {"propagationPolicy": "Orphan"},
    }
    for policy, option in options.items():
        parent = await api.create(kinds.CONFIG_MAP, config("parent"))
        uid = parent["metadata"]["uid"]
        child = await api.create(kinds.CONFIG_MAP, owned("child", uid, blocks=True))
        await api.create(kinds.CONFIG_MAP, owned("grandchild", child["metadata"]["uid"]))
        world.settle()
        world.remove(kinds.CONFIG_MAP, "shop", "parent", option(parent))
        world.settle()
        left = [each["metadata"]["name"] for each in world.all(kinds.CONFIG_MAP)]
        assert left == ([] if policy != "Orphan" else ["child", "grandchild"])
    child = world.store.get(kinds.CONFIG_MAP, "shop", "child")
    assert "ownerReferences" not in child["metadata"]


async def test_faults_and_rights(world: KubeWorld, api: Api) -> None:
    world.fail("create", kinds.CONFIG_MAP, code=503)
    with pytest.raises(Unreachable):
        await api.create(kinds.CONFIG_MAP, config())
    assert world.all(kinds.CONFIG_MAP) == []
    world.fail("create", after=True)
    with pytest.raises(Unreachable):
        await api.create(kinds.CONFIG_MAP, config())
    assert len(world.all(kinds.CONFIG_MAP)) == 1
    world.unserve(kinds.SERVICE_MONITOR)
    with pytest.raises(NotFound) as raised:
        await api.list_all(kinds.SERVICE_MONITOR, "shop")
    assert raised.value.kind_unknown
    world.granted = set()
    with pytest.raises(Forbidden, match="not allowed to list Pods"):
        await api.list_all(kinds.POD)
    assert [str(each) for each in world.writes()] == ["create ConfigMap c"] * 2
