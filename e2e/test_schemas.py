"""Whatever is applied to install, or shown as an example, by an API server's own schemas.

kubeconform judges it, strictly: a field that no kind has is refused, which an API server would
drop in silence. The schemas are those of the server that KUBEBUILDER_ASSETS has, and of crds/,
so no network is needed. Forbidden here: importing the product.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.chart import SWITCHES, chart_text
from e2e.kube import ROOT, Failed, command
from tests.operator.api_server import MISSING, WHY_SKIPPED, api_server
from tests.operator.programs import loaded

ABSENT = [tool for tool in ("helm", "kubectl", "kubeconform") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(bool(ABSENT), reason=f"{ABSENT} isn't here"),
    pytest.mark.skipif(bool(MISSING), reason=WHY_SKIPPED),
]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
FOREIGN = {"PrometheusRule"}  # of definitions that no plain API server knows
KUSTOMIZED = ("charts/kustomize", "charts/kustomize/namespaced", "charts/kustomize/operator")

Judge = Callable[[str], None]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Raises Failed with what kubeconform has against a text of YAML documents."""
    folder = tmp_path_factory.mktemp("schemas")
    with api_server(folder / "server") as server:
        status, document = server.ask("GET", "/openapi/v2")
        assert status == 200, document
    ours = yaml.safe_load((ROOT / "crds/dynamoclusters.yaml").read_text())
    kube_schemas = loaded("kube_schemas")
    location = kube_schemas.written(folder / "kinds", kube_schemas.files(document, ours))

    def judged(text: str) -> None:
        count = sum(1 for one in yaml.safe_load_all(text) if one and one["kind"] not in FOREIGN)
        words = ("kubeconform", "-strict", "-summary", "-schema-location", location)
        told = command(*words, "-skip", ",".join(FOREIGN), text=text)
        assert f"Valid: {count}," in told, told
        assert count, "nothing was judged"

    return judged


@pytest.mark.parametrize("values", SWITCHES, ids=lambda v: "-".join(v)[:40] or "default")
def test_the_chart_with_every_switch(tmp_path: Path, judge: Judge, values: dict[str, Any]) -> None:
    judge(chart_text(tmp_path, **values))


def test_jaeger_for_kind(judge: Judge) -> None:
    judge((ROOT / "e2e/jaeger.yaml").read_text())


@pytest.mark.parametrize("folder", KUSTOMIZED)
def test_what_kustomize_applies(judge: Judge, folder: str) -> None:
    judge(command("kubectl", "kustomize", folder))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(judge: Judge, path: Path) -> None:
    judge(path.read_text())


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("serviceAccountName:", "serviceAcountName:", "'serviceAcountName' not allowed"),
        ("replicas: 2", "replicas: two", "/spec/replicas"),
        ("kind: Deployment", "kind: Deploiment", "Deploiment"),
        ("periodSeconds: 10", "periodSeconds: null", "/livenessProbe/periodSeconds"),
        ("containerPort: 8080", "containerPort: 8080, protokol: TCP", "'protokol' not allowed"),
        ("verbs:", "verb:", "'verb' not allowed"),
    ],
)
def test_a_slip_in_the_chart_is_found(
    tmp_path: Path, judge: Judge, right: str, wrong: str, said: str
) -> None:
    text = chart_text(tmp_path)
    assert right in text
    with pytest.raises(Failed, match=said):
        judge(text.replace(right, wrong, 1))


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("replicas:", "replica:", "'replica' not allowed"),
        ("replicas: 4", 'replicas: "4"', "/spec/replicas"),
        ("siblings", "newest", "/spec/reconciliation"),
    ],
)
def test_a_slip_in_an_example_is_found(judge: Judge, right: str, wrong: str, said: str) -> None:
    """By our own definition."""
    lines = (ROOT / "examples/local.yaml").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.lstrip().startswith("#"))
    assert right in text
    with pytest.raises(Failed, match=said):
        judge(text.replace(right, wrong, 1))
