"""What is kept of a scenario that failed: logs, events, and how everything stood.

Owns the files beside the report (E2E_REPORT, e2e/out). Never raises: it must not hide why the
scenario failed.
"""

import os
from pathlib import Path

from e2e.kube import ROOT, SYSTEM, Kubectl

_STATES = {
    "objects.txt": ("get", "dyn,pods,statefulsets,pvc,pdb,events", "-o", "wide"),
    "dynamocluster.yaml": ("get", "dyn", "-o", "yaml"),
    "pods.txt": ("describe", "pods"),
    "machines.txt": ("describe", "nodes"),
}
_LOG_LINES = 5000


def folder(root: Path = ROOT) -> Path:
    """Where a run leaves its files."""
    return root / os.environ.get("E2E_REPORT", "e2e/out")


def keep(kubectl: Kubectl, scenario: str) -> None:
    """All of the namespace, and the operator's logs, into a folder of the scenario's name."""
    into = folder() / scenario
    try:
        into.mkdir(parents=True, exist_ok=True)
        for name, words in _STATES.items():
            _write(into / name, kubectl, *words)
        for place in (kubectl, kubectl.at(SYSTEM)):
            for pod in place.run("get", "pods", "-o", "name", check=False).split():
                name = pod.removeprefix("pod/")
                _write(into / f"{name}.log", place, "logs", name, f"--tail={_LOG_LINES}")
                _write(into / f"{name}.before.log", place, "logs", name, "--previous")
    except Exception as error:  # the scenario's own failure is what is told
        print(f"not all of {scenario} could be kept: {error!r}")


def _write(path: Path, kubectl: Kubectl, *words: str) -> None:
    well, said = kubectl.tried(*words)
    if well and said:
        path.write_text(said)
