"""Every query of the dashboards and every rule is executed on a real gateway under load, and returns data."""

import re

import pytest
import yaml
from stack.paths import ROOT
from stack.process import wait_for

from prometheus import RULES
from monitoring.dashboards import llm_performance, warmpath_routing
from monitoring.dashboards.panels import queries

PAGES = {"llm-performance": llm_performance.PAGE, "warmpath-routing": warmpath_routing.PAGE}
RECORDED, ALERTS = [
    [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]] for path in RULES
]
# Titles of panels whose query rightly returns nothing here, and why. At present there is none.
EMPTY: dict[str, str] = {}
METRIC = re.compile(r"\b(?:vllm:|warmpath[_:]|up\b)[\w:]*(?:\{[^}]*\})?")
# vLLM's older names, which these pods do not have: test_vllm_versions.py.
OLDER = ("vllm:gpu_",)


def asked(expr: str) -> str:
    """As Grafana sends it, with `All` chosen everywhere."""
    filled = expr.replace("$__rate_interval", "15s").replace("$gpus_per_pod", "1")
    return re.sub(r"\$(namespace|gateway|model|pod)\b", ".*", filled)


ALL = [
    pytest.param(title, asked(expr), id=f"{name}: {title}: {i}")
    for name, page in PAGES.items()
    for i, (title, expr) in enumerate(queries(page))
]


@pytest.mark.parametrize(("title", "expr"), ALL)
def test_a_dashboards_query_returns_data(prometheus, title, expr):
    assert "$" not in expr
    if title in EMPTY:
        prometheus.query(expr)
    else:
        wait_for(f"data of {expr}", lambda: prometheus.query(expr), timeout=30, every=0.2)


IN_THE_DOCS = re.findall(r"^\| .* \| `(.*)` \|$", (ROOT / "docs/metrics.md").read_text().split("## In Prometheus")[1], re.M)


@pytest.mark.parametrize("expr", [expr for expr in IN_THE_DOCS if "(" in expr])
def test_a_query_of_the_docs_returns_data(prometheus, expr):
    assert prometheus.query(expr)


def test_the_docs_have_queries():
    assert len([expr for expr in IN_THE_DOCS if "(" in expr]) >= 9


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_a_recording_rule_returns_data_and_is_recorded(prometheus, rule):
    assert prometheus.query(rule["expr"])
    assert prometheus.query(rule["record"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_can_be_asked_and_all_that_it_looks_at_is_there(prometheus, rule):
    """A healthy gateway crosses no threshold, so an alert's expression returns nothing; its metrics must. That it returns
    something where it should is shown by rules/tests.yaml and test_alerts.py."""
    prometheus.query(rule["expr"])
    metrics = METRIC.findall(rule["expr"])
    assert metrics
    assert [m for m in metrics if not m.startswith(OLDER) and not prometheus.query(m)] == []


def test_no_rule_fails(prometheus):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RECORDED) + len(ALERTS)
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}


def test_the_choices_of_the_variables_have_values(prometheus):
    for page in PAGES.values():
        for variable in page.variables:
            found = {labels.get(variable.label) for labels, _ in prometheus.query(variable.metric)}
            assert found - {None}, f"{variable.metric} has no {variable.label}"


def test_a_choice_narrows_what_is_shown(prometheus):
    expr = next(e for title, e in queries(llm_performance.PAGE) if title == "Running per pod")
    one = asked(expr.replace("$pod", "vllm-1"))
    assert [labels for labels, _ in prometheus.query(one)] == [{"pod": "vllm-1"}]


@pytest.mark.parametrize("name", PAGES)
def test_every_panel_says_how_to_read_it(name):
    panels = [panel for row in PAGES[name].rows for panel in row.panels]
    assert [panel.title for panel in panels if not panel.says.endswith(".")] == []
