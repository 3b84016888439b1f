"""What Helm makes of the chart, on the mesh in place of the files in istio/."""

import json
import sys

import pytest

from mesh import ISTIO, documents, steered
from stack.paths import ROOT

sys.path.insert(0, str(ROOT / "deploy" / "helm"))
import render  # noqa: E402


def as_values(**plugin) -> str:
    return f"--set-json=pluginConfig={json.dumps(plugin)}"


@pytest.mark.parametrize("wiring", ["buffered", "streaming"])
def test_the_chart_steers(wiring, mesh, replica, client, fresh):
    mesh.steer("streaming" if wiring == "buffered" else "buffered")
    plugin = as_values(mode="steer", debug_headers=True)
    made = render.plain(mesh.release.helm, f"--set=wiring={wiring}", plugin)
    # Over the files, as who goes from them to the chart; what the other wiring has goes.
    mesh.apply_resources(*made)
    if wiring == "streaming":
        mesh.cluster.kubectl("delete", "-f", ISTIO / "wasmplugin.yaml")
    mesh.wait_until_steered(replica, wiring)
    text = fresh()
    first = client.chat(text)
    again = client.chat(text)
    assert (again.pod, again.reason) == (first.pod, "warm") and steered(again)
    mesh.apply("-f", ISTIO / "sidecar.yaml")
    mesh.steer(wiring)


def test_a_gateway_that_the_chart_makes_starts_the_same_pods(mesh):
    """`gateway.create`: the same Gateway as deploy/vllm's, as far as Istio is concerned."""
    (made,) = [r for r in render.plain(mesh.release.helm, "--set=gateway.create=true") if r["kind"] == "Gateway"]
    (ours,) = documents(ROOT / "deploy" / "vllm" / "routing" / "gateway.yaml")
    assert made["spec"]["infrastructure"]["parametersRef"] == ours["spec"]["infrastructure"]["parametersRef"]
    assert made["spec"]["listeners"] == ours["spec"]["listeners"]
    mesh.cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(made))
