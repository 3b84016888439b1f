"""A real API server with the real CRDs accepts all manifests: strict validation, defaults, CEL rules."""

import sys

import pytest
import yaml

from mesh import documents
from stack.paths import ROOT

sys.path.insert(0, str(ROOT / "tests" / "manifests"))
import crd  # noqa: E402

# libyaml, where it is: CRDs are long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FOLDERS = ("istio", "deploy", "monitoring")


def is_manifest(document: object) -> bool:
    return isinstance(document, dict) and {"apiVersion", "kind", "metadata"} <= document.keys()


def manifests() -> list:
    """Files of resources; not kustomizations, Helm's templates and values, Prometheus's own files."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.yaml")) if "helm" not in path.parts]
    return [path for path in files if (found := documents(path)) and all(is_manifest(document) for document in found)]


# Put together as users apply them. A component is a part of one.
KUSTOMIZATIONS = [
    path.parent
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("kustomization.yaml"))
    if yaml.safe_load(path.read_text())["kind"] == "Kustomization" and "helm" not in path.parts
]
# Patches of Deployments that are whole only where a kustomization names them.
WHOLE = [path for path in manifests() if "components" not in path.parts]


@pytest.fixture(scope="module")
def server(mesh):
    """The mesh's API server with all CRDs that are at hand and all namespaces that manifests name."""
    there = mesh.cluster.kubectl("get", "crds", "-o", "jsonpath={.items[*].metadata.name}").split()
    for folder in crd.FOLDERS:
        for path in sorted(folder.rglob("*.yaml")):
            crds = [d for d in yaml.load_all(path.read_text(), LOADER) if d and d.get("kind") == "CustomResourceDefinition"]
            # The mesh has its own version of Istio's and the Gateway API's.
            missing = [crd for crd in crds if crd["metadata"]["name"] not in there]
            if missing:
                mesh.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(missing))
    named = {document["metadata"].get("namespace") for path in WHOLE for document in documents(path)}
    namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in sorted(named - {None})]
    mesh.apply_resources(*namespaces)
    return mesh.cluster


def kinds(server) -> set[tuple[str, str]]:
    lines = server.kubectl("api-resources", "--no-headers").splitlines()
    # NAME SHORTNAMES APIVERSION NAMESPACED KIND; short names may be missing.
    return {(words[-3], words[-1]) for words in map(str.split, lines)}


def dry_run(server, documents: list[dict]) -> None:
    known = kinds(server)
    unknown = {document["kind"] for document in documents if (document["apiVersion"], document["kind"]) not in known}
    if unknown:
        pytest.skip(f"no CRD of {', '.join(sorted(unknown))} at hand")
    text = yaml.safe_dump_all(documents)
    server.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_manifest_is_accepted(path, server):
    dry_run(server, documents(path))


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kustomization_is_accepted(folder, server):
    built = [d for d in yaml.safe_load_all(server.kubectl("kustomize", folder)) if d]
    dry_run(server, built)


def test_a_misspelt_field_is_not(server):
    (plugin,) = documents(ROOT / "istio" / "wasmplugin.yaml")
    plugin["spec"]["failStrategie"] = plugin["spec"].pop("failStrategy")
    with pytest.raises(AssertionError, match="failStrategie"):
        dry_run(server, [plugin])
