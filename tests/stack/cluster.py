"""A real API server with its etcd, and what tests write into it. No kubelet and no controllers: tests say what those
would say (a pod's address and readiness, a Service's EndpointSlices)."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from . import network
from .process import Process, free_port, wait_for

ADMIN = "admin-of-the-tests"
NAMESPACE = "llm-d"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/llm-d/inferencepools"


class Cluster:
    """Started when made. `programs` is the folder with kube-apiserver, kubectl and etcd."""

    def __init__(self, folder: Path, programs: Path):
        self.folder, self.programs = folder, programs
        self.etcd: Process | None = None
        self.server: Process | None = None
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.url = f"https://{network.API_SERVER}:{free_port()}"
        self.command = self._command(client)
        try:
            etcd = [programs / "etcd", "--data-dir", folder / "etcd", "--listen-client-urls", client]
            etcd += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
            etcd += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
            self.etcd = Process("etcd", etcd, folder / "etcd.log")
            self.start()
            self.prepare()
        except BaseException:
            self.stop()
            raise

    def _command(self, etcd: str) -> list:
        key = self.folder / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{ADMIN},admin,admin,system:masters\n")
        return [
            self.programs / "kube-apiserver",
            f"--etcd-servers={etcd}",
            f"--bind-address={network.API_SERVER}",
            f"--advertise-address={network.API_SERVER}",
            f"--secure-port={self.url.rsplit(':', 1)[1]}",
            f"--cert-dir={self.folder / 'certs'}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            # No controller makes the tokens that it asks for.
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            # The second is what Istio's agents show their tokens for.
            "--api-audiences=https://kubernetes.default.svc,istio-ca",
            "--service-cluster-ip-range=10.96.0.0/16",
            # So that watches end, and a test with a stopped server need not wait for them.
            "--shutdown-delay-duration=0s",
        ]

    def start(self) -> None:
        """Starts the API server, also again."""
        if self.server:
            self.server.start()
        else:
            self.server = Process("kube-apiserver", self.command, self.folder / "kube-apiserver.log")

        def answers() -> bool:
            for process in (self.etcd, self.server):
                process.require()
            return self.call("GET", "/readyz") is not None

        wait_for("the API server", answers, timeout=120, every=0.1)

    def prepare(self) -> None:
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        self.prepare_pools()

    def prepare_pools(self) -> None:
        self.kubectl("apply", "-f", self.programs / "inferencepool.yaml")
        wait_for("the InferencePool's CRD", lambda: self.call("GET", POOLS) is not None, every=0.1)

    def call(self, method: str, path: str, body: dict | None = None, token: str = ADMIN) -> dict:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"authorization": f"Bearer {token}", "content-type": kind, "accept": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        trust = ssl.create_default_context(cafile=self.certificate)
        try:
            with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise OSError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
        return json.loads(text) if text.startswith(b"{") else {}

    def kubectl(self, *arguments, stdin: str | None = None, check: bool = True) -> str:
        command = [self.programs / "kubectl", "--kubeconfig", self.kubeconfig(ADMIN), *arguments]
        done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    @property
    def certificate(self) -> Path:
        """Self-signed by the API server at its first start."""
        return self.folder / "certs" / "apiserver.crt"

    def token(self, account: str = "llm-gateway-istio", audience: str | None = None, namespace: str = NAMESPACE) -> str:
        """A token such as the kubelet puts into a pod of that ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        spec = {"expirationSeconds": 3600, **({"audiences": [audience]} if audience else {})}
        return self.call("POST", path, {"spec": spec})["status"]["token"]

    def kubeconfig(self, token: str) -> Path:
        """A client's configuration, with the server's certificate checked as on a cluster."""
        file = self.folder / f"kubeconfig-{abs(hash(token))}"
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        file.write_text(json.dumps(config))
        return file

    def stop(self) -> None:
        for process in (self.server, self.etcd):
            if process:
                process.stop()


class Pods:
    """Writes pods and EndpointSlices as the kubelet and the controllers would. Names carry `app`, a label of its own
    unless others are given."""

    def __init__(self, cluster: Cluster, app: str, labels: dict[str, str] | None = None):
        self.cluster, self.app, self.labels = cluster, app, labels or {"app": app}
        self.path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        self.slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
        self.uids: dict[str, str] = {}

    def create(self, name: str, ip: str, ready: bool = True) -> str:
        """A pod that runs, with that address. Gives its UID."""
        ports = [{"name": "http", "containerPort": 8000}]
        made = self.cluster.call(
            "POST",
            self.path,
            {
                "metadata": {"name": f"{self.app}-{name}", "labels": self.labels},
                # With a node, a deletion waits for the kubelet: the pod is terminating until then.
                "spec": {"nodeName": "node", "containers": [{"name": "vllm", "image": "none:1", "ports": ports}]},
            },
        )
        self.uids[ip] = made["metadata"]["uid"]
        self.status(name, ip, ready)
        return self.uids[ip]

    def status(self, name: str, ip: str, ready: bool = True) -> None:
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
        self.cluster.call("PATCH", f"{self.path}/{self.app}-{name}/status", {"status": status})

    def terminate(self, name: str) -> None:
        self.cluster.call("DELETE", f"{self.path}/{self.app}-{name}", {"gracePeriodSeconds": 600})

    def remove(self, name: str) -> None:
        self.cluster.call("DELETE", f"{self.path}/{self.app}-{name}", {"gracePeriodSeconds": 0})

    def slice(self, name: str, endpoints: dict[str, str], ports: tuple[int, ...] = (8000,)) -> None:
        """A slice of the Service named as the app. `endpoints`: address to `ready`, `unready` or `terminating`."""
        conditions = {
            "ready": {"ready": True, "serving": True, "terminating": False},
            "unready": {"ready": False, "serving": False, "terminating": False},
            "terminating": {"ready": False, "serving": True, "terminating": True},
        }
        body = {
            "metadata": {"name": f"{self.app}-{name}", "labels": {"kubernetes.io/service-name": self.app}},
            "addressType": "IPv4",
            "ports": [{"name": f"http-{port}", "port": port, "protocol": "TCP"} for port in ports],
            "endpoints": [
                {"addresses": [ip], "conditions": conditions[state], "targetRef": self._pod(ip)}
                for ip, state in endpoints.items()
            ],
        }
        path = f"{self.slices}/{self.app}-{name}"
        try:
            body["metadata"]["resourceVersion"] = self.cluster.call("GET", path)["metadata"]["resourceVersion"]
        except OSError:
            self.cluster.call("POST", self.slices, body)
        else:
            self.cluster.call("PUT", path, body)

    def _pod(self, ip: str) -> dict:
        return {"kind": "Pod", "namespace": NAMESPACE, "name": f"pod-{ip}", "uid": self.uids.get(ip, f"uid-{ip}")}

    def pool(self, ports: tuple[int, ...] = (8000,), labels: dict[str, str] | None = None) -> None:
        """An InferencePool named as the app."""
        spec = {
            "selector": {"matchLabels": labels or self.labels},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "none", "port": {"number": 9002}},
        }
        body = {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": self.app},
            "spec": spec,
        }
        self.cluster.call("POST", POOLS, body)
