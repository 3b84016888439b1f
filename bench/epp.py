"""The reference endpoint picker of the Gateway API's inference extension, to measure it beside warmpath: its own process,
asked by Envoy over ext_proc, with the API server that it finds pods by (whose CPU time isn't counted)."""

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

from stack import network
from stack.cluster import ADMIN, NAMESPACE, Cluster, Pods
from stack.paths import ROOT
from stack.process import Process, free_port

POOL = "sim"
PORT = 8000
# What its Helm chart (config/charts/epplib/templates/_config.yaml) makes by default.
CONFIG = {
    "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [
        {"type": "queue-scorer"},
        {"type": "kv-cache-utilization-scorer"},
        {"type": "prefix-cache-scorer"},
        {"type": "metrics-data-source", "parameters": {"scheme": "http", "path": "/metrics", "insecureSkipVerify": True}},
        {"type": "core-metrics-extractor"},
    ],
    "schedulingProfiles": [
        {
            "name": "default",
            "plugins": [
                {"pluginRef": "queue-scorer", "weight": 2},
                {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
                {"pluginRef": "prefix-cache-scorer", "weight": 3},
            ],
        }
    ],
}


def tool(name: str) -> Path:
    """The folder of what a script of tests/tools builds; the first time it takes minutes, and needs the network."""
    done = subprocess.run([ROOT / "tests" / "tools" / name], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


class Pool:
    """A cluster with a pool of pods, and pickers for it."""

    def __init__(self, folder: Path, servers: Path, picker: Path, addresses: list[str], ends: ExitStack):
        """`addresses`: of pods that all listen on `PORT`. To be called in a network of tests (`network.enter`)."""
        self.folder, self.program = folder, picker / "epp"
        folder.mkdir()
        self.cluster = Cluster(folder, servers)
        ends.callback(self.cluster.stop)
        for crd in ("inferenceobjectives", "inferencemodelrewrites"):
            self.cluster.kubectl("apply", "-f", picker / "crds" / f"inference.networking.x-k8s.io_{crd}.yaml")
        pods = Pods(self.cluster, POOL)
        for number, address in enumerate(addresses):
            pods.create(f"pod{number}", address)
        pods.pool((PORT,))

    def picker(self, folder: Path, ends: ExitStack) -> tuple[Process, str]:
        """One that runs, and its gRPC address."""
        grpc, health, metrics = (free_port() for _ in range(3))
        command = [self.program, "--pool-name", POOL, "--pool-namespace", NAMESPACE, "--config-text", json.dumps(CONFIG)]
        command += ["--grpc-port", grpc, "--grpc-health-port", health, "--metrics-port", metrics]
        # As its chart has it, but for what is no part of a request: protected metrics, traces to a collector.
        command += ["--zap-encoder", "json", "--v", 1, "--metrics-endpoint-auth=false", "--tracing=false"]
        env = {"KUBECONFIG": str(self.cluster.kubeconfig(ADMIN)), "NAMESPACE": NAMESPACE}
        process = Process("epp", command, folder / "epp.log", env)
        ends.callback(process.stop)
        return process, f"127.0.0.1:{grpc}"


def enter(pods: int) -> tuple[Path, Path, list[str]]:
    """Builds what is needed, then moves this process to a network of its own, where each pod has an address. Gives the
    folders of API server and picker, and the addresses."""
    built = tool("kube-apiserver"), tool("epp")
    network.enter()
    return (*built, [network.pod_address(number) for number in range(pods)])
