"""Pages of current and of older vLLMs yield data in each panel of "LLM Performance", and in the rules."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import yaml
from stack.paths import ROOT
from stack.process import wait_for

from monitoring.dashboards import llm_performance
from monitoring.dashboards.panels import queries
from pages import RecordedPod
from prometheus import RULES, Prometheus, on_this_machine, pod, shipped_config
from test_queries import asked

PAGES = {
    "0.32": ROOT / "bench/fixtures/vllm-0.32.0-metrics.txt",
    "0.10": ROOT / "tests/monitoring/fixtures/vllm-0.10-style.txt",
}
FLEETS = {"0.32": ["0.32"], "0.10": ["0.10"], "both": ["0.32", "0.10"]}
QUERIES = [pytest.param(asked(expr), id=f"{title}: {i}") for i, (title, expr) in enumerate(queries(llm_performance.PAGE))]
OF_PODS = [
    rule["record"]
    for group in yaml.safe_load(RULES[0].read_text())["groups"]
    if group["name"] == "warmpath.pods"
    for rule in group["rules"]
]


def start(versions: list[str], folder: Path, ends: ExitStack) -> Prometheus:
    pods = [RecordedPod(PAGES[version]) for version in versions]
    for one in pods:
        ends.callback(one.stop)
    listed = [pod(p.address, f"vllm-{i}", "vllm", {"app.kubernetes.io/name": "vllm"}) for i, p in enumerate(pods)]
    ports = {";8000": f";({'|'.join(p.address.rsplit(':', 1)[1] for p in pods)})"}
    prometheus = Prometheus(folder, on_this_machine(shipped_config(), listed, ports, RULES))
    ends.callback(prometheus.stop)
    wait_for("some scrapes", lambda: min(p.scrapes for p in pods) > 5)
    return prometheus


@pytest.fixture(scope="session")
def fleets(tmp_path_factory) -> Iterator[Callable[[str], Prometheus]]:
    """Starts each fleet once, whatever the order of the tests."""
    with ExitStack() as ends:
        yield cache(lambda name: start(FLEETS[name], tmp_path_factory.mktemp("fleet"), ends))


@pytest.fixture(params=FLEETS)
def fleet(request, fleets) -> tuple[Prometheus, int]:
    """Prometheus, and how many pods it sees."""
    return fleets(request.param), len(FLEETS[request.param])


@pytest.mark.parametrize("expr", QUERIES)
def test_each_panel_has_data(fleet, expr):
    prometheus, number = fleet
    series = wait_for(f"data of {expr}", lambda: prometheus.query(expr), every=0.2)
    if "by (pod)" in expr or "by (le, pod)" in expr:
        assert {labels["pod"] for labels, _ in series} == {f"vllm-{i}" for i in range(number)}


@pytest.mark.parametrize("record", OF_PODS)
def test_each_rule_on_pods_has_data_of_each_pod(fleet, record):
    prometheus, number = fleet
    # Each page names another model.
    wait_for(f"{record} of each", lambda: len(prometheus.query(record)) == number, every=0.2)


def test_a_pod_with_both_names_is_counted_once(tmp_path):
    """vLLM 0.9 and 0.10 write both. The queries of a page with both must give what those of the newer names give."""
    page = tmp_path / "page.txt"
    lines = PAGES["0.10"].read_text().splitlines()
    newer = [
        line.replace("gpu_cache_usage_perc", "kv_cache_usage_perc").replace("vllm:gpu_prefix", "vllm:prefix")
        for line in lines
        if "gpu_" in line
    ]
    page.write_text("\n".join(lines + newer) + "\n")
    both = RecordedPod(page)
    listed = [pod(both.address, "vllm-0", "vllm", {"app.kubernetes.io/name": "vllm"})]
    config = on_this_machine(shipped_config(), listed, {";8000": f";{both.address.rsplit(':', 1)[1]}"}, [])
    prometheus = Prometheus(tmp_path, config)
    try:
        expr = {title: asked(e) for title, e in queries(llm_performance.PAGE)}["Cache hit ratio per pod"]
        [(labels, ratio)] = wait_for("a ratio", lambda: prometheus.query(expr), every=0.2)
        assert labels == {"pod": "vllm-0"}
        assert ratio == pytest.approx(0.5, rel=0.01)
        kept = "vllm:kv_cache_usage_perc or vllm:gpu_cache_usage_perc"
        assert [labels["__name__"] for labels, _ in prometheus.query(kept)] == ["vllm:kv_cache_usage_perc"]
    finally:
        prometheus.stop()
        both.stop()
