"""Checks a custom resource against its CRD, as far as the API server's schema goes: types, enums, patterns, required
and unknown fields. CEL rules and defaults are left out; they need a real API server."""

import functools
import os
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Third-party CRDs are not part of this repository. Istio's and the Gateway API's are there once their Go modules are, by
# `make test-istio`. More folders: WARMPATH_CRDS, separated by colons.
_MODULES = Path(os.environ.get("GOMODCACHE") or Path.home() / "go" / "pkg" / "mod")
_IN_MODULES = (
    "istio.io/istio@*/manifests/charts/base/files",
    "sigs.k8s.io/gateway-api@*/config/crd/standard",
    "sigs.k8s.io/gateway-api-inference-extension@*/config/crd/bases",
)
FOLDERS = [
    ROOT.parent / "shared" / "crds",
    *(folder for pattern in _IN_MODULES for folder in sorted(_MODULES.glob(pattern))[-1:]),
    *(Path(p) for p in os.environ.get("WARMPATH_CRDS", "").split(":") if p),
]

# libyaml, where it is: Istio's CRDs are long.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def load() -> dict[tuple[str, str], dict]:
    """Schemas by apiVersion and kind; empty where no folder is there."""
    schemas = {}
    for path in (p for folder in FOLDERS for p in sorted(folder.rglob("*.yaml"))):
        for crd in yaml.load_all(path.read_text(), _LOADER):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = _strict(version["schema"]["openAPIV3Schema"])
    return schemas


def errors(resource: dict, schema: dict) -> list[str]:
    """What the API server would say against it, a line each with the field's path."""
    # Every resource has these; CRDs do not describe them.
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema = {**schema, "properties": {**schema.get("properties", {}), **known}}
    found = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in found]


def _strict(schema: dict) -> dict:
    """OpenAPI v3 as Kubernetes writes it, in JSON Schema, with unknown fields refused."""
    made = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: _strict(part) for name, part in value.items()}
        elif key in ("items", "not") or (key == "additionalProperties" and isinstance(value, dict)):
            made[key] = _strict(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            # Conditions on what is described elsewhere: unknown fields are not theirs to refuse.
            made[key] = value
        elif key not in ("format", "default", "example", "nullable"):
            made[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made
