"""deploy.sh: what it does in which order, what it says when something is missing. Its programs are stand-ins here; on a
real API server it runs in tests/istio."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from crd import ROOT
from kustomize import render

SCRIPT = ROOT / "deploy.sh"
IMAGE = "registry.example:5000/team/warmpath:1.2"

# Answers as a cluster would that has everything. `CLUSTER` changes it.
KUBECTL = r"""#!/usr/bin/env bash
echo "kubectl $*" >> "$CALLS"
case "$*" in
  "version -o json") printf '{\n "clientVersion": {"gitVersion": "v9.9.9"},\n "serverVersion": {\n  "gitVersion": "v%s"\n }\n}\n' "${KUBERNETES:-1.33.1}" ;;
  "get crd "*security.openshift.io*|"get crd "*config.openshift.io*) [[ -n ${OPENSHIFT:-} ]] ;;
  "get crd "*) [[ -z ${BARE:-} ]] ;;
  *"-l app=istiod"*) [[ -n ${BARE:-} ]] || echo "${ISTIO:- docker.io/istio/pilot:1.30.2}" ;;
  "get nodes"*) printf '%s\n\n' "${GPUS-8}" ;;
  "get secret"*) [[ -n ${SECRET:-} ]] ;;
  "auth can-i"*) [[ -z ${NO_RIGHTS:-} ]] ;;
  "rollout status"*vllm-decode*) [[ -z ${STUCK:-} ]] ;;
  *"create secret"*) echo "kind: Secret" ;;
  "get -n "*"-o name") printf 'pod/one\npod/two\n' ;;
  "exec "*) [[ "$*" != *"${SICK:-nothing}"* ]] ;;
  "apply -f -") cat >> "$CALLS" ;;
esac
"""
HELM = """#!/usr/bin/env bash
echo "helm $*" >> "$CALLS"
"""


@dataclass
class Ran:
    code: int
    said: str
    calls: list[str]

    def order(self, *parts: str) -> bool:
        """Whether calls with these parts stand in this order."""
        calls = iter(self.calls)
        return all(any(part in call for call in calls) for part in parts)


@pytest.fixture
def run(tmp_path: Path):
    """Runs a copy of the repository's part that the script uses: it writes beside itself."""
    copy = tmp_path / "warmpath"
    copy.mkdir()
    shutil.copy(SCRIPT, copy)
    shutil.copytree(ROOT / "deploy", copy / "deploy")
    (copy / "deploy" / "validate.sh").write_text('#!/bin/sh\necho "validate NS=$NS MODEL=$MODEL" >> "$CALLS"\n')
    (copy / "deploy" / "validate.sh").chmod(0o755)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"kubectl": KUBECTL, "helm": HELM}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def go(*arguments: str, **variables: str) -> Ran:
        calls = tmp_path / "calls"
        calls.write_text("")
        env = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "CALLS": str(calls)}
        env |= {"WARMPATH_IMAGE": IMAGE, **variables}
        done = subprocess.run([copy / "deploy.sh", *arguments], capture_output=True, text=True, env=env, timeout=60)
        return Ran(done.returncode, done.stdout + done.stderr, calls.read_text().splitlines())

    go.folder = copy
    return go


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not there")
def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_on_a_bare_cluster_it_goes_from_crds_to_validation(run):
    ran = run(BARE="1", HF_TOKEN="hf_secret")
    assert ran.code == 0, ran.said
    assert ran.order(
        "gateway-api/releases/download/v",
        "gateway-api-inference-extension/releases/download/v",
        "istio-base",
        "upgrade --install istiod",
        "gatewayclass/istio",
        "kind: Namespace, metadata: {name: llm-d}",
        "upgrade --install warmpath deploy/helm/warmpath -n llm-d",
        "apply -k target/deploy",
        "condition=Programmed gateway/llm-gateway",
        "deployment/llm-gateway-istio",
        "deployment/vllm-decode",
        "validate NS=llm-d MODEL=",
    ), ran.calls
    # The token goes to the cluster and nowhere else.
    assert "hf_secret" not in ran.said
    (helm,) = [call for call in ran.calls if "deploy/helm/warmpath" in call]
    assert "image.repository=registry.example:5000/team/warmpath " in helm and "image.tag=1.2" in helm
    assert "pluginConfig.mode=steer" in helm


def test_what_is_there_is_left_as_it_is(run):
    ran = run()
    assert ran.code == 0, ran.said
    assert not [call for call in ran.calls if "releases/download" in call or "istiod --repo" in call]
    assert "Istio 1.30.2 is there" in ran.said


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"KUBERNETES": "1.28.9"}, "Kubernetes 1.28.9, at least 1.29"),
        ({"ISTIO": " docker.io/istio/pilot:1.26.0-distroless"}, "Istio 1.26.0, at least 1.28"),
        ({"ISTIO": "v1.27.3 registry.example/pilot@sha256:9abc"}, "Istio 1.27.3, at least 1.28"),
        ({"GPUS": ""}, "0 GPUs on the nodes"),
        ({"GPUS": "2"}, "2 GPUs on the nodes, 3 pods want 3"),
        ({"COMPONENTS": "gpu-8"}, "8 GPUs on the nodes, 2 pods want 16"),
        ({"WARMPATH_IMAGE": ""}, "make push REGISTRY="),
        ({"NO_RIGHTS": "1"}, "no right to create customresourcedefinitions"),
        ({"MODE": "on"}, "off, shadow or steer"),
        ({"KUBECTL": "no-such-kubectl"}, "no-such-kubectl not found"),
    ],
)
def test_a_missing_prerequisite_ends_it_before_anything_is_changed(run, variables, says):
    ran = run(**variables)
    assert ran.code == 1 and says in ran.said, ran.said
    assert not [call for call in ran.calls if "apply" in call or "upgrade" in call]


def test_simulated_pods_need_no_gpus(run):
    ran = run("check", GPUS="0", SIM_IMAGE="registry.example/sim:1")
    assert ran.code == 0, ran.said


def test_a_dry_run_shows_all_steps_and_asks_nobody(run):
    ran = run(DRY_RUN="1")
    assert (ran.code, ran.calls) == (0, [])
    for step in ("standard-install.yaml", "istiod", "helm upgrade --install warmpath", "apply -k", "rollout", "validate.sh"):
        assert step in ran.said, step


def test_openshift_gets_its_platform_and_its_constraints(run):
    ran = run("infra", OPENSHIFT="1", BARE="1")
    assert ran.order("system:openshift:scc:anyuid", "system:serviceaccounts:istio-system", "global.platform=openshift")


def test_an_istio_whose_version_is_not_told_is_there_all_the_same(run):
    ran = run(ISTIO=" registry.example/pilot@sha256:9abc")
    assert ran.code == 0 and "of a version that its image does not tell" in ran.said
    assert not [call for call in ran.calls if "istiod --repo" in call]


def test_a_step_that_fails_says_what_to_look_at(run):
    ran = run(STUCK="1")
    assert ran.code != 0
    assert "get pods -n llm-d -l app.kubernetes.io/name=vllm" in ran.said.splitlines()[-1]
    assert not [call for call in ran.calls if call.startswith("validate")]


def test_status_asks_each_sidecar_and_fails_with_the_sick_one(run):
    assert run("status").code == 0
    ran = run("status", SICK="pod/two")
    assert ran.code == 1 and "docs/troubleshooting.md" in ran.said
    assert ran.order("exec -n llm-d pod/one", "exec -n llm-d pod/two")


def test_status_and_validation_may_be_of_another_gateway(run):
    ran = run("status", GATEWAY="ai-gateway", NS="ml")
    assert [call for call in ran.calls if "gateway-name=ai-gateway" in call]


def test_clean_removes_what_llm_d_made_and_says_what_stays(run):
    ran = run("clean", NS="other")
    assert ran.code == 0 and "Left: the namespace other" in ran.said
    assert ran.order("delete -k target/deploy", "helm uninstall warmpath -n other")


def test_an_unknown_word_gets_the_help(run):
    ran = run("instal")
    assert ran.code == 2 and "./deploy.sh check" in ran.said and not ran.calls


def rendered(run, **variables: str) -> list[dict]:
    assert run("llm-d", **variables).code == 0
    return render(run.folder / "target" / "deploy")


def test_the_variables_reach_the_manifests(run):
    made = rendered(
        run,
        NS="team",
        MODEL="org/model",
        IMAGE="registry.example:5000/vllm@sha256:" + "0" * 64,
        REPLICAS="5",
        GATEWAY_CLASS="other",
        SERVICE_TYPE="ClusterIP",
        COMPONENTS="model-cache",
    )
    assert {thing["metadata"]["namespace"] for thing in made} == {"team"}
    by_kind = {thing["kind"]: thing for thing in made}
    pod = by_kind["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example:5000/vllm@sha256:" + "0" * 64
    assert {e["name"]: e.get("value") for e in container["env"]}["MODEL"] == "org/model"
    assert by_kind["Deployment"]["spec"]["replicas"] == 5
    gateway = by_kind["Gateway"]
    assert gateway["spec"]["gatewayClassName"] == "other"
    assert gateway["metadata"]["annotations"] == {"networking.istio.io/service-type": "ClusterIP"}
    assert "PersistentVolumeClaim" in by_kind


def test_simulated_pods_serve_the_model(run):
    made = rendered(run, SIM_IMAGE="registry.example/sim:1", MODEL="org/model")
    (container,) = next(t for t in made if t["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/sim:1"
    assert [arg for arg in container["args"] if arg.startswith("--model=")][-1] == "--model=org/model"


def test_openshift_pods_take_the_user_that_it_gives(run):
    pod = next(t for t in rendered(run, OPENSHIFT="1") if t["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert "runAsUser" not in pod["securityContext"]
