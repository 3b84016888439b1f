"""A real API server, one for all tests here, in a network of its own; simulated pods; the real sidecar.

`make test-kubernetes`. Needs Linux with unprivileged user namespaces (else the tests are skipped and say so), `ip`,
`unshare` and `openssl`, and the first time Go.
"""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import network
from stack.cluster import ADMIN, NAMESPACE, Cluster, Pods
from stack.paths import ROOT
from stack.pods import Pod
from stack.process import wait_for
from stack.sidecar import Sidecar

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    # Before the network is left: the first time it downloads and builds.
    built = subprocess.run([ROOT / "tests" / "tools" / "kube-apiserver"], stdout=subprocess.PIPE, text=True)
    assert built.returncode == 0, "tests/tools/kube-apiserver failed; it says why above"
    try:
        network.enter()
    except network.NotPermitted as error:
        pytest.skip(f"no namespace to run an API server in: {error}")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), Path(built.stdout.strip()))
    # Istio's part: it makes an account for each Gateway.
    account = {"metadata": {"name": "llm-gateway-istio"}}
    cluster.call("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
    yield cluster
    cluster.stop()


@pytest.fixture
def pods(cluster: Cluster) -> Pods:
    """Under a name of their own: tests see nothing of each other."""
    return Pods(cluster, f"vllm-{next(_numbers)}")


@pytest.fixture
def ip() -> Callable[[], str]:
    return lambda: network.pod_address(next(_numbers))


class Start:
    """Starts parts that end with the test."""

    def __init__(self, folder: Path, cluster: Cluster, ends: ExitStack):
        self.folder, self.cluster, self.ends = folder, cluster, ends

    def pod(self, ip: str, port: int = 8000, **options) -> Pod:
        options = {"instant": True, "kv_tokens": 100_000, **options}
        pod = Pod(self.folder, f"pod-{ip}-{port}", port, host=ip, **options)
        self.ends.callback(pod.stop)
        return pod.ready()

    def sidecar(self, *sources: str, token: str = ADMIN) -> Sidecar:
        return self._sidecar(sources, {"KUBECONFIG": str(self.cluster.kubeconfig(token))})

    def sidecar_in_a_pod(self, *sources: str, token: str) -> Sidecar:
        """Configured as the kubelet does it: by variables, and files of the service account."""
        files = self.folder / "serviceaccount"
        files.mkdir()
        (files / "token").write_text(token)
        (files / "ca.crt").write_bytes(self.cluster.certificate.read_bytes())
        (files / "namespace").write_text("llm-d")
        host, port = self.cluster.url.removeprefix("https://").split(":")
        env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "KUBECONFIG": "/nonexistent"}
        # A /run of its own, because that is where a pod has these files.
        mounts = "mount -t tmpfs none /run && mkdir -p $1 && cp $0/* $1 && shift && exec \"$@\""
        where = "/run/secrets/kubernetes.io/serviceaccount"
        return self._sidecar(sources, env, ["unshare", "-m", "sh", "-c", mounts, str(files), where])

    def _sidecar(self, sources: tuple[str, ...], env: dict[str, str], within: list[str] | None = None) -> Sidecar:
        name = f"sidecar-{next(_numbers)}"
        sidecar = Sidecar(self.folder, name=name, sources=list(sources), env=env, within=within)
        self.ends.callback(sidecar.stop)
        wait_for("the sidecar's pages", lambda: sidecar.get("/healthz") == "ok\n")
        return sidecar


@pytest.fixture
def start(tmp_path: Path, cluster: Cluster) -> Iterator[Start]:
    with ExitStack() as ends:
        yield Start(tmp_path, cluster, ends)
