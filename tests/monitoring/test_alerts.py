"""Alerts: sound by promtool, explained, and fired by real causes."""

import re

import pytest
import yaml
from stack.paths import ROOT
from stack.process import wait_for
from stack.stack import Stack

from prometheus import MONITORING, RULES, promtool, watched

GROUPS = yaml.safe_load(RULES[1].read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}


def test_promtool_finds_the_rules_sound():
    assert "rules found" in promtool("check", "rules", *RULES)


def test_each_alert_fires_for_its_cause_and_not_for_others():
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "rules" / "tests.yaml")


def test_each_alert_has_a_unit_test():
    tests = (MONITORING / "rules" / "tests.yaml").read_text()
    assert [name for name in ALERTS if name not in tests] == []


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_to_do(name):
    notes, labels = ALERTS[name]["annotations"], ALERTS[name]["labels"]
    assert labels["severity"] in ("critical", "warning", "info")
    assert len(notes["summary"]) < 120
    assert "Look first" in notes["description"]
    page, anchor = notes["runbook"].split("#")
    headings = re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), re.M)
    assert anchor in [heading.lower() for heading in headings]


def test_the_page_has_no_alert_that_is_not_there():
    headings = re.findall(r"^## (Warmpath\w+)$", (ROOT / "docs/alerts.md").read_text(), re.M)
    assert headings == list(ALERTS)


@pytest.fixture
def at_once(tmp_path):
    """The rules with a shorter `for`, and nothing else changed: tests cannot wait for minutes."""
    changed = tmp_path / "alerts.yaml"
    changed.write_text(re.sub(r"for: \w+", "for: 1s", RULES[1].read_text()))
    return [RULES[0], changed]


@pytest.fixture
def stack(tmp_path):
    with Stack(tmp_path, "buffered", pods=3) as running:
        yield running


def test_what_dies_is_told_and_what_comes_back_is_quiet_again(stack, at_once, tmp_path):
    """A pod, then the sidecar: each fires its alert, and no other alert that is not its consequence."""
    prometheus = watched(tmp_path, stack, at_once)
    try:
        wait_for("targets", lambda: len(prometheus.query("up == 1")) == 6)
        wait_for("the filter's stats", lambda: prometheus.query("warmpath_sidecar_endpoint_state"))
        wait_for("quiet", lambda: prometheus.firing() == set())

        stack.pods[0].process.kill()
        wait_for("the alert", lambda: prometheus.firing() == {"WarmpathEndpointFailing"})
        [alert] = prometheus.get("alerts")["alerts"]
        assert stack.pods[0].address in alert["annotations"]["summary"]
        stack.pods[0].process.start()
        wait_for("quiet", lambda: prometheus.firing() == set())

        stack.sidecar.process.kill()
        wait_for("the alert", lambda: "WarmpathSidecarDown" in prometheus.firing())
        # The filter hears nothing any more; its table gets old.
        wait_for("the next", lambda: "WarmpathTableStale" in prometheus.firing(), timeout=30)
        assert prometheus.firing() == {"WarmpathSidecarDown", "WarmpathTableStale"}
    finally:
        prometheus.stop()


def test_a_source_that_is_not_read_and_a_plugin_that_is_switched_off_are_told(at_once, tmp_path):
    with Stack(tmp_path, "buffered", pods=2, live=True) as stack:
        prometheus = watched(tmp_path, stack, at_once)
        try:
            wait_for("targets", lambda: len(prometheus.query("up == 1")) == 5)
            wait_for("quiet", lambda: prometheus.query("warmpath_mode == 2") and prometheus.firing() == set())

            stack.sidecar.file.write_text("{")
            wait_for("the alert", lambda: prometheus.firing() == {"WarmpathDiscoveryNotInStep"})
            stack.sidecar.write([pod.address for pod in stack.pods])
            wait_for("quiet", lambda: prometheus.firing() == set())

            stack.envoy.write({"mode": "off"})
            wait_for("the alert", lambda: prometheus.firing() == {"WarmpathNotSteering"})
        finally:
            prometheus.stop()
