#!/usr/bin/env python3
"""Cuts the schemas that tests hold our Kubernetes objects against out of the published ones.

    scripts/prune_openapi.py        # writes tests/operator/openapi/*.json anew

Sources, fetched as Go modules by the ordinary client (`go` must be there; their checksums are
checked by it):
- k8s.io/kubernetes, api/openapi-spec/swagger.json, for the oldest supported and a recent release;
- github.com/prometheus-operator/prometheus-operator, the CRD of ServiceMonitor.

Kept is what the kinds below refer to, and of that what a client sends: no `status`, no
`managedFields`, no prose. It is made strict (a field that isn't listed is an error, where the API
server would drop it), and quantities and ports take numbers too, which Swagger 2 can't say.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent.parent / "tests" / "operator" / "openapi"
KUBERNETES = {"1.30": "v1.30.0", "1.36": "v1.36.3"}
MONITORING = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
MONITOR_CRD = "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
KINDS = {
    "apps/v1 StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "v1 ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1 Secret": "io.k8s.api.core.v1.Secret",
    "v1 Service": "io.k8s.api.core.v1.Service",
    "v1 ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "networking.k8s.io/v1 NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "policy/v1 PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
MONITOR = "com.coreos.monitoring.v1.ServiceMonitor"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
NUMBERS_TOO = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
}
REFERENCE = "#/definitions/"
PROSE = {"description", "default", "format"}


def main() -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    monitor = _monitor(_module(*MONITORING) / MONITOR_CRD)
    for release, version in KUBERNETES.items():
        module = "k8s.io/kubernetes"
        swagger = json.loads(
            (_module(module, version) / "api/openapi-spec/swagger.json").read_text()
        )
        kinds = dict(KINDS)
        found = _closure(swagger["definitions"], kinds.values())
        kinds["monitoring.coreos.com/v1 ServiceMonitor"] = MONITOR
        found[MONITOR] = monitor
        _write(
            HERE / f"kubernetes-{release}.json",
            [f"{module}@{version}", "@".join(MONITORING)],
            kinds,
            found,
        )


def _module(path: str, version: str) -> Path:
    told = subprocess.run(  # noqa: S603 - the versions above
        ["go", "mod", "download", "-json", f"{path}@{version}"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(json.loads(told.stdout)["Dir"])


def _closure(definitions: dict[str, Any], wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left = list(wanted)
    while left:
        name = left.pop()
        if name in found:
            continue
        found[name] = NUMBERS_TOO.get(name) or _pruned(definitions[name])
        left += _references(found[name])
    return found


def _monitor(crd: Path) -> dict[str, Any]:
    versions = yaml.safe_load(crd.read_text())["spec"]["versions"]
    schema = next(one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    schema["properties"]["metadata"] = {"$ref": REFERENCE + OBJECT_META}
    return _pruned(schema)


def _pruned(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_pruned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _pruned(value)
        for key, value in schema.items()
        if key not in PROSE and key != "properties" and not key.startswith("x-kubernetes")
    }
    if "properties" in schema:
        made["properties"] = _properties(schema["properties"])
        made.setdefault("additionalProperties", False)
    return made


def _properties(properties: dict[str, Any]) -> dict[str, Any]:
    # Only an object of its own has both, or a claim's template.
    dropped = {"managedFields"} | ({"status"} if "apiVersion" in properties else set())
    return {name: _pruned(value) for name, value in properties.items() if name not in dropped}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref":
                yield value.removeprefix(REFERENCE)
            else:
                yield from _references(value)


def _write(path: Path, sources: list[str], kinds: dict[str, str], found: dict[str, Any]) -> None:
    lines = [f"  {json.dumps(name)}: {_line(found[name])}" for name in sorted(found)]
    path.write_text(
        f'{{"sources": {json.dumps(sources)},\n'
        f'"kinds": {json.dumps(kinds, sort_keys=True, indent=1)},\n'
        '"definitions": {\n' + ",\n".join(lines) + "\n}}\n"
    )
    print(f"{path.name}: {len(found)} definitions, {path.stat().st_size} bytes")


def _line(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))


if __name__ == "__main__":
    main()
