"""Pods behind STRICT mutual TLS are scraped with the certificates that Istio's agent writes into the gateway pod."""

import json
import sys

import pytest

from mesh import ISTIO, steered
from replica import DEPLOYMENT
from stack import paths
from stack.client import Client
from stack.cluster import NAMESPACE
from stack.process import Process, free_port, wait_for

sys.path.insert(0, str(paths.ROOT / "deploy" / "helm"))
import render  # noqa: E402

# Where the pods' own proxies would listen. Requests keep to the other port, which speaks plain text.
PORT = 9000
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def address(host: str, port: int) -> dict:
    return {"address": {"socket_address": {"address": host, "port_value": port}}}


def proxy(folder, hosts: list[str], certificates) -> Process:
    """In front of each pod what Istio's sidecar is under STRICT: who has no certificate of the mesh gets nothing."""
    files = {name: {"filename": str(certificates / f"{name}.pem")} for name in ("cert-chain", "key", "root-cert")}
    context = {
        "tls_certificates": [{"certificate_chain": files["cert-chain"], "private_key": files["key"]}],
        "validation_context": {"trusted_ca": files["root-cert"]},
    }
    tls = {"@type": _TLS, "common_tls_context": context, "require_client_certificate": True}
    resources: dict = {"listeners": [], "clusters": []}
    for host in hosts:
        forward = {"@type": _TCP, "stat_prefix": host, "cluster": host}
        chain = {"filters": [{"name": "tcp", "typed_config": forward}]}
        chain["transport_socket"] = {"name": "tls", "typed_config": tls}
        resources["listeners"].append({"name": host, **address(host, PORT), "filter_chains": [chain]})
        endpoints = [{"lb_endpoints": [{"endpoint": address(host, 8000)}]}]
        load = {"cluster_name": host, "endpoints": endpoints}
        resources["clusters"].append({"name": host, "type": "STATIC", "load_assignment": load})
    file = folder / "proxy.json"
    file.write_text(json.dumps({"admin": address("127.0.0.1", free_port()), "static_resources": resources}))
    command = [paths.ENVOY, "-c", file, "--disable-hot-restart", "--concurrency", 1, "--log-level", "warning"]
    return Process("proxy", command, folder / "proxy.log")


def carries_certificates(mesh) -> bool:
    return "OUTPUT_CERTS" in json.dumps(mesh.cluster.call("GET", DEPLOYMENT))


@pytest.fixture
def strict(mesh):
    """A replica whose sidecar asks pods over mutual TLS, as the chart's example has it."""
    mesh.steer("buffered")
    secret = {"metadata": {"name": "warmpath-peers"}, "stringData": {"token": "of the tests"}}
    mesh.cluster.call("POST", SECRETS, secret)
    example = paths.ROOT / "deploy" / "helm" / "examples" / "strict-mtls.yaml"
    scraped = json.dumps([{"name": "default", "service": "vllm", "port": 8000, "discovery": {"service": {"port": f"8000@{PORT}"}}}])
    made = render.plain(mesh.release.helm, f"--values={example}", f"--set-json=pools={scraped}")
    replica = None
    try:
        mesh.apply_resources(*(resource for resource in made if resource["kind"] == "ConfigMap"))
        wait_for("the Deployment", lambda: carries_certificates(mesh))
        replica = mesh.replica()
        yield replica
    finally:
        if replica:
            mesh.end(replica)
        mesh.apply("-f", ISTIO / "sidecar.yaml")
        wait_for("the Deployment as it was", lambda: not carries_certificates(mesh))
        mesh.cluster.call("DELETE", f"{SECRETS}/warmpath-peers")


def test_pods_behind_strict_mtls_are_scraped_with_istios_certificates(mesh, strict, fresh, tmp_path):
    # The agent comes after the sidecar, and its certificates with it; nobody waits for them.
    certificates = strict.volume("warmpath-certificates")
    wait_for("the agent's certificates", lambda: (certificates / "root-cert.pem").exists())
    wait_for("pods that do not answer", lambda: set(strict.sidecar.states().values()) == {"failing"})
    proxies = proxy(tmp_path, [pod.split(":")[0] for pod in mesh.pods.table()], certificates)
    try:
        mesh.wait_until_steered(strict, "buffered")
        client = Client(strict.url)
        text = fresh()
        first, again = client.chat(text), client.chat(text)
        assert (again.pod, again.reason) == (first.pod, "warm") and steered(again)
    finally:
        proxies.kill()
    wait_for("scrapes that fail", lambda: "ready" not in strict.sidecar.states().values())
