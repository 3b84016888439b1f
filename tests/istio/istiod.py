"""A real istiod on a real API server, installed from its own chart.

Envoy here is the stock build, so what only Istio's build of Envoy has is switched off (`STOCK`); everything else is as
the chart installs it.
"""

import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import yaml

from stack.cluster import Cluster
from stack.observe import FOLDER
from stack.paths import ROOT
from stack.process import Process, wait_for

NAMESPACE = "istio-system"
# As its certificate and the gateways' configuration name it.
HOST = "istiod.istio-system.svc"
# Extensions of Istio's own Envoy. `telemetry`: istio.stats.
STOCK_ENV = {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}
STOCK_VALUES = {"meshConfig": {"defaultProviders": {"metrics": []}, "enablePrometheusMerge": False}}
# No webhook could reach a process outside the cluster's network; one istiod needs no election.
ALONE = {"ENABLE_LEADER_ELECTION": "false", "INJECTION_WEBHOOK_CONFIG_NAME": "", "VALIDATION_WEBHOOK_CONFIG_NAME": ""}


@dataclass(frozen=True)
class Release:
    """What tests/tools built of one snapshot of Istio."""

    snapshot: str
    programs: Path
    helm: Path

    @classmethod
    def build(cls, snapshot: str) -> "Release":
        return cls(snapshot, Path(tool("istio", snapshot)), Path(tool("helm")))

    @property
    def files(self) -> Path:
        return self.programs / "files"


def tool(name: str, *arguments: str) -> str:
    """What a script of tests/tools prints: where the program is that it built."""
    built = subprocess.run([ROOT / "tests" / "tools" / name, *arguments], stdout=subprocess.PIPE, text=True)
    assert built.returncode == 0, f"tests/tools/{name} failed; it says why above"
    return built.stdout.strip()


def stat_tags() -> dict:
    """The mesh configuration that istio/README.md asks for."""
    blocks = (ROOT / "istio" / "README.md").read_text().split("```yaml\n")[1:]
    (found,) = [block.split("```")[0] for block in blocks if "extraStatTags" in block]
    return yaml.safe_load(found)


class Istiod:
    """Started when made, with CRDs and its own rights. Ends with `stop`."""

    def __init__(self, folder: Path, cluster: Cluster, release: Release):
        self.cluster = cluster
        for crds in (release.files / "gateway-api", release.files / "crd-all.gen.yaml"):
            cluster.kubectl("apply", "--server-side", "-f", crds)
        cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        rendered = self._render(folder, release)
        rights = [r for r in rendered if r["kind"] in ("ServiceAccount",) or r["kind"].startswith(("Role", "ClusterRole"))]
        cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(rights))
        # Where istiod looks for them, below its folder.
        maps = {r["metadata"]["name"]: r["data"] for r in rendered if r["kind"] == "ConfigMap"}
        inject = folder / "var" / "lib" / "istio" / "inject"
        inject.mkdir(parents=True)
        for key in ("config", "values"):
            (inject / key).write_text(maps["istio-sidecar-injector"][key])
        (folder / "mesh.yaml").write_text(maps["istio"]["mesh"])
        (deployment,) = [r for r in rendered if r["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        kubeconfig = cluster.kubeconfig(cluster.token("istiod", namespace=NAMESPACE))
        self.process = Process(
            "istiod",
            [
                release.programs / "pilot-discovery",
                *container["args"],
                f"--kubeconfig={kubeconfig}",
                f"--meshConfig={folder / 'mesh.yaml'}",
                "--shutdownDuration=0s",
            ],
            folder / "istiod.log",
            {
                **{v["name"]: v["value"] for v in container["env"] if "value" in v},
                **{"POD_NAME": "istiod", "POD_NAMESPACE": NAMESPACE, "SERVICE_ACCOUNT": "istiod"},
                **STOCK_ENV,
                **ALONE,
            },
            folder,
        )
        try:
            wait_for(f"istiod ({folder / 'istiod.log'})", self._ready, timeout=120, every=0.1)
        except BaseException:
            self.stop()
            raise

    def _render(self, folder: Path, release: Release) -> list[dict]:
        values = folder / "values.yaml"
        values.write_text(yaml.safe_dump_all([{"meshConfig": {**stat_tags()["meshConfig"], **STOCK_VALUES["meshConfig"]}}]))
        command = [release.helm, "template", "istiod", release.files / "istio-discovery", "-n", NAMESPACE, "-f", values]
        # Providers that do nothing until a Telemetry resource names them.
        command += ["-f", FOLDER / "istiod-values.yaml"]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return [resource for resource in yaml.safe_load_all(made.stdout) if resource]

    def _serves(self) -> bool:
        with urllib.request.urlopen("http://127.0.0.1:8080/ready", timeout=2) as answer:
            return answer.status == 200

    def _ready(self) -> bool:
        self.process.require()
        if not self._serves():
            return False
        classes = self.cluster.call("GET", "/apis/gateway.networking.k8s.io/v1/gatewayclasses/istio")
        return condition(classes["status"]["conditions"], "Accepted")

    def restart(self) -> None:
        self.process.kill()
        self.process.start()
        wait_for("istiod", self._serves, timeout=60, every=0.1)

    def stop(self) -> None:
        self.process.kill()


def condition(conditions: list[dict], kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)
