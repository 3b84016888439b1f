"""A real Prometheus on loopback, with the repository's own configuration and rules.

What cannot be on one machine is replaced, and nothing else: the Kubernetes API by lists of pods with the labels that its
discovery would give them, fixed ports by free ones, and intervals by shorter ones.
"""

import copy
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml
from stack.paths import ROOT
from stack.process import Process, free_port, wait_for
from stack.stack import Stack

MONITORING = ROOT / "monitoring"
RULES = [MONITORING / "rules" / name for name in ("recording.yaml", "alerts.yaml")]
GATEWAY = {"gateway.networking.k8s.io/gateway-name": "llm-gateway"}
META = "__meta_kubernetes_"


def home() -> Path:
    """Where prometheus and promtool are."""
    found = subprocess.run([ROOT / "tests/tools/get-prometheus"], capture_output=True, text=True)
    if found.returncode:
        raise RuntimeError(found.stderr.strip())
    return Path(found.stdout.strip())


def promtool(*arguments) -> str:
    """Its output; an error of its is one here."""
    command = [str(part) for part in (home() / "promtool", *arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def documents(path: str) -> list[dict]:
    return list(yaml.safe_load_all((MONITORING / path).read_text()))


def shipped_config() -> dict:
    """prometheus.yml of the ConfigMap."""
    return yaml.safe_load(documents("prometheus-config.yaml")[0]["data"]["prometheus.yml"])


Pairs = dict[str, str] | None


def pod(address: str, name: str, container: str, labels: Pairs = None, annotations: Pairs = None) -> dict:
    """A target as Kubernetes discovery would give it: one port of one container of a running pod."""
    host, port = address.rsplit(":", 1)
    meta = {"namespace": "llm", "pod_name": name, "pod_ip": host, "pod_phase": "Running"}
    meta |= {"pod_container_name": container, "pod_container_port_number": port}
    for kind, pairs in (("label", labels or {}), ("annotation", annotations or {})):
        for key, value in pairs.items():
            meta[f"pod_{kind}_{''.join(c if c.isalnum() else '_' for c in key)}"] = value
    return {"targets": [address], "labels": {META + key: value for key, value in meta.items()}}


def on_this_machine(config: dict, pods: list[dict], ports: dict[str, str], rules: list[Path]) -> dict:
    """The configuration with those pods for Kubernetes' answers, `ports` for fixed ones, and a scrape every half second."""
    config = copy.deepcopy(config)
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(path) for path in rules]
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = pods
        for rule in job.get("relabel_configs", []):
            for field in ("regex", "replacement"):
                for fixed, free in ports.items():
                    if str(rule.get(field, "")).endswith(fixed):
                        rule[field] = str(rule[field]).removesuffix(fixed) + free
    return config


class Prometheus:
    """A running one."""

    def __init__(self, folder: Path, config: dict):
        self.address = f"127.0.0.1:{free_port()}"
        for job in config["scrape_configs"]:
            for targets in job.get("static_configs", []):
                targets["targets"] = [t.replace("localhost:9090", self.address) for t in targets["targets"]]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        promtool("check", "config", file)
        command = [home() / "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address={self.address}", "--log.level=warn"]
        self.process = Process("prometheus", command, folder / "prometheus.log")
        try:
            wait_for(f"Prometheus ({folder / 'prometheus.log'})", self.ready)
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        self.process.require()
        return self.raw("/-/ready") is not None

    def raw(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return answer.read().decode()

    def get(self, path: str, **parameters) -> dict | list:
        query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
        try:
            return json.loads(self.raw(f"/api/v1/{path}{query}"))["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[tuple[dict, float]]:
        """Labels and value of each series. Not-a-number is no data."""
        result = self.get("query", query=expr)["result"]
        samples = [(one["metric"], float(one["value"][1])) for one in result]
        return [(labels, value) for labels, value in samples if value == value]

    def targets(self) -> list[dict]:
        return self.get("targets", state="active")["activeTargets"]

    def firing(self) -> set[str]:
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"] if a["state"] == "firing"}

    def stop(self) -> None:
        self.process.stop()


def discovered(stack: Stack) -> list[dict]:
    """The stack's processes, as Kubernetes discovery would list them."""
    found = [pod(p.address, f"vllm-{i}", "vllm", {"app.kubernetes.io/name": "vllm"}) for i, p in enumerate(stack.pods)]
    # Istio's own annotations are on a gateway's pods: they must not have them scraped twice.
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "15020"}
    gateway = (f"127.0.0.1:{stack.envoy.admin}", "gateway-0", "istio-proxy", GATEWAY, annotations)
    sidecar = (stack.sidecar.http, "gateway-0", "warmpath-sidecar", GATEWAY, annotations)
    return [*found, pod(*gateway), pod(*sidecar)]


def ports(stack: Stack) -> dict[str, str]:
    """Fixed ports of the shipped configuration, and what stands for them here."""
    each = "|".join(p.address.rsplit(":", 1)[1] for p in stack.pods)
    return {":15090": f":{stack.envoy.admin}", ":9464": f":{stack.sidecar.http.rsplit(':', 1)[1]}", ";8000": f";({each})"}


def watched(folder: Path, stack: Stack, rules: list[Path] = RULES, more: list[dict] | None = None) -> Prometheus:
    """Prometheus with the shipped configuration, looking at a stack."""
    config = on_this_machine(shipped_config(), discovered(stack) + (more or []), ports(stack), rules)
    return Prometheus(folder, config)
