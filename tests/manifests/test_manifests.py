"""What users apply: does it parse, is it what the CRDs ask for, and do names, ports and labels fit each other?"""

import re
import shutil
from pathlib import Path

import pytest
import yaml

import crd
from kustomize import render

ROOT = crd.ROOT
# Not manifests: kustomize's own files and Helm's values and templates.
FILES = [
    path
    for path in sorted([*(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "istio").rglob("*.yaml")])
    if path.name != "kustomization.yaml" and not path.name.endswith("values.yaml") and "helm" not in path.parts
]
VLLM = ROOT / "deploy" / "vllm"
BUILT_IN = ("networking.k8s.io", "rbac.authorization.k8s.io")
COMPONENTS = ("openshift", "gpu-8", "model-cache")


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def custom(path: Path) -> list[dict]:
    """Those of a group that Kubernetes does not bring itself."""
    return [d for d in documents(path) if "." in (group := d["apiVersion"].split("/")[0]) and group not in BUILT_IN]


def compose(folder: Path) -> list[dict]:
    """A kustomization without patches, put together without kustomize."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    made = []
    for name in kustomization["resources"]:
        made += compose(folder / name) if (folder / name).is_dir() else documents(folder / name)
    if "namespace" in kustomization:
        for resource in made:
            resource["metadata"]["namespace"] = kustomization["namespace"]
    return made


def with_components(folder: Path, *names: str) -> list[dict]:
    """deploy/vllm with lines uncommented as a user does it."""
    copy = folder / "vllm"
    shutil.copytree(VLLM, copy)
    file = copy / "kustomization.yaml"
    text = file.read_text()
    for name in names:
        text, found = re.subn(rf"# - components/{name}\b", f"- components/{name}", text)
        assert found == 1, f"no line for {name}"
    file.write_text(text)
    return render(copy)


def one(resources: list[dict], kind: str) -> dict:
    found = [resource for resource in resources if resource["kind"] == kind]
    assert len(found) == 1, f"{kind}: {len(found)}"
    return found[0]


def pod_spec(resources: list[dict]) -> dict:
    return one(resources, "Deployment")["spec"]["template"]["spec"]


def container(resources: list[dict]) -> dict:
    (only,) = pod_spec(resources)["containers"]
    return only


def env(resources: list[dict]) -> dict[str, str]:
    return {variable["name"]: variable.get("value") for variable in container(resources)["env"]}


@pytest.fixture(params=["gpu", "sim"])
def variant(request) -> list[dict]:
    return compose(VLLM if request.param == "gpu" else VLLM / "sim")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_document_says_what_it_is(path):
    found = documents(path)
    assert found
    for document in found:
        assert document["apiVersion"] and document["kind"] and document["metadata"]["name"]


@pytest.mark.parametrize("path", [p for p in FILES if custom(p)], ids=lambda path: str(path.relative_to(ROOT)))
def test_custom_resources_fit_their_crds(path):
    schemas = crd.load()
    unknown = {d["kind"] for d in custom(path) if (d["apiVersion"], d["kind"]) not in schemas}
    if unknown:
        pytest.skip(f"no CRD of {', '.join(sorted(unknown))} in {', '.join(map(str, crd.FOLDERS))}")
    for document in custom(path):
        assert crd.errors(document, schemas[document["apiVersion"], document["kind"]]) == []


def test_a_wrong_custom_resource_is_found():
    schemas = crd.load()
    if ("nvidia.com/v1", "ClusterPolicy") not in schemas:
        pytest.skip("no CRD of ClusterPolicy")
    (policy,) = documents(ROOT / "deploy" / "gpu" / "openshift" / "clusterpolicy.yaml")
    policy["spec"]["driver"]["kernelModulType"] = "auto"
    policy["spec"]["mig"]["strategy"] = "double"
    del policy["spec"]["toolkit"]
    said = "\n".join(crd.errors(policy, schemas["nvidia.com/v1", "ClusterPolicy"]))
    assert "kernelModulType" in said and "double" in said and "'toolkit' is a required property" in said


def test_kustomize_builds_what_the_files_say(variant):
    """The rest of this file reads the files; users get what kustomize makes of them."""
    folder = VLLM / "sim" if "sim" in container(variant)["command"] else VLLM
    assert by_name(render(folder)) == by_name(variant)


def by_name(resources: list[dict]) -> dict[tuple[str, str], dict]:
    return {(resource["kind"], resource["metadata"]["name"]): resource for resource in resources}


def test_selectors_find_the_pods(variant):
    deployment = one(variant, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert one(variant, "Service")["spec"]["selector"].items() <= labels
    assert one(variant, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels


def test_requests_reach_the_port_that_the_pod_listens_on(variant):
    service, gateway, route = (one(variant, kind) for kind in ("Service", "Gateway", "HTTPRoute"))
    (parent,) = route["spec"]["parentRefs"]
    assert parent["name"] == gateway["metadata"]["name"]
    assert gateway["spec"]["gatewayClassName"] == "istio"
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    (port,) = service["spec"]["ports"]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], port["port"])
    assert re.match(r"http(-|$)", port["name"]), "Istio takes the protocol from the name"
    (listening,) = container(variant)["ports"]
    assert port["targetPort"] == listening["containerPort"]
    assert any(re.search(rf"\b{listening['containerPort']}$", arg) for arg in container(variant)["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(variant)[probe]["httpGet"] == {"path": "/health", "port": listening["name"]}


@pytest.mark.parametrize("path", [p for p in FILES if "istio" in p.parts], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_istio_files_name_gateway_and_service(path, variant):
    gateway, service = one(variant, "Gateway"), one(variant, "Service")
    for document in documents(path):
        assert document["metadata"]["namespace"] == gateway["metadata"]["namespace"]
        if "targetRefs" not in document.get("spec", {}):
            continue
        (target,) = document["spec"]["targetRefs"]
        assert (target["kind"], target["name"]) == ("Gateway", gateway["metadata"]["name"])
        # Those of observe/ have no wiring.
        if document["kind"] != "EnvoyFilter" or path.parent.name == "observe":
            continue
        (cluster,) = (
            patch["match"]["cluster"]
            for patch in document["spec"]["configPatches"]
            if patch["applyTo"] == "CLUSTER" and patch["patch"]["operation"] == "MERGE"
        )
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
        assert cluster == {"service": host, "portNumber": service["spec"]["ports"][0]["port"]}


def test_the_gateway_takes_the_sidecar_in(variant):
    """Istio merges what the ConfigMap says into the gateway's Deployment, and no other name will do."""
    gateway = one(variant, "Gateway")
    (options,) = [d for d in documents(ROOT / "istio" / "sidecar.yaml") if d["kind"] == "ConfigMap"]
    wanted = {"group": "", "kind": "ConfigMap", "name": options["metadata"]["name"]}
    assert gateway["spec"]["infrastructure"]["parametersRef"] == wanted
    assert set(options["data"]) <= {"deployment", "service", "serviceAccount", "horizontalPodAutoscaler", "podDisruptionBudget"}


def test_vllm_runs_with_what_the_readme_asks_for():
    (asked,) = re.findall(r"Start vLLM with (.*?), so that", (ROOT / "README.md").read_text())
    flags = re.findall(r"`(--[a-z-]+)`", asked)
    assert len(flags) >= 2
    args = container(compose(VLLM))["args"]
    assert set(flags) <= set(args)
    assert {"--enable-prefix-caching", "--block-size=16", "--no-enable-chunked-prefill"} <= set(args)
    assert not [arg for arg in args if arg.startswith(("--no-enable-prefix-caching", "--kv-events-config"))]


def test_each_variable_in_the_arguments_is_set():
    resources = compose(VLLM)
    used = {name for arg in container(resources)["args"] for name in re.findall(r"\$\((\w+)\)", arg)}
    assert used and all(env(resources)[name] for name in used)


def test_the_service_leaves_no_vllm_variables_in_the_pod():
    """A Service named vllm becomes VLLM_PORT=tcp://… in pods that have service links."""
    assert pod_spec(compose(VLLM))["enableServiceLinks"] is False


def test_the_token_is_optional():
    (token,) = [v["valueFrom"]["secretKeyRef"] for v in container(compose(VLLM))["env"] if v["name"] == "HF_TOKEN"]
    assert token["optional"] is True


def test_pods_get_as_many_gpus_as_vllm_splits_over(tmp_path):
    assert gpus(compose(VLLM)) == {"1"}
    assert gpus(with_components(tmp_path, "gpu-8")) == {"8"}


def gpus(resources: list[dict]) -> set[str]:
    wanted = container(resources)["resources"]
    return {env(resources)["GPUS"], wanted["requests"]["nvidia.com/gpu"], wanted["limits"]["nvidia.com/gpu"]}


def test_vllm_and_kubernetes_wait_as_long_for_a_model():
    resources = compose(VLLM)
    probe = container(resources)["startupProbe"]
    limit = probe["periodSeconds"] * probe["failureThreshold"]
    assert int(env(resources)["VLLM_ENGINE_READY_TIMEOUT_S"]) == limit
    # A rollout replaces a pod: drain, then load.
    deadline = one(resources, "Deployment")["spec"]["progressDeadlineSeconds"]
    assert deadline > pod_spec(resources)["terminationGracePeriodSeconds"] + limit


def test_a_pod_has_time_to_finish_its_answers():
    resources = compose(VLLM)
    command = container(resources)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    # The server needs some seconds to end after the last answer.
    needed = int(command[1]) + int(env(resources)["SHUTDOWN_TIMEOUT"]) + 20
    grace = pod_spec(resources)["terminationGracePeriodSeconds"]
    assert grace >= needed
    # A driver upgrade waits as long.
    (policy,) = documents(ROOT / "deploy" / "gpu" / "openshift" / "clusterpolicy.yaml")
    values = yaml.safe_load((ROOT / "deploy" / "gpu" / "kubernetes" / "values.yaml").read_text())
    assert policy["spec"]["driver"]["upgradePolicy"]["podDeletion"]["timeoutSeconds"] > grace
    assert values["driver"]["upgradePolicy"]["gpuPodDeletion"]["timeoutSeconds"] > grace


def test_pods_need_no_privileges(variant):
    assert pod_spec(variant)["securityContext"]["runAsNonRoot"] is True
    assert container(variant)["securityContext"]["allowPrivilegeEscalation"] is False
    assert container(variant)["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod_spec(variant)["automountServiceAccountToken"] is False


def test_on_openshift_no_ids_are_asked_for(tmp_path):
    context = pod_spec(with_components(tmp_path, "openshift"))["securityContext"]
    assert context["runAsNonRoot"] is True
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & context.keys()


def test_all_components_fit_together(tmp_path):
    resources = with_components(tmp_path, *COMPONENTS)
    volumes = {volume["name"]: volume for volume in pod_spec(resources)["volumes"]}
    claim = one(resources, "PersistentVolumeClaim")
    assert volumes["cache"] == {"name": "cache", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
    assert {mount["name"] for mount in container(resources)["volumeMounts"]} == volumes.keys()
    assert len({resource["metadata"]["namespace"] for resource in resources}) == 1
    assert gpus(resources) == {"8"}


def test_images_are_pinned_and_each_in_one_place():
    images = [
        image
        for path in FILES
        # Written from the chart, which has the image once.
        if path.parent.name != "rendered"
        for image in re.findall(r"^\s*(?:- )?image: *([^\s$]\S*)", path.read_text(), flags=re.MULTILINE)
    ]
    assert images
    assert len(images) == len(set(images))
    for image in images:
        name, _, tag = image.rpartition(":")
        # REGISTRY and TAG are for the user to fill in: no image of this project is published.
        assert (name.startswith("REGISTRY/") and tag == "TAG") or re.search(r"\d+\.\d+", tag), image


def test_the_gpu_operators_version_stands_in_one_file():
    version = re.compile(r"\bv\d\d\.\d+\.\d+\b")
    named = [p.name for p in (ROOT / "deploy" / "gpu").rglob("*") if p.is_file() and version.search(p.read_text())]
    assert named == ["operator.yaml"]
    (subscription,) = [
        d for d in documents(ROOT / "deploy" / "gpu" / "openshift" / "operator.yaml") if d["kind"] == "Subscription"
    ]
    channel, csv = subscription["spec"]["channel"], subscription["spec"]["startingCSV"]
    assert csv.startswith(f"{subscription['spec']['name']}.{channel}.")
