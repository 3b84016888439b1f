"""One pod of the gateway: what the kubelet would make of the Deployment that istiod generated.

Its containers run here as processes with exactly the arguments and variables of the Deployment, in a network of their
own. Only paths differ: programs stand where they were built, not in images.
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path

from stack import network, paths
from stack.cluster import NAMESPACE
from stack.envoy import Admin
from stack.process import Process, wait_for
from stack.sidecar import Pages
from istiod import HOST

sys.path.insert(0, str(paths.ROOT / "istio"))
import check  # noqa: E402

DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/llm-gateway-istio"
ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
# A pod's files at the places where programs look for them, then the program.
ENTER = f"""
set -e
mount --bind "$1/hosts" /etc/hosts
mount -t tmpfs none /run
mkdir -p {ACCOUNT}
cp "$1"/account/* {ACCOUNT}
mount -t tmpfs none /var/lib
mkdir -p /var/lib/istio/data
for volume in $2; do
    mkdir -p "${{volume#*=}}"
    mount --bind "$1/volumes/${{volume%%=*}}" "${{volume#*=}}"
done
cd "$1"
shift 2
exec "$@"
"""


class SidecarContainer(Pages):
    """The native sidecar of the gateway pod."""

    def __init__(self, http: str, process: Process):
        self.http, self.process = http, process


class EnvoyContainer(Admin):
    """The agent and its Envoy."""

    admin = 15000

    def __init__(self, net: network.PodNetwork, process: Process):
        self.net, self.process = net, process

    def get(self, path: str) -> str:
        with self.net.entered():
            return super().get(path)

    def dump(self) -> dict:
        return json.loads(self.get("/config_dump"))

    def findings(self) -> list:
        """What the users' check says of this Envoy."""
        return check.check(self.dump())

    def plugin(self) -> dict:
        """The configuration of the plugin in the filter chain: ours, or what the agent put in its place."""
        seen = check.Dump(self.dump())
        (name,) = check.plugin_names(seen)
        return seen.extensions()[name]


class GatewayReplica:
    """Started when made: the sidecar, then the agent, each as soon as the one before is started as its probe says.
    `sidecar=False` leaves the sidecar out until `start_sidecar`."""

    def __init__(self, folder: Path, mesh, number: int, sidecar: bool = True):
        self.mesh, self.folder = mesh, folder
        self.sidecar: SidecarContainer | None = None
        self.gateway: EnvoyContainer | None = None
        self.net = network.PodNetwork(folder, number)
        self.address = self.net.address
        self.url = f"http://{self.address}:80"
        self.pod = self._register(number)
        try:
            self._write_files()
            if sidecar:
                self.start_sidecar()
            self.start_gateway()
        except BaseException:
            self.stop()
            raise

    def _register(self, number: int) -> dict:
        """The pod in the API server, as ReplicaSet and kubelet would write it."""
        template = self.mesh.cluster.call("GET", DEPLOYMENT)["spec"]["template"]
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        name = f"llm-gateway-istio-{number}"
        body = {"metadata": {**template["metadata"], "name": name}, "spec": {**template["spec"], "nodeName": "node"}}
        self.path = f"{path}/{name}"
        made = self.mesh.cluster.call("POST", path, body)
        ready = {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}], "hostIP": self.address}
        ready["conditions"] = [{"type": "Ready", "status": "True"}]
        self.mesh.cluster.call("PATCH", f"{self.path}/status", {"status": ready})
        return {**made, "status": ready}

    def _write_files(self) -> None:
        """What the pod mounts: tokens, root certificate, labels."""
        cluster, account = self.mesh.cluster, self.pod["spec"]["serviceAccountName"]
        root = cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/istio-ca-root-cert")
        labels = "\n".join(f'{k}={json.dumps(v)}' for k, v in self.pod["metadata"]["labels"].items())
        files = {
            "hosts": f"127.0.0.1 localhost\n{network.API_SERVER} {HOST}\n",
            "account/token": cluster.token(account),
            "account/ca.crt": cluster.certificate.read_text(),
            "account/namespace": NAMESPACE,
            "var/run/secrets/tokens/istio-token": cluster.token(account, "istio-ca"),
            "var/run/secrets/istio/root-cert.pem": root["data"]["root-cert.pem"],
            "etc/istio/pod/labels": labels,
            "etc/istio/proxy/.keep": "",
            # So that Envoy never outlives its agent.
            "envoy": f'#!/bin/sh\nexec setpriv --pdeathsig KILL {paths.ENVOY} "$@"\n',
        }
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (self.folder / "envoy").chmod(0o755)

    def container(self, name: str) -> dict:
        spec = self.pod["spec"]
        (found,) = [c for c in [*spec.get("initContainers", []), *spec["containers"]] if c["name"] == name]
        return found

    def _env(self, container: dict) -> dict[str, str]:
        host, port = self.mesh.cluster.url.removeprefix("https://").split(":")
        # As the kubelet does. KUBECONFIG of who runs the tests is no business of a pod.
        env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "KUBECONFIG": "/nonexistent"}
        for variable in container["env"]:
            if "fieldRef" in (source := variable.get("valueFrom", {})):
                value = self.pod
                for part in source["fieldRef"]["fieldPath"].split("."):
                    value = value[part]
                env[variable["name"]] = value
            elif "secretKeyRef" in source:
                env[variable["name"]] = self._secret(**source["secretKeyRef"])
            elif not source:
                env[variable["name"]] = variable.get("value", "")
        return env

    def _secret(self, name: str, key: str) -> str:
        secret = self.mesh.cluster.call("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
        return base64.b64decode(secret["data"][key]).decode()

    def volume(self, name: str) -> Path:
        """Where an emptyDir is that containers share."""
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _shared(self, container: dict) -> str:
        """What it mounts of the emptyDirs that another container mounts as well, as NAME=PATH."""
        spec = self.pod["spec"]
        empty = {volume["name"] for volume in spec["volumes"] if "emptyDir" in volume}
        mounts = [mount["name"] for c in [*spec["initContainers"], *spec["containers"]] for mount in c.get("volumeMounts", [])]
        shared = [m for m in container.get("volumeMounts", []) if m["name"] in empty and mounts.count(m["name"]) > 1]
        return " ".join(f"{self.volume(m['name']).name}={m['mountPath']}" for m in shared)

    def _run(self, container: dict, program: Path, env: dict[str, str]) -> Process:
        arguments = list(container.get("args", []))
        for name, value in env.items():
            arguments = [part.replace(f"$({name})", value) for part in arguments]
        command = [*self.net.within(), "unshare", "-m", "sh", "-c", ENTER, "sh", self.folder]
        command += [self._shared(container), program, *arguments]
        name = container["name"]
        process = Process(name, command, self.folder / f"{name}.log", env)
        probe = container["startupProbe"]
        path, port = probe["httpGet"]["path"], probe["httpGet"]["port"]
        port = next((p["containerPort"] for p in container.get("ports", []) if p.get("name") == port), port)

        def started() -> bool:
            process.require()
            with urllib.request.urlopen(f"http://{self.address}:{port}{path}", timeout=2) as answer:
                return answer.status == 200

        try:
            wait_for(f"{name} ({process.log_path})", started, timeout=60, every=0.05)
        except BaseException:
            process.kill()
            raise
        return process

    def start_sidecar(self) -> None:
        container = self.container("warmpath-sidecar")
        assert container["restartPolicy"] == "Always", "not a native sidecar: Envoy would not wait for it"
        # The image's files.
        env = {k: v.replace("/warmpath_filter.wasm", str(paths.FILTER)) for k, v in self._env(container).items()}
        process = self._run(container, paths.SIDECAR, env)
        port = env["WARMPATH_HTTP_LISTEN"].rsplit(":", 1)[1]
        self.sidecar = SidecarContainer(f"{self.address}:{port}", process)

    def restart_sidecar(self) -> None:
        """The container ends and the kubelet starts it again."""
        self.sidecar.process.kill()
        self.start_sidecar()

    def start_gateway(self) -> None:
        container = self.container("istio-proxy")
        env = self._env(container)
        env["PROXY_CONFIG"] = json.dumps({**json.loads(env["PROXY_CONFIG"]), "binaryPath": str(self.folder / "envoy")})
        env["ISTIO_BOOTSTRAP"] = str(self.mesh.release.files / "envoy_bootstrap.json")
        process = self._run(container, self.mesh.release.programs / "pilot-agent", env)
        self.gateway = EnvoyContainer(self.net, process)

    def stop(self) -> None:
        for part in (self.gateway, self.sidecar):
            if part:
                part.process.kill()
        self.net.stop()
        self.mesh.cluster.call("DELETE", self.path, {"gracePeriodSeconds": 0})
