#!/usr/bin/env python3
"""Makes kubeconform's schemas of what an API server says about its kinds; no network is needed.

    kubectl get --raw /openapi/v2 > openapi.json
    scripts/kube_schemas.py openapi.json FOLDER [CRD.yaml ...]
    kubeconform -strict -schema-location 'FOLDER/{{.ResourceKind}}{{.KindSuffix}}.json' FILE

A definition of one's own is taken from its file, as the server's document has only what
Swagger 2 can say of it. Each kind gets one file that refers to nothing outside itself.

They are strict: a field that isn't listed is an error, where the API server would drop it, and
so is a null, which in a rendered manifest is a value that somebody forgot. Prose, defaults,
formats and CEL rules are left out, and so is what of JSON Schema no API server publishes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

Schema = dict[str, Any]

REFERENCE: Final = "#/definitions/"
META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"
KINDS: Final = "x-kubernetes-group-version-kind"
OPEN: Final = "x-kubernetes-preserve-unknown-fields"
EITHER: Final = "x-kubernetes-int-or-string"
_KEPT: Final = (
    *("$ref", "type", "required", "enum", "anyOf", "pattern", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
)


def files(document: Schema, *crds: Schema) -> dict[str, Schema]:
    """File name -> schema, for every kind of the document and every version of the definitions.

    document: the answer to GET /openapi/v2. A definition goes before what the document says.
    """
    definitions = document["definitions"]
    found: dict[str, Schema] = {}
    for name, schema in definitions.items():
        for kind in schema.get(KINDS, ()):
            file = file_name(kind["group"], kind["version"], kind["kind"])
            if file in found:
                raise ValueError(f"two kinds would be {file}: {kind}")
            found[file] = _whole({"$ref": REFERENCE + name}, definitions)
    for crd in crds:
        spec = crd["spec"]
        for version in spec["versions"]:
            file = file_name(spec["group"], version["name"], spec["names"]["kind"])
            found[file] = _whole(_custom(version["schema"]["openAPIV3Schema"]), definitions)
    return found


def file_name(group: str, version: str, kind: str) -> str:
    """{{.ResourceKind}}{{.KindSuffix}}.json: of the group only what stands before its first dot."""
    parts = [kind, *([group.split(".")[0]] if group else []), version]
    return "-".join(parts).lower() + ".json"


def _custom(schema: Schema) -> Schema:
    """A definition may leave out what every object has."""
    every = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    properties = {**schema["properties"], **every, "metadata": {"$ref": REFERENCE + META}}
    return {**schema, "properties": properties}


def _whole(schema: Schema, definitions: Schema) -> Schema:
    """It, with everything that it refers to, directly or not."""
    strict = _strict(schema)
    needed: dict[str, Schema] = {}
    left = list(_references(strict))
    while left:
        name = left.pop()
        if name not in needed:
            needed[name] = _definition(name, definitions)
            left += _references(needed[name])
    if set(strict) == {"$ref"}:  # beside a reference nothing else would count
        strict = {"allOf": [strict]}
    return {**strict, "definitions": needed}


def _definition(name: str, definitions: Schema) -> Schema:
    """Swagger 2 knows one type at a time, so that it calls quantities and ports strings."""
    if name == QUANTITY:
        return {"type": ["string", "number"]}
    if definitions[name].get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    return _strict(definitions[name])


def _strict(schema: Schema) -> Schema:
    """What can be checked, on every level of it."""
    made = {key: value for key, value in schema.items() if key in _KEPT}
    if schema.get(EITHER):
        made["type"] = ["string", "integer"]
    if "properties" in schema:
        made["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get(OPEN, False))
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _references(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "$ref" and isinstance(one, str):
                yield one.removeprefix(REFERENCE)
            else:
                yield from _references(one)


def written(folder: Path, schemas: dict[str, Schema]) -> str:
    """Writes the files; what kubeconform is told of where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas.items():
        (folder / name).write_text(json.dumps(schema))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    document, folder, *crds = (Path(one) for one in sys.argv[1:])
    read = [yaml.safe_load(path.read_text()) for path in crds]
    print(written(folder, files(json.loads(document.read_text()), *read)))


if __name__ == "__main__":
    main()
