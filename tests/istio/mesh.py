"""Everything together: API server, istiod, vLLM pods, and what users apply. One at a time."""

import itertools
import json
from pathlib import Path

import yaml

from stack import network
from stack.client import Answer, Client
from stack.cluster import NAMESPACE, Cluster, Pods
from stack.paths import ROOT
from stack.pods import Pod
from stack.process import wait_for
from endpoints import publish
from istiod import Istiod, Release, condition
from replica import DEPLOYMENT, GatewayReplica

ISTIO = ROOT / "istio"
GATEWAY = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/gateways/llm-gateway"
ROUTE = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/vllm"
SERVICE = f"/api/v1/namespaces/{NAMESPACE}/services/llm-gateway-istio"
# Large enough that nothing is evicted while tests run.
ROOMY = {"instant": True, "kv_tokens": 2_000_000}


_numbers = itertools.count()


class VllmPods:
    """Simulated pods behind a Service that is there, as processes and in the API server."""

    def __init__(self, folder: Path, cluster: Cluster, service: str = "vllm"):
        self.folder, self.cluster, self.service = folder, cluster, service
        selector = cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/services/{service}")["spec"]["selector"]
        self.written = Pods(cluster, service, selector)
        self.running: dict[str, Pod] = {}

    def start(self, **options) -> Pod:
        """A pod that is Ready; with options in the place of `ROOMY`."""
        name = str(next(_numbers))
        pod = self._process(name, **options)
        self.written.create(name, pod.address.split(":")[0])
        self.publish()
        return pod

    def _process(self, name: str, **options) -> Pod:
        host = network.pod_address(next(_numbers))
        pod = Pod(self.folder, f"vllm-{host}", 8000, host=host, **(options or ROOMY)).ready()
        self.running[name] = pod
        return pod

    def name(self, pod: Pod) -> str:
        return next(name for name, running in self.running.items() if running is pod)

    def publish(self) -> None:
        publish(self.cluster, self.service)

    def terminate(self, pod: Pod) -> None:
        """Its deletion begins; it serves on."""
        self.written.terminate(self.name(pod))
        self.publish()

    def remove(self, pod: Pod) -> None:
        """It is gone, with its process."""
        name = self.name(pod)
        self.written.remove(name)
        self.publish()
        self.running.pop(name).process.kill()

    def ready(self, pod: Pod, ready: bool) -> None:
        """What its readiness probe says."""
        self.written.status(self.name(pod), pod.address.split(":")[0], ready)
        self.publish()

    def move(self, pod: Pod) -> Pod:
        """The pod gets another address, as after a new sandbox. The old one serves until all know."""
        name = self.name(pod)
        moved = self._process(name)
        self.written.status(name, moved.address.split(":")[0])
        self.publish()
        pod.stop()
        return moved

    def table(self) -> dict[str, str]:
        """The sidecar's table when all are as they should be."""
        return {pod.address: "ready" for pod in self.running.values()}

    def stop(self) -> None:
        for pod in self.running.values():
            pod.stop()


class Mesh:
    """Started when made, without a replica of the gateway."""

    def __init__(self, folder: Path, release: Release, kubernetes: Path):
        self.folder, self.release = folder, release
        self.numbers = itertools.count(1)
        self.parts: list = []
        self.replicas: list[GatewayReplica] = []
        try:
            self.cluster = self._part(Cluster(self._folder("cluster"), kubernetes))
            self.istiod = self._part(Istiod(self._folder("istiod"), self.cluster, release))
            self.install()
            self.pods = self._part(VllmPods(self._folder("pods"), self.cluster))
            for _ in range(3):
                self.pods.start()
        except BaseException:
            self.stop()
            raise

    def _part(self, part):
        self.parts.append(part)
        return part

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder

    def install(self) -> None:
        """As istio/README.md and deploy/README.md say, up to the wiring."""
        self.apply("-f", ISTIO / "sidecar.yaml")
        self.apply("-n", NAMESPACE, "-k", ROOT / "deploy" / "vllm" / "routing")
        wait_for("the gateway", lambda: all(self.cluster.call("GET", made) for made in (DEPLOYMENT, SERVICE)))
        # A load balancer's part.
        status = {"status": {"loadBalancer": {"ingress": [{"ip": network.API_SERVER}]}}}
        self.cluster.call("PATCH", f"{SERVICE}/status", status)

    def apply(self, *what) -> None:
        self.cluster.kubectl("apply", *what)

    def wire(self, wiring: str, /, url: str | None = None, sha256: str | None = None, **plugin) -> None:
        """Goes to a wiring in the order that istio/README.md says, with that configuration of the plugin, and the
        filter from another place than the sidecar."""
        self.begin(wiring, url, sha256, **plugin)
        if wiring == "buffered":
            self.apply("-f", ISTIO / "envoyfilter.yaml")
        else:
            self.cluster.kubectl("delete", "--ignore-not-found", "-f", ISTIO / "wasmplugin.yaml")

    def begin(self, wiring: str, /, url: str | None = None, sha256: str | None = None, **plugin) -> None:
        """The first of the two steps: the wiring's own plugin is there, beside the other's."""
        if wiring == "buffered":
            self._apply_plugin(plugin, url, sha256)
        else:
            self._apply_streaming(plugin, url, sha256)

    def _apply_plugin(self, plugin: dict, url: str | None, sha256: str | None) -> None:
        (resource,) = documents(ISTIO / "wasmplugin.yaml")
        spec = resource["spec"]
        spec["pluginConfig"] |= plugin
        spec["url"] = url or spec["url"]
        if sha256:
            spec["sha256"] = sha256
        self.apply_resources(resource)

    def _apply_streaming(self, plugin: dict, url: str | None, sha256: str | None) -> None:
        (resource,) = documents(ISTIO / "streaming" / "envoyfilter.yaml")
        (patch,) = (p for p in resource["spec"]["configPatches"] if p["applyTo"] == "EXTENSION_CONFIG")
        config = patch["patch"]["value"]["typed_config"]["config"]
        configuration = config["configuration"]
        configuration["value"] = json.dumps(json.loads(configuration["value"]) | plugin)
        remote = config["vm_config"]["code"]["remote"]
        remote["http_uri"]["uri"] = url or remote["http_uri"]["uri"]
        if sha256:
            remote["sha256"] = sha256
        self.apply_resources(resource)

    def steer(self, wiring: str, **more) -> None:
        """To that wiring, and waits until each gateway steers by it to all pods that are there."""
        self.wire(wiring, mode="steer", debug_headers=True, **more)
        for replica in self.replicas:
            self.wait_until_steered(replica, wiring)

    def wait_until_steered(self, replica: GatewayReplica, wiring: str) -> None:
        def in_force() -> bool:
            found = replica.gateway.findings()
            wired = [f for f in found if f"filters of the {wiring} wiring" in f.what]
            steers = not [f for f in found if "nothing is steered" in f.what]
            return bool(wired) and steers and all(f.good is not False for f in found)

        wait_for(f"the {wiring} wiring", in_force, every=0.1)
        replica.sidecar.follows(self.pods.table(), within=10)
        client = Client(replica.url)
        # Each of Envoy's workers has a plugin of its own; a connection goes to any of them.
        wait_for("steering", lambda: all(steered(client.chat("Are you there?")) for _ in range(8)))

    def apply_resources(self, *resources: dict) -> None:
        self.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(resources))

    def replica(self, **options) -> GatewayReplica:
        """Another pod of the gateway."""
        number = next(self.numbers)
        made = GatewayReplica(self._folder(f"replica-{number}"), self, number, **options)
        self.replicas.append(made)
        self.publish_gateway()
        return made

    def end(self, replica: GatewayReplica) -> None:
        self.replicas.remove(replica)
        replica.stop()
        self.publish_gateway()

    def publish_gateway(self) -> None:
        for service in ("llm-gateway-istio", "warmpath-peers"):
            publish(self.cluster, service)

    def stop(self) -> None:
        for part in reversed([*self.parts, *self.replicas]):
            part.stop()


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def accepted(resource: dict, kind: str = "Accepted") -> bool:
    """Whether the (only) parent of a route, or a gateway, has that condition."""
    status = resource.get("status", {})
    parents = status.get("parents") or [status]
    return all(condition(parent.get("conditions", []), kind) for parent in parents)


def steered(answer: Answer) -> bool:
    return answer.headers.get("x-warmpath-steered") == "true"
