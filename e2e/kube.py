"""A Kubernetes cluster as a person works on it: by kubectl, and by what kubectl shows.

Owns making the cluster (kind, three workers as zones) or taking the one that E2E_KUBECONFIG
names, the operator's installation, and waiting. Forbidden here: importing the product.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
KIND_CLUSTER = "dynamo-e2e"
SYSTEM = "dynamo-system"
OPERATOR = "app.kubernetes.io/name=dynamo-operator"
"""Label of the operator's pods."""
DEADLINE_S = 180.0
COMMAND_S = 120.0
IMAGES = {
    "node": os.environ.get("E2E_IMAGE_NODE", "dynamo-node:e2e"),
    "operator": os.environ.get("E2E_IMAGE_OPERATOR", "dynamo-operator:e2e"),
}
SKEWED_NODE_IMAGE = os.environ.get(
    "E2E_IMAGE_NODE_SKEWED", "" if "E2E_KUBECONFIG" in os.environ else "dynamo-node:e2e-skewed"
)
"""The node image with a clock that can be moved (e2e/skew)."""
NEXT_OPERATOR_IMAGE = os.environ.get(
    "E2E_IMAGE_OPERATOR_NEXT", "" if "E2E_KUBECONFIG" in os.environ else "dynamo-operator:e2e-next"
)
NEXT_NODE_IMAGE = os.environ.get(
    "E2E_IMAGE_NODE_NEXT", "" if "E2E_KUBECONFIG" in os.environ else "dynamo-node:e2e-next"
)
"""Another name of a node image, for rolling changes; of the same one is enough."""


class Failed(AssertionError):
    """A command that ended badly; the text has what it said."""


class Kubectl:
    """kubectl for one cluster and, where given, one namespace."""

    def __init__(self, kubeconfig: str, namespace: str = "default") -> None:
        self.namespace = namespace
        self._kubeconfig = kubeconfig

    def at(self, namespace: str) -> "Kubectl":
        return Kubectl(self._kubeconfig, namespace)

    def run(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """What kubectl prints; text goes to its standard input."""
        flags = ("--kubeconfig", self._kubeconfig, "-n", self.namespace)
        return command("kubectl", *flags, *arguments, text=text, check=check)

    def helm(self, *arguments: str, text: str | None = None) -> str:
        """What Helm prints; text goes to its standard input."""
        flags = ("--kubeconfig", self._kubeconfig, "-n", self.namespace)
        return command("helm", *arguments, *flags, text=text, s=300)

    def tried(self, *arguments: str, text: str | None = None) -> tuple[bool, str]:
        """Whether it went well, and what kubectl said, errors too."""
        try:
            return True, self.run(*arguments, text=text)
        except Failed as error:
            return False, str(error)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json"))

    def items(self, kind: str, selector: str = "") -> dict[str, Any]:
        found = self.json("get", kind, *(("-l", selector) if selector else ()))
        return {item["metadata"]["name"]: item for item in found["items"]}

    def apply(self, *documents: Mapping[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.run("apply", "-f", "-", text=json.dumps(listed))

    def zones(self) -> list[str]:
        """Names of three zones of its machines; none if it has fewer."""
        label = "topology.kubernetes.io/zone"
        nodes = self.items("nodes").values()
        found = sorted({node["metadata"].get("labels", {}).get(label, "") for node in nodes} - {""})
        return found[:3] if len(found) >= 3 else []

    def secret(self, name: str, key: str) -> str:
        return self.run(
            "get", "secret", name, "-o", f"go-template={{{{.data.{key} | base64decode}}}}"
        )


def command(*words: str, text: str | None = None, check: bool = True, s: float = COMMAND_S) -> str:
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=s, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{shlex.join(words)}: not within {s:.0f} s") from error
    if check and done.returncode:
        raise Failed(f"{shlex.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(
    condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S, pause_s: float = 0.5
) -> float:
    """Wait for it; seconds that it took. A command that fails meanwhile counts as not yet."""
    began = time.monotonic()
    while True:
        try:
            last: Any = condition()
        except Failed as error:
            last = None
            what_last = str(error)
        else:
            what_last = repr(last)
        took = time.monotonic() - began
        if last:
            return took
        if took > deadline_s:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}; last: {what_last[:2000]}")
        time.sleep(pause_s)


@contextmanager
def kube_cluster() -> Iterator[Kubectl]:
    """With the operator installed. A kind cluster made here is deleted in the end, unless
    E2E_KEEP is set; in one that was given the operator is put in place of the one that is
    there, and stays."""
    given = os.environ.get("E2E_KUBECONFIG")
    if given:
        missing = [
            name for name in ("E2E_IMAGE_NODE", "E2E_IMAGE_OPERATOR") if name not in os.environ
        ]
        if missing:
            pytest.fail(f"E2E_KUBECONFIG needs {' and '.join(missing)}: images that it can pull")
        kubectl = Kubectl(given)
        install(kubectl)
        yield kubectl
        return
    for tool in ("docker", "kind", "kubectl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} isn't here, and E2E_KUBECONFIG names no cluster")
    with tempfile.TemporaryDirectory(prefix="dynamo-e2e-") as folder:
        kubeconfig = str(Path(folder) / "kubeconfig")
        _build()
        try:
            _make_kind(kubeconfig)
            kubectl = Kubectl(kubeconfig)
            install(kubectl)
            yield kubectl
        finally:
            if os.environ.get("E2E_KEEP"):
                print(f"kept: kind export kubeconfig --name {KIND_CLUSTER}")
            else:
                command("kind", "delete", "cluster", "--name", KIND_CLUSTER, check=False)


def _build() -> None:
    base = os.environ.get("BASE_IMAGE")
    more = shlex.split(os.environ.get("DOCKER_BUILD_ARGS", ""))
    base_args = ("--build-arg", f"BASE_IMAGE={base}") if base else ()
    for part, image in IMAGES.items():
        words = ("docker", "build", *more, *base_args, "-f", f"{part}/Dockerfile", "-t", image, ".")
        command(*words, s=1800)
    skewed = ("--build-arg", f"NODE_IMAGE={IMAGES['node']}", "-t", SKEWED_NODE_IMAGE)
    command("docker", "build", *more, *skewed, "e2e/skew", s=600)
    command("docker", "tag", IMAGES["node"], NEXT_NODE_IMAGE)
    command("docker", "tag", IMAGES["operator"], NEXT_OPERATOR_IMAGE)


def _make_kind(kubeconfig: str) -> None:
    image = os.environ.get("KIND_NODE_IMAGE")
    if KIND_CLUSTER in command("kind", "get", "clusters").split():
        command("kind", "delete", "cluster", "--name", KIND_CLUSTER)
    command(
        *("kind", "create", "cluster", "--name", KIND_CLUSTER, "--kubeconfig", kubeconfig),
        *("--config", "e2e/kind.yaml", "--wait", "180s", *(("--image", image) if image else ())),
        s=600,
    )
    images = (*IMAGES.values(), NEXT_NODE_IMAGE, NEXT_OPERATOR_IMAGE, SKEWED_NODE_IMAGE)
    command("kind", "load", "docker-image", "--name", KIND_CLUSTER, *images, s=600)


def install(kubectl: Kubectl) -> None:
    """As docs/operator.md says, with the images of this run."""
    _applied(kubectl.at(SYSTEM), "charts/kustomize")


def kill_operator(kubectl: Kubectl) -> None:
    """All its pods, without any grace; Kubernetes makes others."""
    system = kubectl.at(SYSTEM)
    pods = system.items("pods", OPERATOR)
    if pods:
        system.run("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")


def install_inside(kubectl: Kubectl) -> None:
    """An operator of this one namespace, with no right outside it."""
    _applied(kubectl, "charts/kustomize/namespaced", "namespace: default", kubectl.namespace)


def _applied(kubectl: Kubectl, folder: str, namespace: str = "", own: str = "") -> None:
    text = command("kubectl", "kustomize", folder)
    for part, image in IMAGES.items():
        text = text.replace(f"dynamo-{part}:dev", image)
    if namespace:
        text = text.replace(namespace, f"namespace: {own}")
    kubectl.run("apply", "--server-side", "--force-conflicts", "-f", "-", text=text)
    kubectl.run("rollout", "status", "deployment/dynamo-operator", "--timeout=180s")
