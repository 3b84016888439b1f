"""The shipped scrape configuration finds what it should, under the labels that rules and dashboards go by."""

import re
import subprocess

import pytest
import yaml
from prometheus import Prometheus, discovered, documents, home, on_this_machine, pod, ports, promtool, shipped_config, watched
from stack.process import wait_for
from stack.stack import Stack

LABELS = ("job", "namespace", "pod", "gateway")
WANTED = {
    ("vllm", "llm", "vllm-0", None),
    ("vllm", "llm", "vllm-1", None),
    ("vllm", "llm", "vllm-2", None),
    ("gateway", "llm", "gateway-0", "llm-gateway"),
    ("warmpath-sidecar", "llm", "gateway-0", "llm-gateway"),
}


def up(prometheus) -> set[tuple]:
    targets = prometheus.targets()
    return {tuple(t["labels"].get(label) for label in LABELS) for t in targets if t["health"] == "up"}


def test_each_part_is_scraped_once_with_the_labels_that_rules_go_by(prometheus):
    wait_for("all to be up", lambda: up(prometheus) >= WANTED)
    assert {t["health"] for t in prometheus.targets()} == {"up"}
    assert up(prometheus) - WANTED == {("prometheus", None, None, None)}
    assert len(prometheus.targets()) == len(WANTED) + 1


def test_of_envoys_series_only_the_wanted_are_kept(prometheus):
    names = {labels["__name__"] for labels, _ in prometheus.query('{job="gateway"}')}
    assert {"warmpath_steered", "envoy_server_live", "envoy_wasm_warmpath_vm_reload_success"} <= names
    envoys = {name for name in names if name.startswith("envoy_")}
    assert 8 <= len(envoys) < 30
    assert len(prometheus.query('{job="gateway", __name__!~"warmpath_.*"}')) < 100


@pytest.fixture(scope="module")
def other_pods() -> list[dict]:
    """What else may be in the namespace. Nobody answers there: it is only about what is looked for."""
    annotated = {"prometheus.io/scrape": "true", "prometheus.io/port": "9102", "prometheus.io/path": "/stats"}
    return [
        pod("127.0.0.1:9102", "exporter", "main", annotations=annotated),
        pod("127.0.0.1:9090", "picker", "epp", {"inferencepool": "vllm-epp"}),
        pod("127.0.0.1:9002", "picker", "epp", {"inferencepool": "vllm-epp"}),
        pod("127.0.0.1:8080", "stranger", "main", {"app": "web"}),
        pod("127.0.0.1:8001", "vllm-0", "proxy", {"app.kubernetes.io/name": "vllm"}, {"prometheus.io/scrape": "true"}),
        pod("127.0.0.1:15090", "other-gateway", "istio-proxy", {"gateway.networking.k8s.io/gateway-name": "other"}),
    ]


def test_annotated_pods_and_an_endpoint_picker_are_found_and_nothing_else(under_load, other_pods, tmp_path):
    stack, _ = under_load
    prometheus = watched(tmp_path, stack, [], other_pods)
    try:
        wanted = {
            ("pods", "exporter", "http://127.0.0.1:9102/stats"),
            ("endpoint-picker", "picker", "http://127.0.0.1:9090/metrics"),
        }
        jobs = ("pods", "endpoint-picker")
        wait_for("all to be up", lambda: up(prometheus) >= WANTED)
        targets = prometheus.targets()
        found = {(t["labels"]["job"], t["labels"]["pod"], t["scrapeUrl"]) for t in targets if t["labels"]["job"] in jobs}
        assert found == wanted
        assert len(targets) == len(WANTED) + len(wanted) + 1
    finally:
        prometheus.stop()


SNAKE = {"sourceLabels": "source_labels", "targetLabel": "target_label", "metricRelabelings": "metric_relabel_configs"}


def as_scrape_config(monitor: dict) -> dict:
    """What the Operator makes of a PodMonitor, as far as these use it: it selects by labels, sets `namespace` and `pod`."""
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    chosen = [
        {"source_labels": [f"__meta_kubernetes_pod_label_{re.sub('[^a-z0-9]', '_', key)}"], "regex": value, "action": "keep"}
        for key, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    defaults = [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target}
        for source, target in (("namespace", "namespace"), ("pod_name", "pod"))
    ]
    relabel = [{SNAKE.get(key, key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
    return {
        "job_name": monitor["metadata"]["name"],
        "metrics_path": endpoint.get("path", "/metrics"),
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": chosen + defaults + relabel,
    }


def test_the_operators_monitors_give_the_same_labels(under_load, tmp_path):
    stack: Stack = under_load[0]
    monitors = [m for m in documents("operator/monitors.yaml") if m["kind"] == "PodMonitor"]
    config = {"scrape_configs": [as_scrape_config(m) for m in monitors]}
    replaced = ports(stack)
    replaced["8000"] = replaced.pop(";8000").removeprefix(";")
    prometheus = Prometheus(tmp_path, on_this_machine(config, discovered(stack), replaced, []))
    try:
        wait_for("all to be up", lambda: up(prometheus) == WANTED)
        assert len(prometheus.targets()) == len(WANTED)
    finally:
        prometheus.stop()


def test_both_ways_keep_the_same_series_of_envoy():
    shipped = next(j for j in shipped_config()["scrape_configs"] if j["job_name"] == "gateway")
    monitor = next(m for m in documents("operator/monitors.yaml") if m["metadata"]["name"] == "warmpath-gateway")
    [kept] = monitor["spec"]["podMetricsEndpoints"][0]["metricRelabelings"]
    assert kept["regex"] == shipped["metric_relabel_configs"][0]["regex"]


def test_promtool_finds_the_shipped_configuration_sound(tmp_path):
    """As it is; only the rules lie elsewhere here. Debian builds Prometheus without Kubernetes discovery: with such a
    promtool those lines are all that it may find wrong, and the rest is checked without them."""
    text = documents("prometheus-config.yaml")[0]["data"]["prometheus.yml"]
    for name, rules in documents("prometheus-rules.yaml")[0]["data"].items():
        (tmp_path / name).write_text(rules)
    assert "/etc/prometheus-rules/" in text
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/etc/prometheus-rules/", f"{tmp_path}/"))
    done = subprocess.run([home() / "promtool", "check", "config", file], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if "field kubernetes_sd_configs not found" not in said:
        assert done.returncode == 0, said
        return
    assert re.findall(r"  line \d+: (?!field kubernetes_sd_configs not found in type config.ScrapeConfig).*", said) == []
    config = yaml.safe_load(file.read_text())
    discovery = [job.pop("kubernetes_sd_configs") for job in config["scrape_configs"] if "kubernetes_sd_configs" in job]
    assert discovery == [[{"role": "pod", "namespaces": {"own_namespace": True}}]] * 5
    file.write_text(yaml.safe_dump(config))
    assert "rules found" in promtool("check", "config", file)
