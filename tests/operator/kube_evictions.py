"""Evictions in an emulated cluster, as its PodDisruptionBudgets allow them."""

from tests.operator.kube_patches import Object
from tests.operator.kube_rules import Failure, check_precondition
from tests.operator.kube_store import Store

from dynamo_operator.kube import kinds


def evict(store: Store, namespace: str, name: str, options: Object) -> None:
    """Deletes a pod unless a PodDisruptionBudget forbids it."""
    pod = store.get(kinds.POD, namespace, name)
    check_precondition(kinds.POD, pod, options.get("preconditions") or {})
    for budget in store.all(kinds.BUDGET, namespace):
        labels = budget["spec"]["selector"]["matchLabels"]
        if not labels.items() <= pod["metadata"].get("labels", {}).items():
            continue
        healthy, wanted = counted(store, budget)
        always = budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
        if not is_ready(pod) and (always or healthy >= wanted):
            continue
        if healthy - 1 < wanted:
            told = (
                f"The disruption budget {budget['metadata']['name']} needs {wanted} healthy"
                f" pods and has {healthy} currently"
            )
            causes = [{"reason": "DisruptionBudget", "message": told}]
            raise Failure(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
                causes=causes,
            )
    store.delete(kinds.POD, namespace, name, options)


def counted(store: Store, budget: Object) -> tuple[int, int]:
    """(healthy pods, how many there must be)."""
    spec = budget["spec"]
    namespace = budget["metadata"]["namespace"]
    pods = store.all(kinds.POD, namespace, spec["selector"]["matchLabels"])
    expected = len(pods)
    for each in store.all(kinds.STATEFUL_SET, namespace):
        labels = each["spec"]["template"]["metadata"].get("labels", {})
        if spec["selector"]["matchLabels"].items() <= labels.items():
            owned = [pod for pod in pods if owner_uid(pod) == each["metadata"]["uid"]]
            expected += each["spec"].get("replicas", 1) - len(owned)
    healthy = sum(is_ready(pod) for pod in pods)
    if "maxUnavailable" in spec:
        return healthy, expected - int(spec["maxUnavailable"])
    return healthy, int(spec.get("minAvailable", 1))


def owner_uid(body: Object) -> str:
    """Of the controller; "" without one."""
    references = body["metadata"].get("ownerReferences", [])
    return next((each["uid"] for each in references if each.get("controller")), "")


def is_ready(pod: Object) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
