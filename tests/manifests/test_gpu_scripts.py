"""deploy/gpu's scripts, with a stand-in for kubectl that answers from a file and writes down what it was told.

nodes.json has Node objects in the API's form, cut to what matters: OpenShift 4.16, OpenShift 4.21 with labels of the
release before, and Ubuntu.
"""

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import crd

GPU = crd.ROOT / "deploy" / "gpu"
NODES = json.loads((Path(__file__).parent / "nodes.json").read_text())
LABEL = "feature.node.kubernetes.io/"
pytestmark = pytest.mark.skipif(not shutil.which("jq"), reason="the scripts need jq")


class Kubectl:
    """Answers `get RESOURCE` from RESOURCE.json, keeps the arguments of everything else."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.program = folder / "oc"
        self.program.write_text(
            "#!/usr/bin/env bash\n"
            f'cd "{folder}" || exit 1\n'
            'case $1 in get) cat "$2.json" ;; debug) cat devices ;; *) printf "%s\\n" "$*" >> told ;; esac\n'
        )
        self.program.chmod(0o755)

    def has(self, resource: str, *items: dict) -> None:
        (self.folder / f"{resource}.json").write_text(json.dumps({"kind": "List", "items": list(items)}))

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "KUBECTL": str(self.program)}
        return subprocess.run([GPU / script, *arguments], env=environment, capture_output=True, text=True)

    def told(self) -> list[str]:
        file = self.folder / "told"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def kubectl(tmp_path) -> Kubectl:
    made = Kubectl(tmp_path)
    made.has("nodes", *NODES["items"])
    return made


def labels(text: str) -> list[str]:
    return [word.removeprefix(LABEL) for word in text.split() if word.startswith(LABEL)]


IN_4_16 = [
    "pci-10de.present=true",
    "pci-0302_10de.present=true",
    "kernel-version.full=5.14.0-427.24.1.el9_4.x86_64",
    "system-os_release.ID=rhcos",
    "system-os_release.VERSION_ID=4.16",
    "system-os_release.VERSION_ID.major=4",
    "system-os_release.VERSION_ID.minor=16",
    "system-os_release.OSTREE_VERSION=416.94.202407030122-0",
]
OS_IN_4_21 = [
    "system-os_release.ID=rhel",
    "system-os_release.VERSION_ID=9.6",
    "system-os_release.VERSION_ID.major=9",
    "system-os_release.VERSION_ID.minor=6",
]
OSTREE_IN_4_21 = "system-os_release.OSTREE_VERSION=9.6.20260504-0"


def test_a_dry_run_prints_what_nfd_would_set_and_sets_nothing(kubectl):
    kubectl.has("nodes", NODES["items"][0])
    ran = kubectl.run("label-nodes.sh", "gpu-416")
    assert ran.returncode == 0, ran.stderr
    assert labels(ran.stdout) == IN_4_16
    assert kubectl.told() == []


def test_what_a_dry_run_prints_is_a_command(kubectl):
    kubectl.has("nodes", NODES["items"][0])
    printed = kubectl.run("label-nodes.sh", "gpu-416").stdout
    subprocess.run(["bash", "-euc", f'oc() {{ "{kubectl.program}" "$@"; }}\n{printed}'], check=True)
    (command,) = kubectl.told()
    assert command.startswith("label node gpu-416 ") and labels(command) == IN_4_16


def test_a_single_node_comes_without_a_list(kubectl):
    (kubectl.folder / "nodes.json").write_text(json.dumps(NODES["items"][0]))
    assert labels(kubectl.run("label-nodes.sh", "gpu-416").stdout) == IN_4_16


def test_labels_with_another_value_stay_unless_told_otherwise(kubectl):
    kubectl.has("nodes", NODES["items"][1])
    ran = kubectl.run("label-nodes.sh", "--apply", "gpu-421")
    assert ran.returncode == 1 and OSTREE_IN_4_21 in ran.stderr
    assert [labels(line) for line in kubectl.told()] == [OS_IN_4_21]


def test_overwrite_changes_them(kubectl):
    kubectl.has("nodes", NODES["items"][1])
    assert kubectl.run("label-nodes.sh", "--apply", "--overwrite", "gpu-421").returncode == 0
    (command,) = kubectl.told()
    assert command.startswith("label node gpu-421 --overwrite ")
    assert labels(command) == [*OS_IN_4_21, OSTREE_IN_4_21]


def test_a_node_that_is_not_rhcos_is_left_out_and_named(kubectl):
    ran = kubectl.run("label-nodes.sh", "--apply", "--overwrite", "-l", "gpu=yes")
    assert ran.returncode == 1
    assert "ubuntu: Ubuntu 24.04.3 LTS: not RHCOS" in ran.stderr
    assert [line.split()[2] for line in kubectl.told()] == ["gpu-416", "gpu-421"]


def test_probing_takes_the_class_from_the_node(kubectl):
    kubectl.has("nodes", NODES["items"][0])
    # A bridge (NVSwitch) is no display controller.
    (kubectl.folder / "devices").write_text("0680\n0300\n0300\n")
    assert labels(kubectl.run("label-nodes.sh", "--probe", "gpu-416").stdout)[1] == "pci-0300_10de.present=true"


def test_a_probed_node_without_a_card_gets_no_label(kubectl):
    kubectl.has("nodes", NODES["items"][0])
    (kubectl.folder / "devices").write_text("0680\n")
    ran = kubectl.run("label-nodes.sh", "--probe", "--apply", "gpu-416")
    assert ran.returncode == 1 and "no NVIDIA display controller" in ran.stderr
    assert kubectl.told() == []


@pytest.mark.parametrize("arguments", [(), ("--apply",), ("--wrong", "gpu-416"), ("-l", "a=b", "gpu-416")])
def test_labels_are_never_set_on_nodes_that_nobody_named(kubectl, arguments):
    assert kubectl.run("label-nodes.sh", *arguments).returncode == 2
    assert kubectl.told() == []


def daemonset(name: str, desired: int, ready: int) -> dict:
    return {"metadata": {"name": name}, "status": {"desiredNumberScheduled": desired, "numberReady": ready}}


def pod(name: str, phase: str = "Running", ready: bool = True) -> dict:
    return {"metadata": {"name": name}, "status": {"phase": phase, "containerStatuses": [{"ready": ready}]}}


@pytest.fixture
def healthy(kubectl) -> Kubectl:
    kubectl.has("nodes", *NODES["items"][1:])
    operator = {"name": "gpu-operator", "namespace": "nvidia-gpu-operator"}
    kubectl.has("deployments", {"metadata": operator, "status": {"readyReplicas": 1}})
    kubectl.has("clusterpolicies.nvidia.com", {"metadata": {"name": "p"}, "status": {"state": "ready"}})
    kubectl.has("daemonsets", daemonset("nvidia-driver-daemonset", 1, 1), daemonset("nvidia-mig-manager", 0, 0))
    kubectl.has("pods", pod("nvidia-driver-daemonset-x"), pod("nvidia-cuda-validator-x", "Succeeded", False))
    return kubectl


def test_verify_is_content_with_a_healthy_cluster(healthy):
    ran = healthy.run("verify.sh")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "FAILED" not in ran.stdout
    assert "gpu-421: 8 x NVIDIA-A100-SXM4-40GB" in ran.stdout


def without_gpus() -> dict:
    node = copy.deepcopy(NODES["items"][1])
    del node["status"]["allocatable"]["nvidia.com/gpu"]
    return node


@pytest.mark.parametrize(
    "resource, items, says",
    [
        ("nodes", [NODES["items"][2]], "no node has an NVIDIA PCI label"),
        ("deployments", [], "no Deployment gpu-operator"),
        ("clusterpolicies.nvidia.com", [], "there is none"),
        (
            "clusterpolicies.nvidia.com",
            [{"metadata": {"name": "p"}, "status": {"state": "notReady", "conditions": [{"reason": "R", "message": "m"}]}}],
            "p: notReady",
        ),
        ("daemonsets", [], "there are none"),
        ("daemonsets", [daemonset("nvidia-driver-daemonset", 2, 1)], "nvidia-driver-daemonset: 1 of 2 ready"),
        ("pods", [pod("nvidia-driver-daemonset-x", "Pending", False)], "nvidia-driver-daemonset-x: Pending"),
        ("pods", [pod("nvidia-driver-daemonset-x", "Running", False)], "1 containers not ready"),
        ("nodes", [without_gpus()], "gpu-421: no nvidia.com/gpu"),
    ],
)
def test_verify_names_what_is_missing(healthy, resource, items, says):
    healthy.has(resource, *items)
    ran = healthy.run("verify.sh")
    assert ran.returncode == 1
    assert says in ran.stdout
