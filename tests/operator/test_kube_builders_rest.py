"""Services, budget, network policy, monitor and account: each as a whole."""

import pytest
from tests.operator.kube_objects import EVERYTHING, OPERATOR_LABELS, OWNED, OWNER, cluster, objects

from dynamo_operator.kube import accounts, disruption, monitoring, names, network, services

CART = cluster()
PODS = {"dynamocluster.io/cluster": "cart"}


def metadata(name: str, component: str) -> dict[str, object]:
    return {
        "name": name,
        "namespace": "shop",
        "labels": names.labels(CART, component),
        "ownerReferences": OWNED,
    }


def test_the_nodes_service() -> None:
    tcp = {"protocol": "TCP"}
    assert services.nodes_service(CART, OWNER) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata("cart-nodes", "node"),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": PODS,
            "ports": [
                {"name": "http", "port": 8080, "targetPort": "http", "appProtocol": "http", **tcp},
                {"name": "native", "port": 7070, "targetPort": "native", **tcp},
                {
                    "name": "admin",
                    "port": 8081,
                    "targetPort": "admin",
                    "appProtocol": "http",
                    **tcp,
                },
            ],
        },
    }


def test_the_clients_service_has_no_admin_port_and_only_ready_pods() -> None:
    tcp = {"protocol": "TCP"}
    assert services.client_service(CART, OWNER) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata("cart", "client"),
        "spec": {
            "type": "ClusterIP",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": PODS,
            "ports": [
                {"name": "http", "port": 8080, "targetPort": "http", "appProtocol": "http", **tcp},
                {"name": "native", "port": 7070, "targetPort": "native", **tcp},
            ],
        },
    }


@pytest.mark.parametrize(("steady", "away"), [(True, 1), (False, 0)])
def test_the_budget(steady: bool, away: int) -> None:
    assert disruption.disruption_budget(CART, OWNER, steady=steady) == {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata("cart-nodes", "node"),
        "spec": {
            "maxUnavailable": away,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": PODS},
        },
    }


def test_the_network_policy() -> None:
    vpn = {"ipBlock": {"cidr": "10.1.0.0/16"}}
    found = network.network_policy(
        CART,
        OWNER,
        operator_namespace="dynamo-system",
        operator_labels=OPERATOR_LABELS,
        extra_admin_peers=[vpn],
    )
    assert found == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("cart-nodes", "node"),
        "spec": {
            "podSelector": {"matchLabels": PODS},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": 8080, "protocol": "TCP"}, {"port": 7070, "protocol": "TCP"}]},
                {
                    "ports": [{"port": 8081, "protocol": "TCP"}],
                    "from": [
                        {"podSelector": {"matchLabels": PODS}},
                        {
                            # One peer: pods with these labels in that namespace.
                            "namespaceSelector": {
                                "matchLabels": {"kubernetes.io/metadata.name": "dynamo-system"}
                            },
                            "podSelector": {"matchLabels": OPERATOR_LABELS},
                        },
                        vpn,
                    ],
                },
            ],
        },
    }


def test_a_policy_never_lets_a_whole_namespace_in_by_mistake() -> None:
    with pytest.raises(ValueError, match="labels of the operator's pods are needed"):
        network.network_policy(CART, OWNER, operator_namespace="x", operator_labels={})


def test_the_monitor_scrapes_each_node_once() -> None:
    found = monitoring.service_monitor(
        CART, OWNER, labels={"release": "prometheus", "dynamocluster.io/cluster": "not ours"}
    )
    ours = metadata("cart-nodes", "monitoring")
    assert found == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {
            **ours,
            "labels": {**names.labels(CART, "monitoring"), "release": "prometheus"},
        },
        "spec": {
            "selector": {"matchLabels": {**PODS, "app.kubernetes.io/component": "node"}},
            "targetLabels": ["dynamocluster.io/cluster"],
            "podTargetLabels": ["dynamocluster.io/pool", "dynamocluster.io/zone"],
            "endpoints": [{"port": "http", "path": "/metrics"}],
        },
    }
    wanted = found["spec"]["selector"]["matchLabels"].items()
    both = (services.nodes_service(CART, OWNER), services.client_service(CART, OWNER))
    assert [wanted <= one["metadata"]["labels"].items() for one in both] == [True, False]


def test_the_account_may_do_nothing() -> None:
    assert accounts.service_account(CART, OWNER) == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata("cart-nodes", "node"),
        "automountServiceAccountToken": False,
    }


def test_no_object_has_a_finalizer_and_all_but_the_kept_identity_have_an_owner() -> None:
    kept = 0
    for one in objects(cluster(EVERYTHING)):
        meta = one["metadata"]
        assert "finalizers" not in meta
        if one["kind"] == "Secret" and "ownerReferences" not in meta:
            kept += 1
            continue
        assert meta["ownerReferences"] == OWNED
    assert kept == 1


def test_selectors_pick_the_pods_of_their_cluster_and_of_no_other() -> None:
    """Labels for people don't decide anything: they may be changed one day."""
    found = objects(cluster(EVERYTHING))
    pods = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in found
        if one["kind"] == "StatefulSet"
    ]
    for one in found:
        match one["kind"]:
            case "Service":
                picked = one["spec"]["selector"]
            case "PodDisruptionBudget":
                picked = one["spec"]["selector"]["matchLabels"]
            case "NetworkPolicy":
                picked = one["spec"]["podSelector"]["matchLabels"]
            case _:
                continue
        assert picked == PODS
        assert all(picked.items() <= labels.items() for labels in pods)
    sets = [one["spec"]["selector"]["matchLabels"] for one in found if one["kind"] == "StatefulSet"]
    assert [sum(picked.items() <= labels.items() for labels in pods) for picked in sets] == [1] * 6
