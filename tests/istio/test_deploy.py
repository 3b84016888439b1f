"""deploy.sh on a real API server and istiod, in a namespace of its own: what it applies is accepted, Istio makes the
gateway of it, and `clean` takes all of it away. What controllers and kubelet would say of Deployments says the test."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from istiod import NAMESPACE as ISTIO_SYSTEM
from stack.cluster import ADMIN
from stack.paths import ROOT

NS = "team"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NS}/deployments"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NS}/endpointslices"
GATEWAY = "llm-gateway-istio"
GATEWAY_PODS = {
    "metadata": {"name": GATEWAY, "labels": {"kubernetes.io/service-name": GATEWAY}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.99.9.9"], "conditions": {"ready": True}}],
    "ports": [{"name": "http", "port": 80}],
}


class Rollouts:
    """Says of each Deployment that it is rolled out, and of the gateway's Service that a pod stands behind it: without
    one Istio does not call a Gateway programmed."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.ended.wait(0.2):
            # Between two looks anything may be deleted.
            with suppress(OSError):
                for found in self.cluster.call("GET", DEPLOYMENTS)["items"]:
                    n = found["spec"]["replicas"]
                    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), n)
                    status = {"status": {**counts, "observedGeneration": found["metadata"]["generation"]}}
                    self.cluster.call("PATCH", f"{DEPLOYMENTS}/{found['metadata']['name']}/status", status)
                    if found["metadata"]["name"] == GATEWAY:
                        self.cluster.call("POST", SLICES, GATEWAY_PODS)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


@pytest.fixture
def cluster(mesh) -> Iterator:
    """With a node that has GPUs, and istiod as a pod, which here is a process."""
    cluster = mesh.cluster
    cluster.call("POST", "/api/v1/nodes", {"metadata": {"name": "gpus"}})
    amounts = {"cpu": "64", "nvidia.com/gpu": "8"}
    cluster.call("PATCH", "/api/v1/nodes/gpus/status", {"status": {"capacity": amounts, "allocatable": amounts}})
    pods = f"/api/v1/namespaces/{ISTIO_SYSTEM}/pods"
    container = {"name": "discovery", "image": "docker.io/istio/pilot:1.31.0"}
    pod = {"metadata": {"name": "istiod", "labels": {"app": "istiod"}}, "spec": {"containers": [container]}}
    cluster.call("POST", pods, pod)
    try:
        yield cluster
    finally:
        cluster.call("DELETE", "/api/v1/nodes/gpus")
        cluster.call("DELETE", f"{pods}/istiod", {"gracePeriodSeconds": 0})


def deploy(mesh, step: str, **variables: str) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(mesh.folder),
        "KUBECONFIG": str(mesh.cluster.kubeconfig(ADMIN)),
        "KUBECTL": str(mesh.cluster.programs / "kubectl"),
        "HELM": str(mesh.release.helm),
        "NS": NS,
        "WARMPATH_IMAGE": "registry.example/team/warmpath:1.2",
        "SERVICE_TYPE": "ClusterIP",
    }
    command = [ROOT / "deploy.sh", step]
    # What hangs is said by `timeout`'s exit code, with what was printed until then.
    command = ["timeout", "120", *command]
    done = subprocess.run(command, env={**env, **variables}, capture_output=True, text=True)
    if done.returncode:
        print(mesh.cluster.kubectl("get", "-n", NS, "gateways,deployments,services", "-o", "yaml", check=False))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_checks_installs_and_removes(mesh, cluster):
    said = deploy(mesh, "check")
    for line in ("ok      CRDs of Gateway API", "ok      Istio 1.31.0", "ok      8 GPUs", "ok      Kubernetes 1.34"):
        assert line in said
    assert "is there, left as it is" in deploy(mesh, "infra")
    with Rollouts(cluster):
        deploy(mesh, "llm-d", MODEL="org/model", HF_TOKEN="hf_x")
        # A second time changes nothing and breaks nothing.
        deploy(mesh, "llm-d", MODEL="org/model")
    by_name = {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in cluster.call("GET", DEPLOYMENTS)["items"]}
    assert by_name.keys() == {GATEWAY, "vllm-decode"}
    (sidecar,) = by_name[GATEWAY]["initContainers"]
    assert (sidecar["name"], sidecar["image"]) == ("warmpath-sidecar", "registry.example/team/warmpath:1.2")
    assert {"name": "WARMPATH_KUBERNETES_SERVICE", "value": f"{NS}/vllm:8000"} in sidecar["env"]
    assert {"name": "MODEL", "value": "org/model"} in by_name["vllm-decode"]["containers"][0]["env"]
    plugin = cluster.call("GET", f"/apis/extensions.istio.io/v1alpha1/namespaces/{NS}/wasmplugins/warmpath")
    assert plugin["spec"]["pluginConfig"]["mode"] == "steer"
    secrets = cluster.call("GET", f"/api/v1/namespaces/{NS}/secrets")["items"]
    assert "llm-d-hf-token" in {secret["metadata"]["name"] for secret in secrets}

    assert "Left: the namespace team" in deploy(mesh, "clean")
    left = [
        f"/apis/extensions.istio.io/v1alpha1/namespaces/{NS}/wasmplugins",
        f"/apis/networking.istio.io/v1alpha3/namespaces/{NS}/envoyfilters",
        f"/apis/gateway.networking.k8s.io/v1/namespaces/{NS}/gateways",
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NS}/roles",
    ]
    assert [cluster.call("GET", path)["items"] for path in left] == [[]] * len(left)
