"""deploy/examples/two-models: the filter reads the model from the body, and Istio's routes match on it."""

import json
import sys

import pytest
import yaml

from mesh import ISTIO, VllmPods
from replica import DEPLOYMENT
from stack.client import Client
from stack.paths import ROOT
from stack.process import wait_for

sys.path.insert(0, str(ROOT / "deploy" / "helm"))
import render  # noqa: E402

EXAMPLE = ROOT / "deploy" / "examples" / "two-models"
VALUES = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
HEADER = VALUES["pluginConfig"]["model_header"]
(MISTRAL,) = next(pool for pool in VALUES["pools"] if pool["models"])["models"]
QWEN = "Qwen/Qwen3-8B"


def services(mesh) -> str:
    """The sidecar's option, in the Deployment that is there now."""
    (sidecar,) = mesh.cluster.call("GET", DEPLOYMENT)["spec"]["template"]["spec"]["initContainers"]
    return json.dumps(sidecar["env"])


@pytest.fixture
def two_models(mesh, tmp_path):
    """A replica as the example's README has it, and two pods of each model."""
    plugin = json.dumps({**VALUES["pluginConfig"], "debug_headers": True})
    made = render.plain(mesh.release.helm, f"--values={EXAMPLE / 'values.yaml'}", f"--set-json=pluginConfig={plugin}")
    pools, replica = {}, None
    try:
        mesh.cluster.kubectl("delete", "--ignore-not-found", "-f", ISTIO / "wasmplugin.yaml")
        mesh.apply_resources(*made)
        mesh.apply("-k", EXAMPLE)
        for model, service in ((MISTRAL, "vllm-mistral"), (QWEN, "vllm-qwen")):
            pools[model] = VllmPods(tmp_path, mesh.cluster, service)
            for _ in range(2):
                pools[model].start(model=model)
        wait_for("the Deployment", lambda: "vllm-mistral" in services(mesh))
        replica = mesh.replica()
        tables = [pool.table() for pool in pools.values()]
        replica.sidecar.follows({pod: state for table in tables for pod, state in table.items()}, within=10)
        client = Client(replica.url)
        for model in pools:
            # Routes and clusters of the example's Services are Istio's work, and take their time.
            wait_for(model, lambda model=model: client.chat("Are you there?", model=model).reason)
        yield client, pools
    finally:
        if replica:
            mesh.end(replica)
        for pool in pools.values():
            for pod in list(pool.running.values()):
                pool.remove(pod)
        mesh.cluster.kubectl("delete", "--ignore-not-found", "-k", EXAMPLE)
        mesh.apply("-n", "llm-d", "-k", ROOT / "deploy" / "vllm" / "routing")
        mesh.apply("-f", ISTIO / "sidecar.yaml")
        wait_for("the Deployment as it was", lambda: "vllm-mistral" not in services(mesh))
        mesh.steer("buffered")


def test_each_model_goes_to_its_service_and_there_to_the_warm_pod(two_models, fresh):
    client, pools = two_models
    for model, pool in pools.items():
        for _ in range(4):
            text = fresh()
            first = client.chat(text, model=model)
            assert (first.status, first.reason) == (200, "cold") and first.pod in pool.table()
            again = client.chat(text, model=model)
            assert (again.pod, again.reason) == (first.pod, "warm")
    # A client's own header chooses nothing.
    answer = client.chat(fresh(), {HEADER: MISTRAL}, model=QWEN)
    assert answer.status == 200 and answer.pod in pools[QWEN].table()
    (seen,) = {r["headers"][HEADER] for pod in pools[MISTRAL].running.values() for r in pod.requests()}
    assert seen == MISTRAL
