"""What istiod, the agent and Envoy make of the files in istio/."""

import hashlib
import json

import pytest

from mesh import GATEWAY, ROUTE, accepted, steered
from registry import Registry
from replica import DEPLOYMENT
from stack import paths
from stack.process import wait_for

# What the agent names the module by, in Envoy's configuration.
SUM = hashlib.sha256(paths.FILTER.read_bytes()).hexdigest()


def fetched(replica) -> bool:
    return replica.gateway.plugin()["@type"].endswith("wasm.v3.Wasm")


@pytest.mark.every_snapshot
def test_gateway_and_route_are_accepted(mesh):
    wait_for("the gateway", lambda: accepted(mesh.cluster.call("GET", GATEWAY), "Accepted"))
    wait_for("its address", lambda: accepted(mesh.cluster.call("GET", GATEWAY), "Programmed"))
    for kind in ("Accepted", "ResolvedRefs"):
        wait_for("the route", lambda kind=kind: accepted(mesh.cluster.call("GET", ROUTE), kind))


@pytest.mark.every_snapshot
def test_the_gateways_deployment_starts_the_sidecar_first(mesh):
    spec = mesh.cluster.call("GET", DEPLOYMENT)["spec"]["template"]["spec"]
    (sidecar,) = spec["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("warmpath-sidecar", "Always")
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert [container["name"] for container in spec["containers"]] == ["istio-proxy"]


@pytest.mark.every_snapshot
def test_envoy_accepts_everything(mesh, replica, wiring):
    stats = replica.gateway.get("/stats?filter=update_(rejected|failure)$")
    rejected = {name: int(count) for name, _, count in (line.partition(": ") for line in stats.splitlines())}
    assert {"listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected"} <= rejected.keys()
    assert not {name: count for name, count in rejected.items() if name.endswith("rejected") and count}
    assert "error_state" not in replica.gateway.get("/config_dump")
    assert fetched(replica)


def test_a_module_is_run_only_if_its_sum_is_right(mesh, replica, client, wiring):
    mesh.wire(wiring, mode="steer", debug_headers=True, sha256="0" * 64)
    wait_for("the agent's refusal", lambda: not fetched(replica))
    answer = client.chat("Is the filter there?")
    assert answer.status == 200 and not answer.reason
    mesh.steer(wiring, sha256=replica.sidecar.get("/filter.wasm.sha256").split()[0])
    assert steered(client.chat("And now?"))
    assert SUM in json.dumps(replica.gateway.plugin())
    mesh.steer(wiring)


def test_the_filter_comes_from_an_oci_registry_as_well(mesh, replica, client, wiring, tools, tmp_path):
    registry = Registry(tmp_path, tools["crane"])
    try:
        mesh.steer(wiring, url=registry.url, sha256=registry.sha256)
        assert steered(client.chat("Where do you come from?"))
        assert "/v2/warmpath-filter/blobs/" in registry.requests()
    finally:
        registry.stop()
        mesh.steer(wiring)
